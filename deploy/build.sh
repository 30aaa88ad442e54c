#!/bin/sh
# Builds the static binary that is shipped, with its symbols, and prints its path: deploy/build.sh [TARGET]
#
# TARGET is a triple of Rust; the host's when left out. For a target of another architecture, Rust's standard library for it
# and a C compiler are needed (`rustup target add TARGET`, the Debian package gcc-aarch64-linux-gnu). CARGO_TARGET_DIR and
# PILLION_REVISION are respected; what is in CFLAGS and RUSTFLAGS comes after the flags of this script.
# The same commit, toolchain and C compiler give the same bytes in any folder (tests/long/reproducible.sh): paths of the machine
# are replaced, and nothing in the build reads a clock.
set -eu
cd "$(dirname "$0")/.."
HERE=$(pwd -P)
CARGO=${CARGO_HOME:-$HOME/.cargo}
HOST=$(rustc -vV | sed -n 's/^host: //p')
TARGET=${1:-$HOST}

# Naming the target keeps these flags away from build scripts and procedural macros, which cannot be static.
profile=$HERE/deploy/pillion.profdata
if [ "${PILLION_PROFILE:-use}" = count ]; then
    flags="-C profile-generate" # for .ci/profile; the library of its counters cannot be linked statically
else
    flags="-C target-feature=+crt-static"
    # What real load runs (.ci/profile), counted on x86-64. Only the version of Rust that counted it can use it; others, and
    # other architectures, build without it.
    if [ "${TARGET%%-*}" != x86_64 ]; then
        echo "built without the profile of requests, which is for x86-64" >&2
    elif rustc -V | cmp -s - deploy/pillion.rustc; then
        flags="$flags -C profile-use=$profile"
    else
        echo "built without the profile of requests, which is for $(cat deploy/pillion.rustc)" >&2
    fi
fi
# The linker packs relocations and folds equal functions, and C code has no tables for unwinding: this saves 600 KB.
flags="$flags -C link-arg=-Wl,-z,pack-relative-relocs,--icf=all"
if [ "$TARGET" != "$HOST" ]; then
    # The linker that comes with Rust links for every target; the C compiler of the target finds the C library.
    compiler="${TARGET%%-*}-linux-gnu-gcc"
    command -v "$compiler" >/dev/null || { echo "$compiler is missing" >&2; exit 1; }
    flags="$flags -C link-arg=-B$(rustc --print sysroot)/lib/rustlib/$HOST/bin/gcc-ld -C link-arg=-fuse-ld=lld"
    variable=CARGO_TARGET_$(echo "$TARGET" | tr 'a-z-' 'A-Z_')_LINKER
    export "$variable=$compiler"
    # Kernels for arm64 have pages of 4, 16 or 64 KiB, and jemalloc must know the largest.
    export JEMALLOC_SYS_WITH_LG_PAGE=16
fi
# Panic messages and C code name files; so they do by short names that are the same everywhere. Cargo and C compilers split flags at spaces.
case $HERE$CARGO in *[[:space:]]*) echo "a folder with a space in its name cannot be built in: $HERE, $CARGO" >&2; exit 1 ;; esac
cargo fetch --locked >&2
flags="$flags --remap-path-prefix=$HERE=/pillion"
maps="-ffile-prefix-map=$HERE=/pillion"
for crates in "$CARGO"/registry/src/*; do
    flags="$flags --remap-path-prefix=$crates=/crates"
    maps="$maps -ffile-prefix-map=$crates=/crates"
done
if [ -n "${CARGO_TARGET_DIR:-}" ]; then
    flags="$flags --remap-path-prefix=$CARGO_TARGET_DIR=/pillion/target"
    maps="$maps -ffile-prefix-map=$CARGO_TARGET_DIR=/pillion/target"
fi
export CFLAGS="-fno-asynchronous-unwind-tables $maps${CFLAGS:+ $CFLAGS}"
export RUSTFLAGS="$flags${RUSTFLAGS:+ $RUSTFLAGS}"
export CARGO_PROFILE_RELEASE_STRIP=none
cargo build --release --locked --bin pillion --target "$TARGET" >&2
echo "${CARGO_TARGET_DIR:-target}/$TARGET/release/pillion"
