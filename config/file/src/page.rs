//! What the keys tell of a configuration, one setting for each key: its value, and where the file says it.

mod origin;

use std::fmt;

use serde_json::Value;

pub(crate) use origin::Scopes;

/// The value of one key.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// The path of the key: `services.orders.retry.attempts`
    pub key: String,
    /// The value as the file would spell it. Null: the key is not set and has no default.
    pub value: Value,
    pub from: Provenance,
}

/// The origin of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provenance {
    Default,
    /// The block `defaults` of the file.
    Defaults(Origin),
    File(Origin),
    /// A flag of the command line, as the operator typed it.
    Flag(&'static str),
}

/// A place in a file. Line and column count from 1, the column in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub file: String,
    pub line: usize,
    pub column: usize,
}

/// The settings that have been collected so far.
pub(crate) struct Page<'a> {
    file: &'a str,
    flags: &'a [(&'static str, &'static str)],
    /// How many settings to skip before the first that is collected.
    skipped: usize,
    /// How many settings to collect at most.
    left: usize,
    /// How many settings were not collected, before and after those that were.
    beyond: usize,
    settings: Vec<Setting>,
}

impl<'a> Page<'a> {
    /// Collects every setting.
    pub(crate) const fn new(file: &'a str, flags: &'a [(&'static str, &'static str)]) -> Self {
        Self { file, flags, skipped: 0, left: usize::MAX, beyond: 0, settings: Vec::new() }
    }

    /// Collects at most `most` settings, after the first `from` settings.
    pub(crate) const fn keep(&mut self, from: usize, most: usize) {
        (self.skipped, self.left) = (from, most);
    }

    /// The settings that were collected, and the total number of settings.
    pub(crate) fn finish(self) -> (Vec<Setting>, usize) {
        let all = self.beyond + self.settings.len();
        (self.settings, all)
    }

    pub(crate) fn tell(&mut self, at: &Scopes<'_>, value: impl Into<Value>) {
        self.tell_as(at.key_text(), value, at);
    }

    /// Adds a value that may instead be written at `word`, where a single word replaces the block of keys.
    pub(crate) fn tell_or(&mut self, at: &Scopes<'_>, word: &Scopes<'_>, value: impl Into<Value>) {
        let written = if at.is_written() { at } else { &word.only_words() };
        self.tell_as(at.key_text(), value, written);
    }

    /// Adds each item of a list.
    pub(crate) fn tell_list(&mut self, items: impl Iterator<Item = Value>, at: &Scopes<'_>) {
        items.enumerate().for_each(|(nth, item)| self.tell(&at.index(nth), item));
    }

    fn tell_as(&mut self, key: &str, value: impl Into<Value>, written: &Scopes<'_>) {
        if self.beyond < self.skipped || self.settings.len() >= self.left {
            self.beyond += 1;
            return;
        }
        let from = self.flag(key).map_or_else(|| written.from(self.file), Provenance::Flag);
        self.settings.push(Setting { key: key.to_owned(), value: value.into(), from });
    }

    fn flag(&self, key: &str) -> Option<&'static str> {
        let key = key.split('[').next().unwrap_or(key);
        self.flags.iter().find(|(of, _)| *of == key).map(|(_, flag)| *flag)
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Defaults(origin) => write!(f, "defaults ({origin})"),
            Self::File(origin) => origin.fmt(f),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}
