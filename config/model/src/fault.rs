//! Faults of a configuration: each is a sentence with the path of the key that it concerns.

use std::fmt;

use crate::path::{Path, Trail};

/// Whether a configuration with this fault can be put to work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// The configuration is refused as a whole.
    Error,
    /// The configuration is valid, but probably not what the operator meant.
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

/// One fault of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Whether the fault makes the configuration invalid.
    pub severity: Severity,
    /// The key that the fault concerns.
    pub path: Path,
    /// A predicate that is read after the path: "is empty", "has `a` twice".
    pub what: String,
    /// What the operator can write instead.
    pub help: Option<String>,
    /// Another key on which this check depends. A source that could not read that other key drops this fault, because
    /// the unreadable key may be its only cause.
    pub depends_on: Option<Path>,
}

impl Fault {
    /// Adds what the operator can write instead.
    pub fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    /// Names the other key on which this check depends.
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
    /// Adds a fault that makes the configuration invalid.
    pub fn error(&mut self, at: &Trail<'_>, what: impl Into<String>) -> &mut Fault {
        self.add(Severity::Error, at, what.into())
    }

    /// Adds a warning: the configuration is valid, but probably not what the operator meant.
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

    /// Whether there are no errors; there may be warnings.
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
