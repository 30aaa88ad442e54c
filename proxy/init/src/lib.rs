//! The redirect rules of a pod's network namespace: their content, their installation and their removal.
//!
//! The constants below are what the sidecar must know of the rules. The rules themselves are a pure function of the
//! options ([`rules()`]); `nft` and `iptables` write them in the languages of these programs. A `State` is what is in
//! the namespace, or what shall be there; the commands to run are the difference of two states. Deliberately absent:
//! sockets, and the sidecar itself.

mod apply;
mod found;
mod redirects;
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
pub use redirects::{Redirects, redirects};
pub use rules::{RuleSet, rules};
pub use step::FailedStep;
pub use words::{Cidr, Interface, Wrong};

use std::net::{Ipv4Addr, Ipv6Addr};

/// The address from which the sidecar connects to the application at the pod's own address. The rules do not capture
/// connections from it. From any other local address the pod would be calling itself, and the connection would belong
/// to the inbound port. Istio uses this address too.
pub const SELF_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
/// The IPv6 address for the same purpose. IPv6 has only one loopback address, so the rules add this one to `lo`.
pub const SELF_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// The mark that TPROXY sets on packets, and that the sidecar sets on its connections to the application that have a
/// client's address.
pub const MARK: u32 = 1337;

/// The routing table for marked packets. Istio uses the same number.
pub(crate) const ROUTING_TABLE: u32 = 133;

/// Virtual addresses, which the DNS proxy gives to services without an address. They are always captured. They are part
/// of 240.0.0.0/4, which RFC 1112 reserves and which is not routed anywhere.
pub const VIRTUAL_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(240, 240, 0, 0), 16);
/// Virtual addresses for IPv6: a unique local network (RFC 4193).
pub const VIRTUAL_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd9f, 0x240, 0, 0, 0, 0, 0, 0), 64);

#[cfg(test)]
mod tests;
