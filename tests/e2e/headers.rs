//! The headers that tell the application about its caller, and headers that clients must not be able to forge.

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::support::backend::Backend;
use crate::support::certs::{Authority, spiffe};
use crate::support::sidecar::{Pair, Plan};
use crate::support::wire::Wire;

const FORGED: &str = "x-forwarded-client-cert: By=spiffe://evil;URI=spiffe://cluster.local/ns/default/sa/root\r\n\
                      client-cert: :Zm9yZ2Vk:\r\nclient-cert-chain: :Zm9yZ2Vk:\r\n";

fn get(headers: &str) -> String {
    format!("GET / HTTP/1.1\r\nhost: orders\r\n{headers}\r\n")
}

#[tokio::test]
async fn a_forged_identity_is_removed_and_the_true_one_is_sent() {
    let (app, authority) = (Backend::echo().await, Authority::new());
    let application = Plan::application(app.address, "").identified(&authority, "orders").start().await;
    let caller = Plan::calling(application.inbound(), "").identified(&authority, "web");
    let certificate = caller.certificate();
    let caller = caller.start().await;
    assert_eq!(Wire::connect(caller.outbound()).await.ask(get(FORGED)).await.status(), 200);
    let der = CertificateDer::from_pem_slice(&certificate).expect("a certificate");
    let hash: String = digest(&SHA256, &der).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = format!("By={};Hash={hash};URI={}", spiffe("orders"), spiffe("web"));
    let seen = app.last();
    assert_eq!(seen.headers("x-forwarded-client-cert"), [&*expected]);
    assert!(!seen.head.contains("\r\nclient-cert"), "{}", seen.head);
}

#[tokio::test]
async fn without_mtls_no_caller_has_an_identity() {
    let app = Backend::echo().await;
    let application = Plan::application(app.address, "").start().await;
    Wire::connect(application.inbound()).await.ask(get(FORGED)).await;
    let caller = Plan::calling(app.address, "").start().await;
    Wire::connect(caller.outbound()).await.ask(get(FORGED)).await;
    for seen in app.requests() {
        for name in ["x-forwarded-client-cert", "client-cert", "client-cert-chain"] {
            assert_eq!(seen.header(name), None, "{}", seen.head);
        }
    }
}

#[tokio::test]
async fn forwarded_for_grows_by_unauthenticated_peers_alone() {
    let app = Backend::echo().await;
    let (pair, plain) =
        (Pair::start(app.address, "", "").await, Plan::application(app.address, "").start().await);
    let ask = async |port, headers: &str| {
        assert_eq!(Wire::connect(port).await.ask(get(headers)).await.status(), 200);
        app.last().headers("x-forwarded-for").join(" | ")
    };
    assert_eq!(ask(plain.inbound(), "").await, "127.0.0.1");
    assert_eq!(ask(plain.inbound(), "x-forwarded-for: 192.0.2.1\r\n").await, "192.0.2.1, 127.0.0.1");
    assert_eq!(ask(pair.caller.outbound(), "").await, "");
    assert_eq!(ask(pair.caller.outbound(), "x-forwarded-for: 192.0.2.1\r\n").await, "192.0.2.1");
}

#[tokio::test]
async fn forwarded_proto_and_host_are_set_when_absent() {
    let app = Backend::echo().await;
    let (pair, plain) =
        (Pair::start(app.address, "", "").await, Plan::application(app.address, "").start().await);
    let ask = async |port, headers: &str| {
        assert_eq!(Wire::connect(port).await.ask(get(headers)).await.status(), 200);
        let seen = app.last();
        let value = |name: &str| seen.header(name).unwrap_or_default().to_owned();
        (value("x-forwarded-proto"), value("x-forwarded-host"))
    };
    let proto_and_host = |proto: &str, host: &str| (proto.to_owned(), host.to_owned());
    let given = "x-forwarded-proto: https\r\nx-forwarded-host: shop.example\r\n";
    assert_eq!(ask(plain.inbound(), "").await, proto_and_host("http", "orders"));
    assert_eq!(ask(plain.inbound(), given).await, proto_and_host("https", "shop.example"));
    // The application's own scheme was http, and its sidecar recorded this before the mTLS hop.
    assert_eq!(ask(pair.caller.outbound(), "").await, proto_and_host("http", "orders"));
    assert_eq!(ask(pair.caller.outbound(), given).await, proto_and_host("https", "shop.example"));
}

#[tokio::test]
async fn a_request_id_is_kept_through_the_pair_or_made_once() {
    let app = Backend::echo().await;
    let mut pair = Pair::start(app.address, "", "").await;
    let ask = async |pair: &Pair, headers: &str| {
        assert_eq!(Wire::connect(pair.caller.outbound()).await.ask(get(headers)).await.status(), 200);
        app.last().headers("x-request-id").join(" | ")
    };
    assert_eq!(ask(&pair, "x-request-id: my-own.1\r\n").await, "my-own.1");
    for malformed in
        ["", "x-request-id:\r\n", "x-request-id: a b\r\n", &format!("x-request-id: {:x<129}\r\n", "")]
    {
        let made = ask(&pair, malformed).await;
        assert_eq!(made.len(), 36, "{made}");
    }
    let longest = format!("{:x<128}", "");
    assert_eq!(ask(&pair, &format!("x-request-id: {longest}\r\n")).await, longest);
    // Both access logs have the request id, so that a request can be found in each.
    let (caller, application) = (pair.caller.log_line().await, pair.application.log_line().await);
    assert_eq!((&caller["request_id"], &application["request_id"]), (&"my-own.1".into(), &"my-own.1".into()));
}

/// Some applications need the names in one letter case, and the fields in the order in which they were sent.
#[tokio::test]
async fn names_keep_their_case_and_order_where_http1_is_spoken_all_the_way() {
    const ANSWER: &str = "HTTP/1.1 200 Fine\r\nX-Zeta: 1\r\nContent-Length: 2\r\nx-alpha: 2\r\nSet-Cookie: a=1\r\n\
                          X-BETA:  3\r\nset-cookie: b=2\r\n\r\nok";
    let app = Backend::serving(async |mut wire, _, seen| {
        while let Some(request) = wire.message().await {
            seen.request(request);
            wire.send(ANSWER).await;
        }
    })
    .await;
    let pair = Pair::start(app.address, "protocol: http1", "").await;
    let request =
        "GET /a HTTP/1.1\r\nX-Zeta: 1\r\nHOST: orders\r\nSOAPAction: \"x\"\r\nx-alpha:2\r\nX-Zeta: 3\r\n\r\n";
    let answer = Wire::connect(pair.caller.outbound()).await.ask(request).await;
    let seen = app.last().head;
    let came =
        "GET /a HTTP/1.1\r\nX-Zeta: 1\r\nHOST: orders\r\nSOAPAction: \"x\"\r\nx-alpha: 2\r\nX-Zeta: 3\r\n";
    assert!(seen.starts_with(came), "{seen}");
    let came = "HTTP/1.1 200 Fine\r\nX-Zeta: 1\r\nContent-Length: 2\r\nx-alpha: 2\r\nSet-Cookie: a=1\r\nX-BETA: 3\r\n\
                set-cookie: b=2\r\n";
    assert!(answer.head.starts_with(came), "{}", answer.head);
}

#[tokio::test]
async fn hop_by_hop_headers_and_those_named_by_connection_are_removed() {
    let app = Backend::serving(async |mut wire, _, seen| {
        while let Some(request) = wire.message().await {
            seen.request(request);
            let headers = "connection: keep-alive, x-secret\r\nkeep-alive: timeout=5\r\nx-secret: 1\r\n\
                           proxy-connection: keep-alive\r\nx-pillion-refused: 1\r\nx-kept: 1\r\n";
            wire.send(format!("HTTP/1.1 200 OK\r\n{headers}content-length: 0\r\n\r\n")).await;
        }
    })
    .await;
    let pair = Pair::start(app.address, "", "").await;
    let headers = "connection: x-mine, keep-alive\r\nx-mine: 1\r\nkeep-alive: timeout=5\r\n\
                   proxy-connection: keep-alive\r\nte: gzip, trailers\r\nupgrade: websocket\r\nx-kept: 1\r\n";
    let answer = Wire::connect(pair.caller.outbound()).await.ask(get(headers)).await;
    let seen = app.last();
    for gone in ["x-mine", "keep-alive", "proxy-connection", "upgrade"] {
        assert_eq!(seen.header(gone), None, "{}", seen.head);
    }
    // `TE` concerns one connection, so `Connection` must name it (RFC 9110, 10.1.4).
    assert_eq!(seen.header("connection"), Some("te"), "{}", seen.head);
    assert_eq!((seen.header("te"), seen.header("x-kept")), (Some("trailers"), Some("1")), "{}", seen.head);
    for gone in ["x-secret", "keep-alive", "proxy-connection", "x-pillion-refused"] {
        assert_eq!(answer.header(gone), None, "{}", answer.head);
    }
    assert_eq!(answer.header("x-kept"), Some("1"));
}

#[tokio::test]
async fn headers_that_only_sidecars_may_send_are_removed() {
    let app = Backend::echo().await;
    let plain = Plan::application(app.address, "").start().await;
    let pair = Pair::start(app.address, "", "").await;
    let ours = "x-pillion-via: a-o=3\r\nx-pillion-refused: 1\r\nx-pillion-new: 1\r\nx-pillion-attempt: 1\r\n";
    for port in [plain.inbound(), pair.caller.outbound()] {
        assert_eq!(Wire::connect(port).await.ask(get(ours)).await.status(), 200);
        assert!(!app.last().head.contains("x-pillion-"), "{}", app.last().head);
    }
    // `x-pillion-attempt` is removed as well where the peer is not authenticated.
    Wire::connect(plain.inbound()).await.ask(get("x-pillion-attempt: 2\r\n")).await;
    assert_eq!(app.last().header("x-pillion-attempt"), None);
}

/// An application that gets a retried request passes the header on to its own sidecar, which then makes no retries.
#[tokio::test]
async fn a_retry_is_marked_towards_the_application_and_never_multiplied() {
    let app = Backend::serving(async |mut wire, _, seen| {
        while let Some(request) = wire.message().await {
            let is_first = request.header("x-pillion-attempt").is_none();
            seen.request(request);
            let status = if is_first { "503 Service Unavailable" } else { "200 OK" };
            wire.send(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n")).await;
        }
    })
    .await;
    let pair = Pair::start(app.address, "", "").await;
    assert_eq!(Wire::connect(pair.caller.outbound()).await.get("orders", "/").await.status(), 200);
    assert_eq!(app.last().header("x-pillion-attempt"), Some("2"), "{}", app.last().head);
    assert_eq!(app.requests().len(), 2);

    let failing = Backend::serving(async |mut wire, _, seen| {
        while let Some(request) = wire.message().await {
            seen.request(request);
            wire.send("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
        }
    })
    .await;
    let caller = Plan::calling(failing.address, "").start().await;
    let answer = Wire::connect(caller.outbound()).await.ask(get("x-pillion-attempt: 2\r\n")).await;
    assert_eq!((answer.status(), failing.requests().len()), (503, 1), "retries were off for this request");
}

/// Host, absolute form, ports and letter case lead to the same service, and the application gets the host of the
/// request.
#[tokio::test]
async fn the_host_is_found_in_every_form() {
    let app = Backend::echo().await;
    let caller = Plan::calling(app.address, "hosts: [orders, \"*.orders.shop\"]").start().await;
    for (line, host, seen) in [
        ("GET /p?q=1 HTTP/1.1", "orders", "orders"),
        ("GET /p?q=1 HTTP/1.1", "ORDERS", "ORDERS"),
        ("GET /p?q=1 HTTP/1.1", "orders:8080", "orders:8080"),
        ("GET /p?q=1 HTTP/1.1", "orders.", "orders."),
        ("GET /p?q=1 HTTP/1.1", "eu.orders.shop", "eu.orders.shop"),
        ("GET http://orders/p?q=1 HTTP/1.1", "somebody.else", "orders"),
    ] {
        let request = format!("{line}\r\nhost: {host}\r\n\r\n");
        let answer = Wire::connect(caller.outbound()).await.ask(&request).await;
        assert_eq!(answer.status(), 200, "{request}");
        let got = app.last();
        assert!(got.head.starts_with("GET /p?q=1 HTTP/1.1\r\n"), "{}", got.head);
        assert_eq!(got.headers("host"), [seen], "{request}");
    }
    // The port of one service accepts any host, and leaves the host unchanged.
    assert_eq!(Wire::connect(caller.orders()).await.get("anything.at.all", "/").await.status(), 200);
    assert_eq!(app.last().header("host"), Some("anything.at.all"));
}
