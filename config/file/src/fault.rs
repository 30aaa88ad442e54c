//! A fault of the file: what is wrong, where, and what to write instead.

use std::fmt;

pub use pillion_model::Severity;

use crate::place::Position;

/// One fault, displayed as `LINE:COLUMN: error: what. help: what to write instead`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub severity: Severity,
    /// The path of the key, as in `services.orders.endpoints[1].weight`. Empty: the file as a whole.
    pub path: String,
    /// Counts from 1.
    pub line: usize,
    /// Counts from 1, in characters.
    pub column: usize,
    /// A whole sentence that names the key, without its full stop.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

impl Fault {
    /// An error at a place. It concerns the file as a whole, unless a path is set.
    pub(crate) fn error(place: Position, message: impl Into<String>, help: Option<String>) -> Self {
        let Position { line, column } = place;
        Self { severity: Severity::Error, path: String::new(), line, column, message: message.into(), help }
    }

    /// An error that concerns the file as a whole, placed at its start.
    pub(crate) fn of_file(message: impl Into<String>, help: Option<&str>) -> Self {
        Self::error(Position::START, message, help.map(str::to_owned))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.line, self.column, self.severity, self.message)?;
        match &self.help {
            Some(help) => write!(f, ". help: {help}"),
            None => Ok(()),
        }
    }
}

/// Every fault that was found in a file, in the file's order; at least one is an error.
///
/// Each fault is displayed as `FILE:LINE:COL: error: what. help: what to write instead`, followed by the source line
/// and a caret under the place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors {
    /// The file's name as the caller gave it.
    pub file: String,
    /// The text of the file. Empty where the file could not be read.
    pub source: String,
    pub faults: Vec<Fault>,
}

impl Errors {
    /// `faults` may also be warnings only, as `pillion check` prints them for a valid file.
    pub fn new(file: impl Into<String>, source: impl Into<String>, faults: Vec<Fault>) -> Self {
        Self { file: file.into(), source: source.into(), faults }
    }

    /// The line of the fault as messages show it, without secrets.
    fn source_line(&self, fault: &Fault) -> Option<String> {
        let at = fault.line.checked_sub(1)?;
        let line = lines(&self.source).nth(at).filter(|line| !line.trim().is_empty())?;
        let before = at.checked_sub(1).and_then(|before| lines(&self.source).nth(before));
        let hidden = match before.and_then(begins) {
            Some(_) => Some(0), // a secret may go on in the next line
            None => begins(line),
        };
        let hidden = hidden.into_iter().chain(self.in_headers_of_tracing(at)).min().unwrap_or(line.len());
        Some(line.char_indices().map(|(at, c)| if at < hidden || c == ' ' { c } else { '·' }).collect())
    }

    /// Where the values of `tracing.headers` begin in a line, if it has any. Which of these headers carry credentials is known to
    /// the collector alone.
    fn in_headers_of_tracing(&self, at: usize) -> Option<usize> {
        const KEYS: [&str; 2] = ["tracing", "headers"];
        let is_other_key = |line: &str| {
            line.starts_with(|first: char| first.is_ascii_alphabetic()) && !line.starts_with("tracing")
        };
        let mut known = 0; // of the keys
        let mut begins = None;
        for line in lines(&self.source).take(at + 1) {
            known = if is_other_key(line) { 0 } else { known };
            begins = (known == KEYS.len()).then_some(0);
            let mut from = 0;
            while let Some(key) = KEYS.get(known)
                && let Some(found) = line.get(from..).and_then(|rest| rest.find(key))
            {
                from += found + key.len();
                known += 1;
                begins = (known == KEYS.len()).then_some(from);
            }
        }
        begins
    }
}

impl std::error::Error for Errors {}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, fault) in self.faults.iter().enumerate() {
            let gap = if nth == 0 { "" } else { "\n" };
            write!(f, "{gap}{}:{fault}", self.file)?;
            if let Some(line) = self.source_line(fault) {
                show_source(f, fault, &line)?;
            }
        }
        Ok(())
    }
}

/// Where a secret begins in a line.
fn begins(line: &str) -> Option<usize> {
    let user = line.contains('@').then_some("://"); // a password may stand before the @ of a URL
    let known = SECRETS.into_iter().chain(user).filter_map(|word| Some(line.find(word)? + word.len()));
    // the query of a URL may be a signature
    let url = line.find("://");
    let query = url.and_then(|url| Some(url + line.get(url..)?.find('?')? + 1));
    known.chain(query).min()
}

/// What no message quotes: the value of `admin.token`, and credentials in `tracing.headers`. What comes after these words in
/// their line is hidden, and the next line.
const SECRETS: [&str; 3] = ["token:", "Bearer ", "Basic "];

/// In characters. A line of a flow-style or generated file can be a megabyte long; only this much of it is shown.
const SHOWN: usize = 120;

fn show_source(f: &mut fmt::Formatter<'_>, fault: &Fault, line: &str) -> fmt::Result {
    let before = fault.column.saturating_sub(1);
    let skipped = if before < SHOWN { 0 } else { before - SHOWN / 2 };
    let shown: String = line.chars().skip(skipped).take(SHOWN).map(printable).collect();
    let margin = fault.line.to_string().len();
    write!(f, "\n {} | {shown}\n {:margin$} | {:indent$}^", fault.line, "", "", indent = before - skipped)
}

/// Each character of the source takes one column: control characters must not move the caret or control the terminal.
fn printable(c: char) -> char {
    if c.is_control() { ' ' } else { c }
}

/// Lines as YAML counts them: a carriage return alone also ends a line (YAML 1.2.2, section 5.4).
pub(crate) fn lines(source: &str) -> impl Iterator<Item = &str> {
    source.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(line: usize, column: usize) -> Fault {
        Fault {
            line,
            column,
            ..Fault::of_file("workers is `many`, which is not a whole number", Some("write 4"))
        }
    }

    #[test]
    fn a_fault_shows_its_line_and_points_at_the_place() {
        let errors = Errors::new("pillion.yaml", "version: 1\nworkers: many\n", vec![fault(2, 10)]);
        let expected = "pillion.yaml:2:10: error: workers is `many`, which is not a whole number. help: write 4\n\
                        \x20 2 | workers: many\n\
                        \x20   |          ^";
        assert_eq!(errors.to_string(), expected.replace("\n  ", "\n "));
    }

    #[test]
    fn a_fault_outside_the_source_is_shown_without_a_source_line() {
        let errors = Errors::new("f", "", vec![fault(7, 1)]);
        assert!(!errors.to_string().contains('\n'));
    }

    #[test]
    fn a_secret_beside_a_fault_is_not_shown() {
        for (source, line, column) in [
            ("admin: { listen: nonsense, token: \"s3cret words\" }", 1, 18),
            ("admin: { token: s3cret }", 1, 17),
            ("tracing: { headers: { x-team: s3cret }, smaple: 1% }", 1, 40),
            ("tracing:\n  headers:\n    api-key: x\n    x-team: s3cret", 4, 5),
            ("from: \"https://config.example/a b?sig=s3cret\"", 1, 7),
            ("{\"tracing\": {\"headers\": {\"x-team\": \"s3cret\"}}}", 1, 30),
            ("admin:\n  token:\n    s3cret", 3, 5),
            ("admin:\n  token: >\n    s3cret", 3, 5),
        ] {
            let shown = Errors::new("f", source, vec![fault(line, column)]).to_string();
            assert!(!shown.contains("s3cret") && !shown.contains("words"), "{shown}");
        }
    }

    #[test]
    fn a_very_long_line_is_cut_around_the_place() {
        let errors = Errors::new("f", "x".repeat(1_000_000), vec![fault(1, 500_000)]);
        assert!(errors.to_string().len() < 500);
    }
}
