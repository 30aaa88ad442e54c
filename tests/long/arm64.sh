#!/usr/bin/env bash
# Cross-builds the static binary for arm64, runs its demo under emulation, and packs it: tests/long/arm64.sh [FOLDER]
#
# Needs, besides what a build needs: `rustup target add aarch64-unknown-linux-gnu`, and the Debian packages
# gcc-aarch64-linux-gnu, qemu-user-static and buildah. FOLDER receives the packages; without one they are thrown away.
set -euo pipefail
OUT=${1:+$(mkdir -p "$1" && realpath "$1")}
cd "$(dirname "$0")/../.."
WORK=$(mktemp -d "${TMPDIR:-/tmp}/arm64.XXXXXX")
trap 'rm -rf "$WORK"' EXIT
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}

BINARY=$(deploy/build.sh aarch64-unknown-linux-gnu)
mkdir "$WORK/context"
aarch64-linux-gnu-strip -o "$WORK/context/pillion" "$BINARY"
echo "$(stat -c %s "$WORK/context/pillion") bytes"

# Every request of the demo is answered, with mutual TLS, retries and an endpoint that fails.
qemu-aarch64-static "$WORK/context/pillion" demo --for 5s | tee "$WORK/demo"
grep -q 'answered well: 100 %' "$WORK/demo"

deploy/package.sh "$WORK/context/pillion" "${OUT:-$WORK/packages}"

in_work() { buildah --root "$WORK/images" --runroot "$WORK/run" --storage-driver vfs "$@"; }
in_work build --quiet --isolation chroot --platform linux/arm64 --target host --file Dockerfile --tag pillion:arm64 "$WORK/context"
made=$(in_work inspect --type image --format '{{.OCIv1.OS}}/{{.OCIv1.Architecture}}, user {{.OCIv1.Config.User}}' pillion:arm64)
echo "image: $made"
[ "$made" = "linux/arm64, user 1337:1337" ]
