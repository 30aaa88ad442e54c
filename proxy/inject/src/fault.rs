//! What is wrong with a manifest, and where.

use std::fmt;

/// Line and column count from 1, the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

/// One fault. The message is a whole sentence that names the thing, without its full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// `None`: the file as a whole.
    pub place: Option<Position>,
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

impl Fault {
    pub(crate) fn at(place: Position, message: impl Into<String>) -> Self {
        Self { place: Some(place), message: message.into(), help: None }
    }

    pub(crate) fn of_file(message: impl Into<String>) -> Self {
        Self { place: None, message: message.into(), help: None }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// The sentence alone, as a webhook answers it.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.help {
            Some(help) => write!(f, "{}. help: {help}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// Every fault of a file, in the file's order, as `FILE:LINE:COL: error: what. help: what to write instead`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    pub file: String,
    pub faults: Vec<Fault>,
}

impl std::error::Error for Faults {}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, fault) in self.faults.iter().enumerate() {
            let gap = if nth == 0 { "" } else { "\n" };
            write!(f, "{gap}{}", self.file)?;
            if let Some(Position { line, column }) = fault.place {
                write!(f, ":{line}:{column}")?;
            }
            write!(f, ": error: {fault}")?;
        }
        Ok(())
    }
}
