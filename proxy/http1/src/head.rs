//! Heads of requests and answers, read from bytes in one pass.

use std::borrow::Cow;

use bytes::Bytes;
use http::{Method, StatusCode, Version};

use crate::error::Fault;
use crate::fields::Fields;
use crate::framing::{self, Length};
use crate::known::Known;
use crate::limits::Limits;
use crate::lines::{self, REASON_AT, Read};
use crate::target::{self, Form};

/// The head of a request whose framing, target and Host have been checked.
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
    /// The answer had two lengths, so the connection must end after it.
    pub(crate) is_ambiguous: bool,
    reason: (u32, u32),
}

/// What a head says about its connection.
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
        options.read_connection(fields);
        options.upgrade &= is_http11 && fields.has(Known::Upgrade);
        if is_http11 && fields.has(Known::Expect) {
            let mut expected = fields.elements(Known::Expect);
            options.expects_continue = expected.any(|what| what.eq_ignore_ascii_case(b"100-continue"));
        }
        options
    }

    fn read_connection(&mut self, fields: &Fields) {
        match fields.get(Known::Connection) {
            None => {}
            // Nearly all values are one of these.
            Some(b"keep-alive" | b"Keep-Alive") if !fields.has_several(Known::Connection) => {
                self.keep_alive = true
            }
            Some(_) => {
                for option in fields.elements(Known::Connection) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                    self.upgrade |= option.eq_ignore_ascii_case(b"upgrade");
                }
            }
        }
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

    /// The authority of the request. That of the target goes before Host (RFC 9112, 3.2.2). Empty if the request has
    /// none.
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

    /// The target in the form for an origin server (RFC 9112, 3.2.1 and 3.2.4).
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

    /// Reads a head. `bytes` begin with the first line. `None`: the head is not complete.
    pub(crate) fn read(bytes: &[u8], limits: &Limits) -> Read<(usize, Self)> {
        let Some(line) = lines::request_line(bytes)? else { return Ok(None) };
        let method =
            Method::from_bytes(bytes.get(..line.method_end).unwrap_or_default()).or(Err(Fault::Method))?;
        let target = (line.method_end + 1, line.target_end);
        let form = target::form(&method, bytes.get(target.0..target.1).unwrap_or_default())?;
        let Some((length, mut fields)) = read_fields(bytes, line.end, limits)? else { return Ok(None) };
        check_host(line.version, &fields)?;
        let target = (narrow(target.0)?, narrow(target.1)?);
        let framed = framing::of_request(&method, line.version, &mut fields)?;
        let options = Options::of(line.version, &fields);
        Ok(Some((
            length,
            Self { method, version: line.version, form, length: framed, options, fields, target },
        )))
    }
}

impl ResponseHead {
    /// The reason phrase as it came; it may be empty.
    pub fn reason(&self) -> &[u8] {
        let (start, end) = self.reason;
        self.fields.text().get(start as usize..end as usize).unwrap_or_default()
    }

    /// The reason phrase, if it differs from the usual one of the status.
    pub fn own_reason(&self) -> Option<Bytes> {
        let reason = self.reason();
        let is_usual = self.status.canonical_reason().is_some_and(|usual| usual.as_bytes() == reason);
        if is_usual { None } else { Some(self.fields.text().slice_ref(reason)) }
    }

    pub(crate) fn read(bytes: &[u8], is_head: bool, limits: &Limits) -> Read<(usize, Self)> {
        let Some(line) = lines::status_line(bytes)? else { return Ok(None) };
        let (version, status) = (line.version, StatusCode::from_u16(line.code).or(Err(Fault::FirstLine))?);
        let Some((length, mut fields)) = read_fields(bytes, line.end, limits)? else { return Ok(None) };
        let reason = (narrow(REASON_AT)?, narrow(line.reason_end.max(REASON_AT))?);
        let (framed, is_ambiguous) = framing::of_answer(is_head, status, version, &mut fields)?;
        let options = Options::of(version, &fields);
        Ok(Some((length, Self { version, status, length: framed, options, fields, is_ambiguous, reason })))
    }
}

fn read_fields(bytes: &[u8], at: usize, limits: &Limits) -> Read<(usize, Fields)> {
    let mut fields = Fields::unread();
    let Some(length) = lines::field_lines(bytes, at, limits.fields, &mut fields)? else { return Ok(None) };
    fields.keep(bytes.get(..length).unwrap_or_default());
    Ok(Some((length, fields)))
}

fn narrow(place: usize) -> Result<u32, Fault> {
    u32::try_from(place).or(Err(Fault::LargeHead))
}

/// Checks that there is exactly one valid Host; HTTP/1.0 may have none (RFC 9112, 3.2).
fn check_host(version: Version, fields: &Fields) -> Result<(), Fault> {
    let is_sound = match fields.get(Known::Host) {
        Some(host) => !fields.has_several(Known::Host) && target::is_authority(host),
        None => version == Version::HTTP_10,
    };
    if is_sound { Ok(()) } else { Err(Fault::Host) }
}
