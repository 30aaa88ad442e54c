//! Collects all messages about a file: values that could not be read, values that cannot be meant, and the faults that
//! the model finds.

use pillion_model::{Severity, Trail};

use crate::fault::Fault;
use crate::place::{Position, Tree, subject};

/// The most messages of each kind; an operator does not read further.
pub(crate) const MOST: usize = 100;

/// A message about a value that was read.
#[derive(Debug)]
pub(crate) struct Remark {
    fault: Fault,
    /// Whether the message concerns the key itself. Then it is not caused by an unreadable value.
    is_of_key: bool,
}

impl Remark {
    pub(crate) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.fault.help = Some(help.into());
        self
    }

    /// Says that the message concerns the key and not its value.
    pub(crate) fn of_key(&mut self) -> &mut Self {
        self.is_of_key = true;
        self
    }
}

/// All messages about a file.
#[derive(Debug, Default)]
pub(crate) struct Remarks {
    /// Values that could not be read.
    pub(crate) unread: Vec<Fault>,
    /// Paths of unreadable values that another alias reached again: each value is reported once.
    unread_again: Vec<String>,
    list: Vec<Remark>,
    /// The last remark of a muted reading, which is not reported.
    muted: Option<Remark>,
    of_model: Vec<pillion_model::Fault>,
    /// Keys that are missing and have been reported. The model sees an empty value there and would report it too.
    lacking: Vec<String>,
}

impl Remarks {
    pub(crate) fn add(&mut self, at: &Trail<'_>, place: Position, what: &str, is_muted: bool) -> &mut Remark {
        let path = at.path();
        let message = format!("{} {what}", subject(&path));
        let fault = Fault { path: path.to_string(), ..Fault::error(place, message, None) };
        let remark = Remark { fault, is_of_key: false };
        if is_muted {
            return self.muted.insert(remark);
        }
        self.list.push(remark);
        let last = self.list.len() - 1;
        &mut self.list[last]
    }

    /// Adds a value that could not be read, unless it was reported: aliases can lead to one place from many keys.
    pub(crate) fn add_unread(&mut self, fault: Fault, what: &str) {
        let is_same = |known: &Fault| {
            (known.line, known.column) == (fault.line, fault.column) && known.message.ends_with(what)
        };
        if !self.unread.iter().any(is_same) {
            self.unread.push(fault);
        } else if self.unread_again.len() < MOST {
            self.unread_again.push(fault.path);
        }
    }

    /// The paths of the keys that could not be read.
    fn unread_keys(&self) -> impl Iterator<Item = &String> + Clone {
        self.unread.iter().map(|fault| &fault.path).chain(&self.unread_again)
    }

    /// Records that a key is missing and was reported, so that the model's fault about it is dropped.
    pub(crate) fn lacks(&mut self, at: &Trail<'_>) {
        self.lacking.push(at.path().to_string());
    }

    /// Adds a fault of the model, unless a missing or unreadable key may be its cause.
    pub(crate) fn add_fault(&mut self, fault: pillion_model::Fault) {
        let is_related = |key: &str, to: &str| is_within(key, to) || is_within(to, key);
        let text = fault.path.to_string();
        let unknown = || self.unread_keys().chain(&self.lacking);
        let cause = fault.depends_on.as_ref().map(ToString::to_string);
        let is_echo = self.unread_keys().any(|path| is_within(path, &text))
            || self.lacking.iter().any(|key| is_related(key, &text))
            || cause.is_some_and(|cause| unknown().any(|key| is_related(key, &cause)));
        if !is_echo {
            self.of_model.push(fault);
        }
    }

    /// All messages in the order of the file. If there are too many, errors come before warnings. A message about a
    /// block in which something could not be read is dropped, because that may be its only cause.
    pub(crate) fn into_faults(self, tree: &Tree) -> Vec<Fault> {
        let is_echo = |remark: &&Remark| {
            !remark.is_of_key && self.unread_keys().any(|unread| is_within(unread, &remark.fault.path))
        };
        let own = self.list.iter().filter(|remark| !is_echo(remark));
        let mut findings: Vec<Finding> = own.map(|remark| Finding::Own(remark.fault.clone())).collect();
        let Self { unread: mut faults, of_model, .. } = self;
        findings.extend(of_model.into_iter().map(Finding::OfModel));
        findings.sort_by_key(|finding| finding.severity() == Severity::Warning);
        findings.truncate(MOST);
        faults.extend(findings.into_iter().map(|finding| finding.placed(tree)));
        faults.sort_by_key(|fault| (fault.line, fault.column));
        faults
    }
}

enum Finding {
    Own(Fault),
    OfModel(pillion_model::Fault),
}

impl Finding {
    fn severity(&self) -> Severity {
        match self {
            Self::Own(fault) => fault.severity,
            Self::OfModel(fault) => fault.severity,
        }
    }

    fn placed(self, tree: &Tree) -> Fault {
        match self {
            Self::Own(fault) => fault,
            Self::OfModel(fault) => {
                let mut path = fault.path;
                let Position { line, column } = tree.locate(&mut path);
                let message = format!("{} {}", subject(&path), fault.what);
                Fault {
                    severity: fault.severity,
                    path: path.to_string(),
                    line,
                    column,
                    message,
                    help: fault.help,
                }
            }
        }
    }
}

/// Whether `path` is `block` or lies in it: `services.orders.endpoints[1]` is within `services.orders`, not within
/// `services.or`.
fn is_within(path: &str, block: &str) -> bool {
    path.strip_prefix(block).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remark_on_a_block_with_an_unreadable_part_is_dropped() {
        let mut remarks = Remarks::default();
        let fault = |path: &str| Fault { path: path.into(), ..Fault::error(Position::START, "", None) };
        remarks.unread.push(fault("services.orders.endpoints[0]"));
        let root = Trail::root();
        let services = root.key("services");
        for name in ["orders", "web"] {
            let service = services.key(name);
            remarks.add(&service.key("endpoints"), Position::START, "is empty", false);
        }
        let faults = remarks.into_faults(&Tree::default());
        let paths: Vec<_> = faults.iter().map(|fault| fault.path.as_str()).collect();
        assert_eq!(paths, ["services.orders.endpoints[0]", "services.web.endpoints"]);
    }

    #[test]
    fn a_longer_name_is_not_within_a_shorter() {
        assert!(is_within("services.orders.tls", "services.orders"));
        assert!(!is_within("services.orders", "services.or"));
    }
}
