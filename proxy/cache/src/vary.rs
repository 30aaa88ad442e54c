//! The fields of a request that chose an answer (`Vary`), and whether another request chooses the same one.

use pillion_http::message::Headers;

use crate::directives::elements;

/// 16: an answer that varies by more fields is not stored.
const MOST_FIELDS: usize = 16;
/// 4 KiB: an answer that was chosen by longer values is not stored.
const MOST_BYTES: usize = 4096;

/// What an answer varies by, as its head says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Vary {
    #[default]
    Nothing,
    /// The names of fields, in lower case and in order.
    Fields(Vec<Box<str>>),
    /// By something that no cache can know (`*`), or by more than is kept.
    Unknown,
}

impl Vary {
    /// Reads a further line of the field.
    pub(crate) fn read(&mut self, line: &[u8]) {
        for name in elements(line) {
            match std::str::from_utf8(name) {
                Ok(name) if name != "*" => self.add(name),
                _ => *self = Self::Unknown,
            }
        }
    }

    fn add(&mut self, name: &str) {
        *self = match std::mem::take(self) {
            Self::Nothing => Self::Fields(vec![name.to_ascii_lowercase().into()]),
            Self::Fields(mut names) if names.len() < MOST_FIELDS => {
                names.push(name.to_ascii_lowercase().into());
                Self::Fields(names)
            }
            Self::Fields(_) | Self::Unknown => Self::Unknown,
        };
    }

    fn names(&self) -> &[Box<str>] {
        match self {
            Self::Fields(names) => names,
            Self::Nothing | Self::Unknown => &[],
        }
    }

    /// By what an answer varies that varies by `self` and by `other`.
    pub(crate) fn and(&self, other: &Self) -> Self {
        if *other == Self::Unknown {
            return Self::Unknown;
        }
        let mut both = self.clone();
        other.names().iter().filter(|name| !self.names().contains(name)).for_each(|name| both.add(name));
        both
    }

    /// The field, as a head has it; `None` where it varies by nothing that can be written down.
    pub(crate) fn written(&self) -> Option<String> {
        (!self.names().is_empty()).then(|| self.names().join(", "))
    }
}

/// The values by which a request chose an answer: each name with its value in one spelling, or without a value where
/// the request has no such field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector(Box<[Choice]>);

type Choice = (Box<str>, Option<Box<[u8]>>);

impl Selector {
    /// `None`: no request can be compared with this one.
    pub fn of(vary: &Vary, request: &Headers) -> Option<Self> {
        if *vary == Vary::Unknown {
            return None;
        }
        let names = vary.names();
        let mut bytes = 0;
        let mut values = Vec::with_capacity(names.len());
        for name in names {
            let value = normalised(name, request).map(Vec::into_boxed_slice);
            bytes += name.len() + value.as_ref().map_or(0, |value| value.len());
            values.push((name.clone(), value));
        }
        (bytes <= MOST_BYTES).then(|| Self(values.into()))
    }

    /// Whether `request` chooses the same answer.
    pub fn fits(&self, request: &Headers) -> bool {
        self.0.iter().all(|(name, value)| normalised(name, request).as_deref() == value.as_deref())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0
            .iter()
            .map(|(name, value)| 32 + name.len() + value.as_ref().map_or(0, |value| value.len()))
            .sum()
    }
}

/// The value of a field in one spelling. Lines are joined by a comma and a blank (RFC 9110, 5.3); a field whose grammar
/// is not known here is not changed further. The fields that list what a client accepts are read without regard to
/// case. The order of codings and of character sets means nothing, and that of languages may (RFC 9110, 12.5).
fn normalised(name: &str, request: &Headers) -> Option<Vec<u8>> {
    let mut lines = request.named(name).map(<[u8]>::trim_ascii).peekable();
    lines.peek()?;
    match name {
        "accept-language" => Some(preferences(lines).join(&b',')),
        "accept-encoding" | "accept-charset" => {
            let mut accepted = preferences(lines);
            accepted.sort_unstable();
            accepted.dedup();
            Some(accepted.join(&b','))
        }
        _ => {
            let mut value = lines.next()?.to_vec();
            for line in lines {
                value.extend_from_slice(b", ");
                value.extend_from_slice(line);
            }
            Some(value)
        }
    }
}

/// The elements of a list of preferences in lower case, without blanks around their parameters.
fn preferences<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let spelled = |element: &[u8]| {
        let mut spelled = Vec::with_capacity(element.len());
        for (nth, part) in element.split(|byte| *byte == b';').enumerate() {
            if nth > 0 {
                spelled.push(b';');
            }
            spelled.extend(part.trim_ascii().iter().map(u8::to_ascii_lowercase));
        }
        spelled
    };
    lines.flat_map(elements).map(spelled).collect()
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn request(fields: &[(&'static str, &str)]) -> Headers {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        Headers::Map(map)
    }

    fn vary(lines: &[&str]) -> Vary {
        let mut vary = Vary::default();
        lines.iter().for_each(|line| vary.read(line.as_bytes()));
        vary
    }

    #[test]
    fn a_star_in_any_place_makes_the_choice_unknown() {
        for lines in [
            &["*"][..],
            &["*, *"],
            &["*", "*"],
            &[", *"],
            &["", "*"],
            &["*, foo"],
            &["foo, *"],
            &["foo", "*"],
        ] {
            assert_eq!(vary(lines), Vary::Unknown, "{lines:?}");
        }
        assert_eq!(vary(&["", " , "]), Vary::Nothing);
        assert_eq!(vary(&["Foo, bar"]), Vary::Fields(vec!["foo".into(), "bar".into()]));
        let crowd: Vec<String> = (0..100).map(|nth| format!("x{nth}")).collect();
        assert_eq!(vary(&[&crowd.join(",")]), Vary::Unknown);
    }

    #[test]
    fn what_varies_by_two_lists_varies_by_each_name_of_both() {
        let both = |one: &str, other: &str| vary(&[one]).and(&vary(&[other]));
        assert_eq!(both("a, b", "B, c"), vary(&["a, b, c"]));
        assert_eq!((both("a", ""), both("", "a")), (vary(&["a"]), vary(&["a"])));
        assert_eq!((both("a", "*"), both("*", "a")), (Vary::Unknown, Vary::Unknown));
        let names = |of: &str| (0..10).map(|nth| format!("{of}{nth}")).collect::<Vec<_>>().join(",");
        assert_eq!(both(&names("x"), &names("y")), Vary::Unknown, "they are too many");
    }

    #[test]
    fn requests_choose_the_same_answer_if_their_values_differ_in_spelling_alone() {
        let fits = |vary_by: &str, one: &[(&'static str, &str)], other: &[(&'static str, &str)]| {
            Selector::of(&vary(&[vary_by]), &request(one)).unwrap().fits(&request(other))
        };
        assert!(fits("foo", &[("foo", "1, 2")], &[("foo", " 1, 2 ")]));
        assert!(!fits("foo", &[("foo", "1,2")], &[("foo", "1, 2")]), "the field may count blanks");
        assert!(!fits("foo", &[("foo", "1,,2")], &[("foo", "1,2")]));
        assert!(!fits("foo", &[("foo", "\"a\\\\")], &[("foo", "\"a")]));
        assert!(fits("foo", &[("foo", "1, 2")], &[("foo", "1"), ("foo", "2")]));
        assert!(fits("foo, bar", &[("foo", "1")], &[("foo", "1"), ("other", "3")]), "absent in both");
        assert!(fits(
            "accept-language",
            &[("accept-language", "en, de")],
            &[("accept-language", "EN ,  de")]
        ));
        assert!(
            !fits("accept-language", &[("accept-language", "en, de")], &[("accept-language", "de, en")]),
            "a service may take the first one"
        );
        assert!(fits(
            "accept-encoding",
            &[("accept-encoding", "gzip; q=1, br")],
            &[("accept-encoding", "Br,gzip;q=1")]
        ));
        assert!(!fits("accept-encoding", &[("accept-encoding", "g zip")], &[("accept-encoding", "gzip")]));
        assert!(!fits("accept-language", &[("accept-language", "en")], &[("accept-language", "en;q=0.5")]));
        assert!(!fits("foo", &[("foo", "1")], &[("foo", "2")]));
        assert!(!fits("foo", &[("foo", "1")], &[]));
        assert!(!fits("foo", &[], &[("foo", "1")]));
        assert!(!fits("foo", &[], &[("foo", "")]), "an empty field is not an absent one");
        assert!(
            !fits("foo", &[("foo", "\"a, b\"")], &[("foo", "\"a,b\"")]),
            "blanks in a quoted string count"
        );
    }

    #[test]
    fn a_choice_by_very_long_values_is_not_kept() {
        let long = "x".repeat(MOST_BYTES);
        assert_eq!(Selector::of(&vary(&["foo"]), &request(&[("foo", &long)])), None);
    }

    proptest! {
        #[test]
        fn a_request_chooses_what_it_chose(values in proptest::collection::vec("[ -~]{0,20}", 0..4)) {
            let fields: Vec<_> = values.iter().map(|value| ("foo", &**value)).collect();
            let request = request(&fields);
            prop_assert!(Selector::of(&vary(&["foo"]), &request).unwrap().fits(&request));
        }
    }
}
