//! Answers and requests that break off: what came before the break is passed on, and the break is never an end.

use super::mesh::{A, Mesh, ORDERS, Pair, Sidecar, pass, settle};
use super::peer::Peer;

/// Says `said` to every request, and closes.
fn breaking(mesh: &Mesh, said: String) -> super::backend::Backend {
    mesh.scripted(A, move |mut peer: Peer, _| {
        let said = said.clone();
        async move {
            peer.message().await;
            peer.send(said).await;
        }
    })
}

/// One sidecar, or two that speak HTTP/1: where the client connects, and what must live as long.
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
async fn b16_what_came_of_an_answer_is_passed_on_before_the_cut() {
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
                    let told = format!("{way}, {framing}, {size}, {round}");
                    let answer = client.message().await.expect(&told);
                    assert_eq!(answer.told(), (200, None), "{told} {}", answer.head);
                    assert_eq!((answer.body.len(), answer.is_whole), (size, false), "{told}");
                }
                assert_eq!(backend.hits(), 5, "{way}, {framing}, {size}: each request was sent once");
            }
        }
    }
}

/// Between the two sidecars a stream of HTTP/2 is reset, and what stood before the reset may go with it: a 502 then.
#[tokio::test(start_paused = true)]
async fn b16_over_http2_between_the_sidecars_a_caller_never_sees_a_connection_that_did_not_answer() {
    let pair = Pair::new();
    let backend = breaking(&pair.mesh, "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart".to_owned());
    let _application = pair.application("10.1.0.1:15006", A);
    let sidecar = pair.caller(&format!("endpoints: [10.1.0.1:15006], {ORDERS}"));
    for _ in 0..20 {
        let mut client = sidecar.client().await;
        client.send("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 2\r\n\r\nhi").await;
        let answer = client.message().await.expect("an answer");
        let is_part = answer.told().0 == 200 && !answer.is_whole;
        assert!(is_part || answer.told().0 == 502, "{}", answer.head);
    }
    assert_eq!(backend.hits(), 20, "each request was sent once");
}

#[tokio::test(start_paused = true)]
async fn b16_what_came_of_a_request_is_passed_on_before_the_cut() {
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
async fn b16_a_slow_reader_gets_all_that_came_before_the_cut() {
    let said = format!("HTTP/1.1 200 OK\r\ncontent-length: 400000\r\n\r\n{}", "x".repeat(300_000));
    for (way, sidecar, _others, _backend) in ways(&said).await {
        let mut client = sidecar.client().await;
        client.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
        pass(100).await;
        let answer = client.answer().await;
        assert_eq!((answer.body.len(), answer.is_whole), (300_000, false), "{way}");
    }
}
