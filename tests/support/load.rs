//! Load on a fixed schedule, independent of the answers, with streams that live as long as the load. Every failure is
//! recorded.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use http_body::Frame;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};

use super::application::{MASKED, UNMASKED, message};
use super::http2::{Client, Piped, collect, grpc};
use super::wire::Wire;
use super::{PATIENCE, eventually, soon};

/// A request that is sent this long after its time counts as late: the machine was busy, or the previous answer slow.
const LATE: Duration = Duration::from_millis(50);
/// Clients connect again after this many requests, because a reload concerns new connections as well.
const REQUESTS: usize = 50;
const STREAMS_PER_CONNECTION: usize = 10;

#[derive(Clone, Copy)]
pub(crate) struct Size {
    /// Requests per second, of all clients together.
    pub(crate) rate: u32,
    /// The number of clients, each with a connection of its own.
    pub(crate) clients: u32,
    /// The number of WebSockets, and of gRPC streams.
    pub(crate) streams: usize,
}

/// The results of the load.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) answers: AtomicUsize,
    pub(crate) late: AtomicUsize,
    pub(crate) echoes: AtomicUsize,
    pub(crate) streams: AtomicUsize,
    /// The longest time from the scheduled time of a request to its answer.
    pub(crate) slowest: Mutex<Duration>,
    /// Requests without an answer, and streams that were cut.
    pub(crate) failures: Mutex<Vec<String>>,
}

pub(crate) struct Load {
    stops: Arc<AtomicBool>,
    pub(crate) tally: Arc<Tally>,
    tasks: JoinSet<()>,
}

impl Load {
    /// `ports` are two ports of the caller's sidecar that lead to `orders`.
    pub(crate) async fn start(ports: [SocketAddr; 2], size: Size) -> Self {
        let mut load = Self { stops: Arc::default(), tally: Arc::default(), tasks: JoinSet::new() };
        let pause = Duration::from_secs(1) * size.clients / size.rate;
        for (client, port) in (0..size.clients).zip(ports.into_iter().cycle()) {
            let first = Instant::now() + pause * client / size.clients;
            let (stops, tally) = (load.stops.clone(), load.tally.clone());
            load.tasks.spawn(async move { ask(port, ticks(first, pause), &stops, &tally).await });
        }
        for (number, port) in (0..size.streams).zip(ports.into_iter().cycle()) {
            let (stops, tally) = (load.stops.clone(), load.tally.clone());
            load.tasks.spawn(async move {
                let ended = websocket(port, &stops, &tally).await;
                tally.note(ended.map_err(|why| format!("WebSocket {number}: {why}")));
            });
        }
        for first in (0..size.streams).step_by(STREAMS_PER_CONNECTION) {
            let client = Client::connect(ports[0]).await;
            for number in first..size.streams.min(first + STREAMS_PER_CONNECTION) {
                let (client, stops, tally) = (client.clone(), load.stops.clone(), load.tally.clone());
                load.tasks.spawn(async move {
                    let ended = stream(client, &stops, &tally).await;
                    tally.note(ended.map_err(|why| format!("gRPC stream {number}: {why}")));
                });
            }
        }
        let tally = load.tally.clone();
        let all = 2 * size.streams;
        eventually("all streams", async || (tally.streams.load(Relaxed) == all).then_some(())).await;
        load
    }

    /// Waits until this many further answers have come, and each stream has received something.
    pub(crate) async fn goes_on(&self, further: usize) {
        let before = self.tally.answers.load(Relaxed);
        eventually("further answers", async || {
            let failures = self.tally.failures.lock().clone();
            assert!(failures.is_empty(), "{failures:#?}");
            (self.tally.answers.load(Relaxed) >= before + further).then_some(())
        })
        .await;
    }

    /// Ends the load. The orderly end of the streams is checked as well.
    pub(crate) async fn stop(mut self) -> Arc<Tally> {
        self.stops.store(true, Relaxed);
        while let Some(ended) = soon("the end of a client", self.tasks.join_next()).await {
            ended.expect("a client that did not panic");
        }
        self.tally
    }
}

impl Tally {
    fn note(&self, outcome: Result<(), String>) {
        if let Err(why) = outcome {
            self.failures.lock().push(why);
        }
    }
}

/// Late ticks come at once, so that the rate is kept.
fn ticks(first: Instant, pause: Duration) -> Interval {
    let mut ticks = interval_at(first, pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    ticks
}

/// Sends requests, on one connection after the other.
async fn ask(port: SocketAddr, mut ticks: Interval, stops: &AtomicBool, tally: &Tally) {
    let mut wire = None;
    for number in 0_usize.. {
        let due = ticks.tick().await;
        if stops.load(Relaxed) {
            return;
        }
        if due.elapsed() > LATE {
            tally.late.fetch_add(1, Relaxed);
        }
        let mut to = match wire.take() {
            Some(wire) if !number.is_multiple_of(REQUESTS) => wire,
            _ => Wire::connect(port).await,
        };
        let answered = timeout(PATIENCE, ask_once(&mut to, number)).await;
        let answered = answered.unwrap_or_else(|_| Err("no answer".to_owned()));
        let mut slowest = tally.slowest.lock();
        *slowest = due.elapsed().max(*slowest);
        drop(slowest);
        match answered {
            Ok(stays) => {
                tally.answers.fetch_add(1, Relaxed);
                wire = stays.then_some(to);
            }
            Err(why) => tally.note(Err(format!("request {number} to {port}: {why}"))),
        }
    }
}

/// Sends GET and POST alternately, because a POST is never sent again. Returns whether the connection stays open.
pub(crate) async fn ask_once(wire: &mut Wire, number: usize) -> Result<bool, String> {
    let (method, body) = match number % 2 {
        0 => ("GET", String::new()),
        _ => ("POST", number.to_string()),
    };
    let length = body.len();
    let request =
        format!("{method} /{number} HTTP/1.1\r\nhost: orders\r\ncontent-length: {length}\r\n\r\n{body}");
    wire.try_send(request).await.map_err(|error| error.to_string())?;
    let answer = wire.message().await.ok_or("hung up before an answer")?;
    let is_good = answer.status() == 200 && answer.is_whole;
    if !is_good || answer.text() != format!("{method} /{number} {body}") {
        return Err(format!("{} {}", answer.head, answer.text()));
    }
    Ok(answer.header("connection") != Some("close"))
}

/// The pause between two tokens of a stream.
const TOKENS: Duration = Duration::from_secs(1);

pub(crate) async fn websocket(port: SocketAddr, stops: &AtomicBool, tally: &Tally) -> Result<(), String> {
    let mut wire = Wire::connect(port).await;
    wire.send(
        "GET /socket HTTP/1.1\r\nhost: orders\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    .await;
    let head = soon("an upgrade", wire.head()).await.ok_or("hung up before it was one")?;
    if !head.starts_with("HTTP/1.1 101") || !head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") {
        return Err(head);
    }
    tally.streams.fetch_add(1, Relaxed);
    let mut ticks = ticks(Instant::now(), TOKENS);
    for token in 0_u32.. {
        ticks.tick().await;
        if stops.load(Relaxed) {
            break;
        }
        let token = token.to_be_bytes();
        let frame = [&[0x82, 0x84, 0, 0, 0, 0], &token[..]].concat();
        assert_eq!(frame.len(), MASKED);
        wire.try_send(frame).await.map_err(|error| error.to_string())?;
        let echo = timeout(PATIENCE, wire.exactly(UNMASKED)).await.map_err(|_late| "no echo")?;
        if echo != ([&[0x82, 4], &token[..]].concat(), true) {
            return Err(format!("cut, or another echo: {echo:?}"));
        }
        tally.echoes.fetch_add(1, Relaxed);
    }
    Ok(())
}

pub(crate) async fn stream(mut client: Client, stops: &AtomicBool, tally: &Tally) -> Result<(), String> {
    let (to, piped) = Piped::new();
    let answer = client.try_send(grpc("orders", piped)).await.map_err(|error| format!("{error:?}"))?;
    if answer.status() != 200 {
        return Err(format!("{answer:?}"));
    }
    let mut body = answer.into_body();
    tally.streams.fetch_add(1, Relaxed);
    let mut ticks = ticks(Instant::now(), TOKENS);
    for token in 0_u32.. {
        ticks.tick().await;
        if stops.load(Relaxed) {
            break;
        }
        let (message, mut echo) = (message(token.to_be_bytes()), Vec::new());
        to.send(Frame::data(message.clone()))
            .await
            .map_err(|_gone| "the connection takes no more of the request's body")?;
        while echo.len() < message.len() {
            let frame = timeout(PATIENCE, body.frame()).await.map_err(|_late| "no echo")?;
            let frame = frame.ok_or("ended")?.map_err(|error| format!("{error:?}"))?;
            echo.extend_from_slice(&frame.into_data().map_err(|frame| format!("{frame:?}"))?);
        }
        if echo != message {
            return Err(format!("another echo: {echo:?}"));
        }
        tally.echoes.fetch_add(1, Relaxed);
    }
    drop(to);
    let (rest, trailers) = collect(body).await;
    match trailers.get("grpc-status") {
        Some(status) if status == "0" && rest.is_empty() => Ok(()),
        _ => Err(format!("{rest:?} {trailers:?}")),
    }
}
