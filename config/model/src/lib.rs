//! The configuration of a sidecar, checked: the model into which every source of configuration is translated.
//!
//! [`Config`] is what the proxy runs on: typed and complete, with every default filled in. It does not know YAML or the
//! spelling of any source. Today the file is the only source (`pillion-config`); an Envoy bootstrap, xDS and Kubernetes
//! can be translated to the same model later.
//!
//! Deliberately absent: IO, clocks, tokio, serde, and any question of how something was written.
//!
//! Modules are listed from top to bottom: each may use those below it.

mod validate;
mod reason;
pub mod dns;
pub mod telemetry;
pub mod sync;
pub mod logs;
pub mod tracing;
pub mod access_format;
pub mod listener;
pub mod authorization;
pub mod route;
pub mod pattern;
pub mod cluster;
pub mod policy;
pub mod endpoint;
pub mod identity;
mod direction;
pub mod fault;
pub mod path;
mod authority;
pub mod text;

use std::num::NonZeroUsize;

pub use authorization::Authorization;
pub use cluster::Cluster;
pub use direction::Direction;
pub use dns::Dns;
pub use endpoint::{Endpoint, EndpointUpdate};
pub use fault::{Fault, Faults, Severity};
pub use identity::SpiffeId;
pub use listener::{Inbound, Outbound};
pub use path::{Path, PathStep, Trail};
pub use pattern::Pattern;
pub use reason::Reason;
pub use route::Route;
pub use validate::{Side, reserved, validate, validate_cluster};

/// The whole configuration of a sidecar, checked and complete.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub workload: Workload,
    /// `None`: plaintext on both sides.
    pub identity: Option<identity::Identity>,
    pub tls: identity::TlsPolicy,
    /// `None`: `inbound: off`.
    pub inbound: Option<Inbound>,
    /// `None`: `outbound: off`.
    pub outbound: Option<Outbound>,
    /// The services that the application calls, in the order of the file. Names are unique.
    pub clusters: Vec<Cluster>,
    /// The routes in the order of the file: the first match wins.
    pub routes: Vec<Route>,
    /// `None`: no DNS proxy.
    pub dns: Option<dns::Dns>,
    pub admin: telemetry::Admin,
    /// `None`: `metrics: off`.
    pub metrics: Option<telemetry::Metrics>,
    /// `None`: no traces, and their headers pass through as they are.
    pub tracing: Option<tracing::Tracing>,
    /// Files that are kept as a source has them, in the order of the file. Names are unique.
    pub sync: Vec<sync::Sync>,
    /// `None`: no files are shipped.
    pub logs: Option<logs::Logs>,
    /// `None`: no timelines are kept.
    pub explain: Option<telemetry::Explain>,
    /// `None`: no access log.
    pub access_log: Option<telemetry::AccessLog>,
    pub drain: listener::Drain,
    pub limits: listener::DownstreamLimits,
    /// Threads of the data path. `None`: as many as the CPU quota of the cgroup allows.
    pub workers: Option<NonZeroUsize>,
}

/// The built-in defaults: no identity, both sides, no services.
impl Default for Config {
    fn default() -> Self {
        Self {
            workload: Workload::default(),
            identity: None,
            tls: identity::TlsPolicy::default(),
            inbound: Some(Inbound::default()),
            outbound: Some(Outbound::default()),
            clusters: Vec::new(),
            routes: Vec::new(),
            dns: None,
            admin: telemetry::Admin::default(),
            metrics: Some(telemetry::Metrics::default()),
            tracing: None,
            sync: Vec::new(),
            logs: None,
            explain: Some(telemetry::Explain::default()),
            access_log: None,
            drain: listener::Drain::default(),
            limits: listener::DownstreamLimits::default(),
            workers: None,
        }
    }
}

/// The workload beside which this sidecar runs. Every line of the access log names it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Workload {
    pub name: Option<String>,
    pub namespace: Option<String>,
    pub zone: Option<String>,
}

impl Workload {
    /// Takes a missing name and namespace from the certificate's SPIFFE ID where that ends in `/ns/NAMESPACE/sa/NAME`.
    #[must_use]
    pub fn or_of(&self, id: Option<&SpiffeId>) -> Self {
        let mut segments = id.map_or("", SpiffeId::path).rsplit('/');
        let mut next = || segments.next();
        let (namespace, name) = match [next(), next(), next(), next()] {
            [Some(name), Some("sa"), Some(namespace), Some("ns")] => (Some(namespace), Some(name)),
            _ => (None, None),
        };
        Self {
            name: self.name.clone().or_else(|| name.map(str::to_owned)),
            namespace: self.namespace.clone().or_else(|| namespace.map(str::to_owned)),
            zone: self.zone.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_names_the_workload_and_the_identity_fills_the_gaps() {
        let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/orders".parse().unwrap();
        let named = |name: Option<&str>, namespace: Option<&str>| Workload {
            name: name.map(str::to_owned),
            namespace: namespace.map(str::to_owned),
            zone: None,
        };
        assert_eq!(Workload::default().or_of(Some(&id)), named(Some("orders"), Some("shop")));
        assert_eq!(named(Some("web"), None).or_of(Some(&id)), named(Some("web"), Some("shop")));
        let other: SpiffeId = "spiffe://cluster.local/region/eu/web".parse().unwrap();
        assert_eq!(Workload::default().or_of(Some(&other)), Workload::default());
        assert_eq!(Workload::default().or_of(None), Workload::default());
    }
}
