"use strict";
// What the page shows, computed from the events without the page. tests/support/figures.js checks it.
const WINDOW_MS = 60000;
// Events come once a second; more than these are never kept.
const MOST_EVENTS = 120;
// The most callers and services that the map draws.
const MOST_DRAWN = 12;
// The fewest rows of the heat map.
const FEWEST_ROWS = 7;
const NOTHING = { requests: 0, failed: 0, client_gone: 0, latency: { buckets: [], count: 0 }, retries: {}, rejections: {} };
// Outcomes of retries that were made.
const MADE = ["succeeded", "failed", "replaced", "hedged"];

// Numbers for people. Null: there are no data.
function count(number) {
  return number === null ? "–" : Math.round(number).toLocaleString("en");
}
function rate(number) {
  if (number === null) return "–";
  return number >= 100 ? count(number) : number.toFixed(number >= 10 ? 1 : 2);
}
function seconds(number) {
  if (number === null) return "–";
  if (number < 0.001) return (number * 1e6).toFixed(0) + " µs";
  if (number < 1) return (number * 1e3).toFixed(number < 0.01 ? 2 : 0) + " ms";
  return number.toFixed(2) + " s";
}
// The upper bound of a bucket, without digits that say nothing.
function bound(number) {
  return seconds(number).replace(/(\.\d*?)0+ /, "$1 ").replace(". ", " ");
}
function percent(share) {
  if (share === null) return "–";
  return share === 0 ? "0 %" : (share * 100).toFixed(share < 0.01 ? 2 : 1) + " %";
}
function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB"];
  const unit = number < 1 ? 0 : Math.min(Math.floor(Math.log2(number) / 10), units.length - 1);
  const value = number / 2 ** (10 * unit);
  return value.toFixed(unit === 0 || value >= 100 ? 0 : 1) + " " + units[unit];
}
function span(total) {
  const days = Math.floor(total / 86400), hours = Math.floor(total / 3600) % 24, minutes = Math.floor(total / 60) % 60;
  if (days > 730) return Math.floor(days / 365) + " y " + days % 365 + " d";
  if (days > 0) return days + " d " + hours + " h";
  if (hours > 0) return hours + " h " + minutes + " min";
  return minutes > 0 ? minutes + " min " + Math.floor(total % 60) + " s" : Math.floor(total) + " s";
}
function shortened(peer) {
  if (peer === "") return "(without identity)";
  const known = peer.match(/\/ns\/([^/]+)\/sa\/([^/]+)$/);
  return known ? known[1] + "/" + known[2] : peer;
}

const key = (service) => service.direction + "/" + service.name;

// The part of an event that is kept for a minute: totals by name.
function kept(event) {
  const overhead = event.overhead.map((of) => [of.direction, { ...NOTHING, requests: of.latency.count, latency: of.latency }]);
  return {
    started_ms: event.started_ms,
    uptime_ms: event.uptime_ms,
    isStart: false,
    sums: new Map(event.sums.map((sum) => [sum.direction, { ...NOTHING, ...sum }])),
    services: new Map(event.services.map((service) => [key(service), service])),
    callers: new Map(event.callers.map((caller) => [caller.peer, caller])),
    caches: new Map(event.companions.caches.map((cache) => [cache.service, cache])),
    overhead: new Map(overhead),
  };
}

// Adds an event to the last minute. A process that is younger than that had counted nothing at its start.
function remember(history, event) {
  if (history.length > 0 && history[0].started_ms !== event.started_ms) history.length = 0;
  if (history.length === 0 && event.uptime_ms <= WINDOW_MS) {
    history.push({ ...kept({ ...event, sums: [], services: [], callers: [], overhead: [], companions: { caches: [] } }), uptime_ms: 0, isStart: true });
  }
  history.push(kept(event));
  const isOld = (one) => event.uptime_ms - one.uptime_ms > WINDOW_MS;
  while (history.length > 1 && (isOld(history[0]) || history.length > MOST_EVENTS)) history.shift();
}

const totals = (event, list, name) => event[list].get(name) || (event.isStart ? NOTHING : undefined);

// The oldest totals of `name` since when they only grew, and the seconds that passed since then. Null: there are none.
// Smaller totals are those of a series that was removed and made again.
function before(history, list, name) {
  const last = history[history.length - 1];
  let later = last[list].get(name), found = null;
  for (let index = history.length - 2; later && index >= 0; index--) {
    const earlier = totals(history[index], list, name);
    if (!earlier || earlier.requests > later.requests) break;
    found = { totals: earlier, elapsed: Math.max((last.uptime_ms - history[index].uptime_ms) / 1000, 1) };
    later = earlier;
  }
  return found;
}

const grown = (now, then) => Math.max(now - (then || 0), 0);

// The values that a histogram got between two events. An older one may lack buckets.
function grownLatency(now, then) {
  const lower = (index) => (then.buckets[index] ? then.buckets[index][1] : 0);
  return { buckets: now.buckets.map(([bound, total], index) => [bound, grown(total, lower(index))]), count: grown(now.count, then.count) };
}

// What a service, a caller or the sidecar did in the last minute. Null: there are no data.
function change(history, list, name) {
  const found = before(history, list, name);
  if (!found) return null;
  const [now, then] = [{ ...NOTHING, ...history[history.length - 1][list].get(name) }, { ...NOTHING, ...found.totals }];
  const sum = (words, old) => words.reduce((all, [word, total]) => all + grown(total, old[word]), 0);
  return {
    rate: grown(now.requests, then.requests) / found.elapsed,
    requests: grown(now.requests, then.requests),
    failed: grown(now.failed, then.failed),
    gone: grown(now.client_gone, then.client_gone),
    latency: grownLatency(now.latency, then.latency),
    retries: sum(Object.entries(now.retries).filter(([word]) => MADE.includes(word)), then.retries),
    rejections: sum(Object.entries(now.rejections), then.rejections),
  };
}

// Null without requests.
const failedShare = (change) => (change === null ? null : change.requests > 0 ? change.failed / change.requests : 0);

// The share of requests for which the cache of a service needed no answer of the service. Null: there were none.
function hitShare(history, service) {
  const found = before(history, "caches", service), now = history[history.length - 1].caches.get(service);
  const requests = found ? grown(now.requests, found.totals.requests) : 0;
  return requests > 0 ? grown(now.hits, found.totals.hits) / requests : null;
}

// As Prometheus' histogram_quantile: linear within a bucket.
function quantile(latency, share) {
  if (latency.count === 0 || latency.buckets.length === 0) return null;
  const wanted = share * latency.count;
  let lowerBound = 0, lowerCount = 0;
  for (const [bound, upTo] of latency.buckets) {
    if (upTo >= wanted) {
      const inside = upTo - lowerCount;
      return inside === 0 ? bound : lowerBound + (bound - lowerBound) * (wanted - lowerCount) / inside;
    }
    [lowerBound, lowerCount] = [bound, upTo];
  }
  return lowerBound;
}

// The requests of a service between each two events, by the row of their duration. The last row is beyond all bounds.
function heat(history, name) {
  const last = history[history.length - 1];
  const service = last.services.get(name);
  const bounds = service ? service.latency.buckets.map(([bound]) => bound) : [];
  const columns = [];
  for (let index = 1; bounds.length > 0 && index < history.length; index++) {
    const [then, now] = [totals(history[index - 1], "services", name), totals(history[index], "services", name)];
    if (!then || !now || then.requests > now.requests) continue;
    const added = grownLatency(now.latency, then.latency);
    const upTo = bounds.map((_, row) => (added.buckets[row] ? added.buckets[row][1] : 0));
    const cells = [...upTo, added.count].map((total, row) => grown(total, upTo[row - 1]));
    const ago = (event) => (last.uptime_ms - event.uptime_ms) / 1000;
    columns.push({ from: ago(history[index - 1]), to: ago(history[index]), cells });
  }
  const total = columns.reduce((all, column) => column.cells.reduce((sum, cell) => sum + cell, all), 0);
  return { bounds, columns, total };
}

// The rows of the heat map that are drawn: those with requests and their neighbours, and a few more where these are few.
function rowsWithCells(columns, count) {
  const used = Array.from({ length: count }, (_, row) => row).filter((row) => columns.some((column) => column.cells[row] > 0));
  let [first, last] = used.length > 0 ? [Math.max(used[0] - 1, 0), Math.min(used[used.length - 1] + 1, count - 1)] : [0, count - 1];
  while (last - first + 1 < Math.min(FEWEST_ROWS, count)) {
    if (first > 0) first--;
    if (last < count - 1) last++;
  }
  return Array.from({ length: last - first + 1 }, (_, index) => first + index);
}

// How many requests of all services of one side came in each second between two events: all of them, or those that failed.
function pulse(history, direction, of) {
  const values = [];
  for (let index = 1; index < history.length; index++) {
    const [then, now] = [history[index - 1], history[index]];
    const ago = (event) => (history[history.length - 1].uptime_ms - event.uptime_ms) / 1000;
    const [earlier, later] = [totals(then, "sums", direction), now.sums.get(direction)];
    const added = earlier && later ? grown(later[of], earlier[of]) : 0;
    values.push({ from: ago(then), to: ago(now), value: added / Math.max(ago(then) - ago(now), 1) });
  }
  return values;
}

// The class of a certificate, as the log warns: a newer one is due, or late.
function lifetime(certificate, now) {
  const isAfter = (date) => Boolean(date) && now > Number(new Date(date));
  if (isAfter(certificate.late)) return "bad";
  return isAfter(certificate.due) ? "warn" : "";
}

// The part of a side of the map that is drawn, and how many are left out. The event has left some out already.
function drawn(all, leftOut) {
  return { shown: all.slice(0, MOST_DRAWN), more: Math.max(all.length - MOST_DRAWN, 0) + (leftOut || 0) };
}

// The place of a state among others: what a reader has to see comes first.
const urgency = (state) => ({ healthy: 2, probing: 1 }[state] || 0);

// The endpoints of a service: how many there are, how many of them are healthy, and the states of those that the event has.
// Without those the totals of the service are all that is known.
function endpointsOf(cluster, service) {
  const states = cluster ? cluster.endpoints.map((endpoint) => endpoint.state) : [];
  const { draining, ...others } = cluster ? cluster.endpoints_by_state : service.endpoints;
  const all = Object.values(others).reduce((sum, count) => sum + count, 0);
  return { states: states.sort((one, other) => urgency(one) - urgency(other)), all, healthy: others.healthy || 0 };
}

// A side of the map in words.
function told({ shown, more }) {
  const one = ({ name, change, endpoints }) => {
    const healthy = endpoints && endpoints.all > 0 ? ", " + endpoints.healthy + " of " + endpoints.all + " endpoints healthy" : "";
    if (change === null) return name + " no data yet" + healthy;
    return name + " " + rate(change.rate) + " per second" + (change.failed > 0 ? ", " + count(change.failed) + " failed" : "") + healthy;
  };
  return [...shown.map(one), ...(more > 0 ? ["and " + more + " more"] : [])].join("; ") || "none";
}
