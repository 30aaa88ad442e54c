//! Messages of every framing, and random changes of them.

use proptest::prelude::*;
use proptest::sample::Index;

/// Texts of one or more complete requests.
#[rustfmt::skip]
pub const REQUESTS: [&str; 16] = [
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /a?b=c HTTP/1.1\r\nHost: a.b:80\r\nUser-Agent: x/1\r\nAccept: */*\r\nX-Empty:\r\nX-Loose:  b \r\n\r\n",
    "\r\n\r\nHEAD /a HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
    "POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world",
    "POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    "POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n",
    "POST /t HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\na\r\n0123456789\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n",
    "PUT /e HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
    "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhiGET /3 HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.0\r\n\r\n",
    "POST /0 HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabcGET /1 HTTP/1.0\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /unread HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /w HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
];

/// Texts of one answer to GET, some with interim answers before it.
#[rustfmt::skip]
pub const ANSWERS: [&str; 12] = [
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nDate: x\r\nServer: y\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 204 No Content\r\nX-Loose:\ta \r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
    "HTTP/1.1 200 OK\r\n\r\nuntil it ends",
    "HTTP/1.0 200 OK\r\n\r\nuntil it ends",
    "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    "HTTP/1.1 404\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno",
    "HTTP/1.1 500 Ouch\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 2\r\nContent-Length: 02\r\n\r\nno",
];

/// Bytes that readers handle differently, to be inserted anywhere.
#[rustfmt::skip]
const PIECES: [&[u8]; 34] = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"\x0b", b"\x7f", b"\xff", b"0", b"1", b"f", b"-", b"+", b"_",
    b"\r\n\r\n", b"\n\n", b"\r\n ", b" :", b"Content-Length: 3\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip\r\n", b"Host: a\r\n", b"Connection: close\r\n", b"0\r\n\r\n", b"HTTP/1.1", b"HTTP/1.0", b"#", b"3\r\nabc\r\n",
    b"X-Sum: 1\r\n",
];

#[derive(Debug, Clone)]
pub enum Change {
    Insert(Index, &'static [u8]),
    Replace(Index, u8),
    Remove(Index, usize),
    Repeat(Index, usize),
}

pub fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (any::<Index>(), proptest::sample::select(PIECES.to_vec())).prop_map(|(at, piece)| Change::Insert(at, piece)),
        2 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Replace(at, byte)),
        2 => (any::<Index>(), 1..4_usize).prop_map(|(at, count)| Change::Remove(at, count)),
        1 => (any::<Index>(), 1..20_usize).prop_map(|(at, count)| Change::Repeat(at, count)),
    ]
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        match self {
            Self::Insert(at, piece) => {
                let at = at.index(bytes.len() + 1);
                bytes.splice(at..at, piece.iter().copied());
            }
            Self::Replace(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Self::Remove(at, count) => {
                let at = at.index(bytes.len());
                bytes.drain(at..(at + count).min(bytes.len()));
            }
            Self::Repeat(at, count) => {
                let at = at.index(bytes.len());
                let part = bytes[at..(at + count).min(bytes.len())].to_vec();
                bytes.splice(at..at, part);
            }
        }
    }
}

fn changed(of: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<u8>> {
    let changes = proptest::collection::vec(change(), 0..=most);
    (proptest::collection::vec(proptest::sample::select(of.to_vec()), 1..3), changes).prop_map(
        |(messages, changes)| {
            let mut bytes = messages.concat().into_bytes();
            changes.iter().for_each(|change| change.apply(&mut bytes));
            bytes
        },
    )
}

pub fn changed_requests(most: usize) -> impl Strategy<Value = Vec<u8>> {
    changed(&REQUESTS, most)
}

pub fn changed_answers(most: usize) -> impl Strategy<Value = Vec<u8>> {
    changed(&ANSWERS, most)
}
