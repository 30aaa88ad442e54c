#!/bin/sh
# 20 takeovers of both sidecars of a pair at 2,000 requests a second, with 200 WebSockets and 200 gRPC streams, and TCP
# connections, DNS queries and probes beside them: no request may fail, and no stream may be cut. It runs some minutes and
# prints the results at the end.
set -eu
cd "$(dirname "$0")/../.."

cargo build --release --bin pillion
PILLION_TEST_FULL=1 PILLION_TEST_BINARY="${CARGO_TARGET_DIR:-$PWD/target}/release/pillion" \
    cargo test --test e2e takeover::under_load -- --nocapture
