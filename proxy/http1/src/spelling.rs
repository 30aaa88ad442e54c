//! How the names of a head are spelled. It can be told in a short text, so that HTTP/1 can write the names as they came
//! even if HTTP/2, which has lower case alone, was between.

use std::sync::Arc;

use crate::fields::Fields;
use crate::known::{Known, Names};
use crate::token::is_token;

/// 512 bytes for the names that are spelled in their own way, with the commas between them. With more of them the names
/// are spelled as usual.
const LISTED_BYTES: usize = 512;

/// How the names of a head are spelled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spelling {
    /// As most programs spell names over HTTP/1 (`Content-Type`, `ETag`, `traceparent`); otherwise in lower case.
    is_usual: bool,
    /// Names that are spelled in another way, with commas between them.
    listed: Option<Arc<[u8]>>,
    /// The known names among them, so that the list is not searched for each known name.
    known: Names,
}

impl Spelling {
    /// In lower case, as HTTP/2 has it.
    pub const LOWER: Self = Self::plain(false);
    pub const USUAL: Self = Self::plain(true);

    const fn plain(is_usual: bool) -> Self {
        Self { is_usual, listed: None, known: Names::of(&[]) }
    }

    fn with(is_usual: bool, list: &[u8]) -> Self {
        let mut known = Names::default();
        list.split(|byte| *byte == b',').filter_map(Known::find).for_each(|name| known.insert(name));
        Self { is_usual, listed: Some(list.into()), known }
    }

    pub fn of(fields: &Fields) -> Self {
        [Self::LOWER, Self::USUAL].into_iter().find(|plain| plain.fits(fields)).unwrap_or_else(|| {
            let [usual, lower] = [Self::USUAL, Self::LOWER].map(|plain| plain.with_list(fields));
            if usual.list().len() <= lower.list().len() { usual } else { lower }
        })
    }

    /// Whether every name of these fields is spelled in this way.
    pub fn fits(&self, fields: &Fields) -> bool {
        fields.spelled().all(|(known, name)| match self.listed(known, name) {
            None => self.is_plain(known, name),
            Some(listed) => listed == name,
        })
    }

    pub fn is_lower(&self) -> bool {
        *self == Self::LOWER
    }

    /// The spelling as a text for another sidecar.
    pub fn to_text(&self) -> Vec<u8> {
        let first = if self.is_usual { b"t" } else { b"l" };
        let separator: &[u8] = if self.listed.is_some() { b"," } else { b"" };
        [first, separator, self.list()].concat()
    }

    /// Reads what [`to_text`](Self::to_text) wrote. `None`: it is something else.
    pub fn of_text(text: &[u8]) -> Option<Self> {
        let (first, rest) = text.split_first()?;
        let is_usual = match first {
            b't' => true,
            b'l' => false,
            _ => return None,
        };
        match rest.split_first() {
            None => Some(Self::plain(is_usual)),
            Some((b',', list)) if is_list(list) => Some(Self::with(is_usual, list)),
            Some(_) => None,
        }
    }

    /// Writes the beginning of the line of a name, which is in lower case.
    #[inline]
    pub(crate) fn write_name(&self, known: Option<Known>, name: &[u8], out: &mut Vec<u8>) {
        let name = match (self.listed(known, name), known) {
            (None, Some(known)) if self.is_usual => return out.extend_from_slice(known.usual_line_start()),
            (None, Some(known)) => return out.extend_from_slice(known.line_start()),
            (None, None) if self.is_usual => {
                out.extend(titled(name));
                return out.extend_from_slice(b": ");
            }
            (None, None) => name,
            (Some(listed), _) => listed,
        };
        out.extend_from_slice(name);
        out.extend_from_slice(b": ");
    }

    fn list(&self) -> &[u8] {
        self.listed.as_deref().unwrap_or_default()
    }

    /// The spelling of a name that has one of its own.
    #[inline]
    fn listed(&self, known: Option<Known>, name: &[u8]) -> Option<&[u8]> {
        let list = self.listed.as_deref()?;
        if known.is_some_and(|known| !self.known.has(known)) {
            return None;
        }
        if list.eq_ignore_ascii_case(name) {
            return Some(list); // the only one
        }
        let mut listed = list.split(|byte| *byte == b',');
        listed.find(|listed| listed.eq_ignore_ascii_case(name))
    }

    /// Whether a name is spelled as it is without a list.
    fn is_plain(&self, known: Option<Known>, name: &[u8]) -> bool {
        match known {
            Some(known) if self.is_usual => known.usual_line_start().strip_suffix(b": ") == Some(name),
            Some(known) => known.as_str().as_bytes() == name,
            None if self.is_usual => titled(name).eq(name.iter().copied()),
            None => !name.iter().any(u8::is_ascii_uppercase),
        }
    }

    /// This plain spelling with a list of the names that are spelled in another way, as far as the list has room. A name
    /// that comes in several spellings is listed once.
    fn with_list(&self, fields: &Fields) -> Self {
        let mut list = Vec::new();
        for (_, name) in fields.spelled().filter(|(known, name)| !self.is_plain(*known, name)) {
            let mut listed = list.split(|byte| *byte == b',');
            if listed.any(|listed| listed.eq_ignore_ascii_case(name)) {
                continue;
            }
            if list.len() + 1 + name.len() > LISTED_BYTES {
                return Self::USUAL;
            }
            if !list.is_empty() {
                list.push(b',');
            }
            list.extend_from_slice(name);
        }
        Self::with(self.is_usual, &list)
    }
}

/// A name in Title-Case: each word begins with a capital letter, and has no other.
fn titled(name: &[u8]) -> impl Iterator<Item = u8> {
    let mut begins = true;
    name.iter().map(move |byte| {
        let byte = if begins { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() };
        begins = byte == b'-';
        byte
    })
}

fn is_list(list: &[u8]) -> bool {
    let is_name = |name: &[u8]| !name.is_empty() && name.iter().copied().all(is_token);
    list.len() <= LISTED_BYTES && list.split(|byte| *byte == b',').all(is_name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::head::ResponseHead;
    use crate::limits::Limits;

    fn fields(names: &[&str]) -> Fields {
        let lines: String = names.iter().map(|name| format!("{name}: 1\r\n")).collect();
        let head = format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
        ResponseHead::read(head.as_bytes(), false, &Limits::default()).unwrap().unwrap().1.fields
    }

    fn text(names: &[&str]) -> String {
        String::from_utf8(Spelling::of(&fields(names)).to_text()).unwrap()
    }

    /// The names as HTTP/1 writes them after HTTP/2 has carried them in lower case.
    fn restored(names: &[&str]) -> Vec<String> {
        let spelling = Spelling::of_text(&Spelling::of(&fields(names)).to_text()).unwrap();
        let write = |name: &&str| {
            let (name, mut out) = (name.to_ascii_lowercase(), Vec::new());
            spelling.write_name(Known::find_lower(name.as_bytes()), name.as_bytes(), &mut out);
            String::from_utf8(out).unwrap().strip_suffix(": ").unwrap().to_owned()
        };
        names.iter().map(write).collect()
    }

    #[test]
    fn the_usual_names_need_no_list_and_the_shorter_list_is_made_for_others() {
        for (names, expected) in [
            (&["Host", "User-Agent", "X-Own", "traceparent", "ETag", "x-request-id"][..], "t"),
            (&["host", "user-agent", "x-own", "etag"], "l"),
            (&["Host", "user-agent"], "l,Host"),
            (&["Host", "Accept", "SOAPAction", "X-API-Key"], "t,SOAPAction,X-API-Key"),
            (&["Host", "X-One", "x-one"], "t,x-one"),
            (&[], "l"),
            (&["traceparent"], "l"),
        ] {
            assert_eq!(text(names), expected);
        }
    }

    #[test]
    fn each_known_name_has_a_usual_spelling_that_differs_in_case_alone() {
        for known in Known::ALL {
            let usual = known.usual_line_start();
            assert!(usual.eq_ignore_ascii_case(known.line_start()), "{known:?}");
        }
        assert_eq!(Known::ContentType.usual_line_start(), b"Content-Type: ");
        assert_eq!(Known::WwwAuthenticate.usual_line_start(), b"WWW-Authenticate: ");
    }

    #[test]
    fn a_spelling_fits_heads_with_other_fields_but_not_other_spellings() {
        let spelling = Spelling::of(&fields(&["Host", "user-agent"]));
        for (names, expected) in
            [(&["Host", "accept"][..], true), (&["accept"], true), (&["host"], false), (&["Accept"], false)]
        {
            assert_eq!(spelling.fits(&fields(names)), expected, "{names:?}");
        }
    }

    #[test]
    fn what_the_sidecar_itself_has_added_is_not_told() {
        let mut fields = fields(&["Host", "X-REQUEST-ID"]);
        fields.append_named(b"x-added", b"1").unwrap();
        fields.set(Known::XForwardedProto, b"http").unwrap();
        fields.set(Known::XRequestId, b"2").unwrap();
        assert_eq!(Spelling::of(&fields).to_text(), b"t,X-REQUEST-ID", "a changed field keeps its spelling");
    }

    #[test]
    fn a_list_over_its_bound_is_left_out() {
        let names: Vec<_> = (0..60).map(|nth| format!("x-OWN-{nth:03}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        assert_eq!(text(&names), "t");
        assert!(text(&names[..50]).len() <= LISTED_BYTES + 2);
    }

    #[test]
    fn a_text_that_is_no_spelling_is_refused() {
        let long = format!("t,{}", "a".repeat(LISTED_BYTES + 1));
        for text in ["", "x", "t,", "l,,", "t,a,", "tt", "t,a b", "t,a\r\n", "t,a:b", "T", "t;a", &long] {
            assert_eq!(Spelling::of_text(text.as_bytes()), None, "{text:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_spelling_survives(names in proptest::collection::hash_set("[a-z][a-z0-9_.-]{0,20}", 1..12),
            case in any::<u64>())
        {
            let mut case = case;
            let mut spell = |name: &String| -> String {
                name.chars().map(|letter| {
                    case = case.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    if case & 1 << 40 == 0 { letter } else { letter.to_ascii_uppercase() }
                }).collect()
            };
            let names: Vec<String> = names.iter().map(&mut spell).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let length: usize = names.iter().map(|name| name.len() + 1).sum();
            prop_assume!(length <= LISTED_BYTES);
            prop_assert_eq!(restored(&names), names);
        }

        #[test]
        fn no_text_makes_it_panic(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(spelling) = Spelling::of_text(&text) {
                prop_assert_eq!(spelling.to_text(), text);
            }
        }
    }
}
