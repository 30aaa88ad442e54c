//! Endpoints: where a cluster runs, whoever says so.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

/// One address of a cluster, with all that a source can say of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Where it is dialled; the port is not 0.
    pub address: SocketAddr,
    /// How much of the traffic it gets beside others, from 1 to a million: the weights of any list still add up in 64
    /// bits with room to spare. Default 1.
    pub weight: NonZeroU32,
    /// The zone that it runs in. Default `None`: not known. Endpoints of one zone share one text.
    pub zone: Option<Arc<str>>,
    /// 0, the default, is used first; a higher one once the lower ones cannot carry the load.
    pub priority: u32,
    /// What its source says of its health. What the proxy finds out itself stands elsewhere.
    pub health: Health,
    /// Further words of its source, by name, for subsets and for people. Default `None`: most have none.
    pub metadata: Option<Arc<Metadata>>,
}

/// Names and values in the order of the names.
pub type Metadata = std::collections::BTreeMap<String, String>;

impl Endpoint {
    /// An endpoint of which only the address is known.
    pub const fn at(address: SocketAddr) -> Self {
        Self {
            address,
            weight: NonZeroU32::MIN,
            zone: None,
            priority: 0,
            health: Health::Unknown,
            metadata: None,
        }
    }
}

/// What a source says of an endpoint's health.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Health {
    /// Nothing; it is used.
    #[default]
    Unknown,
    /// It is ready.
    Healthy,
    /// It is not ready, and gets no traffic while another is.
    Unhealthy,
    /// It is leaving: it gets nothing new, and what it has begun ends in peace.
    Draining,
}

/// The endpoints of one cluster, all of them, as they are from now on. Every source says a change in this form: the
/// file, DNS, later Kubernetes and xDS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointUpdate {
    /// The name of the cluster.
    pub cluster: Arc<str>,
    /// In the order of the source.
    pub endpoints: Arc<[Endpoint]>,
    /// Why there are none, for the callers of the cluster. `None`: they are known, or the operator wrote none.
    pub problem: Option<Arc<str>>,
}

impl EndpointUpdate {
    /// These are the endpoints of `cluster`.
    pub fn known(cluster: impl Into<Arc<str>>, endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        Self { cluster: cluster.into(), endpoints: endpoints.into_iter().collect(), problem: None }
    }

    /// No endpoint of `cluster` is known, and this is why.
    pub fn none(cluster: impl Into<Arc<str>>, why: impl Into<Arc<str>>) -> Self {
        Self { cluster: cluster.into(), endpoints: Arc::default(), problem: Some(why.into()) }
    }
}
