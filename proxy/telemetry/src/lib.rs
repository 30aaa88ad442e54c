//! What the sidecar tells about itself: metrics, the access log, and its own log.
//!
//! `families` lists every family by name, and [`metrics`] hands out their series; [`family`] keeps these and is the only
//! file that names the `prometheus` crate; [`labels`] holds the words a label may say and [`symbols`] the free-form ones;
//! [`recorder`] and [`service`] are the data path's shortcuts to its series; [`process`] reads `/proc/self`. [`access`]
//! writes one JSON line per request, shaped by [`json`] and carried by [`shipper`]. [`log`] sets up the diagnostics on
//! standard error, and [`seldom`] keeps what happens often from filling them.
//!
//! Deliberately not here: sockets. The admin side serves what [`metrics::Metrics::encode`] returns.
//!
//! Modules are listed from top to bottom: each may use those below it.

pub mod access;
pub mod json;
pub mod shipper;
pub mod recorder;
pub mod metrics;
pub mod service;
mod families;
pub mod process;
pub mod family;
pub mod labels;
pub mod symbols;
pub mod log;
pub mod seldom;

pub use access::{AccessLog, Record, RequestRecord};
pub use family::{Held, Histogram, IntGauge};
pub use labels::{
    CertificateUse, ConnectionOutcome, DetectionVerdict, DnsOutcome, EjectionCause, EndpointState, Flow,
    HandshakeOutcome, LimitLabel, MethodLabel, Protocol, ReloadOutcome, RequestLabels, RetryOutcome, Tls,
};
pub use metrics::Metrics;
pub use recorder::Recorder;
pub use seldom::Seldom;
pub use service::ServiceMetrics;
pub use symbols::Symbol;
