//! The server's side of a connection: it reads requests and writes answers.

use http::{Method, StatusCode, Version};

use crate::decode::{Decoder, Piece};
use crate::encode::{Encoder, Frame};
use crate::error::{Error, Fault, Misuse};
use crate::fields::Fields;
use crate::framing::{Length, has_no_content, has_no_length};
use crate::head::RequestHead;
use crate::limits::{EMPTY_LINES, Limits};
use crate::search::Search;
use crate::write::{self, LengthLine, Lines, Own};
use crate::{After, EndOfInput};

/// What the next bytes of a client are. Bytes of framing before them are counted separately, and are dropped first.
#[derive(Debug)]
pub enum FromClient {
    /// Further bytes are needed. After a complete request: no byte is read before the next exchange.
    More,
    /// The head of a request. If its `length` is empty, the request is complete, and no `End` follows.
    Head(RequestHead),
    /// This number of bytes of content is next.
    Data(usize),
    Trailers(Fields),
    /// The request is complete.
    End,
}

#[derive(Debug, Clone, Copy)]
pub struct Server {
    decoder: Decoder,
    encoder: Encoder,
    search: Search,
    reading: Reading,
    writing: Writing,
    empty_lines: u8,
    asked: Asked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Head,
    Content,
    Whole,
    /// The meaning of later bytes is unknown: they are dropped.
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writing {
    /// No request has come.
    Nothing,
    /// An answer is owed.
    Owed,
    Content,
    Whole,
    /// The connection is a tunnel.
    Opaque,
    /// An answer broke off.
    Broken,
}

/// The parts of the request on which its answer depends, and how the connection goes on.
#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    is_http10: bool,
    is_head: bool,
    is_connect: bool,
    upgrade: bool,
    /// The client waits for a 100 before it sends its content.
    expects: bool,
    /// The client keeps the connection open after this exchange.
    persists: bool,
    /// The server closes the connection after this exchange.
    is_last: bool,
    /// The client has ended its direction.
    has_ended: bool,
}

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}

impl Server {
    pub const fn new() -> Self {
        Self {
            decoder: Decoder::DONE,
            encoder: Encoder::DONE,
            search: Search::NEW,
            reading: Reading::Head,
            writing: Writing::Nothing,
            empty_lines: 0,
            asked: Asked {
                is_http10: false,
                is_head: false,
                is_connect: false,
                upgrade: false,
                expects: false,
                persists: true,
                is_last: false,
                has_ended: false,
            },
        }
    }

    /// Reads the beginning of `input`, which is all bytes that have come and were not taken. Returns the number of
    /// bytes to drop, and what comes after them. After an error no more is read; if [`is_owed`](Self::is_owed), an
    /// answer may still be written.
    pub fn read(&mut self, input: &[u8], limits: &Limits) -> Result<(usize, FromClient), Error> {
        let read = match self.reading {
            Reading::Head => self.read_head(input, limits),
            Reading::Content => self.read_content(input, limits),
            Reading::Whole => Ok((0, FromClient::More)),
            Reading::Refused => Ok((input.len(), FromClient::More)),
        };
        read.map_err(|fault| {
            self.refuse();
            Error::Request(fault)
        })
    }

    fn read_head(&mut self, input: &[u8], limits: &Limits) -> Result<(usize, FromClient), Fault> {
        let (dropped, input) = self.pass_empty_lines(input)?;
        let bytes = input.get(..limits.head_bytes as usize).unwrap_or(input);
        if bytes.is_empty() || bytes == b"\r" {
            return Ok((dropped, FromClient::More));
        }
        let is_due = self.search.is_due(bytes);
        let read = if is_due { RequestHead::read(bytes, limits)? } else { None };
        let Some((length, head)) = read else {
            if bytes.len() >= limits.head_bytes as usize {
                return Err(Fault::LargeHead);
            }
            if is_due {
                self.search.missed(bytes);
            }
            return Ok((dropped, FromClient::More));
        };
        self.begin(&head);
        Ok((dropped + length, FromClient::Head(head)))
    }

    /// Skips empty lines before a request (RFC 9112, 2.2). A CR or LF alone is not an empty line.
    fn pass_empty_lines<'a>(&mut self, input: &'a [u8]) -> Result<(usize, &'a [u8]), Fault> {
        let mut rest = input;
        while let Some(others) = rest.strip_prefix(b"\r\n") {
            self.empty_lines += 1;
            if self.empty_lines > EMPTY_LINES {
                return Err(Fault::EmptyLines);
            }
            rest = others;
        }
        match rest {
            [b'\n', ..] | [b'\r', _, ..] => Err(Fault::BareLineEnd),
            _ => Ok((input.len() - rest.len(), rest)),
        }
    }

    fn begin(&mut self, head: &RequestHead) {
        self.decoder = Decoder::new(head.length);
        self.reading = if self.decoder.is_done() { Reading::Whole } else { Reading::Content };
        self.writing = Writing::Owed;
        self.asked = Asked {
            is_http10: head.version == Version::HTTP_10,
            is_head: head.method == Method::HEAD,
            is_connect: head.method == Method::CONNECT,
            upgrade: head.options.upgrade,
            expects: head.options.expects_continue && self.reading == Reading::Content,
            persists: head.options.persists(head.version),
            ..self.asked
        };
    }

    fn read_content(&mut self, input: &[u8], limits: &Limits) -> Result<(usize, FromClient), Fault> {
        if !input.is_empty() {
            self.asked.expects = false; // the client has not waited (RFC 9110, 10.1.1)
        }
        let (used, piece) = self.decoder.decode(input, limits)?;
        let event = match piece {
            Piece::More => FromClient::More,
            Piece::Data(length) => FromClient::Data(length),
            Piece::Trailers(trailers) => FromClient::Trailers(trailers),
            Piece::End => {
                self.reading = Reading::Whole;
                FromClient::End
            }
        };
        Ok((used, event))
    }

    fn refuse(&mut self) {
        self.reading = Reading::Refused;
        self.asked.is_last = true;
        if self.writing == Writing::Nothing {
            self.writing = Writing::Owed;
        }
    }

    /// What the end of the client's bytes ends. To be called when all its bytes have been read.
    pub fn read_end(&mut self) -> EndOfInput {
        self.asked.has_ended = true;
        self.asked.is_last = true;
        match self.reading {
            Reading::Head if self.search.has_begun() => EndOfInput::InHead,
            Reading::Head => EndOfInput::Idle,
            Reading::Content if self.decoder.is_done() => EndOfInput::Whole,
            Reading::Content => EndOfInput::InContent,
            Reading::Whole | Reading::Refused => EndOfInput::Whole,
        }
    }

    /// Whether the request is complete.
    pub const fn is_request_read(&self) -> bool {
        matches!(self.reading, Reading::Whole)
    }

    /// Whether an answer may begin.
    pub const fn is_owed(&self) -> bool {
        matches!(self.writing, Writing::Owed)
    }

    /// Whether the client waits for `100 Continue`.
    pub const fn is_expecting(&self) -> bool {
        self.asked.expects
    }

    /// Makes this exchange the last one. Its answer says so, if it has not begun.
    pub const fn close_after(&mut self) {
        self.asked.is_last = true;
    }

    /// Writes an interim answer (1xx). `false`: the client's version has none, and nothing was written (RFC 9110,
    /// 15.2).
    pub fn write_interim(
        &mut self,
        status: StatusCode,
        fields: &Fields,
        out: &mut Vec<u8>,
    ) -> Result<bool, Misuse> {
        if !self.is_owed() || !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Misuse::NotNow);
        }
        if self.asked.is_http10 {
            return Ok(false);
        }
        if status == StatusCode::CONTINUE {
            self.asked.expects = false;
        }
        write::answer(status, None, fields.into(), Own::default(), out)?;
        Ok(true)
    }

    /// Writes the head of the answer. This decides how its content is delimited, and whether the connection goes on. A
    /// 101, or a 2xx to CONNECT, turns the connection into a tunnel.
    pub fn write_head<'a>(
        &mut self,
        status: StatusCode,
        reason: Option<&[u8]>,
        fields: impl Into<Lines<'a>>,
        length: Length,
        out: &mut Vec<u8>,
    ) -> Result<(), Misuse> {
        let (fields, is_switch) = (fields.into(), status == StatusCode::SWITCHING_PROTOCOLS);
        if !self.is_owed() || (status.is_informational() && !(is_switch && self.asked.upgrade)) {
            return Err(Misuse::NotNow);
        }
        if is_switch || (self.asked.is_connect && status.is_success()) {
            write::answer(status, reason, fields, Own::default(), out)?;
            self.writing = Writing::Opaque;
            return Ok(());
        }
        let (length, line) = self.framing(status, length);
        // A client that got no 100 may send its content or not, so the meaning of the next bytes is unknown.
        self.asked.is_last |= self.asked.expects || length == Length::UntilClose;
        let close = self.closes();
        let own = Own { length: line, close, keep_alive: self.asked.is_http10 };
        write::answer(status, reason, fields, own, out)?;
        self.encoder = Encoder::new(length);
        self.writing = if self.encoder.is_done() { Writing::Whole } else { Writing::Content };
        Ok(())
    }

    /// How the content of an answer is delimited (RFC 9112, 6.3), and what its head says of the length.
    fn framing(&self, status: StatusCode, length: Length) -> (Length, LengthLine) {
        if has_no_length(status) {
            return (Length::Empty, LengthLine::Absent);
        }
        match length {
            // The head says the length that the content would have.
            Length::Known(length) if self.asked.is_head => return (Length::Empty, LengthLine::Known(length)),
            _ if self.asked.is_head || has_no_content(status) => {
                return (Length::Empty, LengthLine::AsItCame);
            }
            _ => {}
        }
        let length = match length {
            Length::Empty => Length::Known(0),
            Length::Known(length) => Length::Known(length),
            Length::Chunked | Length::UntilClose if self.asked.is_http10 => Length::UntilClose,
            Length::Chunked | Length::UntilClose => Length::Chunked,
        };
        (length, LengthLine::of(length))
    }

    const fn closes(&self) -> bool {
        self.asked.is_last || !self.asked.persists
    }

    /// The bytes to write before and after the next piece of content, for a caller that does not copy the piece.
    pub fn frame(&mut self, length: usize) -> Result<Frame, Misuse> {
        let frame = self.encoder.frame(length);
        self.note_written();
        frame
    }

    /// Writes a small piece of content with its framing.
    pub fn put(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Misuse> {
        let put = self.encoder.put(data, out);
        self.note_written();
        put
    }

    /// Ends the content. Trailers are written only after chunked content.
    pub fn finish(&mut self, trailers: Option<&Fields>, out: &mut Vec<u8>) -> Result<(), Misuse> {
        let finished = self.encoder.finish(trailers, out);
        self.note_written();
        finished
    }

    fn note_written(&mut self) {
        if self.writing == Writing::Content && self.encoder.is_done() {
            self.writing = Writing::Whole;
        }
    }

    /// Whether the answer is complete. An answer without content is complete with its head.
    pub const fn is_answer_written(&self) -> bool {
        matches!(self.writing, Writing::Whole)
    }

    /// Notes that the answer cannot be finished. The connection must be reset, so that a part does not look complete.
    pub const fn cut(&mut self) {
        self.writing = Writing::Broken;
    }

    /// Whether the answer ends with its connection. Then an answer that is cut must end with a reset.
    pub const fn is_until_close(&self) -> bool {
        self.encoder.is_until_close()
    }

    /// How the connection goes on after the answer. `None`: the answer is not complete.
    pub fn after(&self) -> Option<After> {
        match self.writing {
            Writing::Nothing | Writing::Owed | Writing::Content => None,
            Writing::Opaque => Some(After::Opaque),
            Writing::Broken => Some(After::Reset),
            Writing::Whole if self.reading == Reading::Whole && !self.closes() => Some(After::Next),
            Writing::Whole if self.asked.has_ended => Some(After::Close),
            Writing::Whole => Some(After::Linger),
        }
    }

    /// Begins the next exchange. To be called after [`After::Next`].
    pub fn next(&mut self) {
        if self.after() == Some(After::Next) {
            *self = Self::new();
        }
    }
}
