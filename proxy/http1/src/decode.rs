//! Reads the content of a message: which bytes are content, and where the content ends.
//!
//! Framing is read byte by byte, so that no byte is read twice and only one or two numbers are kept. Only trailers wait
//! in the caller's buffer until they are complete.

use crate::error::Fault;
use crate::fields::Fields;
use crate::framing::Length;
use crate::hop;
use crate::limits::{EXTENSION_BYTES, Limits, SIZE_DIGITS};
use crate::lines::{self, Read};
use crate::search::Search;

/// What the next bytes of a message are.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Further bytes are needed.
    More,
    /// This number of bytes of content is next.
    Data(usize),
    /// The trailers that may be forwarded: fields that frame, route or authorise, or that concern one connection, are
    /// removed.
    Trailers(Fields),
    /// The message is complete.
    End,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Decoder {
    /// The bytes that are left of the content, or of the chunk.
    left: u64,
    search: Search,
    extension_bytes: u16,
    digits: u8,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The content has a known length.
    Counted,
    UntilClose,
    Size,
    /// Blanks after a size. Only an extension or the line's end may follow.
    Blanks,
    Extension,
    SizeEnd,
    Chunk,
    ChunkEnd,
    ChunkEndLine,
    Trailers,
    Done,
}

impl Decoder {
    pub(crate) const DONE: Self =
        Self { left: 0, search: Search::NEW, extension_bytes: 0, digits: 0, phase: Phase::Done };

    pub(crate) const fn new(length: Length) -> Self {
        let (left, phase) = match length {
            Length::Empty | Length::Known(0) => (0, Phase::Done),
            Length::Known(length) => (length, Phase::Counted),
            Length::Chunked => (0, Phase::Size),
            Length::UntilClose => (0, Phase::UntilClose),
        };
        Self { left, phase, ..Self::DONE }
    }

    pub(crate) const fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Done)
    }

    pub(crate) const fn is_until_close(&self) -> bool {
        matches!(self.phase, Phase::UntilClose)
    }

    /// Reads framing at the beginning of `input`. Returns its number of bytes, and what comes after it. Content that is
    /// returned counts as taken.
    pub(crate) fn decode(&mut self, input: &[u8], limits: &Limits) -> Result<(usize, Piece), Fault> {
        let mut rest = input;
        loop {
            let used = input.len() - rest.len();
            match self.phase {
                Phase::Done => return Ok((used, Piece::End)),
                Phase::UntilClose if !rest.is_empty() => return Ok((used, Piece::Data(rest.len()))),
                Phase::Counted | Phase::Chunk if !rest.is_empty() => {
                    return Ok((used, Piece::Data(self.take(rest.len()))));
                }
                Phase::Trailers => {
                    let (taken, piece) = self.trailers(rest, limits)?;
                    return Ok((used + taken, piece));
                }
                _ => {}
            }
            let [byte, others @ ..] = rest else { return Ok((used, Piece::More)) };
            self.phase = self.next(*byte)?;
            rest = others;
        }
    }

    fn take(&mut self, available: usize) -> usize {
        let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(available);
        self.left -= taken as u64;
        if self.left == 0 {
            self.phase = if self.phase == Phase::Chunk { Phase::ChunkEnd } else { Phase::Done };
        }
        taken
    }

    /// The next phase, after a byte of framing.
    fn next(&mut self, byte: u8) -> Result<Phase, Fault> {
        match (self.phase, byte) {
            (Phase::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => self.digit(byte),
            (Phase::Size, _) if self.digits == 0 => Err(Fault::Chunk),
            (Phase::Size | Phase::Blanks, b' ' | b'\t') => self.extension(Phase::Blanks),
            (Phase::Size | Phase::Blanks, b';') => self.extension(Phase::Extension),
            (Phase::Size | Phase::Blanks | Phase::Extension, b'\r') => Ok(Phase::SizeEnd),
            (Phase::Extension, b'\t' | b' '..=b'~' | 0x80..) => self.extension(Phase::Extension),
            (Phase::SizeEnd, b'\n') => Ok(self.size_ended()),
            (Phase::ChunkEnd, b'\r') => Ok(Phase::ChunkEndLine),
            (Phase::ChunkEndLine, b'\n') => Ok(Phase::Size),
            (Phase::Size | Phase::Blanks | Phase::Extension, b'\n') | (Phase::SizeEnd, _) => {
                Err(Fault::BareLineEnd)
            }
            _ => Err(Fault::Chunk),
        }
    }

    fn digit(&mut self, byte: u8) -> Result<Phase, Fault> {
        let digit = char::from(byte).to_digit(16).ok_or(Fault::Chunk)?;
        if self.digits == SIZE_DIGITS {
            return Err(Fault::Chunk);
        }
        self.digits += 1;
        self.left = self.left << 4 | u64::from(digit);
        Ok(Phase::Size)
    }

    fn extension(&mut self, phase: Phase) -> Result<Phase, Fault> {
        self.extension_bytes += 1;
        if self.extension_bytes > EXTENSION_BYTES { Err(Fault::ChunkExtensions) } else { Ok(phase) }
    }

    const fn size_ended(&mut self) -> Phase {
        self.digits = 0;
        if self.left == 0 { Phase::Trailers } else { Phase::Chunk }
    }

    /// Reads the lines after the last chunk, including the empty line.
    fn trailers(&mut self, rest: &[u8], limits: &Limits) -> Result<(usize, Piece), Fault> {
        match rest {
            [b'\r', b'\n', ..] => {
                self.phase = Phase::Done;
                return Ok((2, Piece::End));
            }
            [] | [b'\r'] => return Ok((0, Piece::More)),
            _ => {}
        }
        let bytes = rest.get(..limits.trailer_bytes as usize).unwrap_or(rest);
        let is_due = self.search.is_due(bytes);
        let read = if is_due { read_trailers(bytes, limits)? } else { None };
        let Some((length, mut trailers)) = read else {
            if bytes.len() >= limits.trailer_bytes as usize {
                return Err(Fault::Trailers);
            }
            if is_due {
                self.search.missed(bytes);
            }
            return Ok((0, Piece::More));
        };
        hop::remove_forbidden_trailers(&mut trailers);
        self.phase = Phase::Done;
        Ok((length, if trailers.is_empty() { Piece::End } else { Piece::Trailers(trailers) }))
    }
}

fn read_trailers(bytes: &[u8], limits: &Limits) -> Read<(usize, Fields)> {
    let mut trailers = Fields::unread();
    let read = lines::field_lines(bytes, 0, limits.fields, &mut trailers).or(Err(Fault::Trailers))?;
    let Some(length) = read else { return Ok(None) };
    trailers.keep(bytes.get(..length).unwrap_or_default());
    Ok(Some((length, trailers)))
}
