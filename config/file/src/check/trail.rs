//! Remarks on keys, gathered until all is looked at, and the trails that lead to the keys.

use crate::fault::{Fault, Severity};
use crate::place::{Path, Step, Tree};
use crate::salvage::MOST;
use crate::shape::{NotYet, OffOnly};

/// The way to a key from the root; lives on the stack of the functions that walk it.
#[derive(Clone, Copy)]
pub(crate) struct Trail<'a> {
    before: Option<&'a Self>,
    last: Last<'a>,
}

#[derive(Clone, Copy)]
enum Last<'a> {
    Root,
    Key(&'a str),
    Index(usize),
}

impl<'a> Trail<'a> {
    pub(crate) fn root() -> Self {
        Self { before: None, last: Last::Root }
    }

    pub(crate) fn key(&'a self, key: &'a str) -> Self {
        Self { before: Some(self), last: Last::Key(key) }
    }

    pub(crate) fn index(&'a self, index: usize) -> Self {
        Self { before: Some(self), last: Last::Index(index) }
    }

    pub(crate) fn path(&self) -> Path {
        let mut path = self.before.map(Trail::path).unwrap_or_default();
        path.0.extend(match self.last {
            Last::Root => None,
            Last::Key(key) => Some(Step::Key(key.to_owned())),
            Last::Index(index) => Some(Step::Index(index)),
        });
        path
    }
}

/// What is wrong, or odd, about a key; not yet placed in the file.
#[derive(Debug)]
pub(crate) struct Remark {
    severity: Severity,
    path: Path,
    /// The key itself is meant, not its value; then this is no echo of a fault in the value.
    at_key: bool,
    /// A predicate, to be read after the path.
    what: String,
    help: Option<String>,
}

impl Remark {
    pub(crate) fn help(&mut self, help: impl Into<String>) {
        self.help = Some(help.into());
    }

    /// It stands at the key, not at its value.
    pub(crate) fn of_key(&mut self) -> &mut Self {
        self.at_key = true;
        self
    }

    pub(crate) fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    pub(crate) fn path(&self) -> &[Step] {
        &self.path.0
    }

    pub(crate) fn moved_to(self, path: Path) -> Self {
        Self { path, ..self }
    }

    pub(crate) fn said_of(self, whom: &str) -> Self {
        Self { what: format!("{} ({whom})", self.what), ..self }
    }

    /// The key of `service` that it is about meets what stands at `path`.
    pub(crate) fn met_at(self, path: Path, service: &str, key: &[Step]) -> Self {
        let key = Path(key.to_vec());
        Self { path, what: format!("meets service {service}, whose `{key}` {}", self.what), ..self }
    }

    /// What tells two remarks apart.
    pub(crate) fn words(&self) -> (String, String) {
        (self.path.to_string(), self.what.clone())
    }

    pub(crate) fn placed(self, tree: &Tree) -> Fault {
        let mut path = self.path;
        let found = tree.locate(&mut path);
        let place = if self.at_key { found.key } else { found.value };
        Fault {
            severity: self.severity,
            path: path.to_string(),
            line: place.line,
            column: place.column,
            message: format!("{} {}", path.subject(), self.what),
            help: self.help,
        }
    }
}

/// All remarks on a file.
pub(crate) struct Remarks {
    list: Vec<Remark>,
    unread: Vec<String>,
}

impl Remarks {
    pub(crate) fn new(unread: Vec<String>) -> Self {
        Self { list: Vec::new(), unread }
    }

    pub(crate) fn error(&mut self, at: &Trail<'_>, what: impl Into<String>) -> &mut Remark {
        self.add(Severity::Error, at, what.into())
    }

    pub(crate) fn warn(&mut self, at: &Trail<'_>, what: impl Into<String>) -> &mut Remark {
        self.add(Severity::Warning, at, what.into())
    }

    fn add(&mut self, severity: Severity, at: &Trail<'_>, what: String) -> &mut Remark {
        self.list.push(Remark { severity, path: at.path(), at_key: false, what, help: None });
        let last = self.list.len() - 1;
        &mut self.list[last]
    }

    /// What is remarked meanwhile, apart from the rest.
    pub(crate) fn aside<T>(&mut self, check: impl FnOnce(&mut Self) -> T) -> (T, Vec<Remark>) {
        let before = std::mem::take(&mut self.list);
        let checked = check(self);
        (checked, std::mem::replace(&mut self.list, before))
    }

    pub(crate) fn push(&mut self, remark: Remark) {
        self.list.push(remark);
    }

    /// A known key whose feature is not built.
    pub(crate) fn not_yet(&mut self, at: &Trail<'_>, key: &Option<NotYet>) {
        if key.is_some() {
            self.error(at, "is not supported yet").of_key();
        }
    }

    /// The same, where `off` or nothing asks for nothing.
    pub(crate) fn unless_off(&mut self, at: &Trail<'_>, key: &Option<OffOnly>) {
        if let Some(OffOnly::Asked) = key {
            self.not_yet(at, &Some(NotYet));
        }
    }

    /// Whether something in this key, or the key itself, could not be read.
    pub(crate) fn is_unread(&self, path: &str) -> bool {
        self.unread.iter().any(|unread| is_within(unread, path))
    }

    /// Whether the whole of this key could not be read.
    pub(crate) fn is_missing(&self, path: &str) -> bool {
        self.unread.iter().any(|unread| unread == path)
    }

    /// Errors first, and no more than anybody reads: each is looked for in the file and shown with its line.
    /// Without those that are about a key in which something was not read: they may be mere echoes.
    pub(crate) fn into_list(self) -> Vec<Remark> {
        let Self { mut list, unread } = self;
        list.retain(|remark| {
            remark.at_key || !unread.iter().any(|path| is_within(path, &remark.path.to_string()))
        });
        list.sort_by_key(|remark| remark.severity == Severity::Warning);
        list.truncate(MOST);
        list
    }
}

/// `services.orders.endpoints[1]` is within `services.orders`, not within `services.or`.
fn is_within(path: &str, block: &str) -> bool {
    path.strip_prefix(block).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remark_on_a_block_that_was_not_read_whole_is_an_echo() {
        let mut remarks = Remarks::new(vec!["services.orders.endpoints[0]".into()]);
        let root = Trail::root();
        let services = root.key("services");
        let (orders, web) = (services.key("orders"), services.key("web"));
        remarks.error(&orders.key("endpoints"), "is empty");
        remarks.error(&web.key("endpoints"), "is empty");
        let left: Vec<_> = remarks.into_list().iter().map(|remark| remark.path.to_string()).collect();
        assert_eq!(left, ["services.web.endpoints"]);
    }

    #[test]
    fn a_longer_name_is_not_within_a_shorter() {
        assert!(is_within("services.orders.tls", "services.orders"));
        assert!(!is_within("services.orders", "services.or"));
    }
}
