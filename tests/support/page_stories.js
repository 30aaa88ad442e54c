"use strict";
// Stories of the dashboard with events that are made up here. browser.py runs this file before the script of the page, which
// gets its events, timers and console from here. `stories()` returns what is wrong.
(() => {
  const [sources, timers, errors, wrong] = [[], [], [], []];
  window.EventSource = class {
    static CLOSED = 2;
    constructor() {
      this.readyState = 1;
      sources.push(this);
    }
  };
  window.setTimeout = (then) => timers.push(then);
  console.error = (...words) => errors.push(words.join(" "));

  const byId = (id) => document.getElementById(id);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const numbers = (length) => Array.from({ length }, (_, index) => index);
  const latency = (count) => ({ buckets: [[0.01, count]], count, sum: 0 });
  const service = (name, requests, more) => ({
    name, direction: "outbound", requests, failed: 0, client_gone: 0, failures: {}, active: 0, latency: latency(requests),
    retries: {}, rejections: {}, ejections: 0, endpoints: {}, bytes: {}, ...more,
  });
  const failure = (number) => ({
    time: "2026-11-28T10:00:00Z", id: "id-" + number, direction: "outbound", service: "orders", method: "GET", path: "/" + number,
    status: 503, grpc_status: null, reason: "no_endpoints", detail: "why", duration_ms: 1, stages: [],
  });
  const endpoint = { address: "10.0.0.1:80", state: "healthy", ejected_for_ms: null, health_check: null, latency_ms: null, in_flight: 0, connections: { open: 0, idle: 0 } };
  const cluster = (name) => ({ name, limits: {}, endpoints: [endpoint], endpoints_left_out: 0 });
  let uptime = 1000000;
  const event = (more) => ({
    at_ms: Date.parse("2026-11-28T10:00:00Z"), started_ms: 1, uptime_ms: (uptime += 1000), version: "0", workload: {}, services: [service("orders", 1)],
    callers: [], overhead: [], connections_open: 0, clusters: [], certificates: { identities: [], others: [] }, failures: [], config: { generation: 1 }, ...more,
  });
  const send = (more) => sources[sources.length - 1].onmessage({ data: JSON.stringify(event(more)) });
  const failures = (from, most) => ({ failures: numbers(most).map((index) => failure(from - index)) });
  const check = (what, found, expected) => {
    const [one, other] = [found, expected].map((value) => JSON.stringify(value));
    if (one !== other) wrong.push(`${what}: ${one} is not ${other}`);
  };
  const rows = () => all("#failures details").map((row) => row.querySelector("summary").textContent.match(/\/(\d+)/)[1]);

  const stories = [
    function aFaultInOnePartDoesNotStopTheOthers() {
      send({ certificates: null, version: "7.7" });
      check("the part with the fault is named", errors.length === 1 && errors[0].startsWith("showCertificates"), true);
      check("a later part is drawn", byId("config").textContent.includes("7.7"), true);
      errors.length = 0;
    },
    function aServiceWithoutDurationsIsDrawn() {
      const bare = { latency: { buckets: [], count: 0, sum: 0 } };
      send({ services: [service("orders", 10, bare)] });
      send({ services: [service("orders", 20)] });
      check("the heat map", byId("heat").getAttribute("aria-label").startsWith("20 requests"), true);
    },
    function pauseStopsTheDrawing() {
      byId("pause").click();
      send({ services: [service("orders", 5000)] });
      const shown = () => document.querySelector("#services tbody tr").dataset.requests;
      check("pressed", [byId("pause").getAttribute("aria-pressed"), byId("state").textContent, shown()], ["true", "paused", "20"]);
      byId("pause").click();
      check("again", [byId("pause").getAttribute("aria-pressed"), byId("state").textContent, shown()], ["false", "live", "5000"]);
    },
    function anOpenedFailureStaysUntilItIsClosed() {
      send(failures(20, 20));
      const opened = all("#failures details")[3];
      opened.open = true;
      opened.querySelector("a").focus();
      send(failures(60, 20));
      check("it stays, after the newest", [rows().length, rows()[20], opened.open], [21, "17", true]);
      check("the focus", document.activeElement === opened.querySelector("a"), true);
      opened.querySelector("summary").focus();
      opened.open = false;
      send(failures(61, 20));
      check("a closed one stays while it has the focus", rows()[20], "17");
      document.activeElement.blur();
      send(failures(62, 20));
      check("then it goes", rows().includes("17"), false);
    },
    function openedFailuresAreBounded() {
      for (const from of [100, 120, 140, 160]) {
        send(failures(from, 20));
        all("#failures details").forEach((row) => { row.open = true; });
      }
      check("rows", rows().length, 40);
      all("#failures details").forEach((row) => { row.open = false; });
    },
    function theServicesToChooseFromAreSortedAndStayWhileTheyHaveTheFocus() {
      const names = () => all("#heat-of option").map((option) => option.value.split("/")[1]).join(" ");
      send({ services: [service("pay", 9), service("billing", 5)] });
      check("sorted", [names(), byId("heat-of").value], ["billing pay", "outbound/pay"]);
      const first = all("#heat-of option")[0];
      send({ services: [service("billing", 50), service("pay", 9)] });
      check("not built again", all("#heat-of option")[0] === first, true);
      byId("heat-of").focus();
      send({ services: [service("billing", 50), service("app", 9)] });
      check("with the focus", names(), "billing pay");
      byId("heat-of").blur();
      send({ services: [service("billing", 50), service("app", 9)] });
      check("without the focus", names(), "app billing");
    },
    function theTableOfEndpointsScrollsAndKeepsTheFocus() {
      send({ clusters: [cluster("pay"), cluster("billing")] });
      const place = document.querySelector("#endpoints [data-cluster=pay] > .scroll");
      check("it has a table and a name", [place.querySelectorAll("table tbody tr").length, place.getAttribute("aria-label")], [1, "Endpoints of pay"]);
      place.focus();
      send({ clusters: [cluster("billing"), cluster("pay"), cluster("app")] });
      check("the focus", document.activeElement === place, true);
      check("sorted", all("#endpoints [data-cluster]").map((block) => block.dataset.cluster), ["app", "billing", "pay"]);
    },
    function theMapTellsFailuresAndHowManyMoreThereAre() {
      const callers = (requests, failed) => ({ callers: numbers(15).map((index) => ({ peer: "peer-" + index, requests, failed, client_gone: 0 })) });
      send(callers(5, 0));
      send(callers(9, 2));
      const map = byId("map");
      check("failures", /peer-0 [0-9.]+ per second, 2 failed/.test(map.getAttribute("aria-label")), true);
      check("more", [map.getAttribute("aria-label").includes("and 3 more"), map.textContent.includes("and 3 more")], [true, true]);
    },
    function theMapShowsEachEndpointWithItsState() {
      const states = ["healthy", "probing", "ejected", ...numbers(9).map(() => "healthy")];
      send({ clusters: [{ ...cluster("orders"), endpoints: states.map((state) => ({ ...endpoint, state })) }] });
      check("dots", all("#map circle").map((dot) => dot.getAttribute("class")).join(" "), "good warn bad good good good good good");
      check("the others are counted", byId("map").textContent.includes("+4"), true);
      check("in words", byId("map").getAttribute("aria-label").includes("10 of 12 endpoints healthy"), true);
    },
    function certificatesAreJudgedByTheTimesOfTheirWarnings() {
      const [past, future] = ["2025-11-28T00:00:00Z", "2036-12-05T00:00:00Z"];
      const one = (due, late) => ({ certificates: [{ spiffe_id: "a", use: "own", due, late, not_after: future }] });
      const identities = [one(future, future), one(past, future), one(past, past)];
      send({ certificates: { identities, others: [] } });
      check("kinds", all("#certificates tbody tr").map((row) => row.lastElementChild.className), ["", "warn", "bad"]);
    },
    function aStreamThatTheBrowserGaveUpIsOpenedAgain() {
      const [first, before] = [sources[sources.length - 1], sources.length];
      first.readyState = 0;
      first.onerror();
      check("the browser tries again by itself", [timers.length, byId("state").textContent !== "live"], [0, true]);
      first.readyState = 2;
      first.onerror();
      check("it waits", [timers.length, sources.length], [1, before]);
      timers.pop()();
      send({});
      check("it is open again", [sources.length, byId("state").textContent], [before + 1, "live"]);
    },
  ];

  window.stories = () => {
    for (const story of stories) {
      try {
        story();
      } catch (fault) {
        wrong.push(story.name + ": " + fault.stack);
      }
    }
    return [...wrong, ...errors];
  };
})();
