#!/usr/bin/env bash
# Builds the static binary of the last commit twice, in two folders, and compares the bytes: tests/long/reproducible.sh
#
# The toolchain and the C compiler are those of the machine; deploy/build.sh does the rest. The revision comes from
# PILLION_REVISION. Takes two release builds. Prints the SHA-256, and ends with 1 when they differ.
set -euo pipefail
cd "$(dirname "$0")/../.."
REVISION=$(git rev-parse --short=12 HEAD)
WORK=$(mktemp -d "${TMPDIR:-/tmp}/reproducible.XXXXXX")
trap 'rm -rf "$WORK"' EXIT

# built FOLDER TARGET: FOLDER.stripped, of a build there with this name of the target folder.
built() {
    local folder=$1 target=$2
    mkdir "$folder"
    git archive HEAD | tar --extract --directory "$folder"
    (
        cd "$folder"
        unset CARGO_INCREMENTAL
        export CARGO_TARGET_DIR=$folder/$target PILLION_REVISION=$REVISION
        strip -o "$folder.stripped" "$(deploy/build.sh)"
    )
    rm -rf "$folder"
}

built "$WORK/one" target
built "$WORK/another-folder" other
sha256sum "$WORK"/*.stripped
cmp "$WORK/one.stripped" "$WORK/another-folder.stripped"
[ -z "${KEEP:-}" ] || cp "$WORK/one.stripped" "$KEEP"
for path in "$WORK" "${CARGO_HOME:-$HOME/.cargo}"; do
    if grep -aq "$path" "$WORK/one.stripped"; then
        echo "the binary has paths of the build: $(strings "$WORK/one.stripped" | grep -m 3 "$path")" >&2
        exit 1
    fi
done
echo "two builds of $REVISION are the same, $(stat -c %s "$WORK/one.stripped") bytes"
