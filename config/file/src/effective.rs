//! What a [`Config`] says in the end: every key with its value as the file would spell it, and where that came from.
//!
//! For people who ask a running sidecar. Secrets are not in it: the file names paths, and what stands in the files
//! behind them is never read here. What came from an environment variable is shown as it was replaced: no key of
//! this file holds a secret. A key that could would have to be left out here.

mod origin;

use std::fmt;

use serde_json::Value;

use crate::keys::{FILE, SERVICE};
use crate::place::Tree;
pub(crate) use origin::Scopes;
use pillion_model::Config;

/// The file that a configuration was read from.
#[derive(Debug, Clone, Copy)]
pub struct Written<'a> {
    /// As places name it.
    pub name: &'a str,
    pub text: &'a str,
}

/// One key.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// `services.orders.retry.attempts`
    pub key: String,
    /// As the file would spell it. Null: nothing is written, and nothing stands in for it.
    pub value: Value,
    pub from: Provenance,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provenance {
    Default,
    /// The block `defaults`.
    Defaults(Origin),
    File(Origin),
    /// A flag of the command line, as it is typed.
    Flag(&'static str),
}

/// A place in a file; line and column from 1, the column in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub file: String,
    pub line: usize,
    pub column: usize,
}

/// Which of the keys are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// At most `most` of them after the first `from`.
    Page { from: usize, most: usize },
    /// Those of one service.
    Service(&'a str),
}

/// Every key of `config`, in the order of the reference page. `written` is what it was read from; `flags` are keys
/// that the command line set over it (`inbound.app`, `--app`).
///
/// Reads the file once more, for the places: not for the hot path.
pub fn effective(
    config: &Config,
    written: Option<Written<'_>>,
    flags: &[(&'static str, &'static str)],
) -> Vec<Setting> {
    effective_part(config, written, flags, Part::Page { from: 0, most: usize::MAX }).0
}

/// A part of what [`effective()`] tells, and how many keys there are to be told in all. Of a service that is not there
/// there are none.
pub fn effective_part(
    config: &Config,
    written: Option<Written<'_>>,
    flags: &[(&'static str, &'static str)],
    part: Part<'_>,
) -> (Vec<Setting>, usize) {
    let source = written.map(|written| written.text.strip_prefix('\u{feff}').unwrap_or(written.text));
    let tree = source.and_then(|source| Tree::read(source).ok()).unwrap_or_default();
    let (root, file) = (Scopes::new(&tree), written.map_or("", |written| written.name));
    let mut page = Page { file, flags, skipped: 0, left: usize::MAX, beyond: 0, settings: Vec::new() };
    match part {
        Part::Page { from, most } => {
            (page.skipped, page.left) = (from, most);
            FILE.tell(config, &root, &mut page);
        }
        Part::Service(name) => {
            let found = config.clusters.iter().find(|cluster| cluster.name == name);
            found.into_iter().for_each(|cluster| SERVICE.tell(cluster, &root.service(name), &mut page));
        }
    }
    let all = page.beyond + page.settings.len();
    (page.settings, all)
}

/// The settings while they are gathered.
pub(crate) struct Page<'a> {
    file: &'a str,
    flags: &'a [(&'static str, &'static str)],
    /// Keys that are passed over before the first one is told.
    skipped: usize,
    /// Keys that are told at most.
    left: usize,
    /// Keys that were not told, before or after those that were.
    beyond: usize,
    settings: Vec<Setting>,
}

impl Page<'_> {
    pub(crate) fn tell(&mut self, at: &Scopes<'_>, value: impl Into<Value>) {
        self.tell_as(at.key_text(), value, at);
    }

    /// A value that may also be written elsewhere: at `word`, which is then no block of keys.
    pub(crate) fn tell_or(&mut self, at: &Scopes<'_>, word: &Scopes<'_>, value: impl Into<Value>) {
        let written = if at.is_written() { at } else { &word.only_words() };
        self.tell_as(at.key_text(), value, written);
    }

    /// A list, item by item.
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

#[cfg(test)]
mod tests;
