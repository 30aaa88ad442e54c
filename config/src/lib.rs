//! The operator's words, checked.
//!
//! [`Config`] is what the proxy runs on: typed, complete, every default filled in. It knows nothing
//! of YAML or of how the file spells things, so that an Envoy bootstrap, xDS or Kubernetes can feed
//! the same model later.
//!
//! [`effective()`] tells a configuration back, with where each value came from.
//!
//! The life of a file: `load` guards the door (size, UTF-8, nesting) · `file` is what was typed, every key
//! known by name, its leaves checked by `value` and `words`, its unions by `shape` · what serde_yaml does
//! not let through, or holds a dollar, is read again by `salvage` from the tree of `place`, which kept where each
//! key stands, its texts with their variables replaced by `variable` · `check` fills in the defaults and looks at what needs two keys at once · each [`Fault`] gets its place.
//!
//! Deliberately absent: network IO, clocks, tokio. Nothing here opens a file but [`load()`], and
//! nothing reads the environment but it and [`parse()`].

pub mod cluster;
pub mod identity;
pub mod listener;
pub mod policy;
pub mod route;
pub mod telemetry;

mod check;
mod effective;
mod fault;
mod file;
mod load;
mod place;
mod salvage;
mod schema;
mod shape;
mod value;
mod variable;
mod words;

use std::num::NonZeroUsize;

pub use cluster::Cluster;
pub use effective::{Origin, Provenance, Setting, Written, effective};
pub use fault::{Errors, Fault, Severity};
pub use identity::SpiffeId;
pub use listener::{Inbound, Outbound};
pub use load::{effective_in, load, parse, parse_with};
pub use route::Route;
pub use schema::schema;

/// Everything a sidecar is told, checked and complete.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub workload: Workload,
    /// `None`: plaintext on both sides.
    pub identity: Option<identity::Source>,
    pub tls: identity::TlsPolicy,
    /// `None`: `inbound: off`.
    pub inbound: Option<Inbound>,
    /// `None`: `outbound: off`.
    pub outbound: Option<Outbound>,
    /// What the application calls, in the order of the file. Names are unique.
    pub clusters: Vec<Cluster>,
    /// In the order of the file: the first match wins.
    pub routes: Vec<Route>,
    pub admin: telemetry::Admin,
    /// `None`: `metrics: off`.
    pub metrics: Option<telemetry::Metrics>,
    /// `None`: no access log.
    pub access_log: Option<telemetry::AccessLog>,
    pub drain: listener::Drain,
    pub limits: listener::DownstreamLimits,
    /// Threads of the data path. `None`: from the CPU quota of the cgroup.
    pub workers: Option<NonZeroUsize>,
}

/// Labels for metrics and logs. What is left out is taken from the certificate's SPIFFE ID
/// (`…/ns/NAMESPACE/sa/NAME`) where it has that shape.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Workload {
    pub name: Option<String>,
    pub namespace: Option<String>,
    pub zone: Option<String>,
}
