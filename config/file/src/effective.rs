//! The effective configuration: every key of a [`Config`] with its value as the file would spell it, and the origin of
//! the value.
//!
//! This is for people who inspect a running sidecar. It holds no secrets: keys name the paths of secret files, and
//! those files are never read here. Values of environment variables are shown, because no key of this file holds a
//! secret. A key that could hold one must be left out here.

mod origin;

use std::fmt;

use serde_json::Value;

use crate::keys::{FILE, SERVICE};
use crate::place::Tree;
pub(crate) use origin::Scopes;
use pillion_model::Config;

/// The file from which a configuration was read.
#[derive(Debug, Clone, Copy)]
pub struct Written<'a> {
    /// The name of the file, as origins show it.
    pub name: &'a str,
    pub text: &'a str,
}

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

/// Which keys a caller wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// At most `most` keys, after the first `from` keys.
    Page { from: usize, most: usize },
    /// The keys of one service.
    Service(&'a str),
}

/// Every key of `config`, in the order of the reference page. `written` is the file from which it was read. `flags` are
/// pairs of a key that the command line set and its flag (`inbound.app`, `--app`).
///
/// This parses the file again to find the origins, so it must not run on a hot path.
pub fn effective(
    config: &Config,
    written: Option<Written<'_>>,
    flags: &[(&'static str, &'static str)],
) -> Vec<Setting> {
    effective_part(config, written, flags, Part::Page { from: 0, most: usize::MAX }).0
}

/// A part of the settings of [`effective()`], and the total number of settings. A service that does not exist has none.
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

impl Page<'_> {
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

#[cfg(test)]
mod tests;
