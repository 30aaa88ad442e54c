//! No peer can choose that an application which speaks HTTP gets bytes that were not checked as HTTP. And no peer can
//! keep an application that speaks another protocol from its own clients.

use std::sync::Arc;

use parking_lot::Mutex;

use super::backend::OK;
use super::mesh::{A, IDENTITY, Mesh, Pair, Sidecar, Watch, application_at, identity, pass, settle};
use super::peer::Peer;
use pillion_tls::client::Purpose;

const AT: &str = "10.1.0.1:15006";
const EVIL: &str = "host: a\r\nx-forwarded-client-cert: URI=evil\r\n\r\n";
const BANNER: &str = "220 mail.example ESMTP\r\n";

/// Lines that RFC 9112 does not allow, but that some servers accept.
const MALFORMED: [&str; 13] = [
    "GET /a HTTP/1.1 \r\n",
    "GET  /a HTTP/1.1\r\n",
    "GET\t/a\tHTTP/1.1\r\n",
    " GET /a HTTP/1.1\r\n",
    "GET /a HTTP/2.0\r\n",
    "GET /a http/1.1\r\n",
    "FETCH /a b HTTP/1.1\r\n",
    "GET /a\r\n",
    "GET key\r\n",
    "PURGE /a\r\n",
    "OPTIONS / RTSP/1.0\r\n",
    "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET /a HTTP/1.1\r\n",
    "\r\n\r\n\0\r\nQUIT\n\x20\0\0\0GET /a HTTP/1.1\r\n",
];

/// Lines that RFC 9112 allows, and that are served as HTTP.
const UNUSUAL: [&str; 3] =
    ["get /a HTTP/1.1\r\n", "FETCH /a HTTP/1.1\r\n", "\r\n\r\nPURGE http://a/ HTTP/1.1\r\n"];

/// Everything that an application has received.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<u8>>>);

impl Heard {
    /// An application that notes what it hears, piece by piece, and never answers.
    fn by(mesh: &Mesh) -> Self {
        let heard = Self::default();
        let notes = heard.clone();
        drop(mesh.scripted(A, move |mut peer: Peer, _| {
            let notes = notes.clone();
            async move {
                while let (byte, true) = peer.exactly(1).await {
                    notes.0.lock().extend(byte);
                }
            }
        }));
        heard
    }

    fn contains(&self, part: &str) -> bool {
        String::from_utf8_lossy(&self.0.lock()).contains(part)
    }
}

/// The application's sidecar, with an identity. `policy` is further content of the inbound block.
fn sidecar(pair: &Pair, policy: &str) -> Sidecar {
    let yaml = application_at(AT, &format!("app: {A}, {policy}")) + IDENTITY;
    pair.mesh.sidecar(&yaml, Some(identity(&pair.ca, "orders")))
}

/// The way in which the attacker reaches the application.
#[derive(Debug, Clone, Copy)]
enum Way {
    Plaintext,
    /// As a peer of the mesh that declares its bytes as opaque.
    PillionTcp,
}

impl Way {
    async fn client(self, pair: &Pair, to: &Sidecar) -> Peer {
        match self {
            Self::Plaintext => to.client().await,
            Self::PillionTcp => pair.peer(AT, Purpose::Tcp).await,
        }
    }
}

const WAYS: [(&str, Way); 3] =
    [("mtls: off", Way::Plaintext), ("mtls: permissive", Way::Plaintext), ("mtls: strict", Way::PillionTcp)];

#[tokio::test(start_paused = true)]
async fn a1_lines_that_a_lenient_server_reads_are_answered_400() {
    for (policy, way) in WAYS {
        let pair = Pair::new();
        let heard = Heard::by(&pair.mesh);
        let sidecar = sidecar(&pair, policy);
        for (nth, line) in (1..).zip(MALFORMED) {
            let mut client = way.client(&pair, &sidecar).await;
            client.send(format!("{line}{EVIL}")).await;
            let answer = client.message().await.unwrap_or_else(|| panic!("{policy}: {line:?}: no answer"));
            assert_eq!(answer.status_and_reason(), (400, Some("bad_request")), "{policy}: {line:?}");
            settle().await;
            let counted = sidecar.sum("pillion_requests_total status=400 reason=bad_request");
            assert_eq!(counted, nth, "{policy}: {line:?}");
        }
        assert_eq!(sidecar.sum("pillion_detections_total verdict=opaque"), 0, "{policy}");
        assert!(!heard.contains("evil"), "{policy}");
    }
}

/// Each line is sent in two pieces, cut at every place, without a pause and with a pause longer than
/// `limits.header_timeout`.
#[tokio::test(start_paused = true)]
async fn a1_no_pause_makes_a_line_of_http_opaque() {
    for (policy, way) in WAYS {
        let pair = Pair::new();
        let heard = Heard::by(&pair.mesh);
        let sidecar = sidecar(&pair, policy);
        for line in MALFORMED.into_iter().chain(UNUSUAL) {
            for cut in 1..line.len() {
                for pause in [0, 11] {
                    let (first, rest) = line.split_at(cut);
                    let mut client = way.client(&pair, &sidecar).await;
                    client.send(first).await;
                    settle().await;
                    pass(pause).await;
                    drop(client.try_send(format!("{rest}{EVIL}")).await);
                    settle().await;
                }
            }
        }
        pass(60).await;
        assert!(!heard.contains("evil"), "{policy}: {}", String::from_utf8_lossy(&heard.0.lock()));
    }
}

#[tokio::test(start_paused = true)]
async fn a1_a_first_line_without_end_is_refused_and_empty_lines_are_closed() {
    let pair = Pair::new();
    let heard = Heard::by(&pair.mesh);
    let sidecar = sidecar(&pair, "mtls: off");
    for (endless, status) in [("\r\n", None), ("x", Some(431)), ("PURGE ", Some(400))] {
        let mut client = sidecar.client().await;
        let watch = Watch::start();
        while client.try_send(endless.repeat(1024)).await.is_ok() {
            assert!(watch.seconds() < 60, "{endless:?}: it is read for ever");
            settle().await;
        }
        if let Some(status) = status {
            assert_eq!(client.answer().await.status(), Some(status), "{endless:?}");
        }
    }
    assert!(heard.0.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a1_a_port_declared_http_is_never_opaque_to_a_client_that_speaks_first() {
    for (policy, way) in WAYS {
        for protocol in ["http1", "http2"] {
            let pair = Pair::new();
            let heard = Heard::by(&pair.mesh);
            let sidecar = sidecar(&pair, &format!("{policy}, protocol: {protocol}"));
            for opaque in ["\0\0\0\x08\x04", "EHLO me\r\n", "*1\r\n$4\r\nPING\r\n"] {
                let mut client = way.client(&pair, &sidecar).await;
                let answer = client.ask(opaque).await;
                assert_eq!(
                    answer.status_and_reason(),
                    (400, Some("bad_request")),
                    "{policy} {protocol} {opaque:?}"
                );
            }
            pass(60).await;
            assert!(heard.0.lock().is_empty(), "{policy} {protocol}");
        }
    }
}

/// A declaration decides: nothing is inspected, except TLS that a permissive port terminates.
#[tokio::test(start_paused = true)]
async fn a_port_declared_tcp_gets_every_byte_unchanged() {
    for (policy, way) in WAYS {
        let pair = Pair::new();
        let heard = Heard::by(&pair.mesh);
        let sidecar = sidecar(&pair, &format!("{policy}, protocol: tcp"));
        for said in ["GET / HTTP/1.1\r\n\r\n", "hello", "GET"] {
            let mut client = way.client(&pair, &sidecar).await;
            client.send(said).await;
            settle().await;
            assert!(heard.contains(said), "{policy}: {said:?}");
            heard.0.lock().clear();
        }
    }
}

/// A word that waits for its answer, as in a debugger's handshake. It is carried as the application's protocol, and cut
/// before it becomes a request.
#[tokio::test(start_paused = true)]
async fn a_word_without_an_end_is_carried_and_a1_cut_before_it_is_a_request() {
    let pair = Pair::new();
    let heard = Heard::by(&pair.mesh);
    let sidecar = sidecar(&pair, "mtls: off");
    let mut honest = sidecar.client().await;
    honest.send("JDWP-Handshake").await;
    pass(11).await;
    assert!(heard.contains("JDWP-Handshake"));
    honest.send("\0\0\0\x0b and HTTP/1.1, long after").await;
    settle().await;
    assert!(heard.contains("long after"), "it is no line of HTTP any more, and nobody looks");
    let mut attacker = sidecar.client().await;
    attacker.send("FETCH").await;
    pass(11).await;
    attacker.send(format!(" /a HTTP/1.1\r\n{EVIL}")).await;
    assert_eq!(attacker.rest().await, b"");
    assert!(heard.contains("FETCH") && !heard.contains("FETCH /a"));
}

/// First bytes of real clients, and their protocols. Before, a scan has shown the sidecar HTTP on this port.
#[tokio::test(start_paused = true)]
async fn a1_a_scan_does_not_block_a_database() {
    const CLIENTS: [&str; 10] = [
        "*1\r\n$4\r\nPING\r\n",
        "PING\r\n",
        "get key\r\n",
        "get /index.html\r\n",
        "EHLO mail.example\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "\0\0\0\x08\x04\u{7f}\x16\x2f",
        "\0\0\0\x23\0\x12\0\x03",
        "AMQP\0\0\x09\x01",
        "CONNECT {\"verbose\":false}\r\nPING\r\n",
    ];
    for (policy, way) in WAYS {
        let pair = Pair::new();
        let _echo = pair.mesh.scripted(A, |mut peer: Peer, _| async move {
            while let (byte, true) = peer.exactly(1).await {
                if peer.try_send(byte).await.is_err() {
                    return;
                }
            }
        });
        let sidecar = sidecar(&pair, policy);
        for said in CLIENTS {
            let mut scan = way.client(&pair, &sidecar).await;
            scan.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
            scan.answer().await;
            let watch = Watch::start();
            let mut client = way.client(&pair, &sidecar).await;
            client.send(said).await;
            assert_eq!(client.exactly(said.len()).await, (said.into(), true), "{policy}: {said:?}");
            assert_eq!(watch.seconds(), 0, "{policy}: {said:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a1_a_scan_does_not_block_a_server_that_speaks_first() {
    let pair = Pair::new();
    let _mail = pair.mesh.scripted(A, |mut peer: Peer, _| async move {
        drop(peer.try_send(BANNER).await);
        peer.rest().await;
    });
    let sidecar = sidecar(&pair, "mtls: off");
    for half_closes in [false, true] {
        let mut scan = sidecar.client().await;
        scan.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        scan.answer().await;
        let mut client = sidecar.client().await;
        if half_closes {
            client.half_close().await;
        }
        assert_eq!(client.exactly(BANNER.len()).await.0, BANNER.as_bytes(), "half closed: {half_closes}");
    }
}

/// An HTTP server that gives up waiting sends its answer in two pieces.
#[tokio::test(start_paused = true)]
async fn a1_a_server_of_http_is_known_by_pieces_of_its_last_words() {
    let mesh = Mesh::default();
    let heard = Heard::default();
    let notes = heard.clone();
    let _app = mesh.scripted(A, move |mut peer: Peer, nth| {
        let notes = notes.clone();
        async move {
            if nth == 0 {
                pass(5).await;
                peer.trickle(&["HTT", "P/1.1 408 Request Timeout\r\n\r\n"], super::mesh::secs(1) / 2).await;
            } else if peer.message().await.is_some() {
                notes.0.lock().extend(b"a request");
                drop(peer.try_send(OK).await);
            }
        }
    });
    let sidecar = mesh.application(&format!("app: {A}"));
    let mut spare = sidecar.client().await;
    pass(20).await;
    assert_eq!(spare.get("/").await.status_and_reason(), (200, None));
    assert!(heard.contains("a request"));
}
