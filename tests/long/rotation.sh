#!/bin/sh
# 1,000 rotations of leaf and bundle of both sidecars, of which each two replace a root, at 1,000 requests a second with 10
# WebSockets and 10 gRPC streams: no request may fail, and no stream may be cut. It runs some minutes and prints the
# result at the end.
set -eu
cd "$(dirname "$0")/../.."

cargo build --release --bin pillion
PILLION_TEST_FULL=1 PILLION_TEST_BINARY="${CARGO_TARGET_DIR:-$PWD/target}/release/pillion" \
    cargo test --test e2e rotation::rotations -- --nocapture
