//! Joins the lines of a buffer that belong together: partial lines of CRI, and stack traces by `multiline`.
//!
//! Pure. What may go on is not taken: it stays in its file until its end is known, so that there is nothing to keep in memory.

use std::borrow::Cow;

use pillion_model::Pattern;
use pillion_model::logs::LineFormat;

use crate::cri::{self, Stream};
use crate::lines::{self, Found};

/// Whether more may come after the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// More is on its way.
    Open,
    /// Nothing has come for a while: lines that have ended do not wait for what could belong to them.
    Quiet,
    /// Nothing more comes, also not the end of a line.
    Over,
}

/// What was taken from a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// So many bytes.
    Used(usize),
    /// Nothing: the end of what begins here is not there.
    Wait,
    /// Nothing: a line begins that is longer than allowed, and its end is not there.
    Huge,
}

/// What lines have become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text<'b> {
    /// Where its first line begins in the buffer.
    pub(crate) begin: usize,
    pub(crate) content: Cow<'b, [u8]>,
    /// When the container's runtime had read it.
    pub(crate) time: Option<i64>,
    pub(crate) stream: Option<Stream>,
    pub(crate) is_cut: bool,
}

impl Text<'_> {
    /// Appends a line to this one.
    fn append(&mut self, between: &[u8], more: &[u8], longest: usize) {
        let room = longest.saturating_sub(self.content.len() + between.len());
        self.is_cut |= more.len() > room;
        let content = self.content.to_mut();
        content.extend_from_slice(between);
        content.extend_from_slice(&more[..more.len().min(room)]);
    }
}

/// How the lines of a source belong together.
#[derive(Debug, Clone)]
pub(crate) struct Grouping {
    pub(crate) is_cri: bool,
    /// What the first line of several fits.
    pub(crate) starts: Option<Pattern>,
    /// The most bytes of a record's text.
    pub(crate) longest: usize,
}

/// Lines that cannot be told apart further: one, or the partial lines of CRI until no line is open.
struct Unit<'b> {
    texts: Vec<Text<'b>>,
    used: usize,
}

impl Grouping {
    pub(crate) fn new(format: LineFormat, starts: Option<Pattern>, longest: usize) -> Self {
        Self { is_cri: format == LineFormat::Cri, starts, longest }
    }

    /// Takes what begins at the buffer's first byte.
    pub(crate) fn next<'b>(&self, buffer: &'b [u8], end: End, emit: &mut dyn FnMut(Text<'b>)) -> Step {
        if !self.is_cri && self.starts.is_none() {
            return match lines::first(buffer, self.longest, end == End::Over) {
                Found::Line(line) => {
                    emit(plain(0, &line));
                    Step::Used(line.used)
                }
                Found::Huge => Step::Huge,
                Found::Nothing => Step::Wait,
            };
        }
        self.several(buffer, end, emit)
    }

    /// A buffer that is full does not wait: what is longer is divided.
    fn end_of(&self, buffer: &[u8], end: End) -> End {
        if buffer.len() > self.longest { end.max(End::Quiet) } else { end }
    }

    fn several<'b>(&self, buffer: &'b [u8], end: End, emit: &mut dyn FnMut(Text<'b>)) -> Step {
        let end = self.end_of(buffer, end);
        let (mut pending, mut used) = (None::<Text<'b>>, 0);
        loop {
            let unit = match self.unit(buffer, used, end) {
                Ok(unit) => unit,
                Err(step) => {
                    let is_done = end != End::Open || step == Step::Huge;
                    let Some(done) = pending.filter(|_| is_done) else { return step };
                    emit(done);
                    return Step::Used(used);
                }
            };
            let Some(starts) = &self.starts else {
                unit.texts.into_iter().for_each(emit);
                return Step::Used(unit.used);
            };
            let [text] = &unit.texts[..] else {
                match pending {
                    Some(done) => emit(done),
                    None => {
                        unit.texts.into_iter().for_each(emit);
                        used = unit.used;
                    }
                }
                return Step::Used(used);
            };
            match &mut pending {
                None => pending = unit.texts.into_iter().next(),
                Some(before) if self.goes_on(before, text, starts) => {
                    before.append(b"\n", &text.content, self.longest);
                }
                Some(_) => {
                    pending.into_iter().for_each(emit);
                    return Step::Used(used);
                }
            }
            used = unit.used;
        }
    }

    /// Whether a line belongs to the one before. A text that would become too long is divided.
    fn goes_on(&self, before: &Text<'_>, text: &Text<'_>, starts: &Pattern) -> bool {
        let has_room = before.content.len() + 1 + text.content.len() <= self.longest;
        before.stream == text.stream && has_room && !starts.is_in(&text.content)
    }

    /// What begins at `from`. It ends at a place of the buffer, and not after a number of bytes.
    fn unit<'b>(&self, buffer: &'b [u8], from: usize, end: End) -> Result<Unit<'b>, Step> {
        let (mut open, mut texts, mut at) = ([None, None], Vec::new(), from);
        loop {
            let rest = buffer.get(at..).unwrap_or_default();
            let line = match lines::first(rest, self.longest, end == End::Over) {
                Found::Line(line) => line,
                waits => {
                    let is_done = at > from && (end != End::Open || waits == Found::Huge);
                    if !is_done {
                        return Err(if waits == Found::Huge && at == from { Step::Huge } else { Step::Wait });
                    }
                    texts.extend(open.into_iter().flatten());
                    return Ok(Unit { texts, used: at });
                }
            };
            match self.is_cri.then(|| cri::parse(line.text)).flatten() {
                None => texts.push(plain(at, &line)),
                Some(parsed) => {
                    let place = &mut open[usize::from(parsed.stream == Stream::Stderr)];
                    match place {
                        Some(before) => before.append(b"", parsed.content, self.longest),
                        None => {
                            *place = Some(Text {
                                begin: at,
                                content: Cow::Borrowed(parsed.content),
                                time: parsed.time,
                                stream: Some(parsed.stream),
                                is_cut: line.is_cut,
                            });
                        }
                    }
                    if !parsed.is_partial {
                        texts.extend(place.take());
                    }
                }
            }
            at += line.used;
            if open.iter().all(Option::is_none) {
                return Ok(Unit { texts, used: at });
            }
        }
    }
}

const fn plain<'b>(begin: usize, line: &lines::Line<'b>) -> Text<'b> {
    Text { begin, content: Cow::Borrowed(line.text), time: None, stream: None, is_cut: line.is_cut }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LONGEST: usize = 60;

    fn grouping(format: LineFormat, starts: Option<&str>) -> Grouping {
        Grouping::new(format, starts.map(|starts| Pattern::new(starts).unwrap()), LONGEST)
    }

    /// All texts of a buffer, and what stays.
    fn all(of: &Grouping, buffer: &[u8], end: End) -> (Vec<String>, usize) {
        let (mut texts, mut used) = (Vec::new(), 0);
        while let Step::Used(step) = of.next(&buffer[used..], end, &mut |text| {
            texts.push(format!(
                "{}{}",
                String::from_utf8_lossy(&text.content),
                if text.is_cut { "…" } else { "" }
            ));
        }) {
            assert!(step > 0, "it goes on");
            used += step;
        }
        (texts, buffer.len() - used)
    }

    #[test]
    fn without_multiline_each_line_is_a_text() {
        let plain = grouping(LineFormat::Auto, None);
        assert_eq!(all(&plain, b"a\nb\nc", End::Quiet), (vec!["a".into(), "b".into()], 1));
        assert_eq!(all(&plain, b"a\nb\nc", End::Over).0, ["a", "b", "c"]);
    }

    #[test]
    fn a_line_that_does_not_start_belongs_to_the_one_before() {
        let java = grouping(LineFormat::Text, Some(r"^\d{4}-"));
        let log = b"2026-1 failed\n  at a\n  at b\n2026-2 ok\n  at c\n";
        let first = "2026-1 failed\n  at a\n  at b".to_owned();
        assert_eq!(all(&java, log, End::Open), (vec![first.clone()], 17), "the last one may go on");
        assert_eq!(all(&java, log, End::Quiet), (vec![first.clone(), "2026-2 ok\n  at c".into()], 0));
        assert_eq!(all(&java, b"  at x\n2026-1 ok\n", End::Quiet).0, ["  at x", "2026-1 ok"]);
        assert_eq!(
            all(&java, b"2026-1 a\n  b", End::Quiet),
            (vec!["2026-1 a".into()], 3),
            "a line that has not ended"
        );
        assert_eq!(all(&java, b"2026-1 a\n  b", End::Over), (vec!["2026-1 a\n  b".into()], 0));
    }

    #[test]
    fn a_text_of_several_lines_is_divided_where_it_is_too_long() {
        let java = grouping(LineFormat::Text, Some("^x"));
        let log = format!("x {}\n", "y".repeat(20)).into_bytes();
        let log = [&log[..], &b" 0123456789012345678\n".repeat(4)].concat();
        let (texts, left) = all(&java, &log, End::Quiet);
        assert_eq!(left, 0);
        assert!(
            texts.len() == 3 && texts.iter().all(|text| text.len() <= LONGEST && !text.ends_with("…")),
            "{texts:?}"
        );
    }

    #[test]
    fn partial_lines_of_cri_are_joined_for_each_stream() {
        let cri = grouping(LineFormat::Cri, None);
        let log = b"2026-11-28T17:40:01.5Z stdout P one \n2026-11-28T17:40:01.5Z stderr F other\n2026-11-28T17:40:01.6Z stdout F two\nno cri\n";
        assert_eq!(all(&cri, log, End::Open).0, ["other", "one two", "no cri"]);
        let open = b"2026-11-28T17:40:01.5Z stdout P one\n";
        assert_eq!(all(&cri, open, End::Open), (Vec::new(), open.len()));
        assert_eq!(all(&cri, open, End::Quiet), (vec!["one".into()], 0));
    }

    #[test]
    fn stack_traces_are_joined_within_cri() {
        let java = grouping(LineFormat::Cri, Some(r"^\d{4}"));
        let line = |text: &str| format!("2026-11-28T17:40:01.5Z stdout F {text}\n");
        let log = [line("2026 a"), line(" b"), line("2027 c")].concat();
        assert_eq!(all(&java, log.as_bytes(), End::Quiet).0, ["2026 a\n b", "2027 c"]);
    }

    #[test]
    fn a_line_that_is_longer_than_the_buffer_is_told() {
        let huge = vec![b'x'; LONGEST + 1];
        for of in [
            grouping(LineFormat::Auto, None),
            grouping(LineFormat::Text, Some("^y")),
            grouping(LineFormat::Cri, None),
        ] {
            assert_eq!(of.next(&huge, End::Open, &mut |_| ()), Step::Huge);
            assert_eq!(of.next(&huge[1..], End::Open, &mut |_| ()), Step::Wait);
        }
        let after = [b"y a\n", &huge[..]].concat();
        assert_eq!(
            grouping(LineFormat::Text, Some("^y")).next(&after, End::Open, &mut |_| ()),
            Step::Used(4)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_line_is_in_one_text(log in "([a-x ]{0,12}\n){0,12}", starts in "[a-d]") {
            let of = grouping(LineFormat::Text, Some(&format!("^{starts}")));
            let (texts, left) = all(&of, log.as_bytes(), End::Quiet);
            prop_assert_eq!(left, 0);
            let joined: String = texts.iter().map(|text| format!("{text}\n")).collect();
            prop_assert_eq!(joined, log);
        }

        #[test]
        fn no_bytes_make_it_panic(log in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b' '), Just(b'P'), any::<u8>()], 0..200), cri in any::<bool>()) {
            let of = grouping(if cri { LineFormat::Cri } else { LineFormat::Text }, Some("^P"));
            all(&of, &log, End::Over);
        }
    }
}
