//! Texts in a given room, by the cells that a terminal needs for them.

use ratatui::text::Span;

fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// The beginning of a text that fits into so many cells.
fn beginning(text: &str, room: usize) -> &str {
    let mut used = 0;
    for (at, char) in text.char_indices() {
        used += width(char.encode_utf8(&mut [0; 4]));
        if used > room {
            return text.get(..at).unwrap_or_default();
        }
    }
    text
}

/// The text in exactly so many cells: filled with spaces, or cut with a sign of that.
pub(super) fn fit(text: &str, room: usize) -> String {
    let shown = match width(text) > room {
        true => format!("{}…", beginning(text, room.saturating_sub(1))),
        false => text.to_owned(),
    };
    let shown = beginning(&shown, room);
    format!("{shown}{}", " ".repeat(room.saturating_sub(width(shown))))
}

/// The text at the right end of so many cells.
pub(super) fn right(text: &str, room: usize) -> String {
    let shown = beginning(text, room);
    format!("{}{shown}", " ".repeat(room.saturating_sub(width(shown))))
}

/// The text in lines of so many cells, broken between words where that is possible. Further lines are indented.
pub(super) fn wrapped(text: &str, room: usize) -> Vec<String> {
    const INDENT: &str = "    ";
    let room = room.max(INDENT.len() * 2);
    let (mut lines, mut rest, mut indent) = (Vec::new(), text, "");
    while width(rest) > room - indent.len() {
        let most = beginning(rest, room - indent.len());
        let end =
            most.trim_end().rfind(' ').filter(|end| !most.get(..*end).unwrap_or_default().trim().is_empty());
        let (line, next) = rest.split_at(end.unwrap_or(most.len()).max(1));
        lines.push(format!("{indent}{}", line.trim_end()));
        (rest, indent) = (next.trim_start(), INDENT);
    }
    lines.push(format!("{indent}{rest}"));
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_are_cut_or_filled_by_the_cells_that_they_need() {
        assert_eq!(
            [fit("abc", 5), fit("abcdef", 5), fit("äöü", 2), fit("漢字漢", 4)],
            ["abc  ", "abcd…", "ä…", "漢… "]
        );
        assert_eq!([right("12", 4), right("123456", 4)], ["  12", "1234"]);
    }

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(wrapped("one two three four", 10), ["one two", "    three", "    four"]);
        assert_eq!(wrapped("x".repeat(12).as_str(), 8), ["xxxxxxxx", "    xxxx"]);
        assert_eq!(wrapped("", 8), [""]);
    }

    proptest! {
        #[test]
        fn a_text_has_exactly_its_room(text in "\\PC{0,40}", room in 0_usize..50) {
            prop_assert_eq!(width(&fit(&text, room)), room);
            for line in wrapped(&text, room) {
                prop_assert!(width(&line) <= room.max(8), "{line:?}");
            }
        }
    }
}
