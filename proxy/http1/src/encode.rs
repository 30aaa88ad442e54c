//! Writes the framing of a message's content.
//!
//! Small pieces are copied after the head, so that both leave in one write. Large pieces are not copied: the caller
//! writes the framing before and after them.

use crate::error::Misuse;
use crate::fields::Fields;
use crate::framing::Length;
use crate::known::Names;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Encoder {
    left: u64,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The message has no content, or all of it has been written.
    Done,
    Counted,
    Chunked,
    UntilClose,
}

/// The framing before and after a piece of content.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    /// At most sixteen digits and the line's end.
    line: [u8; 18],
    start: u8,
}

impl Frame {
    const BARE: Self = Self { line: [0; 18], start: 18 };

    pub fn before(&self) -> &[u8] {
        self.line.get(usize::from(self.start)..).unwrap_or_default()
    }

    pub const fn after(&self) -> &'static [u8] {
        if self.start < 18 { b"\r\n" } else { b"" }
    }

    fn of_chunk(mut length: usize) -> Self {
        let mut frame = Self { line: *b"................\r\n", start: 16 };
        for place in frame.line.iter_mut().take(16).rev() {
            let digit = (length & 0xf) as u8;
            *place = if digit < 10 { b'0' + digit } else { b'a' - 10 + digit };
            frame.start -= 1;
            length >>= 4;
            if length == 0 {
                break;
            }
        }
        frame
    }
}

impl Encoder {
    pub(crate) const DONE: Self = Self { left: 0, kind: Kind::Done };

    pub(crate) const fn new(length: Length) -> Self {
        match length {
            Length::Empty | Length::Known(0) => Self::DONE,
            Length::Known(left) => Self { left, kind: Kind::Counted },
            Length::Chunked => Self { left: 0, kind: Kind::Chunked },
            Length::UntilClose => Self { left: 0, kind: Kind::UntilClose },
        }
    }

    pub(crate) const fn is_done(&self) -> bool {
        matches!(self.kind, Kind::Done)
    }

    pub(crate) const fn is_until_close(&self) -> bool {
        matches!(self.kind, Kind::UntilClose)
    }

    /// The framing of the next piece, of `length` bytes, which counts as written. An empty piece has no framing: an
    /// empty chunk would end the content.
    pub(crate) fn frame(&mut self, length: usize) -> Result<Frame, Misuse> {
        if length == 0 {
            return Ok(Frame::BARE);
        }
        match self.kind {
            Kind::Done => return Err(Misuse::NoContent),
            Kind::Chunked => return Ok(Frame::of_chunk(length)),
            Kind::UntilClose => {}
            Kind::Counted => {
                self.left = self.left.checked_sub(length as u64).ok_or(Misuse::TooLong)?;
                if self.left == 0 {
                    self.kind = Kind::Done;
                }
            }
        }
        Ok(Frame::BARE)
    }

    pub(crate) fn put(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Misuse> {
        let frame = self.frame(data.len())?;
        out.reserve(data.len() + 32); // the end of the content fits too
        for part in [frame.before(), data, frame.after()] {
            out.extend_from_slice(part);
        }
        Ok(())
    }

    /// Ends the content. Only chunked content can carry trailers; otherwise they are dropped (RFC 9110, 6.5.1).
    pub(crate) fn finish(&mut self, trailers: Option<&Fields>, out: &mut Vec<u8>) -> Result<(), Misuse> {
        match self.kind {
            Kind::Counted => return Err(Misuse::TooShort),
            Kind::Chunked => {
                out.extend_from_slice(b"0\r\n");
                if let Some(trailers) = trailers {
                    trailers.write(out, Names::default());
                }
                out.extend_from_slice(b"\r\n");
            }
            Kind::Done | Kind::UntilClose => {}
        }
        self.kind = Kind::Done;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_chunk_is_written_without_leading_zeros() {
        for (length, before) in [(1, "1\r\n"), (10, "a\r\n"), (255, "ff\r\n"), (0x1000, "1000\r\n")] {
            let frame = Frame::of_chunk(length);
            assert_eq!((frame.before(), frame.after()), (before.as_bytes(), &b"\r\n"[..]));
        }
        assert_eq!(Frame::of_chunk(usize::MAX).before(), b"ffffffffffffffff\r\n");
    }

    #[test]
    fn an_empty_piece_is_not_written_as_the_last_chunk() {
        let (mut encoder, mut out) = (Encoder::new(Length::Chunked), Vec::new());
        encoder.put(b"", &mut out).unwrap();
        encoder.put(b"abc", &mut out).unwrap();
        encoder.finish(None, &mut out).unwrap();
        assert_eq!(out, b"3\r\nabc\r\n0\r\n\r\n");
        assert_eq!(encoder.put(b"x", &mut out), Err(Misuse::NoContent));
    }

    #[test]
    fn a_body_that_differs_from_its_announced_length_is_refused() {
        let (mut encoder, mut out) = (Encoder::new(Length::Known(3)), Vec::new());
        encoder.put(b"ab", &mut out).unwrap();
        assert_eq!(encoder.put(b"cd", &mut out), Err(Misuse::TooLong));
        assert_eq!(encoder.finish(None, &mut out), Err(Misuse::TooShort));
        encoder.put(b"c", &mut out).unwrap();
        assert!(encoder.is_done());
        assert_eq!(out, b"abc");
    }
}
