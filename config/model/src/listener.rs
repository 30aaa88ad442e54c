//! The two sides of a sidecar: inbound (to the application) and outbound (from it).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::policy::IdleTimeout;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inbound {
    pub listen: Vec<SocketAddr>,
    /// Where a connection goes that was not redirected. Without it: `no_route`, or closed.
    pub app: Option<SocketAddr>,
    /// Where one goes that was. Default: its original address.
    pub redirect_to: RedirectTo,
    pub protocol: AppProtocol,
    pub mtls: Mtls,
    /// Default off: the caller's deadline rules.
    pub timeout: Option<Duration>,
    /// Between two pieces of a body, or of what a tunnel or an opaque connection carries. Default as a service's.
    pub stream_idle: IdleTimeout,
    /// `None`: half of what the descriptor limit leaves.
    pub max_connections: Option<u32>,
    /// At once; beyond it 503.
    pub max_requests: Option<u32>,
    /// Bytes of one request body; beyond it 413.
    pub max_body: Option<u64>,
    /// What the application is asked for others, by name. Names are unique.
    pub probes: Vec<Probe>,
    /// What is special about single ports of the application.
    pub ports: BTreeMap<u16, PortPolicy>,
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
            probes: Vec::new(),
            ports: BTreeMap::new(),
        }
    }
}

/// From anywhere, on both families.
pub(crate) fn everywhere(port: u16) -> Vec<SocketAddr> {
    vec![(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()]
}

/// `None` leaves inbound's own word in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortPolicy {
    pub protocol: Option<AppProtocol>,
    /// Strict and permissive only with an identity.
    pub mtls: Option<Mtls>,
    /// Listeners of its own, whose connections are for this port of the application without being redirected: at the
    /// address of [`Inbound::app`], or at 127.0.0.1 where that is absent. Default: none.
    pub listen: Vec<SocketAddr>,
}

/// A question to the application that the metrics port passes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// `/probe/NAME`
    pub name: String,
    pub port: u16,
    pub asks: Question,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// GET of this path, with its query.
    Http { path: String },
    /// Whether a connection is taken.
    Tcp,
    /// grpc.health.v1.Health/Check; empty asks for the server as a whole.
    Grpc { service: String },
}

/// Where a redirected connection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RedirectTo {
    /// To its original address and port: a port that the application bound to loopback alone stays private.
    #[default]
    Original,
    /// To its original port on loopback, of the same IP version.
    Loopback,
}

/// What the application speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AppProtocol {
    /// gRPC as HTTP/2, all other HTTP as HTTP/1.1.
    Auto,
    /// gRPC is answered UNIMPLEMENTED.
    Http1,
    Http2,
    /// Opaque bytes, whatever they look like.
    Tcp,
    /// The application's own TLS: opaque too, and never terminated where plaintext would be admitted.
    Tls,
}

/// Whether inbound requires mTLS. Default: strict with an identity, off without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mtls {
    Off,
    /// mTLS of our own sidecars is terminated, everything else is taken as it comes.
    Permissive,
    /// A plaintext or unverified peer is refused.
    Strict,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbound {
    pub listen: Vec<SocketAddr>,
    /// Default: passthrough.
    pub unknown: Unknown,
}

/// Loopback alone: what comes from elsewhere is not this application's.
impl Default for Outbound {
    fn default() -> Self {
        const PORT: u16 = 15001;
        Self {
            listen: vec![(Ipv4Addr::LOCALHOST, PORT).into(), (Ipv6Addr::LOCALHOST, PORT).into()],
            unknown: Unknown::Passthrough,
        }
    }
}

/// What becomes of a destination that no service matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Unknown {
    /// It goes where the application meant it to go.
    #[default]
    Passthrough,
    /// `egress_denied`, or closed.
    Deny,
}

/// `limits`: what a connection may take, on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DownstreamLimits {
    /// Bytes of a request's head. Default 64 KiB: cookies of browsers fit, and ten thousand heads do too.
    pub header_bytes: u32,
    /// Fields of a request's head. Default 100, as Envoy's.
    pub header_count: u32,
    /// Fields of an answer's head. Default 200: applications set more cookies than they are sent.
    pub response_header_count: u32,
    /// From a head's first byte to its last; also for bytes that may still become TLS or HTTP. Default 10 s.
    pub header_timeout: Duration,
    /// A connection on which nothing happens is closed. Default 1 h, as Envoy's.
    pub idle_timeout: Duration,
    /// How often a request may pass the same instance and direction. Default 4: the fifth is a loop.
    pub via_passes: u32,
}

impl DownstreamLimits {
    /// What `header_bytes` may be: heads of 8 KiB are usual; a hundred connections that hold back the end of a head of
    /// 1 MiB already are a hundred MiB.
    pub const HEADER_BYTES: RangeInclusive<u32> = 8 * 1024..=1024 * 1024;
}

impl Default for DownstreamLimits {
    fn default() -> Self {
        Self {
            header_bytes: 64 * 1024,
            header_count: 100,
            response_header_count: 200,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(3600),
            via_passes: 4,
        }
    }
}

/// `drain`: both from SIGTERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// Until then both sides go on accepting while they say goodbye. Default 5 s: what it takes until the last load
    /// balancer has heard that this one is not ready.
    pub delay: Duration,
    /// At the latest. Default 25 s: below the 30 s that Kubernetes waits.
    pub timeout: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { delay: Duration::from_secs(5), timeout: Duration::from_secs(25) }
    }
}
