//! Answers that come while the request is still being sent.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::backend::OK;
use super::http2;
use super::mesh::{A, Mesh, ORDERS, Pair, Sidecar, pass, secs, settle};
use super::peer::Peer;

const MIB: usize = 1024 * 1024;
const TOO_LARGE: &str = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\n\r\nno\n";
const ONE_CONNECTION: &str = "endpoints: [10.0.0.1:80], circuit_breaker: { max_connections: 1 }";

/// The head of an upload of 8 MiB.
const UPLOAD: &str = "POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 8388608\r\n\r\n";

/// Answers the first request completely as soon as its head has arrived, and then neither reads nor closes. Later
/// connections are served as usual.
fn answers_and_freezes(mesh: &Mesh) -> super::backend::Backend {
    mesh.scripted(A, |mut peer: Peer, nth| async move {
        if nth > 0 {
            while peer.message().await.is_some() {
                peer.send(OK).await;
            }
            return;
        }
        drop(peer.head().await);
        peer.send(TOO_LARGE).await;
        std::future::pending::<()>().await;
    })
}

/// Sends as much of an upload as the sidecar reads, and then waits.
async fn uploads(sidecar: &Sidecar) -> Peer {
    let mut client = sidecar.client().await;
    client.send(UPLOAD).await;
    for _ in 0..128 {
        let piece = client.try_send(vec![b'x'; MIB / 16]);
        if tokio::time::timeout(std::time::Duration::from_millis(10), piece).await.is_err() {
            break;
        }
    }
    client
}

/// Open connections on both sides of the sidecar, and places taken in the limits of its services.
fn held(sidecar: &Sidecar) -> (u64, u64) {
    (sidecar.sum("pillion_connections_active"), sidecar.sum("pillion_circuit_breaker_used"))
}

#[tokio::test(start_paused = true)]
async fn b2_a_complete_answer_to_an_unfinished_upload_frees_the_connection() {
    let mesh = Mesh::default();
    let a = answers_and_freezes(&mesh);
    let sidecar = mesh.caller(ONE_CONNECTION);
    let mut client = uploads(&sidecar).await;
    assert_eq!(client.answer().await.status_and_reason(), (413, None));
    settle().await;
    assert_eq!(sidecar.sum("pillion_circuit_breaker_used"), 0, "while the client is still there");
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (200, None));
    assert_eq!(a.connections(), 2);
    drop(client);
    pass(60).await;
    assert_eq!(held(&sidecar), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn b2_an_answer_to_a_paused_chunked_upload_frees_the_connection() {
    let mesh = Mesh::default();
    let _a = answers_and_freezes(&mesh);
    let sidecar = mesh.caller(ONE_CONNECTION);
    let mut client = sidecar.client().await;
    client.send("POST / HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
    assert_eq!(client.answer().await.status_and_reason(), (413, None));
    settle().await;
    assert_eq!(sidecar.sum("pillion_circuit_breaker_used"), 0);
}

#[tokio::test(start_paused = true)]
async fn b2_a_request_in_the_sidecars_own_buffer_holds_a_connection_for_seconds_only() {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        drop(peer.head().await);
        pass(1).await; // the rest comes, as far as there is room for it
        peer.send(TOO_LARGE).await;
        std::future::pending::<()>().await;
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], connection: { idle_timeout: off }");
    let mut client = sidecar.client().await;
    // More than the pipe to the endpoint holds, and little enough for the sidecar to have taken all of it.
    let body = "x".repeat(96 * 1024);
    client.send(format!("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: {}\r\n\r\n", body.len())).await;
    settle().await; // the head comes alone
    client.send(body).await;
    assert_eq!(client.answer().await.status_and_reason(), (413, None));
    pass(10).await;
    assert_eq!(sidecar.sum("pillion_circuit_breaker_used limit=connections"), 0);
}

/// The rest of a request does not follow its answer: the next request must not be read as that rest.
#[tokio::test(start_paused = true)]
async fn b2_an_answer_with_many_fields_to_a_request_sent_in_part_ends_its_connection() {
    let mesh = Mesh::default();
    let fields: String = (0..101).map(|nth| format!("x-{nth}: 1\r\n")).collect();
    let many = TOO_LARGE.replace("\r\n\r\n", &format!("\r\n{fields}\r\n"));
    let a = mesh.scripted(A, move |mut peer: Peer, nth| {
        let many = many.clone();
        async move {
            if nth == 0 {
                drop(peer.head().await);
                pass(1).await; // the rest comes, as far as there is room for it
                peer.send(many).await;
                std::future::pending::<()>().await;
            }
            drop(peer.message().await);
            peer.send(OK).await;
        }
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    let body = "x".repeat(96 * 1024); // see above
    client.send(format!("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: {}\r\n\r\n", body.len())).await;
    settle().await;
    client.send(body).await;
    assert_eq!(client.answer().await.status_and_reason(), (413, None));
    settle().await;
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (200, None));
    assert_eq!(a.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn b2_an_exchange_that_timed_out_frees_the_connection_to_a_frozen_upstream() {
    let mesh = Mesh::default();
    // One upstream answers a part, the other nothing. The sidecar does not see that the client left before the time is
    // up, because the client's end is behind bytes that it does not read.
    for said in ["HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart", ""] {
        let address = if said.is_empty() { "10.0.0.2:80" } else { "10.0.0.3:80" };
        let _frozen = mesh.scripted(address, move |mut peer: Peer, _| async move {
            drop(peer.head().await);
            peer.send(said).await;
            std::future::pending::<()>().await;
        });
        let sidecar = mesh.caller(&format!("endpoints: [{address}]"));
        let client = uploads(&sidecar).await;
        drop(client);
        // The exchange ends after 300 s. The endpoint may be at work on its request for a while longer (15 s at most).
        pass(310).await;
        assert_eq!(held(&sidecar).0, 0, "it had said {said:?}");
        pass(15).await;
        assert_eq!(held(&sidecar), (0, 0), "it had said {said:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn b2_neither_sidecar_of_a_pair_keeps_a_connection() {
    for protocol in ["auto", "http1"] {
        let pair = Pair::new();
        let _app = answers_and_freezes(&pair.mesh);
        let application = pair.application("10.1.0.1:15006", A);
        let caller = pair.caller(&format!("endpoints: [10.1.0.1:15006], protocol: {protocol}, {ORDERS}"));
        for status in [413, 200] {
            let mut client = uploads(&caller).await;
            assert_eq!(client.answer().await.status_and_reason(), (status, None), "{protocol}");
        }
        pass(3).await; // longer than the connection needs to close, shorter than an idle one is kept
        assert_eq!(held(&caller), (1, 1), "{protocol}: the one that was used whole is kept");
        assert_eq!(held(&application).0, 2, "{protocol}: and its two ends here");
    }
}

/// Streams an answer of 8 MiB from the first byte of its request on, and reads the request meanwhile.
fn answers_while_it_reads(mesh: &Mesh) -> super::backend::Backend {
    mesh.scripted(A, |peer: Peer, _| async move {
        let (mut reading, mut writing) = tokio::io::split(peer.into_io());
        let answers = async {
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", 8 * MIB);
            writing.write_all(head.as_bytes()).await?;
            writing.write_all(&vec![b'y'; 8 * MIB]).await
        };
        let reads = async {
            let mut room = vec![0; MIB / 16];
            while reading.read(&mut room).await.is_ok_and(|count| count > 0) {}
        };
        drop(tokio::join!(answers, reads));
    })
}

/// The ways to the server at A.
fn ways(alone: &Mesh, pair: &Pair) -> [(&'static str, Sidecar); 3] {
    let paired = format!("endpoints: [10.1.0.1:15006], {ORDERS}");
    [
        ("one sidecar", alone.caller("endpoints: [10.0.0.1:80]")),
        ("a pair over HTTP/2", pair.caller(&paired)),
        ("a pair over HTTP/1", pair.caller(&format!("{paired}, protocol: http1"))),
    ]
}

#[tokio::test(start_paused = true)]
async fn b2_a_client_that_sends_all_before_it_reads_is_answered_meanwhile() {
    let (alone, pair) = (Mesh::default(), Pair::new());
    let _backends = [answers_while_it_reads(&alone), answers_while_it_reads(&pair.mesh)];
    let _application = pair.application("10.1.0.1:15006", A);
    for (way, sidecar) in ways(&alone, &pair) {
        let (mut client, watch) = (sidecar.client().await, super::mesh::Watch::start());
        client.send(UPLOAD).await;
        let sent = client.try_send(vec![b'x'; 8 * MIB]).await;
        assert!(sent.is_ok() && watch.seconds() < 10, "{way}: {sent:?} after {} s", watch.seconds());
        let answer = client.answer().await;
        assert_eq!(
            (answer.status_and_reason(), answer.body.len(), answer.is_whole),
            ((200, None), 8 * MIB, true),
            "{way}"
        );
    }
}

/// Answers completely as soon as the request's head has arrived, without announcing that it will not read the rest.
fn answers_and_waits(mesh: &Mesh) -> super::backend::Backend {
    mesh.http2(A, 100, |_, request, respond| async move {
        http2::answer(respond, 413, "no\n");
        drop(http2::read_body(&mut request.into_body()).await);
    })
}

#[tokio::test(start_paused = true)]
async fn b2_a_client_that_stops_amid_its_upload_is_given_half_a_minute_after_the_complete_answer() {
    let mesh = Mesh::default();
    let _a = answers_and_waits(&mesh);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], protocol: http2");
    let mut client = sidecar.client().await;
    client.send(format!("{UPLOAD}first")).await;
    assert_eq!(client.answer().await.status_and_reason(), (413, None));
    let watch = super::mesh::Watch::start();
    let ended = tokio::time::timeout(secs(60), client.rest()).await;
    assert!(ended.is_ok() && (25..35).contains(&watch.seconds()), "{} s", watch.seconds());
}

#[tokio::test(start_paused = true)]
async fn b2_a_stream_whose_upload_stops_is_given_half_a_minute_as_well() {
    let mesh = Mesh::default();
    let _a = answers_and_waits(&mesh);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], protocol: http2");
    let (mut send, conn) =
        h2::client::handshake(sidecar.client().await.into_io()).await.expect("the sidecar speaks HTTP/2");
    tokio::spawn(conn);
    let (answer, mut upload) = send.send_request(http2::request("POST", "/"), false).expect("a stream");
    upload.send_data("first".into(), false).expect("the stream is open");
    let mut answer = answer.await.expect("an answer").into_body();
    assert_eq!(http2::read_body(&mut answer).await.expect("a whole answer"), b"no\n");
    let watch = super::mesh::Watch::start();
    let reset = tokio::time::timeout(secs(60), std::future::poll_fn(|cx| upload.poll_reset(cx))).await;
    assert!(reset.is_ok() && (25..35).contains(&watch.seconds()), "{} s", watch.seconds());
}

const UNAUTHORIZED: &str = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 3\r\n\r\nwho";

/// Refuses an upload as soon as its head is there, and closes with bytes unread.
fn refuses_and_closes(mesh: &Mesh) -> super::backend::Backend {
    mesh.scripted(A, |mut peer: Peer, _| async move {
        drop(peer.head().await);
        pass(1).await; // bytes of the body have come
        peer.send(UNAUTHORIZED).await;
    })
}

#[tokio::test(start_paused = true)]
async fn b4_a_client_that_sends_all_before_it_reads_gets_the_early_answer() {
    let (alone, pair) = (Mesh::default(), Pair::new());
    let _backends = [refuses_and_closes(&alone), refuses_and_closes(&pair.mesh)];
    let _application = pair.application("10.1.0.1:15006", A);
    for (way, sidecar) in ways(&alone, &pair) {
        for head in [UPLOAD.to_owned(), UPLOAD.replace("\r\n\r\n", "\r\nexpect: 100-continue\r\n\r\n")] {
            let mut client = sidecar.client().await;
            client.send(&head).await;
            if head.contains("expect") {
                settle().await; // the client does not wait for long
            }
            let sent = client.try_send(vec![b'x'; 8 * MIB]).await;
            assert!(sent.is_ok(), "{way}: the upload was cut: {sent:?}");
            let mut answer = client.head().await.expect("an answer");
            if answer.starts_with("HTTP/1.1 100") {
                answer = client.head().await.expect("an answer after the interim one");
            }
            assert!(answer.starts_with("HTTP/1.1 401"), "{way}: {answer}");
            assert_eq!(client.exactly(3).await, (b"who".to_vec(), true), "{way}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b4_an_endless_upload_is_read_for_half_a_minute_at_most() {
    let mesh = Mesh::default();
    let _a = refuses_and_closes(&mesh);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    for (pieces, seconds) in [(0, 6), (60, 30)] {
        let (mut client, watch) = (sidecar.client().await, super::mesh::Watch::start());
        client.send(format!("{UPLOAD}first")).await;
        for _ in 0..pieces {
            pass(1).await;
            if client.try_send("more").await.is_err() {
                break;
            }
        }
        pass(2).await;
        while sidecar.sum("pillion_connections_active") > 0 {
            pass(1).await;
        }
        assert!((seconds..=seconds + 5).contains(&watch.seconds()), "{pieces}: {}", watch.seconds());
    }
}
