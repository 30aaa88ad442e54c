// Draws the events of /events. Everything from the sidecar becomes text, never markup.
// After this time the page asks again where the browser does not.
const AGAIN_MS = 5000;
// A stream without an event for so long counts as lost, as in `pillion top`: a lost connection may end without a word.
const SILENCE_MS = 15000;
// Of a service with more endpoints than these, the healthy ones are behind a line that opens.
const FEW_ENDPOINTS = 8;
// A limit is shown when a larger share of it is used.
const NEARLY_USED = 0.5;
// The most rows of failures that stay because a reader opened them, although newer ones took their places.
const MOST_PINNED = 20;
// Of the heat map, in pixels.
const HEAT_HEIGHT = 240;
// The events of the last minute.
const history = [];
// What is drawn: the newest event and the history at that time, or those at which the reader paused.
let view = null, newest = null, isPaused = false;
// The stream of events; null while nobody looks, and between two tries. The timer of its silence, or of the next try. Why no
// events come.
let source = null, timer = null, lost = null;
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

// Changes only what differs, so that what a reader has selected, or a screen reader has reached, stays.
function put(element, text, kind) {
  const words = text === undefined || text === null ? "" : String(text);
  if (element.textContent !== words) element.replaceChildren(...(kind === "long" ? breakable(words) : [words]));
  if (element.className !== (kind || "")) element.className = kind || "";
  return element;
}

function label(element, words) {
  if (element.getAttribute("aria-label") !== words) element.setAttribute("aria-label", words);
}

// Shows these rows in this order: each has a name, the texts of its cells with their classes, and may have data. A row with a
// known name stays.
function showRows(body, rows) {
  const known = new Map([...body.children].map((row) => [row.dataset.name, row]));
  const used = new Set();
  arrange(body, rows.map(({ name, cells, data }) => {
    while (used.has(name)) name += " again";
    used.add(name);
    const row = known.get(name) || rowOf(name, cells.length);
    cells.forEach(([text, kind], index) => put(row.children[index], text, kind));
    Object.assign(row.dataset, data);
    return row;
  }));
}

function rowOf(name, count) {
  const row = make("tr");
  row.dataset.name = name;
  for (let index = 0; index < count; index++) row.append(make(index === 0 ? "th" : "td"));
  row.firstElementChild.scope = "row";
  return row;
}

// Shows these children in this order. Children that are there already stay, with their focus and scroll position.
function arrange(place, children) {
  const focused = place.contains(document.activeElement) ? document.activeElement : null;
  [...place.children].filter((child) => !children.includes(child)).forEach((child) => child.remove());
  let at = place.firstElementChild;
  for (const child of children) {
    if (child === at) at = at.nextElementSibling;
    else place.insertBefore(child, at);
  }
  // a child that had to move lost it
  if (focused && focused !== document.activeElement && place.contains(focused)) focused.focus();
}

// The last minute of a side that is there and has carried nothing.
const NONE_YET = { rate: 0, requests: 0, failed: 0, retries: 0 };

function draw() {
  const { event, history } = view;
  const changes = new Map(event.services.map((service) => [key(service), change(history, "services", key(service))]));
  const parts = [showTitle, showSum, showMap, showServices, showHeat, showFailures, showEndpoints, showCertificates, showCompanions, showConfig];
  for (const part of parts) {
    try {
      part(event, changes, history);
    } catch (fault) {
      console.error(part.name, fault); // the other parts are drawn
    }
  }
  reachScrolls();
}

// What is wider than its place can be reached with the keyboard, and only that.
function reachScrolls() {
  for (const place of document.querySelectorAll(".scroll")) {
    if (place.scrollWidth > place.clientWidth) place.tabIndex = 0;
    else if (place !== document.activeElement) place.removeAttribute("tabindex");
  }
}

function showTitle(event) {
  const named = [event.workload.namespace, event.workload.name].filter(Boolean).join("/");
  byId("workload").textContent = named;
  document.title = (named ? named + " · " : "") + "Pillion";
}

function pairs(list, all) {
  const known = new Map([...list.children].map((pair) => [pair.dataset.name, pair]));
  arrange(list, all.map(([name, value, kind, drawing]) => {
    const pair = known.get(name) || make("div");
    if (!known.has(name)) pair.append(make("dt", name), make("dd"));
    pair.dataset.name = name;
    put(pair.querySelector("dd"), value, kind);
    pair.querySelectorAll("svg").forEach((old) => old.remove());
    if (drawing) pair.append(drawing);
    return pair;
  }));
}

// The values of the last minute as a line, which the figure beside it says in words.
function spark(values, kind) {
  const most = Math.max(...values.map((one) => one.value), 0);
  const line = svg("svg", { viewBox: "0 0 60 20", preserveAspectRatio: "none", class: "spark " + kind, "aria-hidden": "true" });
  line.append(svg("path", { d: "M0 19.5H60" }));
  if (most === 0) return line;
  const y = (value) => (19 - 18 * value / most).toFixed(1);
  const points = values.flatMap(({ from, to, value }) => [from, to].map((ago) => Math.max(0, 60 - ago).toFixed(1) + "," + y(value)));
  const ends = [60 - values[0].from, 60 - values[values.length - 1].to].map((x) => Math.max(0, x).toFixed(1));
  line.append(svg("polygon", { points: `${ends[0]},20 ${points.join(" ")} ${ends[1]},20` }), svg("polyline", { points: points.join(" ") }));
  return line;
}

// What came in and what went out is told apart: a request that the application passes on is in both.
function showSum(event, changes, history) {
  const sides = [["inbound", "received"], ["outbound", "sent"]].filter(([direction]) => event.sides[direction]);
  const all = sides.map(([direction, word]) => {
    const sum = event.sums.find((sum) => sum.direction === direction);
    return { direction, word, sum, change: sum ? change(history, "sums", direction) : NONE_YET };
  });
  const traffic = all.flatMap(({ direction, word, sum, change }) => {
    const share = failedShare(change);
    return [
      [word + ", requests/s", rate(change && change.rate), "", spark(pulse(history, direction, "requests"), "")],
      [word + ", failed", percent(share), share === null ? "dim" : share > 0 ? "bad" : "good", spark(pulse(history, direction, "failed"), "failing")],
      [word + ", in flight", count(sum ? sum.active : 0)],
    ];
  });
  const known = all.filter(({ change }) => change !== null);
  const overhead = event.overhead.map((of) => change(history, "overhead", of.direction))
    .map((change) => change && quantile(change.latency, 0.5)).filter((value) => value !== null);
  pairs(byId("sum"), [
    ...traffic,
    ["open connections", count(event.connections_open)],
    ["retries, last minute", count(known.length > 0 ? known.reduce((total, { change }) => total + change.retries, 0) : null)],
    ["added by the sidecar, p50", seconds(overhead.length > 0 ? Math.max(...overhead) : null)],
    ["running for", span(event.uptime_ms / 1000)],
  ]);
}

function showServices(event, changes) {
  const rows = event.services.map((service) => {
    const change = changes.get(key(service));
    const of = (name) => (change === null ? null : change[name]);
    const share = failedShare(change);
    const apart = [[service.failed, "failed"], [service.client_gone, "left by the client"]].filter(([number]) => number > 0);
    const total = count(service.requests) + (apart.length > 0 ? " (" + apart.map(([number, what]) => count(number) + " " + what).join(", ") + ")" : "");
    const cells = [
      [service.name || "(no service)"], [service.direction, "text"], [rate(of("rate"))], [percent(share), share > 0 ? "bad" : "dim"],
      ...[0.5, 0.9, 0.99].map((part) => [seconds(change && quantile(change.latency, part))]),
      [count(service.active)], [count(of("retries"))], [count(of("rejections")), of("rejections") > 0 ? "bad" : ""], [total],
    ];
    return { name: key(service), cells, data: { service: key(service), requests: service.requests, failed: service.failed } };
  });
  showRows(byId("services").tBodies[0], rows);
  tellMore(byId("services-more"), event.services_left_out, "/clusters");
}

// How many are not shown, and where they are.
function tellMore(place, number, path, kind = "") {
  const words = number > 0 ? count(number) + " more " + kind + "are on " : "";
  if (place.textContent === words + (words && path)) return;
  const link = make("a", path);
  link.href = path;
  place.replaceChildren(...(words ? [words, link] : []));
}

// The services to choose from, by name. A list that a reader has open does not change.
function offerServices(event) {
  const choice = byId("heat-of");
  const shown = [...choice.options].map((option) => option.value);
  const words = (name) => name.split("/").slice(1).join("/") + " (" + name.split("/")[0] + ")";
  const names = event.services.map(key).sort((one, other) => (words(one) < words(other) ? -1 : 1));
  if ((document.activeElement === choice && shown.length > 0) || names.join("\n") === shown.join("\n")) return;
  const chosen = names.includes(choice.value) ? choice.value : names.length > 0 ? key(event.services[0]) : "";
  choice.replaceChildren(...names.map((name) => {
    const option = make("option", words(name));
    option.value = name;
    return option;
  }));
  choice.value = chosen;
}

function showHeat(event, changes, history) {
  offerServices(event);
  const [canvas, name] = [byId("heat"), byId("heat-of").value];
  const found = heat(history, name);
  const pen = canvas.getContext("2d");
  const [width, fine] = [canvas.parentElement.clientWidth || 720, window.devicePixelRatio || 1];
  [canvas.width, canvas.height] = [width * fine, HEAT_HEIGHT * fine]; // this clears it, too
  pen.scale(fine, fine);
  if (found.bounds.length === 0) {
    label(canvas, "no requests yet");
    return;
  }
  paintHeat(pen, width, found);
  const now = changes.get(name);
  const of = (share) => seconds(now && quantile(now.latency, share));
  label(canvas, `${count(found.total)} requests in the last minute: median ${of(0.5)}, 99th percentile ${of(0.99)}`);
}

// The cells, by time from left to right and by duration from below, with their axes.
function paintHeat(pen, width, { bounds, columns }) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name);
  const rows = rowsWithCells(columns, bounds.length + 1);
  const [left, below] = [64, 20];
  const [line, second] = [(HEAT_HEIGHT - below) / rows.length, (width - left) / (WINDOW_MS / 1000)];
  const y = (index) => HEAT_HEIGHT - below - (index + 1) * line;
  const density = ({ from, to }, inside) => inside / Math.max(from - to, 1);
  const most = Math.max(1, ...columns.flatMap((column) => column.cells.map((inside) => density(column, inside))));
  pen.font = "11px system-ui, sans-serif";
  rows.forEach((row, index) => {
    pen.fillStyle = colour("--line");
    pen.fillRect(left, y(index) + line - 1, width - left, 0.5);
    pen.fillStyle = colour("--dim");
    pen.fillText(row < bounds.length ? "≤ " + bound(bounds[row]) : "> " + bound(bounds[row - 1]), 0, y(index) + line / 2 + 4);
    for (const column of columns.filter((column) => column.cells[row] > 0)) {
      const [x, end] = [column.from, column.to].map((ago) => Math.max(left, width - ago * second));
      const shade = 0.15 + 0.85 * Math.log(1 + density(column, column.cells[row])) / Math.log(1 + most);
      pen.fillStyle = `rgba(${colour("--heat")}, ${shade})`;
      pen.fillRect(x, y(index), Math.max(end - x - 1, 1), line - 1.5);
    }
  });
  pen.fillStyle = colour("--dim");
  for (const [ago, align] of [[60, "left"], [30, "center"], [0, "right"]]) {
    pen.textAlign = align;
    pen.fillText(ago === 0 ? "now" : ago + " s ago", width - ago * second, HEAT_HEIGHT - 4);
  }
}

function showFailures(event) {
  const place = byId("failures");
  if (event.failures === null) {
    arrange(place, [make("p", "The configuration has explain: off, so no failures are kept.", "dim")]);
    return;
  }
  const rows = new Map([...place.querySelectorAll("details")].map((row) => [row.dataset.key, row]));
  const newest = new Set();
  for (const failure of event.failures) {
    const name = [failure.time, failure.id, failure.direction, failure.service, failure.duration_ms].join(" ");
    newest.add(rows.get(name) || failureOf(failure, name));
  }
  // what a reader looks at stays until it is closed
  const isPinned = (row) => !newest.has(row) && (row.open || row.contains(document.activeElement));
  const pinned = [...rows.values()].filter(isPinned).slice(0, MOST_PINNED);
  const all = [...newest, ...pinned];
  arrange(place, all.length > 0 ? all : [make("p", "No request has failed.", "good")]);
}

function failureOf(failure, name) {
  const details = make("details");
  details.dataset.key = name;
  const summary = make("summary");
  const what = [failure.direction, failure.service, failure.method, failure.path || failure.protocol].filter(Boolean).join(" ");
  const status = failure.grpc_status ? "grpc " + failure.grpc_status : failure.status || "";
  summary.append(
    make("span", (failure.time || "").slice(11, 19) + "Z", "dim"), " ", make("b", status + " " + (failure.reason || ""), "bad"), " ",
    make("span", what, "what"), " ", make("span", seconds(failure.duration_ms / 1000), "dim"),
  );
  details.append(summary);
  if (failure.detail) details.append(make("p", failure.detail, "why"));
  details.append(...failure.stages.map((stage) => stageOf(stage, failure.duration_ms)));
  if (failure.stages.length > 0) details.append(axisOf(failure.duration_ms));
  const link = make("a", "as JSON");
  link.href = "/requests?id=" + encodeURIComponent(failure.id || "");
  const last = make("p", undefined, "why");
  last.append(link);
  details.append(last);
  return details;
}

// The time under the bars.
function axisOf(total) {
  const line = make("div", undefined, "stage axis");
  const ends = make("div", undefined, "ends");
  ends.append(make("span", "0"), make("span", seconds(total / 1000)));
  line.append(make("span"), ends);
  line.setAttribute("aria-hidden", "true");
  return line;
}

function stageOf(stage, total) {
  const line = make("div", undefined, "stage");
  const [bar, part] = [make("div", undefined, "bar"), make("i")];
  const share = (time) => (total > 0 ? Math.min(100, Math.max(0, 100 * time / total)) : 0) + "%";
  part.style.left = `min(${share(stage.at_ms)}, 100% - 2px)`; // the last one has no length, and is still seen
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
  const known = new Map([...place.querySelectorAll("[data-cluster]")].map((block) => [block.dataset.cluster, block]));
  const clusters = [...event.clusters].sort((one, other) => (one.name < other.name ? -1 : 1));
  const blocks = clusters.map((cluster) => {
    const block = known.get(cluster.name) || blockOf(cluster.name);
    const { all, healthy } = endpointsOf(cluster);
    const limits = Object.entries(cluster.limits).filter(([, of]) => of.max !== "off" && of.used > of.max * NEARLY_USED)
      .map(([name, of]) => name + " " + of.used + "/" + of.max);
    put(block.querySelector("small"), [healthy + "/" + all + " healthy", ...limits].join(", "), healthy < all || limits.length > 0 ? "warn" : "");
    const isHidden = (endpoint) => all > FEW_ENDPOINTS && endpoint.state === "healthy";
    const [open, closed] = block.querySelectorAll("table");
    showEndpointRows(open, cluster.endpoints.filter((endpoint) => !isHidden(endpoint)));
    showEndpointRows(closed, cluster.endpoints.filter(isHidden));
    const rest = block.querySelector("details");
    rest.hidden = all <= FEW_ENDPOINTS || healthy === 0;
    put(rest.querySelector("summary"), count(healthy) + " healthy endpoints");
    tellMore(block.querySelector("p"), cluster.endpoints_left_out, "/clusters?service=" + encodeURIComponent(cluster.name));
    return block;
  });
  arrange(place, blocks.length > 0 ? blocks : [put(place.querySelector(":scope > p") || make("p"), "No service has been called yet.", "dim")]);
  tellMore(byId("endpoints-more"), event.clusters_left_out, "/clusters");
}

function showEndpointRows(table, endpoints) {
  table.parentElement.hidden = endpoints.length === 0;
  showRows(table.tBodies[0], endpoints.map((endpoint) => ({ name: endpoint.address, cells: endpointCells(endpoint) })));
}

// The class of an endpoint's state.
function health(state) {
  return { healthy: "good", probing: "warn" }[state] || "bad";
}

// The place of a service's endpoints. It stays while they change.
function blockOf(name) {
  const block = make("div");
  block.dataset.cluster = name;
  const title = make("h3");
  title.append(make("span", name), " ", make("small"));
  const rest = make("details");
  rest.append(make("summary"), endpointsTable("Healthy endpoints of " + name));
  block.append(title, endpointsTable("Endpoints of " + name), rest, make("p", "", "dim"));
  return block;
}

function endpointsTable(name) {
  const head = make("tr");
  head.append(...["address", "state", "latency", "in flight", "connections"].map((name) => {
    const cell = make("th", name, name === "state" ? "text" : "");
    cell.scope = "col";
    return cell;
  }));
  const table = make("table");
  table.append(make("caption", name));
  table.createTHead().append(head);
  table.createTBody();
  const scroll = make("div", undefined, "scroll");
  scroll.setAttribute("role", "group");
  scroll.setAttribute("aria-label", name);
  scroll.append(table);
  return scroll;
}

function endpointCells(endpoint) {
  const ejected = endpoint.ejected_for_ms ? " for " + span(endpoint.ejected_for_ms / 1000) : "";
  const failure = endpoint.health_check && endpoint.health_check.failure ? ": " + endpoint.health_check.failure : "";
  return [
    [endpoint.address], [endpoint.state + ejected + failure, "text state " + health(endpoint.state)],
    [seconds(endpoint.latency_ms === null ? null : endpoint.latency_ms / 1000)], [count(endpoint.in_flight)],
    [endpoint.connections.open + " open, " + endpoint.connections.idle + " idle"],
  ];
}

// A text that may be broken after a slash.
function breakable(text) {
  return text.split(/(?<=[/])(?=[^/])/).flatMap((part) => [part, make("wbr")]);
}

function showCertificates(event) {
  const all = [...event.certificates.identities, ...event.certificates.others].flatMap((one) => one.certificates || []);
  const rows = all.map((one) => {
    const left = one.not_after ? (Number(new Date(one.not_after)) - event.at_ms) / 1000 : null;
    const kind = lifetime(one, event.at_ms);
    const [name, use] = [one.spiffe_id || one.subject || one.issuer || "", (one.use || "").replace("_", " ")];
    const ends = (one.not_after || "–").replace(/:\d\dZ$/, "Z").replace("T", " ");
    return { name: use + " " + name, cells: [[name, "long"], [use, "text"], [ends], [left === null ? "–" : left > 0 ? span(left) : "ended", kind]] };
  });
  const none = { name: "none", cells: [["no certificate is in use", "dim"]] };
  showRows(byId("certificates").tBodies[0], rows.length > 0 ? rows : [none]);
}

// Only those that the configuration has.
function showCompanions(event, changes, history) {
  const { sinks, logs, sync, caches, left_out: leftOut } = event.companions;
  const state = (of) => (of === undefined ? ["–", "dim text"] : of.up ? ["works", "text state good"] : [of.problem, "long bad"]);
  const sinkOf = (name) => sinks.find((sink) => sink.name === name);
  // a sink without a pair is idle only if no pair is left out
  const idle = sinks.filter((sink) => leftOut.logs === 0 && !logs.some((pair) => pair.sink === sink.name));
  const pairs = [...logs, ...idle.map((sink) => ({ source: "–", sink: sink.name, lag: 0, delivered: 0, refused: 0 }))];
  showTable("logs", pairs.map(({ source, sink, lag, delivered, refused }) => ({
    name: source + " " + sink,
    cells: [[source], [sink, "text"], [bytes(lag)], [count(delivered)], [count(refused), refused > 0 ? "bad" : ""], state(sinkOf(sink))],
  })));
  const fault = ({ last_problem: last }) => (last ? [last.at + ": " + last.problem, "long"] : ["none", "dim text"]);
  showTable("sync", sync.map((file) => ({ name: file.name, cells: [[file.name], [file.version || "–", "text"], state(file), fault(file)] })));
  showTable("caches", caches.map((cache) => ({
    name: cache.service,
    cells: [[cache.service], [percent(hitShare(history, cache.service))], [bytes(cache.bytes)], [bytes(cache.max)], [count(cache.entries)]],
  })));
  byId("companions").hidden = pairs.length + sync.length + caches.length === 0;
  tellMore(byId("logs-more"), leftOut.logs, "/metrics", "pairs ");
  tellMore(byId("companions-more"), leftOut.sinks + leftOut.sync, "/companions", "sinks and files ");
  tellMore(byId("caches-more"), leftOut.caches, "/clusters", "caches ");
}

// A table that is there only with rows.
function showTable(id, rows) {
  byId(id).parentElement.hidden = rows.length === 0;
  showRows(byId(id).tBodies[0], rows);
}

function showConfig(event) {
  const config = event.config;
  const refused = config.last_refusal ? config.last_refusal.at + ": " + config.last_refusal.why : "nothing";
  pairs(byId("config"), [
    ["file", config.file || "none: a configuration in memory"], ["loaded", config.loaded_at || "–"], ["generation", config.generation],
    ["refused last", refused, config.last_refusal ? "bad" : "dim"], ["version", event.version],
  ]);
}

function tell(words) {
  const state = byId("state");
  if (state.textContent === words) return; // a screen reader reads it again at each change
  state.textContent = words;
  state.className = { live: "good", paused: "warn" }[words] || "bad";
}

function redraw() {
  tell(lost || (isPaused ? "paused" : "live"));
  if (isPaused) return;
  view = { event: newest, history: [...history] };
  draw();
}

byId("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  byId("pause").setAttribute("aria-pressed", String(isPaused));
  if (newest) redraw();
});
byId("heat-of").addEventListener("change", () => view && draw());

// Opens the stream in place of the one before. A page that nobody sees holds none: a browser has six connections for all of its
// pages of one sidecar.
function connect() {
  disconnect();
  if (document.hidden) return;
  source = new EventSource("/events");
  awaitEvent();
  source.onmessage = (message) => {
    awaitEvent();
    lost = null;
    newest = JSON.parse(message.data);
    remember(history, newest);
    redraw();
  };
  source.onerror = () => {
    lose("the sidecar does not answer; trying again…");
    // the browser itself does not try again after an answer that is not a stream of events
    if (source.readyState !== EventSource.CLOSED) return;
    disconnect();
    timer = setTimeout(connect, AGAIN_MS);
  };
}

function disconnect() {
  clearTimeout(timer);
  if (source) [source.onmessage, source.onerror] = [null, null];
  if (source) source.close();
  source = null;
}

function awaitEvent() {
  clearTimeout(timer);
  timer = setTimeout(() => {
    lose("no event for " + SILENCE_MS / 1000 + " s; trying again…");
    connect();
  }, SILENCE_MS);
}

function lose(why) {
  lost = why;
  tell(why);
}

document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : source || connect()));
window.addEventListener("resize", () => view && draw());
connect();
