//! What the sidecar reports about itself: metrics, the access log, and its diagnostics.
//!
//! `families` declares every family, and [`metrics`] has their handles, in a room for each thing that is measured; [`family`] keeps their series and is the only file that names the `prometheus`
//! crate; [`labels`] has the fixed values of labels and [`symbols`] the free-form ones; [`istio`] has Istio's metrics,
//! and [`recorder`] and [`service`] give the data path quick access to its series; [`process`] reads `/proc/self`, and [`processes`] finds other processes, such as the one of `application`.
//! [`merge`] adds the expositions of other programs, which [`text`] reads and writes in each [`mod@format`]. [`flags`] has
//! the response flags of Envoy. [`access`] writes one line for each request, formatted by [`json`] or by a template
//! and written to the sink by [`shipper`]; [`timeline`] keeps the requests that `/requests` shows.
//! [`propagation`] reads and writes the headers that tell of a trace, which `exemplars` remembers for OpenMetrics. [`log`] sets up the diagnostics on standard error, and [`seldom`] bounds how often a frequent event is logged there.
//!
//! Deliberately not here: sockets. The admin port serves what [`merge::written`] makes.

pub mod merge;
pub mod text;
pub mod format;
pub mod recorder;
pub mod metrics;
pub mod service;
pub mod overview;
mod exemplars;
pub mod timeline;
pub mod access;
pub mod propagation;
pub mod json;
pub mod shipper;
pub mod companions;
mod families;
mod application;
mod istio;
mod flags;
pub mod process;
pub mod processes;
pub mod family;
pub mod labels;
pub mod symbols;
pub mod log;
pub mod seldom;

pub use access::{AccessLog, Further, KeptHeaders, Record, RequestRecord};
pub use family::{Held, Histogram, IntGauge};
pub use flags::flag as response_flag;
pub use format::Format;
pub use istio::{IstioLabels, IstioProtocol, Own};
pub use labels::{
    AuthorizationMode, CacheOutcome, CertificateUse, CheckOutcome, ConnectionOutcome, Decision,
    DetectionVerdict, DnsOutcome, EjectionCause, EndpointLabels, EndpointState, Flow, HandshakeOutcome,
    JwksOutcome, LimitLabel, ListCause, LogOutcome, MethodLabel, Protocol, ReloadOutcome, RequestLabels,
    RetryOutcome, Shed, SpanOutcome, SyncOutcome, Tls, TokenOutcome, TryOutcome, WatchState,
};
pub use metrics::{Detail, EndpointKey, Metrics};
pub use recorder::Recorder;
pub use seldom::Seldom;
pub use service::ServiceMetrics;
pub use symbols::Symbol;
pub use timeline::Timelines;
