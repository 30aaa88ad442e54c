use std::sync::Arc;
use std::task::Waker;

use pillion_base::net::Stream;
use pillion_base::net::memory::Pipe;
use pillion_base::unfinished::{Side, Unfinished};
use tokio::io::AsyncWriteExt as _;

use super::*;

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("a short frame");
    [&[0, 0, length, kind, flags, 0, 0, 0, 1], payload].concat()
}

#[test]
fn a9_a_head_that_begins_where_another_ended_has_a_time_of_its_own() {
    let mut frames = Frames::default();
    frames.note(&[b'p'; PREFACE]);
    let head = frame(HEADERS, END_HEADERS, b"whole");
    let (first, rest) = head.split_at(4);
    frames.note(first);
    let before = frames.heads;
    assert_eq!(frames.note(&[rest, first].concat()), first.len(), "of the second head");
    assert!(frames.is_in_head() && frames.heads != before);
    let before = frames.heads;
    frames.note(&rest[..3]);
    assert!(frames.is_in_head() && frames.heads == before, "the same head goes on");
}

/// A client that has said nothing and does nothing.
struct Silent;

impl Downstream for Silent {
    fn is_busy(&self) -> bool {
        false
    }

    fn header_timeout(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn idle_timeout(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn note_idle(&self) {}

    fn begin_head(&self) -> Share {
        Arc::new(Unfinished::default()).begin(Side::Peers)
    }

    fn most_head_bytes(&self) -> usize {
        64 * 1024
    }

    fn head_given_up(&self) {}

    fn head_late(&self) {}
}

#[tokio::test]
async fn a8_heads_that_were_whole_do_not_count_against_the_one_that_is_not() {
    let mut client = GuardedClient::new(Box::new(Silent), &Timers::default());
    client.note_read(&[b'p'; PREFACE]);
    let head = frame(HEADERS, END_HEADERS, &[b'a'; 200]);
    let (first, rest) = head.split_at(20);
    client.note_read(first);
    for _ in 0..100 {
        client.note_read(&[rest, first].concat());
        assert_eq!(client.head_bytes, first.len());
    }
    client.note_read(&rest[..5]);
    assert_eq!(client.head_bytes, first.len() + 5, "the same head goes on");
}

/// What a peer finds when it looks.
async fn arrived(far: &mut Pipe) -> Vec<u8> {
    let mut bytes = vec![0; 256 * 1024];
    let mut buf = ReadBuf::new(&mut bytes);
    std::future::poll_fn(|cx| {
        while Pin::new(&mut *far).poll_read(cx, &mut buf).is_ready() {}
        Poll::Ready(())
    })
    .await;
    let count = buf.filled().len();
    bytes.truncate(count);
    bytes
}

#[tokio::test]
async fn what_is_written_in_one_move_leaves_at_its_end_and_in_its_order() {
    let (near, mut far) = Pipe::pair(256 * 1024);
    let io = Io::plain(Stream::Memory(near, None));
    let mut guarded = GuardedIo::upstream(io, &Timers::default());
    guarded.begin_move();
    for letter in [b'a', b'b'] {
        guarded.write_all(&[letter; 1000]).await.unwrap();
        guarded.flush().await.unwrap();
    }
    assert!(arrived(&mut far).await.is_empty(), "the move has not ended");
    guarded.end_move(&mut Context::from_waker(Waker::noop()));
    assert_eq!(arrived(&mut far).await, [[b'a'; 1000], [b'b'; 1000]].concat());

    guarded.begin_move();
    guarded.write_all(b"small").await.unwrap();
    guarded.write_all(&[b'c'; 40_000]).await.unwrap();
    guarded.write_all(b"last").await.unwrap();
    guarded.end_move(&mut Context::from_waker(Waker::noop()));
    assert_eq!(arrived(&mut far).await, [&b"small"[..], &[b'c'; 40_000], b"last"].concat());
    assert_eq!(guarded.0.lock().gathered.held(), 0, "nothing is held when all has left");
}

#[tokio::test(start_paused = true)]
async fn a4_a_peer_that_takes_nothing_of_what_was_gathered_is_given_up() {
    let (near, _far) = Pipe::pair(64);
    let io = Io::plain(Stream::Memory(near, None));
    let mut guarded = GuardedIo::upstream(io, &Timers::default());
    let began = Instant::now();
    guarded.begin_move();
    guarded.write_all(&[b'a'; 1000]).await.unwrap();
    let mut byte = [0];
    let ended = std::future::poll_fn(|cx| {
        guarded.begin_move();
        let read = Pin::new(&mut guarded).poll_read(cx, &mut ReadBuf::new(&mut byte));
        guarded.end_move(cx);
        read
    })
    .await;
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(began.elapsed(), crate::stall::STALL_TIMEOUT);
}

/// A GOAWAY that is written in the last move is still gathered when the connection is shut down.
#[tokio::test(start_paused = true)]
async fn a4_what_was_gathered_is_sent_before_the_shutdown_and_not_waited_for_without_end() {
    for (room, takes) in [(256 * 1024, true), (64, false)] {
        let (near, mut far) = Pipe::pair(room);
        let io = Io::plain(Stream::Memory(near, None));
        let mut guarded = GuardedIo::downstream(io, Box::new(Silent), &Timers::default());
        let began = Instant::now();
        guarded.begin_move();
        guarded.write_all(&[b'a'; 1000]).await.unwrap();
        let ended = guarded.shutdown().await.map_err(|error| error.kind());
        let expected = if takes { Ok(()) } else { Err(io::ErrorKind::TimedOut) };
        assert_eq!(ended, expected);
        assert_eq!(arrived(&mut far).await.len(), if takes { 1000 } else { room });
        let waited = if takes { LEAVES_WITHIN } else { crate::stall::STALL_TIMEOUT };
        assert_eq!(began.elapsed(), waited);
    }
}

#[test]
fn a9_a_head_is_under_way_from_its_first_byte_to_its_last() {
    let preface = [b'p'; PREFACE];
    let (settings, data) = (frame(4, 0, b"123456"), frame(0, 0, b"body"));
    let split = [frame(HEADERS, 0, b"one"), frame(CONTINUATION, END_HEADERS, b"two")].concat();
    let empty = frame(HEADERS, END_HEADERS, b"");
    for head in [split, empty, frame(HEADERS, END_HEADERS | 1, b"whole")] {
        for step in 1..8 {
            let mut frames = Frames::default();
            for bytes in [&preface[..], &settings, &data].concat().chunks(step) {
                frames.note(bytes);
            }
            assert!(!frames.is_in_head());
            let (all_but_last, last) = head.split_at(head.len() - 1);
            for bytes in all_but_last.chunks(step) {
                frames.note(bytes);
                assert!(frames.is_in_head());
            }
            frames.note(last);
            assert!(!frames.is_in_head());
            frames.note(&data);
            assert!(!frames.is_in_head());
        }
    }
}
