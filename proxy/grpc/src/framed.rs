//! A single message as gRPC frames it, for calls over a transport that has requests and answers of its own.

use bytes::{BufMut as _, Bytes};
use prost::Message;

/// Before each message: whether it is compressed, and its length ("gRPC over HTTP/2", Length-Prefixed-Message).
pub const PREFIX: usize = 5;

/// Why bytes are not one message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    #[error("it has not exactly one message")]
    NotOne,
    #[error("its message is compressed, which was not offered")]
    Compressed,
    #[error("its message cannot be read: {0}")]
    Malformed(#[from] prost::DecodeError),
}

/// The message with its prefix. Messages of 4 GiB and more cannot be framed; callers bound them far below.
pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut framed = Vec::with_capacity(PREFIX + length);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode_raw(&mut framed);
    framed.into()
}

/// # Errors
/// The bytes are not exactly one message of this type.
pub fn unframe<M: Message + Default>(bytes: &Bytes) -> Result<M, BadFrame> {
    let Some((prefix, message)) = bytes.split_first_chunk::<PREFIX>() else { return Err(BadFrame::NotOne) };
    let [is_compressed, length @ ..] = *prefix;
    match (is_compressed, message.len() as u64 == u64::from(u32::from_be_bytes(length))) {
        (_, false) => Err(BadFrame::NotOne),
        (0, true) => Ok(M::decode(bytes.slice(PREFIX..))?), // its texts share the bytes
        (_, true) => Err(BadFrame::Compressed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exactly_one_uncompressed_message_is_read() {
        let framed = frame(&"hello".to_owned());
        assert_eq!(framed, &b"\0\0\0\0\x07\x0a\x05hello"[..]);
        assert_eq!(unframe::<String>(&framed), Ok("hello".to_owned()));
        assert_eq!(unframe::<String>(&Bytes::from_static(b"\0\0\0\0\0")), Ok(String::new()));
        for (bytes, expected) in [
            (&b""[..], BadFrame::NotOne),
            (b"\0\0\0\0", BadFrame::NotOne),
            (b"\0\0\0\0\x03\x0a\x01", BadFrame::NotOne),
            (b"\0\0\0\0\0\0\0\0\0\0", BadFrame::NotOne),
            (b"\x01\0\0\0\x02\x0a\0", BadFrame::Compressed),
        ] {
            assert_eq!(unframe::<String>(&Bytes::copy_from_slice(bytes)), Err(expected), "{bytes:?}");
        }
        let malformed = unframe::<String>(&Bytes::from_static(b"\0\0\0\0\x02\x0a\x09"));
        assert!(matches!(malformed, Err(BadFrame::Malformed(_))), "{malformed:?}");
    }
}
