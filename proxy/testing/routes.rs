//! Which requests of a host go to another service, and with which rules.

use super::backend::{Backend, OK, UNAVAILABLE};
use super::mesh;
use super::mesh::{A, B, C, Mesh, Watch, pass};
use super::peer::Peer;

const CANARY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\ncanary";
const THREE: &str = "\
services:
  orders: { endpoints: [10.0.0.1:80], hosts: [orders, orders.shop], addresses: [10.96.0.10:80], listen: 127.0.0.1:0 }
  orders-v2: { endpoints: [10.0.0.2:80] }
  billing: { endpoints: [10.0.0.3:80] }
";

fn file(routes: &str) -> String {
    let (common, _) = mesh::caller("")
        .split_once("services:")
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .expect("services");
    format!("{common}{THREE}routes:\n{routes}\n")
}

fn backends(mesh: &Mesh) -> [Backend; 3] {
    [mesh.answering(A, OK), mesh.answering(B, CANARY), mesh.answering(C, OK)]
}

async fn get(client: &mut Peer, host: &str, rest: &str) -> (u16, String) {
    let (path, headers) = rest.split_once(' ').unwrap_or((rest, ""));
    let headers = if headers.is_empty() { String::new() } else { format!("{headers}\r\n") };
    let answer = client.ask(&format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{headers}\r\n")).await;
    (answer.status().expect("a status"), answer.body)
}

#[tokio::test(start_paused = true)]
async fn the_first_matching_route_decides_and_other_requests_go_to_the_host_s_service() {
    let mesh = Mesh::default();
    let _all = backends(&mesh);
    let sidecar = mesh.sidecar(
        &file(
            "  - { name: canary, hosts: [orders], match: { path: { prefix: /v2 }, headers: { x-canary: \"1\" } }, to: orders-v2 }\n  \
             - { hosts: [orders], match: { path: { exact: /v2/never } }, to: billing }",
        ),
        None,
    );
    let mut client = sidecar.client().await;
    for (host, rest, expected) in [
        ("orders", "/v2/x x-canary: 1", "canary"),
        ("orders", "/v2/never x-canary: 1", "canary"),
        ("orders", "/v2/x", "ok"),
        ("orders", "/v2x x-canary: 1", "ok"),
        ("orders:8080", "/v2 x-canary: 1", "canary"),
        ("orders.shop", "/v2 x-canary: 1", "ok"),
        ("billing", "/v2 x-canary: 1", "ok"),
    ] {
        assert_eq!(get(&mut client, host, rest).await, (200, expected.to_owned()), "{host} {rest}");
    }
    assert_eq!(sidecar.sum("pillion_requests_total route=canary service=orders-v2"), 3);
    assert_eq!(sidecar.sum("pillion_requests_total service=orders"), 3);
    assert_eq!(sidecar.sum("pillion_route_duration_seconds_count service=orders-v2 route=canary"), 3);
    assert_eq!(sidecar.sum("pillion_route_duration_seconds_count"), 3, "only what a named route matched");
}

#[tokio::test(start_paused = true)]
async fn a_query_and_expressions_over_whole_values_decide_too() {
    let mesh = Mesh::default();
    let _all = backends(&mesh);
    let sidecar = mesh.sidecar(
        &file(
            "  - { hosts: [orders], match: { query: { beta: \"1\" } }, to: orders-v2 }\n  \
             - { hosts: [orders], match: { path: { regex: \"/v[0-9]+/.*\" }, headers: { x-user: { regex: \"jo|ann\" } } }, \
             to: orders-v2 }",
        ),
        None,
    );
    let mut client = sidecar.client().await;
    for (rest, expected) in [
        ("/?beta=1", "canary"),
        ("/?a=b&beta=1&beta=2", "canary"),
        ("/?beta=11", "ok"),
        ("/?beta", "ok"),
        ("/beta=1", "ok"),
        ("/v12/x?y x-user: ann", "canary"),
        ("/v12/x x-user: anna", "ok"),
        ("/v12 x-user: jo", "ok"),
        ("/x/v12/ x-user: jo", "ok"),
    ] {
        assert_eq!(get(&mut client, "orders", rest).await, (200, expected.to_owned()), "{rest}");
    }
}

#[tokio::test(start_paused = true)]
async fn routes_count_however_the_service_was_reached() {
    let mesh = Mesh::default();
    let _all = backends(&mesh);
    let sidecar =
        mesh.sidecar(&file("  - { hosts: [orders], match: { path: { prefix: /v2 } }, to: orders-v2 }"), None);
    let mut own = sidecar.direct_client().await;
    assert_eq!(get(&mut own, "whatever", "/v2").await.1, "canary");
    let mut redirected = sidecar.redirected("10.96.0.10:80").await;
    assert_eq!(get(&mut redirected, "10.96.0.10", "/v2").await.1, "canary");
    assert_eq!(get(&mut redirected, "10.96.0.10", "/v1").await.1, "ok");
}

#[tokio::test(start_paused = true)]
async fn weights_split_the_requests() {
    let mesh = Mesh::default();
    let [a, b, c] = backends(&mesh);
    let split = "[{ service: orders-v2, weight: 20 }, { service: orders, weight: 80 }, { service: billing, weight: 0 }]";
    let sidecar = mesh.sidecar(&file(&format!("  - {{ hosts: [orders], to: {split} }}")), None);
    let mut client = sidecar.client().await;
    for _ in 0..1000 {
        get(&mut client, "orders", "/").await;
    }
    assert_eq!((a.hits() + b.hits(), c.hits()), (1000, 0));
    // Six standard deviations of a fair split: a result outside has a probability of 2 in a thousand million.
    assert!((124..=276).contains(&b.hits()), "{} of 1000", b.hits());
}

#[tokio::test(start_paused = true)]
async fn a_host_that_appears_only_in_routes_is_reached_only_by_them() {
    let mesh = Mesh::default();
    let _all = backends(&mesh);
    let sidecar = mesh.sidecar(
        &file("  - { hosts: [shop.example, \"*.wide.example\"], match: { path: { prefix: /v2 } }, to: orders-v2 }"),
        None,
    );
    let mut client = sidecar.client().await;
    assert_eq!(get(&mut client, "shop.example", "/v2").await.1, "canary");
    assert_eq!(get(&mut client, "a.wide.example", "/v2").await.1, "canary");
    let (status, body) = get(&mut client, "shop.example", "/v1").await;
    assert!(status == 404 && body.contains("no route of the host"), "{status} {body}");
}

#[tokio::test(start_paused = true)]
async fn a_route_for_every_host_covers_the_hosts_of_services_alone() {
    let mesh = Mesh::default();
    let _all = backends(&mesh);
    let _stranger = mesh.answering("192.0.2.1:80", OK);
    let sidecar =
        mesh.sidecar(&file("  - { hosts: [\"*\"], match: { methods: [GET] }, to: orders-v2 }"), None);
    let mut client = sidecar.client().await;
    for host in ["orders", "billing", "orders-v2"] {
        assert_eq!(get(&mut client, host, "/").await.1, "canary");
    }
    assert_eq!(client.ask("DELETE / HTTP/1.1\r\nhost: orders\r\n\r\n").await.body, "ok");
    let mut redirected = sidecar.redirected("192.0.2.1:80").await;
    assert_eq!(get(&mut redirected, "stranger", "/").await.1, "ok");
}

#[tokio::test(start_paused = true)]
async fn timeout_and_retry_of_a_route_take_precedence_over_the_service_s() {
    let mesh = Mesh::default();
    let (_silent, a) = (mesh.silent(B), mesh.answering(A, UNAVAILABLE));
    let sidecar = mesh.sidecar(
        &file(
            "  - { hosts: [orders], match: { path: { prefix: /slow } }, to: orders-v2, timeout: 3s, retry: off }\n  \
             - { hosts: [orders], match: { path: { prefix: /eager } }, to: orders, retry: { attempts: 4 } }\n  \
             - { hosts: [orders], match: { path: { prefix: /once } }, to: orders, retry: off }",
        ),
        None,
    );
    let (mut client, watch) = (sidecar.client().await, Watch::start());
    assert_eq!(get(&mut client, "orders", "/slow").await.0, 504);
    assert_eq!(watch.seconds(), 3);
    let mut expected = 0;
    for (path, tries) in [("/eager", 5), ("/once", 1), ("/usual", 3)] {
        assert_eq!(get(&mut client, "orders", path).await.0, 503);
        expected += tries;
        assert_eq!(a.hits(), expected, "{path}");
        pass(40).await; // past any ejection
    }
}

#[tokio::test(start_paused = true)]
async fn a_reload_moves_the_weights_under_a_kept_connection() {
    let mesh = Mesh::default();
    let _all = backends(&mesh);
    let to = |service: &str| file(&format!("  - {{ name: split, hosts: [orders], to: {service} }}"));
    let mut sidecar = mesh.sidecar(&to("orders"), None);
    let mut client = sidecar.client().await;
    assert_eq!(get(&mut client, "orders", "/").await.1, "ok");
    sidecar.reload(&to("orders-v2")).expect("a good file");
    assert_eq!(get(&mut client, "orders", "/").await.1, "canary");
}
