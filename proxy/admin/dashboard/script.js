"use strict";
// Shows the events of /events. Everything from the sidecar becomes text, never markup.
const WINDOW_MS = 60000;
const history = [];
const byId = (id) => document.getElementById(id);

function make(tag, text, kind) {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = String(text);
  if (kind) element.className = kind;
  return element;
}

function svg(tag, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

// Numbers for people.
function count(number) {
  return Math.round(number).toLocaleString("en");
}
function rate(number) {
  return number >= 100 ? count(number) : number.toFixed(number >= 10 ? 1 : 2);
}
function seconds(number) {
  if (number === null) return "–";
  if (number < 0.001) return (number * 1e6).toFixed(0) + " µs";
  if (number < 1) return (number * 1e3).toFixed(number < 0.01 ? 2 : 0) + " ms";
  return number.toFixed(2) + " s";
}
function percent(share) {
  return share === 0 ? "0 %" : (share * 100).toFixed(share < 0.01 ? 2 : 1) + " %";
}
function span(total) {
  const days = Math.floor(total / 86400), hours = Math.floor(total / 3600) % 24, minutes = Math.floor(total / 60) % 60;
  if (days > 0) return days + " d " + hours + " h";
  if (hours > 0) return hours + " h " + minutes + " min";
  return minutes > 0 ? minutes + " min " + Math.floor(total % 60) + " s" : Math.floor(total) + " s";
}

const key = (service) => service.direction + "/" + service.name;
const find = (event, service) => event.services.find((other) => key(other) === key(service));

// What a service did in the window: the difference of two totals. A restart begins anew.
function change(now, before, elapsed) {
  const zero = { requests: 0, failed: 0, latency: { buckets: [], count: 0 }, retries: {}, rejections: {} };
  const from = before && before.requests <= now.requests ? before : zero;
  const lower = (index) => (from.latency.buckets[index] ? from.latency.buckets[index][1] : 0);
  const buckets = now.latency.buckets.map(([bound, total], index) => [bound, total - lower(index)]);
  const sum = (words, old) => Object.entries(words).reduce((all, [word, total]) => all + total - (old[word] || 0), 0);
  const made = (words) => Object.fromEntries(Object.entries(words).filter(([word]) => ["succeeded", "failed", "replaced", "hedged"].includes(word)));
  return {
    rate: (now.requests - from.requests) / elapsed,
    requests: now.requests - from.requests,
    failed: now.failed - from.failed,
    buckets,
    count: now.latency.count - from.latency.count,
    retries: sum(made(now.retries), from.retries),
    rejections: sum(now.rejections, from.rejections),
  };
}

// As Prometheus' histogram_quantile: linear within a bucket.
function quantile(buckets, total, share) {
  if (total === 0) return null;
  const wanted = share * total;
  let lowerBound = 0, lowerCount = 0;
  for (const [bound, upTo] of buckets) {
    if (upTo >= wanted) {
      const inside = upTo - lowerCount;
      return inside === 0 ? bound : lowerBound + (bound - lowerBound) * (wanted - lowerCount) / inside;
    }
    [lowerBound, lowerCount] = [bound, upTo];
  }
  return lowerBound;
}

function show(event) {
  history.push(event);
  while (history.length > 1 && event.at_ms - history[0].at_ms > WINDOW_MS) history.shift();
  const oldest = history[0];
  const elapsed = Math.max((event.at_ms - oldest.at_ms) / 1000, 1);
  const changes = new Map(event.services.map((service) => [key(service), change(service, history.length > 1 ? find(oldest, service) : service, elapsed)]));
  const named = [event.workload.namespace, event.workload.name].filter(Boolean).join("/");
  byId("workload").textContent = named;
  document.title = (named ? named + " · " : "") + "Pillion";
  showSum(event, changes);
  showMap(event, changes, oldest, elapsed);
  showServices(event, changes);
  showHeat(event);
  showFailures(event);
  showEndpoints(event);
  showCertificates(event);
  showConfig(event);
}

function pairs(list, all) {
  list.replaceChildren(...all.map(([name, value, kind]) => {
    const pair = make("div");
    pair.append(make("dt", name), make("dd", value, kind));
    return pair;
  }));
}

function showSum(event, changes) {
  const all = [...changes.values()];
  const sum = (of) => all.reduce((total, change) => total + change[of], 0);
  const share = sum("requests") > 0 ? sum("failed") / sum("requests") : 0;
  const overhead = event.overhead.map((of) => quantile(of.latency.buckets, of.latency.count, 0.5)).filter((value) => value !== null);
  pairs(byId("sum"), [
    ["requests/s", rate(sum("rate"))],
    ["failed", percent(share), share > 0 ? "bad" : "good"],
    ["in flight", count(event.services.reduce((total, service) => total + service.active, 0))],
    ["open connections", count(event.connections_open)],
    ["retries, last minute", count(sum("retries"))],
    ["time in the sidecar, median", overhead.length > 0 ? seconds(Math.max(...overhead)) : "–"],
    ["running for", span(event.uptime_s)],
  ]);
}

function showServices(event, changes) {
  const rows = event.services.map((service) => {
    const change = changes.get(key(service));
    const row = make("tr");
    const name = make("th", service.name || "(no service)");
    name.scope = "row";
    const share = change.requests > 0 ? change.failed / change.requests : 0;
    const total = count(service.requests) + (service.failed > 0 ? " (" + count(service.failed) + " failed)" : "");
    row.append(
      name, make("td", service.direction), make("td", rate(change.rate)), make("td", percent(share), share > 0 ? "bad" : "dim"),
      ...[0.5, 0.9, 0.99].map((of) => make("td", seconds(quantile(change.buckets, change.count, of)))),
      make("td", count(service.active)), make("td", count(change.retries)),
      make("td", count(change.rejections), change.rejections > 0 ? "bad" : ""), make("td", total),
    );
    row.dataset.service = key(service);
    row.dataset.requests = service.requests;
    row.dataset.failed = service.failed;
    return row;
  });
  byId("services").tBodies[0].replaceChildren(...rows);
}

// Callers on the left, this workload in the middle, its services on the right.
function showMap(event, changes, oldest, elapsed) {
  const map = byId("map");
  const before = new Map(oldest.callers.map((caller) => [caller.peer, caller]));
  const callers = event.callers.slice(0, 12).map((caller) => {
    const from = before.get(caller.peer) || { requests: 0, failed: 0 };
    return { name: shortened(caller.peer), rate: (caller.requests - from.requests) / elapsed, failed: caller.failed - from.failed };
  });
  const services = event.services.filter((service) => service.direction === "outbound").slice(0, 12)
    .map((service) => ({ name: service.name || "(no service)", rate: changes.get(key(service)).rate, failed: changes.get(key(service)).failed }));
  const rows = Math.max(callers.length, services.length, 1);
  const [width, height] = [720, rows * 44 + 16];
  map.setAttribute("viewBox", "0 0 " + width + " " + height);
  map.setAttribute("width", width);
  map.setAttribute("height", height);
  const middle = height / 2;
  const parts = [];
  const side = (all, x, edge, centre) => all.forEach((one, index) => {
    const y = 8 + (index + 0.5) * (height - 16) / all.length;
    const kind = one.failed > 0 ? "failing" : one.rate > 0 ? "" : "idle";
    const bend = (edge + centre) / 2;
    parts.push(svg("path", { d: `M${edge} ${y} C${bend} ${y} ${bend} ${middle} ${centre} ${middle}`, class: kind, "stroke-width": 1 + Math.min(6, Math.log10(1 + one.rate) * 2) }));
    parts.push(svg("rect", { x, y: y - 16, width: 210, height: 32, rx: 6 }));
    parts.push(svg("text", { x: x + 8, y: y - 1 }, one.name.slice(0, 30)));
    parts.push(svg("text", { x: x + 8, y: y + 12, class: "dim" }, rate(one.rate) + "/s" + (one.failed > 0 ? ", " + count(one.failed) + " failed" : "")));
  });
  side(callers, 2, 212, 290);
  side(services, 508, 508, 430);
  parts.push(svg("rect", { x: 290, y: middle - 20, width: 140, height: 40, rx: 8 }));
  parts.push(svg("text", { x: 360, y: middle + 5, "text-anchor": "middle" }, (event.workload.name || "this workload").slice(0, 18)));
  map.replaceChildren(...parts);
  const told = (all) => all.map((one) => one.name + " " + rate(one.rate) + " per second").join(", ") || "none";
  map.setAttribute("aria-label", "Callers: " + told(callers) + ". Services: " + told(services) + ".");
}

function shortened(peer) {
  if (peer === "") return "(without identity)";
  const known = peer.match(/\/ns\/([^/]+)\/sa\/([^/]+)$/);
  return known ? known[1] + "/" + known[2] : peer;
}

function showHeat(event) {
  const choice = byId("heat-of");
  const names = event.services.map(key);
  if (names.join("\n") !== [...choice.options].map((option) => option.value).join("\n")) {
    const chosen = choice.value;
    choice.replaceChildren(...names.map((name) => {
      const option = make("option", name.split("/").slice(1).join("/") + " (" + name.split("/")[0] + ")");
      option.value = name;
      return option;
    }));
    if (names.includes(chosen)) choice.value = chosen;
  }
  const canvas = byId("heat");
  const pen = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  const service = event.services.find((service) => key(service) === choice.value);
  if (!service) return;
  const bounds = service.latency.buckets.map(([bound]) => bound);
  const [left, cell] = [64, (canvas.width - 64) / 60];
  const line = canvas.height / bounds.length;
  let most = 1, total = 0;
  const columns = history.slice(1).map((now, index) => {
    const [to, from] = [find(now, service), find(history[index], service)];
    if (!to || !from) return [];
    let below = 0;
    return to.latency.buckets.map(([, upTo], row) => {
      const grown = upTo - from.latency.buckets[row][1];
      const inside = Math.max(grown - below, 0);
      below = grown;
      most = Math.max(most, inside);
      total += inside;
      return inside;
    });
  });
  columns.slice(-60).forEach((column, index) => column.forEach((inside, row) => {
    if (inside === 0) return;
    const x = left + (60 - Math.min(columns.length, 60) + index) * cell;
    pen.fillStyle = `rgba(${style.getPropertyValue("--heat")}, ${0.15 + 0.85 * Math.log(1 + inside) / Math.log(1 + most)})`;
    pen.fillRect(x, canvas.height - (row + 1) * line, Math.ceil(cell), Math.ceil(line) - 1);
  }));
  pen.fillStyle = style.getPropertyValue("--dim");
  pen.font = "11px system-ui, sans-serif";
  bounds.forEach((bound, row) => pen.fillText("≤ " + seconds(bound), 0, canvas.height - row * line - line / 2 + 4));
  const now = change(service, find(history[0], service), 1);
  canvas.setAttribute("aria-label", `${count(total)} requests in the last minute: median ${seconds(quantile(now.buckets, now.count, 0.5))}, 99th percentile ${seconds(quantile(now.buckets, now.count, 0.99))}`);
}

const open = new Set();
function showFailures(event) {
  const place = byId("failures");
  if (event.failures === null) {
    place.replaceChildren(make("p", "The configuration has explain: off, so no failures are kept.", "dim"));
    return;
  }
  if (event.failures.length === 0) {
    place.replaceChildren(make("p", "No request has failed.", "good"));
    return;
  }
  const known = [...place.querySelectorAll("details")].map((details) => details.dataset.key).join("\n");
  const keys = event.failures.map((failure) => failure.time + failure.id);
  if (known === keys.join("\n")) return; // what a reader looks at stays as it is
  const focused = document.activeElement && document.activeElement.closest ? document.activeElement.closest("details") : null;
  const focus = focused ? focused.dataset.key : null;
  place.replaceChildren(...event.failures.map((failure, index) => failureOf(failure, keys[index])));
  if (focus) {
    const again = [...place.querySelectorAll("details")].find((details) => details.dataset.key === focus);
    if (again) again.querySelector("summary").focus();
  }
}

function failureOf(failure, name) {
  const details = make("details");
  details.dataset.key = name;
  details.open = open.has(name);
  details.addEventListener("toggle", () => (details.open ? open.add(name) : open.delete(name)));
  const summary = make("summary");
  const what = [failure.direction, failure.service, failure.method, failure.path || failure.protocol].filter(Boolean).join(" ");
  summary.append(
    make("span", (failure.time || "").slice(11, 19) + " ", "dim"), make("b", (failure.status || "") + " " + (failure.reason || ""), "bad"),
    make("span", " " + what + " "), make("span", seconds(failure.duration_ms / 1000), "dim"),
  );
  details.append(summary);
  if (failure.detail) details.append(make("p", failure.detail, "why"));
  details.append(...failure.stages.map((stage) => stageOf(stage, failure.duration_ms)));
  const link = make("a", "as JSON");
  link.href = "/requests/" + encodeURIComponent(failure.id || "");
  const last = make("p", undefined, "why");
  last.append(link);
  details.append(last);
  return details;
}

function stageOf(stage, total) {
  const line = make("div", undefined, "stage");
  const [bar, part] = [make("div", undefined, "bar"), make("i")];
  const share = (time) => (total > 0 ? Math.min(100, Math.max(0, 100 * time / total)) : 0) + "%";
  part.style.left = share(stage.at_ms);
  part.style.width = share(stage.took_ms);
  if (!/^(ok|closed|[123]..)$/.test(stage.outcome)) part.className = "failed";
  bar.append(part);
  bar.setAttribute("aria-hidden", "true");
  const rest = [stage.attempt ? "attempt " + stage.attempt : "", stage.endpoint, stage.outcome, stage.detail].filter(Boolean).join(" · ");
  line.append(make("span", stage.stage), bar, make("span", seconds(stage.took_ms / 1000), "took"), make("span", rest, "rest"));
  return line;
}

function showEndpoints(event) {
  const place = byId("endpoints");
  if (event.clusters.length === 0) {
    place.replaceChildren(make("p", "No service has been called yet.", "dim"));
    return;
  }
  place.replaceChildren(...event.clusters.map((cluster) => {
    const block = make("div");
    const title = make("h3", cluster.name + " ");
    const limits = Object.entries(cluster.limits).filter(([, of]) => of.max !== "off").map(([name, of]) => name + " " + of.used + "/" + of.max).join(", ");
    title.append(make("small", limits));
    const table = make("table");
    table.append(make("caption", "Endpoints of " + cluster.name));
    const head = make("tr");
    head.append(...["address", "state", "latency", "in flight", "connections"].map((name) => {
      const cell = make("th", name);
      cell.scope = "col";
      return cell;
    }));
    table.append(head, ...cluster.endpoints.map((endpoint) => {
      const row = make("tr");
      const address = make("th", endpoint.address);
      address.scope = "row";
      const ejected = endpoint.ejected_for_ms ? " for " + span(endpoint.ejected_for_ms / 1000) : "";
      const failure = endpoint.health_check && endpoint.health_check.failure ? ": " + endpoint.health_check.failure : "";
      row.append(
        address, make("td", endpoint.state + ejected + failure, endpoint.state === "healthy" ? "good" : endpoint.state === "probing" ? "warn" : "bad"),
        make("td", endpoint.latency_ms === null ? "–" : seconds(endpoint.latency_ms / 1000)), make("td", count(endpoint.in_flight)),
        make("td", endpoint.connections.open + " open, " + endpoint.connections.idle + " idle"),
      );
      return row;
    }));
    block.append(title, table);
    if (cluster.endpoints_left_out > 0) block.append(make("p", count(cluster.endpoints_left_out) + " more are on /clusters?service=" + cluster.name, "dim"));
    return block;
  }));
}

function showCertificates(event) {
  const all = [...event.certificates.identities, ...event.certificates.others].flatMap((one) => one.certificates || []);
  const rows = all.map((one) => {
    const row = make("tr");
    const ends = one.not_after ? new Date(one.not_after) : null;
    const left = ends ? (ends - event.at_ms) / 1000 : null;
    const name = make("th", one.spiffe_id || one.subject || one.issuer);
    name.scope = "row";
    row.append(name, make("td", (one.use || "").replace("_", " "), "text"), make("td", one.not_after || "–"), make("td", left === null ? "–" : left > 0 ? span(left) : "ended", left !== null && left < 86400 ? "bad" : ""));
    return row;
  });
  const none = make("tr");
  none.append(make("td", "no certificate is in use", "dim"));
  byId("certificates").tBodies[0].replaceChildren(...(rows.length > 0 ? rows : [none]));
}

function showConfig(event) {
  const config = event.config;
  const refused = config.last_refusal ? config.last_refusal.at + ": " + config.last_refusal.why : "nothing";
  pairs(byId("config"), [
    ["file", config.file || "built-in defaults"], ["loaded", config.loaded_at || "–"], ["generation", config.generation],
    ["refused last", refused, config.last_refusal ? "bad" : "dim"], ["version", event.version],
  ]);
}

function connect() {
  const source = new EventSource("/events");
  const state = byId("state");
  source.onmessage = (message) => {
    show(JSON.parse(message.data));
    if (state.textContent !== "live") state.textContent = "live";
  };
  source.onerror = () => { state.textContent = "the sidecar does not answer; trying again…"; };
}
connect();
