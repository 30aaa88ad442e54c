//! Endpoints from Kubernetes: an API server that is not there, refuses, forgets, breaks off or lies, and services whose pods
//! come and go.

use std::collections::BTreeSet;
use std::sync::Arc;

use pillion_testkit::Scratch;
use pillion_testkit::api_server::{ApiServer, Ending, Faults, service, slice, slice_of};
use pillion_upstream::cluster::update::EndpointSource as _;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::backend::OK;
use super::mesh::{A, B, Mesh, Sidecar, Watch, at, parse, pass, secs, settle};
use crate::api_server::{Environment, Known};
use crate::app::KubernetesSource;
use pillion_base::ground::Ground;
use pillion_base::net::Network;
use pillion_base::net::memory::MemoryConnection;

const SERVER: &str = "127.0.0.1:8001";

fn file(services: &str) -> String {
    format!(
        "workload: {{ zone: a }}\ninbound: off\noutbound: {{ listen: 127.0.0.1:15001 }}\nservices:\n{services}\n"
    )
}

/// `orders` is the Service of this name in `shop`, at its port 80.
fn orders() -> String {
    file("  orders: { endpoints: { kubernetes: \"orders.shop:80\" } }")
}

/// A sidecar and an API server, driven as the keeper drives them.
struct Driven {
    mesh: Mesh,
    server: ApiServer,
    listening: Option<JoinHandle<()>>,
    sidecar: Sidecar,
    source: KubernetesSource,
    known: Arc<Known>,
    scratch: Scratch,
}

impl Driven {
    fn new(yaml: &str) -> Self {
        let mesh = Mesh::default();
        let sidecar = mesh.sidecar(yaml, None);
        Self::of(mesh, sidecar)
    }

    fn of(mesh: Mesh, sidecar: Sidecar) -> Self {
        let scratch = Scratch::new();
        scratch.write("token", "first\n");
        scratch.write(
            "config",
            format!(
                "current-context: test\ncontexts: [{{ name: test, context: {{ cluster: test, user: web }} }}]\n\
                 clusters: [{{ name: test, cluster: {{ server: \"http://{SERVER}\" }} }}]\n\
                 users: [{{ name: web, user: {{ tokenFile: token }} }}]\n"
            ),
        );
        let environment = Environment {
            host: None,
            port: None,
            kubeconfig: Some(scratch.path("config").into()),
            account: scratch.path("account"),
            node: Some("node-1".into()),
        };
        let network = Network::Memory(mesh.memory.clone());
        let ground = Ground::new((0, 1), network, sidecar.metrics.clone(), Default::default());
        let known = Arc::<Known>::default();
        let mut source = KubernetesSource::new(known.clone(), ground, environment);
        source.follow(sidecar.controller.config());
        let server = ApiServer::default();
        Self { mesh, server, listening: None, sidecar, source, known, scratch }
    }

    /// With a server whose Service `orders` has one endpoint, at [`A`].
    async fn with_orders(yaml: &str) -> Self {
        let mut driven = Self::new(yaml);
        driven.server.apply(service("orders", 80));
        driven.server.apply(slice("orders-1", "orders", 80, &["10.0.0.1"]));
        driven.listen();
        driven.source.first(&driven.sidecar.controller).await;
        driven
    }

    fn listen(&mut self) {
        let mut listener = self.mesh.memory.bind(at(SERVER)).expect("a free address");
        let server = self.server.clone();
        self.listening = Some(tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok(MemoryConnection { io, .. }) = listener.accept().await {
                let server = server.clone();
                open.spawn(async move { drop(server.serve(io).await) });
            }
        }));
    }

    /// The server dies, with all its connections.
    async fn die(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
            drop(listening.await);
        }
    }

    /// Applies what is learnt within this time.
    async fn learn(&mut self, seconds: u64) {
        let learning = async {
            while let Some(update) = self.source.next().await {
                self.sidecar.controller.learn(update);
            }
        };
        drop(timeout(secs(seconds), learning).await);
    }

    /// Waits for the next update, and applies it.
    async fn learns(&mut self) {
        let update = timeout(secs(3600), self.source.next()).await.expect("an update within an hour");
        self.sidecar.controller.learn(update.expect("a source that goes on"));
    }

    fn addresses(&self, service: &str) -> Vec<String> {
        let snapshot = self.sidecar.controller.store().load();
        let set = snapshot.services[service].cluster.endpoints();
        set.said.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
    }

    fn problem(&self) -> String {
        let snapshot = self.sidecar.controller.store().load();
        let set = snapshot.services["orders"].cluster.endpoints();
        set.said.problem.as_ref().map(|problem| problem.text().to_owned()).unwrap_or_default()
    }

    fn reload(&mut self, yaml: &str) {
        self.sidecar.reload(yaml).expect("a good file");
        self.source.follow(&parse(yaml));
    }

    async fn status(&self) -> (u16, Option<String>) {
        let answer = self.sidecar.client().await.get("/").await;
        let (status, reason) = answer.status_and_reason();
        (status, reason.map(str::to_owned))
    }

    fn watches(&self) -> Value {
        self.known.watches("shop", 0)
    }
}

/// The endpoints of `orders`, where an API server has the Services `a` and `b` in `shop`.
pub(super) async fn addresses(mesh: Mesh, sidecar: Sidecar) -> Vec<String> {
    let mut driven = Driven::of(mesh, sidecar);
    for (name, ip) in [("a", "10.0.0.1"), ("b", "10.0.0.2")] {
        driven.server.apply(service(name, 80));
        driven.server.apply(slice(name, name, 8080, &[ip]));
    }
    driven.listen();
    driven.source.first(&driven.sidecar.controller).await;
    driven.addresses("orders")
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_starts_without_an_api_server_and_serves_as_soon_as_one_answers() {
    let mut driven = Driven::new(&orders());
    let _app = driven.mesh.answering(A, OK);
    let start = Watch::start();
    driven.source.first(&driven.sidecar.controller).await;
    assert_eq!(start.seconds(), 0, "a refused connection is an answer");
    assert!(driven.problem().contains("127.0.0.1:8001: cannot connect"), "{}", driven.problem());
    assert_eq!(driven.status().await, (503, Some("no_endpoints".into())));
    driven.learn(600).await;

    driven.server.apply(service("orders", 80));
    driven.server.apply(slice("orders-1", "orders", 80, &["10.0.0.1"]));
    driven.listen();
    let watch = Watch::start();
    driven.learns().await;
    assert!(watch.seconds() <= 30, "the longest pause");
    assert_eq!(driven.status().await, (200, None));
}

#[tokio::test(start_paused = true)]
async fn the_start_waits_for_a_silent_server_for_a_bounded_time() {
    let mut driven = Driven::new(&orders());
    driven.server.set_faults(Faults { is_silent: true, ..Faults::default() });
    driven.listen();
    let watch = Watch::start();
    driven.source.first(&driven.sidecar.controller).await;
    assert_eq!(watch.seconds(), 5);
    assert!(driven.problem().contains("has not answered yet"), "{}", driven.problem());
    driven.learns().await;
    assert!(driven.problem().contains("no answer within 30 s"), "{}", driven.problem());
}

#[tokio::test(start_paused = true)]
async fn endpoints_stay_while_the_server_is_away_and_changes_are_learnt_afterwards() {
    let mut driven = Driven::with_orders(&orders()).await;
    let _app = driven.mesh.answering(A, OK);
    driven.die().await;
    driven.learn(3600).await;
    assert_eq!((driven.addresses("orders"), driven.status().await), (vec![A.to_owned()], (200, None)));
    assert_eq!(driven.watches()["endpointslices"]["state"], "waiting");
    assert!(driven.sidecar.sum("pillion_kubernetes_watches state=waiting") == 2);

    driven.server.apply(slice("orders-1", "orders", 80, &["10.0.0.2"]));
    driven.listen();
    driven.learns().await;
    assert_eq!(driven.addresses("orders"), [B]);
    assert_eq!(driven.server.lists("endpointslices"), 1, "the watch goes on from its last version");
    assert_eq!(driven.watches()["endpointslices"]["state"], "watching");
}

#[tokio::test(start_paused = true)]
async fn answers_in_pages_and_pieces_of_any_length_give_the_same_endpoints() {
    for (piece, page) in [(1, 0), (2, 1), (3, 2), (7, 3), (100, 0), (0, 1), (0, 0)] {
        let mut driven = Driven::new(&orders());
        driven.server.set_faults(Faults { piece, page, ..Faults::default() });
        driven.server.apply(service("orders", 80));
        for nth in 1..=5 {
            driven.server.apply(slice(&format!("orders-{nth}"), "orders", 80, &[&format!("10.0.0.{nth}")]));
            driven.server.apply(slice(&format!("other-{nth}"), "other", 80, &["10.0.9.9"]));
        }
        driven.listen();
        driven.source.first(&driven.sidecar.controller).await;
        assert_eq!(driven.addresses("orders").len(), 5, "{piece} {page}");
        driven.server.apply(slice("orders-2", "orders", 80, &["10.0.0.7"]));
        driven.server.delete("endpointslices", "orders-3");
        driven.learn(2).await;
        let expected = [1, 4, 5, 7].map(|last| format!("10.0.0.{last}:80"));
        assert_eq!(driven.addresses("orders"), expected, "{piece} {page}");
    }
}

#[tokio::test(start_paused = true)]
async fn however_a_watch_ends_no_change_is_missed() {
    let bytes = |text: &str| Ending::Bytes(text.to_owned());
    // a new list is needed only where the server has forgotten, or where something may be missing
    for (ending, relists) in [
        (Ending::Closed, 0),
        (Ending::Cut, 0),
        (Ending::Failed(500), 1),
        (Ending::Failed(410), 1),
        (bytes("<html>"), 1),
        (bytes("{\"type\":\"ADDED\",\"object\":{}}"), 1),
        (bytes(&format!("{{\"a\":\"{}", "x".repeat(3 * 1024 * 1024))), 1),
    ] {
        let mut driven = Driven::with_orders(&orders()).await;
        driven.server.apply(slice("orders-1", "orders", 80, &["10.0.0.3"]));
        driven.learns().await;
        pass(60).await;
        driven.server.end_watches(ending.clone());
        settle().await;
        driven.server.apply(slice("orders-1", "orders", 80, &["10.0.0.2"]));
        let watch = Watch::start();
        driven.learns().await;
        assert_eq!(driven.addresses("orders"), [B]);
        assert!(watch.seconds() <= 2, "{ending:.20?}: {}", watch.seconds());
        assert_eq!(driven.server.lists("endpointslices"), 1 + relists, "{ending:.20?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_too_old_is_listed_anew_and_a_bookmark_saves_the_list() {
    for has_bookmark in [false, true] {
        let mut driven = Driven::with_orders(&orders()).await;
        driven.learn(60).await;
        driven.server.apply_in("other", slice("a", "a", 80, &["10.0.0.9"])); // a version that this watch does not see
        if has_bookmark {
            driven.server.bookmark();
        }
        driven.learn(1).await;
        driven.server.compact();
        driven.server.end_watches(Ending::Closed);
        driven.learn(10).await;
        driven.server.apply(slice("orders-1", "orders", 80, &["10.0.0.2"]));
        driven.learns().await;
        assert_eq!(driven.addresses("orders"), [B]);
        assert_eq!(driven.server.lists("endpointslices"), if has_bookmark { 1 } else { 2 });
        let expired = driven.sidecar.sum("pillion_kubernetes_lists_total cause=expired");
        assert_eq!(expired, if has_bookmark { 0 } else { 2 });
    }
}

/// A server that sends one object a page has many pages; smaller ones, with which the list begins anew, would have no end either.
#[tokio::test(start_paused = true)]
async fn a_list_of_many_pages_is_asked_for_once() {
    let mut driven = Driven::new(&orders());
    driven.server.set_faults(Faults { page: 1, ..Faults::default() });
    driven.server.apply(service("orders", 80));
    for nth in 0..=400 {
        let ip = format!("10.0.{}.{}", nth / 200, nth % 200);
        driven.server.apply(slice(&format!("{nth:03}"), "orders", 80, &[&ip]));
    }
    driven.listen();
    driven.learn(60).await;
    assert_eq!((driven.addresses("orders").len(), driven.server.lists("endpointslices")), (401, 1));
}

#[tokio::test(start_paused = true)]
async fn a_list_that_expires_between_its_pages_begins_anew() {
    let mut driven = Driven::new(&orders());
    driven.server.set_faults(Faults { page: 1, ..Faults::default() });
    driven.server.apply(service("orders", 80));
    for nth in 1..=3 {
        driven.server.apply(slice(&format!("orders-{nth}"), "orders", 80, &[&format!("10.0.0.{nth}")]));
    }
    driven.listen();
    let server = driven.server.clone();
    let forgetting = tokio::spawn(async move {
        while !server.questions().iter().any(|question| question.query.contains_key("continue")) {
            tokio::task::yield_now().await;
        }
        server.apply_in("other", slice("a", "a", 80, &["10.0.0.9"]));
        server.compact();
    });
    driven.learn(10).await;
    forgetting.await.expect("it forgets");
    assert_eq!(driven.addresses("orders").len(), 3);
    assert!(driven.server.lists("endpointslices") <= 2);
}

#[tokio::test(start_paused = true)]
async fn watches_end_regularly_without_a_word_or_a_new_list() {
    let mut driven = Driven::with_orders(&orders()).await;
    driven.learn(3600).await;
    let watches = driven.server.questions().iter().filter(|question| question.is_watch()).count();
    assert!((18..=32).contains(&watches), "two for each four to six minutes: {watches}");
    assert_eq!(driven.server.lists("endpointslices"), 1);
    assert_eq!(driven.watches()["endpointslices"]["why"], Value::Null);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_closes_every_watch_at_once_is_asked_seldom() {
    let mut driven = Driven::with_orders(&orders()).await;
    let server = driven.server.clone();
    let closing = tokio::spawn(async move {
        loop {
            server.end_watches(Ending::Closed);
            pass(1).await;
        }
    });
    driven.learn(3600).await;
    closing.abort();
    let watches = driven.server.questions().iter().filter(|question| question.is_watch()).count();
    assert!(watches < 600, "{watches}");
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_without_rights_says_what_it_needs_and_tries_again() {
    let mut driven = Driven::new(&orders());
    driven.server.apply(service("orders", 80));
    driven.server.apply(slice("orders-1", "orders", 80, &["10.0.0.1"]));
    driven.server.set_faults(Faults { refuses: Some(("endpointslices", 403)), ..Faults::default() });
    driven.listen();
    driven.source.first(&driven.sidecar.controller).await;
    let problem = driven.problem();
    assert!(
        problem.contains("cannot list") && problem.contains("bind a Role with get, list and watch"),
        "{problem}"
    );
    driven.learn(3600).await;
    let asked = driven.server.lists("endpointslices");
    assert!((60..300).contains(&asked), "every half minute at most: {asked}");
    driven.server.set_faults(Faults::default());
    driven.learns().await;
    assert_eq!(driven.addresses("orders"), [A]);
}

#[tokio::test(start_paused = true)]
async fn without_rights_on_services_the_slices_decide_alone() {
    let mut driven = Driven::new(&orders());
    driven.server.apply(slice("orders-1", "orders", 8080, &["10.0.0.1"]));
    driven.server.set_faults(Faults { refuses: Some(("services", 403)), ..Faults::default() });
    driven.listen();
    driven.source.first(&driven.sidecar.controller).await;
    assert_eq!(driven.addresses("orders"), ["10.0.0.1:8080"]);
    assert_eq!(driven.watches()["services"]["state"], "waiting");
}

#[tokio::test(start_paused = true)]
async fn a_token_is_read_anew_for_each_question() {
    let mut driven = Driven::with_orders(&orders()).await;
    driven.server.set_faults(Faults { token: Some("second".into()), ..Faults::default() });
    driven.server.end_watches(Ending::Closed);
    driven.learn(100).await;
    assert!(
        driven.watches()["services"]["why"]
            .as_str()
            .unwrap_or_default()
            .contains("is the token of this cluster")
    );
    driven.scratch.write("token", "second\n");
    driven.server.apply(slice("orders-1", "orders", 80, &["10.0.0.2"]));
    driven.learns().await;
    let tokens: BTreeSet<_> =
        driven.server.questions().into_iter().filter_map(|question| question.authorization).collect();
    assert_eq!(tokens.into_iter().collect::<Vec<_>>(), ["Bearer first", "Bearer second"]);
    assert_eq!(driven.server.lists("endpointslices"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_lies_costs_its_own_updates_alone() {
    let answer = |body: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    for lie in [
        "nonsense".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n".to_owned() + &" ".repeat(9_000_000),
        answer("[]"),
        answer("{\"items\":[]}"),
        answer("{\"metadata\":{\"resourceVersion\":\"1\",\"continue\":\"x\"},\"items\":[]}"),
        answer(&"[".repeat(100_000)),
        "HTTP/1.1 301 Moved\r\nlocation: http://10.0.0.9/\r\ncontent-length: 0\r\n\r\n".to_owned(),
    ] {
        let mut driven = Driven::with_orders(&orders()).await;
        driven.server.set_faults(Faults { answers: Some(lie.clone()), ..Faults::default() });
        driven.server.end_watches(Ending::Failed(410));
        driven.learn(600).await;
        assert_eq!(driven.addresses("orders"), [A], "{lie:.60}");
        driven.server.set_faults(Faults::default());
        driven.server.apply(slice("orders-1", "orders", 80, &["10.0.0.2"]));
        driven.learns().await;
        assert_eq!(driven.addresses("orders"), [B], "{lie:.60}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_terminating_endpoint_finishes_its_request_and_gets_no_new_one() {
    let mut driven = Driven::with_orders(&orders()).await;
    let slow = driven.mesh.scripted(A, |mut peer, _| async move {
        drop(peer.message().await);
        pass(10).await;
        peer.send(OK).await;
    });
    let (mut client, _b) = (driven.sidecar.client().await, driven.mesh.answering(B, OK));
    client.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
    settle().await;
    let endpoint = |ip: &str, is_ready: bool| json!({ "addresses": [ip], "conditions": { "ready": is_ready, "serving": true, "terminating": !is_ready } });
    let ports = json!([{ "name": "http", "port": 80 }]);
    driven.server.apply(slice_of(
        "orders-1",
        "orders",
        ports,
        json!([endpoint("10.0.0.1", false), endpoint("10.0.0.2", true)]),
    ));
    driven.learns().await;
    assert_eq!(driven.addresses("orders"), [B]);
    for _ in 0..5 {
        assert_eq!(driven.status().await, (200, None));
    }
    assert_eq!((client.answer().await.status(), slow.hits()), (Some(200), 1));
}

#[tokio::test(start_paused = true)]
async fn requests_stay_in_the_zone_and_go_where_hints_send_them() {
    let mut driven = Driven::with_orders(&orders()).await;
    let (a, b) = (driven.mesh.answering(A, OK), driven.mesh.answering(B, OK));
    let endpoint = |ip: &str, zone: &str, hint: Option<&str>| {
        let hints = hint.map(|zone| json!({ "forZones": [{ "name": zone }] }));
        json!({ "addresses": [ip], "zone": zone, "hints": hints })
    };
    let of = |a: Option<&str>, b: Option<&str>| {
        let endpoints = json!([endpoint("10.0.0.1", "a", a), endpoint("10.0.0.2", "b", b)]);
        slice_of("orders-1", "orders", json!([{ "name": "http", "port": 80 }]), endpoints)
    };
    // the sidecar is in zone a
    for (hints, expected) in
        [((None, None), (5, 0)), ((Some("b"), Some("a")), (0, 5)), ((Some("b"), None), (5, 0))]
    {
        driven.server.apply(of(hints.0, hints.1));
        driven.learns().await;
        let before = (a.hits(), b.hits());
        for _ in 0..5 {
            assert_eq!(driven.status().await, (200, None));
        }
        assert_eq!((a.hits() - before.0, b.hits() - before.1), expected, "{hints:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_go_to_the_node_of_the_sidecar_where_hints_say_so() {
    let mut driven = Driven::with_orders(&orders()).await;
    let (a, b) = (driven.mesh.answering(A, OK), driven.mesh.answering(B, OK));
    let endpoint = |ip: &str, node: &str, zone: &str| {
        let hints = json!({ "forNodes": [{ "name": node }], "forZones": [{ "name": zone }] });
        json!({ "addresses": [ip], "nodeName": node, "zone": zone, "hints": hints })
    };
    // the sidecar is in zone a, on node-1
    for (nodes, expected) in [(("node-2", "node-1"), (0, 5)), (("node-2", "node-3"), (5, 0))] {
        let endpoints = json!([endpoint("10.0.0.1", nodes.0, "a"), endpoint("10.0.0.2", nodes.1, "b")]);
        driven.server.apply(slice_of(
            "orders-1",
            "orders",
            json!([{ "name": "http", "port": 80 }]),
            endpoints,
        ));
        driven.learns().await;
        let before = (a.hits(), b.hits());
        for _ in 0..5 {
            assert_eq!(driven.status().await, (200, None));
        }
        assert_eq!((a.hits() - before.0, b.hits() - before.1), expected, "{nodes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_port_of_the_service_is_looked_up_and_may_change() {
    let mut driven = Driven::new(&file(
        "  orders: { endpoints: { kubernetes: \"orders.shop:80\" } }\n  \
           sidecars: { endpoints: { kubernetes: \"orders.shop:80\", port: 15006 } }",
    ));
    driven.server.apply(service("orders", 80));
    let ports = json!([{ "name": "metrics", "port": 9090 }, { "name": "http", "port": 8080 }]);
    driven.server.apply(slice_of("orders-1", "orders", ports, json!([{ "addresses": ["10.0.0.1"] }])));
    driven.listen();
    driven.source.first(&driven.sidecar.controller).await;
    assert_eq!(driven.addresses("orders"), ["10.0.0.1:8080"]);
    assert_eq!(driven.addresses("sidecars"), ["10.0.0.1:15006"]);
    assert_eq!(driven.server.lists("endpointslices"), 1, "one watch for both");
    driven.server.apply(service("orders", 81));
    driven.learn(1).await;
    assert!(driven.problem().contains("has no TCP port 80; it has 81"), "{}", driven.problem());
}

#[tokio::test(start_paused = true)]
async fn a_reload_adds_and_removes_services_and_keeps_what_is_known() {
    let mut driven = Driven::with_orders(&orders()).await;
    driven.server.apply(service("billing", 80));
    driven.server.apply(slice("billing-1", "billing", 80, &["10.0.0.2"]));
    let billing = "  billing: { endpoints: { kubernetes: \"billing.shop:80\" } }";
    driven.reload(&(orders() + billing + "\n"));
    assert_eq!(driven.addresses("orders"), [A], "the endpoints stay meanwhile");
    driven.learns().await;
    assert_eq!((driven.addresses("orders"), driven.addresses("billing")), (vec![A.into()], vec![B.into()]));
    assert_eq!(driven.sidecar.sum("pillion_kubernetes_lists_total cause=services"), 2);

    driven.reload(&file(billing));
    driven.learn(60).await;
    assert_eq!(driven.server.lists("endpointslices"), 2, "fewer services need no new list");
    driven.server.apply(slice("billing-1", "billing", 80, &["10.0.0.1"]));
    driven.learns().await;
    assert_eq!(driven.addresses("billing"), [A]);

    driven.reload(&file("  billing: { endpoints: [\"10.0.0.1:80\"] }"));
    let asked = driven.server.questions().len();
    driven.learn(3600).await;
    assert_eq!(driven.server.questions().len(), asked, "nothing is followed any more");
    assert_eq!(driven.sidecar.sum("pillion_kubernetes_watches"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_goes_over_from_a_list_keeps_its_endpoints_until_the_server_answers() {
    let mut driven = Driven::new(&file("  orders: { endpoints: [\"10.0.0.1:80\"] }"));
    let _app = driven.mesh.answering(A, OK);
    driven.learn(60).await;
    assert!(driven.server.questions().is_empty(), "nothing is asked while no service needs it");
    driven.reload(&orders());
    driven.learn(600).await;
    assert_eq!(driven.status().await, (200, None), "the server is not there yet");
    driven.server.apply(service("orders", 80));
    driven.server.apply(slice("orders-1", "orders", 80, &["10.0.0.2"]));
    driven.listen();
    driven.learns().await;
    assert_eq!(driven.addresses("orders"), [B]);
}

#[tokio::test(start_paused = true)]
async fn a_service_whose_pods_are_all_gone_has_no_endpoints_and_says_so() {
    let mut driven = Driven::with_orders(&orders()).await;
    let out = json!([{ "addresses": ["10.0.0.1"], "conditions": { "ready": false } }]);
    driven.server.apply(slice_of("orders-1", "orders", json!([{ "name": "http", "port": 80 }]), out));
    driven.learns().await;
    assert_eq!(driven.problem(), "none of the 1 endpoints of the Service orders.shop is ready");
    assert_eq!(driven.status().await, (503, Some("no_endpoints".into())));
}
