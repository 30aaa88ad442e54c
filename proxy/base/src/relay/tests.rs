use super::*;
use std::collections::VecDeque;
use std::io::ErrorKind::{self, BrokenPipe, ConnectionReset, UnexpectedEof};
use std::sync::Arc;

use parking_lot::Mutex;
use proptest::prelude::{Strategy, any, proptest};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::task::JoinHandle;
use tokio::time::{advance, sleep, timeout};

const UNBOUNDED: Bounds = Bounds { idle: None, max_duration: None };
const IDLE: Bounds = Bounds { idle: Some(Duration::from_secs(60)), max_duration: None };

/// What a scripted stream does at its next read.
#[derive(Debug, Clone)]
enum Read {
    Bytes(&'static [u8]),
    /// Has nothing now, and wakes the task at once.
    Later,
    End,
    Fails(ErrorKind),
}

/// What a scripted stream does at its next write, flush or shutdown.
#[derive(Debug, Clone, Copy)]
enum Write {
    Takes(usize),
    Later,
    Fails(ErrorKind),
}

/// Follows its script. After that it never has anything to read, and takes every write.
#[derive(Debug, Default, Clone)]
struct Scripted {
    reads: VecDeque<Read>,
    writes: VecDeque<Write>,
    flushes: VecDeque<Write>,
    shutdowns: VecDeque<Write>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    written: Vec<u8>,
    /// The number of bytes written at each completed flush.
    flushed: Vec<usize>,
    is_shut: bool,
    /// The number of reads that returned bytes, the end or an error.
    reads: usize,
}

impl Scripted {
    fn reads(reads: impl IntoIterator<Item = Read>) -> Self {
        Self { reads: reads.into_iter().collect(), ..Self::default() }
    }

    fn writes(mut self, writes: impl IntoIterator<Item = Write>) -> Self {
        self.writes.extend(writes);
        self
    }

    fn flushes(mut self, flushes: impl IntoIterator<Item = Write>) -> Self {
        self.flushes.extend(flushes);
        self
    }

    fn shutdowns(mut self, shutdowns: impl IntoIterator<Item = Write>) -> Self {
        self.shutdowns.extend(shutdowns);
        self
    }

    fn written(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().written).into_owned()
    }

    fn is_shut(&self) -> bool {
        self.seen.lock().is_shut
    }

    fn is_flushed(&self) -> bool {
        let seen = self.seen.lock();
        seen.flushed.last().copied().unwrap_or(0) == seen.written.len()
    }
}

fn polled(next: Option<Write>, most: usize, cx: &Context<'_>) -> Poll<io::Result<usize>> {
    match next {
        None => Poll::Ready(Ok(most)),
        Some(Write::Takes(count)) => Poll::Ready(Ok(count.min(most))),
        Some(Write::Fails(kind)) => Poll::Ready(Err(kind.into())),
        Some(Write::Later) => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    }
}

impl AsyncRead for Scripted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = match self.reads.pop_front() {
            None => return Poll::Pending,
            Some(Read::Later) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Read::Bytes(bytes)) => {
                buf.put_slice(bytes);
                Ok(())
            }
            Some(Read::End) => Ok(()),
            Some(Read::Fails(kind)) => Err(kind.into()),
        };
        self.seen.lock().reads += 1;
        Poll::Ready(read)
    }
}

impl AsyncWrite for Scripted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let next = self.writes.pop_front();
        let polled = polled(next, buf.len(), cx);
        if let Poll::Ready(Ok(count)) = polled {
            self.seen.lock().written.extend_from_slice(&buf[..count]);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let next = self.flushes.pop_front();
        ready!(polled(next, 0, cx))?;
        let mut seen = self.seen.lock();
        let written = seen.written.len();
        seen.flushed.push(written);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let next = self.shutdowns.pop_front();
        ready!(polled(next, 0, cx))?;
        self.seen.lock().is_shut = true;
        Poll::Ready(Ok(()))
    }
}

async fn relayed<D, U>(downstream: &mut D, upstream: &mut U, bounds: Bounds) -> Relayed
where
    D: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (mut received, mut sent) = (0, 0);
    let count = |flow, bytes| match flow {
        Flow::Received => received += bytes,
        Flow::Sent => sent += bytes,
    };
    let ended = relay(downstream, upstream, bounds, &Timers::default(), count).await;
    assert_eq!((received, sent), (ended.received, ended.sent), "what was counted on the way");
    ended
}

/// A relay between two in-memory streams: the client's end, the server's end, and the task of the relay.
fn between(bounds: Bounds, capacity: usize) -> (DuplexStream, DuplexStream, JoinHandle<Relayed>) {
    let (client, mut downstream) = duplex(capacity);
    let (server, mut upstream) = duplex(capacity);
    let ended = tokio::spawn(async move { relayed(&mut downstream, &mut upstream, bounds).await });
    (client, server, ended)
}

async fn read_all(io: &mut DuplexStream) -> String {
    let mut all = String::new();
    io.read_to_string(&mut all).await.unwrap();
    all
}

#[tokio::test(start_paused = true)]
async fn an_error_of_one_side_counts_as_its_reset_and_never_as_an_end() {
    use RelayEnd::{DownstreamReset, UpstreamReset};
    let quiet = Scripted::default;
    let fails = |kind| Scripted::reads([Read::Bytes(b"half"), Read::Fails(kind)]);
    let cases = [
        ("reset by the client", fails(ConnectionReset), quiet(), DownstreamReset, "", "half"),
        ("reset by the server", quiet(), fails(ConnectionReset), UpstreamReset, "half", ""),
        ("TLS cut by the client", fails(UnexpectedEof), quiet(), DownstreamReset, "", "half"),
        ("TLS cut by the server", quiet(), fails(UnexpectedEof), UpstreamReset, "half", ""),
        ("both at once", fails(ConnectionReset), fails(ConnectionReset), DownstreamReset, "half", "half"),
    ];
    for (name, mut downstream, mut upstream, how, to_client, to_server) in cases {
        let ended = relayed(&mut downstream, &mut upstream, UNBOUNDED).await;
        assert_eq!(ended.how, how, "{name}");
        assert_eq!((&*downstream.written(), &*upstream.written()), (to_client, to_server), "{name}");
        assert!(!downstream.is_shut() && !upstream.is_shut(), "{name}: a cut must not look like an end");
        assert!(downstream.is_flushed() && upstream.is_flushed(), "{name}: bytes that were read are flushed");
    }
}

#[tokio::test(start_paused = true)]
async fn the_bytes_of_a_side_that_cannot_be_written_to_are_delivered_but_its_end_is_not_passed_on() {
    let endings = [Read::End, Read::Fails(ConnectionReset)];
    for ending in endings {
        let speaker = || Scripted::reads([Read::Bytes(b"body")]);
        let breaker = || {
            let words = [Read::Later, Read::Bytes(b"an "), Read::Later, Read::Bytes(b"answer")];
            Scripted::reads(words.into_iter().chain([ending.clone()])).writes([Write::Fails(BrokenPipe)])
        };
        let (mut client, mut server) = (speaker(), breaker());
        let ended = relayed(&mut client, &mut server, UNBOUNDED).await;
        assert_eq!(ended, Relayed { received: 4, sent: 9, how: RelayEnd::UpstreamReset }, "{ending:?}");
        assert_eq!((&*client.written(), client.is_shut()), ("an answer", false), "{ending:?}");

        let (mut client, mut server) = (breaker(), speaker());
        let ended = relayed(&mut client, &mut server, UNBOUNDED).await;
        assert_eq!(ended, Relayed { received: 9, sent: 0, how: RelayEnd::DownstreamReset }, "{ending:?}");
        assert_eq!((&*server.written(), server.is_shut()), ("an answer", false), "{ending:?}");
    }
}

/// After a write has failed, the kernel returns the bytes that came before the reset, and then an ordinary end
/// although the connection was reset.
#[tokio::test]
async fn the_answer_of_a_server_that_reset_its_connection_is_delivered_and_the_relay_ends_as_a_reset() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    io::Write::write_all(&mut &upstream, b"never read").unwrap();
    io::Write::write_all(&mut server, b"too large").unwrap();
    drop(server); // resets the connection, because bytes are unread
    upstream.set_nonblocking(true).unwrap();
    let mut upstream = tokio::net::TcpStream::from_std(upstream).unwrap();
    let mut client = Scripted::reads([Read::Bytes(b"body")]);
    let ended = relayed(&mut client, &mut upstream, UNBOUNDED).await;
    assert_eq!((ended.how, ended.sent), (RelayEnd::UpstreamReset, 9));
    assert_eq!((&*client.written(), client.is_shut()), ("too large", false));
}

#[tokio::test(start_paused = true)]
async fn a_silent_side_that_cannot_be_written_to_is_given_up_after_one_second() {
    let start = Instant::now();
    let mut client = Scripted::reads([Read::Bytes(b"body")]);
    let mut server = Scripted::default().writes([Write::Fails(BrokenPipe)]);
    let ended = relayed(&mut client, &mut server, IDLE).await;
    assert_eq!((ended.how, start.elapsed()), (RelayEnd::UpstreamReset, LAST_WORDS));
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_fails_is_noticed_at_a_write_a_flush_or_a_shutdown() {
    use RelayEnd::{Closed, UpstreamReset};
    let full = [Write::Takes(0)];
    let broken = [Write::Fails(BrokenPipe)];
    let whole = || Scripted::reads([Read::End]);
    let cases = [
        ("write", whole().writes(broken), UpstreamReset),
        ("takes nothing", whole().writes(full), UpstreamReset),
        ("second write", whole().writes([Write::Takes(1), Write::Later, broken[0]]), UpstreamReset),
        ("flush", whole().flushes(broken), UpstreamReset),
        ("shutdown, after all bytes", whole().shutdowns(broken), Closed),
        (
            "shutdown, amid an answer",
            Scripted::reads([Read::Bytes(b"a"), Read::Later, Read::End]).shutdowns(broken),
            UpstreamReset,
        ),
    ];
    for (name, mut server, how) in cases {
        let mut client = Scripted::reads([Read::Bytes(b"body"), Read::Later, Read::End]);
        let ended = relayed(&mut client, &mut server, UNBOUNDED).await;
        assert_eq!(ended.how, how, "{name}");
    }
}

#[tokio::test]
async fn one_side_may_end_long_before_the_other() {
    let (mut client, mut server, ended) = between(UNBOUNDED, 64);
    client.write_all(b"all I have to say").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut server).await, "all I have to say");
    server.write_all(b"then listen").await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await, "then listen");
    assert_eq!(ended.await.unwrap(), Relayed { received: 17, sent: 11, how: RelayEnd::Closed });
}

#[tokio::test]
async fn the_server_may_be_the_first_to_end() {
    let (mut client, mut server, ended) = between(UNBOUNDED, 64);
    server.write_all(b"banner").await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await, "banner");
    client.write_all(b"noted").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut server).await, "noted");
    assert_eq!(ended.await.unwrap(), Relayed { received: 5, sent: 6, how: RelayEnd::Closed });
}

#[tokio::test]
async fn the_end_is_passed_on_after_every_byte_before_it() {
    let mut client = Scripted::reads([Read::Bytes(b"slowly"), Read::End]);
    let mut server = Scripted::reads([Read::End])
        .writes([Write::Later, Write::Takes(1), Write::Later, Write::Takes(2)])
        .flushes([Write::Later, Write::Later])
        .shutdowns([Write::Later]);
    let ended = relayed(&mut client, &mut server, UNBOUNDED).await;
    assert_eq!(ended, Relayed { received: 6, sent: 0, how: RelayEnd::Closed });
    assert_eq!((server.written(), server.is_shut()), ("slowly".to_owned(), true));
    assert_eq!(server.seen.lock().flushed, [6], "flushed once, when everything was written");
}

#[tokio::test]
async fn bytes_are_flushed_when_nothing_follows_and_not_after_every_piece() {
    let [a, b, c] = [b"a", b"b", b"c"].map(|piece| Read::Bytes(piece));
    let mut client = Scripted::reads([a, b, Read::Later, Read::Later, c, Read::End]);
    let mut server = Scripted::reads([Read::Later, Read::Later, Read::Later, Read::Later, Read::End]);
    relayed(&mut client, &mut server, UNBOUNDED).await;
    assert_eq!(server.seen.lock().flushed, [2, 3]);
}

#[tokio::test(start_paused = true)]
async fn silence_on_both_sides_ends_the_relay() {
    let (_client, _server, ended) = between(IDLE, 64);
    let start = Instant::now();
    assert_eq!(ended.await.unwrap(), Relayed { received: 0, sent: 0, how: RelayEnd::Idle });
    assert_eq!(start.elapsed(), Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn a_few_bytes_in_one_direction_keep_the_relay_alive_and_idle_time_counts_from_the_last_byte() {
    let (mut client, mut server, ended) = between(IDLE, 64);
    let start = Instant::now();
    for _ in 0..10 {
        sleep(Duration::from_secs(59)).await;
        server.write_all(b".").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'.');
    }
    assert_eq!(ended.await.unwrap(), Relayed { received: 0, sent: 10, how: RelayEnd::Idle });
    assert_eq!(start.elapsed(), Duration::from_secs(59 * 10 + 60));
}

#[tokio::test(start_paused = true)]
async fn a_relay_whose_reader_takes_nothing_is_idle() {
    let (mut client, _server, ended) = between(IDLE, 8);
    let endless = tokio::spawn(async move { while client.write_all(b"more").await.is_ok() {} });
    assert_eq!(ended.await.unwrap().how, RelayEnd::Idle);
    endless.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_reused_timer_of_another_connection_does_not_end_the_relay_early() {
    let timers = Timers::default();
    drop(timers.deadline(Instant::now() + Duration::from_secs(10)));
    let (mut client, mut server) = (Scripted::reads([Read::Bytes(b"a")]), Scripted::default());
    let start = Instant::now();
    let ended = relay(&mut client, &mut server, IDLE, &timers, |_, _| ()).await;
    assert_eq!((ended.how, start.elapsed()), (RelayEnd::Idle, Duration::from_secs(60)));
}

#[tokio::test(start_paused = true)]
async fn a_busy_relay_ends_at_max_duration() {
    let bounds = Bounds { max_duration: Some(Duration::from_secs(100)), ..IDLE };
    let (mut client, server, ended) = between(bounds, 64);
    let start = Instant::now();
    let busy = tokio::spawn(async move {
        while client.write_all(b"tick").await.is_ok() {
            sleep(Duration::from_millis(700)).await;
        }
    });
    let sink = tokio::spawn(async move {
        let mut server = server;
        tokio::io::copy(&mut server, &mut tokio::io::sink()).await
    });
    assert_eq!(ended.await.unwrap().how, RelayEnd::MaxDuration);
    assert_eq!(start.elapsed(), Duration::from_secs(100));
    busy.await.unwrap();
    assert_eq!(sink.await.unwrap().unwrap(), 143 * 4);
}

#[tokio::test(start_paused = true)]
async fn bounds_too_large_for_the_clock_count_as_no_bounds() {
    let bounds = Bounds { idle: Some(Duration::MAX), max_duration: Some(Duration::MAX) };
    let (client, server, ended) = between(bounds, 64);
    advance(Duration::from_secs(1 << 30)).await;
    drop((client, server));
    assert_eq!(ended.await.unwrap().how, RelayEnd::Closed);
}

#[test]
fn the_second_for_last_bytes_is_given_once_and_never_extends_a_bound() {
    let timers = Timers::default();
    let bounds = |secs| Bounds { idle: None, max_duration: Some(Duration::from_secs(secs)) };
    for (secs, until) in [(0, Duration::ZERO), (9, LAST_WORDS)] {
        let mut patience = Patience::new(bounds(secs), &timers);
        let start = patience.last_moved;
        patience.shorten();
        let first = patience.next().map(|(at, _)| at);
        patience.shorten();
        assert_eq!(patience.next().map(|(at, _)| at), first, "the second call changes nothing");
        let left = first.unwrap().duration_since(start);
        assert!(left >= until && left < until + Duration::from_secs(1), "{left:?} for {secs} s");
    }
}

/// A reader that never ends and is always ready.
struct Flood(u64);

impl AsyncRead for Flood {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0 += buf.remaining() as u64;
        buf.advance(buf.remaining());
        Poll::Ready(Ok(()))
    }
}

fn turn(direction: &mut OneWay, reader: &mut (impl AsyncRead + Unpin), writer: &mut Scripted) {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    with_scratch(|scratch| direction.poll(&mut cx, reader, writer, scratch));
}

#[test]
fn a_slow_reader_costs_at_most_one_scratch_buffer_and_stops_reading_from_the_other_side() {
    let takes = [Write::Takes(1000), Write::Later, Write::Later, Write::Takes(9), Write::Later];
    let (mut flood, mut slow) = (Flood(0), Scripted::default().writes(takes));
    let mut direction = OneWay::default();
    for left in [SCRATCH - 1000, SCRATCH - 1000, SCRATCH - 1009] {
        turn(&mut direction, &mut flood, &mut slow);
        assert_eq!((direction.left.len(), flood.0), (left, SCRATCH as u64));
    }
}

#[test]
fn the_kept_bytes_are_freed_when_they_are_written() {
    let mut direction = OneWay::default();
    let mut reader = Scripted::reads([Read::Bytes(b"kept")]);
    let mut writer = Scripted::default().writes([Write::Later]);
    turn(&mut direction, &mut reader, &mut writer);
    assert_eq!(&direction.left[..], b"kept");
    turn(&mut direction, &mut reader, &mut writer);
    assert_eq!((direction.left, writer.written()), (Bytes::new(), "kept".to_owned()));
}

#[test]
fn a_direction_that_is_always_ready_yields_after_its_share() {
    let (mut direction, mut flood, mut sink) = (OneWay::default(), Flood(0), Scripted::default());
    for share in [1, 2, 3].map(|turns| turns * SHARE) {
        turn(&mut direction, &mut flood, &mut sink);
        assert_eq!((flood.0, direction.written), (share as u64, share as u64));
        assert_eq!(sink.seen.lock().flushed.last(), Some(&share), "flushed when it yields");
    }
}

#[tokio::test]
async fn a_direction_with_tiny_pieces_yields_and_continues_without_an_outside_wake() {
    let pieces = || std::iter::repeat_n(Read::Bytes(b"."), 1000);
    let mut client = Scripted::reads(pieces().chain([Read::End]));
    let mut server = Scripted::reads([Read::End]);
    let ended = relayed(&mut client, &mut server, UNBOUNDED).await;
    assert_eq!(ended, Relayed { received: 1000, sent: 0, how: RelayEnd::Closed });
    let turn = SHARE / SMALLEST_PART;
    assert_eq!(server.seen.lock().flushed.first(), Some(&turn));
}

/// Polls another whole relay each time it is read.
struct Nested(Scripted);

impl AsyncRead for Nested {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = Scripted::reads([Read::Bytes(b"inner"), Read::End]);
        let mut server = Scripted::reads([Read::End]);
        let timers = Timers::default();
        let relaying = relay(&mut inner, &mut server, UNBOUNDED, &timers, |_, _| ());
        let ended = ready!(std::pin::pin!(relaying).poll(cx));
        assert_eq!((ended.how, server.written()), (RelayEnd::Closed, "inner".to_owned()));
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

#[tokio::test]
async fn a_stream_inside_a_relay_may_poll_another_relay() {
    let io = Scripted::reads([Read::Bytes(b"out"), Read::Bytes(b"er"), Read::End]);
    let (seen, mut server) = (io.seen.clone(), Scripted::reads([Read::End]));
    let (reader, writer) = (Nested(io), Scripted::default());
    let mut client = tokio::io::join(reader, writer);
    let ended = relayed(&mut client, &mut server, UNBOUNDED).await;
    assert_eq!((ended.how, server.written()), (RelayEnd::Closed, "outer".to_owned()));
    assert_eq!(seen.lock().reads, 3);
}

#[test]
fn a_waiting_relay_takes_at_most_512_bytes() {
    let (mut downstream, mut upstream) = (Scripted::default(), Scripted::default());
    let timers = Timers::default();
    let relaying = relay(&mut downstream, &mut upstream, IDLE, &timers, |_, _| ());
    assert!(size_of_val(&relaying) <= 512, "{} bytes", size_of_val(&relaying));
}

/// Writes `pieces` with a pause before each, then ends. Reads until the end, in pieces of at most `sip` bytes.
async fn talk(io: DuplexStream, pieces: Vec<(Vec<u8>, u8)>, sip: usize) -> Vec<u8> {
    let (mut reader, mut writer) = split(io);
    let speaking = async {
        for (piece, pause) in pieces {
            for _ in 0..pause {
                tokio::task::yield_now().await;
            }
            writer.write_all(&piece).await.unwrap();
        }
        writer.shutdown().await.unwrap();
    };
    let listening = async {
        let (mut heard, mut buf) = (Vec::new(), vec![0; sip]);
        loop {
            match reader.read(&mut buf).await.unwrap() {
                0 => return heard,
                count => heard.extend_from_slice(&buf[..count]),
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(speaking, listening).1
}

fn pieces() -> impl Strategy<Value = Vec<(Vec<u8>, u8)>> {
    let piece = proptest::collection::vec(any::<u8>(), 0..300);
    proptest::collection::vec((piece, 0..4_u8), 0..12)
}

fn whole(pieces: &[(Vec<u8>, u8)]) -> Vec<u8> {
    pieces.iter().flat_map(|(piece, _)| piece.clone()).collect()
}

proptest! {
    #[test]
    fn every_byte_is_carried_in_order_in_any_interleaving(
        said in pieces(),
        answered in pieces(),
        capacities in (1..200_usize, 1..200_usize),
        sips in (1..100_usize, 1..100_usize),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let (to_server, to_client) = (whole(&said), whole(&answered));
        let (client, mut downstream) = duplex(capacities.0);
        let (server, mut upstream) = duplex(capacities.1);
        let (heard_by_client, heard_by_server, ended) = runtime.unwrap().block_on(async {
            let all = async {
                tokio::join!(
                    talk(client, said, sips.0),
                    talk(server, answered, sips.1),
                    relayed(&mut downstream, &mut upstream, IDLE),
                )
            };
            timeout(Duration::from_secs(1), all).await.expect("no time passes while bytes move")
        });
        let counts = (to_server.len() as u64, to_client.len() as u64);
        assert_eq!((ended.received, ended.sent, ended.how), (counts.0, counts.1, RelayEnd::Closed));
        assert_eq!((heard_by_client, heard_by_server), (to_client, to_server));
    }
}
