//! Answers and requests that break off: the bytes before the break are passed on, and the break never looks like an
//! end.

use super::mesh::{A, Mesh, ORDERS, Pair, Sidecar, pass, settle};
use super::peer::Peer;

/// A back-end that answers `said` to every request, and closes.
fn breaking(mesh: &Mesh, said: String) -> super::backend::Backend {
    mesh.scripted(A, move |mut peer: Peer, _| {
        let said = said.clone();
        async move {
            peer.message().await;
            peer.send(said).await;
        }
    })
}

/// One sidecar, or two that speak HTTP/1: the name, the sidecar that the client connects to, the sidecars that must
/// stay alive, and the back-end.
async fn ways(said: &str) -> Vec<(&'static str, Sidecar, Vec<Sidecar>, super::backend::Backend)> {
    let (alone, pair) = (Mesh::default(), Pair::new());
    let backends = [breaking(&alone, said.to_owned()), breaking(&pair.mesh, said.to_owned())];
    let application = pair.application("10.1.0.1:15006", A);
    let [a, b] = backends;
    vec![
        ("alone", alone.caller("endpoints: [10.0.0.1:80]"), vec![], a),
        (
            "pair",
            pair.caller(&format!("endpoints: [10.1.0.1:15006], protocol: http1, {ORDERS}")),
            vec![application],
            b,
        ),
    ]
}

#[tokio::test(start_paused = true)]
async fn b16_the_received_part_of_an_answer_is_passed_on_before_the_cut() {
    for size in [0, 1, 3000, 300_000] {
        let part = "x".repeat(size);
        let chunk = if size == 0 { String::new() } else { format!("{size:x}\r\n{part}\r\n") };
        for (framing, said) in [
            ("length", format!("HTTP/1.1 200 OK\r\ncontent-length: 400000\r\n\r\n{part}")),
            ("chunked", format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunk}")),
        ] {
            for (way, sidecar, _others, backend) in ways(&said).await {
                for round in 0..5 {
                    let mut client = sidecar.client().await;
                    client.send("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 2\r\n\r\nhi").await;
                    settle().await;
                    let case = format!("{way}, {framing}, {size}, {round}");
                    let answer = client.message().await.expect(&case);
                    assert_eq!(answer.status_and_reason(), (200, None), "{case} {}", answer.head);
                    assert_eq!((answer.body.len(), answer.is_whole), (size, false), "{case}");
                }
                assert_eq!(backend.hits(), 5, "{way}, {framing}, {size}: each request was sent once");
            }
        }
    }
}

/// Between the two sidecars an HTTP/2 stream is reset, and bytes that came shortly before the reset may be lost with it.
/// The client then gets a 502. It gets a part where the part came long before the reset.
#[tokio::test(start_paused = true)]
async fn b16_over_http2_between_the_sidecars_a_caller_never_sees_a_connection_that_did_not_answer() {
    let framings = ["content-length: 100\r\n\r\npart", "transfer-encoding: chunked\r\n\r\n4\r\npart\r\n"];
    for (framing, pause) in framings.into_iter().flat_map(|framing| [(framing, 0), (framing, 100)]) {
        let pair = Pair::new();
        let backend = pair.mesh.scripted(A, move |mut peer: Peer, _| async move {
            peer.message().await;
            peer.send(format!("HTTP/1.1 200 OK\r\n{framing}")).await;
            pass(pause).await;
        });
        let _application = pair.application("10.1.0.1:15006", A);
        let sidecar = pair.caller(&format!("endpoints: [10.1.0.1:15006], {ORDERS}"));
        for _ in 0..20 {
            let mut client = sidecar.client().await;
            client.send("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 2\r\n\r\nhi").await;
            let answer = client.message().await.expect("an answer");
            let (status, is_part) = (answer.status_and_reason().0, answer.body == "part" && !answer.is_whole);
            assert!(
                status == 200 && is_part || status == 502 && pause == 0,
                "{framing} {pause}: {}",
                answer.head
            );
        }
        assert_eq!(backend.hits(), 20, "each request was sent once");
    }
}

#[tokio::test(start_paused = true)]
async fn b16_the_received_part_of_a_request_is_passed_on_before_the_cut() {
    for (head, part) in [
        ("content-length: 400000", "part".to_owned()),
        ("content-length: 400000", "x".repeat(200_000)),
        ("transfer-encoding: chunked", "4\r\npart\r\n".to_owned()),
    ] {
        for (way, sidecar, _others, backend) in ways("").await {
            let mut client = sidecar.client().await;
            client.send(format!("POST / HTTP/1.1\r\nhost: orders\r\n{head}\r\n\r\n{part}")).await;
            drop(client);
            settle().await;
            let requests = backend.requests();
            let came: Vec<_> = requests.iter().map(|came| (came.body.len(), came.is_whole)).collect();
            let length = if head.contains("chunked") { 4 } else { part.len() };
            assert_eq!(came, [(length, false)], "{way}, {head}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b16_a_slow_reader_gets_every_byte_before_the_cut() {
    let said = format!("HTTP/1.1 200 OK\r\ncontent-length: 400000\r\n\r\n{}", "x".repeat(300_000));
    for (way, sidecar, _others, _backend) in ways(&said).await {
        let mut client = sidecar.client().await;
        client.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
        pass(100).await;
        let answer = client.answer().await;
        assert_eq!((answer.body.len(), answer.is_whole), (300_000, false), "{way}");
    }
}

/// One end of an opaque connection through one sidecar or two.
async fn opaque(mesh_of: &str, service: &str) -> (Peer, Vec<Sidecar>, super::backend::Backend) {
    let says_half = |mesh: &Mesh| {
        mesh.scripted(A, |mut peer: Peer, nth| async move {
            peer.send("half").await;
            let word = peer.exactly(4).await.0;
            match (&word[..], nth) {
                (b"end.", _) => {}
                (b"cut.", _) => peer.reset(),
                _ => std::future::pending().await,
            }
        })
    };
    let tcp = format!("listen: 127.0.0.1:0, protocol: tcp{service}");
    if mesh_of == "one sidecar" {
        let mesh = Mesh::default();
        let backend = says_half(&mesh);
        let sidecar = mesh.caller(&format!("endpoints: [10.0.0.1:80], {tcp}"));
        return (sidecar.direct_client().await, vec![sidecar], backend);
    }
    let pair = Pair::new();
    let backend = says_half(&pair.mesh);
    let application = pair.application("10.1.0.1:15006", A);
    let sidecar = pair.caller(&format!("endpoints: [10.1.0.1:15006], {ORDERS}, {tcp}"));
    (sidecar.direct_client().await, vec![sidecar, application], backend)
}

#[tokio::test(start_paused = true)]
async fn b7_opaque_bytes_that_are_cut_end_with_a_reset_and_others_do_not() {
    for way in ["one sidecar", "a pair"] {
        for (name, service, word, is_reset) in [
            ("the server ends", "", "end.", false),
            ("the server resets", "", "cut.", true),
            ("nothing moves", ", stream_idle_timeout: 5s", "wait", true),
            ("it takes too long", ", max_duration: 5s", "wait", true),
        ] {
            let (mut client, _sidecars, _backend) = opaque(way, service).await;
            client.send(word).await;
            let (came, reset) = client.ends().await;
            assert_eq!((&came[..], reset), (&b"half"[..], is_reset), "{way}: {name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b7_an_http10_answer_that_breaks_off_ends_with_a_reset_and_a_whole_one_does_not() {
    const WHOLE: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n\r\n";
    const BROKEN: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    for (said, is_reset) in [(WHOLE, false), (BROKEN, true)] {
        for (way, sidecar, _others, _backend) in ways(said).await {
            for keep_alive in ["", "connection: keep-alive\r\n"] {
                let mut client = sidecar.client().await;
                client.send(format!("GET / HTTP/1.0\r\nhost: orders\r\n{keep_alive}\r\n")).await;
                let head = client.head().await.expect("the head of an answer");
                assert!(head.starts_with("HTTP/1.1 200") && !head.contains("chunked"), "{head}");
                assert_eq!(client.ends().await, (b"half".to_vec(), is_reset), "{way}, {said:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b7_a_tunnel_that_is_cut_ends_with_a_reset() {
    const UPGRADE: &str = "GET / HTTP/1.1\r\nhost: orders\r\nconnection: upgrade\r\nupgrade: words\r\n\r\n";
    const SWITCHED: &str =
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: words\r\n\r\n";
    for (word, is_reset) in [("end.", false), ("cut.", true), ("wait", true)] {
        for protocol in ["http1", "auto"] {
            let pair = Pair::new();
            let _backend = pair.mesh.scripted(A, |mut peer: Peer, _| async move {
                drop(peer.head().await);
                peer.send(SWITCHED).await;
                peer.send("half").await;
                match &peer.exactly(4).await.0[..] {
                    b"end." => {}
                    b"cut." => peer.reset(),
                    _ => std::future::pending().await,
                }
            });
            let _application = pair.application("10.1.0.1:15006", A);
            let sidecar = pair.caller(&format!(
                "endpoints: [10.1.0.1:15006], protocol: {protocol}, stream_idle_timeout: 5s, {ORDERS}"
            ));
            let mut client = sidecar.client().await;
            client.send(UPGRADE).await;
            assert!(client.head().await.expect("an answer").starts_with("HTTP/1.1 101"));
            client.send(word).await;
            assert_eq!(client.ends().await, (b"half".to_vec(), is_reset), "{protocol}: {word}");
        }
    }
}

/// A client that waits for its server to speak first gets this end.
async fn waits_in_vain(sidecar: &Sidecar, name: &str, is_reset: bool) {
    let mut client = sidecar.direct_client().await;
    assert_eq!(client.ends().await, (Vec::new(), is_reset), "{name}");
}

#[tokio::test(start_paused = true)]
async fn b7_a_connection_cut_before_any_byte_is_reset_and_an_ordinary_end_stays_one() {
    let service = format!("endpoints: [{A}], listen: 127.0.0.1:0");
    for (name, is_reset) in [("the server ends", false), ("the server resets", true)] {
        let (mesh, pair) = (Mesh::default(), Pair::new());
        let says_nothing = |mesh: &Mesh| {
            mesh.scripted(A, move |peer: Peer, _| async move {
                settle().await;
                if is_reset {
                    peer.reset();
                }
            })
        };
        let _apps = (says_nothing(&mesh), says_nothing(&pair.mesh));
        waits_in_vain(&mesh.caller(&service), name, is_reset).await;
        waits_in_vain(&mesh.application(&format!("app: {A}")), name, is_reset).await;
        let _application = pair.application("10.1.0.1:15006", A);
        let service = format!("endpoints: [10.1.0.1:15006], {ORDERS}, listen: 127.0.0.1:0");
        waits_in_vain(&pair.caller(&service), name, is_reset).await;
    }
    let mesh = Mesh::default();
    let _silent = mesh.scripted(A, |peer: Peer, _| async move {
        std::future::pending::<()>().await;
        drop(peer);
    });
    waits_in_vain(&mesh.caller(&service), "idle for an hour", true).await;
    waits_in_vain(&mesh.application(&format!("app: {A}")), "idle for an hour", true).await;
}

#[tokio::test(start_paused = true)]
async fn b7_a_strict_port_resets_plaintext_that_is_not_http_and_silent_connections() {
    let pair = Pair::new();
    let application = pair.application("10.1.0.1:15006", A);
    for said in ["", "\x00\x01 no request"] {
        let mut client = application.client().await;
        client.send(said).await;
        assert_eq!(client.ends().await, (Vec::new(), true), "{said:?}");
    }
}
