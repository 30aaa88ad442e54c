//! The redirect rules of a pod's network namespace: what they are, and how they come and go.
//!
//! The sidecar's half of the agreement is the constants below. What the rules are is a pure function ([`rules()`]);
//! how `nft` and iptables say them is `nft` and `iptables`; what is in the namespace and what shall be is a `State`
//! each, and what runs is the difference of both. Deliberately absent: sockets, and the sidecar itself.
//!
//! Modules are listed from top to bottom: each may use those below it.

mod apply;
mod found;
mod lock;
mod error;
mod state;
mod iptables;
mod made;
mod nft;
mod rules;
mod flags;
mod options;
mod step;
mod machine;
mod words;

pub use apply::{Report, install, plan, plan_undo, undo};
pub use error::{Error, FailedRuleSet};
pub use flags::Flags;
pub use options::{Backend, Mode, Networks, Options, Ports, port};
pub use rules::{RuleSet, rules};
pub use step::FailedStep;
pub use words::{Cidr, Interface, Wrong};

use std::net::{Ipv4Addr, Ipv6Addr};

/// From here the sidecar dials the application at the pod's own address, and the rules leave the connection alone:
/// from any other address it would be the pod calling itself, and belong to the inbound port. Istio's choice too.
pub const SELF_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
/// The same over IPv6. IPv6 has one loopback address only, so the rules come with this one on `lo`.
pub const SELF_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// What TPROXY marks packets with, and the sidecar its connections from a client's address to the application.
pub const MARK: u32 = 1337;

/// The routing table for what is marked. Istio's number.
pub(crate) const ROUTING_TABLE: u32 = 133;

/// Addresses that services without one get from the DNS proxy; always captured. From 240.0.0.0/4, which RFC 1112
/// reserves and nobody routes.
pub const VIRTUAL_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(240, 240, 0, 0), 16);
/// Such addresses of IPv6: a unique local network (RFC 4193).
pub const VIRTUAL_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd9f, 0x240, 0, 0, 0, 0, 0, 0), 64);

#[cfg(test)]
mod tests;
