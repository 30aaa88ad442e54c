//! Remarks on keys, gathered until all is looked at, and the trails that lead to the keys.

use pillion_model::{Path, Severity, Step, Trail};

use crate::fault::Fault;
use crate::place::{Tree, subject};
use crate::salvage::MOST;
use crate::shape::{NotYet, OffOnly};

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
            message: format!("{} {}", subject(&path), self.what),
            help: self.help,
        }
    }
}

/// All remarks on a file.
pub(crate) struct Remarks {
    list: Vec<Remark>,
    /// Keys whose values could not be read.
    unread: Vec<String>,
    /// Keys that lack something, which is told already: the model takes for empty what is not there.
    lacking: Vec<String>,
}

impl Remarks {
    pub(crate) fn new(unread: Vec<String>) -> Self {
        Self { list: Vec::new(), unread, lacking: Vec::new() }
    }

    /// What the model finds wrong with this key is an echo of what is told already.
    pub(crate) fn lacks(&mut self, at: &Trail<'_>) {
        self.lacking.push(at.path().to_string());
    }

    /// Takes over a fault of the model, unless it comes from something that could not be read.
    pub(crate) fn add_fault(&mut self, fault: pillion_model::Fault) {
        let pillion_model::Fault { severity, path, what, help, depends_on } = fault;
        let is_related = |key: &str, to: &str| is_within(key, to) || is_within(to, key);
        let unknown = || self.unread.iter().chain(&self.lacking);
        let text = path.to_string();
        let cause = depends_on.map(|path| path.to_string());
        if self.lacking.iter().any(|key| is_related(key, &text))
            || cause.is_some_and(|cause| unknown().any(|key| is_related(key, &cause)))
        {
            return;
        }
        self.list.push(Remark { severity, path, at_key: false, what, help });
    }

    pub(crate) fn error(&mut self, at: &Trail<'_>, what: impl Into<String>) -> &mut Remark {
        self.add(Severity::Error, at, what.into())
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

    /// Errors first, and no more than anybody reads: each is looked for in the file and shown with its line.
    /// Without those that are about a key in which something was not read: they may be mere echoes.
    pub(crate) fn into_list(self) -> Vec<Remark> {
        let Self { mut list, unread, lacking: _ } = self;
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
