//! Converts between [`Fields`] and `http::HeaderMap`, which HTTP/2 and some layers use.
//!
//! A map has all names in lower case. A [`Spelling`](crate::Spelling) tells how they were spelled.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::error::Misuse;
use crate::fields::Fields;
use crate::known::Known;
use crate::value::for_hpack;

impl Fields {
    pub fn to_map(&self) -> Result<HeaderMap, Misuse> {
        self.to_map_without(|_, _| false)
    }

    /// Makes a map without the known fields for which `unneeded` is true. Values share the bytes of the head; values that
    /// were set are copied, all in one piece.
    pub fn to_map_without(&self, unneeded: impl Fn(Known, &[u8]) -> bool) -> Result<HeaderMap, Misuse> {
        let added = Bytes::copy_from_slice(self.added());
        let mut map = HeaderMap::with_capacity(self.len());
        for (known, name, value) in self.pieces() {
            let source = if value.is_added { &added } else { self.text() };
            let bytes = source.get(value.range.clone()).unwrap_or_default();
            if known.is_some_and(|known| unneeded(known, bytes)) {
                continue;
            }
            let name = match known {
                Some(known) => known.header_name(),
                None => HeaderName::from_bytes(name).or(Err(Misuse::IllegalField))?,
            };
            let value = HeaderValue::from_maybe_shared(source.slice(value.range));
            let mut value = value.or(Err(Misuse::IllegalField))?;
            if let Some(known) = known {
                value = for_hpack(known, value);
            }
            map.try_append(name, value).or(Err(Misuse::IllegalField))?;
        }
        Ok(map)
    }

    pub fn of_map(map: &HeaderMap) -> Result<Self, Misuse> {
        let mut fields = Self::with_room(map.len(), bytes_of(map));
        for (name, value) in map {
            fields.append_sound(name.as_str().as_bytes(), value.as_bytes())?;
        }
        Ok(fields)
    }
}

fn bytes_of(map: &HeaderMap) -> usize {
    map.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::RequestHead;
    use crate::limits::Limits;

    fn head(text: &str) -> RequestHead {
        RequestHead::read(text.as_bytes(), &Limits::default()).unwrap().unwrap().1
    }

    const HEAD: &str =
        "GET /a?b HTTP/1.1\r\nHost: orders\r\nX-One: 1\r\nSOAPAction: x\r\nx-one: 2\r\nAccept:*/*\r\n\r\n";

    #[test]
    fn what_differs_each_time_is_kept_from_the_tables_of_hpack() {
        let mut fields = head(HEAD).fields;
        fields.set(Known::XRequestId, b"1").unwrap();
        let map = fields.to_map().unwrap();
        let kept_out = map.iter().filter(|(_, value)| value.is_sensitive()).map(|(name, _)| name.as_str());
        assert_eq!(kept_out.collect::<Vec<_>>(), ["x-request-id"]);
    }

    #[test]
    fn a_map_that_is_turned_into_lines_and_back_is_unchanged() {
        let map = head(HEAD).fields.to_map().unwrap();
        let fields = Fields::of_map(&map).unwrap();
        assert_eq!(fields.to_map().unwrap(), map);
        assert_eq!(fields.get(crate::Known::Host), Some(&b"orders"[..]));
    }
}
