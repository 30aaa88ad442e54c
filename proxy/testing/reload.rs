//! Reloads while traffic goes on: what the new configuration changes is changed, and nothing else.

use std::time::Duration;

use super::backend::OK;
use super::mesh;
use super::mesh::{A, B, Mesh, ORDERS, Pair, identity, pass, settle};
use super::peer::Peer;
use crate::app::Applied;
use pillion_model::endpoint::Problem;
use pillion_model::{Endpoint, EndpointUpdate};
use pillion_testkit::Scratch;
use pillion_tls::identity::issue::IssuedPem;

const ONE: &str = "endpoints: [10.0.0.1:80]";
const ELSEWHERE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nelse";
const GET: &str = "GET / HTTP/1.1\r\nhost: orders\r\n\r\n";

/// Answers after this many seconds.
fn slow(mesh: &Mesh, address: &str, seconds: u64) -> super::backend::Backend {
    mesh.scripted(address, move |mut peer: Peer, _| async move {
        while peer.message().await.is_some() {
            pass(seconds).await;
            drop(peer.try_send(OK).await);
        }
    })
}

#[tokio::test(start_paused = true)]
async fn the_next_request_on_a_kept_connection_follows_the_new_file() {
    let mesh = Mesh::default();
    let (_a, _b) = (mesh.answering(A, OK), mesh.answering(B, ELSEWHERE));
    let mut sidecar = mesh.caller(&format!("{ONE}, listen: 127.0.0.1:0"));
    for mut client in [sidecar.client().await, sidecar.direct_client().await] {
        assert_eq!(client.get("/").await.body, "ok");
        let moved = mesh::caller("endpoints: [10.0.0.2:80], listen: 127.0.0.1:0");
        assert_eq!(sidecar.reload(&moved).expect("a good file"), Applied::Changed);
        assert_eq!(client.get("/").await.body, "else");
        let back = mesh::caller(&format!("{ONE}, listen: 127.0.0.1:0"));
        sidecar.reload(&back).expect("a good file");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_in_flight_ends_as_it_began() {
    let mesh = Mesh::default();
    let (a, b) = (slow(&mesh, A, 5), mesh.answering(B, ELSEWHERE));
    let mut sidecar = mesh.caller(ONE);
    let mut client = sidecar.client().await;
    client.send(GET).await;
    settle().await;
    sidecar.reload(&mesh::caller("endpoints: [10.0.0.2:80], timeout: 1s")).expect("a good file");
    assert_eq!(client.answer().await.body, "ok");
    assert_eq!((a.hits(), b.hits()), (1, 0));
    settle().await;
    assert_eq!(a.open(), 0, "no connection to a removed endpoint is kept");
}

#[tokio::test(start_paused = true)]
async fn an_equal_or_unrelated_file_touches_no_connection() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let mut sidecar = mesh.caller(ONE);
    let mut client = sidecar.client().await;
    client.get("/").await;
    assert_eq!(sidecar.reload(&mesh::caller(ONE)).expect("the same"), Applied::Unchanged);
    let more = mesh::caller(ONE) + "  billing: { endpoints: [10.0.0.9:80] }\n";
    assert_eq!(sidecar.reload(&more).expect("one more"), Applied::Changed);
    sidecar.reload(&mesh::caller(&format!("{ONE}, timeout: 3s"))).expect("a good file");
    client.get("/").await;
    assert_eq!(a.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn opaque_connections_live_on_through_every_reload() {
    let mesh = Mesh::default();
    let _echo = mesh.scripted(A, |mut peer: Peer, _| async move {
        loop {
            let (heard, is_all) = peer.exactly(4).await;
            if !is_all || peer.try_send(heard).await.is_err() {
                return;
            }
        }
    });
    let mut sidecar = mesh.caller(&format!("{ONE}, listen: 127.0.0.1:0, protocol: tcp"));
    let mut client = sidecar.direct_client().await;
    for next in [
        "endpoints: [10.0.0.2:80], listen: 127.0.0.1:0, protocol: tcp",
        "endpoints: [10.0.0.2:80]",
        "endpoints: [10.0.0.2:80], protocol: http2",
    ] {
        client.send("ping").await;
        assert_eq!(client.exactly(4).await.0, b"ping");
        sidecar.reload(&mesh::caller(next)).expect("a good file");
    }
    client.send("ping").await;
    assert_eq!(client.exactly(4).await.0, b"ping");
}

#[tokio::test(start_paused = true)]
async fn listeners_come_and_go_and_keep_their_ports_when_their_service_is_renamed() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let mut sidecar = mesh.caller(ONE);
    assert!(sidecar.addresses.services.is_empty());
    sidecar.reload(&mesh::caller(&format!("{ONE}, listen: 127.0.0.1:9001"))).expect("a good file");
    let mut early = sidecar.direct_client().await;
    assert_eq!(early.get("/").await.body, "ok");

    let renamed = mesh::caller(ONE).replace("orders:", "ordering:");
    let renamed = renamed.replace(ONE, &format!("{ONE}, listen: 127.0.0.1:9001"));
    sidecar.reload(&renamed).expect("a good file");
    assert_eq!(sidecar.addresses.services[0].0, "ordering");
    let mut late = sidecar.direct_client().await;
    assert_eq!(late.get("/").await.body, "ok");
    assert_eq!(
        early.get("/").await.status_and_reason(),
        (404, Some("no_route")),
        "the service it came for is gone"
    );

    let own = mesh::at("127.0.0.1:9001");
    sidecar.reload(&mesh::caller(ONE)).expect("a good file");
    settle().await;
    assert!(mesh.memory.connect(own).await.is_err(), "the listener is closed");
    assert_eq!(late.get("/").await.status_and_reason(), (404, Some("no_route")));
}

/// After a reload each listener has its new port alone, and connections to the old port go on.
#[tokio::test(start_paused = true)]
async fn a_listener_that_gets_another_port_serves_there_and_keeps_its_connections() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let yaml = |ports: [u16; 3]| {
        let [inbound, outbound, service] = ports.map(|port| format!("listen: 127.0.0.1:{port}"));
        format!(
            "inbound: {{ {inbound}, app: {A} }}\noutbound: {{ {outbound} }}\nadmin: {{ listen: 127.0.0.1:0 }}\nmetrics: off\n\
             services:\n  orders: {{ endpoints: [{A}], {service} }}\n"
        )
    };
    let (before, after) = ([8001, 8002, 8003], [9001, 9002, 9003]);
    let mut sidecar = mesh.sidecar(&yaml(before), None);
    let mut kept = Vec::new();
    for port in before {
        let io = mesh.memory.connect(([127, 0, 0, 1], port).into()).await.expect("it listens");
        let mut peer = Peer::new(io);
        assert_eq!(peer.get("/").await.body, "ok", "{port}");
        kept.push(peer);
    }
    sidecar.reload(&yaml(after)).expect("a good file");
    settle().await;
    for (old, new) in before.into_iter().zip(after) {
        assert!(mesh.memory.connect(([127, 0, 0, 1], old).into()).await.is_err(), "{old} is closed");
        let io = mesh.memory.connect(([127, 0, 0, 1], new).into()).await.expect("it listens");
        assert_eq!(Peer::new(io).get("/").await.body, "ok", "{new}");
    }
    for peer in &mut kept {
        assert_eq!(peer.get("/").await.body, "ok");
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_cannot_be_applied_changes_nothing() {
    let mesh = Mesh::default();
    let (a, b) = (mesh.answering(A, OK), mesh.answering(B, ELSEWHERE));
    let mut sidecar = mesh.caller(ONE);
    let mut client = sidecar.client().await;
    client.get("/").await;
    let _taken = mesh.answering("127.0.0.1:9001", OK);
    for (next, words) in [
        (
            mesh::caller("endpoints: [10.0.0.2:80], timeout: 1s, listen: 127.0.0.1:9001"),
            "services.orders.listen",
        ),
        (mesh::caller("endpoints: [10.0.0.2:80]").replace("workers: 1", "workers: 2"), "`workers`"),
        (mesh::caller("endpoints: [10.0.0.2:80]") + "identity: { directory: absent }\n", "absent"),
        (
            mesh::caller("endpoints: [10.0.0.2:80], tls: { mode: simple, sni: a, trust_bundle: absent }"),
            "absent",
        ),
    ] {
        let refused = sidecar.reload(&next).expect_err(words);
        assert!(format!("{refused:#}").contains(words), "{refused:#}");
        assert_eq!(client.get("/").await.body, "ok");
    }
    assert_eq!((a.connections(), b.connections()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn limits_count_over_a_reload_what_they_admitted_before() {
    let mesh = Mesh::default();
    let _a = slow(&mesh, A, 5);
    let limited = |most: u32| mesh::caller(&format!("{ONE}, circuit_breaker: {{ max_requests: {most} }}"));
    let mut sidecar = mesh.sidecar(&limited(2), None);
    let (mut first, mut second) = (sidecar.client().await, sidecar.client().await);
    first.send(GET).await;
    settle().await;
    sidecar.reload(&limited(1)).expect("a good file");
    assert_eq!(second.get("/").await.status_and_reason(), (503, Some("limit_requests")));
    assert_eq!(first.answer().await.status_and_reason(), (200, None));
    assert_eq!(second.get("/").await.status_and_reason(), (200, None));
    assert_eq!(sidecar.sum("pillion_circuit_breaker_limit service=orders limit=requests"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_ejection_lasts_over_a_reload() {
    let mesh = Mesh::default();
    let (a, b) = (mesh.answering(A, super::backend::UNAVAILABLE), mesh.answering(B, OK));
    let two = "endpoints: [10.0.0.1:80, 10.0.0.2:80], load_balancer: round_robin, retry: off";
    let mut sidecar = mesh.caller(two);
    let mut client = sidecar.client().await;
    for _ in 0..20 {
        client.get("/").await;
    }
    let hits = a.hits();
    sidecar.reload(&mesh::caller(&format!("{two}, timeout: 3s"))).expect("a good file");
    for _ in 0..20 {
        assert_eq!(client.get("/").await.status(), Some(200));
    }
    assert_eq!(a.hits(), hits);
    assert!(b.hits() >= 30);
    assert_eq!(sidecar.sum("pillion_endpoints state=ejected"), 1);
    sidecar.reload(&mesh::caller("endpoints: [10.0.0.2:80]")).expect("a good file");
    settle().await;
    assert_eq!(sidecar.sum("pillion_endpoints state=ejected"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_side_comes_and_goes() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let mut sidecar = mesh.caller(ONE);
    let both =
        mesh::caller(ONE).replace("inbound: off", "inbound: { listen: 127.0.0.1:8001, app: 10.0.0.1:80 }");
    sidecar.reload(&both).expect("a good file");
    let inbound = mesh.memory.connect(mesh::at("127.0.0.1:8001")).await.expect("inbound listens");
    let mut peer = Peer::new(inbound);
    assert_eq!(peer.get("/").await.body, "ok");
    let stricter = both.replace("app: 10.0.0.1:80", "app: 10.0.0.1:80, protocol: http1, max_body: 1KiB");
    sidecar.reload(&stricter).expect("a good file");
    let large = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2000\r\n\r\n{}", "x".repeat(2000));
    assert_eq!(peer.ask(&large).await.status(), Some(413));
    sidecar.reload(&mesh::caller(ONE)).expect("a good file");
    settle().await;
    assert!(mesh.memory.connect(mesh::at("127.0.0.1:8001")).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn new_credentials_are_used_from_the_next_request_and_cut_nothing() {
    let pair = Pair::new();
    let a = pair.mesh.answering(A, OK);
    let mut inbound = pair.application("10.1.0.1:15006", "10.0.0.1:80");
    let mut outbound = pair.caller(&format!("endpoints: [10.1.0.1:15006], {ORDERS}"));
    let mut client = outbound.client().await;
    assert_eq!(client.get("/").await.body, "ok");
    inbound.rotate(identity(&pair.ca, "orders")).expect("good credentials");
    outbound.rotate(identity(&pair.ca, "web-two")).expect("good credentials");
    assert_eq!(client.get("/").await.body, "ok");
    let peer_of = |inbound: &mesh::Sidecar, who: &str| {
        inbound.sum(&format!("pillion_requests_total peer=spiffe://cluster.local/ns/default/sa/{who}"))
    };
    settle().await;
    assert_eq!((peer_of(&inbound, "web"), peer_of(&inbound, "web-two")), (1, 1), "on a new connection");
    assert!(a.connections() >= 1);
}

#[tokio::test(start_paused = true)]
async fn a_plaintext_connection_is_refused_once_mtls_is_strict() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let file = |mtls: &str| {
        mesh::application_at("127.0.0.1:8001", &format!("app: 10.0.0.1:80, {mtls}")) + mesh::IDENTITY
    };
    let mut sidecar = pair.mesh.sidecar(&file("mtls: permissive"), Some(identity(&pair.ca, "orders")));
    let mut client = sidecar.client().await;
    assert_eq!(client.get("/").await.body, "ok");
    sidecar.reload(&file("mtls: strict")).expect("a good file");
    assert_eq!(client.get("/").await.status_and_reason(), (403, Some("mtls_required")));
    sidecar.reload(&file("ports: { 80: { mtls: permissive } }")).expect("a good file");
    assert_eq!(client.get("/").await.body, "ok");
    assert_eq!(app.hits(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_service_with_a_new_dns_name_keeps_its_endpoints_until_that_name_is_resolved() {
    let mesh = Mesh::default();
    let (a, _b) = (mesh.answering(A, OK), mesh.answering(B, ELSEWHERE));
    let mut sidecar = mesh.caller(ONE);
    let mut client = sidecar.client().await;
    assert_eq!(client.get("/").await.body, "ok");
    sidecar.reload(&mesh::caller("endpoints: { dns: \"orders:80\" }")).expect("a good file");
    assert_eq!(client.get("/").await.body, "ok");
    sidecar.controller.learn(learnt(&[], "timed out"));
    assert_eq!(client.get("/").await.body, "ok");
    assert_eq!(a.connections(), 1);
    sidecar.controller.learn(learnt(&["10.0.0.2:80"], ""));
    assert_eq!(client.get("/").await.body, "else");
    sidecar.controller.learn(learnt(&[], "no such name"));
    assert_eq!(client.get("/").await.status_and_reason(), (502, Some("dns_error")));
}

fn learnt(addresses: &[&str], why: &str) -> EndpointUpdate {
    let endpoints = || addresses.iter().map(|address| Endpoint::at(mesh::at(address)));
    match addresses {
        [] => EndpointUpdate::none("orders", Problem::Dns(why.into())),
        _ => EndpointUpdate::known("orders", endpoints()),
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_reloads_under_way_fail_no_request() {
    let mesh = Mesh::default();
    let (_a, _b) = (mesh.answering(A, OK), mesh.answering(B, OK));
    let mut sidecar = mesh.caller(ONE);
    let asking = async |mut client: Peer| {
        for _ in 0..400 {
            assert_eq!(client.get("/").await.status(), Some(200));
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    };
    let clients = [sidecar.client().await, sidecar.client().await, sidecar.client().await];
    let [one, two, three] = clients.map(asking);
    let reloading = async {
        for round in 0..100 {
            let next =
                ["endpoints: [10.0.0.2:80]", ONE, "endpoints: [10.0.0.2:80, 10.0.0.1:80], timeout: 9s"];
            sidecar.reload(&mesh::caller(next[round % 3])).expect("a good file");
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
    };
    tokio::join!(one, two, three, reloading);
}

#[tokio::test(start_paused = true)]
async fn certificates_missing_at_start_are_waited_for_and_no_endpoint_is_blamed() {
    let (pair, scratch) = (Pair::new(), Scratch::new());
    let app = pair.mesh.answering(A, OK);
    let _inbound = pair.application("10.1.0.1:15006", "10.0.0.1:80");
    let folder = format!("identity: {{ directory: \"{}\" }}\n", scratch.path("").display());
    let yaml = mesh::caller(&format!("endpoints: [10.1.0.1:15006], {ORDERS}")) + &folder;
    let mut sidecar = pair.mesh.sidecar(&yaml, None);
    let mut client = sidecar.client().await;
    for _ in 0..10 {
        let answer = client.get("/").await;
        assert_eq!(answer.status_and_reason(), (502, Some("tls_error")));
        assert!(answer.body.contains("tls.crt"), "{}", answer.body);
    }
    assert_eq!(sidecar.sum("pillion_endpoint_ejections_total"), 0);

    let web = "spiffe://cluster.local/ns/default/sa/web".parse().expect("an identity");
    let issued = pair.ca.issue(&web, &[], Duration::from_secs(3600)).expect("a certificate");
    scratch.write("tls.crt", &issued.certificate);
    scratch.write("tls.key", &issued.key);
    assert!(sidecar.look_at_identity().is_err(), "half of a set");
    scratch.write("ca.crt", &issued.bundle);
    assert!(sidecar.look_at_identity().expect("a whole set"));
    assert_eq!(client.get("/").await.body, "ok");
    assert_eq!(app.hits(), 1);
}

#[tokio::test(start_paused = true)]
async fn c3_an_expired_certificate_at_start_is_waited_out_like_a_missing_one() {
    let (pair, scratch) = (Pair::new(), Scratch::new());
    let _app = pair.mesh.answering(A, OK);
    let _inbound = pair.application("10.1.0.1:15006", A);
    let write = |issued: &IssuedPem| {
        scratch.write("tls.crt", &issued.certificate);
        scratch.write("tls.key", &issued.key);
        scratch.write("ca.crt", &issued.bundle);
    };
    write(&mesh::expired_files(&pair.ca, "web"));
    let folder = format!("identity: {{ directory: \"{}\" }}\n", scratch.path("").display());
    let yaml = mesh::caller(&format!("endpoints: [10.1.0.1:15006], {ORDERS}")) + &folder;
    let mut sidecar = pair.mesh.sidecar(&yaml, None);
    let why = sidecar.controller.awaits().expect("not ready");
    assert!(why.contains("expired at 1970-01-02"), "{why}");
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (502, Some("tls_error")));

    let web = "spiffe://cluster.local/ns/default/sa/web".parse().expect("an identity");
    write(&pair.ca.issue(&web, &[], Duration::from_secs(3600)).expect("a certificate"));
    assert!(sidecar.look_at_identity().expect("a good set"));
    assert_eq!(sidecar.controller.awaits(), None);
    assert_eq!(sidecar.client().await.get("/").await.body, "ok");
}

#[tokio::test(start_paused = true)]
async fn a_bundle_of_a_service_that_is_half_written_stops_no_rotation_and_new_content_is_noticed() {
    let (pair, scratch) = (Pair::new(), Scratch::new());
    let issue = |who: &str| {
        let id = format!("spiffe://cluster.local/ns/default/sa/{who}").parse().expect("an identity");
        let issued = pair.ca.issue(&id, &[], Duration::from_secs(3600)).expect("a certificate");
        scratch.write("tls.crt", &issued.certificate);
        scratch.write("tls.key", &issued.key);
        scratch.write("ca.crt", &issued.bundle);
        issued.bundle
    };
    let bundle = issue("web");
    let other = scratch.write("other.crt", &bundle);
    let folder = format!("identity: {{ directory: \"{}\" }}\n", scratch.path("").display());
    let tls = format!("tls: {{ mode: mutual, trust_bundle: \"{}\" }}", other.display());
    let mut sidecar = pair.mesh.sidecar(&(mesh::caller(&format!("{ONE}, {tls}")) + &folder), None);
    assert!(!sidecar.look_at_identity().expect("nothing new"));

    scratch.write("other.crt", "half writ");
    assert_eq!(sidecar.look_at_material(), (false, vec!["services.orders.tls".to_owned()]));
    issue("web-two");
    assert!(sidecar.look_at_identity().expect("the service keeps the bundle that it has"));
    assert_eq!(sidecar.look_at_material(), (false, vec![]), "each content is refused once");
    scratch.write("other.crt", bundle.clone() + &bundle);
    assert_eq!(sidecar.look_at_material(), (true, vec![]));
}

#[tokio::test(start_paused = true)]
async fn certificates_that_could_not_be_put_to_use_are_tried_again() {
    let scratch = Scratch::new();
    let issue = |domain: &str| {
        let id = format!("spiffe://{domain}/ns/default/sa/web").parse().expect("an identity");
        let ca = pillion_tls::identity::issue::Ca::generate(domain).expect("a CA");
        let issued = ca.issue(&id, &[], Duration::from_secs(3600)).expect("a certificate");
        scratch.write("tls.crt", &issued.certificate);
        scratch.write("tls.key", &issued.key);
        scratch.write("ca.crt", &issued.bundle);
    };
    issue("cluster.local");
    let folder = format!("identity: {{ directory: \"{}\" }}\n", scratch.path("").display());
    let orders = format!("{ONE}, tls: \"{}\"", mesh::ORDERS_ID);
    let mut sidecar = Mesh::default().sidecar(&(mesh::caller(&orders) + &folder), None);
    assert!(!sidecar.look_at_identity().expect("nothing new"));

    issue("elsewhere.test");
    let now = std::time::SystemTime::now();
    let look = |sidecar: &mut mesh::Sidecar, seconds| {
        sidecar.look_at_identity_at(now + Duration::from_secs(seconds))
    };
    let refused = |looked: anyhow::Result<bool>| {
        let why = format!("{:#}", looked.expect_err("a service of a trust domain without a bundle"));
        assert!(why.contains("services.orders.tls") && why.contains("without a trust bundle"), "{why}");
    };
    refused(look(&mut sidecar, 0));
    assert!(!look(&mut sidecar, 1).expect("not so soon"));
    refused(look(&mut sidecar, 11));
}

#[tokio::test(start_paused = true)]
async fn a_services_own_bundle_is_read_again_with_every_reload() {
    let (pair, scratch) = (Pair::new(), Scratch::new());
    let _app = pair.mesh.answering(A, OK);
    let _inbound = pair.application("10.1.0.1:15006", "10.0.0.1:80");
    let stranger = pillion_tls::identity::issue::Ca::generate("cluster.local").expect("a CA");
    let bundle = scratch.write("ca.pem", stranger.certificate_pem());
    let tls = format!("tls: {{ mode: mutual, trust_bundle: \"{}\" }}", bundle.display());
    let yaml = mesh::caller(&format!("endpoints: [10.1.0.1:15006], {tls}")) + mesh::IDENTITY;
    let mut sidecar = pair.mesh.sidecar(&yaml, Some(identity(&pair.ca, "web")));
    let mut client = sidecar.client().await;
    assert_eq!(client.get("/").await.status(), Some(502));
    scratch.write("ca.pem", pair.ca.certificate_pem());
    assert_eq!(sidecar.reload(&yaml).expect("a good bundle"), Applied::Changed);
    assert_eq!(client.get("/").await.body, "ok");
    assert_eq!(sidecar.reload(&yaml).expect("the same"), Applied::Unchanged);
}

#[tokio::test(start_paused = true)]
async fn a_routes_own_budget_is_one_for_all_its_hosts_and_over_reloads() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, super::backend::UNAVAILABLE);
    let file = |timeout: &str| {
        let orders = format!("{ONE}, hosts: [orders, alias], outlier_detection: off, timeout: {timeout}");
        mesh::caller(&orders)
            + "routes:\n  - { name: eager, hosts: [orders, alias], to: orders, \
               retry: { attempts: 1, budget: { ratio: 0%, min_per_second: 1 } } }\n"
    };
    let mut sidecar = mesh.sidecar(&file("9s"), None);
    let mut client = sidecar.client().await;
    for (nth, host) in ["orders", "alias", "orders", "alias"].into_iter().enumerate() {
        for _ in 0..5 {
            client.ask(&format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        }
        sidecar.reload(&file(&format!("{}s", nth + 1))).expect("a good file");
    }
    assert_eq!(a.hits(), 20 + 10, "ten retries in ten seconds");
}

#[tokio::test(start_paused = true)]
async fn c1_a_file_without_the_identity_that_was_there_is_refused() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let with_identity = mesh::application_at("127.0.0.1:8001", "app: 10.0.0.1:80") + mesh::IDENTITY;
    let mut sidecar = pair.mesh.sidecar(&with_identity, Some(identity(&pair.ca, "orders")));
    for left in ["", "identity:\n"] {
        let refused = sidecar.reload(&with_identity.replace(mesh::IDENTITY, left)).expect_err("no identity");
        assert!(refused.to_string().contains("`identity` was removed"), "{refused:#}");
        assert!(refused.to_string().contains("takes a restart"), "{refused:#}");
    }
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (403, Some("mtls_required")));
    assert_eq!(app.hits(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_kept_connection_to_an_endpoint_follows_the_new_limits() {
    let mesh = Mesh::default();
    let a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.message().await;
        peer.send(OK).await;
        peer.message().await;
        let fields: String = (0..50).map(|nth| format!("x-{nth}: 1\r\n")).collect();
        peer.send(OK.replace("\r\n\r\n", &format!("\r\n{fields}\r\n"))).await;
        drop(peer.message().await);
    });
    let file = |most| format!("{}limits: {{ response_header_count: {most} }}\n", mesh::caller(ONE));
    let mut sidecar = mesh.sidecar(&file(10), None);
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (200, None));
    settle().await;
    sidecar.reload(&file(100)).expect("a good file");
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (200, None));
    assert_eq!(a.connections(), 1);
}
