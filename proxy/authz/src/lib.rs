//! Decides which rule of `inbound.authorization` applies to a request or to an opaque connection, and verifies the tokens
//! whose claims rules may name ([`token`]).
//!
//! Pure: [`Facts`] in, [`Verdict`] out. A matching deny rule wins, then a matching allow rule, then the default. Of
//! several matching rules, the first one in the file is named.
//!
//! # Where facts are missing or have several readings
//! An allow rule matches only what certainly fits, and a deny rule matches what might fit. So a path must fit an allow
//! rule in all its readings ([`JudgedPath`]) and a deny rule in one of them. A header fits a deny rule by one of its
//! values, by a member of a list, or by the list of all of them. What an opaque connection does not have
//! (methods, paths, hosts, headers) never fits an allow rule, and does not keep a deny rule from matching. `not` works
//! the other way round, because it takes away from its rule. `from` alone never fits a peer without an identity, and
//! `claims` never fit a request without a verified token.
//!
//! # Cost
//! Rules are indexed ([`index`]): by the peers that they name, and within these by their paths. All rules that name the
//! same peer, or none, and no path are tried one by one; so are the deny rules of a peer for opaque connections, and the
//! values of all other conditions. A decision allocates nothing, except to join the values of a header that came several
//! times, for deny rules.
//!
//! Deliberately absent: IO, clocks, metrics, and what happens after a verdict.
//!
//! Modules are listed from top to bottom: each may use those below it.

mod index;
pub mod token;
pub mod keys;
mod claims;
mod rule;

use std::collections::HashSet;
use std::net::IpAddr;

pub use claims::Claims;
use index::Index;
use pillion_model::SpiffeId;
use pillion_model::authorization::path::JudgedPath;
use pillion_model::authorization::{Action, Authorization, Rule};
use rule::{Compiled, Found};
pub use rule::{MOST_MEMBERS, Misfit};

/// What is known of a request or of an opaque connection.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The verified identity.
    pub peer: Option<&'a SpiffeId>,
    pub source: IpAddr,
    /// The application's port.
    pub port: u16,
    /// `None`: an opaque connection.
    pub request: Option<Asked<'a>>,
}

/// What only requests have.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub method: &'a str,
    /// `None`: the request has no path (CONNECT, `OPTIONS *`).
    pub path: Option<&'a JudgedPath<'a>>,
    /// The host's name and its port, where the request names them.
    pub host: Option<(&'a str, Option<u16>)>,
    pub headers: &'a dyn Headers,
    /// What a verified token says. `None`: there is no such token.
    pub claims: Option<&'a Claims>,
}

/// The headers of a request.
pub trait Headers {
    /// Calls `each` with every value that an application may read as one of this header, and whether every application
    /// does. `name` is in lower case.
    fn values(&self, name: &str, each: &mut dyn FnMut(&[u8], bool));
}

/// What happens to a request or a connection, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub action: Action,
    /// The number of the rule that decided, in the order of the file. `None`: no rule matched.
    pub rule: Option<usize>,
}

/// The compiled rules.
pub struct Engine {
    rules: Box<[Compiled]>,
    index: Index,
    default: Action,
    /// Those with rules that name paths.
    path_ports: Ports,
    /// Those with rules that only requests can fit.
    http_ports: Ports,
}

/// The ports for which there are rules of one kind.
enum Ports {
    All,
    Some(HashSet<u16>),
}

impl Ports {
    fn of<'a>(rules: impl Iterator<Item = &'a Rule>) -> Self {
        let mut ports = HashSet::new();
        for rule in rules {
            if rule.when.ports.is_empty() {
                return Self::All;
            }
            ports.extend(&rule.when.ports);
        }
        Self::Some(ports)
    }

    fn contains(&self, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Some(ports) => ports.contains(&port),
        }
    }
}

impl Engine {
    pub fn new(of: &Authorization) -> Self {
        let rules: Box<[Compiled]> = of.rules.iter().map(Compiled::new).collect();
        Self {
            index: Index::of(&rules),
            default: of.default,
            path_ports: Ports::of(of.rules.iter().filter(|rule| rule.names_paths())),
            http_ports: Ports::of(of.rules.iter().filter(|rule| rule.needs_http())),
            rules,
        }
    }

    /// Whether a rule for this port names a path. Then every path is judged, and forwarded as it was judged.
    pub fn names_paths(&self, port: u16) -> bool {
        self.path_ports.contains(port)
    }

    /// Whether there are rules for this port that only requests can fit.
    pub fn has_rules_for_http(&self, port: u16) -> bool {
        self.http_ports.contains(port)
    }

    /// For each rule, in the order of the file, the first condition that does not fit; `None`: it fits. [`Self::judge`] says
    /// which of those that fit decides.
    pub fn misfits<'a>(&'a self, facts: &Facts<'_>) -> impl Iterator<Item = Option<Misfit<'a>>> {
        self.rules.iter().map(|rule| rule.misfit(facts))
    }

    pub fn judge(&self, facts: &Facts<'_>) -> Verdict {
        let fits =
            |nth: u32, found: Found| self.rules.get(nth as usize).is_some_and(|rule| rule.fits(facts, found));
        let (mut denied, mut allowed) = (None, None);
        for bucket in self.index.buckets(facts.peer) {
            bucket.deny.first(facts.request.as_ref(), &mut denied, fits);
            if denied.is_none() {
                bucket.allow.first(facts.request.as_ref(), &mut allowed, fits);
            }
        }
        let verdict = |action, rule: u32| Verdict { action, rule: Some(rule as usize) };
        match (denied, allowed) {
            (Some(rule), _) => verdict(Action::Deny, rule),
            (None, Some(rule)) => verdict(Action::Allow, rule),
            (None, None) => Verdict { action: self.default, rule: None },
        }
    }
}
