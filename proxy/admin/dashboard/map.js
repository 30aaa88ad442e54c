// The map: callers on the left, this workload in the middle, its services with their endpoints on the right.
// The most endpoints of a service that have a dot; the others are counted.
const MOST_DOTS = 8;
// A character of the map takes about so many units.
const LETTER = 7.4;
const ROW = 52;
// A line is red when a larger share of its requests fails. Each failure is told in words.
const FAILING = 0.01;

function showMap(event, changes, history) {
  const map = byId("map");
  const states = new Map(event.clusters.map((cluster) => [cluster.name, cluster.endpoints.map((endpoint) => endpoint.state)]));
  const callers = drawn(event.callers.map((caller) => ({ name: shortened(caller.peer), change: change(history, "callers", caller.peer), states: [] })));
  const services = drawn(event.services.filter((service) => service.direction === "outbound")
    .map((service) => ({ name: service.name || "(no service)", change: changes.get(key(service)), states: states.get(service.name) || [] })));
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
    if (all.shown.length === 0) return [svg("text", { x: x + side.wide / 2, y: y(0) + 4, class: "dim", "text-anchor": "middle" }, none)];
    const boxes = all.shown.flatMap((one, index) => box(one, { x, y: y(index), edge, centre, ...side }));
    return all.more > 0 ? [...boxes, svg("text", { x: x + 8, y: y(all.shown.length) + 4, class: "dim" }, "and " + all.more + " more")] : boxes;
  };
  map.replaceChildren(
    ...column(callers, 1, 1 + side.wide, left, "no calls yet"), ...column(services, width - side.wide - 1, width - side.wide - 1, right, "calls nobody yet"),
    svg("rect", { x: left, y: side.middle - 22, width: inner, height: 44, rx: 10, class: "own" }),
    svg("text", { x: width / 2, y: side.middle + 5, "text-anchor": "middle", class: "own" }, fitting(event.workload.name || "this workload", inner)),
  );
  map.setAttribute("aria-label", "Callers: " + told(callers) + ". Services: " + told(services) + ".");
}

// As much of a text as there is room for.
function fitting(text, width) {
  const most = Math.floor((width - 14) / LETTER);
  return text.length > most ? text.slice(0, Math.max(most - 1, 1)) + "…" : text;
}

// A caller or a service, with its line to the middle.
function box({ name, change, states }, { x, y, edge, centre, middle, wide }) {
  const { rate: number, failed } = change || { rate: null, failed: 0 };
  const kind = failedShare(change) > FAILING ? "failing" : number > 0 ? "" : "idle";
  const bend = (edge + centre) / 2;
  return [
    svg("path", { d: `M${edge} ${y} C${bend} ${y} ${bend} ${middle} ${centre} ${middle}`, class: kind, "stroke-width": 1 + Math.min(6, Math.log10(1 + number) * 2) }),
    svg("rect", { x, y: y - 21, width: wide, height: 42, rx: 8 }),
    svg("text", { x: x + 10, y: y - 3 }, fitting(name, wide)),
    svg("text", { x: x + 10, y: y + 13, class: failed > 0 ? "bad" : "dim" }, fitting(rate(number) + "/s" + (failed > 0 ? ", " + count(failed) + " failed" : ""), wide)),
    ...dots(states, x + wide - 12, y + 9),
  ];
}

// A dot for each endpoint of a service, from the right.
function dots(states, x, y) {
  const shown = states.slice(0, MOST_DOTS);
  const circles = shown.map((state, index) => {
    const dot = svg("circle", { cx: x - (shown.length - 1 - index) * 13, cy: y, r: 4.5, class: health(state) });
    dot.append(svg("title", {}, state));
    return dot;
  });
  if (states.length === shown.length) return circles;
  return [...circles, svg("text", { x: x - shown.length * 13, y: y + 4, class: "dim", "text-anchor": "end" }, "+" + (states.length - shown.length))];
}
