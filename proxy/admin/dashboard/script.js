// Draws the events of /events. Everything from the sidecar becomes text, never markup.
// After this time the page asks again where the browser does not.
const AGAIN_MS = 5000;
// The most rows of failures that stay because a reader opened them, although newer ones took their places.
const MOST_PINNED = 20;
// Of the heat map, in pixels.
const HEAT_HEIGHT = 240;
// The events of the last minute.
const history = [];
// What is drawn: the newest event and the history at that time, or those at which the reader paused.
let view = null, newest = null, isPaused = false;
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

function draw() {
  const { event, history } = view;
  const changes = new Map(event.services.map((service) => [key(service), change(history, "services", key(service))]));
  const parts = [showTitle, showSum, showMap, showServices, showHeat, showFailures, showEndpoints, showCertificates, showConfig];
  for (const part of parts) {
    try {
      part(event, changes, history);
    } catch (fault) {
      console.error(part.name, fault); // the other parts are drawn
    }
  }
}

function showTitle(event) {
  const named = [event.workload.namespace, event.workload.name].filter(Boolean).join("/");
  byId("workload").textContent = named;
  document.title = (named ? named + " · " : "") + "Pillion";
}

function pairs(list, all) {
  list.replaceChildren(...all.map(([name, value, kind, drawing]) => {
    const pair = make("div");
    pair.append(make("dt", name), make("dd", value, kind));
    if (drawing) pair.append(drawing);
    return pair;
  }));
}

// The values of the last minute as a line, which the figure beside it says in words.
function spark(values, kind) {
  const most = Math.max(...values.map((one) => one.value), 0);
  const line = svg("svg", { viewBox: "0 0 60 20", preserveAspectRatio: "none", class: "spark " + kind, "aria-hidden": "true" });
  if (most === 0) return line;
  const y = (value) => (19 - 18 * value / most).toFixed(1);
  const points = values.flatMap(({ from, to, value }) => [from, to].map((ago) => Math.max(0, 60 - ago).toFixed(1) + "," + y(value)));
  const ends = [60 - values[0].from, 60 - values[values.length - 1].to].map((x) => Math.max(0, x).toFixed(1));
  line.append(svg("polygon", { points: `${ends[0]},20 ${points.join(" ")} ${ends[1]},20` }), svg("polyline", { points: points.join(" ") }));
  return line;
}

function showSum(event, changes, history) {
  const all = [...changes.values()].filter((change) => change !== null);
  const sum = (of) => (all.length > 0 || changes.size === 0 ? all.reduce((total, change) => total + change[of], 0) : null);
  const share = sum("requests") === null ? null : failedShare({ requests: sum("requests"), failed: sum("failed") });
  const overhead = event.overhead.map((of) => change(history, "overhead", of.direction))
    .map((change) => change && quantile(change.latency, 0.5)).filter((value) => value !== null);
  pairs(byId("sum"), [
    ["requests/s", rate(sum("rate")), "", spark(pulse(history, "requests"), "")],
    ["failed", percent(share), share === null ? "dim" : share > 0 ? "bad" : "good", spark(pulse(history, "failed"), "failing")],
    ["in flight", count(event.services.reduce((total, service) => total + service.active, 0))],
    ["open connections", count(event.connections_open)],
    ["retries, last minute", count(sum("retries"))],
    ["in the sidecar, median", seconds(overhead.length > 0 ? Math.max(...overhead) : null)],
    ["running for", span(event.uptime_ms / 1000)],
  ]);
}

function showServices(event, changes) {
  const rows = event.services.map((service) => {
    const change = changes.get(key(service));
    const of = (name) => (change === null ? null : change[name]);
    const row = make("tr");
    const name = make("th", service.name || "(no service)");
    name.scope = "row";
    const share = failedShare(change);
    const apart = [[service.failed, "failed"], [service.client_gone, "left by the client"]].filter(([number]) => number > 0);
    const total = count(service.requests) + (apart.length > 0 ? " (" + apart.map(([number, what]) => count(number) + " " + what).join(", ") + ")" : "");
    row.append(
      name, make("td", service.direction), make("td", rate(of("rate"))), make("td", percent(share), share > 0 ? "bad" : "dim"),
      ...[0.5, 0.9, 0.99].map((part) => make("td", seconds(change && quantile(change.latency, part)))),
      make("td", count(service.active)), make("td", count(of("retries"))),
      make("td", count(of("rejections")), of("rejections") > 0 ? "bad" : ""), make("td", total),
    );
    row.dataset.service = key(service);
    row.dataset.requests = service.requests;
    row.dataset.failed = service.failed;
    return row;
  });
  byId("services").tBodies[0].replaceChildren(...rows);
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
    canvas.setAttribute("aria-label", "no requests yet");
    return;
  }
  paintHeat(pen, width, found);
  const now = changes.get(name);
  const of = (share) => seconds(now && quantile(now.latency, share));
  canvas.setAttribute("aria-label", `${count(found.total)} requests in the last minute: median ${of(0.5)}, 99th percentile ${of(0.99)}`);
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
    pen.fillText(row < bounds.length ? "≤ " + seconds(bounds[row]) : "> " + seconds(bounds[row - 1]), 0, y(index) + line / 2 + 4);
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
    make("span", (failure.time || "").slice(11, 19) + " ", "dim"), make("b", status + " " + (failure.reason || ""), "bad"),
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
  const known = new Map([...place.querySelectorAll("[data-cluster]")].map((block) => [block.dataset.cluster, block]));
  const clusters = [...event.clusters].sort((one, other) => (one.name < other.name ? -1 : 1));
  const blocks = clusters.map((cluster) => {
    const block = known.get(cluster.name) || blockOf(cluster.name);
    const limits = Object.entries(cluster.limits).filter(([, of]) => of.max !== "off").map(([name, of]) => name + " " + of.used + "/" + of.max).join(", ");
    block.querySelector("small").textContent = limits;
    block.querySelector("tbody").replaceChildren(...cluster.endpoints.map(endpointOf));
    const more = cluster.endpoints_left_out > 0 ? count(cluster.endpoints_left_out) + " more are on /clusters?service=" + cluster.name : "";
    block.querySelector("p").textContent = more;
    return block;
  });
  arrange(place, blocks.length > 0 ? blocks : [make("p", "No service has been called yet.", "dim")]);
}

// The class of an endpoint's state.
function health(state) {
  return { healthy: "good", probing: "warn" }[state] || "bad";
}

// The place of a service's endpoints. It stays while they change.
function blockOf(name) {
  const block = make("div");
  block.dataset.cluster = name;
  const title = make("h3", name + " ");
  title.append(make("small"));
  const head = make("tr");
  head.append(...["address", "state", "latency", "in flight", "connections"].map((name) => {
    const cell = make("th", name, name === "state" ? "text" : "");
    cell.scope = "col";
    return cell;
  }));
  const table = make("table");
  table.append(make("caption", "Endpoints of " + name));
  table.createTHead().append(head);
  table.createTBody();
  const scroll = make("div", undefined, "scroll");
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "group");
  scroll.setAttribute("aria-label", "Endpoints of " + name);
  scroll.append(table);
  block.append(title, scroll, make("p", "", "dim"));
  return block;
}

function endpointOf(endpoint) {
  const row = make("tr");
  const address = make("th", endpoint.address);
  address.scope = "row";
  const ejected = endpoint.ejected_for_ms ? " for " + span(endpoint.ejected_for_ms / 1000) : "";
  const failure = endpoint.health_check && endpoint.health_check.failure ? ": " + endpoint.health_check.failure : "";
  row.append(
    address, make("td", endpoint.state + ejected + failure, "text state " + health(endpoint.state)),
    make("td", seconds(endpoint.latency_ms === null ? null : endpoint.latency_ms / 1000)), make("td", count(endpoint.in_flight)),
    make("td", endpoint.connections.open + " open, " + endpoint.connections.idle + " idle"),
  );
  return row;
}

// A text that may be broken after a slash.
function breakable(text) {
  return text.split(/(?<=[/])(?=[^/])/).flatMap((part) => [part, make("wbr")]);
}

function showCertificates(event) {
  const all = [...event.certificates.identities, ...event.certificates.others].flatMap((one) => one.certificates || []);
  const rows = all.map((one) => {
    const row = make("tr");
    const left = one.not_after ? (Number(new Date(one.not_after)) - event.at_ms) / 1000 : null;
    const kind = lifetime(one, event.at_ms);
    const name = make("th");
    name.append(...breakable(one.spiffe_id || one.subject || one.issuer || ""));
    name.scope = "row";
    row.append(name, make("td", (one.use || "").replace("_", " "), "text"), make("td", (one.not_after || "–").replace(/:\d\dZ$/, "Z").replace("T", " ")), make("td", left === null ? "–" : left > 0 ? span(left) : "ended", kind));
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

function tell(words) {
  const state = byId("state");
  if (state.textContent === words) return; // a screen reader reads it again at each change
  state.textContent = words;
  state.className = { live: "good", paused: "warn" }[words] || "bad";
}

function redraw() {
  tell(isPaused ? "paused" : "live");
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

function connect() {
  const source = new EventSource("/events");
  source.onmessage = (message) => {
    newest = JSON.parse(message.data);
    remember(history, newest);
    redraw();
  };
  source.onerror = () => {
    tell("the sidecar does not answer; trying again…");
    // the browser itself does not try again after an answer that is not a stream of events
    if (source.readyState !== EventSource.CLOSED) return;
    source.onerror = null;
    setTimeout(connect, AGAIN_MS);
  };
}
connect();
