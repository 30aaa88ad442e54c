//! Bytes of a client or of an upstream, in one piece and in several: the engine reads the same messages, and never
//! panics.
#![no_main]

#[path = "../../../proxy/http1/tests/proofs/drive.rs"]
#[allow(dead_code)]
mod drive;

use drive::{Asking, Message, Served};
use libfuzzer_sys::fuzz_target;
use pillion_http1::{EndOfInput, Fault};

/// The result: the complete messages, the one that has begun, and how it ended.
type Seen = (Vec<Message>, Option<Message>, Option<Fault>, Option<EndOfInput>);

fn served<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Seen {
    let mut served = Served::default();
    pieces.for_each(|piece| served.feed(piece));
    let ended = served.fault.is_none().then(|| served.end());
    (served.requests, served.current, served.fault, ended)
}

fn asked<'a>(method: &str, pieces: impl Iterator<Item = &'a [u8]>) -> Seen {
    let mut asking = Asking::new(method);
    pieces.for_each(|piece| asking.feed(piece));
    let ended = asking.fault.is_none().then(|| asking.end());
    (asking.interim, asking.answer, asking.fault, ended)
}

/// With bytes in pieces a fault may be found earlier or later, or be another one. Then both readings must refuse the
/// message, and the messages before it must be the same.
fn assert_alike(mut one: Seen, mut other: Seen) {
    let is_kept_out =
        |seen: &Seen| seen.2.is_some() || matches!(seen.3, Some(EndOfInput::InHead | EndOfInput::InContent));
    if (one.2.is_some() || other.2.is_some()) && is_kept_out(&one) && is_kept_out(&other) {
        one = (one.0, None, None, None);
        other = (other.0, None, None, None);
    }
    assert_eq!(one, other);
}

fuzz_target!(|input: &[u8]| {
    let [how, bytes @ ..] = input else { return };
    let (is_request, size) = (how & 1 == 0, 1 + usize::from(how >> 3));
    if is_request {
        assert_alike(served(std::iter::once(bytes)), served(bytes.chunks(size)));
    } else {
        let method = ["GET", "HEAD", "CONNECT", "POST"][usize::from(how >> 1 & 3)];
        assert_alike(asked(method, std::iter::once(bytes)), asked(method, bytes.chunks(size)));
    }
});
