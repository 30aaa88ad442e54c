"use strict";
// Checks what the dashboard computes from its events.
//
//     figures.js PATH     the path of the dashboard's figures.js
//
// It prints the name of each story that passed, and fails at the first one that does not.
const assert = require("node:assert/strict");
const { readFileSync } = require("node:fs");
const vm = require("node:vm");

vm.runInThisContext(readFileSync(process.argv[2], "utf8"));

const latency = (...upTo) => ({ buckets: [[0.01, upTo[0]], [0.1, upTo[1]]], count: upTo[2], sum: 0 });
const service = (requests, more) => ({ name: "orders", direction: "outbound", requests, failed: 0, client_gone: 0, latency: latency(requests, requests, requests), retries: {}, rejections: {}, ...more });
// An event `uptime` seconds after the start of the process.
function event(uptime, services, more) {
  return { started_ms: 1000, uptime_ms: uptime * 1000, sums: [], services, callers: [], overhead: [], companions: { caches: [] }, ...more };
}
function historyOf(...events) {
  const history = [];
  events.forEach((one) => remember(history, one));
  return history;
}
const orders = (history) => change(history, "services", "outbound/orders");

const STORIES = {
  "a rate is the growth since the oldest event of the last minute"() {
    const history = historyOf(event(900, [service(10)]), event(1000, [service(100)]), event(1050, [service(600)]));
    assert.deepEqual([history.length, orders(history).rate, orders(history).requests], [2, 10, 500]);
  },
  "the first event of an old process has no rate"() {
    assert.equal(orders(historyOf(event(1000, [service(5000)]))), null);
  },
  "a process younger than a minute has counted everything since its start"() {
    const history = historyOf(event(20, [service(40)]));
    assert.deepEqual([orders(history).rate, heat(history, "outbound/orders").total], [2, 40]);
  },
  "a process that has become older than a minute is compared with its events"() {
    const history = historyOf(event(20, [service(40)]), event(70, [service(140)]));
    assert.equal(orders(history).rate, 2);
  },
  "a restart clears what was before, and no rate is negative"() {
    const restarted = { started_ms: 2000 };
    const young = historyOf(event(1000, [service(5000)]), event(10, [service(30)], restarted));
    assert.deepEqual([young.length, orders(young).rate], [2, 3]);
    const old = historyOf(event(1000, [service(5000)]), event(1000, [service(6000)], restarted));
    assert.equal(orders(old), null);
  },
  "a series that was removed and made again is compared from then on"() {
    const history = historyOf(event(1000, [service(500)]), event(1010, [service(20)]), event(1020, [service(50)]));
    assert.equal(orders(history).rate, 3);
    const once = historyOf(event(1000, [service(500)]), event(1010, [service(20)]));
    assert.equal(orders(once), null);
  },
  "a service and a caller that come later have no data at first, and then those since they came"() {
    const caller = { callers: [{ peer: "a", requests: 7000, failed: 70, client_gone: 0 }] };
    const history = historyOf(event(1000, []), event(1010, [service(7000)], caller));
    assert.deepEqual([orders(history), change(history, "callers", "a")], [null, null]);
    remember(history, event(1020, [service(7010)], { callers: [{ peer: "a", requests: 7020, failed: 71, client_gone: 0 }] }));
    assert.deepEqual([orders(history).rate, change(history, "callers", "a").rate, change(history, "callers", "a").failed], [1, 2, 1]);
  },
  "a service without a series of durations has no quantiles, and nothing fails"() {
    const bare = { latency: { buckets: [], count: 0, sum: 0 } };
    const history = historyOf(event(1000, [service(10, bare)]), event(1001, [service(20, bare)]), event(1002, [service(30)]));
    const { total, columns } = heat(history, "outbound/orders");
    assert.deepEqual([total, columns.length], [30, 2]);
    history.pop();
    assert.deepEqual([quantile(orders(history).latency, 0.5), heat(history, "outbound/orders").total, heat(history, "none").total], [null, 0, 0]);
  },
  "requests above the last bucket have a row of their own and are counted"() {
    const history = historyOf(event(1000, [service(0)]), event(1001, [service(9, { latency: latency(2, 5, 9) })]));
    assert.deepEqual([heat(history, "outbound/orders").columns[0].cells, heat(history, "outbound/orders").total], [[2, 3, 4], 9]);
  },
  "the heat map has the rows with requests, their neighbours, and never fewer than a few"() {
    const column = (...used) => ({ cells: Array.from({ length: 20 }, (_, row) => (used.includes(row) ? 1 : 0)) });
    const ends = (...columns) => { const rows = rowsWithCells(columns, 20); return [rows[0], rows[rows.length - 1]]; };
    assert.deepEqual([ends(column(3), column(12)), ends(column(0, 19)), ends(column()), ends(column(19))], [[2, 13], [0, 19], [0, 19], [13, 19]]);
    assert.deepEqual(rowsWithCells([], 3), [0, 1, 2]);
  },
  "the pulse has the requests of all services of one side by second, also of those that the event leaves out"() {
    const sums = (requests, failed) => ({ sums: [{ direction: "outbound", services: 300, requests, failed, client_gone: 0, active: 0, retries: {}, rejections: {} }] });
    const history = historyOf(event(1000, [], sums(10, 0)), event(1002, [], sums(30, 4)), event(1003, [], sums(36, 4)));
    assert.deepEqual(pulse(history, "outbound", "requests"), [{ from: 3, to: 1, value: 10 }, { from: 1, to: 0, value: 6 }]);
    assert.deepEqual(pulse(history, "outbound", "failed").map(({ value }) => value), [2, 0]);
    assert.deepEqual(pulse(history, "inbound", "requests").map(({ value }) => value), [0, 0]);
    assert.deepEqual(pulse(historyOf(event(1000, [])), "outbound", "requests"), []);
    assert.deepEqual([change(history, "sums", "outbound").requests, change(history, "sums", "outbound").failed], [26, 4]);
  },
  "a service has the endpoints of its totals, also those that the event leaves out"() {
    const all = (count, state) => Array.from({ length: count }, () => ({ state }));
    const cluster = { endpoints: [...all(48, "healthy"), ...all(1, "probing"), ...all(1, "ejected")], endpoints_by_state: { healthy: 68, probing: 1, ejected: 1 } };
    const found = endpointsOf(cluster);
    assert.deepEqual([found.all, found.healthy, found.states.slice(0, 3)], [70, 68, ["ejected", "probing", "healthy"]]);
    const unknown = endpointsOf(undefined, { endpoints: { healthy: 5, ejected: 2, draining: 9 } });
    assert.deepEqual(unknown, { states: [], all: 7, healthy: 5 });
  },
  "durations and bounds have the digits that say something"() {
    assert.deepEqual([0.005, 0.0025, 0.01, 0.1, 1, 2.5, 0.0005].map(bound), ["5 ms", "2.5 ms", "10 ms", "100 ms", "1 s", "2.5 s", "500 µs"]);
    assert.deepEqual([700, 731, 3650].map((days) => span(days * 86400 + 3600)), ["700 d 1 h", "2 y 1 d", "10 y 0 d"]);
  },
  "the time in the sidecar is that of the last minute"() {
    const overhead = (...upTo) => ({ overhead: [{ direction: "inbound", latency: latency(...upTo) }] });
    const history = historyOf(event(1000, [], overhead(1000, 1000, 1000)), event(1010, [], overhead(1000, 1010, 1010)));
    assert.ok(quantile(change(history, "overhead", "inbound").latency, 0.5) > 0.01);
  },
  "retries that were not made are not counted"() {
    const now = { retries: { succeeded: 3, failed: 1, budget: 50 }, rejections: { pending: 4 } };
    const history = historyOf(event(1000, [service(0, { retries: { succeeded: 1 } })]), event(1010, [service(9, now)]));
    assert.deepEqual([orders(history).retries, orders(history).rejections], [3, 4]);
  },
  "the history is bounded however many events come"() {
    const history = [];
    for (let index = 0; index < 1000; index++) remember(history, event(1000 + index / 1000, [service(index)]));
    assert.equal(history.length, MOST_EVENTS);
  },
  "old events keep only their totals"() {
    const history = historyOf(event(1000, [service(1)], { failures: ["large"], clusters: ["large"] }));
    assert.deepEqual(Object.keys(history[0]).sort(), ["caches", "callers", "isStart", "overhead", "services", "started_ms", "sums", "uptime_ms"]);
  },
  "the hit rate of a cache is that of the last minute"() {
    const cache = (requests, hits) => ({ companions: { caches: [{ service: "orders", requests, hits }] } });
    const history = historyOf(event(1000, [], cache(100, 0)), event(1010, [], cache(110, 9)));
    assert.deepEqual([hitShare(history, "orders"), hitShare(history, "none")], [0.9, null]);
    assert.equal(hitShare(historyOf(event(20, [], cache(4, 1))), "orders"), 0.25, "of a process younger than a minute");
    assert.equal(hitShare(historyOf(event(1000, [], cache(4, 1)), event(1010, [], cache(4, 1))), "orders"), null);
  },
  "bytes have the unit in which they are read"() {
    assert.deepEqual([0, 512, 1024, 1.5 * 2 ** 20, 200 * 2 ** 20, 5 * 2 ** 40].map(bytes), ["0 B", "512 B", "1.0 KiB", "1.5 MiB", "200 MiB", "5120 GiB"]);
  },
  "a certificate is judged by the times at which the log warns"() {
    const one = { due: "1970-01-01T00:01:06Z", late: "1970-01-01T00:01:30Z" };
    const cases = [[0, ""], [66, ""], [67, "warn"], [90, "warn"], [91, "bad"], [101, "bad"]];
    cases.forEach(([now, expected]) => assert.equal(lifetime(one, now * 1000), expected, String(now)));
    assert.equal(lifetime({}, 1000), "");
  },
  "the map in words tells failures, what has no data, and how many are left out"() {
    const one = (name, failed) => ({ name, change: { rate: 2, failed } });
    assert.equal(told(drawn([{ ...one("a", 0), endpoints: { states: [], all: 70, healthy: 60 } }])), "a 2.00 per second, 60 of 70 endpoints healthy");
    const all = [one("a", 3), { name: "b", change: null }, ...Array.from({ length: 15 }, (_, index) => one("c" + index, 0))];
    const words = told(drawn(all));
    assert.ok(words.startsWith("a 2.00 per second, 3 failed; b no data yet; c0 2.00 per second;"), words);
    assert.ok(words.endsWith("; and 5 more"), words);
    assert.ok(told(drawn(all, 100)).endsWith("; and 105 more"), "those that the event leaves out, too");
    assert.equal(told(drawn([])), "none");
  },
};

for (const [name, story] of Object.entries(STORIES)) {
  story();
  console.log(name);
}
