//! What the sidecar reports and where: admin port, metrics, access log, timelines.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::access_format::LogFormat;
use crate::authority::is_sendable_path;
use crate::authorization::AuthorizerAddress;
use crate::listener::everywhere;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    pub listen: Vec<SocketAddr>,
    /// What a request that changes state must bear (RFC 6750). `None`: every client that reaches the port may send it.
    pub token: Option<Secret>,
}

/// Loopback alone, because the admin port can change settings.
impl Default for Admin {
    fn default() -> Self {
        const PORT: u16 = 15000;
        Self { listen: vec![(Ipv4Addr::LOCALHOST, PORT).into()], token: None }
    }
}

/// A text that no log, page or error shows: 8 to 4,096 visible ASCII characters.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// `None`: the text is too short to be a secret, too long for a header, or has other characters.
    pub fn new(text: String) -> Option<Self> {
        let is_sound = (8..=4096).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_sound.then_some(Self(text))
    }

    /// Whether `offered` is the secret. The time that this takes depends on the length of `offered` alone, so that
    /// nobody finds the secret byte by byte.
    pub fn is(&self, offered: &[u8]) -> bool {
        let secret = self.0.as_bytes();
        let differing = offered.iter().zip(secret.iter().cycle()).fold(0, |sum, (a, b)| sum | (a ^ b));
        std::hint::black_box(differing) == 0 && offered.len() == secret.len()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    pub listen: Vec<SocketAddr>,
    /// The most series of the whole exposition. Beyond it new label values count under `other`. Default 20000.
    pub max_series: u32,
    /// Whether the tries at each endpoint are counted. Default false.
    pub endpoints: bool,
    /// Expositions of other programs that become a part of the sidecar's.
    pub merge: Vec<MergeSource>,
    /// The application's process, whose use of CPU, memory, descriptors and threads is exported. `None`: none.
    pub process_metrics: Option<ProcessMetrics>,
    /// The meshes by whose names the metrics of traffic stand besides.
    pub compatibility: Vec<Compatibility>,
}

/// All addresses, as scrapers and kubelets are on other hosts. 20000 series take some 10 MB; a mesh of a hundred
/// services with a dozen peers needs fewer. Under Istio's names a line has 800 bytes instead of 130, so the exposition may have
/// 16 MB.
impl Default for Metrics {
    fn default() -> Self {
        const PORT: u16 = 15020;
        Self {
            listen: everywhere(PORT),
            max_series: 20_000,
            endpoints: false,
            merge: Vec::new(),
            process_metrics: None,
            compatibility: Vec::new(),
        }
    }
}

/// How the application's process is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessMetrics {
    /// It listens on this port.
    Port(u16),
    /// Its program has this name.
    Name(String),
}

impl fmt::Display for ProcessMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(f, "port {port}"),
            Self::Name(name) => write!(f, "name {name}"),
        }
    }
}

/// A mesh whose dashboards can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compatibility {
    Istio,
}

/// A program whose metrics are scraped when the sidecar's are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergeSource {
    /// Lower-case letters, digits, `-` and `_`. It stands in the label `source`, and before the names of families that are taken.
    pub name: String,
    pub url: SourceUrl,
    /// From the first packet to the last byte.
    pub timeout: Duration,
}

impl MergeSource {
    /// The name of a source without one: most pods have one application.
    pub const NAME: &str = "app";
    pub const TIMEOUT: Duration = Duration::from_secs(1);
    /// A scraper waits 10 s by default, also for the sidecar's own metrics, and for an exposition that is being written.
    pub const LONGEST_TIMEOUT: Duration = Duration::from_secs(4);
    /// A pod has a few containers. While they are merged, the texts take up to 2 MiB each, and what is read of them some
    /// 20 MB together.
    pub const MOST: usize = 8;
}

/// Where a source serves its metrics: `http://`, an IP address or `localhost`, a port, and a path with its query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceUrl {
    pub address: SocketAddr,
    /// With a slash at its beginning.
    pub path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSourceUrl {
    #[error("is https://, which is not supported here")]
    Https,
    #[error("does not begin with http://")]
    Scheme,
    #[error("has no IP address and port")]
    Address,
    #[error("has a character in its path that requests cannot carry")]
    Path,
}

impl SourceUrl {
    /// # Errors
    /// What is wrong with the text.
    pub fn new(text: &str) -> Result<Self, BadSourceUrl> {
        if text.starts_with("https://") {
            return Err(BadSourceUrl::Https);
        }
        let rest = text.strip_prefix("http://").ok_or(BadSourceUrl::Scheme)?;
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let AuthorizerAddress(address) = AuthorizerAddress::new(authority).ok_or(BadSourceUrl::Address)?;
        if !is_sendable_path(path) {
            return Err(BadSourceUrl::Path);
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { address, path })
    }
}

impl fmt::Display for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.address, self.path)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    pub path: LogPath,
    pub format: LogFormat,
    /// The share of requests that are logged; `100%` is 1.0.
    pub sample: f64,
    /// Whether every failed request is logged (5xx, or a response made by the sidecar), whatever `sample` is. Default
    /// true.
    pub always_errors: bool,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self { path: LogPath::Stdout, format: LogFormat::Json, sample: 1.0, always_errors: true }
    }
}

/// Which exchanges are kept with their timelines, for `/requests` and `pillion explain`. Every failed one is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Explain {
    /// The memory for all timelines together, in bytes. The oldest ones are given up for new ones. Default 4 MiB: some
    /// 5000 timelines.
    pub keep: u64,
    /// The share of the other exchanges that are kept. Default 0.001, which shows what is usual and costs nothing.
    pub sample: f64,
    /// An exchange that takes longer is kept. Default 1 s: longer than nearly every service lets a person wait.
    pub slow: Duration,
}

impl Explain {
    /// The sizes that `keep` may have: below the least only a few dozen timelines have room, and the most is some 80,000 of
    /// them.
    pub const KEEP: RangeInclusive<u64> = 64 << 10..=64 << 20;
}

impl Default for Explain {
    fn default() -> Self {
        Self { keep: 4 << 20, sample: 0.001, slow: Duration::from_secs(1) }
    }
}

/// Where access log lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogPath {
    Stdout,
    Stderr,
    File(PathBuf),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_an_address_and_a_path() {
        for (text, expected) in [
            ("http://127.0.0.1:8080/metrics", "http://127.0.0.1:8080/metrics"),
            ("http://localhost:9404", "http://127.0.0.1:9404/"),
            ("http://[::1]:9404?name[]=a", "http://[::1]:9404/?name[]=a"),
        ] {
            assert_eq!(SourceUrl::new(text).map(|url| url.to_string()).as_deref(), Ok(expected), "{text}");
        }
        for (text, why) in [
            ("https://127.0.0.1/metrics", BadSourceUrl::Https),
            ("127.0.0.1:8080", BadSourceUrl::Scheme),
            ("http://app:8080/metrics", BadSourceUrl::Address),
            ("http://127.0.0.1/metrics", BadSourceUrl::Address),
            ("http://user@127.0.0.1:80/", BadSourceUrl::Address),
            ("http://127.0.0.1:80/a b", BadSourceUrl::Path),
        ] {
            assert_eq!(SourceUrl::new(text), Err(why), "{text}");
        }
    }

    #[test]
    fn only_the_whole_secret_is_the_secret_and_no_debug_output_shows_it() {
        let secret = Secret::new("open-sesame".to_owned()).unwrap();
        assert!(secret.is(b"open-sesame"));
        for offered in
            ["", "o", "open-sesamf", "open-sesam", "open-sesameo", "open-sesameopen-sesame", "Open-sesame"]
        {
            assert!(!secret.is(offered.as_bytes()), "{offered}");
        }
        assert_eq!(format!("{secret:?}"), "Secret");
        for text in [
            String::new(),
            "1234567".to_owned(),
            "x".repeat(4097),
            "open sesame".to_owned(),
            "sésame-ouvre".to_owned(),
        ] {
            assert!(Secret::new(text.clone()).is_none(), "{text}");
        }
    }
}
