//! How much memory a hostile or slow HTTP/2 peer can make a sidecar hold, and for how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use h2::client::{self, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::sync::{Notify, Semaphore};

use super::backend::{Backend, OK};
use super::http2::request;
use super::mesh::{A, Mesh, ORDERS, Pair, Sidecar, Watch, pass, secs, settle};
use super::peer::Peer;

const MIB: usize = 1024 * 1024;
const HTTP2: &str = "endpoints: [10.0.0.1:80]";

/// Answers every request with `MIB` bytes, and counts the bytes that the sidecar read.
fn endless(mesh: &Mesh) -> (Backend, Arc<AtomicUsize>) {
    let taken = Arc::<AtomicUsize>::default();
    let counted = taken.clone();
    let backend = mesh.http2(A, 1000, move |_, _, mut respond| {
        let taken = counted.clone();
        async move {
            let mut stream = respond.send_response(Response::new(()), false).expect("the stream is open");
            give(&mut stream, MIB, &taken).await;
        }
    });
    (backend, taken)
}

/// Sends as much as the peer accepts, at most `bytes`.
async fn give(stream: &mut SendStream<Bytes>, bytes: usize, taken: &AtomicUsize) {
    let mut left = bytes;
    while left > 0 {
        stream.reserve_capacity(left.min(16 * 1024));
        let capacity = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let Some(Ok(capacity)) = capacity else { return };
        let size = capacity.min(left);
        taken.fetch_add(size, Relaxed);
        left -= size;
        if stream.send_data(Bytes::from(vec![b'x'; size]), left == 0).is_err() {
            return;
        }
    }
}

/// A client that grants each stream `window`, and reads its socket until the returned semaphore has no permit.
async fn client(sidecar: &Sidecar, window: u32) -> (SendRequest<Bytes>, Arc<Semaphore>) {
    let io = sidecar.client().await.into_io();
    let mut builder = client::Builder::new();
    builder
        .initial_window_size(window)
        .initial_connection_window_size(1 << 30)
        .initial_max_send_streams(1000);
    let (send, mut conn) = builder.handshake::<_, Bytes>(io).await.expect("the sidecar speaks HTTP/2");
    let reads = Arc::new(Semaphore::new(1));
    let gate = reads.clone();
    tokio::spawn(async move {
        std::future::poll_fn(|cx| match gate.available_permits() {
            0 => std::task::Poll::Pending, // holds the connection, and does nothing with it
            _ => std::pin::Pin::new(&mut conn).poll(cx).map(drop),
        })
        .await;
    });
    settle().await;
    (send, reads)
}

fn ask(send: &mut SendRequest<Bytes>, request: Request<()>) -> ResponseFuture {
    send.send_request(request, true).expect("a stream").0
}

#[tokio::test(start_paused = true)]
async fn a3_streams_of_a_client_that_reads_nothing_hold_little() {
    let mesh = Mesh::default();
    let (_a, taken) = endless(&mesh);
    let sidecar = mesh.caller(HTTP2);
    let (mut send, reads) = client(&sidecar, 1 << 30).await;
    let _asked: Vec<_> = (0..200).map(|_| ask(&mut send, request("GET", "/"))).collect();
    tokio::task::yield_now().await;
    reads.try_acquire().expect("it reads so far").forget();
    pass(5).await;
    let held = taken.load(Relaxed);
    assert!(held > 0 && held < 6 * MIB, "{held} bytes");
}

/// Answers every request with 12 KiB of fields, in its head or in its trailers, and counts the answers.
fn of_large_fields(mesh: &Mesh, in_head: bool) -> (Backend, Arc<AtomicUsize>) {
    let answers = Arc::<AtomicUsize>::default();
    let counted = answers.clone();
    let backend = mesh.http2(A, 1000, move |_, _, mut respond| {
        let counted = counted.clone();
        async move {
            counted.fetch_add(1, Relaxed);
            let large = HeaderValue::try_from("x".repeat(12 * 1024)).expect("a value");
            let large = HeaderMap::from_iter([(HeaderName::from_static("x-large"), large)]);
            let mut answer = Response::new(());
            if in_head {
                *answer.headers_mut() = large;
                drop(respond.send_response(answer, true));
            } else if let Ok(mut stream) = respond.send_response(answer, false) {
                drop(stream.send_trailers(large));
            }
        }
    });
    (backend, answers)
}

#[tokio::test(start_paused = true)]
async fn a3_heads_of_answers_that_a_client_does_not_read_end_its_connection() {
    fields_end_the_connection(true).await;
}

#[tokio::test(start_paused = true)]
async fn a3_trailers_of_answers_that_a_client_does_not_read_end_its_connection() {
    fields_end_the_connection(false).await;
}

async fn fields_end_the_connection(in_head: bool) {
    let mesh = Mesh::default();
    let (_a, answers) = of_large_fields(&mesh, in_head);
    let sidecar = mesh.caller(&format!("{HTTP2}, circuit_breaker: {{ max_requests: 100000 }}"));
    let (mut send, reads) = client(&sidecar, 1 << 30).await;
    let _asked: Vec<_> = (0..900).map(|_| ask(&mut send, request("GET", "/"))).collect();
    tokio::task::yield_now().await;
    reads.try_acquire().expect("it reads so far").forget();
    pass(5).await;
    let open = sidecar.sum("pillion_connections_active direction=outbound protocol=http2");
    assert_eq!(open, 1, "only the application's, after {} answers", answers.load(Relaxed));
    assert!(sidecar.sum("pillion_requests_total reason=overloaded") > 0);
    assert_eq!(sidecar.sum("pillion_requests_active"), 0);
}

#[tokio::test(start_paused = true)]
async fn a3_streams_without_a_window_hold_little() {
    let mesh = Mesh::default();
    let (_a, taken) = endless(&mesh);
    let sidecar = mesh.caller(HTTP2);
    let (mut send, _reads) = client(&sidecar, 0).await;
    let _asked: Vec<_> = (0..200).map(|_| ask(&mut send, request("GET", "/"))).collect();
    pass(5).await;
    let held = taken.load(Relaxed);
    assert!(held > 0 && held < 8 * MIB, "{held} bytes");
}

#[tokio::test(start_paused = true)]
async fn a3_many_hostile_connections_hold_no_more_than_all_may_together() {
    let mesh = Mesh::default();
    let (_a, taken) = endless(&mesh);
    let sidecar = mesh.caller(&format!("{HTTP2}, circuit_breaker: {{ max_requests: 100000 }}"));
    let mut kept = Vec::new();
    for _ in 0..40 {
        let (mut send, _reads) = client(&sidecar, 1024).await;
        kept.extend((0..200).map(|_| ask(&mut send, request("GET", "/"))));
        std::mem::forget(send);
    }
    pass(5).await;
    let held = taken.load(Relaxed);
    assert!(held > 0 && held < 64 * MIB, "{held} bytes");
}

#[tokio::test(start_paused = true)]
async fn a3_uploads_that_the_application_does_not_read_hold_little() {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.head().await;
        pass(3600).await;
    });
    let sidecar = mesh.caller(&format!("{HTTP2}, timeout: off"));
    let (send, _reads) = client(&sidecar, 65_535).await;
    let taken = Arc::<AtomicUsize>::default();
    for _ in 0..200 {
        let (mut send, taken) = (send.clone(), taken.clone());
        tokio::spawn(async move {
            let (_answer, mut stream) = send.send_request(request("POST", "/"), false).expect("a stream");
            give(&mut stream, MIB, &taken).await;
            pass(3600).await;
        });
    }
    pass(5).await;
    let held = taken.load(Relaxed);
    // What lies in 200 connections of the memory network is not the sidecar's.
    assert!(held > 0 && held < 5 * MIB + 200 * 64 * 1024, "{held} bytes");
}

/// The result for a client of `service` whose stream has no window, and how long it takes until the stream is reset.
async fn stalled(orders: &str) -> (u64, Option<Reason>, Sidecar) {
    let mesh = Mesh::default();
    let (_a, _taken) = endless(&mesh);
    let sidecar = mesh.caller(orders);
    let (mut send, _reads) = client(&sidecar, 0).await;
    let watch = Watch::start();
    let mut body = ask(&mut send, request("GET", "/")).await.expect("a head").into_body();
    let ended = tokio::time::timeout(secs(3600), body.data()).await.expect("an end");
    let reason = ended.expect("no clean end").expect_err("no data either").reason();
    settle().await;
    (watch.seconds(), reason, sidecar)
}

#[tokio::test(start_paused = true)]
async fn a4_a_stream_whose_client_opens_no_window_for_waiting_data_is_reset() {
    let (seconds, reason, sidecar) = stalled(&format!("{HTTP2}, stream_idle_timeout: 20s")).await;
    assert_eq!((seconds, reason), (20, Some(Reason::CANCEL)));
    assert_eq!(sidecar.sum("pillion_requests_total reason=stream_idle_timeout"), 1);
    assert_eq!(sidecar.sum("pillion_requests_active"), 0);
}

#[tokio::test(start_paused = true)]
async fn a4_max_duration_ends_a_stream_that_takes_nothing() {
    let (seconds, _, sidecar) = stalled(&format!("{HTTP2}, max_duration: 7s")).await;
    assert_eq!(seconds, 7);
    assert_eq!(sidecar.sum("pillion_requests_total reason=max_duration"), 1);
}

/// Opens the window by `bytes` every five seconds. Returns the seconds until the stream ended, at most ten minutes.
async fn takes_now_and_then(bytes: usize) -> u64 {
    let mesh = Mesh::default();
    let (_a, _taken) = endless(&mesh);
    let sidecar = mesh.caller(&format!("{HTTP2}, stream_idle_timeout: 20s"));
    let (mut send, _reads) = client(&sidecar, u32::try_from(bytes).expect("a window")).await;
    let watch = Watch::start();
    let mut body: RecvStream = ask(&mut send, request("GET", "/")).await.expect("a head").into_body();
    while watch.seconds() < 600 {
        match tokio::time::timeout(secs(5), body.data()).await {
            Ok(Some(Ok(data))) => {
                pass(5).await;
                drop(body.flow_control().release_capacity(data.len()));
            }
            Ok(_) => return watch.seconds(),
            Err(_) => {}
        }
    }
    watch.seconds()
}

#[tokio::test(start_paused = true)]
async fn a4_a_byte_now_and_then_does_not_keep_a_stream_and_a_kibibyte_does() {
    assert!(takes_now_and_then(10).await <= 25);
    assert!(takes_now_and_then(3000).await >= 600, "more than a KiB in 20 s");
}

#[tokio::test(start_paused = true)]
async fn a4_a_stream_without_waiting_data_is_not_reset() {
    let mesh = Mesh::default();
    let more = Arc::new(Notify::new());
    let wanted = more.clone();
    let _a = mesh.http2(A, 10, move |_, _, mut respond| {
        let more = wanted.clone();
        async move {
            let mut stream = respond.send_response(Response::new(()), false).expect("open");
            more.notified().await;
            stream.send_data(Bytes::from_static(b"late"), true).expect("open");
            pass(1).await;
        }
    });
    let sidecar = mesh.caller(&format!("{HTTP2}, stream_idle_timeout: off"));
    let (mut send, _reads) = client(&sidecar, 100).await;
    let mut body = ask(&mut send, request("GET", "/")).await.expect("a head").into_body();
    pass(7200).await;
    more.notify_one();
    assert_eq!(body.data().await.expect("data").expect("data"), "late");
}

/// A link between two sidecars that passes bytes on until it is told to stop.
fn wire(pair: &Pair, at: &str, to: &'static str) -> Arc<Notify> {
    let (memory, stops) = (pair.mesh.memory.clone(), Arc::new(Notify::new()));
    let stop = stops.clone();
    drop(pair.mesh.scripted(at, move |peer, _| {
        let (memory, stop) = (memory.clone(), stop.clone());
        async move {
            let mut near = peer.into_io();
            let mut far = memory.connect(to.parse().expect("an address")).await.expect("it listens");
            tokio::select! {
                _ended = tokio::io::copy_bidirectional(&mut near, &mut far) => return,
                () = stop.notified() => {}
            }
            std::future::pending::<()>().await; // holds both ends, and reads neither
        }
    }));
    stops
}

#[tokio::test(start_paused = true)]
async fn a4_a_client_that_never_reads_over_mtls_is_closed() {
    let pair = Pair::new();
    let gate = Arc::new(Semaphore::new(1));
    let opens = gate.clone();
    let _a = pair.mesh.http2(A, 1000, move |_, _, mut respond| {
        let gate = gate.clone();
        async move {
            gate.acquire().await.expect("the gate stays").forget();
            let mut stream = respond.send_response(Response::new(()), false).expect("the stream is open");
            give(&mut stream, MIB, &AtomicUsize::new(0)).await;
        }
    });
    let inbound = pair.mesh.sidecar(
        &(super::mesh::application_at("10.1.0.2:15006", &format!("app: {A}, protocol: http2"))
            + super::mesh::IDENTITY),
        Some(super::mesh::identity(&pair.ca, "orders")),
    );
    let stop = wire(&pair, "10.1.0.1:15006", "10.1.0.2:15006");
    let outbound = pair
        .caller(&format!("endpoints: [10.1.0.1:15006], {ORDERS}, timeout: off, stream_idle_timeout: off"));
    let (mut send, _reads) = client(&outbound, 1 << 30).await;
    // The first answer passes whole, and opens the windows for those that follow.
    let mut first = ask(&mut send, request("GET", "/")).await.expect("a head").into_body();
    assert_eq!(super::http2::read_body(&mut first).await.expect("a body").len(), MIB);
    let _asked: Vec<_> = (0..50).map(|_| ask(&mut send, request("GET", "/"))).collect();
    settle().await;
    stop.notify_one();
    settle().await;
    opens.add_permits(50);
    pass(290).await;
    let open = || inbound.sum("pillion_connections_active direction=inbound protocol=http2");
    assert_eq!(open(), 2, "the caller's and the application's");
    pass(20).await;
    assert_eq!((open(), inbound.sum("pillion_requests_active")), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a7_a_client_that_resets_most_of_its_streams_gets_goaway() {
    let mesh = Mesh::default();
    let _a = mesh.silent(A);
    let sidecar = mesh.caller(&format!("{HTTP2}, protocol: http1"));
    let (mut send, _reads) = client(&sidecar, 65_535).await;
    for _ in 0..300 {
        let Ok((answer, _)) = send.send_request(request("GET", "/"), true) else { break };
        settle().await;
        drop(answer);
        settle().await;
    }
    let refused = std::future::poll_fn(|cx| send.poll_ready(cx)).await;
    assert!(refused.is_err_and(|error| error.is_go_away()));
    assert!(sidecar.sum("pillion_requests_total reason=client_gone") <= 210);
}

#[tokio::test(start_paused = true)]
async fn a7_a_client_that_resets_some_of_its_streams_is_served_on() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let sidecar = mesh.caller(&format!("{HTTP2}, protocol: http1"));
    let (mut send, _reads) = client(&sidecar, 65_535).await;
    for nth in 0..400 {
        let answer = ask(&mut send, request("GET", "/"));
        if nth % 3 != 0 {
            assert_eq!(answer.await.expect("an answer").status(), 200);
        }
    }
}

/// An application that works on each request for `seconds` and looks at nothing meanwhile: how many requests it has at
/// once, and the most that it had.
#[derive(Clone, Default)]
struct Work {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Work {
    async fn take(self, seconds: u64) {
        self.most.fetch_max(self.now.fetch_add(1, Relaxed) + 1, Relaxed);
        pass(seconds).await;
        self.now.fetch_sub(1, Relaxed);
    }

    fn over_http1(&self, mesh: &Mesh, seconds: u64) -> Backend {
        let work = self.clone();
        mesh.scripted(A, move |mut peer: Peer, _| {
            let work = work.clone();
            async move {
                if peer.head().await.is_some() {
                    work.take(seconds).await;
                }
            }
        })
    }

    /// The application ends its connection at once when the client has ended, and works on.
    fn over_http1_without_its_connection(&self, mesh: &Mesh, seconds: u64) -> Backend {
        let work = self.clone();
        mesh.scripted(A, move |mut peer: Peer, _| {
            let work = work.clone();
            async move {
                if peer.head().await.is_some() {
                    tokio::spawn(work.take(seconds));
                    peer.ends().await;
                }
            }
        })
    }

    /// The application sends the head of its answer before its work.
    fn over_http2_after_the_head(&self, mesh: &Mesh, seconds: u64) -> Backend {
        let work = self.clone();
        mesh.http2(A, 1000, move |_, request, mut respond| {
            let work = work.clone();
            async move {
                let body = respond.send_response(http::Response::new(()), false);
                work.take(seconds).await;
                drop((request, respond, body));
            }
        })
    }

    fn over_http2(&self, mesh: &Mesh, seconds: u64) -> Backend {
        let work = self.clone();
        mesh.http2(A, 1000, move |_, request, respond| {
            let work = work.clone();
            async move {
                work.take(seconds).await;
                drop((request, respond)); // before, the stream would be reset at once
            }
        })
    }
}

/// Sends a request on a connection of its own, and resets it when it has arrived.
async fn reset_one(sidecar: &Sidecar) {
    let (mut send, _reads) = client(sidecar, 65_535).await;
    let asked = ask(&mut send, request("GET", "/"));
    settle().await;
    drop(asked);
    settle().await;
}

async fn resets_fill_the_places(app: &str, work: Work, mesh: &Mesh) {
    let sidecar = mesh.application(&format!("app: 10.0.0.1:80, max_requests: 5{app}"));
    for _ in 0..50 {
        reset_one(&sidecar).await;
    }
    assert_eq!(work.most.load(Relaxed), 5);
    assert_eq!(sidecar.sum("pillion_requests_total reason=limit_requests"), 45);
    pass(6).await;
    reset_one(&sidecar).await;
    assert_eq!(work.now.load(Relaxed), 1, "all places are free again");
}

#[tokio::test(start_paused = true)]
async fn a7_what_clients_reset_counts_against_max_requests_until_the_application_is_done() {
    let (mesh, work) = (Mesh::default(), Work::default());
    let _a = work.over_http1(&mesh, 5);
    resets_fill_the_places("", work, &mesh).await;
}

#[tokio::test(start_paused = true)]
async fn a7_over_http2_what_clients_reset_counts_against_max_requests_for_five_seconds() {
    let (mesh, work) = (Mesh::default(), Work::default());
    let _a = work.over_http2(&mesh, 5);
    resets_fill_the_places(", protocol: http2", work, &mesh).await;
}

#[tokio::test(start_paused = true)]
async fn a7_an_application_that_has_sent_the_head_of_its_answer_is_at_work() {
    let (mesh, work) = (Mesh::default(), Work::default());
    let _a = work.over_http2_after_the_head(&mesh, 5);
    resets_fill_the_places(", protocol: http2", work, &mesh).await;
}

#[tokio::test(start_paused = true)]
async fn a7_an_application_that_has_ended_its_connection_may_be_at_work() {
    let (mesh, work) = (Mesh::default(), Work::default());
    let _a = work.over_http1_without_its_connection(&mesh, 5);
    resets_fill_the_places("", work, &mesh).await;
}

#[tokio::test(start_paused = true)]
async fn a7_a_body_that_its_client_breaks_off_counts_as_a_reset() {
    let (mesh, work) = (Mesh::default(), Work::default());
    let _a = work.over_http2(&mesh, 5);
    let sidecar = mesh.application("app: 10.0.0.1:80, max_requests: 5, protocol: http2");
    for _ in 0..20 {
        let mut peer = sidecar.client().await;
        peer.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nhalf").await;
        settle().await;
        drop(peer);
        settle().await;
    }
    assert_eq!(work.most.load(Relaxed), 5);
}

/// A handler that takes longer than the default of 15 seconds, where the configuration says so.
#[tokio::test(start_paused = true)]
async fn a7_a_place_is_held_for_as_long_as_the_timeout_allows() {
    let (mesh, work) = (Mesh::default(), Work::default());
    let _a = work.over_http1(&mesh, 50);
    let sidecar = mesh.application("app: 10.0.0.1:80, max_requests: 2, timeout: 60s");
    for _ in 0..4 {
        reset_one(&sidecar).await;
        pass(10).await;
    }
    assert_eq!(work.most.load(Relaxed), 2);
}

/// Requests that were answered, and requests that the application itself resets, give their places back at once.
#[tokio::test(start_paused = true)]
async fn a7_over_http2_a_place_is_free_as_soon_as_the_application_has_ended_the_request() {
    let mesh = Mesh::default();
    let _a = mesh.http2(A, 1000, |_, request, mut respond| async move {
        match request.uri().path() {
            "/reset" => respond.send_reset(Reason::INTERNAL_ERROR),
            _ => drop(respond.send_response(Response::new(()), true)),
        }
    });
    let sidecar = mesh.application("app: 10.0.0.1:80, max_requests: 1, protocol: http2");
    let (mut send, _reads) = client(&sidecar, 65_535).await;
    for path in ["/", "/reset", "/", "/reset", "/"] {
        let answer = ask(&mut send, request("GET", path)).await.expect("an answer");
        assert_eq!(answer.status(), if path == "/" { 200 } else { 502 });
    }
}

#[tokio::test(start_paused = true)]
async fn a9_a_head_sent_in_tiny_pieces_has_one_deadline() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let yaml =
        super::mesh::caller(HTTP2).replace("metrics: off", "metrics: off\nlimits: { header_timeout: 3s }");
    let sidecar = mesh.sidecar(&yaml, None);
    let mut peer = sidecar.client().await;
    peer.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    settle().await;
    let watch = Watch::start();
    // HEADERS of 100 bytes, without an end.
    peer.send(b"\0\0\x64\x01\x05\0\0\0\x01").await;
    while peer.try_send(b"\x40").await.is_ok() {
        pass(1).await;
        assert!(watch.seconds() < 10, "it is still read");
    }
    assert!((3..=5).contains(&watch.seconds()), "{} s", watch.seconds());
}

#[tokio::test(start_paused = true)]
async fn a4_over_http1_and_mtls_the_last_of_an_answer_is_not_waited_for_without_end() {
    let pair = Pair::new();
    let _a = pair.mesh.scripted(A, |mut peer: Peer, _| async move {
        drop(peer.message().await);
        pass(1).await;
        // More than the wire holds, and little enough for all of it to wait inside TLS.
        let body = "x".repeat(100 * 1024);
        drop(peer.try_send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await);
        drop(peer.message().await);
    });
    let inbound = pair.application("10.1.0.2:15006", A);
    let stop = wire(&pair, "10.1.0.1:15006", "10.1.0.2:15006");
    let outbound = pair.caller(&format!(
        "endpoints: [10.1.0.1:15006], {ORDERS}, protocol: http1, timeout: off, stream_idle_timeout: off"
    ));
    let mut caller = outbound.client().await;
    caller.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
    settle().await;
    stop.notify_one();
    pass(700).await;
    assert_eq!(inbound.sum("pillion_connections_active direction=inbound protocol=http1"), 0);
}
