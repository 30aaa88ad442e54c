#!/bin/sh
# 200 reloads and 100 rotations of both sidecars at 1,000 requests a second, with 100 WebSockets and 100 gRPC streams:
# no request may fail, no stream may be cut, and no memory or descriptor may stay allocated. It runs some minutes and
# prints the results at the end.
set -eu
cd "$(dirname "$0")/../.."

cargo build --release --bin pillion
PILLION_TEST_FULL=1 PILLION_TEST_BINARY="${CARGO_TARGET_DIR:-$PWD/target}/release/pillion" \
    cargo test --test e2e reload::under_load -- --nocapture
