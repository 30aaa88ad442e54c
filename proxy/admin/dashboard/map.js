// The map: callers on the left, this workload in the middle, its services with their endpoints on the right.
// The most endpoints of a service that have a dot; the others are counted. In a narrow box there are fewer.
const MOST_DOTS = 8;
const DOT = 13;
// A character of the map takes about so many units.
const LETTER = 7.4;
const ROW = 52;
// A disc, a lozenge and a cross, because not everybody sees the colours apart.
const SHAPES = {
  good: "M-4.5 0A4.5 4.5 0 1 0 4.5 0A4.5 4.5 0 1 0 -4.5 0Z",
  warn: "M0 -5.5L5.5 0L0 5.5L-5.5 0Z",
  bad: "M-4.5 -2.5L-2.5 -4.5L0 -2L2.5 -4.5L4.5 -2.5L2 0L4.5 2.5L2.5 4.5L0 2L-2.5 4.5L-4.5 2.5L-2 0Z",
};
// A line is red when a larger share of its requests fails. Each failure is told in words.
const FAILING = 0.01;

function showMap(event, changes, history) {
  const map = byId("map");
  const clusters = new Map(event.clusters.map((cluster) => [cluster.name, cluster]));
  const callers = drawn(event.callers.map((caller) => ({ name: shortened(caller.peer), change: change(history, "callers", caller.peer) })), event.callers_left_out);
  const outbound = event.services.filter((service) => service.direction === "outbound");
  const sum = event.sums.find((sum) => sum.direction === "outbound");
  const services = drawn(outbound.map((service) => ({
    name: service.name || "(no service)", change: changes.get(key(service)), endpoints: endpointsOf(clusters.get(service.name), service),
  })), sum ? sum.services - outbound.length : 0);
  const places = (side) => side.shown.length + (side.more > 0 ? 1 : 0);
  // it is as wide as the page allows, so that it needs no scrolling on a phone
  const width = Math.max(map.parentElement.clientWidth || 720, 320);
  const height = Math.max(places(callers), places(services), 1) * ROW + 12;
  for (const [name, value] of Object.entries({ viewBox: "0 0 " + width + " " + height, width, height })) map.setAttribute(name, value);
  const side = { wide: Math.min(300, width * 0.37), middle: height / 2 };
  const inner = Math.min(170, width * 0.2);
  const [left, right] = [(width - inner) / 2, (width + inner) / 2];
  const column = (all, x, edge, centre, none) => {
    const y = (index) => 6 + (index + 0.5) * (height - 12) / Math.max(places(all), 1);
    if (all.shown.length === 0) return [svg("text", { x: x + side.wide / 2, y: y(0) + 4, class: "dim", "text-anchor": "middle" }, fitting(none, side.wide + 20))];
    const boxes = all.shown.flatMap((one, index) => box(one, { x, y: y(index), edge, centre, ...side }));
    return all.more > 0 ? [...boxes, svg("text", { x: x + 8, y: y(all.shown.length) + 4, class: "dim" }, "and " + all.more + " more")] : boxes;
  };
  map.replaceChildren(
    ...column(callers, 1, 1 + side.wide, left, event.sides.inbound ? "no calls yet" : "inbound is off"),
    ...column(services, width - side.wide - 1, width - side.wide - 1, right, event.sides.outbound ? "no calls to services yet" : "outbound is off"),
    svg("rect", { x: left, y: side.middle - 22, width: inner, height: 44, rx: 10, class: "own" }),
    svg("text", { x: width / 2, y: side.middle + 5, "text-anchor": "middle", class: "own" }, fitting(event.workload.name || "this workload", inner)),
  );
  label(map, "Callers: " + told(callers) + ". Services: " + told(services) + ".");
}

// As much of a text as there is room for.
function fitting(text, width) {
  const most = Math.floor((width - 14) / LETTER);
  return text.length > most ? text.slice(0, Math.max(most - 1, 1)) + "…" : text;
}

// A caller or a service, with its line to the middle.
function box({ name, change, endpoints }, { x, y, edge, centre, middle, wide }) {
  const { rate: number, failed } = change || { rate: null, failed: 0 };
  const kind = failedShare(change) > FAILING ? "failing" : number > 0 ? "" : "idle";
  const bend = (edge + centre) / 2;
  const healthy = endpoints && endpoints.all > 0 ? endpoints.healthy + "/" + endpoints.all : "";
  const [row, taken] = endpoints ? dots(endpoints, x + wide - 12, y + 9, Math.floor(wide * 0.36 / DOT)) : [[], 0];
  return [
    svg("path", { d: `M${edge} ${y} C${bend} ${y} ${bend} ${middle} ${centre} ${middle}`, class: kind, "stroke-width": 1 + Math.min(6, Math.log10(1 + number) * 2) }),
    svg("rect", { x, y: y - 21, width: wide, height: 42, rx: 8 }),
    svg("text", { x: x + 10, y: y - 3 }, fitting(name, wide - (healthy.length + 1) * LETTER)),
    svg("text", { x: x + wide - 8, y: y - 3, class: healthy && endpoints.healthy < endpoints.all ? "bad" : "dim", "text-anchor": "end" }, healthy),
    svg("text", { x: x + 10, y: y + 13, class: failed > 0 ? "bad" : "dim" }, fitting(rate(number) + "/s" + (failed > 0 ? ", " + count(failed) + " failed" : ""), wide - taken)),
    ...row,
  ];
}

// A dot for each endpoint of a service, from the right, and how many have none; with the room that they take.
function dots({ states, all }, x, y, room) {
  const shown = states.slice(0, Math.min(MOST_DOTS, room));
  const row = shown.map((state, index) => {
    const dot = svg("path", { transform: `translate(${x - (shown.length - 1 - index) * DOT} ${y})`, d: SHAPES[health(state)], class: "dot " + health(state) });
    dot.append(svg("title", {}, state));
    return dot;
  });
  if (all === shown.length) return [row, shown.length * DOT];
  const more = "+" + (all - shown.length);
  return [[...row, svg("text", { x: x - shown.length * DOT + 4, y: y + 4, class: "dim", "text-anchor": "end" }, more)], shown.length * DOT + more.length * LETTER];
}
