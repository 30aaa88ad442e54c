//! What the sidecar tells, and where: admin port, metrics, access log.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::listener::everywhere;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    pub listen: Vec<SocketAddr>,
}

/// Loopback alone: it can change things.
impl Default for Admin {
    fn default() -> Self {
        const PORT: u16 = 15000;
        Self { listen: vec![(Ipv4Addr::LOCALHOST, PORT).into()] }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    pub listen: Vec<SocketAddr>,
    /// Series of the whole exposition; past it new label values count under `other`. Default 20000.
    pub max_series: u32,
}

/// Everywhere: scrapers and kubelets are on other hosts. Some 10 MB of series; a mesh of a hundred services with a
/// dozen peers stays below.
impl Default for Metrics {
    fn default() -> Self {
        const PORT: u16 = 15020;
        Self { listen: everywhere(PORT), max_series: 20_000 }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    pub path: LogPath,
    /// Share of the requests that are logged, 1.0 for `100%`.
    pub sample: f64,
    /// Log every request that failed (5xx, or an answer made by the sidecar) whatever the sample. Default true.
    pub always_errors: bool,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self { path: LogPath::Stdout, sample: 1.0, always_errors: true }
    }
}

/// Where access lines go; the format is one JSON object a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogPath {
    Stdout,
    Stderr,
    File(PathBuf),
}
