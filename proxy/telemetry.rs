//! What the sidecar tells about itself: metrics, the access log, and its own log.
//!
//! [`metrics`] knows every family by name; [`family`] keeps their series and is the only file that names the
//! `prometheus` crate; [`labels`] holds the words a label may say and [`symbols`] the free-form ones;
//! [`recorder`] and [`service`] are the data path's shortcuts to its series; [`process`] reads `/proc/self`. [`access`] writes one JSON line per request, shaped by
//! [`json`] and carried by [`shipper`]. [`log`] sets up the diagnostics on standard error, and
//! [`seldom`] keeps what happens often from filling them.
//!
//! Deliberately not here: sockets. The admin side serves what [`metrics::Metrics::encode`] returns.

pub(crate) mod access;
pub(crate) mod family;
pub(crate) mod json;
pub(crate) mod labels;
pub mod log;
pub(crate) mod metrics;
pub(crate) mod process;
pub(crate) mod recorder;
pub(crate) mod seldom;
pub(crate) mod service;
pub(crate) mod shipper;
pub(crate) mod symbols;

pub(crate) use access::{AccessLog, Record};
pub(crate) use family::{Held, Histogram, IntGauge};
pub(crate) use labels::{
    CertificateUse, ConnectionOutcome, Direction, DnsOutcome, EjectionCause, EndpointState, Flow,
    HandshakeOutcome, Limit, MethodLabel, Protocol, ReloadOutcome, RequestLabels, RetryOutcome, Tls, Verdict,
};
pub(crate) use metrics::Metrics;
pub(crate) use recorder::Recorder;
pub(crate) use seldom::Seldom;
pub(crate) use service::ServiceMetrics;
pub(crate) use symbols::Symbol;
