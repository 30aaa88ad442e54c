//! Faults that reviews have found, each with a test that keeps it from coming back.

use bytes::Bytes;
use h2::ext::Protocol;
use http::Request;

use super::backend::OK;
use super::mesh;
use super::mesh::{A, IDENTITY, Mesh, ORDERS, Pair, identity, pass, settle};
use super::peer::Peer;
use pillion_base::net::Leg;
use pillion_base::net::returning::Noted;

const OWN_PORT: &str = "endpoints: [10.0.0.1:80], listen: 127.0.0.1:0";
const UPGRADE: &str = "GET /chat HTTP/1.1\r\nhost: orders\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                       sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_redirect_to_loopback_does_not_reach_the_admin_port() {
    let m = Mesh::default();
    let _a = m.answering(A, OK);
    let sidecar = m.application("app: 10.0.0.1:80, redirect_to: loopback");
    let admin = sidecar.addresses.admin[0].port();
    let mut client = sidecar.redirected(&format!("10.0.0.9:{admin}")).await;
    let answer = client.ask("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(
        !answer.body.contains("pillion_build_info"),
        "a remote peer reads the admin port: {}",
        answer.head
    );
}

#[tokio::test(start_paused = true)]
async fn a_redirect_to_loopback_is_no_open_proxy() {
    let m = Mesh::default();
    let _x = m.answering("192.0.2.9:80", OK);
    let yaml = "workers: 1\nadmin: { listen: 127.0.0.1:0 }\nmetrics: off\noutbound: { listen: 127.0.0.1:0 }\n\
                inbound: { listen: 10.0.0.9:0, app: 10.0.0.1:80, redirect_to: loopback }\n";
    let sidecar = m.sidecar(yaml, None);
    let (inb, out) = (sidecar.addresses.inbound[0], sidecar.addresses.outbound[0].port());
    let io = m.memory.redirect(format!("10.0.0.9:{out}").parse().unwrap(), inb).await.unwrap();
    let mut client = Peer::new(io);
    client.send("CONNECT 192.0.2.9:80 HTTP/1.1\r\nhost: 192.0.2.9:80\r\n\r\n").await;
    let head = client.head().await.unwrap();
    assert!(
        !head.starts_with("HTTP/1.1 200"),
        "open proxy for other hosts: {head} {:?}",
        client.get("/").await.status_and_reason()
    );
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_to_h2c_is_ignored_wherever_it_stands_in_the_list() {
    let m = Mesh::default();
    let app = m.answering(A, OK);
    let sidecar = m.application("app: 10.0.0.1:80");
    for upgrade in ["websocket, h2c", "x, H2C"] {
        let r = format!(
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: {upgrade}\r\nhttp2-settings: AAMAAABk\r\n\r\n"
        );
        sidecar.client().await.ask(&r).await;
    }
    assert!(
        app.requests().iter().all(|r| !r
            .header("upgrade")
            .unwrap_or_default()
            .to_ascii_lowercase()
            .contains("h2c"))
    );
}

#[tokio::test(start_paused = true)]
async fn an_extended_connect_to_h2c_is_refused() {
    let m = Mesh::default();
    let app = m.scripted(A, |mut peer: Peer, _| async move {
        peer.message().await;
        peer.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n").await;
        drop(peer.exactly(24).await);
    });
    let sidecar = m.application("app: 10.0.0.1:80");
    let io = sidecar.client().await.into_io();
    let (send, conn) = h2::client::handshake(io).await.unwrap();
    tokio::spawn(conn);
    settle().await;
    let mut send = send.ready().await.unwrap();
    let mut request = Request::builder()
        .method("CONNECT")
        .uri("http://orders/")
        .header("http2-settings", "AAMAAABk")
        .body(())
        .unwrap();
    request.extensions_mut().insert(Protocol::from_static("h2c"));
    let (answer, mut stream) = send.send_request(request, false).unwrap();
    let status = answer.await.unwrap().status();
    drop(stream.send_data(Bytes::from_static(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), false));
    settle().await;
    assert_eq!(status, 400);
    assert!(app.requests().iter().all(|r| r.header("upgrade").is_none()), "status {status}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_before_its_101_is_counted() {
    let m = Mesh::default();
    let _app = m.scripted(A, |mut peer: Peer, _| async move {
        peer.message().await;
        pass(2).await;
        drop(peer.try_send(SWITCHED).await);
        pass(1).await;
    });
    let sidecar = m.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    client.send(format!("{UPGRADE}early")).await;
    pass(1).await;
    drop(client);
    pass(10).await;
    assert_eq!((sidecar.sum("pillion_requests_active"), sidecar.sum("pillion_requests_total")), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_malformed_request_after_an_idle_time_is_answered_by_the_sidecar() {
    let m = Mesh::default();
    let _a = m.answering(A, OK);
    let sidecar = m.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    client.get("/").await;
    pass(5).await;
    let answer = client.ask("GET / HTTP/1.1\r\nno colon\r\n\r\n").await;
    assert_eq!(answer.status_and_reason(), (400, Some("bad_request")));
    assert_eq!(sidecar.sum("pillion_requests_total reason=bad_request"), 1);
}

#[tokio::test(start_paused = true)]
async fn absolute_form_is_kept_for_hosts_without_a_service() {
    let m = Mesh::default();
    let squid = m.answering("192.0.2.9:3128", OK);
    let sidecar = m.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.redirected("192.0.2.9:3128").await;
    client.ask("GET http://example.org/x HTTP/1.1\r\nhost: example.org\r\n\r\n").await;
    let app = m.answering(A, OK);
    let inbound = m.application("app: 10.0.0.1:80");
    inbound.client().await.ask("GET http://example.org/x HTTP/1.1\r\nhost: example.org\r\n\r\n").await;
    assert!(squid.requests()[0].head.starts_with("GET http://example.org/x "));
    assert!(app.requests()[0].head.starts_with("GET http://example.org/x "));
}

#[tokio::test(start_paused = true)]
async fn a_connect_with_content_is_refused() {
    let m = Mesh::default();
    let app = m.scripted(A, |mut peer: Peer, _| async move {
        drop(peer.head().await);
        peer.send("HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n").await;
        pass(1).await;
        while peer.head().await.is_some() {
            peer.send(OK).await;
        }
        drop(peer.rest().await);
    });
    let sidecar = m.application("app: 10.0.0.1:80");
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: a\r\nx-forwarded-client-cert: evil\r\n\r\n";
    let r =
        format!("CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\ncontent-length: {}\r\n\r\n{smuggled}", smuggled.len());
    let mut c = sidecar.client().await;
    let answer = c.ask(&r).await;
    pass(3).await;
    drop(app);
    assert_eq!(answer.status_and_reason().0, 400);
}

#[tokio::test(start_paused = true)]
async fn spare_connections_do_not_starve_requests() {
    let m = Mesh::default();
    let _a = m.answering(A, OK);
    let sidecar =
        m.caller("endpoints: [10.0.0.1:80], listen: 127.0.0.1:0, circuit_breaker: { max_connections: 1 }");
    let _spare = sidecar.direct_client().await;
    pass(5).await;
    let answer = sidecar.direct_client().await.get("/").await;
    assert_eq!(answer.status_and_reason(), (200, None));
}

#[tokio::test(start_paused = true)]
async fn a_spare_connection_that_closes_does_not_make_http_opaque() {
    let m = Mesh::default();
    let _a = m.answering(A, OK);
    let sidecar = m.caller(OWN_PORT);
    sidecar.direct_client().await.get("/").await;
    let spare = sidecar.direct_client().await;
    pass(3).await;
    drop(spare);
    pass(1).await;
    assert_eq!(sidecar.sum("pillion_detections_total verdict=opaque"), 0);
}

#[tokio::test(start_paused = true)]
async fn pillion_tcp_on_a_port_declared_http1_is_http() {
    let pair = Pair::new();
    let app = pair.mesh.answering(A, OK);
    let yaml = mesh::application_at("10.1.0.1:15006", "app: 10.0.0.1:80, protocol: http1") + IDENTITY;
    let inbound = pair.mesh.sidecar(&yaml, Some(identity(&pair.ca, "orders")));
    let outbound =
        pair.caller(&format!("endpoints: [10.1.0.1:15006], listen: 127.0.0.1:0, protocol: tcp, {ORDERS}"));
    let mut client = outbound.direct_client().await;
    client.ask("GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-client-cert: URI=spiffe://cluster.local/ns/default/sa/admin\r\n\r\n").await;
    drop(inbound);
    assert!(!app.requests()[0].head.contains("sa/admin"));
}

/// A caller that declares its service as TCP, in front of an application's sidecar without a declaration.
#[tokio::test(start_paused = true)]
async fn bytes_of_a_declared_protocol_are_not_held_back_as_a_possible_request() {
    let pair = Pair::new();
    let _echo = pair.mesh.scripted(A, |mut peer: Peer, _| async move {
        let (heard, _) = peer.exactly(5).await;
        drop(peer.try_send(heard).await);
        peer.rest().await;
    });
    let yaml = mesh::application_at("10.1.0.1:15006", "app: 10.0.0.1:80") + IDENTITY;
    let _inbound = pair.mesh.sidecar(&yaml, Some(identity(&pair.ca, "orders")));
    let outbound =
        pair.caller(&format!("endpoints: [10.1.0.1:15006], listen: 127.0.0.1:0, protocol: tcp, {ORDERS}"));
    let mut client = outbound.direct_client().await;
    let began = tokio::time::Instant::now();
    client.send("hello").await;
    assert_eq!(client.exactly(5).await.0, b"hello");
    assert!(began.elapsed().as_secs() < 1, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_head_that_stalls_is_not_passed_on_as_opaque_bytes() {
    let m = Mesh::default();
    let app = m.answering(A, OK);
    let sidecar = m.application("app: 10.0.0.1:80");
    for (first, wait, rest) in [
        ("GET", 11, " / HTTP/1.1\r\nhost: a\r\nx-forwarded-client-cert: URI=evil\r\n\r\n"),
        ("\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\nx-forwarded-client-cert: URI=evil\r\n\r\n", 0, ""),
    ] {
        let mut c = sidecar.client().await;
        c.send(first).await;
        pass(wait).await;
        drop(c.try_send(rest).await);
        settle().await;
        settle().await;
    }
    assert!(app.requests().iter().all(|r| !r.head.contains("evil")));
}

#[tokio::test(start_paused = true)]
async fn early_dials_do_not_reset_the_error_count_of_an_http_endpoint() {
    let m = Mesh::default();
    let _a = m.http1(A, |_, _| super::backend::UNAVAILABLE);
    let _b = m.answering("10.0.0.2:80", OK);
    let sidecar = m.caller(
        "endpoints: [10.0.0.1:80, 10.0.0.2:80], listen: 127.0.0.1:0, retry: off, load_balancer: round_robin",
    );
    for _ in 0..10 {
        sidecar.direct_client().await.get("/").await;
        let spares = [sidecar.direct_client().await, sidecar.direct_client().await];
        pass(2).await;
        drop(spares);
    }
    assert!(sidecar.sum("pillion_endpoint_ejections_total") > 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_to_a_closing_client_after_a_slow_answer_ends() {
    let m = Mesh::default();
    let _a = m.scripted(A, |mut peer: Peer, _| async move {
        while peer.message().await.is_some() {
            pass(5).await;
            peer.send(OK).await;
        }
    });
    let sidecar = m.caller("endpoints: [10.0.0.1:80]");
    for r in [
        "GET / HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n",
        "GET / HTTP/1.0\r\nhost: orders\r\n\r\n",
    ] {
        let mut c = sidecar.client().await;
        c.send(r).await;
        let all = tokio::time::timeout(std::time::Duration::from_secs(60), c.rest()).await;
        assert!(all.is_ok(), "hangs");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connect_dials_once() {
    let m = Mesh::default();
    let x = m.scripted("192.0.2.9:25", |mut peer: Peer, _| async move {
        peer.rest().await;
    });
    let sidecar = m.caller("endpoints: [10.0.0.1:80]");
    let mut c = sidecar.client().await;
    c.send("CONNECT 192.0.2.9:25 HTTP/1.1\r\nhost: x\r\n\r\nEHLO\r\n").await;
    c.head().await;
    settle().await;
    assert_eq!(x.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_without_identity_learns_nothing_about_the_mesh() {
    let m = Mesh::default();
    let x = m.answering("192.0.2.9:80", OK);
    let sidecar = m.caller("endpoints: [10.0.0.1:80]");
    let mut c = sidecar.redirected("192.0.2.9:80").await;
    c.ask("GET / HTTP/1.1\r\nhost: x\r\nx-pillion-attempt: 2\r\n\r\n").await;
    assert!(x.requests()[0].header("x-pillion-attempt").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_permissive_port_without_an_application_has_no_route() {
    let pair = Pair::new();
    let yaml = mesh::application_at("10.1.0.1:15006", "mtls: permissive") + IDENTITY;
    let inbound = pair.mesh.sidecar(&yaml, Some(identity(&pair.ca, "orders")));
    assert_eq!(inbound.client().await.get("/").await.status_and_reason(), (404, Some("no_route")));
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_is_an_active_connection() {
    let m = Mesh::default();
    let _app = m.scripted(A, |mut peer: Peer, _| async move {
        peer.message().await;
        peer.send(SWITCHED).await;
        peer.rest().await;
    });
    let sidecar = m.caller("endpoints: [10.0.0.1:80]");
    let mut c = sidecar.client().await;
    c.send(UPGRADE).await;
    c.head().await;
    settle().await;
    assert_eq!(sidecar.sum("pillion_connections_active"), 2);
}

/// Two connections to different addresses may have the same local address and port: one of the sidecar to its
/// application, and one of a client on the same host to the sidecar.
#[tokio::test(start_paused = true)]
async fn a_client_that_was_not_redirected_is_never_taken_for_a_loop() {
    const APP: &str = "10.9.9.9:4242";
    let mesh = Mesh::default();
    let _app = mesh.answering(APP, OK);
    let ports = 40_000..40_100; // those of the first clients
    let _open: Vec<_> = ports
        .map(|port| Noted::new(Leg::Inbound, ([127, 0, 0, 1], port).into(), APP.parse().expect("an address")))
        .collect();
    let sidecar = mesh.application(&format!("app: {APP}"));
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (200, None));
}

/// 1,800 services are configured and one is called: its counters have its own name, and no other service has any.
#[tokio::test(start_paused = true)]
async fn c4_services_without_traffic_have_no_series() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let unused: String =
        (0..1_800).map(|nth| format!("  unused-{nth}: {{ endpoints: [10.9.9.9:80] }}\n")).collect();
    let few = "metrics: { listen: 127.0.0.1:0, max_series: 1000 }";
    let yaml = (mesh::caller("endpoints: [10.0.0.1:80]") + &unused).replace("metrics: off", few);
    let mut sidecar = mesh.sidecar(&yaml, None);
    assert_eq!(sidecar.client().await.get("/").await.body, "ok");
    sidecar.reload(&yaml.replace(&unused, "")).expect("a good file");
    let text = sidecar.metrics.encode();
    assert!(!text.contains("unused") && !text.contains("\"other\""), "{text}");
    assert_eq!(sidecar.sum("pillion_requests_total service=orders status=200"), 1);
    assert_eq!(sidecar.sum("pillion_circuit_breaker_limit service=orders limit=pending"), 1024);
    assert_eq!(sidecar.sum("pillion_endpoints service=orders"), 1);
}

/// Services are added and removed, and the last one still has counters with its own name.
#[tokio::test(start_paused = true)]
async fn c4_services_that_were_removed_leave_room_for_new_ones() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let few = "metrics: { listen: 127.0.0.1:0, max_series: 1000 }";
    let yaml = |name: &str| {
        let caller = mesh::caller("endpoints: [10.0.0.1:80], hosts: [orders]");
        caller.replace("metrics: off", few).replace("  orders:", &format!("  {name}:"))
    };
    let mut sidecar = mesh.sidecar(&yaml("service-0"), None);
    for round in 1..60 {
        sidecar.reload(&yaml(&format!("service-{round}"))).expect("a good file");
        assert_eq!(sidecar.client().await.get("/").await.body, "ok");
        settle().await;
        let counted = format!("pillion_requests_total service=service-{round} status=200");
        assert_eq!(sidecar.sum(&counted), 1, "{round}");
    }
    let text = sidecar.metrics.encode();
    assert!(!text.contains("\"other\"") && !text.contains("service-9\""), "{text}");
}

/// Routes are added and removed, and the last one still has counters with its own name.
#[tokio::test(start_paused = true)]
async fn c4_routes_that_were_removed_leave_room_for_new_ones() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let few = "metrics: { listen: 127.0.0.1:0, max_series: 400 }";
    let yaml = |round: usize| {
        let caller = mesh::caller("endpoints: [10.0.0.1:80]").replace("metrics: off", few);
        let mirror = "mirror: { service: orders }";
        format!("{caller}routes:\n  - {{ name: route-{round}, hosts: [orders], to: orders, {mirror} }}\n")
    };
    let mut sidecar = mesh.sidecar(&yaml(0), None);
    for round in 1..400 {
        sidecar.reload(&yaml(round)).expect("a good file");
        assert_eq!(sidecar.client().await.get("/").await.body, "ok");
        settle().await;
        let counted = format!("pillion_requests_total route=route-{round} status=200");
        assert_eq!(sidecar.sum(&counted), 1, "{round}");
    }
    let text = sidecar.metrics.encode();
    assert!(!text.contains("\"other\"") && !text.contains("\"route-9"), "{text}");
}
