#!/usr/bin/env bash
# Builds the static binary of the last commit twice, in two folders, and compares the bytes: tests/long/reproducible.sh
#
# What makes them equal: the same toolchain and C compiler, `--locked`, the same flags, and paths of this machine that are
# replaced in panic messages (--remap-path-prefix) and in C code (-ffile-prefix-map). Nothing in the build reads a clock; the
# revision comes from PILLION_REVISION. Takes two release builds. Prints the SHA-256, and ends with 1 when they differ.
set -euo pipefail
cd "$(dirname "$0")/../.."
TRIPLE=$(rustc -vV | sed -n 's/^host: //p')
REVISION=$(git rev-parse --short=12 HEAD)
WORK=$(mktemp -d "${TMPDIR:-/tmp}/reproducible.XXXXXX")
trap 'rm -rf "$WORK"' EXIT

# built FOLDER: the path of the binary of a build there.
built() {
    local folder=$1 cargo_home=${CARGO_HOME:-$HOME/.cargo}
    mkdir "$folder"
    git archive HEAD | tar --extract --directory "$folder"
    (
        cd "$folder"
        unset CARGO_TARGET_DIR CARGO_INCREMENTAL
        export PILLION_REVISION=$REVISION
        export CFLAGS="-ffile-prefix-map=$folder=/pillion -ffile-prefix-map=$cargo_home=/cargo"
        export RUSTFLAGS="--remap-path-prefix=$folder=/pillion --remap-path-prefix=$cargo_home=/cargo"
        deploy/build.sh
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
