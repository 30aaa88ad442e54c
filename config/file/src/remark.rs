//! What is told of a file: what could not be read, what was read and cannot be meant, what the model finds.

use pillion_model::{Severity, Trail};

use crate::fault::Fault;
use crate::place::{Position, Tree, subject};

/// Faults told at once of each kind; nobody reads further.
pub(crate) const MOST: usize = 100;

/// What is wrong with a value that was read.
#[derive(Debug)]
pub(crate) struct Remark {
    fault: Fault,
    /// The key itself is meant, not its value; then this is no echo of a fault in the value.
    is_of_key: bool,
}

impl Remark {
    pub(crate) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.fault.help = Some(help.into());
        self
    }

    /// It may be meant, and is hardly what the operator wants.
    pub(crate) fn warns(&mut self) -> &mut Self {
        self.fault.severity = Severity::Warning;
        self
    }

    /// It is about the key, not about its value.
    pub(crate) fn of_key(&mut self) -> &mut Self {
        self.is_of_key = true;
        self
    }
}

/// All that is told of a file.
#[derive(Debug, Default)]
pub(crate) struct Remarks {
    /// What could not be read.
    pub(crate) unread: Vec<Fault>,
    /// The same things, reached by another alias: told once, whatever they are a part of.
    unread_again: Vec<String>,
    list: Vec<Remark>,
    /// What a second reading of the same says: it is told already.
    untold: Option<Remark>,
    of_model: Vec<pillion_model::Fault>,
    /// Keys that lack something, which is told already: the model takes for empty what is not there.
    lacking: Vec<String>,
}

impl Remarks {
    pub(crate) fn add(&mut self, at: &Trail<'_>, place: Position, what: &str, is_muted: bool) -> &mut Remark {
        let path = at.path();
        let message = format!("{} {what}", subject(&path));
        let fault = Fault { path: path.to_string(), ..Fault::error(place, message, None) };
        let remark = Remark { fault, is_of_key: false };
        if is_muted {
            return self.untold.insert(remark);
        }
        self.list.push(remark);
        let last = self.list.len() - 1;
        &mut self.list[last]
    }

    /// Adds what could not be read, unless it is told already: an alias leads to the same place from many keys.
    pub(crate) fn add_unread(&mut self, fault: Fault, what: &str) {
        let is_same = |told: &Fault| {
            (told.line, told.column) == (fault.line, fault.column) && told.message.ends_with(what)
        };
        if !self.unread.iter().any(is_same) {
            self.unread.push(fault);
        } else if self.unread_again.len() < MOST {
            self.unread_again.push(fault.path);
        }
    }

    /// The keys that could not be read.
    fn unread_keys(&self) -> impl Iterator<Item = &String> + Clone {
        self.unread.iter().map(|fault| &fault.path).chain(&self.unread_again)
    }

    /// What the model finds wrong with this key is an echo of what is told already.
    pub(crate) fn lacks(&mut self, at: &Trail<'_>) {
        self.lacking.push(at.path().to_string());
    }

    /// Takes over a fault of the model, unless it comes from something that is not there or could not be read.
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

    /// All of it in the order of the file. Errors come before warnings where it is too much, and what is about a key in
    /// which something could not be read may be a mere echo, and is left out.
    pub(crate) fn into_faults(self, tree: &Tree) -> Vec<Fault> {
        let is_echo = |remark: &&Remark| {
            !remark.is_of_key && self.unread_keys().any(|unread| is_within(unread, &remark.fault.path))
        };
        let own = self.list.iter().filter(|remark| !is_echo(remark));
        let mut told: Vec<Finding> = own.map(|remark| Finding::Own(remark.fault.clone())).collect();
        let Self { unread: mut faults, of_model, .. } = self;
        told.extend(of_model.into_iter().map(Finding::OfModel));
        told.sort_by_key(|told| told.severity() == Severity::Warning);
        told.truncate(MOST);
        faults.extend(told.into_iter().map(|told| told.placed(tree)));
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

/// `services.orders.endpoints[1]` is within `services.orders`, not within `services.or`.
fn is_within(path: &str, block: &str) -> bool {
    path.strip_prefix(block).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remark_on_a_block_that_was_not_read_whole_is_an_echo() {
        let mut remarks = Remarks::default();
        let fault = |path: &str| Fault { path: path.into(), ..Fault::error(Position::START, "", None) };
        remarks.unread.push(fault("services.orders.endpoints[0]"));
        let root = Trail::root();
        let services = root.key("services");
        for name in ["orders", "web"] {
            let service = services.key(name);
            remarks.add(&service.key("endpoints"), Position::START, "is empty", false);
        }
        let told = remarks.into_faults(&Tree::default());
        let paths: Vec<_> = told.iter().map(|fault| fault.path.as_str()).collect();
        assert_eq!(paths, ["services.orders.endpoints[0]", "services.web.endpoints"]);
    }

    #[test]
    fn a_longer_name_is_not_within_a_shorter() {
        assert!(is_within("services.orders.tls", "services.orders"));
        assert!(!is_within("services.orders", "services.or"));
    }
}
