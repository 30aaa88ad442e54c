// Draws the events of /events. Everything from the sidecar becomes text, never markup.
// After this time the page asks again where the browser does not.
const AGAIN_MS = 5000;
// The most rows of failures that stay because a reader opened them, although newer ones took their places.
const MOST_PINNED = 20;
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
  list.replaceChildren(...all.map(([name, value, kind]) => {
    const pair = make("div");
    pair.append(make("dt", name), make("dd", value, kind));
    return pair;
  }));
}

function showSum(event, changes, history) {
  const all = [...changes.values()].filter((change) => change !== null);
  const sum = (of) => (all.length > 0 || changes.size === 0 ? all.reduce((total, change) => total + change[of], 0) : null);
  const share = sum("requests") === null ? null : failedShare({ requests: sum("requests"), failed: sum("failed") });
  const overhead = event.overhead.map((of) => change(history, "overhead", of.direction))
    .map((change) => change && quantile(change.latency, 0.5)).filter((value) => value !== null);
  pairs(byId("sum"), [
    ["requests/s", rate(sum("rate"))],
    ["failed", percent(share), share === null ? "dim" : share > 0 ? "bad" : "good"],
    ["in flight", count(event.services.reduce((total, service) => total + service.active, 0))],
    ["open connections", count(event.connections_open)],
    ["retries, last minute", count(sum("retries"))],
    ["time in the sidecar, median", seconds(overhead.length > 0 ? Math.max(...overhead) : null)],
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

// Callers on the left, this workload in the middle, its services on the right.
function showMap(event, changes, history) {
  const map = byId("map");
  const callers = drawn(event.callers.map((caller) => ({ name: shortened(caller.peer), change: change(history, "callers", caller.peer) })));
  const services = drawn(event.services.filter((service) => service.direction === "outbound")
    .map((service) => ({ name: service.name || "(no service)", change: changes.get(key(service)) })));
  const places = (side) => side.shown.length + (side.more > 0 ? 1 : 0);
  const [width, height] = [720, Math.max(places(callers), places(services), 1) * 44 + 16];
  map.setAttribute("viewBox", "0 0 " + width + " " + height);
  map.setAttribute("width", width);
  map.setAttribute("height", height);
  const middle = height / 2;
  const side = (all, x, edge, centre) => {
    const y = (index) => 8 + (index + 0.5) * (height - 16) / places(all);
    const boxes = all.shown.flatMap((one, index) => box(one, { x, y: y(index), edge, centre, middle }));
    return all.more > 0 ? [...boxes, svg("text", { x: x + 8, y: y(all.shown.length) + 4, class: "dim" }, "and " + all.more + " more")] : boxes;
  };
  map.replaceChildren(
    ...side(callers, 2, 212, 290), ...side(services, 508, 508, 430),
    svg("rect", { x: 290, y: middle - 20, width: 140, height: 40, rx: 8 }),
    svg("text", { x: 360, y: middle + 5, "text-anchor": "middle" }, (event.workload.name || "this workload").slice(0, 18)),
  );
  map.setAttribute("aria-label", "Callers: " + told(callers) + ". Services: " + told(services) + ".");
}

// A caller or a service with its line to the middle.
function box({ name, change }, { x, y, edge, centre, middle }) {
  const { rate: number, failed } = change || { rate: null, failed: 0 };
  const kind = failed > 0 ? "failing" : number > 0 ? "" : "idle";
  const bend = (edge + centre) / 2;
  return [
    svg("path", { d: `M${edge} ${y} C${bend} ${y} ${bend} ${middle} ${centre} ${middle}`, class: kind, "stroke-width": 1 + Math.min(6, Math.log10(1 + number) * 2) }),
    svg("rect", { x, y: y - 16, width: 210, height: 32, rx: 6 }),
    svg("text", { x: x + 8, y: y - 1 }, name.slice(0, 30)),
    svg("text", { x: x + 8, y: y + 12, class: "dim" }, rate(number) + "/s" + (failed > 0 ? ", " + count(failed) + " failed" : "")),
  ];
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
  const { bounds, columns, total } = heat(history, name);
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, canvas.width, canvas.height);
  if (bounds.length === 0) {
    canvas.setAttribute("aria-label", "no requests yet");
    return;
  }
  const style = getComputedStyle(document.documentElement);
  const [left, line] = [64, canvas.height / (bounds.length + 1)];
  const cell = (canvas.width - left) / (WINDOW_MS / 1000);
  const density = ({ from, to }, inside) => inside / Math.max(from - to, 1);
  const most = Math.max(1, ...columns.flatMap((column) => column.cells.map((inside) => density(column, inside))));
  for (const column of columns) {
    const [x, end] = [column.from, column.to].map((ago) => Math.max(left, canvas.width - ago * cell));
    column.cells.forEach((inside, row) => {
      if (inside === 0) return;
      const shade = 0.15 + 0.85 * Math.log(1 + density(column, inside)) / Math.log(1 + most);
      pen.fillStyle = `rgba(${style.getPropertyValue("--heat")}, ${shade})`;
      pen.fillRect(x, canvas.height - (row + 1) * line, Math.ceil(end - x), Math.ceil(line) - 1);
    });
  }
  pen.fillStyle = style.getPropertyValue("--dim");
  pen.font = "11px system-ui, sans-serif";
  const labels = [...bounds.map((bound) => "≤ " + seconds(bound)), "> " + seconds(bounds[bounds.length - 1])];
  labels.forEach((label, row) => pen.fillText(label, 0, canvas.height - row * line - line / 2 + 4));
  const now = changes.get(name);
  const of = (share) => seconds(now && quantile(now.latency, share));
  canvas.setAttribute("aria-label", `${count(total)} requests in the last minute: median ${of(0.5)}, 99th percentile ${of(0.99)}`);
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

// The place of a service's endpoints. It stays while they change.
function blockOf(name) {
  const block = make("div");
  block.dataset.cluster = name;
  const title = make("h3", name + " ");
  title.append(make("small"));
  const head = make("tr");
  head.append(...["address", "state", "latency", "in flight", "connections"].map((name) => {
    const cell = make("th", name);
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
  const kind = { healthy: "good", probing: "warn" }[endpoint.state] || "bad";
  row.append(
    address, make("td", endpoint.state + ejected + failure, kind),
    make("td", seconds(endpoint.latency_ms === null ? null : endpoint.latency_ms / 1000)), make("td", count(endpoint.in_flight)),
    make("td", endpoint.connections.open + " open, " + endpoint.connections.idle + " idle"),
  );
  return row;
}

function showCertificates(event) {
  const all = [...event.certificates.identities, ...event.certificates.others].flatMap((one) => one.certificates || []);
  const rows = all.map((one) => {
    const row = make("tr");
    const left = one.not_after ? (Number(new Date(one.not_after)) - event.at_ms) / 1000 : null;
    const kind = lifetime(one, event.at_ms);
    const name = make("th", one.spiffe_id || one.subject || one.issuer);
    name.scope = "row";
    row.append(name, make("td", (one.use || "").replace("_", " "), "text"), make("td", one.not_after || "–"), make("td", left === null ? "–" : left > 0 ? span(left) : "ended", kind));
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
  if (state.textContent !== words) state.textContent = words; // a screen reader reads it again at each change
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
