//! The identity of this workload: SPIFFE IDs, and where its certificates are.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Where the identity of this workload comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    Files(Files),
    WorkloadApi(WorkloadApi),
}

impl Identity {
    pub const fn files(&self) -> Option<&Files> {
        match self {
            Self::Files(files) => Some(files),
            Self::WorkloadApi(_) => None,
        }
    }

    pub const fn workload_api(&self) -> Option<&WorkloadApi> {
        match self {
            Self::Files(_) => None,
            Self::WorkloadApi(api) => Some(api),
        }
    }

    pub const fn max_connection_age(&self) -> Option<Duration> {
        match self {
            Self::Files(Files { max_connection_age, .. })
            | Self::WorkloadApi(WorkloadApi { max_connection_age, .. }) => *max_connection_age,
        }
    }

    /// Whether the same credentials are read by both: they differ in `max_connection_age` at most.
    pub fn reads_the_same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Files(one), Self::Files(other)) => {
                *one == Files { max_connection_age: one.max_connection_age, ..other.clone() }
            }
            (Self::WorkloadApi(one), Self::WorkloadApi(other)) => one.reads_the_same_as(other),
            _ => false,
        }
    }
}

/// A SPIFFE Workload API, which hands out the identity, its trust bundle, and those of other trust domains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadApi {
    /// The absolute path of its Unix socket.
    pub socket: PathBuf,
    /// See [`Files::trust_domain`].
    pub trust_domain: Option<String>,
    /// See [`Files::max_connection_age`].
    pub max_connection_age: Option<Duration>,
}

impl WorkloadApi {
    /// See [`Identity::reads_the_same_as`].
    pub fn reads_the_same_as(&self, other: &Self) -> bool {
        self.socket == other.socket && self.trust_domain == other.trust_domain
    }
}

/// The address as the file has it.
impl fmt::Display for WorkloadApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.socket.display())
    }
}

/// The certificate files. Relative paths have been resolved against the folder of the configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub trust_bundle: PathBuf,
    pub crl: Crl,
    /// The trust bundles of other trust domains, by trust domain. A peer is verified with the bundle of its own trust
    /// domain alone.
    pub federation: BTreeMap<String, PathBuf>,
    /// `None`: the trust domain of the certificate's SPIFFE ID.
    pub trust_domain: Option<String>,
    /// After a change of the certificates, a peer on an older connection is asked to connect again. `None`: it may stay.
    pub max_connection_age: Option<Duration>,
}

/// Where the list of revoked certificates is, in PEM or DER (RFC 5280, section 5).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Crl {
    #[default]
    None,
    /// The file `ca.crl` of the directory. It is enforced while it exists.
    IfPresent(PathBuf),
    Required(PathBuf),
}

/// A certificate chain and its key, as two PEM files.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyPair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TlsPolicy {
    pub min_version: TlsVersion,
    /// Whether X25519MLKEM768 is offered, as the first choice.
    pub post_quantum: bool,
}

/// TLS 1.2 is allowed because some clients have nothing newer. Post-quantum key exchange costs nothing when a peer
/// lacks it.
impl Default for TlsPolicy {
    fn default() -> Self {
        Self { min_version: TlsVersion::Tls12, post_quantum: true }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// A SPIFFE ID, `spiffe://TRUST_DOMAIN/PATH` (SPIFFE-ID standard, sections 2.1 to 2.3).
///
/// The syntax is checked: at most 2048 bytes; a trust domain of at most 255 characters out of `a-z 0-9 . - _`; a path
/// of segments out of `a-z A-Z 0-9 . - _`, of which none is empty, `.` or `..`, and no trailing slash.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    uri: String,
    trust_domain_end: usize,
}

/// Why a text is not a SPIFFE ID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadSpiffeId(&'static str);

const SCHEME: &str = "spiffe://";

impl SpiffeId {
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    pub fn trust_domain(&self) -> &str {
        self.uri.get(SCHEME.len()..self.trust_domain_end).unwrap_or_default()
    }

    /// The path with its leading slash; empty for the ID of a trust domain itself.
    pub fn path(&self) -> &str {
        self.uri.get(self.trust_domain_end..).unwrap_or_default()
    }
}

impl FromStr for SpiffeId {
    type Err = BadSpiffeId;

    fn from_str(text: &str) -> Result<Self, BadSpiffeId> {
        if text.len() > 2048 {
            return Err(BadSpiffeId("a SPIFFE ID has at most 2048 bytes"));
        }
        let rest = text.strip_prefix(SCHEME).ok_or(BadSpiffeId("a SPIFFE ID begins with spiffe://"))?;
        let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        check_trust_domain(domain)?;
        for segment in path.split('/').skip(1) {
            check_segment(segment)?;
        }
        Ok(Self { uri: text.to_owned(), trust_domain_end: SCHEME.len() + domain.len() })
    }
}

/// Checks a trust domain against the SPIFFE-ID standard (section 2.1).
pub fn check_trust_domain(domain: &str) -> Result<(), BadSpiffeId> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    match domain {
        "" => Err(BadSpiffeId("the trust domain is empty")),
        d if d.len() > 255 => Err(BadSpiffeId("a trust domain has at most 255 characters")),
        d if !d.bytes().all(allowed) => Err(BadSpiffeId("a trust domain has only a-z 0-9 . - _")),
        _ => Ok(()),
    }
}

fn check_segment(segment: &str) -> Result<(), BadSpiffeId> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    match segment {
        "" => Err(BadSpiffeId("a path segment is empty")),
        "." | ".." => Err(BadSpiffeId("a path segment is . or ..")),
        s if !s.bytes().all(allowed) => Err(BadSpiffeId("a path segment has only a-z A-Z 0-9 . - _")),
        _ => Ok(()),
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}
