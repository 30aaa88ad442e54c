//! The two sides of a sidecar: inbound (to the application) and outbound (from it).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::authorization::Authorization;
use crate::identity::KeyPair;
use crate::policy::IdleTimeout;
pub use crate::policy::Question;
use crate::route::RateLimit;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inbound {
    pub listen: Vec<SocketAddr>,
    /// Where a connection goes that was not redirected. If it is absent, requests get `no_route` and other connections
    /// are closed.
    pub app: Option<SocketAddr>,
    /// Where a redirected connection goes. Default: its original address.
    pub redirect_to: RedirectTo,
    pub protocol: AppProtocol,
    pub mtls: Mtls,
    /// Default off: the deadline of the client counts.
    pub timeout: Option<Duration>,
    /// The longest pause between two pieces of a body, of a tunnel or of an opaque connection. The default is that of a
    /// service.
    pub stream_idle: IdleTimeout,
    /// `None`: half of the open files that the descriptor limit still allows.
    pub max_connections: Option<u32>,
    /// Requests at once; a request beyond this limit gets 503.
    pub max_requests: Option<u32>,
    /// Bytes of one request body; a larger one gets 413.
    pub max_body: Option<u64>,
    /// Requests in a time; a request beyond this limit gets 429.
    pub rate_limit: Option<RateLimit>,
    /// Questions about its health that the application is asked on behalf of others, by name. Names are unique.
    pub probes: Vec<Probe>,
    /// Settings that differ for single ports of the application.
    pub ports: BTreeMap<u16, PortPolicy>,
    /// `None`: whatever a peer that `mtls` admits sends is passed on.
    pub authorization: Option<Authorization>,
}

impl Default for Inbound {
    fn default() -> Self {
        const PORT: u16 = 15006;
        Self {
            listen: everywhere(PORT),
            app: None,
            redirect_to: RedirectTo::Original,
            protocol: AppProtocol::Auto,
            mtls: Mtls::Off,
            timeout: None,
            stream_idle: IdleTimeout::default(),
            max_connections: None,
            max_requests: None,
            max_body: None,
            rate_limit: None,
            probes: Vec::new(),
            ports: BTreeMap::new(),
            authorization: None,
        }
    }
}

/// Every address of this host, of both IP versions.
pub(crate) fn everywhere(port: u16) -> Vec<SocketAddr> {
    vec![(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()]
}

/// Settings for one port. `None` keeps the value of `inbound`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortPolicy {
    pub protocol: Option<AppProtocol>,
    /// Strict and permissive need an identity.
    pub mtls: Option<Mtls>,
    /// Listeners for this port alone. Their connections go to this port of the application without being redirected: at
    /// the address of [`Inbound::app`], or at 127.0.0.1 where that is absent. Default: none.
    pub listen: Vec<SocketAddr>,
    /// TLS for clients outside the mesh, at the listeners of this port alone. `None`: `mtls` holds there too.
    pub tls: Option<PortTls>,
}

/// How the sidecar is known to clients outside the mesh, and they to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortTls {
    /// Never empty. The first is shown to clients that ask for no name that another has.
    pub certificates: Vec<KeyPair>,
    pub clients: ClientCertificates,
}

/// Whether clients outside the mesh show certificates. The bundle has the authorities of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientCertificates {
    Off,
    /// A client without a certificate is admitted too.
    Request {
        trust_bundle: PathBuf,
    },
    Require {
        trust_bundle: PathBuf,
    },
}

impl ClientCertificates {
    pub const fn trust_bundle(&self) -> Option<&PathBuf> {
        match self {
            Self::Off => None,
            Self::Request { trust_bundle } | Self::Require { trust_bundle } => Some(trust_bundle),
        }
    }
}

/// A health check that the metrics port passes on to the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The name in the path `/probe/NAME`.
    pub name: String,
    pub port: u16,
    pub asks: Question,
}

/// Where a redirected connection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RedirectTo {
    /// To its original address and port. A port that the application bound to loopback alone thus stays private.
    #[default]
    Original,
    /// To its original port on the loopback address of the same IP version.
    Loopback,
}

/// The protocol that the application speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AppProtocol {
    /// gRPC is sent as HTTP/2, all other HTTP as HTTP/1.1.
    Auto,
    /// Everything is sent as HTTP/1.1; gRPC requests are answered UNIMPLEMENTED.
    Http1,
    Http2,
    /// Opaque bytes, even if they look like HTTP.
    Tcp,
    /// The application's own TLS: the bytes are opaque, and mTLS is never terminated where plaintext would be admitted.
    Tls,
}

/// Whether inbound connections must use mTLS. Default: strict with an identity, off without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mtls {
    Off,
    /// mTLS of other sidecars of the mesh is terminated; everything else is passed on as it arrives.
    Permissive,
    /// A peer that speaks plaintext or cannot be verified is refused.
    Strict,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbound {
    pub listen: Vec<SocketAddr>,
    /// Default: passthrough.
    pub unknown: Unknown,
}

/// Loopback alone: connections from other hosts are not this application's.
impl Default for Outbound {
    fn default() -> Self {
        const PORT: u16 = 15001;
        Self {
            listen: vec![(Ipv4Addr::LOCALHOST, PORT).into(), (Ipv6Addr::LOCALHOST, PORT).into()],
            unknown: Unknown::Passthrough,
        }
    }
}

/// What happens to a connection or request whose destination no service matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Unknown {
    /// It goes to its original destination.
    #[default]
    Passthrough,
    /// A request gets `egress_denied`; another connection is closed.
    Deny,
}

/// `limits.max_memory`: above it connections are closed and refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MaxMemory {
    /// 90 % of the limit of the process's cgroup; without a cgroup that has one, no limit.
    #[default]
    Auto,
    Off,
    /// This many bytes of the process itself, and 90 % of its cgroup's limit where that is less.
    Bytes(u64),
}

impl MaxMemory {
    /// The least limit: a sidecar that has served its first requests takes 12 MB.
    pub const LEAST: u64 = 16 * 1024 * 1024;
}

/// `limits`: what a client's connection may use, on both sides; and the memory of all together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DownstreamLimits {
    pub max_memory: MaxMemory,
    /// Bytes of a request's head. Default 64 KiB: the cookies of browsers fit, and so do ten thousand such heads in
    /// memory.
    pub header_bytes: u32,
    /// Fields of a request's head. Default 100, which is Envoy's.
    pub header_count: u32,
    /// Fields of a response's head. Default 200: applications set more cookies than they receive.
    pub response_header_count: u32,
    /// The time from the first byte of a head to its last, and for the bytes that decide between TLS and HTTP. Default
    /// 10 s.
    pub header_timeout: Duration,
    /// A connection without activity is closed after this time. Default 1 h, which is Envoy's.
    pub idle_timeout: Duration,
    /// How often a request may pass through the same instance in the same direction. Default 4: the fifth time is a
    /// loop.
    pub via_passes: u32,
}

impl DownstreamLimits {
    /// The range of `header_bytes`. Heads of 8 KiB are usual. With 1 MiB, a hundred connections that hold back the end
    /// of their head already take 100 MiB.
    pub const HEADER_BYTES: RangeInclusive<u32> = 8 * 1024..=1024 * 1024;
}

impl Default for DownstreamLimits {
    fn default() -> Self {
        Self {
            max_memory: MaxMemory::Auto,
            header_bytes: 64 * 1024,
            header_count: 100,
            response_header_count: 200,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(3600),
            via_passes: 4,
        }
    }
}

/// `drain`: both times count from SIGTERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// How long both sides still accept, and announce that connections will close. Default 5 s: the time that load
    /// balancers need to learn that this instance is not ready.
    pub delay: Duration,
    /// The process ends at the latest after this time. Default 25 s: below the 30 s that Kubernetes waits.
    pub timeout: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { delay: Duration::from_secs(5), timeout: Duration::from_secs(25) }
    }
}
