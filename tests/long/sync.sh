#!/usr/bin/env bash
# A thousand changes in Consul and in etcd, each of which a reader must see whole who opens the file all the time:
#
#     tests/long/sync.sh [CHANGES]
#
# It runs the end-to-end tests of `sync` with more changes. Needs etcd-server and etcd-client; exits 1 on a failure.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PILLION_TEST_CHANGES=${1:-1000} PILLION_TEST_REQUIRE=all
cargo test --test e2e sync::every_change
cargo test --test e2e sync::etcd::every_change
