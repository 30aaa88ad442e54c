#!/usr/bin/env bash
# The public tests of HTTP caches (https://cache-tests.fyi, npm's http-cache-tests) against the cache of a service:
#
#     tests/long/cache.sh [BINARY]        the default is target/debug/pillion
#
# It fetches the suite into a folder that it removes, runs the suite's own origin server behind a sidecar, and prints what
# failed, and how many passed of the required and of the optimal tests. Needs node and npm; takes some minutes. Exits 1 if a
# required test fails that EXPECTED does not name, if one that it names does not fail, or if a result is missing.
set -euo pipefail
cd "$(dirname "$0")/../.."
binary=$(realpath "${1:-target/debug/pillion}")
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
npm install --silent --no-save --no-audit --no-fund --prefix "$folder" http-cache-tests@0.4.5 >/dev/null
read -r origin proxy admin < <(python3 - <<'PORTS'
import socket
kept = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(one.getsockname()[1] for one in kept))
PORTS
)
cat > "$folder/pillion.yaml" <<YAML
workers: 1
inbound: off
metrics: off
admin: { listen: 127.0.0.1:$admin }
outbound: { listen: 127.0.0.1:0 }
services:
  suite: { listen: 127.0.0.1:$proxy, endpoints: ["127.0.0.1:$origin"], protocol: http1, retry: off, outlier_detection: off, cache: {} }
YAML
suite=$folder/node_modules/http-cache-tests
(cd "$suite" && exec env npm_config_protocol=http npm_config_port="$origin" npm_config_pidfile="$folder/pid" \
    node --no-warnings server/server.mjs > "$folder/origin.log" 2>&1) &
"$binary" run -c "$folder/pillion.yaml" > "$folder/pillion.log" 2>&1 &
for port in "$origin" "$admin"; do
    timeout 30 bash -c "until : 2>/dev/null < /dev/tcp/127.0.0.1/$port; do sleep 0.1; done"
done
(cd "$suite" && npm_config_base="http://127.0.0.1:$proxy" npm_package_config_id="" node --no-warnings cli.mjs) > "$folder/results.json"
node --no-warnings --input-type=module - "$suite" "$folder/results.json" <<'COUNT'
import { readFileSync } from "node:fs";
const [suite, file] = process.argv.slice(2);
// Required tests that a shared cache of a sidecar fails on purpose: docs/cache.md says why.
const EXPECTED = [
  // a cookie goes to the client alone for which it was set
  "headers-store-Set-Cookie", "headers-store-Set-Cookie2", "304-etag-update-response-Set-Cookie", "304-etag-update-response-Set-Cookie2",
  // of a list in Age the first member counts (RFC 9111, 5.1), as age-parse-prefix wants it
  "age-parse-dup-0", "age-parse-dup-old",
];
const REQUIRED = 157;
const tests = (await import(suite + "/tests/index.mjs")).default.flatMap((group) => group.tests);
const results = JSON.parse(readFileSync(file, "utf8"));
const passed = (id) => results[id] === true;
const counts = {};
let isBad = false;
for (const test of tests.filter((test) => !test.browser_only && test.id in results)) {
  const kind = test.kind || "required";
  // what a test depends on has failed, or its own preparation: it says nothing
  const isVoid = (test.depends_on || []).some((id) => !passed(id)) || (!passed(test.id) && results[test.id][0] === "Setup");
  const of = (counts[kind] ??= { passed: 0, failed: 0, void: 0 });
  of[isVoid ? "void" : passed(test.id) ? "passed" : "failed"] += 1;
  if (kind === "check" || (passed(test.id) && !isVoid)) continue;
  const isKnown = EXPECTED.includes(test.id);
  isBad ||= kind === "required" && !isVoid && !isKnown;
  const note = isVoid ? " (says nothing)" : isKnown ? " (expected)" : "";
  console.log(`${kind} ${test.id}${note}: ${passed(test.id) ? "passed" : results[test.id][1]}`);
}
const failed = (id) => id in results && !passed(id);
const others = EXPECTED.filter((id) => !failed(id));
if (others.length > 0) console.log(`expected to fail, and did not: ${others.join(", ")}`);
const required = Object.values(counts.required ?? {}).reduce((sum, some) => sum + some, 0);
if (required !== REQUIRED) console.log(`${required} of the ${REQUIRED} required tests have a result`);
console.log(JSON.stringify(counts));
process.exit(isBad || others.length > 0 || required !== REQUIRED ? 1 : 0);
COUNT
