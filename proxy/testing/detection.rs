//! The protocol of undeclared connections: clients and servers that are slow, silent, or speak first.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::backend::OK;
use super::mesh::{A, Mesh, Sidecar, Watch, at, identity, pass, secs, settle};
use super::peer::Peer;
use pillion_tls::identity::issue::Ca;

const BANNER: &str = "220 mail.example ESMTP\r\n";
const GET: &str = "GET / HTTP/1.1\r\nhost: orders\r\n\r\n";

/// `orders` with a port of its own, so that the destination is known without any bytes.
const OWN_PORT: &str = "endpoints: [10.0.0.1:80], listen: 127.0.0.1:0";

/// Greets, then answers each piece in capitals.
fn mail_server(mesh: &Mesh) -> super::backend::Backend {
    mesh.scripted(A, |mut peer: Peer, _| async move {
        if peer.try_send(BANNER).await.is_ok() {
            let (heard, _) = peer.exactly(4).await;
            drop(peer.try_send(heard.to_ascii_uppercase()).await);
        }
    })
}

async fn talks_to_mail_server(client: &mut Peer, what: &str) {
    assert_eq!(client.exactly(BANNER.len()).await, (BANNER.into(), true), "{what}: it greets first");
    client.send("ehlo").await;
    assert_eq!(client.rest().await, b"EHLO", "{what}");
}

/// Both directions with a known destination: a service's own port, and the application.
fn both(mesh: &Mesh) -> [(Sidecar, &'static str); 2] {
    [(mesh.caller(OWN_PORT), "outbound"), (mesh.application("app: 10.0.0.1:80"), "inbound")]
}

#[tokio::test(start_paused = true)]
async fn a_server_that_speaks_first_works_without_a_declaration() {
    let mesh = Mesh::default();
    let server = mail_server(&mesh);
    for (sidecar, what) in both(&mesh) {
        let mut silent = sidecar.direct_client().await;
        let watch = Watch::start();
        talks_to_mail_server(&mut silent, what).await;
        assert_eq!(watch.seconds(), 0, "{what}");
        settle().await;
        let detected = format!("pillion_detections_total direction={what} verdict=opaque");
        assert_eq!(sidecar.sum(&detected), 1, "{what}");
        let counted = format!("pillion_connections_total direction={what} protocol=tcp tls=none outcome=ok");
        assert!(sidecar.sum(&counted) > 0, "{what}");
        assert_eq!(sidecar.sum(&format!("pillion_bytes_total direction={what} flow=sent")), 28, "{what}");
        assert_eq!(sidecar.sum(&format!("pillion_bytes_total direction={what} flow=received")), 4, "{what}");
    }
    assert_eq!((server.connections(), server.open()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_trickles_in_byte_by_byte_is_served() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    for (sidecar, what) in both(&mesh) {
        let mut client = sidecar.direct_client().await;
        for byte in GET.as_bytes().chunks(1) {
            tokio::time::sleep(secs(1) / 4).await;
            client.send(byte).await;
        }
        assert_eq!(client.answer().await.status_and_reason(), (200, None), "{what}");
        assert_eq!(client.get("/again").await.status_and_reason(), (200, None), "{what}: and stays HTTP");
    }
}

#[tokio::test(start_paused = true)]
async fn a_spare_connection_speaks_http_a_minute_later() {
    for nth in 0..2 {
        let mesh = Mesh::default();
        let a = mesh.answering(A, OK);
        let (sidecar, what) = both(&mesh).into_iter().nth(nth).expect("two directions");
        let mut spare = sidecar.direct_client().await;
        pass(60).await;
        assert_eq!(a.open(), 1, "{what}: the server was dialled, to hear whether it speaks first");
        assert_eq!(spare.get("/").await.status_and_reason(), (200, None), "{what}");
        settle().await;
        assert_eq!((a.hits(), a.connections()), (1, 2), "{what}");
        assert_eq!(a.open(), 1, "{what}: the early connection was closed unused");
        assert_eq!(sidecar.sum("pillion_detections_total verdict=http1"), 1, "{what}");
    }
}

/// Node answers 408 after a minute and Apache closes after 20 s, both on a connection without a request.
#[tokio::test(start_paused = true)]
async fn an_http_server_that_gives_up_waiting_does_not_decide_the_protocol() {
    for last_words in ["", "HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\r\n"] {
        let mesh = Mesh::default();
        let a = mesh.scripted(A, move |mut peer: Peer, nth| async move {
            if nth > 0 {
                peer.message().await;
                peer.send(OK).await;
                pass(1).await;
                return;
            }
            pass(20).await;
            drop(peer.try_send(last_words).await);
        });
        let sidecar = mesh.caller(OWN_PORT);
        let mut spare = sidecar.direct_client().await;
        pass(60).await;
        assert_eq!((a.connections(), a.open()), (1, 0));
        assert_eq!(spare.get("/").await.status_and_reason(), (200, None), "{last_words:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_closed_when_its_server_refuses_the_connection() {
    let mesh = Mesh::default();
    for (sidecar, what) in both(&mesh) {
        let mut silent = sidecar.direct_client().await;
        let watch = Watch::start();
        assert_eq!(silent.rest().await, b"", "{what}: no server listens there");
        assert_eq!(watch.seconds(), 1, "{what}: it might have been slow");
        assert_eq!(
            sidecar.direct_client().await.get("/").await.status_and_reason().0,
            502,
            "{what}: a request hears why"
        );
        let mut spare = sidecar.direct_client().await;
        pass(60).await;
        assert_eq!(
            spare.get("/").await.status_and_reason().0,
            502,
            "{what}: this destination spoke HTTP the last time"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_learns_that_there_is_no_server() {
    let mesh = Mesh::default();
    for (sidecar, what) in both(&mesh) {
        let mut slow = sidecar.direct_client().await;
        tokio::time::sleep(secs(1) / 2).await;
        assert_eq!(slow.get("/").await.status_and_reason().0, 502, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_closed_when_its_server_closes_at_once() {
    let mesh = Mesh::default();
    let a = mesh.scripted(A, |_peer, _| async {});
    let sidecar = mesh.caller(OWN_PORT);
    let mut silent = sidecar.direct_client().await;
    assert_eq!(silent.rest().await, b"");
    assert_eq!(a.connections(), 1);
}

/// Closes connections without a word, and then answers.
fn closes_the_first(mesh: &Mesh) -> super::backend::Backend {
    mesh.scripted(A, |mut peer: Peer, nth| async move {
        if nth > 0 {
            peer.message().await;
            peer.send(OK).await;
            pass(1).await;
        }
    })
}

/// As a sidecar does that is about to end. Until now no connection has shown what the destination speaks.
#[tokio::test(start_paused = true)]
async fn a_slow_client_gets_another_connection_when_its_server_has_closed_the_early_one() {
    for nth in 0..2 {
        let mesh = Mesh::default();
        let a = closes_the_first(&mesh);
        let (sidecar, what) = both(&mesh).into_iter().nth(nth).expect("two directions");
        let mut slow = sidecar.direct_client().await;
        tokio::time::sleep(secs(1) / 2).await;
        assert_eq!(a.connections(), 1, "{what}: the early connection");
        assert_eq!(slow.get("/").await.status_and_reason(), (200, None), "{what}");
        assert_eq!(a.connections(), 2, "{what}");
    }
}

/// Here the runtime has not seen the client's bytes at the end of the second for which the sidecar waits.
#[tokio::test(start_paused = true)]
async fn a_client_that_speaks_just_as_its_second_is_over_is_answered() {
    for (is_there, expected) in [(true, 200), (false, 502)] {
        for nth in 0..2 {
            let mesh = Mesh::default();
            let _a = is_there.then(|| closes_the_first(&mesh));
            let (sidecar, what) = both(&mesh).into_iter().nth(nth).expect("two directions");
            let mut slow = sidecar.direct_client().await;
            tokio::time::sleep(secs(1) / 2).await;
            slow.send_unnoticed(GET).await;
            pass(1).await;
            slow.io.withhold(false);
            assert_eq!(slow.answer().await.status(), Some(expected), "{what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn opaque_bytes_of_a_slow_client_go_to_another_connection_when_the_early_one_is_closed() {
    for nth in 0..2 {
        let mesh = Mesh::default();
        let a = mesh.scripted(A, |mut peer: Peer, nth| async move {
            if nth > 0 {
                let (heard, _) = peer.exactly(4).await;
                peer.send(heard.to_ascii_lowercase()).await;
            }
        });
        let (sidecar, what) = both(&mesh).into_iter().nth(nth).expect("two directions");
        let mut slow = sidecar.direct_client().await;
        tokio::time::sleep(secs(1) / 2).await;
        slow.send("\0ABC").await;
        assert_eq!(slow.exactly(4).await, (b"\0abc".to_vec(), true), "{what}");
        assert_eq!(a.connections(), 2, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn opaque_bytes_that_come_in_the_moment_in_which_the_server_closes_go_to_another_connection() {
    let mesh = Mesh::default();
    let (turn, client) = (Arc::new(Notify::new()), Arc::new(Mutex::new(None::<Peer>)));
    let (comes, speaks) = (turn.clone(), client.clone());
    let a = mesh.scripted(A, move |mut peer: Peer, nth| {
        let (comes, speaks) = (comes.clone(), speaks.clone());
        async move {
            if nth > 0 {
                let (heard, _) = peer.exactly(4).await;
                return peer.send(heard.to_ascii_lowercase()).await;
            }
            comes.notified().await;
            let mut client = speaks.lock().take().expect("a client");
            client.send("\0ABC").await; // no task of the sidecar runs before the end of this one
            drop(peer);
            *speaks.lock() = Some(client);
        }
    });
    let sidecar = mesh.caller(OWN_PORT);
    *client.lock() = Some(sidecar.direct_client().await);
    tokio::time::sleep(secs(1) / 2).await;
    turn.notify_one();
    settle().await;
    let mut client = client.lock().take().expect("a client");
    assert_eq!(client.exactly(4).await, (b"\0abc".to_vec(), true));
    assert_eq!(a.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_first_bytes_of_a_server_are_kept_while_they_may_be_http_and_its_client_speaks() {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.send("HT").await;
        let (heard, _) = peer.exactly(4).await;
        peer.send(heard.to_ascii_lowercase()).await;
    });
    let sidecar = mesh.caller(OWN_PORT);
    let mut client = sidecar.direct_client().await;
    tokio::time::sleep(secs(1) / 2).await;
    client.send("\0ABC").await;
    assert_eq!(client.exactly(6).await, (b"HT\0abc".to_vec(), true));
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_not_http_reach_the_server_unchanged() {
    let mesh = Mesh::default();
    let _echo = mesh.scripted(A, |mut peer: Peer, _| async move {
        let heard = peer.rest().await;
        drop(peer.try_send(heard).await);
    });
    for (sidecar, what) in both(&mesh) {
        for said in [
            "\0\0\0\u{8}\u{4}",
            "PING\r\n",
            "*1\r\n$4\r\nPING\r\n",
            "GET",
            "",
            "EHLO me\r\nGET / HTTP/1.1\r\n\r\n",
        ] {
            let mut client = sidecar.direct_client().await;
            client.send(said).await;
            client.half_close().await;
            assert_eq!(client.rest().await, said.as_bytes(), "{what} {said:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_strict_port_dials_no_application_for_a_client_without_tls() {
    let ca = Ca::generate("cluster.local").expect("a CA");
    let mesh = Mesh::default();
    let server = mail_server(&mesh);
    let yaml = super::mesh::application("app: 10.0.0.1:80, mtls: strict")
        .replace("workers", "identity: { directory: unused }\nworkers");
    let sidecar = mesh.sidecar(&yaml, Some(identity(&ca, "orders")));
    let mut silent = sidecar.direct_client().await;
    let watch = Watch::start();
    for said in ["\0\0\0\u{8}", "EHLO me\r\n"] {
        let mut client = sidecar.direct_client().await;
        client.send(said).await;
        assert_eq!(client.rest().await, b"", "{said:?}: not a byte");
    }
    assert_eq!(
        sidecar.direct_client().await.ask(GET).await.status_and_reason(),
        (403, Some("mtls_required"))
    );
    assert_eq!(silent.rest().await, b"");
    assert_eq!(watch.seconds(), 10, "silence does not buy more time than limits.header_timeout");
    assert_eq!(server.connections(), 0, "the application sees no connection");
}

#[tokio::test(start_paused = true)]
async fn a_cut_connection_is_not_passed_on_as_an_ordinary_end() {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.send(BANNER).await;
        pass(3_700).await;
    });
    let sidecar = mesh.caller(OWN_PORT);
    let mut client = sidecar.direct_client().await;
    let watch = Watch::start();
    assert_eq!(client.rest().await, BANNER.as_bytes());
    assert_eq!(watch.seconds(), 3600, "an hour of silence ends it");
}

#[tokio::test(start_paused = true)]
async fn a_redirected_connection_reaches_its_original_destination() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let elsewhere = mesh.answering("192.0.2.9:8080", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nelsewhere");
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.redirected("192.0.2.9:8080").await;
    assert_eq!(client.ask("GET / HTTP/1.1\r\nhost: example.org\r\n\r\n").await.body, "elsewhere");
    let request = &elsewhere.requests()[0];
    assert_eq!(
        request.head, "GET / HTTP/1.1\r\nhost: example.org\r\n\r\n",
        "nothing is added, the host kept"
    );
    let mut old = sidecar.redirected("192.0.2.9:8080").await;
    assert_eq!(old.ask("GET / HTTP/1.0\r\n\r\n").await.body, "elsewhere");
    let request = &elsewhere.requests()[1];
    assert_eq!(request.header("host"), Some("192.0.2.9:8080"), "HTTP/1.1 needs one (RFC 9112, 3.2)");
    assert_eq!(client.get("/").await.body, "ok", "a host of a service is a service's, request by request");
    settle().await;
    assert_eq!(a.hits(), 1);
    assert_eq!(sidecar.sum("pillion_requests_total service=passthrough status=200"), 2);
    assert_eq!(sidecar.sum("pillion_requests_total service=orders status=200"), 1);
    let mut own = sidecar.redirected(&sidecar.address().to_string()).await;
    let answer = own.ask("GET / HTTP/1.1\r\nhost: example.org\r\n\r\n").await;
    assert_eq!(answer.status_and_reason(), (404, Some("no_route")), "an own listener means: not redirected");
}

#[tokio::test(start_paused = true)]
async fn a_redirected_connection_to_a_server_that_speaks_first_works() {
    let mesh = Mesh::default();
    let _server = mail_server(&mesh);
    let sidecar = mesh.caller("endpoints: [10.0.0.7:80]");
    talks_to_mail_server(&mut sidecar.redirected(A).await, "passthrough").await;
    let sidecar = mesh.application("app: 10.0.0.7:80");
    talks_to_mail_server(&mut sidecar.redirected(A).await, "inbound, at its original address").await;
}

#[tokio::test(start_paused = true)]
async fn connect_is_treated_like_a_redirected_connection() {
    let mesh = Mesh::default();
    let _orders = mesh.answering(A, OK);
    let _mail = mesh.scripted("192.0.2.9:25", |mut peer: Peer, _| async move {
        peer.send(BANNER).await;
        let (heard, _) = peer.exactly(4).await;
        drop(peer.try_send(heard.to_ascii_uppercase()).await);
    });
    mesh.memory.name("mail.example", at("192.0.2.9:25").ip());
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let connect = |to: &str| format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n\r\n");

    let mut client = sidecar.client().await;
    client.send(connect("orders:80")).await;
    assert!(client.head().await.expect("an answer").starts_with("HTTP/1.1 200 "));
    assert_eq!(client.get("/").await.status_and_reason(), (200, None), "HTTP inside is HTTP");

    let mut client = sidecar.client().await;
    client.send(connect("mail.example:25")).await;
    assert!(client.head().await.expect("an answer").starts_with("HTTP/1.1 200 "));
    talks_to_mail_server(&mut client, "inside a CONNECT").await;

    let own = sidecar.address().to_string();
    for (to, status, reason) in [
        ("nobody.example:80", 502, "dns_error"),
        ("192.0.2.9:26", 502, "connect_refused"),
        ("169.254.169.254:80", 403, "egress_denied"),
        (&own, 403, "egress_denied"),
        ("orders", 400, "bad_request"),
    ] {
        let mut client = sidecar.client().await;
        assert_eq!(client.ask(&connect(to)).await.status_and_reason(), (status, Some(reason)), "{to}");
        assert_eq!(client.rest().await, b"", "{to}: what comes behind it is no request");
    }
}

#[tokio::test(start_paused = true)]
async fn a12_no_client_reaches_a_metadata_service_by_its_address_or_by_a_name_for_it() {
    let mesh = Mesh::default();
    mesh.memory.name("metadata.example", at("[64:ff9b::a9fe:a9fe]:80").ip());
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    for host in [
        "169.254.169.254",
        "168.63.129.16",
        "100.100.100.200",
        "[fd00:ec2::254]",
        "[fd20:ce::254]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::1]",
        "[::ffff:169.254.169.254]",
        "metadata.example",
    ] {
        let connect = format!("CONNECT {host}:80 HTTP/1.1\r\nhost: {host}:80\r\n\r\n");
        let absolute = format!("GET http://{host}/latest HTTP/1.1\r\nhost: {host}\r\n\r\n");
        for request in [connect, absolute] {
            let answer = sidecar.client().await.ask(&request).await;
            assert_eq!(answer.status_and_reason(), (403, Some("egress_denied")), "{request}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn absolute_form_names_its_destination() {
    let mesh = Mesh::default();
    let web = mesh.answering("192.0.2.9:80", OK);
    mesh.memory.name("web.example", at("192.0.2.9:80").ip());
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    let answer = client.ask("GET http://web.example/x HTTP/1.1\r\nhost: web.example\r\n\r\n").await;
    assert_eq!(answer.status_and_reason(), (200, None));
    assert!(
        web.requests()[0].head.starts_with("GET /x HTTP/1.1\r\nhost: web.example"),
        "{}",
        web.requests()[0].head
    );
    let answer = client.ask("GET http://nobody.example/ HTTP/1.1\r\nhost: nobody.example\r\n\r\n").await;
    assert_eq!(answer.status_and_reason(), (502, Some("dns_error")));
}
