//! Heads of requests and answers: read from bytes into what is known of them, in one pass.

use std::borrow::Cow;
use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{Method, StatusCode, Version};

use crate::error::Fault;
use crate::fields::Fields;
use crate::framing::{self, Length};
use crate::known::Known;
use crate::limits::Limits;
use crate::target::{self, Form};

/// So many fields are parsed into the stack; more, where the limit allows them, cost an allocation.
const FEW: usize = 128;

/// The head of a request that may be served: its framing, target and Host have been judged.
#[derive(Debug, Clone)]
pub struct RequestHead {
    pub method: Method,
    pub version: Version,
    pub form: Form,
    /// How its content is delimited.
    pub length: Length,
    pub options: Options,
    pub fields: Fields,
    target: (u32, u32),
}

/// The head of an answer.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    pub version: Version,
    pub status: StatusCode,
    pub length: Length,
    pub options: Options,
    pub fields: Fields,
    /// It said its length in two ways: the connection must end after it.
    pub(crate) is_ambiguous: bool,
    reason: (u32, u32),
}

/// What a head says of its connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    pub close: bool,
    pub keep_alive: bool,
    /// `Upgrade` is there, `Connection` names it, and the version has it (RFC 9110, 7.8).
    pub upgrade: bool,
    /// The client waits for `100 Continue` before it sends its content.
    pub expects_continue: bool,
}

impl Options {
    fn of(version: Version, fields: &Fields) -> Self {
        let mut options = Self::default();
        let is_http11 = version == Version::HTTP_11;
        if fields.has(Known::Connection) {
            for option in fields.elements(Known::Connection) {
                options.close |= option.eq_ignore_ascii_case(b"close");
                options.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                options.upgrade |= option.eq_ignore_ascii_case(b"upgrade");
            }
        }
        options.upgrade &= is_http11 && fields.has(Known::Upgrade);
        if is_http11 && fields.has(Known::Expect) {
            let mut expected = fields.elements(Known::Expect);
            options.expects_continue = expected.any(|what| what.eq_ignore_ascii_case(b"100-continue"));
        }
        options
    }

    /// Whether the connection goes on after this message (RFC 9112, 9.3).
    pub(crate) fn persists(self, version: Version) -> bool {
        !self.close && (version == Version::HTTP_11 || self.keep_alive)
    }
}

impl RequestHead {
    pub fn target(&self) -> &str {
        let (start, end) = self.target;
        let target = self.fields.text().get(start as usize..end as usize).unwrap_or_default();
        std::str::from_utf8(target).unwrap_or_default()
    }

    /// The target as a piece of the head, for `http::Uri` without a copy.
    pub fn target_bytes(&self) -> Bytes {
        let (start, end) = self.target;
        self.fields.text().slice(start as usize..end as usize)
    }

    /// Whom the request is for. The target's word counts before the Host's (RFC 9112, 3.2.2). Empty where nobody is named.
    pub fn authority(&self) -> &str {
        let target = self.target();
        let text = match self.form {
            Form::Authority => target.as_bytes(),
            Form::Absolute => {
                target::split_absolute(target.as_bytes()).map_or(&b""[..], |(authority, _)| authority)
            }
            Form::Origin | Form::Asterisk => self.fields.get(Known::Host).unwrap_or_default(),
        };
        std::str::from_utf8(text).unwrap_or_default()
    }

    /// What an origin server is asked for (RFC 9112, 3.2.1 and 3.2.4).
    pub fn origin_target(&self) -> Cow<'_, str> {
        let target = self.target();
        if self.form != Form::Absolute {
            return Cow::Borrowed(target);
        }
        let rest = target::split_absolute(target.as_bytes()).map_or(&b""[..], |(_, rest)| rest);
        match std::str::from_utf8(rest).unwrap_or_default() {
            "" if self.method == Method::OPTIONS => Cow::Borrowed("*"),
            "" => Cow::Borrowed("/"),
            query if query.starts_with('?') => Cow::Owned(format!("/{query}")),
            path => Cow::Borrowed(path),
        }
    }

    /// `bytes` begin with the first line. `None`: not all of the head is there.
    pub(crate) fn read(bytes: &[u8], limits: &Limits) -> Result<Option<(usize, Self)>, Fault> {
        with_room(limits, |room| {
            let mut parsed = httparse::Request::new(&mut []);
            let length = match parsed.parse_with_uninit_headers(bytes, room) {
                Ok(httparse::Status::Complete(length)) => length,
                Ok(httparse::Status::Partial) => return Ok(None),
                Err(error) => return Err(fault_of_request(error, bytes)),
            };
            let text = bytes.get(..length).ok_or(Fault::FirstLine)?;
            Self::of_parsed(text, &parsed).map(|head| Some((length, head)))
        })
    }

    fn of_parsed(text: &[u8], parsed: &httparse::Request<'_, '_>) -> Result<Self, Fault> {
        let method =
            Method::from_bytes(parsed.method.unwrap_or_default().as_bytes()).or(Err(Fault::Method))?;
        let target = parsed.path.unwrap_or_default();
        let form = target::form(&method, target.as_bytes())?;
        let version = version(parsed.version);
        check_line_ends(text, parsed.headers)?;
        let mut fields = Fields::of_parsed(text, parsed.headers)?;
        check_host(version, &fields)?;
        let length = framing::of_request(&method, version, &mut fields)?;
        let options = Options::of(version, &fields);
        let target = place(text, target.as_bytes())?;
        Ok(Self { method, version, form, length, options, fields, target })
    }
}

impl ResponseHead {
    /// As it came; it may be empty.
    pub fn reason(&self) -> &[u8] {
        let (start, end) = self.reason;
        self.fields.text().get(start as usize..end as usize).unwrap_or_default()
    }

    pub(crate) fn read(bytes: &[u8], is_head: bool, limits: &Limits) -> Result<Option<(usize, Self)>, Fault> {
        with_room(limits, |room| {
            let mut parsed = httparse::Response::new(&mut []);
            let config = httparse::ParserConfig::default();
            let length = match config.parse_response_with_uninit_headers(&mut parsed, bytes, room) {
                Ok(httparse::Status::Complete(length)) => length,
                Ok(httparse::Status::Partial) => return Ok(None),
                Err(error) => return Err(fault_of_answer(error, bytes)),
            };
            let text = bytes.get(..length).ok_or(Fault::FirstLine)?;
            Self::of_parsed(text, &parsed, is_head).map(|head| Some((length, head)))
        })
    }

    fn of_parsed(text: &[u8], parsed: &httparse::Response<'_, '_>, is_head: bool) -> Result<Self, Fault> {
        let version = version(parsed.version);
        let status = StatusCode::from_u16(parsed.code.unwrap_or_default()).or(Err(Fault::FirstLine))?;
        let line_end = check_line_ends(text, parsed.headers)?;
        let mut fields = Fields::of_parsed(text, parsed.headers)?;
        let (length, is_ambiguous) = framing::of_answer(is_head, status, version, &mut fields)?;
        let options = Options::of(version, &fields);
        let reason = (narrow(REASON_AT)?, narrow(line_end.max(REASON_AT))?);
        Ok(Self { version, status, length, options, fields, is_ambiguous, reason })
    }
}

/// `HTTP/1.1 200 ` stands before it.
const REASON_AT: usize = 13;

/// Gives room for as many fields as the limit allows.
fn with_room<'a, T>(
    limits: &Limits,
    parse: impl FnOnce(&mut [MaybeUninit<httparse::Header<'a>>]) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let most = limits.fields as usize;
    let mut few = [const { MaybeUninit::uninit() }; FEW];
    match few.get_mut(..most) {
        Some(room) => parse(room),
        None => parse(&mut vec![MaybeUninit::uninit(); most]),
    }
}

const fn version(minor: Option<u8>) -> Version {
    match minor {
        Some(0) => Version::HTTP_10,
        _ => Version::HTTP_11,
    }
}

/// Those of the first line and of the empty one; those of the fields are looked at one by one. Returns where the first
/// line ends.
fn check_line_ends(text: &[u8], parsed: &[httparse::Header<'_>]) -> Result<usize, Fault> {
    let head_end = text.len().checked_sub(2).ok_or(Fault::FirstLine)?;
    let fields_at = match parsed.first() {
        Some(first) => place(text, first.name.as_bytes())?.0 as usize,
        None => head_end,
    };
    let line_end = fields_at.checked_sub(2).ok_or(Fault::FirstLine)?;
    let are_sound = text.get(line_end..fields_at) == Some(b"\r\n") && text.get(head_end..) == Some(b"\r\n");
    if are_sound { Ok(line_end) } else { Err(Fault::BareLineEnd) }
}

/// Where a part of `text` begins and ends in it.
fn place(text: &[u8], part: &[u8]) -> Result<(u32, u32), Fault> {
    let start = (part.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
    Ok((narrow(start)?, narrow(start.wrapping_add(part.len()))?))
}

fn narrow(place: usize) -> Result<u32, Fault> {
    u32::try_from(place).or(Err(Fault::LargeHead))
}

/// RFC 9112, 3.2: exactly one; HTTP/1.0 may do without.
fn check_host(version: Version, fields: &Fields) -> Result<(), Fault> {
    let is_sound = match fields.get(Known::Host) {
        Some(host) => !fields.has_several(Known::Host) && target::is_authority(host),
        None => version == Version::HTTP_10,
    };
    if is_sound { Ok(()) } else { Err(Fault::Host) }
}

fn fault_of_request(error: httparse::Error, bytes: &[u8]) -> Fault {
    match error {
        httparse::Error::Version if names_other_version(bytes) => Fault::Version,
        other => fault(other),
    }
}

fn fault_of_answer(error: httparse::Error, bytes: &[u8]) -> Fault {
    let word = bytes.split(|byte| *byte == b' ').next().unwrap_or_default();
    match error {
        httparse::Error::Version if is_version(word) => Fault::Version,
        other => fault(other),
    }
}

const fn fault(error: httparse::Error) -> Fault {
    match error {
        httparse::Error::HeaderName | httparse::Error::HeaderValue => Fault::Field,
        httparse::Error::NewLine => Fault::BareLineEnd,
        httparse::Error::TooManyHeaders => Fault::ManyFields,
        _ => Fault::FirstLine,
    }
}

/// Whether the first line, as far as it came, ends with the name of a version.
fn names_other_version(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    line.split(|byte| *byte == b' ').nth(2).is_some_and(is_version)
}

fn is_version(word: &[u8]) -> bool {
    let digits = word.strip_prefix(b"HTTP/").unwrap_or_default();
    matches!(digits, [major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit())
}
