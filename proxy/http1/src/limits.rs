//! How much of a message is held before it is acted on. Brought with each call: they may change while connections live.

/// The bounds of heads and trailers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of a head, its first line and its empty line included.
    pub head_bytes: u32,
    /// Of a head or of trailers.
    pub fields: u32,
    pub trailer_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { head_bytes: 64 * 1024, fields: 100, trailer_bytes: TRAILER_BYTES }
    }
}

/// As much as hyper takes.
const TRAILER_BYTES: u32 = 16 * 1024;
/// Empty lines before a request (RFC 9112, 2.2: at least one is passed over). Old clients send one after a body.
pub(crate) const EMPTY_LINES: u8 = 8;
/// Of all chunks of one body, as hyper counts them. Extensions carry nothing that a proxy passes on.
pub(crate) const EXTENSION_BYTES: u16 = 16 * 1024;
/// Digits of a chunk's size: as many as 64 bits have.
pub(crate) const SIZE_DIGITS: u8 = 16;
/// As many as over HTTP/2.
pub(crate) const INTERIM_ANSWERS: u8 = 32;
