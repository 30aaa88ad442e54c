//! Values as text: in one line, as JSON over several lines, or as a block of YAML.

use crate::tree::plain;
use crate::value::Value;

/// The longest line in which a list or a map is written whole, without its indentation.
const WIDTH: usize = 88;

/// The rules of a text in which something is inserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Syntax {
    Yaml,
    /// Every key and every text has quotes.
    Json,
    /// JSON without a space.
    Compact,
}

/// A value in one line.
pub(crate) fn flow(value: &Value, syntax: Syntax) -> String {
    let (comma, colon) = if syntax == Syntax::Compact { (",", ":") } else { (", ", ": ") };
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(yes) => yes.to_string(),
        Value::Number(number) => number.clone(),
        Value::Text(text) => written(text, syntax),
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(|item| flow(item, syntax)).collect();
            format!("[{}]", items.join(comma))
        }
        Value::Map(entries) if entries.is_empty() => "{}".to_owned(),
        Value::Map(entries) => {
            let entry = |(key, value): &(String, Value)| {
                format!("{}{colon}{}", written(key, syntax), flow(value, syntax))
            };
            let entries = entries.iter().map(entry).collect::<Vec<_>>().join(comma);
            if syntax == Syntax::Yaml { format!("{{ {entries} }}") } else { format!("{{{entries}}}") }
        }
    }
}

/// A value as JSON over several lines. `indent` is the indentation of its first line, `unit` that of one level.
pub(crate) fn pretty(value: &Value, syntax: Syntax, indent: &str, unit: &str) -> String {
    let inner = format!("{indent}{unit}");
    let rows: Vec<String> = match value {
        Value::List(items) => items.iter().map(|item| pretty(item, syntax, &inner, unit)).collect(),
        Value::Map(entries) => {
            let row = |(key, value): &(String, Value)| {
                format!("{}: {}", written(key, syntax), pretty(value, syntax, &inner, unit))
            };
            entries.iter().map(row).collect()
        }
        _ => Vec::new(),
    };
    let (open, close) = if matches!(value, Value::List(_)) { ('[', ']') } else { ('{', '}') };
    match rows.is_empty() {
        true => flow(value, syntax),
        false => format!("{open}\n{inner}{}\n{indent}{close}", rows.join(&format!(",\n{inner}"))),
    }
}

/// Whether a value is written in the line of its key.
pub(crate) fn is_inline(value: &Value) -> bool {
    let is_full = match value {
        Value::List(items) => !items.is_empty(),
        Value::Map(entries) => !entries.is_empty(),
        _ => false,
    };
    !is_full || flow(value, Syntax::Yaml).len() <= WIDTH
}

/// The entries of a map, or the items of a list, as lines that begin at a column. The first line has no indentation.
pub(crate) fn block(value: &Value, column: usize) -> String {
    let gap = format!("\n{}", " ".repeat(column));
    match value {
        Value::Map(entries) => {
            entries.iter().map(|(key, value)| entry(key, value, column)).collect::<Vec<_>>().join(&gap)
        }
        Value::List(items) => items.iter().map(|value| item(value, column)).collect::<Vec<_>>().join(&gap),
        value => flow(value, Syntax::Yaml),
    }
}

/// A key with its value. `column` is that of the key.
pub(crate) fn entry(key: &str, value: &Value, column: usize) -> String {
    let key = written(key, Syntax::Yaml);
    match is_inline(value) {
        true => format!("{key}: {}", flow(value, Syntax::Yaml)),
        false => format!("{key}:\n{}{}", " ".repeat(column + 2), block(value, column + 2)),
    }
}

/// An item of a list with its dash. `column` is that of the dash.
pub(crate) fn item(value: &Value, column: usize) -> String {
    match is_inline(value) {
        true => format!("- {}", flow(value, Syntax::Yaml)),
        false => format!("- {}", block(value, column + 2)),
    }
}

/// A text, in quotes where it needs them.
pub(crate) fn written(text: &str, syntax: Syntax) -> String {
    match syntax {
        Syntax::Yaml if is_plain(text) => text.to_owned(),
        _ => quoted(text),
    }
}

/// Whether every reader of YAML takes the text as itself without quotes. Doubtful texts get quotes.
fn is_plain(text: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic();
    let begins = match text.strip_prefix('-').map(|rest| rest.trim_start_matches('-')) {
        Some(rest) => rest.starts_with(letter),
        None => text.starts_with(|c: char| letter(c) || c == '/' || c == '_'),
    };
    let is_quantity = || {
        let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
        unit.len() < text.len() && ["m", "k", "M", "G", "Ki", "Mi", "Gi", "s"].contains(&unit)
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_./-=:?".contains(c);
    (begins || is_quantity())
        && text.chars().all(allowed)
        && !text.ends_with(':')
        && !matches!(text, "y" | "Y" | "n" | "N")
        && matches!(plain(text), Value::Text(_))
}

/// A text in double quotes, which JSON and YAML both read as the same.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_quotes_where_a_reader_could_take_it_for_something_else() {
        for text in [
            "pillion",
            "/etc/pillion",
            "-c",
            "--dns",
            "200m",
            "64Mi",
            "pillion.io/inject",
            "a:8080",
            "web=http:80/x",
        ] {
            assert_eq!(written(text, Syntax::Yaml), text);
        }
        for text in [
            "",
            "true",
            "no",
            "y",
            "null",
            "~",
            "8080",
            "1e3",
            "0x1f",
            "1:30",
            "10.0.0.0/8",
            "2001-01-01",
            "1_000",
            "-1",
            "-.5",
            "---",
            "a b",
            "a,b",
            "a: b",
            "a#b",
            "*",
            "{a}",
            "ä",
            "a:",
            ".5",
            "5e",
            "<<",
            "=",
        ] {
            assert_eq!(written(text, Syntax::Yaml), format!("\"{text}\""), "{text}");
        }
        assert_eq!(quoted("a\"\\\n\u{7}\u{2028}"), "\"a\\\"\\\\\\n\\u0007\\u2028\"");
    }
}
