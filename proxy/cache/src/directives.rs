//! Reads the directives of `Cache-Control` in answers and requests (RFC 9111, 5.2), and those of `CDN-Cache-Control`
//! (RFC 9213), which is a structured field and is read as strictly as one.

/// 2^31 s, to which longer times are cut (RFC 9111, 1.2.2).
pub const LONGEST: u64 = 1 << 31;
/// 32: the most field names of `no-cache="…"` and `private="…"` that are kept. With more of them the directive counts
/// as one without names, which is stricter.
const MOST_NAMES: usize = 32;

/// What the directives of an answer say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnswerDirectives {
    pub no_store: bool,
    /// The answer must be validated each time. With field names the directive concerns only these fields.
    pub no_cache: bool,
    pub private: bool,
    pub public: bool,
    pub must_revalidate: bool,
    pub proxy_revalidate: bool,
    pub must_understand: bool,
    pub max_age: Option<u64>,
    pub s_maxage: Option<u64>,
    pub stale_while_revalidate: Option<u64>,
    pub stale_if_error: Option<u64>,
    /// The fields that `no-cache="…"` and `private="…"` name, in lower case: they are not stored.
    pub withheld: Vec<Box<str>>,
}

/// What the directives of a request ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestDirectives {
    pub no_store: bool,
    pub no_cache: bool,
    pub only_if_cached: bool,
    pub max_age: Option<u64>,
    pub min_fresh: Option<u64>,
    /// How much staler than fresh an answer may be; `max-stale` without a value allows any staleness.
    pub max_stale: Option<u64>,
    pub stale_if_error: Option<u64>,
}

/// One member of a list: a name, and perhaps a value without its quotes.
#[derive(Debug, PartialEq, Eq)]
struct Member<'a> {
    name: &'a [u8],
    value: Option<&'a [u8]>,
}

/// The parts of a list between commas that are outside quoted strings, without blanks around them.
pub(crate) fn elements(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    line.split(move |byte| {
        if std::mem::take(&mut is_escaped) {
            return false;
        }
        match byte {
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b',' => return !is_quoted,
            _ => {}
        }
        false
    })
    .map(<[u8]>::trim_ascii)
    .filter(|element| !element.is_empty())
}

/// Whether each quoted string of an element ends in it.
fn is_closed(element: &[u8]) -> bool {
    let (mut is_quoted, mut is_escaped) = (false, false);
    for byte in element {
        match byte {
            _ if std::mem::take(&mut is_escaped) => {}
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            _ => {}
        }
    }
    !is_quoted
}

/// A blank beside `=` belongs to the name or to the value, which is then none that is known (RFC 9111, 5.2).
fn member(element: &[u8]) -> Member<'_> {
    let equals = element.iter().position(|byte| *byte == b'=');
    let Some((name, value)) = equals.and_then(|at| element.split_at_checked(at)) else {
        return Member { name: element, value: None };
    };
    let value = value.get(1..).unwrap_or_default();
    let unquoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    Member { name, value: Some(unquoted.unwrap_or(value)) }
}

/// A number of seconds. Times beyond [`LONGEST`] are cut.
pub(crate) fn delta_seconds(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Some(text.iter().fold(0, add).min(LONGEST))
}

/// The lifetime that a directive gives. One that cannot be read, or that differs from an earlier one, gives none: then
/// the answer is stale (RFC 9111, 4.2.1).
fn lifetime(earlier: Option<u64>, value: Option<&[u8]>) -> Option<u64> {
    let read = value.and_then(delta_seconds).unwrap_or(0);
    match earlier {
        Some(earlier) if earlier != read => Some(0),
        _ => Some(read),
    }
}

/// The time by which a stale answer may be used. What cannot be read allows nothing.
fn allowance(earlier: Option<u64>, value: Option<&[u8]>) -> Option<u64> {
    let read = value.and_then(delta_seconds)?;
    Some(earlier.map_or(read, |earlier| earlier.min(read)))
}

impl AnswerDirectives {
    /// Reads a further line of `Cache-Control`. A quoted string without an end could hide any directive: such an
    /// answer is not stored.
    pub fn read(&mut self, line: &[u8]) {
        let mut last: &[u8] = &[];
        for element in elements(line) {
            let Member { name, value } = member(element);
            self.note(&name.to_ascii_lowercase(), value);
            last = element;
        }
        self.no_store |= !is_closed(last);
    }

    fn note(&mut self, name: &[u8], value: Option<&[u8]>) {
        match name {
            b"no-store" => self.no_store = true,
            b"no-cache" => self.no_cache |= !self.withhold(value),
            b"private" => self.private |= !self.withhold(value),
            b"public" => self.public = true,
            b"must-revalidate" => self.must_revalidate = true,
            b"proxy-revalidate" => self.proxy_revalidate = true,
            b"must-understand" => self.must_understand = true,
            b"max-age" => self.max_age = lifetime(self.max_age, value),
            b"s-maxage" => self.s_maxage = lifetime(self.s_maxage, value),
            b"stale-while-revalidate" => {
                self.stale_while_revalidate = allowance(self.stale_while_revalidate, value);
            }
            b"stale-if-error" => self.stale_if_error = allowance(self.stale_if_error, value),
            _ => {}
        }
    }

    /// Notes the fields that a directive names. Returns whether it names any, and all of them are kept.
    fn withhold(&mut self, names: Option<&[u8]>) -> bool {
        let Some(names) = names else { return false };
        let before = self.withheld.len();
        for name in elements(names) {
            match std::str::from_utf8(name) {
                Ok(name) if self.withheld.len() < MOST_NAMES => {
                    self.withheld.push(name.to_ascii_lowercase().into());
                }
                _ => return false,
            }
        }
        self.withheld.len() > before
    }

    /// Forbids what `others` forbid: to store the answer, or some of its fields.
    pub(crate) fn forbid_as(&mut self, others: &Self) {
        if others.no_store && !others.must_understand {
            (self.no_store, self.must_understand) = (true, false);
        }
        self.private |= others.private;
        self.withheld.extend_from_slice(&others.withheld);
    }

    /// Reads `CDN-Cache-Control`. `None`: it is not a dictionary of structured fields (RFC 9651), and is ignored as a
    /// whole; an empty one says nothing either (RFC 9213, 2.1).
    pub fn targeted<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let (mut read, mut is_empty) = (Self::default(), true);
        for element in lines.flat_map(elements) {
            let element = without_parameters(element);
            let Member { name, value } = member(element);
            if !is_key(name)
                || !value.is_none_or(|_| is_item(element.get(name.len() + 1..).unwrap_or_default()))
            {
                return None;
            }
            is_empty = false;
            let is_text = element.ends_with(b"\"");
            let takes_number =
                matches!(name, b"max-age" | b"s-maxage" | b"stale-while-revalidate" | b"stale-if-error");
            match value {
                Some(b"?0") => {}
                Some(b"?1") => read.note(name, None),
                _ if takes_number && is_text => {} // a value of the wrong type is no value
                value => read.note(name, value),
            }
        }
        (!is_empty).then_some(read)
    }
}

fn without_parameters(element: &[u8]) -> &[u8] {
    let mut is_quoted = false;
    let end = element.iter().position(|byte| {
        is_quoted ^= *byte == b'"';
        *byte == b';' && !is_quoted
    });
    end.and_then(|end| element.get(..end)).unwrap_or(element)
}

/// The name of a member of a dictionary of structured fields.
fn is_key(name: &[u8]) -> bool {
    let of_key = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(byte);
    name.first().is_some_and(|first| first.is_ascii_lowercase() || *first == b'*') && name.iter().all(of_key)
}

/// A number, a string, a token or a boolean of structured fields; other types stand in no directive.
fn is_item(value: &[u8]) -> bool {
    match value {
        [b'"', inner @ .., b'"'] => inner.iter().all(|byte| matches!(byte, b' '..=b'~')),
        [b'?', b'0' | b'1'] => true,
        [b'-' | b'0'..=b'9', rest @ ..] => rest.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.'),
        [first, rest @ ..] => {
            let of_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(byte);
            (first.is_ascii_alphabetic() || *first == b'*') && rest.iter().all(of_token)
        }
        [] => false,
    }
}

impl RequestDirectives {
    /// Reads further lines of `Cache-Control`. What cannot be read of a limit asks for the strictest one.
    pub fn read(&mut self, line: &[u8]) {
        for element in elements(line) {
            let Member { name, value } = member(element);
            match &*name.to_ascii_lowercase() {
                b"no-store" => self.no_store = true,
                b"no-cache" => self.no_cache = true,
                b"only-if-cached" => self.only_if_cached = true,
                b"max-age" => self.max_age = Some(value.and_then(delta_seconds).unwrap_or(0)),
                b"min-fresh" => self.min_fresh = Some(value.and_then(delta_seconds).unwrap_or(LONGEST)),
                b"max-stale" => self.max_stale = value.map_or(Some(LONGEST), delta_seconds),
                b"stale-if-error" => self.stale_if_error = allowance(self.stale_if_error, value),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(line: &str) -> AnswerDirectives {
        let mut read = AnswerDirectives::default();
        read.read(line.as_bytes());
        read
    }

    #[test]
    fn a_lifetime_is_read_whatever_its_case_and_quotes_and_beside_extensions() {
        for (line, expected) in [
            ("max-age=60", Some(60)),
            ("MaX-aGe=\"60\"", Some(60)),
            ("ext, max-age=0060", Some(60)),
            ("ext=\"max-age=9\", max-age=60", Some(60)),
            ("max-age=60, ext=\"a\\\", max-age=9\"", Some(60)),
            ("max-age=99999999999999999999", Some(LONGEST)),
            ("max-age=60, max-age=60", Some(60)),
            ("max-age =60", None),
            ("ext=\"max-age=60\"", None),
        ] {
            assert_eq!(answer(line).max_age, expected, "{line}");
        }
    }

    #[test]
    fn a_lifetime_that_cannot_be_read_or_contradicts_another_makes_the_answer_stale() {
        for line in [
            "max-age= 60",
            "max-age='60'",
            "max-age=60a",
            "max-age=6.0",
            "max-age=-60",
            "max-age",
            "max-age=",
            "max-age=1, max-age=60",
        ] {
            assert_eq!(answer(line).max_age, Some(0), "{line}");
        }
    }

    #[test]
    fn a_quoted_string_without_an_end_hides_no_directive() {
        assert!(answer("max-age=60, ext=\"a, private").no_store);
        assert!(!answer("max-age=60, ext=\"a, private\"").no_store);
    }

    #[test]
    fn directives_with_field_names_concern_these_fields_alone() {
        let read = answer("no-cache=\"A, b\", private=\"c\", max-age=1");
        assert!(!read.no_cache && !read.private);
        assert_eq!(read.withheld, ["a", "b", "c"].map(Box::from));
        assert!(answer("no-cache").no_cache && answer("No-CACHE=\"\"").no_cache && answer("private").private);
        let crowd: Vec<String> = (0..100).map(|nth| format!("x{nth}")).collect();
        let read = answer(&format!("private=\"{}\"", crowd.join(",")));
        assert!(read.private && read.withheld.len() == MOST_NAMES);
    }

    #[test]
    fn a_targeted_field_that_is_no_structured_field_says_nothing() {
        let targeted = |line: &'static str| AnswerDirectives::targeted([line.as_bytes()].into_iter());
        assert_eq!(targeted("max-age=60;x=1, ext").unwrap().max_age, Some(60));
        assert!(targeted("private").unwrap().private && targeted("no-store=?1").unwrap().no_store);
        assert!(!targeted("no-store=?0").unwrap().no_store);
        assert_eq!(targeted("max-age=\"60\"").unwrap().max_age, None, "a string is no number");
        for line in ["", "max-age =60", "max-age= 60", "MAX-AGE=60", "max-age=60, &&&", "max-age="] {
            assert_eq!(targeted(line), None, "{line}");
        }
    }

    #[test]
    fn a_request_asks_for_its_limits() {
        let mut read = RequestDirectives::default();
        read.read(b"max-age=5, min-fresh=2, max-stale, only-if-cached");
        assert_eq!((read.max_age, read.min_fresh, read.max_stale), (Some(5), Some(2), Some(LONGEST)));
        assert!(read.only_if_cached && !read.no_cache && !read.no_store);
        let mut read = RequestDirectives::default();
        read.read(b"max-age=x, min-fresh=x, max-stale=x");
        assert_eq!((read.max_age, read.min_fresh, read.max_stale), (Some(0), Some(LONGEST), None));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut read = AnswerDirectives::default();
            read.read(&line);
            RequestDirectives::default().read(&line);
            drop(AnswerDirectives::targeted([&*line].into_iter()));
            prop_assert!(read.max_age.is_none_or(|age| age <= LONGEST));
        }
    }
}
