//! A value that is known to be sound.
//!
//! `http::HeaderValue` checks each byte whenever it is made of bytes, for 4 instructions a byte. What the reader of a
//! head has checked before is not checked again here.

use bytes::Bytes;
use http::HeaderValue;

use crate::error::Misuse;
use crate::known::Known;

/// A value to be kept, or to be set in another head.
#[derive(Debug, Clone)]
pub struct Value(Inner);

#[derive(Debug, Clone)]
enum Inner {
    /// A piece of a head of HTTP/1, or a text that was checked.
    Text(Bytes),
    Map(HeaderValue),
}

impl Value {
    /// A piece of a head that was read.
    pub(crate) const fn of_head(text: Bytes) -> Self {
        Self(Inner::Text(text))
    }

    /// Copies a text.
    ///
    /// # Errors
    /// A byte that may not stand in a value (RFC 9110, 5.5).
    pub fn of_text(text: &[u8]) -> Result<Self, Misuse> {
        Ok(Self(Inner::Text(Bytes::copy_from_slice(judged(text)?))))
    }

    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Inner::Text(text) => text,
            Inner::Map(value) => value.as_bytes().trim_ascii(),
        }
    }

    /// The value as text, if it is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(self.as_bytes()).ok()
    }

    /// The value for a map, in the field of this name. `None` is not possible for a value that was checked.
    pub fn to_map_value(&self, name: Known) -> Option<HeaderValue> {
        let value = match &self.0 {
            Inner::Text(text) => HeaderValue::from_maybe_shared(text.clone()).ok(),
            Inner::Map(value) => Some(value.clone()),
        };
        value.map(|value| for_hpack(name, value))
    }
}

impl From<HeaderValue> for Value {
    fn from(value: HeaderValue) -> Self {
        Self(Inner::Map(value))
    }
}

/// Marks a value that usually differs from message to message. In the table of HPACK, such a value would displace values
/// that are used again, and later values would be compared with it.
pub(crate) fn for_hpack(name: Known, mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(name.differs_each_time());
    value
}

/// Checks a value, and returns it without the blanks around it.
pub(crate) fn judged(value: &[u8]) -> Result<&[u8], Misuse> {
    let value = value.trim_ascii();
    if value.iter().fold(true, |all, byte| all & is_of_value(*byte)) {
        Ok(value)
    } else {
        Err(Misuse::IllegalField)
    }
}

/// Whether a byte may stand in a value (RFC 9110, 5.5).
const fn is_of_value(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_checked_once_and_is_the_same_in_a_map() {
        for bad in ["a\r\nb", "a\0", "a\x7f"] {
            assert!(Value::of_text(bad.as_bytes()).is_err(), "{bad:?}");
        }
        let value = Value::of_text(b" orders:80 ").unwrap();
        assert_eq!((value.as_bytes(), value.as_str()), (&b"orders:80"[..], Some("orders:80")));
        assert_eq!(value.to_map_value(Known::Host).unwrap(), "orders:80");
        let id = value.to_map_value(Known::XRequestId).unwrap();
        assert!(id.is_sensitive(), "it stays out of the table of HPACK");
        assert_eq!(Value::from(id).as_bytes(), b"orders:80");
    }
}
