//! Heads as bytes: the first line, the fields as they came and as they were edited, and the lines that this connection
//! adds of its own.

use http::{Method, StatusCode};

use crate::error::Misuse;
use crate::fields::Fields;
use crate::framing::{Decimal, Length};
use crate::known::{Known, Names};

/// What this connection says of its own in a head.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Own {
    pub(crate) length: LengthLine,
    pub(crate) close: bool,
    pub(crate) keep_alive: bool,
}

/// The line that says how long the content is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum LengthLine {
    #[default]
    Absent,
    /// What the content would have: an answer to HEAD, or 304.
    AsItCame,
    Known(u64),
    Chunked,
}

impl LengthLine {
    pub(crate) const fn of(length: Length) -> Self {
        match length {
            Length::Empty | Length::UntilClose => Self::Absent,
            Length::Known(length) => Self::Known(length),
            Length::Chunked => Self::Chunked,
        }
    }
}

/// Never taken from the fields: a connection writes its own.
const OWN_LINES: Names =
    Names::of(&[Known::Connection, Known::KeepAlive, Known::ProxyConnection, Known::TransferEncoding]);
/// Room for the first line without its target, and for what a connection adds.
const ROOM: usize = 192;

pub(crate) fn request(
    method: &Method,
    target: &str,
    fields: &Fields,
    own: Own,
    out: &mut Vec<u8>,
) -> Result<(), Misuse> {
    if target.is_empty() || !target.bytes().fold(true, |all, byte| all & (byte > b' ') & (byte != 0x7f)) {
        return Err(Misuse::IllegalTarget);
    }
    if fields.has_several(Known::Host) {
        return Err(Misuse::Hosts);
    }
    out.reserve(method.as_str().len() + target.len() + fields.most_bytes() + ROOM);
    for part in [method.as_str().as_bytes(), b" ", target.as_bytes(), b" HTTP/1.1\r\n"] {
        out.extend_from_slice(part);
    }
    if !fields.has(Known::Host) {
        out.extend_from_slice(b"host: \r\n"); // a target of nobody's has an empty one (RFC 9112, 3.2)
    }
    write_fields(fields, own, out);
    Ok(())
}

/// `reason`: what the answer came with; else the usual one.
pub(crate) fn answer(
    status: StatusCode,
    reason: Option<&[u8]>,
    fields: &Fields,
    own: Own,
    out: &mut Vec<u8>,
) -> Result<(), Misuse> {
    let usual = || status.canonical_reason().unwrap_or_default().as_bytes();
    let reason = reason.unwrap_or_else(usual);
    if !reason.iter().fold(true, |all, byte| all & matches!(byte, b'\t' | b' '..=b'~' | 0x80..)) {
        return Err(Misuse::IllegalField);
    }
    out.reserve(reason.len() + fields.most_bytes() + ROOM);
    for part in [b"HTTP/1.1 ", status.as_str().as_bytes(), b" ", reason, b"\r\n"] {
        out.extend_from_slice(part);
    }
    write_fields(fields, own, out);
    Ok(())
}

fn write_fields(fields: &Fields, own: Own, out: &mut Vec<u8>) {
    let keeps_length = match own.length {
        LengthLine::AsItCame => true,
        LengthLine::Known(length) => says(fields, length),
        LengthLine::Absent | LengthLine::Chunked => false,
    };
    let skip = if keeps_length { OWN_LINES } else { OWN_LINES.with(Names::of(&[Known::ContentLength])) };
    fields.write(out, skip);
    match own.length {
        LengthLine::Known(length) if !keeps_length => {
            for part in [b"content-length: ", Decimal::of(length).as_bytes(), b"\r\n"] {
                out.extend_from_slice(part);
            }
        }
        LengthLine::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        _ => {}
    }
    write_options(fields, own, out);
    out.extend_from_slice(b"\r\n");
}

/// The line that is there already says this length, and no other does.
fn says(fields: &Fields, length: u64) -> bool {
    let said = fields.get(Known::ContentLength).filter(|_| !fields.has_several(Known::ContentLength));
    said.is_some_and(|said| said == Decimal::of(length).as_bytes())
}

/// `Connection`, with what must be named there (RFC 9110, 7.8 and 10.1.4).
fn write_options(fields: &Fields, own: Own, out: &mut Vec<u8>) {
    const NAMED: Names = Names::of(&[Known::Upgrade, Known::Te]);
    if !own.close && !own.keep_alive && !fields.seen().has_any(NAMED) {
        return; // nearly always
    }
    let options = [
        (own.close, "close"),
        (own.keep_alive && !own.close, "keep-alive"),
        (fields.has(Known::Upgrade), "upgrade"),
        (fields.has(Known::Te), "te"),
    ];
    out.extend_from_slice(b"connection: ");
    let mut separator: &[u8] = b"";
    for (_, option) in options.iter().filter(|(applies, _)| *applies) {
        out.extend_from_slice(separator);
        out.extend_from_slice(option.as_bytes());
        separator = b", ";
    }
    out.extend_from_slice(b"\r\n");
}
