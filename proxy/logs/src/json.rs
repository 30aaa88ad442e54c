//! Splits JSON texts into their members and items, strictly, without copying them.
//!
//! Pure. Values keep the text in which they were written, so that no number loses digits, and are only judged: what is
//! returned as a value is valid JSON (RFC 8259). serde_json would make a tree of each line.

use std::borrow::Cow;

/// The deepest nesting of arrays and objects. Elasticsearch takes 20.
const DEEPEST: u32 = 64;

/// A member of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Member<'t> {
    /// Without quotes, and with its escapes.
    pub(crate) key: &'t str,
    /// As it is written.
    pub(crate) value: &'t str,
}

/// The members of an object, in their order. `false`: the text is no object; then some members may have been added.
pub(crate) fn members<'t>(text: &'t str, to: &mut Vec<Member<'t>>) -> bool {
    let mut scan = Scan { text, at: 0 };
    scan.object(&mut |member| to.push(member)).is_some() && scan.is_over()
}

/// The items of an array. `None`: the text is no array.
pub(crate) fn items(text: &str) -> Option<Vec<&str>> {
    some_items(text, usize::MAX)
}

/// The items of an array that has at most so many.
pub(crate) fn some_items(text: &str, most: usize) -> Option<Vec<&str>> {
    let (mut scan, mut items) = (Scan { text, at: 0 }, Vec::new());
    scan.space();
    scan.byte(b'[')?;
    scan.space();
    if scan.byte(b']').is_some() {
        return scan.is_over().then_some(items);
    }
    loop {
        scan.space();
        let begin = scan.at;
        scan.value()?;
        (items.len() < most).then_some(())?;
        items.push(text.get(begin..scan.at)?);
        scan.space();
        if scan.byte(b',').is_some() {
            continue;
        }
        scan.byte(b']')?;
        return scan.is_over().then_some(items);
    }
}

/// The value of the first member with this key.
pub(crate) fn member<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    let (mut scan, mut found) = (Scan { text, at: 0 }, None);
    scan.object(&mut |member| {
        if found.is_none() && member.key == key {
            found = Some(member.value);
        }
    })?;
    found.filter(|_| scan.is_over())
}

/// The text of a value that is a string.
pub(crate) fn string(value: &str) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    Some(unescaped(inner))
}

/// A string without its escapes. A half of a surrogate pair becomes U+FFFD.
pub(crate) fn unescaped(inner: &str) -> Cow<'_, str> {
    if !inner.contains('\\') {
        return Cow::Borrowed(inner);
    }
    let mut text = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let mut after = rest[at + 1..].chars();
        match after.next() {
            Some('n') => text.push('\n'),
            Some('t') => text.push('\t'),
            Some('r') => text.push('\r'),
            Some('b') => text.push('\u{8}'),
            Some('f') => text.push('\u{c}'),
            Some('u') => {
                let (char, left) = code_point(after.as_str());
                text.push(char);
                rest = left;
                continue;
            }
            Some(other) => text.push(other),
            None => {}
        }
        rest = after.as_str();
    }
    text.push_str(rest);
    Cow::Owned(text)
}

/// The character of the digits after `\u`, and of a second `\u` where the first is half of a pair.
fn code_point(digits: &str) -> (char, &str) {
    let unit = |text: &str| text.get(..4).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let (Some(first), rest) = (unit(digits), digits.get(4..).unwrap_or_default()) else {
        return (char::REPLACEMENT_CHARACTER, digits);
    };
    if let (0xd800..0xdc00, Some(second)) = (first, rest.strip_prefix("\\u").and_then(unit))
        && (0xdc00..0xe000).contains(&second)
    {
        let pair = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        return (
            char::from_u32(pair).unwrap_or(char::REPLACEMENT_CHARACTER),
            rest.get(6..).unwrap_or_default(),
        );
    }
    (char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER), rest)
}

/// Writes a string with its quotes.
pub(crate) fn write_string(text: &str, to: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    to.push(b'"');
    let bytes = text.as_bytes();
    let mut written = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if *byte >= b' ' && *byte != b'"' && *byte != b'\\' {
            continue;
        }
        to.extend_from_slice(&bytes[written..at]);
        written = at + 1;
        match byte {
            b'"' => to.extend_from_slice(b"\\\""),
            b'\\' => to.extend_from_slice(b"\\\\"),
            b'\n' => to.extend_from_slice(b"\\n"),
            b'\r' => to.extend_from_slice(b"\\r"),
            b'\t' => to.extend_from_slice(b"\\t"),
            control => {
                let digits = [HEX[usize::from(control >> 4)], HEX[usize::from(control & 15)]];
                to.extend_from_slice(b"\\u00");
                to.extend_from_slice(&digits);
            }
        }
    }
    to.extend_from_slice(&bytes[written..]);
    to.push(b'"');
}

/// Whether a text is a number of JSON.
pub(crate) fn is_number(text: &str) -> bool {
    let mut scan = Scan { text, at: 0 };
    scan.number().is_some() && scan.at == text.len()
}

struct Scan<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Scan<'t> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn byte(&mut self, wanted: u8) -> Option<()> {
        (self.peek()? == wanted).then(|| self.at += 1)
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn is_over(&mut self) -> bool {
        self.space();
        self.at == self.text.len()
    }

    fn object(&mut self, member: &mut dyn FnMut(Member<'t>)) -> Option<()> {
        self.space();
        self.byte(b'{')?;
        self.space();
        if self.byte(b'}').is_some() {
            return Some(());
        }
        loop {
            self.space();
            let key = self.string()?;
            self.space();
            self.byte(b':')?;
            self.space();
            let begin = self.at;
            self.value()?;
            member(Member { key, value: self.text.get(begin..self.at)? });
            self.space();
            if self.byte(b',').is_none() {
                return self.byte(b'}');
            }
        }
    }

    /// Goes over a value of any depth, without recursion. `open`: one bit for each open bracket, 1 for an object.
    fn value(&mut self) -> Option<()> {
        let (mut depth, mut open) = (0_u32, 0_u64);
        loop {
            self.space();
            match self.peek()? {
                bracket @ (b'{' | b'[') => {
                    self.at += 1;
                    depth += 1;
                    (depth <= DEEPEST).then_some(())?;
                    let is_object = bracket == b'{';
                    open = open << 1 | u64::from(is_object);
                    self.space();
                    if self.byte(if is_object { b'}' } else { b']' }).is_none() {
                        if is_object {
                            self.key()?;
                        }
                        continue;
                    }
                    depth -= 1;
                    open >>= 1;
                }
                b'"' => drop(self.string()?),
                b't' => self.word("true")?,
                b'f' => self.word("false")?,
                b'n' => self.word("null")?,
                _ => self.number()?,
            }
            // a value has ended: so may the brackets around it
            loop {
                if depth == 0 {
                    return Some(());
                }
                self.space();
                let is_object = open & 1 == 1;
                if self.byte(b',').is_some() {
                    if is_object {
                        self.space();
                        self.key()?;
                    }
                    break;
                }
                self.byte(if is_object { b'}' } else { b']' })?;
                depth -= 1;
                open >>= 1;
            }
        }
    }

    fn key(&mut self) -> Option<()> {
        self.string()?;
        self.space();
        self.byte(b':')
    }

    fn word(&mut self, word: &str) -> Option<()> {
        self.text.get(self.at..)?.starts_with(word).then(|| self.at += word.len())
    }

    /// The text between the quotes.
    fn string(&mut self) -> Option<&'t str> {
        self.byte(b'"')?;
        let begin = self.at;
        loop {
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return self.text.get(begin..self.at - 1);
                }
                b'\\' => {
                    self.at += 1;
                    let escape = self.peek()?;
                    self.at += 1;
                    match escape {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                        b'u' => self.unicode()?,
                        _ => return None,
                    }
                }
                0..b' ' => return None,
                _ => self.at += 1,
            }
        }
    }

    /// The digits after `\u`. Half a surrogate pair is no character, and servers refuse it.
    fn unicode(&mut self) -> Option<()> {
        match self.unit()? {
            0xd800..0xdc00 => {
                self.byte(b'\\')?;
                self.byte(b'u')?;
                (0xdc00..0xe000).contains(&self.unit()?).then_some(())
            }
            0xdc00..0xe000 => None,
            _ => Some(()),
        }
    }

    fn unit(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(())?;
        self.at += 4;
        u32::from_str_radix(digits, 16).ok()
    }

    fn digits(&mut self) -> Option<()> {
        let begin = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > begin).then_some(())
    }

    fn number(&mut self) -> Option<()> {
        self.byte(b'-');
        if self.byte(b'0').is_none() {
            self.digits()?;
        }
        if self.byte(b'.').is_some() {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if self.byte(b'+').is_none() {
                self.byte(b'-');
            }
            self.digits()?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn split(text: &str) -> Option<Vec<(&str, &str)>> {
        let mut all = Vec::new();
        members(text, &mut all).then(|| all.iter().map(|member| (member.key, member.value)).collect())
    }

    #[test]
    fn an_object_is_split_into_members_as_they_are_written() {
        assert_eq!(
            split(r#" { "a" : 1.10 , "b":{"c":[1,{}]},"d\n":"x\"y" } "#),
            Some(vec![("a", "1.10"), ("b", r#"{"c":[1,{}]}"#), ("d\\n", r#""x\"y""#)])
        );
        assert_eq!(split("{}"), Some(Vec::new()));
        for bad in [
            "",
            "[]",
            "{",
            "{} x",
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            r#"{a:1}"#,
            r#"{"a":01}"#,
            r#"{"a":[1}"#,
            r#"{"a":1]"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a":"\ud800\u0041"}"#,
            r#"{"a":"\udc00"}"#,
            "{\"a\":\"\n\"}",
        ] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_whole_surrogate_pair_is_a_character() {
        assert_eq!(split(r#"{"a":"\ud83d\ude00"}"#).map(|all| all.len()), Some(1));
    }

    #[test]
    fn an_array_is_split_into_items() {
        assert_eq!((some_items("[1,2]", 2), some_items("[1,2,3]", 2)), (Some(vec!["1", "2"]), None));
        assert_eq!(items(r#"[{"a":1}, 2 ,"x"]"#), Some(vec![r#"{"a":1}"#, "2", r#""x""#]));
        assert_eq!((items("[ ]"), items("{}"), items("[1,]")), (Some(Vec::new()), None, None));
        assert_eq!(member(r#"{"a":1,"errors":true}"#, "errors"), Some("true"));
    }

    #[test]
    fn nesting_has_a_bound() {
        let nested = |depth| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(split(&nested(64)).is_some() && split(&nested(65)).is_none());
    }

    #[test]
    fn half_a_surrogate_pair_is_replaced() {
        assert_eq!(unescaped(r"\ud83d\ude00 \ud83d x \u00e9"), "😀 \u{fffd} x é");
        assert_eq!(string(r#""a\/b""#).as_deref(), Some("a/b"));
        assert_eq!(string("1"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_text_is_an_object_exactly_when_serde_json_says_so(text in r#"[{}\[\]:,"a01.eE+\-tfnud8c\\ ]{0,24}"#) {
            let expected = serde_json::from_str::<Value>(&text).is_ok_and(|value| value.is_object());
            prop_assert_eq!(split(&text).is_some(), expected, "{}", text);
        }

        #[test]
        fn strings_come_back_as_they_were(text in any::<String>()) {
            let mut written = Vec::new();
            write_string(&text, &mut written);
            let written = String::from_utf8(written).unwrap();
            prop_assert_eq!(serde_json::from_str::<String>(&written).unwrap(), &text[..]);
            prop_assert_eq!(string(&written).unwrap(), &text[..]);
        }

        #[test]
        fn members_are_those_of_serde_json(value in prop::collection::btree_map("[a-zé\"]{1,4}", prop_oneof![any::<i64>().prop_map(Value::from), any::<String>().prop_map(Value::from)], 0..5)) {
            let text = serde_json::to_string(&value).unwrap();
            let split = split(&text).unwrap();
            prop_assert_eq!(split.len(), value.len());
            for ((key, of), (expected_key, expected)) in split.iter().zip(&value) {
                prop_assert_eq!(&unescaped(key), expected_key);
                prop_assert_eq!(&serde_json::from_str::<Value>(of).unwrap(), expected);
            }
        }
    }
}
