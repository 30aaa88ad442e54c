"use strict";
// Stories of the dashboard with events that are made up here. browser.py runs this file before the script of the page, which
// gets its events, timers and console from here. `stories()` returns what is wrong.
(() => {
  const [sources, timers, errors, wrong] = [[], new Map(), [], []];
  let [lastTimer, isHidden] = [0, false];
  window.EventSource = class {
    static CLOSED = 2;
    constructor() {
      this.readyState = 1;
      sources.push(this);
    }
    close() {
      this.readyState = 2;
    }
  };
  window.setTimeout = (then, after) => (timers.set(++lastTimer, { then, after }), lastTimer);
  window.clearTimeout = (timer) => timers.delete(timer);
  Object.defineProperty(Document.prototype, "hidden", { get: () => isHidden });
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
  const cluster = (name, states = ["healthy"]) => ({
    name, limits: {}, endpoints: states.map((state, index) => ({ ...endpoint, address: "10.0.0." + index + ":80", state })), endpoints_left_out: 0,
    endpoints_by_state: states.reduce((all, state) => ({ ...all, [state]: (all[state] || 0) + 1 }), {}),
  });
  const sum = (direction, requests, more) => ({ direction, services: 1, requests, failed: 0, client_gone: 0, active: 0, retries: {}, rejections: {}, ...more });
  const allShown = { sinks: 0, logs: 0, sync: 0, caches: 0 };
  const none = { sinks: [], logs: [], sync: [], caches: [], left_out: allShown };
  let uptime = 1000000;
  const event = (more) => ({
    at_ms: Date.parse("2026-11-28T10:00:00Z"), started_ms: 1, uptime_ms: (uptime += 1000), version: "0", workload: {}, services: [service("orders", 1)],
    sides: { inbound: true, outbound: true }, sums: [], services_left_out: 0, callers_left_out: 0, clusters_left_out: 0, callers: [], overhead: [], connections_open: 0, clusters: [], certificates: { identities: [], others: [] }, companions: none, failures: [], config: { generation: 1 }, ...more,
  });
  const send = (more) => sources[sources.length - 1].onmessage({ data: JSON.stringify(event(more)) });
  const failures = (from, most) => ({ failures: numbers(most).map((index) => failure(from - index)) });
  const check = (what, found, expected) => {
    const [one, other] = [found, expected].map((value) => JSON.stringify(value));
    if (one !== other) wrong.push(`${what}: ${one} is not ${other}`);
  };
  // Lets the only timer end.
  const ring = () => {
    const [[timer, { then }]] = [...timers];
    timers.delete(timer);
    then();
  };
  const openStreams = () => sources.filter((source) => source.readyState !== 2).length;
  const hide = (value) => {
    isHidden = value;
    document.dispatchEvent(new Event("visibilitychange"));
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
      place.style.width = "2000px";
      send({ clusters: [cluster("pay"), cluster("billing")] });
      check("what is not wider than its place is no stop of Tab", place.hasAttribute("tabindex"), false);
      place.style.width = "50px";
      send({ clusters: [cluster("pay"), cluster("billing")] });
      check("what is wider is one", place.tabIndex, 0);
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
      send({ clusters: [cluster("orders", states)] });
      const dots = all("#map .dot").map((dot) => dot.getAttribute("class").split(" ")[1]);
      check("what has to be seen is first", dots.slice(0, 3), ["bad", "warn", "good"]);
      check("the others are counted", byId("map").textContent.includes("+" + (12 - dots.length)), true);
      check("in figures", byId("map").textContent.includes("10/12"), true);
      check("in words", byId("map").getAttribute("aria-label").includes("10 of 12 endpoints healthy"), true);
      const shapes = ["bad", "warn", "good"].map((kind) => document.querySelector("#map .dot." + kind).getAttribute("d"));
      check("a state has a shape of its own", new Set(shapes).size, 3);
    },
    function endpointsThatTheEventLeavesOutAreCounted() {
      const states = [...numbers(10).map(() => "ejected"), ...numbers(40).map(() => "healthy")];
      send({ clusters: [{ ...cluster("orders", states), endpoints_left_out: 20, endpoints_by_state: { healthy: 60, ejected: 10 } }] });
      const dots = all("#map .dot").map((dot) => dot.getAttribute("class"));
      check("in words", byId("map").getAttribute("aria-label").includes("60 of 70 endpoints healthy"), true);
      check("all that are drawn are ejected", new Set(dots).size === 1 && dots[0] === "dot bad", true);
      check("the others", byId("map").textContent.includes("+" + (70 - dots.length)), true);
      const block = document.querySelector("#endpoints [data-cluster=orders]");
      check("its place", block.querySelector("small").textContent.startsWith("60/70 healthy"), true);
      check("those that are out are open, the others behind a line", all("#endpoints [data-cluster=orders] table").map((table) => table.tBodies[0].rows.length), [10, 40]);
      check("the line", [block.querySelector("details").open, block.querySelector("summary").textContent], [false, "60 healthy endpoints"]);
      check("where the rest is", block.querySelector("p a").getAttribute("href"), "/clusters?service=orders");
    },
    function servicesThatTheEventLeavesOutAreInTheSumsAndCounted() {
      const of = (requests) => ({ sums: [sum("outbound", requests, { services: 300, active: 7 })], services_left_out: 100, clusters_left_out: 250, sides: { inbound: false, outbound: true } });
      send(of(1000));
      send(of(1600));
      const shown = byId("sum").textContent;
      check("the sum is that of all services", shown.includes("sent, requests/s600"), true);
      check("in flight", shown.includes("in flight7"), true);
      check("a side that is off has no figures", shown.includes("received"), false);
      check("the map says which side is off", byId("map").textContent.includes("inbound is off"), true);
      check("the map counts them", byId("map").textContent.includes("and 299 more"), true);
      check("so does the table", byId("services-more").textContent, "100 more are on /clusters");
      check("so do the endpoints", byId("endpoints-more").textContent, "250 more are on /clusters");
    },
    function receivedAndSentAreToldApart() {
      const of = (inbound, outbound) => ({ sums: [sum("inbound", inbound), sum("outbound", outbound)] });
      send(of(10, 1000));
      send(of(30, 1500));
      const shown = byId("sum").textContent;
      check("each has its rate", [shown.includes("received, requests/s20.0"), shown.includes("sent, requests/s500")], [true, true]);
    },
    function whatAReaderHasReachedStays() {
      send({ services: [service("orders", 100), service("pay", 50)], clusters: [cluster("orders")] });
      const rows = () => all("#services tbody tr");
      const [row, name, total] = [rows()[0], rows()[0].firstElementChild.firstChild, rows()[0].lastElementChild];
      const [pair, endpoint] = [byId("sum").firstElementChild, document.querySelector("#endpoints tbody tr")];
      send({ services: [service("pay", 500), service("orders", 101)], clusters: [cluster("orders", ["ejected"])] });
      check("the row and the text that has not changed", rows()[1] === row && row.firstElementChild.firstChild === name, true);
      check("the text that has changed", [total === row.lastElementChild, total.textContent], [true, "101"]);
      check("a figure", byId("sum").firstElementChild === pair, true);
      check("an endpoint", document.querySelector("#endpoints tbody tr") === endpoint && endpoint.textContent.includes("ejected"), true);
    },
    function aFailureNamesItsTimeItsPageAndItsAxis() {
      const stage = { stage: "end", at_ms: 1, took_ms: 0, attempt: null, endpoint: null, outcome: "503", detail: null };
      send({ failures: [{ ...failure(5), id: "../a b", stages: [stage] }] });
      const row = document.querySelector("#failures details");
      check("UTC", row.textContent.startsWith("10:00:00Z"), true);
      check("the page", row.querySelector("a").getAttribute("href"), "/requests?id=..%2Fa%20b");
      check("the axis", row.querySelector(".axis").textContent, "01.00 ms");
      row.open = true;
      const [bar, part] = [row.querySelector(".bar"), row.querySelector(".bar i")].map((element) => element.getBoundingClientRect());
      check("the end is seen", part.width >= 2 && part.right <= bar.right + 0.5, true);
      row.open = false;
    },
    function onlyLimitsThatAreNearlyUsedAreTold() {
      const limits = { max_requests: { used: 9, max: 10 }, max_retries: { used: 1, max: 3 }, max_connections: { used: 5, max: "off" } };
      send({ clusters: [{ ...cluster("orders"), limits }] });
      check("limits", document.querySelector("#endpoints [data-cluster=orders] small").textContent, "1/1 healthy, max_requests 9/10");
    },
    function certificatesAreJudgedByTheTimesOfTheirWarnings() {
      const [past, future] = ["2025-11-28T00:00:00Z", "2036-12-05T00:00:00Z"];
      const one = (due, late) => ({ certificates: [{ spiffe_id: "a", use: "own", due, late, not_after: future }] });
      const identities = [one(future, future), one(past, future), one(past, past)];
      send({ certificates: { identities, others: [] } });
      check("kinds", all("#certificates tbody tr").map((row) => row.lastElementChild.className), ["", "warn", "bad"]);
    },
    function companionsAreShownOnlyIfTheConfigurationHasThem() {
      send({});
      check("none", byId("companions").hidden, true);
      const cache = (requests, hits) => ({ service: "orders", bytes: 2048, max: 1048576, entries: 3, requests, hits });
      send({ companions: { ...none, caches: [cache(10, 2)] } });
      send({ companions: { ...none, caches: [cache(20, 11)] } });
      check("a cache alone", ["logs", "sync", "caches"].map((id) => byId(id).parentElement.hidden), [true, true, false]);
      check("its figures", byId("caches").tBodies[0].textContent, "orders90.0 %2.0 KiB1.0 MiB3");
      const down = { name: "loki", up: false, problem: "connection refused" };
      const pair = { source: "app", sink: "loki", lag: 1024, delivered: 5, refused: 1 };
      const file = { name: "settings", up: true, version: "7", last_problem: { at: "2026-11-28T09:00:00Z", problem: "no answer" } };
      const shown = { sinks: [down, { name: "idle", up: true }], logs: [pair], sync: [file], caches: [cache(20, 11)] };
      send({ companions: { ...shown, left_out: { ...allShown, sync: 4, caches: 5 } } });
      check("logs", byId("logs").tBodies[0].textContent, "apploki1.0 KiB51connection refused–idle0 B00works");
      check("sync", byId("sync").tBodies[0].textContent, "settings7works2026-11-28T09:00:00Z: no answer");
      check("files that are left out", byId("companions-more").textContent, "4 more sinks and files are on /companions");
      check("caches that are left out", byId("caches-more").textContent, "5 more caches are on /clusters");
      check("no pair is", byId("logs-more").textContent, "");
      send({ companions: { ...shown, left_out: { ...allShown, logs: 6 } } });
      check("pairs that are left out", byId("logs-more").textContent, "6 more pairs are on /metrics");
      check("a sink may have one of them", byId("logs").tBodies[0].textContent, "apploki1.0 KiB51connection refused");
      send({});
      check("none again", byId("companions").hidden, true);
    },
    function aStreamThatTheBrowserGaveUpIsOpenedAgain() {
      const [first, before] = [sources[sources.length - 1], sources.length];
      first.readyState = 0;
      first.onerror();
      check("the browser tries again by itself", [sources.length, byId("state").textContent !== "live"], [before, true]);
      first.readyState = 2;
      first.onerror();
      check("it waits", [[...timers.values()].map(({ after }) => after), sources.length], [[5000], before]);
      byId("pause").click();
      byId("pause").click();
      check("Pause does not hide that", byId("state").textContent.startsWith("the sidecar does not answer"), true);
      ring();
      send({});
      check("it is open again", [sources.length, byId("state").textContent, openStreams()], [before + 1, "live", 1]);
    },
    function aStreamThatSaysNothingIsLostAndOpenedAgain() {
      const before = sources.length;
      send({});
      send({});
      check("an event begins the wait anew", [...timers.values()].map(({ after }) => after), [15000]);
      ring();
      check("it says so", byId("state").textContent, "no event for 15 s; trying again…");
      check("one stream is open, a new one", [openStreams(), sources.length], [1, before + 1]);
      ring();
      check("and so on", [openStreams(), sources.length], [1, before + 2]);
      send({});
      check("it is live again", byId("state").textContent, "live");
    },
    function aPageThatNobodySeesHoldsNoConnection() {
      const before = sources.length;
      hide(true);
      check("closed", [openStreams(), timers.size], [0, 0]);
      hide(false);
      hide(false);
      check("one stream, and not two", [openStreams(), sources.length], [1, before + 1]);
      send({});
      sources[sources.length - 1].readyState = 2;
      sources[sources.length - 1].onerror();
      hide(true);
      check("nothing is tried while it is hidden", [openStreams(), timers.size], [0, 0]);
      hide(false);
      check("again one", [openStreams(), timers.size], [1, 1]);
      send({});
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
