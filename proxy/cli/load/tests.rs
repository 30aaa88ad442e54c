//! Loads against servers that do what a script says, on a network in memory and under a paused clock.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pillion_base::net::Network;
use pillion_base::net::memory::{MemoryNetwork, Pipe};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::sleep;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn at() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 80))
}

/// 100 requests per second over two connections for ten seconds.
const PLAN: Plan = Plan {
    rate: 100,
    connections: 2,
    streams: 1,
    lasts: Some(Duration::from_secs(10)),
    timeout: Duration::from_secs(5),
};

/// A server each of whose connections runs `script`, which gets the number of connections before it.
fn serve<F, Fut>(script: F) -> MemoryNetwork
where
    F: Fn(Pipe, usize) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let memory = MemoryNetwork::default();
    let mut listener = memory.bind(at()).expect("a free address");
    tokio::spawn(async move {
        for nth in 0.. {
            let Ok(arrival) = listener.accept().await else { return };
            tokio::spawn(script(arrival.io, nth));
        }
    });
    memory
}

fn target(memory: &MemoryNetwork, is_http2: bool) -> Target {
    let uri = if is_http2 { "http://a/" } else { "/" };
    let request = Request::get(uri).body(Bytes::new()).expect("a request");
    let network = Network::Memory(memory.clone());
    Target { network, addresses: vec![at()], tls: None, is_http2, request, connections: AtomicU64::new(0) }
}

/// Waits for the end of the next head. `false`: the client has closed.
async fn asked(io: &mut Pipe) -> bool {
    let mut seen = [0; 4];
    while &seen != b"\r\n\r\n" {
        seen.rotate_left(1);
        match io.read_u8().await {
            Ok(byte) => seen[3] = byte,
            Err(_ended) => return false,
        }
    }
    true
}

async fn say(io: &mut Pipe, text: &str) {
    drop(io.write_all(text.as_bytes()).await); // a client that has given up reads no more
}

/// Of a thread that has nothing to do.
fn idle() -> Meter {
    Arc::new(|| Some(Duration::ZERO))
}

/// Of a thread that never rests.
fn saturated() -> Meter {
    let began = Instant::now();
    Arc::new(move || Some(began.elapsed()))
}

async fn start(memory: &MemoryNetwork, plan: Plan, meter: Meter) -> Load {
    Load::start(target(memory, plan.streams > 1), plan, meter).await.expect("the server listens")
}

/// Runs a load to its end.
async fn run(memory: &MemoryNetwork, plan: Plan) -> (Tally, u64) {
    let mut load = start(memory, plan, idle()).await;
    load.ended().await;
    (load.take(), load.connections())
}

fn near(time: Duration, expected: Duration) -> bool {
    time >= expected.saturating_sub(5 * MILLISECOND) && time <= expected + expected / 100 + 5 * MILLISECOND
}

/// A load that waits for answers would see two slow requests of a thousand: its p99 would be 1 ms.
#[tokio::test(start_paused = true)]
async fn a_server_that_stalls_for_a_second_delays_all_requests_that_were_due_in_that_second() {
    let began = Instant::now();
    let memory = serve(move |mut io, _| async move {
        while asked(&mut io).await {
            let resumes = began + 6 * SECOND;
            if (began + 5 * SECOND..resumes).contains(&Instant::now()) {
                sleep_until(resumes).await;
            }
            sleep(MILLISECOND).await;
            say(&mut io, OK).await;
        }
    });
    let (tally, connections) = run(&memory, PLAN).await;
    assert_eq!((tally.answered, tally.failed, connections), (1000, 0, 2));
    // One of ten was due in that second. Their waits are spread evenly over it; the backlog then takes some 50 ms.
    for (share, expected) in
        [(0.5, 1..=2), (0.89, 1..=2), (0.95, 490..=560), (0.99, 890..=960), (1.0, 980..=1060)]
    {
        let latency = tally.latencies.percentile(share);
        assert!(expected.contains(&latency.as_millis()), "{share}: {latency:?} and not {expected:?} ms");
    }
    assert!((95..=110).contains(&tally.waited), "those of that second and of its backlog: {}", tally.waited);
    assert!(near(tally.longest_wait, 980 * MILLISECOND), "{:?}", tally.longest_wait);
    assert_eq!(tally.late, 0);
}

/// Two connections and 50 ms for an answer are 40 requests a second, and 100 are due. What waits is sent until the last
/// request has had its time: for 15 s.
#[tokio::test(start_paused = true)]
async fn a_target_that_is_too_slow_has_a_backlog_whose_end_is_bounded() {
    let memory = serve(|mut io, _| async move {
        while asked(&mut io).await {
            sleep(50 * MILLISECOND).await;
            say(&mut io, OK).await;
        }
    });
    let began = Instant::now();
    let (tally, _) = run(&memory, PLAN).await;
    assert_eq!(tally.requests(), 1000, "every request that was due is counted");
    assert!((580..=600).contains(&tally.answered), "{}", tally.answered);
    assert_eq!(tally.kinds, [(Kind::Unanswered, tally.failed)].into());
    let longest = tally.latencies.longest();
    assert!(longest >= 8900 * MILLISECOND, "the first that was not sent was due after 6 s: {longest:?}");
    assert!(began.elapsed() <= 15 * SECOND + 5 * MILLISECOND, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn failures_are_counted_by_their_kind() {
    let memory = serve(|mut io, _| async move {
        for nth in 0_u32.. {
            if !asked(&mut io).await {
                return;
            }
            match nth % 5 {
                0 => say(&mut io, OK).await,
                1 => say(&mut io, "HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n").await,
                2 => say(&mut io, "HTTP/1.1 404 Oh\r\ncontent-length: 0\r\n\r\n").await,
                3 => say(&mut io, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncut").await,
                _ => unreachable!("the body was cut"),
            }
            if nth == 3 {
                return; // closes
            }
        }
    });
    let (tally, connections) = run(&memory, Plan { connections: 1, ..PLAN }).await;
    let each = 250;
    assert_eq!((tally.answered, tally.failed), (each, 3 * each));
    let kinds = [(Kind::Reset, each), (Kind::Status4xx, each), (Kind::Status5xx, each)];
    assert_eq!(tally.kinds, kinds.into());
    assert_eq!(tally.statuses, [(200, each), (404, each), (500, each)].into());
    assert_eq!(connections, each, "a connection that broke off is replaced");
    assert_eq!(tally.first_failure.as_deref(), Some("500 Internal Server Error"));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_http_is_a_fault_of_the_protocol_and_silence_a_timeout() {
    let memory = serve(|mut io, nth| async move {
        if asked(&mut io).await && nth % 2 == 0 {
            say(&mut io, "SSH-2.0-OpenSSH_9.2\r\n\r\n").await;
        }
        while asked(&mut io).await {} // until the client closes
    });
    let plan = Plan { connections: 1, rate: 1, timeout: MILLISECOND * 900, ..PLAN };
    let (tally, _) = run(&memory, plan).await;
    assert_eq!((tally.answered, tally.failed), (0, 10));
    assert_eq!(tally.kinds, [(Kind::Protocol, 5), (Kind::Timeout, 5)].into());
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_counts_to_its_last_byte() {
    let memory = serve(|mut io, _| async move {
        while asked(&mut io).await {
            say(&mut io, "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n").await;
            for _ in 0..4 {
                sleep(100 * MILLISECOND).await;
                say(&mut io, "x").await;
            }
        }
    });
    let (tally, _) = run(&memory, Plan { rate: 2, ..PLAN }).await;
    assert_eq!((tally.answered, tally.bytes), (20, 80));
    let fastest = tally.latencies.percentile(0.0);
    assert!(near(fastest, 400 * MILLISECOND), "{fastest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_the_server_closed_while_it_was_idle_costs_no_request() {
    let memory = serve(|mut io, _| async move {
        if asked(&mut io).await {
            say(&mut io, OK).await;
        }
    });
    let (tally, connections) = run(&memory, PLAN).await;
    assert_eq!((tally.answered, tally.failed), (1000, 0), "{:?}", tally.first_failure);
    assert_eq!(connections, 1000);
}

#[tokio::test(start_paused = true)]
async fn without_a_server_there_is_no_load_and_one_that_leaves_is_a_refusal() {
    let nobody = target(&MemoryNetwork::default(), false);
    let failure = Load::start(nobody, PLAN, idle()).await.err().expect("no connection");
    assert_eq!(failure.kind, Kind::Refused, "{}", failure.why);

    let memory = MemoryNetwork::default();
    let mut listener = memory.bind(at()).expect("a free address");
    tokio::spawn(async move {
        for _ in 0..PLAN.connections {
            drop(listener.accept().await); // the two connections are closed, and then the port
        }
    });
    let (tally, _) = run(&memory, PLAN).await;
    assert_eq!((tally.answered, tally.failed), (0, 1000));
    assert!(tally.kinds[&Kind::Refused] >= 998, "{:?}", tally.kinds);
}

/// Ends at the head of the request at which `hangs` begins.
async fn until_it_hangs(mut io: Pipe, hangs: Instant) {
    while asked(&mut io).await {
        if Instant::now() >= hangs {
            return std::future::pending().await;
        }
        say(&mut io, OK).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_that_is_stopped_counts_what_had_no_answer_with_its_wait() {
    let began = Instant::now();
    let memory = serve(move |io, _| until_it_hangs(io, began + SECOND));
    let mut load = start(&memory, Plan { lasts: None, ..PLAN }, idle()).await;
    sleep(3 * SECOND).await;
    let before = load.take();
    assert_eq!((before.answered, before.failed), (100, 0));
    load.stop(SECOND).await;
    let after = load.take();
    assert_eq!(after.answered, 0);
    assert_eq!(after.kinds, [(Kind::Unanswered, after.failed)].into());
    assert!((200..=201).contains(&after.failed), "those of two seconds: {}", after.failed);
    assert!(near(after.latencies.longest(), 3 * SECOND), "{:?}", after.latencies.longest());
    assert!(near(load.elapsed(), 4 * SECOND), "a second for answers: {:?}", load.elapsed());
}

/// A million requests a second, and a server that answers none of them: some sixty are sent, and the others are not counted one by one.
#[tokio::test(start_paused = true)]
async fn a_backlog_of_millions_is_counted_at_once_at_the_end_and_at_a_signal() {
    let memory = serve(|io, _| until_it_hangs(io, Instant::now()));
    let plan = Plan { rate: 1_000_000, connections: 1, lasts: Some(60 * SECOND), timeout: SECOND, ..PLAN };
    let mut load = start(&memory, plan, idle()).await;
    let mut looks = tokio::time::interval(200 * MILLISECOND); // as the progress bar does
    loop {
        tokio::select! {
            () = load.ended() => break,
            _ = looks.tick() => {}
        }
    }
    let tally = load.take();
    assert_eq!((tally.requests(), tally.answered), (60_000_000, 0));
    let given_up = tally.kinds[&Kind::Timeout];
    assert!((59..=61).contains(&given_up), "one a second: {given_up}");
    assert_eq!(tally.kinds[&Kind::Unanswered], 60_000_000 - given_up);
    assert!(near(tally.latencies.longest(), 61 * SECOND), "{:?}", tally.latencies.longest());
    assert!(near(tally.latencies.percentile(0.5), 31 * SECOND), "{:?}", tally.latencies.percentile(0.5));

    let mut load = start(&memory, plan, idle()).await;
    sleep(30 * SECOND).await;
    load.stop(SECOND).await;
    let (requests, elapsed) = (load.take().requests(), load.elapsed());
    assert!((30_000_000..=30_010_000).contains(&requests), "those of 30 s: {requests}");
    assert!(near(elapsed, 31 * SECOND), "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_generator_without_time_left_is_late_itself_and_the_target_is_not_blamed() {
    for (meter, is_late) in [(idle(), false), (saturated(), true)] {
        let memory = serve(|mut io, _| async move {
            while asked(&mut io).await {
                sleep(50 * MILLISECOND).await;
                say(&mut io, OK).await;
            }
        });
        let mut load = start(&memory, PLAN, meter).await;
        load.ended().await;
        let Tally { waited, late, .. } = load.take();
        assert_eq!((late > 900, waited > 900), (is_late, !is_late), "{late} late, {waited} waited");
        assert_eq!(load.busy(), Some(if is_late { 1.0 } else { 0.0 }));
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_that_is_silent_leaves_time_for_the_next_one_which_is_kept() {
    let memory = serve(|mut io, _| async move {
        if asked(&mut io).await {
            say(&mut io, OK).await; // and closes
        }
    });
    let silent = SocketAddr::from(([10, 0, 0, 9], 80));
    memory.black_hole(silent);
    let target = Target { addresses: vec![silent, at()], ..target(&memory, false) };
    let began = Instant::now();
    let plan = Plan { connections: 1, rate: 1, ..PLAN };
    let mut load = Load::start(target, plan, idle()).await.expect("the second address");
    assert!(near(began.elapsed(), plan.timeout / 2), "{:?}", began.elapsed());
    load.ended().await;
    let tally = load.take();
    assert_eq!((tally.answered, tally.failed), (10, 0), "{:?}", tally.first_failure);
    assert!(tally.latencies.longest() < SECOND, "the silent one is not tried again");

    let target = Target { addresses: vec![silent, silent], ..self::target(&memory, false) };
    let failure = Load::start(target, plan, idle()).await.err().expect("no connection");
    assert_eq!(
        (failure.kind, failure.why.as_str()),
        (Kind::Timeout, "no connection to 10.0.0.9:80 within 2.5s")
    );
}

#[tokio::test(start_paused = true)]
async fn over_http2_one_connection_carries_many_requests_and_is_made_anew() {
    let memory = serve(|io, nth| async move {
        let service = service_fn(|_request| async {
            sleep(SECOND).await;
            Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from_static(b"ok"))))
        });
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let serving = connection.serve_connection(TokioIo::new(io), service);
        match nth {
            0 => drop(timeout(4 * SECOND + MILLISECOND * 5, serving).await), // breaks off
            _ => drop(serving.await),
        }
    });
    let plan = Plan { connections: 1, streams: 200, ..PLAN };
    let (tally, connections) = run(&memory, plan).await;
    assert_eq!((tally.requests(), connections), (1000, 2));
    assert!((95..=105).contains(&tally.failed), "those in flight when it broke: {}", tally.failed);
    assert_eq!(tally.kinds, [(Kind::Reset, tally.failed)].into());
    assert!(near(tally.latencies.percentile(0.5), SECOND));
    assert_eq!(tally.waited, 0);
}

#[test]
fn the_delay_of_the_timer_is_not_counted_and_every_other_is() {
    let due = Instant::now() + SECOND;
    let (before, after) = (due - MILLISECOND, |ms| due + MILLISECOND * ms);
    for (asked, woken, began, start) in [
        (before, after(1), after(1), Start::OnTime),
        (before, after(9), due, Start::Late(9 * MILLISECOND)),
        (after(1), after(1), due, Start::OnTime),
        (after(9), after(9), due, Start::Waited(9 * MILLISECOND)),
    ] {
        assert_eq!(Due::new(due, asked, woken, false), Due { at: due, began, start });
    }
    let start = Due::new(due, after(9), after(9), true).start;
    assert_eq!(start, Start::Late(9 * MILLISECOND), "the connection was free before this program saw it");
}

proptest! {
    #[test]
    fn requests_are_due_at_even_times(rate in 1..=1_000_000_u32, nth: u64) {
        let plan = Plan { rate, lasts: None, ..PLAN };
        let due = |nth| plan.due(nth).expect("no end");
        let nth = nth % (1 << 50);
        let even = Duration::from_secs(1) / rate;
        let step = due(nth + 1) - due(nth);
        prop_assert!(step.abs_diff(even) <= Duration::from_nanos(1), "{step:?} and not {even:?}");
        prop_assert_eq!(due(u64::from(rate) * 7), Duration::from_secs(7));
    }

    #[test]
    fn the_requests_until_a_moment_are_those_that_are_due_by_then(rate in 1..=1_000_000_u32, nanos in 0..20_000_000_000_u64) {
        let (plan, time) = (Plan { rate, ..PLAN }, Duration::from_nanos(nanos));
        let many = plan.due_within(time);
        let is_due = |nth| plan.due(nth).is_some_and(|due| due <= time);
        prop_assert!(is_due(many - 1) && !is_due(many), "{many}");
    }
}
