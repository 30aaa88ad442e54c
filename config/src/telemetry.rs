//! What the sidecar tells, and where: admin port, metrics, access log.

use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    pub listen: Vec<SocketAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    pub listen: Vec<SocketAddr>,
    /// Series of the whole exposition; past it new label values count under `other`. Default 20000.
    pub max_series: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    pub path: LogPath,
    /// Share of the requests that are logged, 1.0 for `100%`.
    pub sample: f64,
    /// Log every request that failed (5xx, or an answer made by the sidecar) whatever the sample. Default true.
    pub always_errors: bool,
}

/// Where access lines go; the format is one JSON object a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogPath {
    Stdout,
    Stderr,
    File(PathBuf),
}
