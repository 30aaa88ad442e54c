//! Declared protocols, addresses of services, unknown destinations, and where inbound finds the application.

use super::backend::{Backend, OK};
use super::mesh::{self, A, B, IDENTITY, Mesh, ORDERS, Pair, Sidecar, identity, pass, settle};
use super::peer::Peer;
use tokio::time::Instant;

const GET_EXAMPLE: &str = "GET / HTTP/1.1\r\nhost: example.org\r\n\r\n";

/// Sends `greeting` at once, as few protocols do, and closes when its client does.
fn greeter(mesh: &Mesh, address: &str, greeting: &'static str) -> Backend {
    mesh.scripted(address, move |mut peer: Peer, _| async move {
        if peer.try_send(greeting).await.is_ok() {
            peer.rest().await;
        }
    })
}

/// The first `bytes` bytes, or fewer if the connection ends.
async fn hears(client: &mut Peer, bytes: usize) -> String {
    String::from_utf8(client.exactly(bytes).await.0).expect("text")
}

#[tokio::test(start_paused = true)]
async fn the_address_of_a_service_decides_whatever_the_host_header_says() {
    let mesh = Mesh::default();
    let orders = mesh.answering(A, OK);
    let billing = mesh.answering(B, OK);
    let yaml = mesh::caller("endpoints: [10.0.0.1:80], addresses: [\"10.96.0.10:80\", 10.97.0.0/16]")
        + "  billing: { endpoints: [10.0.0.2:80] }\n";
    let sidecar = mesh.sidecar(&yaml, None);
    for to in ["10.96.0.10:80", "10.97.3.4:8080"] {
        let mut client = sidecar.redirected(to).await;
        let answer = client.ask("GET / HTTP/1.1\r\nhost: billing\r\n\r\n").await;
        assert_eq!(answer.status_and_reason(), (200, None), "{to}");
    }
    settle().await;
    assert_eq!((orders.hits(), billing.hits()), (2, 0));
    assert_eq!(sidecar.sum("pillion_host_mismatches_total service=orders"), 2);
    assert_eq!(sidecar.sum("pillion_requests_total service=orders"), 2);
}

#[tokio::test(start_paused = true)]
async fn unknown_destinations_are_denied_where_the_file_says_so() {
    let mesh = Mesh::default();
    let stranger = mesh.answering("192.0.2.9:80", OK);
    let orders = mesh.answering(A, OK);
    let yaml = mesh::caller("endpoints: [10.0.0.1:80]")
        .replace("127.0.0.1:0 }\nservices", "127.0.0.1:0, unknown: deny }\nservices");
    let sidecar = mesh.sidecar(&yaml, None);
    let mut client = sidecar.redirected("192.0.2.9:80").await;
    assert_eq!(client.ask(GET_EXAMPLE).await.status_and_reason(), (403, Some("egress_denied")));
    assert_eq!(client.get("/").await.status_and_reason(), (200, None), "a service's host is a service's");
    for said in ["\0\0\0\u{1}", "EHLO me\r\n"] {
        let mut client = sidecar.redirected("192.0.2.9:80").await;
        client.send(said).await;
        assert_eq!(client.rest().await, b"", "{said:?}");
    }
    for refused in [
        "CONNECT 192.0.2.9:80 HTTP/1.1\r\nhost: 192.0.2.9:80\r\n\r\n",
        "GET http://192.0.2.9/ HTTP/1.1\r\nhost: 192.0.2.9\r\n\r\n",
    ] {
        assert_eq!(
            sidecar.client().await.ask(refused).await.status_and_reason(),
            (403, Some("egress_denied"))
        );
    }
    let mut silent = sidecar.redirected("192.0.2.9:80").await;
    pass(60).await;
    assert_eq!(silent.get("/").await.status_and_reason(), (200, None));
    assert_eq!((stranger.connections(), orders.hits()), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn a_virtual_address_without_a_service_leads_nowhere() {
    let mesh = Mesh::default();
    let stranger = mesh.answering("240.240.0.9:80", OK);
    let orders = mesh.answering(A, OK);
    mesh.memory.name("gone.example", "240.240.0.9".parse().expect("an address"));
    let mut sidecar = mesh.caller("endpoints: [10.0.0.1:80], addresses: [\"240.240.0.9:80\"]");
    let mut kept = sidecar.redirected("240.240.0.9:80").await;
    assert_eq!(kept.ask(GET_EXAMPLE).await.status_and_reason(), (200, None), "it has one");
    sidecar.reload(&mesh::caller("endpoints: [10.0.0.1:80]")).expect("a good file");
    let none = (404, Some("no_route"));
    assert_eq!(kept.ask(GET_EXAMPLE).await.status_and_reason(), none, "a reload took it away");
    assert_eq!(kept.get("/").await.status_and_reason(), (200, None), "a service's host is a service's");
    for to in ["240.240.0.9:80", "[fd9f:240::9]:80"] {
        assert_eq!(sidecar.redirected(to).await.ask(GET_EXAMPLE).await.status_and_reason(), none, "{to}");
        let mut opaque = sidecar.redirected(to).await;
        opaque.send("\0\0\0\u{1}").await;
        assert_eq!(opaque.rest().await, b"", "{to}");
        let watch = mesh::Watch::start();
        assert_eq!(sidecar.redirected(to).await.rest().await, b"", "{to}: silent, and closed");
        assert_eq!(watch.seconds(), 1, "{to}: it might have been slow");
    }
    for refused in [
        "CONNECT 240.240.0.9:80 HTTP/1.1\r\nhost: 240.240.0.9:80\r\n\r\n",
        "GET http://[fd9f:240::9]/ HTTP/1.1\r\nhost: [fd9f:240::9]\r\n\r\n",
        "CONNECT gone.example:80 HTTP/1.1\r\nhost: gone.example:80\r\n\r\n",
    ] {
        assert_eq!(sidecar.client().await.ask(refused).await.status_and_reason(), none, "{refused}");
    }
    assert_eq!((stranger.connections(), orders.hits()), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn declared_tcp_is_balanced_per_connection_and_never_inspected() {
    let mesh = Mesh::default();
    let (a, b) = (greeter(&mesh, A, "a"), greeter(&mesh, B, "b"));
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80, 10.0.0.2:80], listen: 127.0.0.1:0, protocol: tcp, load_balancer: round_robin");
    let mut heard = Vec::new();
    for _ in 0..4 {
        let mut client = sidecar.direct_client().await;
        client.send("GET / HTTP/1.1\r\n\r\n").await;
        heard.push(hears(&mut client, 1).await);
    }
    heard.sort();
    assert_eq!(heard.concat(), "aabb");
    assert_eq!((a.connections(), b.connections()), (2, 2));
    assert_eq!(sidecar.sum("pillion_detections_total"), 0, "it was declared");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_refuses_a_connection_is_skipped() {
    let mesh = Mesh::default();
    let b = greeter(&mesh, B, "b");
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80, 10.0.0.2:80], listen: 127.0.0.1:0, protocol: tcp, load_balancer: round_robin");
    for _ in 0..20 {
        assert_eq!(hears(&mut sidecar.direct_client().await, 1).await, "b");
    }
    settle().await;
    assert_eq!(b.connections(), 20);
    assert_eq!(sidecar.sum("pillion_endpoint_ejections_total service=orders"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_beyond_max_connections_is_refused() {
    let mesh = Mesh::default();
    let a = greeter(&mesh, A, "a");
    let sidecar = mesh.caller(
        "endpoints: [10.0.0.1:80], listen: 127.0.0.1:0, protocol: tcp, circuit_breaker: { max_connections: 1 }",
    );
    let mut first = sidecar.direct_client().await;
    assert_eq!(hears(&mut first, 1).await, "a");
    assert_eq!(sidecar.direct_client().await.rest().await, b"");
    assert_eq!(sidecar.sum("pillion_circuit_breaker_rejections_total limit=connections"), 1);
    drop(first);
    settle().await;
    assert_eq!(hears(&mut sidecar.direct_client().await, 1).await, "a");
    assert_eq!(a.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn mtls_between_sidecars_carries_a_server_that_speaks_first() {
    let pair = Pair::new();
    let app = greeter(&pair.mesh, A, "welcome");
    let inbound = pair.application("10.1.0.1:15006", A);
    for protocol in ["auto", "tcp"] {
        let own_port =
            format!("endpoints: [10.1.0.1:15006], listen: 127.0.0.1:0, protocol: {protocol}, {ORDERS}");
        let outbound = pair.caller(&own_port);
        assert_eq!(hears(&mut outbound.direct_client().await, 7).await, "welcome", "{protocol}");
    }
    settle().await;
    assert_eq!(
        inbound.sum("pillion_connections_total direction=inbound protocol=tcp tls=mtls outcome=ok"),
        2
    );
    assert_eq!((app.connections(), app.open()), (2, 0));
}

fn permissive(pair: &Pair, inbound: &str) -> Sidecar {
    let yaml = mesh::application_at("10.1.0.1:15006", inbound) + IDENTITY;
    pair.mesh.sidecar(&yaml, Some(identity(&pair.ca, "orders")))
}

#[tokio::test(start_paused = true)]
async fn a_permissive_port_takes_plaintext_and_mtls_and_trusts_only_proven_identities() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let inbound = permissive(&pair, "app: 10.0.0.1:80, mtls: permissive");
    let outbound = pair.caller(&format!("endpoints: [10.1.0.1:15006], {ORDERS}"));
    assert_eq!(outbound.client().await.get("/").await.status_and_reason(), (200, None));
    let forged = "GET / HTTP/1.1\r\nhost: orders\r\nx-forwarded-client-cert: URI=spiffe://evil\r\n\r\n";
    assert_eq!(inbound.client().await.ask(forged).await.status_and_reason(), (200, None));
    let outcomes: Vec<bool> =
        app.requests().iter().map(|request| request.header("x-forwarded-client-cert").is_some()).collect();
    assert_eq!(outcomes, [true, false]);
    drop(app);
}

#[tokio::test(start_paused = true)]
async fn single_ports_have_rules_of_their_own() {
    let pair = Pair::new();
    let _web = pair.mesh.answering("10.0.0.1:9090", OK);
    let _mail = greeter(&pair.mesh, "10.0.0.1:25", "welcome");
    let inbound = permissive(
        &pair,
        "app: 10.0.0.1:80, ports: { 9090: { mtls: off, listen: 10.1.0.1:0 }, 25: { protocol: tcp } }",
    );
    let (port, own) = inbound.addresses.ports[0];
    assert_eq!(port, 9090);
    let mut client = Peer::new(pair.mesh.memory.connect(own).await.expect("it listens"));
    assert_eq!(client.get("/").await.status_and_reason(), (200, None), "its own listener, its own rule");
    let mut client = inbound.redirected("10.0.0.1:9090").await;
    assert_eq!(client.get("/").await.status_and_reason(), (200, None), "redirected, the same rule");
    let mut client = inbound.redirected("10.0.0.1:25").await;
    client.send("EHLO me\r\n").await;
    assert_eq!(client.rest().await, b"", "the others are strict still");
}

#[tokio::test(start_paused = true)]
async fn redirected_inbound_goes_to_its_original_address_or_to_loopback() {
    for (to, expected) in [("original", "at the address"), ("loopback", "on loopback")] {
        let mesh = Mesh::default();
        let _bound_to_address = greeter(&mesh, "10.0.0.1:25", "at the address");
        let _bound_to_loopback = greeter(&mesh, "127.0.0.1:25", "on loopback");
        let sidecar = mesh.application(&format!("app: 10.0.0.1:80, redirect_to: {to}"));
        let mut client = sidecar.redirected("10.0.0.1:25").await;
        assert_eq!(hears(&mut client, expected.len()).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn the_client_of_a_half_sent_post_learns_that_the_upstream_died() {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.head().await;
        peer.exactly(10).await;
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    client.send("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 1000000\r\n\r\n0123456789").await;
    assert_eq!(client.answer().await.status_and_reason(), (502, Some("upstream_closed")));
}

/// A name with two addresses of IPv6, which answer nothing, and one of IPv4, which does.
fn half_reachable(mesh: &Mesh) -> Backend {
    for ip in ["2001:db8::1", "2001:db8::2"] {
        mesh.memory.black_hole(format!("[{ip}]:80").parse().expect("an address"));
        mesh.memory.name("web.example", ip.parse().expect("an address"));
    }
    mesh.memory.name("web.example", "192.0.2.9".parse().expect("an address"));
    mesh.answering("192.0.2.9:80", OK)
}

#[tokio::test(start_paused = true)]
async fn a_name_whose_ipv6_addresses_do_not_answer_is_reached_by_ipv4_after_a_quarter_of_a_second() {
    let mesh = Mesh::default();
    let web = half_reachable(&mesh);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    for request in [
        "CONNECT web.example:80 HTTP/1.1\r\nhost: web.example:80\r\n\r\n",
        "GET http://web.example/ HTTP/1.1\r\nhost: web.example\r\n\r\n",
    ] {
        let (mut client, began) = (sidecar.client().await, Instant::now());
        client.send(request).await;
        assert!(client.head().await.expect("an answer").starts_with("HTTP/1.1 200 "), "{request}");
        let took = began.elapsed().as_millis();
        assert!((250..260).contains(&took), "{request}: {took} ms");
    }
    settle().await;
    assert!(web.connections() > 0);
}

#[tokio::test(start_paused = true)]
async fn a_refused_address_of_a_name_is_followed_by_the_next_one_at_once() {
    let mesh = Mesh::default();
    let _web = half_reachable(&mesh);
    for (ip, name) in
        [("2001:db8::9", "both.example"), ("192.0.2.9", "both.example"), ("2001:db8::9", "none.example")]
    {
        mesh.memory.name(name, ip.parse().expect("an address"));
    }
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    for (host, expected) in [("both.example", (200, None)), ("none.example", (502, Some("connect_refused")))]
    {
        let (mut client, began) = (sidecar.client().await, Instant::now());
        let request = format!("GET http://{host}/ HTTP/1.1\r\nhost: {host}\r\n\r\n");
        assert_eq!(client.ask(&request).await.status_and_reason(), expected, "{host}");
        assert!(began.elapsed().as_millis() < 50, "{host}");
    }
}
