//! What the sidecar reports and where: admin port, metrics, access log.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::listener::everywhere;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    pub listen: Vec<SocketAddr>,
}

/// Loopback alone, because the admin port can change settings.
impl Default for Admin {
    fn default() -> Self {
        const PORT: u16 = 15000;
        Self { listen: vec![(Ipv4Addr::LOCALHOST, PORT).into()] }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    pub listen: Vec<SocketAddr>,
    /// The most series of the whole exposition. Beyond it new label values count under `other`. Default 20000.
    pub max_series: u32,
}

/// All addresses, as scrapers and kubelets are on other hosts. 20000 series take some 10 MB; a mesh of a hundred
/// services with a dozen peers needs fewer.
impl Default for Metrics {
    fn default() -> Self {
        const PORT: u16 = 15020;
        Self { listen: everywhere(PORT), max_series: 20_000 }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    pub path: LogPath,
    /// The share of requests that are logged; `100%` is 1.0.
    pub sample: f64,
    /// Whether every failed request is logged (5xx, or a response made by the sidecar), whatever `sample` is. Default
    /// true.
    pub always_errors: bool,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self { path: LogPath::Stdout, sample: 1.0, always_errors: true }
    }
}

/// Where access log lines go. Each line is one JSON object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogPath {
    Stdout,
    Stderr,
    File(PathBuf),
}
