//! The client's side of a connection: writes requests, reads answers.

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

/// What an upstream's bytes are. Those of framing before it are counted apart, and are dropped first.
#[derive(Debug)]
pub enum FromUpstream {
    More,
    /// An answer before the answer: `100`, `103` and the like.
    Interim(ResponseHead),
    /// The answer. Where its `length` is empty it is whole, and no `End` follows.
    Head(ResponseHead),
    /// The answer makes a tunnel of the connection: what follows is opaque.
    Switched(ResponseHead),
    /// So many bytes of content are next.
    Data(usize),
    Trailers(Fields),
    /// The answer is whole.
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
    /// Nothing was asked.
    Nothing,
    Head,
    Content,
    Whole,
    Opaque,
    /// What follows cannot be told.
    Broken,
}

#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    is_head: bool,
    is_connect: bool,
    upgrade: bool,
    /// The connection ends after this exchange.
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

    /// This exchange is the last one: its request says so, if it has not begun.
    pub const fn close_after(&mut self) {
        self.asked.is_last = true;
    }

    /// The head of a request. What concerns another connection must be gone from the fields; an `Upgrade` that is there is
    /// meant. Where no `Host` is there, an empty one is written.
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
            Length::UntilClose => Length::Chunked, // a request has no end but its own
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

    /// What the caller writes around the next piece of content, without a copy of it.
    pub fn frame(&mut self, length: usize) -> Result<Frame, Misuse> {
        self.encoder.frame(length)
    }

    /// Writes a small piece of content with what stands around it.
    pub fn put(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Misuse> {
        self.encoder.put(data, out)
    }

    pub fn finish(&mut self, trailers: Option<&Fields>, out: &mut Vec<u8>) -> Result<(), Misuse> {
        self.encoder.finish(trailers, out)
    }

    /// The request is whole.
    pub const fn is_request_written(&self) -> bool {
        self.encoder.is_done()
    }

    /// Says what `input`, all that has come and has not been taken, begins with: so many bytes to drop, and what comes
    /// behind them. Bytes that nobody asked for are an error.
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
            Some(_) => return Err(Fault::FirstLine), // the parser would pass over empty lines
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
            head.length = Length::Empty; // a length means nothing here (RFC 9110, 9.3.6)
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

    /// Whether the content needs no further byte. Then the answer is whole, and no `End` is told.
    pub const fn ends(&mut self) -> bool {
        let ends = matches!(self.reading, Reading::Content) && self.decoder.is_done();
        if ends {
            self.reading = Reading::Whole;
        }
        ends
    }

    /// The upstream sends nothing any more, and all that it sent has been read: what that ends. To be asked at a clean
    /// end alone: one that TLS did not announce, or a reset, is a cut.
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

    /// The answer is whole.
    pub const fn is_answer_read(&self) -> bool {
        matches!(self.reading, Reading::Whole)
    }

    /// How the connection goes on once the answer is whole. `None`: it is not. An answer that came before its request was
    /// whole ends the connection, unless the rest of the request is written first.
    pub fn after(&self) -> Option<After> {
        match self.reading {
            Reading::Nothing | Reading::Head | Reading::Content => None,
            Reading::Opaque => Some(After::Opaque),
            Reading::Broken => Some(After::Reset),
            Reading::Whole if self.asked.is_last || !self.is_request_written() => Some(After::Close),
            Reading::Whole => Some(After::Next),
        }
    }

    /// Begins the next exchange, where [`After::Next`] says so.
    pub fn next(&mut self) {
        if self.after() == Some(After::Next) {
            *self = Self::new();
        }
    }
}
