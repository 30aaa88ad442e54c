//! stub
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    Tls,
    Http1,
    Http2,
    Opaque,
}
pub(crate) fn look(first: &[u8]) -> Option<Spoken> {
    if first.is_empty() {
        return None;
    }
    if first[0] == 0x16 {
        return Some(Spoken::Tls);
    }
    if first.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") {
        return Some(Spoken::Http2);
    }
    if b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".starts_with(first) {
        return None;
    }
    match first.iter().position(|b| *b == b'\n') {
        Some(n) if first[..n].windows(7).any(|w| w == b"HTTP/1.") => Some(Spoken::Http1),
        Some(_) => Some(Spoken::Opaque),
        None => None,
    }
}
pub(crate) fn server_speaks_http(first: &[u8]) -> bool {
    first.starts_with(b"HTTP/")
}
