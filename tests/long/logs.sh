#!/bin/sh
# 10 million lines of mixed formats through rotations of every kind, while two sinks refuse, stall and take parts, and the
# sidecar is killed 50 times: nothing may be lost, and at most a batch for each kill may come twice, but no document with the
# same id. It runs some minutes and prints the result at the end. LINES and KILLS make it shorter; BINARY is another build.
set -eu
cd "$(dirname "$0")/../.."

if [ -z "${BINARY:-}" ]; then
    cargo build --release --bin pillion
    BINARY="${CARGO_TARGET_DIR:-$PWD/target}/release/pillion"
fi
exec python3 tests/long/logs.py "$BINARY" --lines "${LINES:-10000000}" --kills "${KILLS:-50}"
