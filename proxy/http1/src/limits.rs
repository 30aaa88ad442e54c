//! Limits of the parts of a message that are held before they are acted on. Each call gets them, because they may
//! change while a connection is open.

/// The bounds of heads and trailers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of a head, including its first line and its empty line.
    pub head_bytes: u32,
    /// The most fields of a head or of trailers.
    pub fields: u32,
    pub trailer_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { head_bytes: 64 * 1024, fields: 100, trailer_bytes: TRAILER_BYTES }
    }
}

/// 16 KiB of trailers: as many bytes as hyper allows.
const TRAILER_BYTES: u32 = 16 * 1024;
/// How many empty lines before a request are ignored. RFC 9112, 2.2, wants at least one: old clients send one after a
/// body.
pub(crate) const EMPTY_LINES: u8 = 8;
/// The most bytes of extensions in all chunks of one body, counted as hyper counts them. Extensions are not forwarded.
pub(crate) const EXTENSION_BYTES: u16 = 16 * 1024;
/// The most digits of a chunk's size: as many as a number of 64 bits has.
pub(crate) const SIZE_DIGITS: u8 = 16;
/// 32 interim answers to one request: as many as are accepted over HTTP/2.
pub(crate) const INTERIM_ANSWERS: u8 = 32;
