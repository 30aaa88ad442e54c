//! Converts between [`Fields`] and `http::HeaderMap`, which HTTP/2 and some layers use.
//!
//! A map keeps neither case nor order. [`Spelling`] keeps both beside it, so that a head that came over HTTP/1 can
//! leave over HTTP/1 as it came, even if HTTP/2 is between the two and the names are sent along.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, request, response};

use crate::error::Misuse;
use crate::fields::Fields;
use crate::head::{RequestHead, ResponseHead};
use crate::known::Names;
use crate::token::is_token;
use crate::value::for_hpack;

/// More names than the default limit of a head. Further names are written as HTTP/2 spells them.
const SPELLED: usize = 256;

impl Fields {
    pub fn to_map(&self) -> Result<HeaderMap, Misuse> {
        self.to_map_without(Names::default())
    }

    /// Makes a map without the fields of these names. Values share the bytes of the head; values that were set are
    /// copied, all in one piece.
    pub fn to_map_without(&self, names: Names) -> Result<HeaderMap, Misuse> {
        let added = Bytes::copy_from_slice(self.added());
        let mut map = HeaderMap::with_capacity(self.len());
        for (known, name, value) in self.pieces() {
            if known.is_some_and(|known| names.has(known)) {
                continue;
            }
            let name = match known {
                Some(known) => known.header_name(),
                None => HeaderName::from_bytes(name).or(Err(Misuse::IllegalField))?,
            };
            let source = if value.is_added { &added } else { self.text() };
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

/// The spelling of the names of a head, and their order. It is attached to a message as an extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spelling {
    text: Bytes,
    /// The beginning and the end of each name in the text.
    names: Box<[(u32, u32)]>,
}

impl Spelling {
    /// The spelling of the fields that came. Fields that a sidecar has set have no spelling of their own.
    pub fn of(fields: &Fields) -> Self {
        Self { text: fields.text().clone(), names: fields.names_in_text().take(SPELLED).collect() }
    }

    /// Reads what [`to_text`](Self::to_text) wrote. `None`: the text is not a list of names.
    pub fn of_text(text: &[u8]) -> Option<Self> {
        let (mut names, mut start) = (Vec::new(), 0_u32);
        for name in text.split(|byte| *byte == b',').take(SPELLED) {
            if name.is_empty() || !name.iter().copied().all(is_token) {
                return None;
            }
            let end = start.checked_add(u32::try_from(name.len()).ok()?)?;
            names.push((start, end));
            start = end.checked_add(1)?;
        }
        Some(Self { text: Bytes::copy_from_slice(text), names: names.into() })
    }

    /// The names with commas between them.
    pub fn to_text(&self) -> Vec<u8> {
        self.names().collect::<Vec<_>>().join(&b","[..])
    }

    /// Whether every name is spelled as HTTP/2 spells it.
    pub fn is_lower_case(&self) -> bool {
        !self.names().flatten().any(u8::is_ascii_uppercase)
    }

    fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.names
            .iter()
            .map(|(start, end)| self.text.get(*start as usize..*end as usize).unwrap_or_default())
    }

    /// Makes fields of `map`: first those with a kept spelling, in their spelling and order; then the others.
    pub fn restore(&self, map: &HeaderMap) -> Result<Fields, Misuse> {
        let mut fields = Fields::with_room(map.len(), bytes_of(map));
        let mut left: Vec<Option<(&HeaderName, &HeaderValue)>> = map.iter().map(Some).collect();
        let mut next = 0;
        for name in self.names() {
            let is_it = |field: &Option<(&HeaderName, &HeaderValue)>| {
                field.is_some_and(|(other, _)| name.eq_ignore_ascii_case(other.as_str().as_bytes()))
            };
            // Usually the order is unchanged, so the next one is tried first.
            let (before, behind) = left.split_at(next);
            let place = behind.iter().position(is_it).map(|place| next + place);
            let Some(place) = place.or_else(|| before.iter().position(is_it)) else { continue };
            if let Some((_, value)) = left.get_mut(place).and_then(Option::take) {
                fields.append_sound(name, value.as_bytes())?;
            }
            next = place + 1;
        }
        for (name, value) in left.into_iter().flatten() {
            fields.append_sound(name.as_str().as_bytes(), value.as_bytes())?;
        }
        Ok(fields)
    }
}

impl RequestHead {
    /// Converts the head for layers that use the types of the crate `http`. The spelling is attached as an extension.
    pub fn to_parts(&self) -> Result<request::Parts, Misuse> {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.method = self.method.clone();
        parts.uri = Uri::from_maybe_shared(self.target_bytes()).or(Err(Misuse::IllegalTarget))?;
        parts.version = self.version;
        parts.headers = self.fields.to_map()?;
        parts.extensions.insert(Spelling::of(&self.fields));
        Ok(parts)
    }
}

impl ResponseHead {
    pub fn to_parts(&self) -> Result<response::Parts, Misuse> {
        let (mut parts, ()) = http::Response::new(()).into_parts();
        parts.status = self.status;
        parts.version = self.version;
        parts.headers = self.fields.to_map()?;
        parts.extensions.insert(Spelling::of(&self.fields));
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::known::Known;
    use crate::limits::Limits;

    fn head(text: &str) -> RequestHead {
        RequestHead::read(text.as_bytes(), &Limits::default()).unwrap().unwrap().1
    }

    fn lines(fields: &Fields) -> String {
        let mut out = Vec::new();
        fields.write(&mut out, crate::known::Names::default());
        String::from_utf8(out).unwrap()
    }

    const HEAD: &str =
        "GET /a?b HTTP/1.1\r\nHost: orders\r\nX-One: 1\r\nSOAPAction: x\r\nx-one: 2\r\nAccept:*/*\r\n\r\n";

    #[test]
    fn names_keep_case_and_order_through_a_map() {
        let head = head(HEAD);
        let mut parts = head.to_parts().unwrap();
        assert_eq!((parts.uri.path(), parts.uri.query()), ("/a", Some("b")));
        assert_eq!(parts.headers.get_all("x-one").iter().collect::<Vec<_>>(), ["1", "2"]);
        parts.headers.remove("soapaction");
        parts.headers.insert("x-new", HeaderValue::from_static("3"));
        parts.headers.insert("host", HeaderValue::from_static("other"));
        let spelling = parts.extensions.get::<Spelling>().unwrap();
        let reread = Spelling::of_text(&spelling.to_text()).unwrap();
        let expected = "Host: other\r\nX-One: 1\r\nx-one: 2\r\nAccept: */*\r\nx-new: 3\r\n";
        for spelling in [spelling, &reread] {
            assert_eq!(lines(&spelling.restore(&parts.headers).unwrap()), expected);
        }
        assert_eq!(spelling.to_text(), b"Host,X-One,SOAPAction,x-one,Accept");
        assert!(!spelling.is_lower_case());
    }

    #[test]
    fn a_text_that_is_not_a_list_of_names_gives_no_spelling() {
        for text in ["", "a,", ",a", "a b", "a,\r\n", "a:b"] {
            assert_eq!(Spelling::of_text(text.as_bytes()), None, "{text:?}");
        }
    }

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
