#!/usr/bin/env bash
# Builds the static binary of the last commit twice, in two folders, and compares the bytes: tests/long/reproducible.sh
#
# The toolchain and the C compiler are those of the machine; deploy/build.sh does the rest. The revision comes from
# PILLION_REVISION. Takes two release builds. Prints the SHA-256, and ends with 1 when they differ.
set -euo pipefail
cd "$(dirname "$0")/../.."
TRIPLE=$(rustc -vV | sed -n 's/^host: //p')
REVISION=$(git rev-parse --short=12 HEAD)
WORK=$(mktemp -d "${TMPDIR:-/tmp}/reproducible.XXXXXX")
trap 'rm -rf "$WORK"' EXIT

# built FOLDER: the path of the binary of a build there.
built() {
    local folder=$1
    mkdir "$folder"
    git archive HEAD | tar --extract --directory "$folder"
    (
        cd "$folder"
        unset CARGO_TARGET_DIR CARGO_INCREMENTAL
        PILLION_REVISION=$REVISION deploy/build.sh
    )
    strip -o "$folder.stripped" "$folder/target/$TRIPLE/release/pillion"
    rm -rf "$folder"
}

built "$WORK/one"
built "$WORK/another-folder"
sha256sum "$WORK"/*.stripped
cmp "$WORK/one.stripped" "$WORK/another-folder.stripped"
[ -z "${KEEP:-}" ] || cp "$WORK/one.stripped" "$KEEP"
if grep -aq "$WORK" "$WORK/one.stripped"; then
    echo "the binary has paths of the build: $(strings "$WORK/one.stripped" | grep -m 3 "$WORK")" >&2
    exit 1
fi
echo "two builds of $REVISION are the same, $(stat -c %s "$WORK/one.stripped") bytes"
