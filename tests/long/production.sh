#!/bin/sh
# 2,000 requests a second, 200 WebSockets and 200 gRPC streams through a pair, during 200 reloads, 20 rotations, 20 takeovers
# of both sidecars and 20 restarts of a replica: no request may fail, and no stream may be cut. It prints the results at the end.
set -eu
cd "$(dirname "$0")/../.."

cargo build --release --bin pillion
PILLION_TEST_FULL=1 PILLION_TEST_BINARY="${CARGO_TARGET_DIR:-$PWD/target}/release/pillion" \
    cargo test --test e2e production -- --nocapture
