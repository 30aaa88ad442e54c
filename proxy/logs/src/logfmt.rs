//! Lines of logfmt: `time=… level=info msg="two words" count=7`.

use std::borrow::Cow;

/// The fields of a line, in their order. A key without a value has an empty one. `None`: the line has no `key=value`.
pub(crate) fn fields(line: &str) -> Option<Vec<(&str, Cow<'_, str>)>> {
    let (mut fields, mut rest, mut has_value) = (Vec::new(), line.trim(), false);
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        if key.is_empty() || key.contains('"') {
            return None;
        }
        let (value, after) = match after.strip_prefix('=') {
            Some(after) => {
                has_value = true;
                value(after)?
            }
            None => (Cow::Borrowed(""), after),
        };
        fields.push((key, value));
        rest = after.trim_start();
    }
    has_value.then_some(fields)
}

fn value(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        return Some((Cow::Borrowed(&text[..end]), &text[end..]));
    };
    let mut is_escaped = false;
    let end = quoted.bytes().position(|byte| {
        let ends = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        ends
    })?;
    Some((crate::json::unescaped(&quoted[..end]), &quoted[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_keys_with_values() {
        let fields = fields(r#"level=info msg="two \"words\"" n=7 flag empty="#).unwrap();
        let fields: Vec<_> = fields.iter().map(|(key, value)| (*key, value.as_ref())).collect();
        assert_eq!(
            fields,
            [("level", "info"), ("msg", "two \"words\""), ("n", "7"), ("flag", ""), ("empty", "")]
        );
    }

    #[test]
    fn another_line_is_no_logfmt() {
        for line in ["", "hello world", "=x", "a=\"open", "\"quoted\""] {
            assert_eq!(fields(line), None, "{line}");
        }
    }
}
