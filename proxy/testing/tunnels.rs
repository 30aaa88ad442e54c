//! Exchanges that become tunnels: WebSockets and other upgrades, CONNECT, and HTTP/2's extended CONNECT.

use bytes::Bytes;
use h2::ext::Protocol;
use http::Request;

use super::backend::{Backend, OK};
use super::http2::read_body;
use super::mesh::{A, Mesh, ORDERS, Pair, Sidecar, Watch, pass, secs, settle};
use super::peer::Peer;

/// Uses the key of RFC 6455's example.
const UPGRADE: &str = "GET /chat HTTP/1.1\r\nhost: orders\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
                       sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Switches protocols, then echoes until its client has ended.
fn echo(mesh: &Mesh, address: &str) -> Backend {
    mesh.scripted(address, |mut peer: Peer, _| async move {
        let Some(_request) = peer.message().await else { return };
        peer.send(SWITCHED).await;
        loop {
            let (heard, is_whole) = peer.exactly(1).await;
            if !is_whole || peer.try_send(heard).await.is_err() {
                return;
            }
        }
    })
}

async fn switches(client: &mut Peer) -> String {
    let head = client.head().await.expect("an answer");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    head
}

async fn echoes(client: &mut Peer, what: &str) {
    client.send(what).await;
    assert_eq!(client.exactly(what.len()).await, (what.into(), true));
}

#[tokio::test(start_paused = true)]
async fn b9_a_switch_may_have_many_fields() {
    let mesh = Mesh::default();
    let fields: String = (0..150).map(|nth| format!("x-{nth}: 1\r\n")).collect();
    let switched: &'static str = SWITCHED.replace("\r\n\r\n", &format!("\r\n{fields}\r\n")).leak();
    let _app = mesh.scripted(A, move |mut peer: Peer, _| async move {
        drop(peer.message().await);
        peer.send(switched).await;
        drop(peer.exactly(4).await);
        peer.send("pong").await;
        drop(peer.rest().await);
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], retry: off");
    let mut client = sidecar.client().await;
    client.send(UPGRADE).await;
    switches(&mut client).await;
    client.send("ping").await;
    assert_eq!(client.exactly(4).await, ("pong".into(), true));
}

#[tokio::test(start_paused = true)]
async fn a_websocket_is_carried_through_both_sidecars() {
    let pair = Pair::new();
    let app = echo(&pair.mesh, A);
    let inbound = pair.application("10.1.0.1:15006", A);
    let outbound = pair.caller(&format!("endpoints: [10.1.0.1:15006], timeout: 1s, {ORDERS}"));
    let mut client = outbound.client().await;
    client.send(UPGRADE).await;
    let head = switches(&mut client).await.to_ascii_lowercase();
    for line in
        ["connection: upgrade", "upgrade: websocket", "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="]
    {
        assert_eq!(head.matches(line).count(), 1, "{line}: {head}");
    }
    echoes(&mut client, "hello").await;
    pass(600).await;
    echoes(&mut client, "ten minutes later, `timeout` or not").await;
    for sidecar in [&outbound, &inbound] {
        assert_eq!(sidecar.sum("pillion_requests_active"), 1);
    }
    client.half_close().await;
    assert_eq!(client.rest().await, b"");
    settle().await;
    let request = &app.requests()[0];
    assert_eq!(request.header("upgrade"), Some("websocket"));
    assert_eq!(request.header("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    for sidecar in [&outbound, &inbound] {
        assert_eq!(sidecar.sum("pillion_requests_active"), 0);
        assert_eq!(sidecar.sum("pillion_requests_total status=101 reason="), 1);
        assert_eq!(sidecar.sum("pillion_bytes_total flow=received"), 40);
    }
    assert_eq!(app.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn bytes_sent_before_the_answer_are_not_passed_on_when_the_upgrade_is_refused() {
    let mesh = Mesh::default();
    let app = mesh.answering(A, "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno");
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    client.send(format!("{UPGRADE}\u{1}\u{2}DELETE / HTTP/1.1\r\n\r\n")).await;
    assert_eq!(client.answer().await.status_and_reason(), (403, None));
    drop(client.rest().await);
    assert_eq!(app.hits(), 1);
}

#[tokio::test(start_paused = true)]
async fn bytes_sent_before_the_answer_are_not_lost_when_the_upgrade_is_accepted() {
    let mesh = Mesh::default();
    let _app = echo(&mesh, A);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    client.send(format!("{UPGRADE}early")).await;
    switches(&mut client).await;
    assert_eq!(client.exactly(5).await, (b"early".to_vec(), true));
}

#[tokio::test(start_paused = true)]
async fn a_refused_upgrade_is_an_answer_like_any_other() {
    let mesh = Mesh::default();
    let app = mesh.answering(A, OK);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    for _ in 0..2 {
        assert_eq!(client.ask(UPGRADE).await.status_and_reason(), (200, None));
    }
    assert_eq!(client.get("/").await.status_and_reason(), (200, None));
    assert_eq!((app.hits(), app.connections()), (3, 1), "the connection is still usable");
}

#[tokio::test(start_paused = true)]
async fn a_101_without_an_upgrade_request_is_an_error_of_the_upstream() {
    let mesh = Mesh::default();
    let app = mesh.answering(A, SWITCHED);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    for request in [
        "GET / HTTP/1.1\r\nhost: orders\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: orders\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AA\r\n\r\n",
        "GET / HTTP/1.0\r\nhost: orders\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: orders\r\nupgrade: websocket\r\n\r\n",
    ] {
        let mut client = sidecar.client().await;
        assert_eq!(client.ask(request).await.status_and_reason(), (502, Some("upgrade_failed")), "{request}");
    }
    assert!(app.requests().iter().all(|request| request.header("upgrade").is_none()));
}

#[tokio::test(start_paused = true)]
async fn a_broken_tunnel_is_not_passed_on_as_an_ordinary_end() {
    let mesh = Mesh::default();
    let _app = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.message().await;
        peer.send(SWITCHED).await;
        peer.exactly(1).await;
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], stream_idle_timeout: 20s");
    let mut client = sidecar.client().await;
    client.send(UPGRADE).await;
    switches(&mut client).await;
    let watch = Watch::start();
    assert_eq!(client.rest().await, b"");
    assert_eq!(watch.seconds(), 20, "silent for as long as the file allows");
    settle().await;
    assert_eq!(sidecar.sum("pillion_requests_total status=101 reason=stream_idle_timeout"), 1);
}

/// The two halves of an HTTP/2 client's tunnel.
pub(super) async fn extended_connect(
    sidecar: &Sidecar,
) -> (http::Response<h2::RecvStream>, h2::SendStream<Bytes>) {
    let io = sidecar.client().await.into_io();
    let (send, conn) = h2::client::handshake(io).await.expect("the sidecar speaks HTTP/2");
    tokio::spawn(conn);
    settle().await; // the sidecar's SETTINGS
    let mut send = send.ready().await.expect("a free stream");
    assert!(send.is_extended_connect_protocol_enabled());
    let mut request =
        Request::builder().method("CONNECT").uri("http://orders/chat").body(()).expect("a request");
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    request.headers_mut().insert("sec-websocket-version", "13".parse().expect("a value"));
    let (answer, stream) = send.send_request(request, false).expect("it can be sent");
    (answer.await.expect("an answer"), stream)
}

#[tokio::test(start_paused = true)]
async fn an_http2_client_reaches_a_websocket_server_of_http1() {
    let mesh = Mesh::default();
    let app = echo(&mesh, A);
    for sidecar in
        [mesh.caller("endpoints: [10.0.0.1:80], protocol: http1"), mesh.application("app: 10.0.0.1:80")]
    {
        let (answer, mut stream) = extended_connect(&sidecar).await;
        assert_eq!(answer.status(), 200);
        assert!(
            answer.headers().get("sec-websocket-accept").is_none()
                && answer.headers().get("upgrade").is_none()
        );
        stream.send_data(Bytes::from_static(b"hello"), true).expect("the stream is open");
        assert_eq!(read_body(&mut answer.into_body()).await.expect("a body"), b"hello");
    }
    for request in app.requests() {
        assert!(request.head.starts_with("GET /chat HTTP/1.1\r\n"), "{}", request.head);
        assert_eq!(request.header("upgrade"), Some("websocket"));
        assert_eq!(request.header("sec-websocket-key").map(str::len), Some(24));
    }
}

#[tokio::test(start_paused = true)]
async fn an_http1_client_reaches_a_websocket_server_of_http2() {
    let mesh = Mesh::default();
    let _app = mesh.scripted(A, |peer: Peer, _| async move {
        let mut server = h2::server::Builder::new();
        server.enable_connect_protocol();
        let Ok(mut conn) = server.handshake::<_, Bytes>(peer.into_io()).await else { return };
        while let Some(Ok((request, mut respond))) = conn.accept().await {
            assert_eq!(request.extensions().get::<Protocol>(), Some(&Protocol::from_static("websocket")));
            assert!(request.headers().get("sec-websocket-key").is_none());
            tokio::spawn(async move {
                let mut stream = respond.send_response(http::Response::new(()), false).expect("it is open");
                let heard = read_body(&mut request.into_body()).await.expect("a body");
                stream.send_data(heard.into(), true).expect("it is open");
            });
        }
    });
    let sidecar = mesh.application("app: 10.0.0.1:80, protocol: http2");
    let mut client = sidecar.client().await;
    client.send(UPGRADE).await;
    let head = switches(&mut client).await.to_ascii_lowercase();
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    client.send("hello").await;
    client.half_close().await;
    assert_eq!(client.rest().await, b"hello");
}

#[tokio::test(start_paused = true)]
async fn an_inbound_connect_is_answered_by_the_application() {
    let mesh = Mesh::default();
    let app = mesh.scripted(A, |mut peer: Peer, nth| async move {
        peer.message().await;
        let answer =
            ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n"]
                [nth.min(1)];
        peer.send(answer).await;
        let (heard, _) = peer.exactly(4).await;
        drop(peer.try_send(heard).await);
    });
    let sidecar = mesh.application("app: 10.0.0.1:80");
    let connect = "CONNECT evil.example:443 HTTP/1.1\r\nhost: evil.example:443\r\n\r\n";
    let mut client = sidecar.client().await;
    client.send(connect).await;
    assert!(client.head().await.expect("an answer").starts_with("HTTP/1.1 200 "));
    echoes(&mut client, "ping").await;
    assert_eq!(sidecar.client().await.ask(connect).await.status_and_reason(), (405, None));
    assert!(
        app.requests()
            .iter()
            .all(|request| request.head.starts_with("CONNECT evil.example:443 HTTP/1.1\r\n"))
    );
}

/// Go's `net/http` may answer 200 to a CONNECT and read the next bytes as a request, which no rule has judged.
#[tokio::test(start_paused = true)]
async fn a1_no_http_reaches_the_application_through_a_tunnel_that_it_may_not_have_opened() {
    for (inside, passes) in [
        ("GET /secret HTTP/1.1\r\nx-forwarded-client-cert: URI=spiffe://a/b\r\n\r\n", false),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false),
        ("\r\n\r\nDELETE /secret HTTP/1.1\r\n\r\n", false),
        ("EHLO client\r\n", true),
    ] {
        let mesh = Mesh::default();
        let app = mesh.scripted(A, |mut peer: Peer, _| async move {
            peer.message().await;
            peer.send("HTTP/1.1 200 OK\r\n\r\n").await;
            let heard = peer.rest().await;
            assert!(!heard.windows(7).any(|word| word == b"/secret" || word == b"HTTP/2."), "{heard:?}");
        });
        let sidecar = mesh.application("app: 10.0.0.1:80");
        let mut client = sidecar.client().await;
        client.send("CONNECT x:80 HTTP/1.1\r\nhost: x:80\r\n\r\n").await;
        assert!(client.head().await.expect("an answer").starts_with("HTTP/1.1 200 "));
        drop(client.try_send(inside).await);
        if passes {
            drop(client);
        } else {
            assert_eq!(client.rest().await, b"");
        }
        settle().await; // the exchange is recorded
        let refused = sidecar.sum("pillion_requests_total reason=bad_request");
        assert_eq!(refused, u64::from(!passes), "{inside:?}");
        assert_eq!(app.hits(), 1);
    }
}

/// The bytes behind a CONNECT may come from another party: a request among them is not a request of this client.
#[tokio::test(start_paused = true)]
async fn bytes_behind_a_refused_connect_are_not_read_as_a_request() {
    let mesh = Mesh::default();
    let app = mesh.answering(A, "HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n");
    let sidecar = mesh.application("app: 10.0.0.1:80");
    let mut client = sidecar.client().await;
    client.send("CONNECT orders:80 HTTP/1.1\r\nhost: orders:80\r\n\r\n").await;
    client.send("GET /hidden HTTP/1.1\r\nhost: orders\r\n\r\n").await;
    let refused = client.answer().await;
    assert_eq!((refused.status_and_reason(), refused.header("connection")), ((405, None), Some("close")));
    assert_eq!(client.rest().await, b"");
    assert_eq!(app.hits(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_holds_its_place_among_the_connections_of_the_service() {
    let mesh = Mesh::default();
    let _app = echo(&mesh, A);
    let sidecar =
        mesh.caller("endpoints: [10.0.0.1:80], timeout: 5s, circuit_breaker: { max_connections: 1 }");
    let mut first = sidecar.client().await;
    first.send(UPGRADE).await;
    switches(&mut first).await;
    let mut second = sidecar.client().await;
    assert_eq!(
        second.ask(UPGRADE).await.status_and_reason(),
        (504, Some("request_timeout")),
        "it waited for a place"
    );
    drop(first);
    second.send(UPGRADE).await;
    tokio::time::timeout(secs(5), switches(&mut second)).await.expect("the place is free again");
}

#[tokio::test(start_paused = true)]
async fn b7_a_tunnel_over_http2_that_is_cut_does_not_look_whole() {
    let mesh = Mesh::default();
    let _app = echo(&mesh, A);
    let sidecar =
        mesh.caller("endpoints: [10.0.0.1:80], protocol: http1, stream_idle_timeout: 5s, max_duration: off");
    let (answer, _stream) = extended_connect(&sidecar).await;
    let ended = read_body(&mut answer.into_body()).await;
    assert_eq!(ended.expect_err("a reset").reason(), Some(h2::Reason::CONNECT_ERROR));
    settle().await;
    assert_eq!(sidecar.sum("pillion_requests_total reason=stream_idle_timeout"), 1);
}
