//! What is wrong, or odd, about a configuration: a sentence, and the path of the key that it is about.

use std::fmt;

use crate::path::{Path, Trail};

/// Whether a configuration with this fault can be put to work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// It is refused as a whole.
    Error,
    /// It is legal, but hardly what was meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Whether it refuses the configuration.
    pub severity: Severity,
    /// The key that it is about.
    pub path: Path,
    /// A predicate, to be read after the path: "is empty", "has `a` twice".
    pub what: String,
    /// What to write instead.
    pub help: Option<String>,
    /// Another key that was looked at: a source that could not read that key has no such fault, as what is wrong
    /// may be the key that it could not read.
    pub depends_on: Option<Path>,
}

impl Fault {
    /// Says what to write instead.
    pub fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    /// Names the other key that was looked at.
    pub fn depends_on(&mut self, key: &Trail<'_>) -> &mut Self {
        self.depends_on = Some(key.path());
        self
    }
}

/// Displays as `services.orders.timeout is …. help: …`.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path, self.what)?;
        match &self.help {
            Some(help) => write!(f, ". help: {help}"),
            None => Ok(()),
        }
    }
}

/// All faults of a configuration, in the order in which they were found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Faults {
    list: Vec<Fault>,
}

impl Faults {
    /// Adds a fault that refuses the configuration.
    pub fn error(&mut self, at: &Trail<'_>, what: impl Into<String>) -> &mut Fault {
        self.add(Severity::Error, at, what.into())
    }

    /// Adds what is legal but hardly meant.
    pub fn warn(&mut self, at: &Trail<'_>, what: impl Into<String>) -> &mut Fault {
        self.add(Severity::Warning, at, what.into())
    }

    fn add(&mut self, severity: Severity, at: &Trail<'_>, what: String) -> &mut Fault {
        let fault = Fault { severity, path: at.path(), what, help: None, depends_on: None };
        let nth = self.list.len();
        self.list.push(fault);
        &mut self.list[nth]
    }

    /// The faults found so far.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.list.iter()
    }

    /// Whether nothing refuses the configuration; there may be warnings.
    pub fn are_bearable(&self) -> bool {
        self.list.iter().all(|fault| fault.severity == Severity::Warning)
    }
}

impl IntoIterator for Faults {
    type Item = Fault;
    type IntoIter = std::vec::IntoIter<Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.into_iter()
    }
}
