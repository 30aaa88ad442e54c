//! Writes heads: the first line, the fields with their edits, and the lines that this connection adds.

use http::{HeaderMap, Method, StatusCode};

use crate::error::Misuse;
use crate::fields::Fields;
use crate::framing::{Decimal, Length, is_number};
use crate::known::{Known, Names};
use crate::spelling::Spelling;

/// The fields that this connection adds to a head.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Own {
    pub(crate) length: LengthLine,
    pub(crate) close: bool,
    pub(crate) keep_alive: bool,
}

/// The line that announces the length of the content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum LengthLine {
    #[default]
    Absent,
    /// The `Content-Length` that came, which is the length that the content would have: in an answer to HEAD, or a 304.
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

/// The fields of a head, in either form. The fields of a map were checked when they came, and its names are written in
/// the given spelling.
#[derive(Debug, Clone, Copy)]
pub enum Lines<'a> {
    Fields(&'a Fields),
    Map(&'a HeaderMap, &'a Spelling),
}

impl<'a> From<&'a Fields> for Lines<'a> {
    fn from(fields: &'a Fields) -> Self {
        Self::Fields(fields)
    }
}

impl<'a> From<&'a HeaderMap> for Lines<'a> {
    fn from(map: &'a HeaderMap) -> Self {
        static LOWER: Spelling = Spelling::LOWER;
        Self::Map(map, &LOWER)
    }
}

/// The usual bytes of a line, for a map, whose bytes are not counted.
const USUAL_LINE: usize = 48;

impl Lines<'_> {
    fn likely_bytes(self) -> usize {
        match self {
            Self::Fields(fields) => fields.most_bytes(),
            Self::Map(map, _) => map.len() * USUAL_LINE,
        }
    }

    /// Writes the line that comes first in a request: `Host`. Fields have it in its place. A target without an authority
    /// has an empty `Host` (RFC 9112, 3.2).
    fn write_host(self, out: &mut Vec<u8>) {
        let host = match self {
            Self::Fields(fields) if fields.has(Known::Host) => return,
            Self::Fields(_) => None,
            Self::Map(map, _) => map.get(http::header::HOST),
        };
        match self {
            Self::Map(_, spelling) => spelling.write_name(Some(Known::Host), b"host", out),
            Self::Fields(_) => out.extend_from_slice(b"host: "),
        }
        out.extend_from_slice(host.map(|host| host.as_bytes().trim_ascii()).unwrap_or_default());
        out.extend_from_slice(b"\r\n");
    }

    /// Writes every line except those of `skip`.
    fn write(self, skip: Names, length: LengthLine, out: &mut Vec<u8>) -> WrittenFields {
        match self {
            Self::Fields(fields) => write_text(fields, skip, length, out),
            Self::Map(map, spelling) => write_map(map, spelling, skip, length, out),
        }
    }
}

fn write_text(fields: &Fields, skip: Names, length: LengthLine, out: &mut Vec<u8>) -> WrittenFields {
    let says = |length| {
        let said = fields.get(Known::ContentLength).filter(|_| !fields.has_several(Known::ContentLength));
        said.is_some_and(|said| is_number(said, length))
    };
    let has_length = match length {
        LengthLine::AsItCame => true,
        LengthLine::Known(length) => says(length),
        LengthLine::Absent | LengthLine::Chunked => false,
    };
    fields.write(out, if has_length { skip } else { skip.with(Names::of(&[Known::ContentLength])) });
    WrittenFields { seen: fields.seen(), has_hosts: fields.has_several(Known::Host), has_length }
}

fn write_map(
    map: &HeaderMap,
    spelling: &Spelling,
    skip: Names,
    length: LengthLine,
    out: &mut Vec<u8>,
) -> WrittenFields {
    let (mut seen, mut has_hosts, mut has_length) = (Names::default(), false, length == LengthLine::AsItCame);
    for (name, value) in map {
        let name = name.as_str().as_bytes();
        let known = Known::find_lower(name);
        if let Some(known) = known {
            has_hosts |= known == Known::Host && seen.has(known);
            seen.insert(known);
            let is_skipped = match (known, length) {
                (Known::ContentLength, LengthLine::Known(length)) if !has_length => {
                    has_length = is_number(value.as_bytes(), length);
                    !has_length
                }
                (Known::ContentLength, _) => length != LengthLine::AsItCame,
                _ => skip.has(known),
            };
            if is_skipped {
                continue;
            }
        }
        spelling.write_name(known, name, out);
        out.extend_from_slice(value.as_bytes().trim_ascii());
        out.extend_from_slice(b"\r\n");
    }
    WrittenFields { seen, has_hosts, has_length }
}

/// What was found in the fields while they were written.
struct WrittenFields {
    /// The names of the fields.
    seen: Names,
    /// There is more than one `Host`.
    has_hosts: bool,
    /// The length that this connection announces was among them.
    has_length: bool,
}

/// Names that are never written from the fields: the connection writes its own lines.
const OWN_LINES: Names =
    Names::of(&[Known::Connection, Known::KeepAlive, Known::ProxyConnection, Known::TransferEncoding]);
/// Room, in bytes, for the first line without its target, and for the lines that a connection adds.
const ROOM: usize = 192;

/// Writes the head of a request. Returns the names of its fields.
pub(crate) fn request(
    method: &Method,
    target: &str,
    fields: Lines<'_>,
    own: Own,
    out: &mut Vec<u8>,
) -> Result<Names, Misuse> {
    if target.is_empty() || !target.bytes().fold(true, |all, byte| all & (byte > b' ') & (byte != 0x7f)) {
        return Err(Misuse::IllegalTarget);
    }
    let start = out.len();
    out.reserve(method.as_str().len() + target.len() + fields.likely_bytes() + ROOM);
    for part in [method.as_str().as_bytes(), b" ", target.as_bytes(), b" HTTP/1.1\r\n"] {
        out.extend_from_slice(part);
    }
    fields.write_host(out);
    let skip =
        if let Lines::Map(..) = fields { OWN_LINES.with(Names::of(&[Known::Host])) } else { OWN_LINES };
    let WrittenFields { seen, has_hosts, .. } = write_fields(fields, skip, own, out);
    if has_hosts {
        out.truncate(start);
        return Err(Misuse::Hosts);
    }
    out.extend_from_slice(b"\r\n");
    Ok(seen)
}

/// Writes the head of an answer. `reason`: the phrase that came with the answer; without one, the usual phrase is
/// written.
pub(crate) fn answer(
    status: StatusCode,
    reason: Option<&[u8]>,
    fields: Lines<'_>,
    own: Own,
    out: &mut Vec<u8>,
) -> Result<(), Misuse> {
    let usual = || status.canonical_reason().unwrap_or_default().as_bytes();
    let reason = reason.unwrap_or_else(usual);
    if !reason.iter().fold(true, |all, byte| all & matches!(byte, b'\t' | b' '..=b'~' | 0x80..)) {
        return Err(Misuse::IllegalField);
    }
    out.reserve(reason.len() + fields.likely_bytes() + ROOM);
    for part in [b"HTTP/1.1 ", status.as_str().as_bytes(), b" ", reason, b"\r\n"] {
        out.extend_from_slice(part);
    }
    write_fields(fields, OWN_LINES, own, out);
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Writes all field lines except those of `skip`, without the empty line at the end.
fn write_fields(fields: Lines<'_>, skip: Names, own: Own, out: &mut Vec<u8>) -> WrittenFields {
    let written = fields.write(skip, own.length, out);
    match own.length {
        LengthLine::Known(length) if !written.has_length => {
            for part in [b"content-length: ", Decimal::of(length).as_bytes(), b"\r\n"] {
                out.extend_from_slice(part);
            }
        }
        LengthLine::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        _ => {}
    }
    write_options(written.seen, own, out);
    written
}

/// Writes `Connection` with the options that must be named there (RFC 9110, 7.8 and 10.1.4).
fn write_options(seen: Names, own: Own, out: &mut Vec<u8>) {
    const NAMED: Names = Names::of(&[Known::Upgrade, Known::Te]);
    if !own.close && !own.keep_alive && !seen.has_any(NAMED) {
        return; // nearly always
    }
    let options = [
        (own.close, "close"),
        (own.keep_alive && !own.close, "keep-alive"),
        (seen.has(Known::Upgrade), "upgrade"),
        (seen.has(Known::Te), "te"),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use crate::limits::Limits;
    use crate::server::{FromClient, Server};
    use http::HeaderValue;

    fn asked(method: &str) -> Server {
        let mut server = Server::new();
        let request = format!("{method} / HTTP/1.1\r\nhost: a\r\n\r\n");
        let read = server.read(request.as_bytes(), &Limits::default()).unwrap();
        assert!(matches!(read.1, FromClient::Head(_)));
        server
    }

    fn lines(written: &[u8]) -> Vec<String> {
        let mut lines: Vec<_> = String::from_utf8_lossy(written).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    #[test]
    fn an_answer_head_from_a_map_is_written_like_one_from_fields() {
        let all = [
            ("content-length", "3"),
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("x-own", " blanks "),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("upgrade", "x"),
        ];
        for count in 0..=all.len() {
            let mut map = HeaderMap::new();
            for (name, value) in &all[..count] {
                map.append(*name, HeaderValue::from_static(value));
            }
            let fields = Fields::of_map(&map).unwrap();
            for (method, status) in [("GET", 200), ("GET", 204), ("GET", 304), ("HEAD", 200)] {
                let status = StatusCode::from_u16(status).unwrap();
                for length in [Length::Empty, Length::Known(3), Length::Chunked] {
                    let (mut one, mut other) = (Vec::new(), Vec::new());
                    asked(method).write_head(status, None, &fields, length, &mut one).unwrap();
                    asked(method).write_head(status, None, &map, length, &mut other).unwrap();
                    assert_eq!(lines(&one), lines(&other), "{method} {status} {length:?}");
                }
            }
        }
    }

    #[test]
    fn a_map_is_written_in_the_spelling_and_the_order_in_which_it_came() {
        let mut map = HeaderMap::new();
        for (name, value) in [("x-own", "1"), ("content-length", "3"), ("soapaction", "a"), ("accept", "*/*")]
        {
            map.append(name, HeaderValue::from_static(value));
        }
        map.append("host", HeaderValue::from_static("orders"));
        let spelling = Spelling::of_text(b"t,SOAPAction").unwrap();
        let mut out = Vec::new();
        let lines = Lines::Map(&map, &spelling);
        Client::new().write_head(&Method::POST, "/", lines, Length::Known(3), &mut out).unwrap();
        let expected = "POST / HTTP/1.1\r\nHost: orders\r\nX-Own: 1\r\nContent-Length: 3\r\nSOAPAction: a\r\n\
                        Accept: */*\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn a_request_head_from_a_map_is_written_like_one_from_fields_and_has_one_host() {
        let asked = |map: &HeaderMap, length| {
            let (mut one, mut other) = (b"before ".to_vec(), b"before ".to_vec());
            let mut client = Client::new();
            let of_map = client.write_head(&Method::POST, "/", map, length, &mut one);
            let of_fields = Client::new().write_head(
                &Method::POST,
                "/",
                &Fields::of_map(map).unwrap(),
                length,
                &mut other,
            );
            assert_eq!((of_map, lines(&one)), (of_fields, lines(&other)), "{length:?}");
            (of_map, String::from_utf8(one).unwrap())
        };
        let mut map = HeaderMap::new();
        for length in [Length::Empty, Length::Known(3), Length::Chunked] {
            assert!(asked(&map, length).1.contains("\r\nhost: \r\n"));
        }
        for (name, value) in [("te", "trailers"), ("host", "a"), ("content-length", "3"), ("upgrade", "x")] {
            map.append(name, HeaderValue::from_static(value));
            for length in [Length::Empty, Length::Known(3), Length::Chunked] {
                assert_eq!(asked(&map, length).0, Ok(()));
            }
        }
        map.append("host", HeaderValue::from_static("b"));
        assert_eq!(asked(&map, Length::Empty), (Err(Misuse::Hosts), "before ".to_owned()));
    }
}
