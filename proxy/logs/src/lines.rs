//! Finds the lines of a buffer.
//!
//! Pure: bytes in, a line out. A line that has not ended yet waits, and stays in its file meanwhile.

/// What stands at the beginning of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'b> {
    Line(Line<'b>),
    /// A line that is longer than allowed, and whose end is not in the buffer.
    Huge,
    /// No line that has ended.
    Nothing,
}

/// A line without its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line<'b> {
    pub(crate) text: &'b [u8],
    /// The bytes that it takes in the buffer, with its end.
    pub(crate) used: usize,
    /// Whether bytes after `text` are left out, because the line is longer than allowed.
    pub(crate) is_cut: bool,
}

/// The first line of a buffer, with at most `longest` bytes. `is_last`: no further byte comes, so that the end of the buffer
/// ends a line.
pub(crate) fn first(buffer: &[u8], longest: usize, is_last: bool) -> Found<'_> {
    match memchr::memchr(b'\n', buffer) {
        Some(end) => Found::Line(line(&buffer[..end], end + 1, longest)),
        None if buffer.len() > longest && !is_last => Found::Huge,
        None if is_last && !buffer.is_empty() => Found::Line(line(buffer, buffer.len(), longest)),
        None => Found::Nothing,
    }
}

fn line(text: &[u8], used: usize, longest: usize) -> Line<'_> {
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    Line { text: &text[..text.len().min(longest)], used, is_cut: text.len() > longest }
}

/// How many NULs stand at the beginning of a buffer: a file that was truncated while its writer kept its position has a hole
/// there.
pub(crate) fn hole(buffer: &[u8]) -> usize {
    buffer.iter().position(|byte| *byte != 0).unwrap_or(buffer.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(text: &str, used: usize) -> Found<'_> {
        Found::Line(Line { text: text.as_bytes(), used, is_cut: false })
    }

    #[test]
    fn a_line_ends_with_a_line_feed_with_or_without_a_carriage_return() {
        assert_eq!(first(b"one\ntwo\n", 9, false), found("one", 4));
        assert_eq!(first(b"one\r\ntwo", 9, false), found("one", 5));
        assert_eq!(first(b"\n", 9, false), found("", 1));
        assert_eq!(first(b"a\rb\n", 9, false), found("a\rb", 4));
    }

    #[test]
    fn a_line_without_its_end_waits_until_nothing_more_comes() {
        assert_eq!(first(b"one", 9, false), Found::Nothing);
        assert_eq!(first(b"one", 9, true), found("one", 3));
        assert_eq!(first(b"", 9, true), Found::Nothing);
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_and_marked() {
        let cut = |text, used| Found::Line(Line { text, used, is_cut: true });
        assert_eq!(first(b"123456\n", 4, false), cut(b"1234", 7));
        assert_eq!(first(b"123456", 4, true), cut(b"1234", 6));
        assert_eq!(first(b"123456", 4, false), Found::Huge);
        assert_eq!(first(b"1234", 4, false), Found::Nothing, "its end may be the next byte");
    }

    #[test]
    fn nuls_at_the_beginning_are_a_hole() {
        assert_eq!((hole(b"\0\0a\0"), hole(b"a"), hole(b"\0\0"), hole(b"")), (2, 0, 2, 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn lines_have_all_bytes_of_a_buffer(buffer in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..200)) {
            let (mut rest, mut read) = (&buffer[..], Vec::new());
            while let Found::Line(line) = first(rest, usize::MAX, true) {
                read.push(line.text.to_vec());
                rest = &rest[line.used..];
            }
            prop_assert!(rest.is_empty());
            let text = buffer.strip_suffix(b"\n").unwrap_or(&buffer);
            let expected = text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line).to_vec());
            if !buffer.is_empty() {
                prop_assert_eq!(read, expected.collect::<Vec<_>>());
            }
        }
    }
}
