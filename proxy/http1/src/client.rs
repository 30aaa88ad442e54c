//! The client's side of a connection: it writes requests and reads answers.

use http::{Method, StatusCode};

use crate::decode::{Decoder, Piece};
use crate::encode::{Encoder, Frame};
use crate::error::{Error, Fault, Misuse};
use crate::fields::Fields;
use crate::framing::Length;
use crate::head::ResponseHead;
use crate::known::Known;
use crate::limits::{INTERIM_ANSWERS, Limits};
use crate::search::Search;
use crate::write::{self, LengthLine, Lines, Own};
use crate::{After, EndOfInput};

/// What the next bytes of an upstream are. Bytes of framing before them are counted separately, and are dropped first.
#[derive(Debug)]
pub enum FromUpstream {
    More,
    /// An interim answer (1xx), such as 100 or 103.
    Interim(ResponseHead),
    /// The head of the answer. If its `length` is empty, the answer is complete, and no `End` follows.
    Head(ResponseHead),
    /// The head of an answer that turns the connection into a tunnel: later bytes are opaque.
    Switched(ResponseHead),
    /// This number of bytes of content is next.
    Data(usize),
    Trailers(Fields),
    /// The answer is complete.
    End,
}

#[derive(Debug, Clone, Copy)]
pub struct Client {
    decoder: Decoder,
    encoder: Encoder,
    search: Search,
    reading: Reading,
    interims: u8,
    asked: Asked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// No request was sent.
    Nothing,
    Head,
    Content,
    Whole,
    Opaque,
    /// The meaning of later bytes is unknown.
    Broken,
}

#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    is_head: bool,
    is_connect: bool,
    upgrade: bool,
    /// The connection is to close after this exchange.
    is_last: bool,
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Client {
    pub const fn new() -> Self {
        Self {
            decoder: Decoder::DONE,
            encoder: Encoder::DONE,
            search: Search::NEW,
            reading: Reading::Nothing,
            interims: 0,
            asked: Asked { is_head: false, is_connect: false, upgrade: false, is_last: false },
        }
    }

    /// Makes this exchange the last one. Its request says so, if it has not begun.
    pub const fn close_after(&mut self) {
        self.asked.is_last = true;
    }

    /// Writes the head of a request. The caller has removed the fields that concern another connection; an `Upgrade` in
    /// the fields is sent. If the fields have no `Host`, an empty one is written.
    pub fn write_head<'a>(
        &mut self,
        method: &Method,
        target: &str,
        fields: impl Into<Lines<'a>>,
        length: Length,
        out: &mut Vec<u8>,
    ) -> Result<(), Misuse> {
        if self.reading != Reading::Nothing {
            return Err(Misuse::NotNow);
        }
        let is_connect = *method == Method::CONNECT;
        let length = match length {
            Length::UntilClose => Length::Chunked, // a request cannot end with its connection
            length if is_connect && length.is_empty() => Length::Empty,
            _ if is_connect => return Err(Misuse::NoContent),
            length => length,
        };
        let own = Own { length: LengthLine::of(length), close: self.asked.is_last, keep_alive: false };
        let seen = write::request(method, target, fields.into(), own, out)?;
        self.encoder = Encoder::new(length);
        self.asked = Asked {
            is_head: *method == Method::HEAD,
            is_connect,
            upgrade: seen.has(Known::Upgrade),
            ..self.asked
        };
        self.reading = Reading::Head;
        Ok(())
    }

    /// The bytes to write before and after the next piece of content, for a caller that does not copy the piece.
    pub fn frame(&mut self, length: usize) -> Result<Frame, Misuse> {
        self.encoder.frame(length)
    }

    /// Writes a small piece of content with its framing.
    pub fn put(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Misuse> {
        self.encoder.put(data, out)
    }

    pub fn finish(&mut self, trailers: Option<&Fields>, out: &mut Vec<u8>) -> Result<(), Misuse> {
        self.encoder.finish(trailers, out)
    }

    /// Whether the request is complete.
    pub const fn is_request_written(&self) -> bool {
        self.encoder.is_done()
    }

    /// Reads the beginning of `input`, which is all bytes that have come and were not taken. Returns the number of
    /// bytes to drop, and what comes after them. Bytes without a request are an error.
    pub fn read(&mut self, input: &[u8], limits: &Limits) -> Result<(usize, FromUpstream), Error> {
        let read = match self.reading {
            Reading::Head => self.read_head(input, limits),
            Reading::Content => self.read_content(input, limits),
            Reading::Nothing | Reading::Whole if !input.is_empty() => Err(Fault::Unasked),
            Reading::Broken => Ok((input.len(), FromUpstream::More)),
            Reading::Nothing | Reading::Whole | Reading::Opaque => Ok((0, FromUpstream::More)),
        };
        read.map_err(|fault| {
            self.reading = if self.reading == Reading::Whole { Reading::Whole } else { Reading::Broken };
            self.asked.is_last = true;
            Error::Answer(fault)
        })
    }

    fn read_head(&mut self, input: &[u8], limits: &Limits) -> Result<(usize, FromUpstream), Fault> {
        let bytes = input.get(..limits.head_bytes as usize).unwrap_or(input);
        match bytes.first() {
            None => return Ok((0, FromUpstream::More)),
            Some(b'H') => {}
            Some(_) => return Err(Fault::FirstLine), // for example an empty line, which is not allowed before an answer
        }
        let is_due = self.search.is_due(bytes);
        let read = if is_due { ResponseHead::read(bytes, self.asked.is_head, limits)? } else { None };
        let Some((length, head)) = read else {
            if bytes.len() >= limits.head_bytes as usize {
                return Err(Fault::LargeHead);
            }
            if is_due {
                self.search.missed(bytes);
            }
            return Ok((0, FromUpstream::More));
        };
        self.search = Search::NEW;
        Ok((length, self.begin(head)?))
    }

    fn begin(&mut self, mut head: ResponseHead) -> Result<FromUpstream, Fault> {
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            if !self.asked.upgrade {
                return Err(Fault::UnaskedSwitch);
            }
            self.reading = Reading::Opaque;
            return Ok(FromUpstream::Switched(head));
        }
        if head.status.is_informational() {
            self.interims += 1;
            return if self.interims > INTERIM_ANSWERS {
                Err(Fault::ManyInterim)
            } else {
                Ok(FromUpstream::Interim(head))
            };
        }
        if self.asked.is_connect && head.status.is_success() {
            head.length = Length::Empty; // a length has no meaning here (RFC 9110, 9.3.6)
            head.fields.remove_all(crate::framing::LENGTHS);
            self.reading = Reading::Opaque;
            return Ok(FromUpstream::Switched(head));
        }
        self.decoder = Decoder::new(head.length);
        self.reading = if self.decoder.is_done() { Reading::Whole } else { Reading::Content };
        self.asked.is_last |=
            !head.options.persists(head.version) || head.is_ambiguous || self.decoder.is_until_close();
        Ok(FromUpstream::Head(head))
    }

    fn read_content(&mut self, input: &[u8], limits: &Limits) -> Result<(usize, FromUpstream), Fault> {
        let (used, piece) = self.decoder.decode(input, limits)?;
        let event = match piece {
            Piece::More => FromUpstream::More,
            Piece::Data(length) => FromUpstream::Data(length),
            Piece::Trailers(trailers) => FromUpstream::Trailers(trailers),
            Piece::End => {
                self.reading = Reading::Whole;
                FromUpstream::End
            }
        };
        Ok((used, event))
    }

    /// Whether the content needs no further byte. Then the answer is whole, and no `End` event follows.
    pub const fn ends(&mut self) -> bool {
        let ends = matches!(self.reading, Reading::Content) && self.decoder.is_done();
        if ends {
            self.reading = Reading::Whole;
        }
        ends
    }

    /// What the end of the upstream's bytes ends. To be called when all its bytes have been read, and only after a
    /// clean end: a reset, or an end that TLS did not announce, is a cut.
    pub fn read_end(&mut self) -> EndOfInput {
        self.asked.is_last = true;
        match self.reading {
            Reading::Nothing => EndOfInput::Idle,
            Reading::Head if self.search.has_begun() || self.interims > 0 => EndOfInput::InHead,
            Reading::Head => EndOfInput::Unanswered,
            Reading::Content if self.decoder.is_done() || self.decoder.is_until_close() => {
                self.reading = Reading::Whole;
                EndOfInput::Whole
            }
            Reading::Content => EndOfInput::InContent,
            Reading::Whole | Reading::Opaque | Reading::Broken => EndOfInput::Whole,
        }
    }

    /// Whether the answer is complete.
    pub const fn is_answer_read(&self) -> bool {
        matches!(self.reading, Reading::Whole)
    }

    /// How the connection goes on after the answer. `None`: the answer is not complete. If the answer came before its
    /// request was complete, the connection ends, unless the rest of the request is written first.
    pub fn after(&self) -> Option<After> {
        match self.reading {
            Reading::Nothing | Reading::Head | Reading::Content => None,
            Reading::Opaque => Some(After::Opaque),
            Reading::Broken => Some(After::Reset),
            Reading::Whole if self.asked.is_last || !self.is_request_written() => Some(After::Close),
            Reading::Whole => Some(After::Next),
        }
    }

    /// Begins the next exchange. To be called after [`After::Next`].
    pub fn next(&mut self) {
        if self.after() == Some(After::Next) {
            *self = Self::new();
        }
    }
}
