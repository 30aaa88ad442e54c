#!/bin/sh
# Builds the static binary that is shipped, with its symbols, and prints its path: deploy/build.sh [TARGET]
#
# TARGET is a triple of Rust; the host's when left out. For a target of another architecture, Rust's standard library for it
# and a C compiler are needed (`rustup target add TARGET`, the Debian package gcc-aarch64-linux-gnu). CARGO_TARGET_DIR and
# PILLION_REVISION are respected; what is in CFLAGS and RUSTFLAGS comes after the flags of this script. With PILLION_PROFILE=count the
# binary counts what it runs and is not to be shipped; with `off` it is built without the profile.
# The same commit, toolchain and C compiler give the same bytes in any folder (tests/long/reproducible.sh): paths of the machine
# are replaced, and nothing in the build reads a clock.
set -eu
cd "$(dirname "$0")/.."
HERE=$(pwd -P)
CARGO=${CARGO_HOME:-$HOME/.cargo}
RUSTC=${RUSTC:-rustc}
HOST=$("$RUSTC" -vV | sed -n 's/^host: //p')
TARGET=${1:-$HOST}
OUT=${CARGO_TARGET_DIR:-target}
case $OUT in /*) ;; *) OUT=$HERE/$OUT ;; esac

# A file that is the same keeps its time, so that nothing is compiled anew.
unpack_profile() {
    mkdir -p "$OUT"
    gzip -dc deploy/pillion.profdata.gz >"$OUT/pillion.profdata.new"
    if cmp -s "$OUT/pillion.profdata.new" "$OUT/pillion.profdata"; then
        rm "$OUT/pillion.profdata.new"
    else
        mv "$OUT/pillion.profdata.new" "$OUT/pillion.profdata"
    fi
}

# Naming the target keeps these flags away from build scripts and procedural macros, which cannot be static.
static="-C target-feature=+crt-static"
case ${PILLION_PROFILE:-use} in
count)
    echo "the binary counts what it runs, for .ci/profile" >&2
    flags="-C profile-generate" # the library of its counters cannot be linked statically
    ;;
off) flags=$static ;;
use)
    # What real load runs (.ci/profile), counted on x86-64. Only the version of Rust that counted it can use it; others, and
    # other architectures, build without it.
    flags=$static
    if [ "${TARGET%%-*}" != x86_64 ]; then
        echo "built without the profile of requests, which is for x86-64" >&2
    elif "$RUSTC" -V | cmp -s - deploy/pillion.rustc; then
        unpack_profile
        # What is outside 99.99 % of all counts is kept small; the compiler would say 99.9999 %, for 90 KB more and no gain in .ci/costs.
        flags="$flags -C profile-use=$OUT/pillion.profdata -C llvm-args=-profile-summary-cutoff-cold=999900"
    else
        echo "built without the profile of requests, which is for $(cat deploy/pillion.rustc)" >&2
    fi
    ;;
*) echo "PILLION_PROFILE is $PILLION_PROFILE; it must be use, off or count" >&2; exit 1 ;;
esac
# The linker packs relocations and folds equal functions, and C code has no tables for unwinding: this saves 600 KB.
flags="$flags -C link-arg=-Wl,-z,pack-relative-relocs,--icf=all"
if [ "$TARGET" != "$HOST" ]; then
    # The linker that comes with Rust links for every target; the C compiler of the target finds the C library.
    compiler="${TARGET%%-*}-linux-gnu-gcc"
    command -v "$compiler" >/dev/null || { echo "$compiler is missing" >&2; exit 1; }
    flags="$flags -C link-arg=-B$("$RUSTC" --print sysroot)/lib/rustlib/$HOST/bin/gcc-ld -C link-arg=-fuse-ld=lld"
    variable=CARGO_TARGET_$(echo "$TARGET" | tr 'a-z-' 'A-Z_')_LINKER
    export "$variable=$compiler"
fi
# Kernels for arm64 have pages of 4, 16 or 64 KiB, and jemalloc must know the largest.
case $TARGET in aarch64-*) export JEMALLOC_SYS_WITH_LG_PAGE=16 ;; esac
# Panic messages and C code name files; so they do by short names that are the same everywhere. Cargo and C compilers split flags at spaces.
case $HERE$CARGO in *[[:space:]]*) echo "a folder with a space in its name cannot be built in: $HERE, $CARGO" >&2; exit 1 ;; esac
cargo fetch --locked >&2
flags="$flags --remap-path-prefix=$HERE=/pillion"
maps="-ffile-prefix-map=$HERE=/pillion"
for crates in "$CARGO"/registry/src/*; do
    flags="$flags --remap-path-prefix=$crates=/crates"
    maps="$maps -ffile-prefix-map=$crates=/crates"
done
flags="$flags --remap-path-prefix=$OUT=/pillion/target"
maps="$maps -ffile-prefix-map=$OUT=/pillion/target"
export CFLAGS="-fno-asynchronous-unwind-tables $maps${CFLAGS:+ $CFLAGS}"
export RUSTFLAGS="$flags${RUSTFLAGS:+ $RUSTFLAGS}"
export CARGO_PROFILE_RELEASE_STRIP=none
unset CARGO_ENCODED_RUSTFLAGS # cargo would take it instead of RUSTFLAGS
cargo build --release --locked --bin pillion --target "$TARGET" --target-dir "$OUT" >&2
echo "$OUT/$TARGET/release/pillion"
