//! Endpoints: the addresses of a cluster, in the form that every source of endpoints uses.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

/// One address of a cluster, with everything that a source can tell about it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The address to connect to. The port is not 0.
    pub address: SocketAddr,
    /// The endpoint's share of the traffic relative to others, from 1 to 1,000,000. The limit keeps the sum of any list
    /// of weights within 64 bits. Default 1.
    pub weight: NonZeroU32,
    /// The zone in which the endpoint runs. Default `None`: not known. Endpoints of one zone share one string.
    pub zone: Option<Arc<str>>,
    /// Whether the endpoint is near this sidecar. Default: its zone decides.
    pub nearness: Nearness,
    /// Endpoints with priority 0, the default, are used first. A higher number is used once lower ones cannot carry the
    /// load.
    pub priority: u32,
    /// The health that the source reports. What the proxy observes itself is kept elsewhere.
    pub health: Health,
    /// Further properties from the source, by name, for subsets and for people. Default `None`, as most endpoints have
    /// none.
    pub metadata: Option<Arc<Metadata>>,
}

/// Names and values, sorted by name.
pub type Metadata = std::collections::BTreeMap<String, String>;

impl Endpoint {
    /// An endpoint of which only the address is known.
    pub const fn at(address: SocketAddr) -> Self {
        Self {
            address,
            weight: NonZeroU32::MIN,
            zone: None,
            nearness: Nearness::ByZone,
            priority: 0,
            health: Health::Unknown,
            metadata: None,
        }
    }
}

/// Whether an endpoint is preferred because it is near.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Nearness {
    /// It is if it runs in the zone of this sidecar.
    #[default]
    ByZone,
    /// The source says that it is, whatever its zone is: a topology hint of Kubernetes.
    Near,
    /// The source says that it is not.
    Far,
}

/// The health of an endpoint as its source reports it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Health {
    /// The source reports no health. The endpoint is used.
    #[default]
    Unknown,
    /// The endpoint is ready.
    Healthy,
    /// The endpoint is not ready: it gets no traffic while another endpoint is ready.
    Unhealthy,
    /// The endpoint is about to stop: it gets no new requests, and requests in progress complete.
    Draining,
}

/// The complete list of a cluster's endpoints from now on. Every source (the file, DNS, Kubernetes, later xDS)
/// reports a change in this form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointUpdate {
    /// The name of the cluster.
    pub cluster: Arc<str>,
    /// The endpoints in the order of the source.
    pub endpoints: Arc<[Endpoint]>,
    /// Why there are no endpoints; clients of the cluster see this text. `None`: there are endpoints, or the operator
    /// listed none.
    pub problem: Option<Problem>,
}

/// Why a cluster has no endpoints. The kind decides the CODE that clients get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// A name in DNS could not be looked up, or has no addresses.
    Dns(Arc<str>),
    /// Another source has none.
    None(Arc<str>),
}

impl Problem {
    pub fn text(&self) -> &str {
        match self {
            Self::Dns(why) | Self::None(why) => why,
        }
    }
}

impl EndpointUpdate {
    /// An update that says: these are the endpoints of `cluster`.
    pub fn known(cluster: impl Into<Arc<str>>, endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        Self { cluster: cluster.into(), endpoints: endpoints.into_iter().collect(), problem: None }
    }

    /// An update that says: `cluster` has no endpoints, for the reason `why`.
    pub fn none(cluster: impl Into<Arc<str>>, why: Problem) -> Self {
        Self { cluster: cluster.into(), endpoints: Arc::default(), problem: Some(why) }
    }
}
