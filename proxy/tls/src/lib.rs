//! TLS between workloads: the identity of the peer ([`Peer`]), the protocol agreed on ([`Alpn`]), and why a handshake
//! failed.
//!
//! [`server`] accepts mutual TLS, [`outside`] TLS of clients that are no part of the mesh, [`client`] originates TLS, [`verify`] judges certificates on both sides (`path` their chains, `signatures` those of handshakes),
//! [`known`] remembers verified clients, and [`provider`] chooses the cryptography. [`admission`] tells whether a server
//! has accepted our certificate, which a TLS 1.3 client learns only after the handshake. Deliberately absent: time
//! limits (the caller limits a handshake) and sockets (any byte stream will do).
//!
//! Modules are listed from top to bottom: each may use those below it.

pub mod refusals;
pub mod client;
pub mod material;
pub mod outside;
pub mod admission;
pub mod server;
mod sessions;
pub mod verify;
mod revocation;
mod error;
mod notes;
mod known;
mod rejection;
mod path;
mod branches;
mod signatures;
pub mod identity;
pub mod files;
pub mod provider;

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use pillion_model::SpiffeId;
use rustls::HandshakeKind;
use rustls::pki_types::{CertificateDer, UnixTime};

use crate::identity::{Subject, not_after, unix_seconds};
use crate::material::MaterialError;
use known::Verified;

pub use error::{TlsError, TlsErrorKind};

/// The protocol agreed on in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// HTTP/2 from sidecar to sidecar. The name declares the protocol, so the server does not detect it.
    PillionH2,
    /// HTTP/1.1 from sidecar to sidecar, declared in the same way.
    PillionHttp1,
    /// Opaque bytes from sidecar to sidecar.
    PillionTcp,
    H2,
    Http1,
}

impl Alpn {
    /// All protocols, the preferred ones first.
    pub const ALL: [Self; 5] = [Self::PillionH2, Self::PillionHttp1, Self::PillionTcp, Self::H2, Self::Http1];

    /// The name on the wire (RFC 7301).
    pub const fn name(self) -> &'static str {
        match self {
            Self::PillionH2 => "pillion-h2",
            Self::PillionHttp1 => "pillion-http/1.1",
            Self::PillionTcp => "pillion-tcp",
            Self::H2 => "h2",
            Self::Http1 => "http/1.1",
        }
    }

    pub const fn is_http2(self) -> bool {
        matches!(self, Self::PillionH2 | Self::H2)
    }

    /// Whether the peer is a Pillion sidecar.
    pub const fn is_sidecar(self) -> bool {
        matches!(self, Self::PillionH2 | Self::PillionHttp1 | Self::PillionTcp)
    }

    fn agreed(name: Option<&[u8]>) -> Option<Self> {
        Self::ALL.into_iter().find(|alpn| Some(alpn.name().as_bytes()) == name)
    }
}

fn wire_names(offer: &[Alpn]) -> Vec<Vec<u8>> {
    offer.iter().map(|alpn| alpn.name().as_bytes().to_vec()).collect()
}

/// The verified peer of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub id: SpiffeId,
    /// The SHA-256 of the DER certificate, used as `Hash` in `x-forwarded-client-cert`.
    pub certificate_sha256: [u8; SHA256_OUTPUT_LEN],
    /// The certificates that the peer showed, its own first. New rules judge them again.
    chain: Arc<[CertificateDer<'static>]>,
    admitted: UnixTime,
}

impl Peer {
    /// The peer of a resumed session.
    ///
    /// A resumed session skips the verifier, so this function checks again the one thing that time can change: whether
    /// the certificate has expired since. (Roots and revocation lists cannot have changed, because a new set makes a
    /// new config without old sessions.)
    fn of(certificates: Option<&[CertificateDer<'static>]>, now: UnixTime) -> Result<Self, TlsError> {
        let chain = certificates.unwrap_or_default();
        let certificate = chain.first().ok_or_else(TlsError::no_certificate)?;
        let subject = Subject::read(certificate).map_err(|fault| TlsError::identity(&fault))?;
        if unix_seconds(now) > subject.not_after {
            return Err(TlsError::expired(subject.not_after));
        }
        let certificate_sha256 = sha256(certificate);
        Ok(Self { id: subject.id, certificate_sha256, chain: chain.into(), admitted: now })
    }

    /// The peer that the verifier accepted in this handshake.
    fn verified(verified: &Verified, now: UnixTime) -> Self {
        let Verified { id, certificate_sha256, chain, .. } = verified;
        let (id, chain) = (id.clone(), chain.clone());
        Self { id, certificate_sha256: *certificate_sha256, chain, admitted: now }
    }
}

/// Asks for a first random number. aws-lc then gathers entropy from the jitter of the clock, which takes about 25 ms of
/// CPU once per process. Call it at the start on a thread of its own, so that no handshake waits for it.
pub fn gather_entropy() {
    let mut random = [0; 32];
    if provider::any().secure_random.fill(&mut random).is_err() {
        tracing::error!("no random numbers: TLS will not work");
    }
}

/// The fingerprint of a certificate.
pub fn sha256(der: &[u8]) -> [u8; SHA256_OUTPUT_LEN] {
    let mut hash = [0; SHA256_OUTPUT_LEN];
    hash.copy_from_slice(digest(&SHA256, der).as_ref());
    hash
}

/// The bytes in lower-case hexadecimal, as fingerprints are written. Uses one allocation, because each connection of a
/// peer needs it.
pub fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let mut text = String::with_capacity(2 * bytes.len());
    text.extend(digits.filter_map(|digit| char::from_digit(digit.into(), 16)));
    text
}

/// Why TLS cannot be set up as configured. Found when a configuration is built, and not for each connection.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("tls: mutual needs an identity of our own; set identity, or tls: simple")]
    NeedsIdentity,
    #[error("its trust bundle was not read")]
    NeedsTrustBundle,
    #[error("tls: simple needs the server's name to verify; set tls.sni")]
    NeedsServerName,
    #[error(
        "{0} is of a trust domain without a trust bundle; add identity: {{ federation: {{ {domain}: FILE }} }}, or set \
         tls.trust_bundle",
        domain = .0.trust_domain()
    )]
    NoBundle(SpiffeId),
    #[error("tls.sni {0:?} is not a host name")]
    BadServerName(String),
    #[error(transparent)]
    Material(#[from] MaterialError),
    #[error("the trust bundle cannot verify anyone: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
}

/// The check of [`Peer::of`] for a client, which only needs to know that the server's certificate has not expired.
fn recheck_resumed(
    kind: Option<HandshakeKind>,
    certificates: Option<&[CertificateDer<'_>]>,
    now: i64,
) -> Result<(), TlsError> {
    if kind != Some(HandshakeKind::Resumed) {
        return Ok(());
    }
    let certificate = certificates.and_then(<[_]>::first).ok_or_else(TlsError::no_certificate)?;
    let not_after = not_after(certificate).map_err(|fault| TlsError::identity(&fault))?;
    if now > not_after { Err(TlsError::expired(not_after)) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
