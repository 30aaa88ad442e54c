#!/bin/sh
# Each protocol through a pair of an earlier version and this one, both ways, with and without mTLS: prints a table, and fails
# if a cell of it fails. It builds the earlier version from the history of this repository, which takes some minutes, or takes
# the binary that PILLION_RELEASE_BEFORE names:
#
#     tests/long/versions.sh [COMMIT]
set -eu
cd "$(dirname "$0")/../.."

# the version of 26 November 2026; later releases take its place
commit=${1:-324d357}
target=${CARGO_TARGET_DIR:-$PWD/target}

if [ -z "${PILLION_RELEASE_BEFORE:-}" ]; then
    tree=$target/before/source
    [ -d "$tree" ] || git worktree add --detach "$tree" "$commit"
    (cd "$tree" && CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=$target/before/target cargo build --locked --bin pillion)
    cp "$target/before/target/debug/pillion" "$target/before/pillion"
    git worktree remove --force "$tree"
    PILLION_RELEASE_BEFORE=$target/before/pillion
fi
export PILLION_RELEASE_BEFORE
cargo test --test e2e versions -- --ignored --nocapture
