//! Reads JSON into the tree of places. YAML's parser would refuse some of it: tabs, and characters in two escapes.

use crate::tree::{Content, DEEPEST, Entry, Node, NodeId, Slot, Tree};
use crate::value::Value;

/// The documents of a text that is JSON, one behind the other. `None`: it is not JSON, or is nested too deep.
pub(crate) fn read(text: &str) -> Option<Tree<'_>> {
    read_some(text, usize::MAX).ok().flatten()
}

/// The text has more values than its reader wants to hold.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

/// As [`read`], but ends at the first value beyond `most`: a value takes far more memory than its two bytes of text. Keys count too.
///
/// # Errors
/// The text has more values.
pub(crate) fn read_some(text: &str, most: usize) -> Result<Option<Tree<'_>>, TooMany> {
    let at = text.len() - text.trim_start_matches('\u{feff}').len();
    let mut reader = Reader { text, at, room: most, is_full: false, nodes: Vec::new() };
    match reader.documents() {
        Some(documents) => Ok(Some(Tree::made(text, reader.nodes, documents))),
        None if reader.is_full => Err(TooMany),
        None => Ok(None),
    }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    /// For how many more values there is room, with those that are open.
    room: usize,
    is_full: bool,
    nodes: Vec<Node>,
}

impl<'t> Reader<'t> {
    fn documents(&mut self) -> Option<Vec<Slot>> {
        let mut documents = Vec::new();
        while self.next_sign().is_some() {
            matches!(self.next_sign(), Some('{' | '[')).then_some(())?;
            documents.push(self.value(DEEPEST)?);
        }
        (!documents.is_empty()).then_some(documents)
    }

    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// The next character that is no white space, which stays.
    fn next_sign(&mut self) -> Option<char> {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len();
        self.rest().chars().next()
    }

    fn takes(&mut self, sign: char) -> bool {
        let is_next = self.next_sign() == Some(sign);
        self.at += if is_next { sign.len_utf8() } else { 0 };
        is_next
    }

    fn take_room(&mut self) -> Option<()> {
        match self.room.checked_sub(1) {
            Some(room) => self.room = room,
            None => self.is_full = true,
        }
        (!self.is_full).then_some(())
    }

    fn add(&mut self, start: usize, content: Content) -> NodeId {
        // columns count in blocks alone, and JSON has none
        self.nodes.push(Node { start, end: self.at, column: 0, content });
        self.nodes.len() - 1
    }

    fn value(&mut self, depth: usize) -> Option<Slot> {
        let depth = depth.checked_sub(1)?;
        self.take_room()?;
        let sign = self.next_sign()?;
        let start = self.at;
        let content = match sign {
            '{' => self.map(depth)?,
            '[' => self.list(depth)?,
            '"' => Content::Scalar { value: Value::Text(self.string()?) },
            _ => Content::Scalar { value: self.word()? },
        };
        let node = self.add(start, content);
        Some(Slot { node, alias: None })
    }

    fn map(&mut self, depth: usize) -> Option<Content> {
        self.takes('{');
        let mut entries = Vec::new();
        while !self.takes('}') {
            (entries.is_empty() || self.takes(',')).then_some(())?;
            self.next_sign()?;
            self.take_room()?;
            let start = self.at;
            let key = Content::Scalar { value: Value::Text(self.string()?) };
            let key = self.add(start, key);
            self.takes(':').then_some(())?;
            entries.push(Entry { key, value: self.value(depth)? });
        }
        Some(Content::Map { is_flow: true, entries })
    }

    fn list(&mut self, depth: usize) -> Option<Content> {
        self.takes('[');
        let mut items = Vec::new();
        while !self.takes(']') {
            (items.is_empty() || self.takes(',')).then_some(())?;
            items.push(self.value(depth)?);
        }
        Some(Content::List { is_flow: true, items })
    }

    /// A number, `true`, `false` or `null`.
    fn word(&mut self) -> Option<Value> {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c)).unwrap_or(rest.len());
        let word = rest.get(..end)?;
        self.at += end;
        match word {
            "null" => Some(Value::Null),
            "true" => Some(Value::Bool(true)),
            "false" => Some(Value::Bool(false)),
            _ if word.starts_with(|c: char| c == '-' || c.is_ascii_digit())
                && word.parse::<f64>().is_ok() =>
            {
                Some(Value::Number(word.to_owned()))
            }
            _ => None,
        }
    }

    fn string(&mut self) -> Option<String> {
        let mut text = String::new();
        let mut rest = self.rest().strip_prefix('"')?;
        loop {
            let end = rest.find(|c: char| c == '"' || c == '\\' || c < ' ')?;
            text.push_str(rest.get(..end)?);
            rest = rest.get(end..)?;
            if let Some(behind) = rest.strip_prefix('"') {
                self.at = self.text.len() - behind.len();
                return Some(text);
            }
            let (c, behind) = escaped(rest.strip_prefix('\\')?)?;
            text.push(c);
            rest = behind;
        }
    }
}

/// The character of an escape, without its backslash, and what follows it (RFC 8259, section 7).
fn escaped(text: &str) -> Option<(char, &str)> {
    let mut signs = text.chars();
    let c = match signs.next()? {
        c @ ('"' | '\\' | '/') => c,
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'u' => return unicode(signs.as_str()),
        _ => return None,
    };
    Some((c, signs.as_str()))
}

/// Four hexadecimal digits, or a pair of them for a character outside of Unicode's first plane. Half a pair means no character.
fn unicode(text: &str) -> Option<(char, &str)> {
    let unit =
        |text: &str| u16::from_str_radix(text.get(..4).filter(|digits| !digits.contains('+'))?, 16).ok();
    let (first, behind) = (unit(text)?, text.get(4..)?);
    let second = behind.strip_prefix("\\u").and_then(unit);
    let lone = char::from_u32(u32::from(first));
    match (lone, second) {
        (Some(c), _) => Some((c, behind)),
        (None, Some(second)) => {
            let c = char::decode_utf16([first, second]).next()?.ok()?;
            Some((c, behind.get(6..)?))
        }
        (None, None) => Some((char::REPLACEMENT_CHARACTER, behind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_become_characters() {
        let tree = read("\t{\"a\\\"\\n\": \"\\ud83d\\ude00 \\u00e4 \\ud83d\"}").unwrap();
        let value = tree.value(&tree.documents[0], &mut tree.room()).unwrap();
        assert_eq!(value, Value::map([("a\"\n", Value::text("😀 ä \u{fffd}"))]));
    }

    #[test]
    fn a_text_with_more_values_than_wanted_is_not_read_to_its_end() {
        let numbers = |count: usize| format!("[{}0]", "0,".repeat(count - 2));
        assert_eq!(read_some(&numbers(1_000), 1_000).map(|tree| tree.is_some()), Ok(true));
        assert_eq!(read_some(&numbers(1_001), 1_000).err(), Some(TooMany));
        let unread = format!("{} and this is no JSON", numbers(2_000_000));
        assert_eq!(read_some(&unread, 1_000).err(), Some(TooMany));
        assert_eq!(read_some("{\"a\": {\"b\": 1}}", 5).map(|tree| tree.is_some()), Ok(true));
        assert_eq!(read_some("{\"a\": {\"b\": 1}}", 4).err(), Some(TooMany));
        assert_eq!(read_some("[0, x]", 4).map(|tree| tree.is_some()), Ok(false));
    }

    #[test]
    fn what_is_not_json_is_left_to_yaml() {
        let deep = "[".repeat(100_000);
        for text in [
            "",
            " ",
            "{",
            "{a: 1}",
            "{\"a\": 1,}",
            "[1 2]",
            "a: 1",
            "{} # x",
            "{\"a\": 01x}",
            "{\"a\": \"\n\"}",
            "1",
            &deep,
        ] {
            assert!(read(text).is_none(), "{}", &text[..text.len().min(20)]);
        }
        assert_eq!(read("{} []\n{\"a\": [1, -2e3, null, true]}").unwrap().documents.len(), 3);
    }
}
