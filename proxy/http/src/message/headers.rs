//! The fields of a head in the form of the connection on which they came, with one interface for both forms.

use http::{HeaderMap, HeaderName, HeaderValue};
use pillion_http1::{Fields, Known, Lines, Misuse, Spelling, Value};

#[derive(Debug, Clone)]
pub enum Headers {
    /// The fields of HTTP/1: names keep their case and their order, and unchanged fields are not copied.
    Text(Fields),
    /// The fields of HTTP/2.
    Map(HeaderMap),
}

/// What the next hop knows of a request over HTTP/2 without its fields: the host from the target and, if it is a sidecar
/// that keeps what was told once, what it has kept.
#[derive(Debug, Clone, Copy)]
pub struct Implied<'a> {
    pub host: &'a [u8],
    /// `x-pillion-via` of the requests that have none. `None`: nothing is kept.
    pub via: Option<&'a [u8]>,
}

impl Implied<'_> {
    fn has(&self, name: Known, value: &[u8]) -> bool {
        match (name, self.via) {
            (Known::Host, _) => true,
            (Known::XPillionVia, Some(via)) => value == via,
            (Known::XForwardedProto, Some(_)) => value == b"http",
            (Known::XForwardedHost, Some(_)) => value == self.host,
            _ => false,
        }
    }

    /// The names that may be left out, beside `Host`. The last one that a sidecar adds is first: so the others of a map
    /// keep their order.
    const fn names(&self) -> &'static [Known] {
        match self.via {
            Some(_) => &[Known::XPillionVia, Known::XForwardedHost, Known::XForwardedProto],
            None => &[],
        }
    }
}

impl Headers {
    pub fn has(&self, name: Known) -> bool {
        match self {
            Self::Text(fields) => fields.has(name),
            Self::Map(map) => map.contains_key(name.header_name()),
        }
    }

    /// The first value.
    pub fn get(&self, name: Known) -> Option<&[u8]> {
        match self {
            Self::Text(fields) => fields.get(name),
            Self::Map(map) => map.get(name.header_name()).map(HeaderValue::as_bytes),
        }
    }

    /// The value, if there is exactly one.
    pub fn only(&self, name: Known) -> Option<&[u8]> {
        match self {
            Self::Text(fields) => fields.get(name).filter(|_| !fields.has_several(name)),
            Self::Map(map) => {
                let mut values = map.get_all(name.header_name()).iter();
                values.next().filter(|_| values.next().is_none()).map(HeaderValue::as_bytes)
            }
        }
    }

    /// The first value, if it is printable ASCII text.
    pub fn text(&self, name: Known) -> Option<&str> {
        let value = self.get(name)?;
        let is_text = value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
        std::str::from_utf8(value).ok().filter(|_| is_text)
    }

    /// The first value, to be kept or to be set in another head. It shares the bytes of the head.
    pub fn value(&self, name: Known) -> Option<Value> {
        match self {
            Self::Text(fields) => fields.value_of(name),
            Self::Map(map) => map.get(name.header_name()).cloned().map(Value::from),
        }
    }

    pub fn all(&self, name: Known) -> impl Iterator<Item = &[u8]> {
        let (text, map) = match self {
            Self::Text(fields) => (Some(fields.all(name)), None),
            Self::Map(map) => (None, Some(map.get_all(name.header_name()).iter().map(HeaderValue::as_bytes))),
        };
        text.into_iter().flatten().chain(map.into_iter().flatten())
    }

    /// All values of any name; `name` is in lower case.
    pub fn named(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let (text, map) = match self {
            Self::Text(fields) => {
                let is_it = move |(other, _): &(&[u8], &[u8])| other.eq_ignore_ascii_case(name.as_bytes());
                (Some(fields.iter().filter(is_it).map(|(_, value)| value)), None)
            }
            Self::Map(map) => (None, Some(map.get_all(name).iter().map(HeaderValue::as_bytes))),
        };
        text.into_iter().flatten().chain(map.into_iter().flatten())
    }

    /// All fields: names as they came, and values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let (text, map) = match self {
            Self::Text(fields) => (Some(fields.iter()), None),
            Self::Map(map) => {
                (None, Some(map.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()))))
            }
        };
        text.into_iter().flatten().chain(map.into_iter().flatten())
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Text(fields) => fields.len(),
            Self::Map(map) => map.len(),
        }
    }

    /// The bytes of the text of an HTTP/1 head, including its first line; 0 for a map.
    pub fn text_bytes(&self) -> usize {
        match self {
            Self::Text(fields) => fields.text().len(),
            Self::Map(_) => 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        match self {
            Self::Text(fields) => fields.is_empty(),
            Self::Map(map) => map.is_empty(),
        }
    }

    /// Sets the field to this single value. In a text, the field keeps its spelling and its place.
    #[inline]
    pub fn set(&mut self, name: Known, value: &HeaderValue) {
        match self {
            // This fails only for a head of 4 GiB, and heads have a limit.
            Self::Text(fields) => drop(fields.set_map_value(name, value)),
            Self::Map(map) => drop(map.insert(name.header_name(), value.clone())),
        }
    }

    /// Sets the field to this single value, which came in a head or was checked before.
    #[inline]
    pub fn put(&mut self, name: Known, value: &Value) {
        match self {
            // This fails only for a head of 4 GiB, and heads have a limit.
            Self::Text(fields) => drop(fields.set_value(name, value)),
            Self::Map(map) => {
                if let Some(value) = value.to_map_value(name) {
                    map.insert(name.header_name(), value);
                }
            }
        }
    }

    /// Sets the field to this text. Does nothing if the text has a byte that no value may have.
    pub fn set_text(&mut self, name: Known, text: &[u8]) {
        match self {
            Self::Text(fields) => drop(fields.set(name, text)),
            Self::Map(map) => {
                if let Some(value) = Value::of_text(text).ok().and_then(|text| text.to_map_value(name)) {
                    map.insert(name.header_name(), value);
                }
            }
        }
    }

    /// Appends a field with any name, in lower case. Does nothing if the text has a byte that no value may have.
    pub fn append_text(&mut self, name: &'static str, text: &str) {
        match self {
            Self::Text(fields) => drop(fields.append_named(name.as_bytes(), text.as_bytes())),
            Self::Map(map) => {
                if let Ok(value) = HeaderValue::try_from(text) {
                    map.append(HeaderName::from_static(name), value);
                }
            }
        }
    }

    /// Removes a field. Returns whether it was there.
    pub fn remove(&mut self, name: Known) -> bool {
        match self {
            Self::Text(fields) => fields.remove(name),
            Self::Map(map) => map.remove(name.header_name()).is_some(),
        }
    }

    /// Removes a field and returns its first value.
    pub fn take(&mut self, name: Known) -> Option<Value> {
        match self {
            Self::Text(_) => {
                let value = self.value(name)?;
                self.remove(name);
                Some(value)
            }
            Self::Map(map) => map.remove(name.header_name()).map(Value::from),
        }
    }

    /// Removes all fields with this name.
    pub fn remove_named(&mut self, name: &HeaderName) {
        match self {
            Self::Text(fields) => {
                fields.remove_where(|_, other| other.eq_ignore_ascii_case(name.as_str().as_bytes()));
            }
            Self::Map(map) => drop(map.remove(name)),
        }
    }

    /// Appends a field with any name.
    pub fn append_named(&mut self, name: &HeaderName, value: &HeaderValue) {
        match self {
            // This fails only for a head of 4 GiB, and heads have a limit.
            Self::Text(fields) => drop(fields.append_named(name.as_str().as_bytes(), value.as_bytes())),
            Self::Map(map) => drop(map.append(name.clone(), value.clone())),
        }
    }

    /// Removes the fields for which `unwanted` is true. It gets the names of a text as they were written.
    pub fn remove_where(&mut self, unwanted: impl Fn(&[u8]) -> bool) {
        match self {
            Self::Text(fields) => drop(fields.remove_where(|_, name| unwanted(name))),
            Self::Map(map) => remove_if(map, |name| unwanted(name.as_bytes())),
        }
    }

    /// The fields in the form of HTTP/2.
    ///
    /// # Errors
    /// A field that HTTP/2 cannot carry.
    pub fn into_map(self) -> Result<HeaderMap, Misuse> {
        match self {
            Self::Text(fields) => fields.to_map(),
            Self::Map(map) => Ok(map),
        }
    }

    /// The fields in the form of HTTP/2, without those that the next hop knows anyway.
    ///
    /// # Errors
    /// A field that HTTP/2 cannot carry.
    pub(super) fn to_map_without(&self, implied: &Implied<'_>) -> Result<HeaderMap, Misuse> {
        match self {
            Self::Text(fields) => fields.to_map_without(|name, value| {
                implied.has(name, value) && (name == Known::Host || !fields.has_several(name))
            }),
            Self::Map(map) => {
                let mut map = map.clone();
                map.remove(http::header::HOST);
                for name in implied.names() {
                    let mut values = map.get_all(name.header_name()).iter();
                    let only = values.next().filter(|_| values.next().is_none());
                    if only.is_some_and(|value| implied.has(*name, value.as_bytes())) {
                        map.remove(name.header_name());
                    }
                }
                Ok(map)
            }
        }
    }

    /// The fields in the form in which HTTP/1 is written; the names of a map in this spelling.
    pub(super) const fn lines<'a>(&'a self, spelling: &'a Spelling) -> Lines<'a> {
        match self {
            Self::Text(fields) => Lines::Fields(fields),
            Self::Map(map) => Lines::Map(map, spelling),
        }
    }
}

/// Up to 8 unwanted fields are searched and removed one by one, which allocates nothing. If a peer sends more of them,
/// the other fields move into a new map instead, so that the work stays linear.
const FEW: usize = 8;

pub fn remove_if(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    for _ in 0..FEW {
        let Some(name) = headers.keys().find(|name| unwanted(name.as_str())).cloned() else { return };
        headers.remove(name);
    }
    let mut last = None;
    for (name, value) in std::mem::take(headers) {
        if let Some(name) = name {
            last = (!unwanted(name.as_str())).then_some(name); // further values come without the name
        }
        if let Some(name) = &last {
            headers.append(name.clone(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn only_fields_that_the_next_hop_implies_are_left_out() {
        let implied = Implied { host: b"orders", via: Some(b"a-o=1") };
        let usual = [
            ("host", "orders"),
            ("accept", "*/*"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "orders"),
            ("x-pillion-via", "a-o=1"),
        ];
        let other = [
            ("accept", "*/*"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "shop"),
            ("x-pillion-via", "a-o=2"),
        ];
        let twice = [("x-forwarded-proto", "http"), ("x-forwarded-proto", "https")];
        for (lines, expected) in [(&usual[..], &usual[1..2]), (&other, &other), (&twice, &twice)] {
            let map = headers(lines);
            let text = Headers::Text(Fields::of_map(&map).unwrap());
            for all in [Headers::Map(map), text] {
                assert_eq!(all.to_map_without(&implied).unwrap(), headers(expected));
                let nothing = Implied { host: b"orders", via: None };
                let kept = lines.iter().filter(|(name, _)| *name != "host").count();
                assert_eq!(all.to_map_without(&nothing).unwrap().len(), kept);
            }
        }
    }

    #[test]
    fn all_unwanted_fields_are_removed_and_the_others_stay_with_few_and_with_many() {
        for many in [0, 1, FEW, FEW + 1, 1000] {
            let mut map = headers(&[("a", "1"), ("b", "2"), ("a", "3")]);
            for nth in 0..many {
                let name = HeaderName::try_from(format!("x-pillion-{nth}")).unwrap();
                map.append(name.clone(), HeaderValue::from_static("x"));
                map.append(name, HeaderValue::from_static("y"));
            }
            remove_if(&mut map, |name| name.starts_with("x-pillion-"));
            assert_eq!(map, headers(&[("a", "1"), ("b", "2"), ("a", "3")]), "{many}");
        }
    }
}
