//! Notices an answer of HTTP/1 with more fields than hyper has room for, before hyper reads it.
//!
//! hyper has room for [`ROOM`] fields on its stack. To be told of more it takes memory, and clears it, for every head
//! there is, which costs a twentieth of a request; and nearly no answer has so many. So a connection begins with that
//! room, and what is about to come is looked at line by line. An answer with more fields is kept from hyper: the
//! connection is taken from it, and a new reader with more room reads the answer from its first byte.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use memchr::memchr;
use parking_lot::Mutex;

/// What hyper has at hand, and takes when it is told nothing.
pub(super) const ROOM: usize = 100;

/// Whether an answer's head is about to come. Set by who sends a request, taken by who reads.
#[derive(Debug, Default)]
pub(super) struct Expected(AtomicBool);

impl Expected {
    pub(super) fn expect(&self) {
        self.0.store(true, Relaxed);
    }

    fn take(&self) -> bool {
        self.0.load(Relaxed) && self.0.swap(false, Relaxed)
    }
}

/// The way through one head.
#[derive(Debug, Default)]
pub(super) struct Watch {
    is_looking: bool,
    /// What has come of the head in earlier pieces; hyper has these already.
    begun: Vec<u8>,
    /// Lines of it so far, the first line included.
    lines: usize,
    /// The last line has begun with more than the `\r` of a blank one, and not ended.
    is_within_line: bool,
}

impl Watch {
    /// Looks at the next piece that was read. Returns the whole head so far when it has too many fields.
    pub(super) fn look(&mut self, expected: &Expected, piece: &[u8]) -> Option<Vec<u8>> {
        if expected.take() {
            *self = Self { is_looking: true, ..Self::default() };
        }
        if !self.is_looking || !self.is_over(piece) {
            return None;
        }
        let mut head = std::mem::take(self).begun;
        head.extend_from_slice(piece);
        Some(head)
    }

    /// Whether the head has more fields than hyper has room for, as of this piece of what was read. A blank line ends the
    /// head and the looking, unless the head was an interim answer: another head follows that. The lines of a head that
    /// has not ended are kept in `begun`.
    fn is_over(&mut self, piece: &[u8]) -> bool {
        let (mut head, mut rest) = (piece, piece);
        while let Some(end) = memchr(b'\n', rest) {
            let (line, after) = rest.split_at(end);
            rest = after.get(1..).unwrap_or_default();
            let is_blank = !self.is_within_line && matches!(line, [] | [b'\r']);
            self.is_within_line = false;
            match (is_blank, self.lines) {
                (true, 0) => {
                    self.begun.clear(); // hyper skips empty lines before the first
                    head = rest;
                }
                (true, _) if self.is_interim(head) => {
                    *self = Self { is_looking: true, ..Self::default() };
                    head = rest;
                }
                (true, _) => {
                    *self = Self::default();
                    return false;
                }
                (false, _) => self.lines += 1,
            }
            if self.lines > ROOM + 1 {
                return true;
            }
        }
        self.is_within_line |= !matches!(rest, [] | [b'\r']);
        self.begun.extend_from_slice(head); // seldom: nearly every head comes in one piece
        false
    }

    /// Another head follows an interim one (1xx), but what follows a 101 is no HTTP.
    fn is_interim(&self, head: &[u8]) -> bool {
        const STATUS: usize = "HTTP/1.1 ".len();
        let mut status = self.begun.iter().chain(head).skip(STATUS);
        status.next() == Some(&b'1') && status.take(2).ne(b"01")
    }
}

/// An answer's head has more fields than hyper has room for. Carries the connection past hyper.
pub(super) struct TooMany<T>(Mutex<Option<T>>);

impl<T> TooMany<T> {
    pub(super) const fn new(io: T) -> Self {
        Self(Mutex::new(Some(io)))
    }

    /// The connection, for the first who asks.
    pub(super) fn take(&self) -> Option<T> {
        self.0.lock().take()
    }
}

impl<T> fmt::Debug for TooMany<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TooMany")
    }
}

impl<T> fmt::Display for TooMany<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the answer has more than {ROOM} header fields, and is to be read with room for them")
    }
}

impl<T: Send + 'static> std::error::Error for TooMany<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: usize, end: &str) -> String {
        let lines: String = (0..fields).map(|nth| format!("x-{nth}: 1{end}")).collect();
        format!("HTTP/1.1 200 OK{end}{lines}{end}")
    }

    /// The pieces in which something comes; `Some`: what was kept from hyper, and at which piece.
    fn look<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<(usize, Vec<u8>)> {
        let (mut watch, expected) = (Watch::default(), Expected::default());
        expected.expect();
        let mut pieces = pieces.into_iter().enumerate();
        pieces.find_map(|(nth, piece)| Some((nth, watch.look(&expected, piece)?)))
    }

    #[test]
    fn a_head_with_more_fields_than_there_is_room_for_is_kept_whole() {
        for end in ["\r\n", "\n"] {
            let (fits, over) = (head(ROOM, end), head(ROOM + 1, end));
            assert_eq!(look([fits.as_bytes()]), None);
            assert_eq!(look([over.as_bytes()]), Some((0, over.clone().into())));
        }
    }

    #[test]
    fn in_whatever_pieces_it_comes() {
        for size in [1, 2, 3, 7, 100, 499] {
            let (fits, over) = (head(ROOM, "\r\n"), head(ROOM + 1, "\r\n"));
            assert_eq!(look(fits.as_bytes().chunks(size)), None, "{size}");
            let (nth, kept) = look(over.as_bytes().chunks(size)).expect("it is over");
            assert_eq!(kept, over.as_bytes()[..((nth + 1) * size).min(over.len())], "{size}");
        }
    }

    #[test]
    fn lines_of_a_body_are_no_fields() {
        let answer = head(3, "\r\n") + &"line\n".repeat(500);
        assert_eq!(look([answer.as_bytes()]), None);
        assert_eq!(look(answer.as_bytes().chunks(10)), None);
    }

    #[test]
    fn an_interim_answer_is_followed_by_another_head_and_a_switch_is_not() {
        let over = head(ROOM + 1, "\r\n");
        let continued = format!("HTTP/1.1 100 Continue\r\n\r\n{over}");
        assert_eq!(look([continued.as_bytes()]), Some((0, continued.clone().into())));
        let (first, second) = continued.as_bytes().split_at(continued.len() - over.len());
        assert_eq!(look([first, second]), Some((1, second.to_vec())));
        let switched = format!("HTTP/1.1 101 Switching Protocols\r\n\r\n{over}");
        assert_eq!(look([switched.as_bytes()]), None);
    }

    #[test]
    fn an_interim_answer_may_stand_behind_empty_lines() {
        let over = head(ROOM + 1, "\r\n");
        for before in ["\r\n", "\n", "\r\n\r\n\n"] {
            let answer = format!("{before}HTTP/1.1 100 Continue\r\n\r\n{before}{over}");
            for size in [1, 2, 3, 7, 100, answer.len()] {
                assert!(look(answer.as_bytes().chunks(size)).is_some(), "{before:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn what_nobody_waits_for_is_not_looked_at() {
        let (mut watch, expected) = (Watch::default(), Expected::default());
        assert_eq!(watch.look(&expected, head(ROOM + 1, "\n").as_bytes()), None);
    }
}
