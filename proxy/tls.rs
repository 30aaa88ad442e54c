//! TLS between workloads: who is at the other end ([`Peer`]), what is spoken ([`Alpn`]), and why it failed.
//!
//! [`server`] terminates, [`client`] originates, [`verify`] judges certificates on both sides, [`provider`]
//! holds the cryptography. Deliberately absent: time limits (the caller bounds a handshake) and sockets (any
//! IO will do).

pub mod client;
pub(crate) mod provider;
mod revocation;
pub mod server;
pub(crate) mod verify;

use std::io;

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use pillion_model::SpiffeId;
use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, CertificateError, HandshakeKind};

use crate::identity::credentials::CredentialsError;
use crate::identity::{Subject, date, not_after};
use verify::Rejection;

/// The protocol agreed on in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// HTTP/2 from sidecar to sidecar: a declaration, nothing is left to detect.
    PillionH2,
    /// HTTP/1.1 from sidecar to sidecar, likewise.
    PillionHttp1,
    /// Opaque bytes from sidecar to sidecar.
    PillionTcp,
    H2,
    Http1,
}

impl Alpn {
    /// All, preferred first.
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

    /// The other end is a sidecar of ours.
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

/// The verified other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub id: SpiffeId,
    /// Of the DER certificate; the `Hash` of `x-forwarded-client-cert`.
    pub certificate_sha256: [u8; SHA256_OUTPUT_LEN],
}

impl Peer {
    /// Who a finished handshake was with.
    ///
    /// A resumed session skips the verifier, so the one thing that time can change is asked again here: has
    /// the certificate expired since? (Roots and revocation lists cannot have changed: a new set is a new config with
    /// no old sessions.)
    fn of(certificates: Option<&[CertificateDer<'_>]>, now: i64) -> Result<Self, TlsError> {
        let certificate = certificates.and_then(<[_]>::first).ok_or_else(TlsError::no_certificate)?;
        let subject = Subject::read(certificate).map_err(|fault| TlsError::identity(&fault))?;
        if now > subject.not_after {
            return Err(TlsError::expired(subject.not_after));
        }
        Ok(Self { id: subject.id, certificate_sha256: sha256(certificate) })
    }
}

/// aws-lc gathers entropy from the jitter of the clock when it is first asked for a random number: some 25 ms of
/// CPU, once per process. Asked for at the start, on a thread of its own, no handshake waits for it.
pub(crate) fn gather_entropy() {
    let mut random = [0; 32];
    if provider::any().secure_random.fill(&mut random).is_err() {
        tracing::error!("no random numbers: TLS will not work");
    }
}

/// The fingerprint of a certificate.
pub(crate) fn sha256(der: &[u8]) -> [u8; SHA256_OUTPUT_LEN] {
    let mut hash = [0; SHA256_OUTPUT_LEN];
    hash.copy_from_slice(digest(&SHA256, der).as_ref());
    hash
}

/// What kind of failure a handshake met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsErrorKind {
    /// The peer's certificate is expired, unknown to us, or otherwise not acceptable.
    Certificate,
    /// The peer proved who it is, and it is not who it must be.
    PeerIdentityMismatch,
    /// The peer refused us and said so.
    RefusedByPeer,
    /// The connection ended before the handshake did.
    Closed,
    /// No TLS in common, or no TLS at all.
    Handshake,
    /// Our own certificate is not there yet; the peer was not asked.
    NotReady,
}

/// A handshake that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct TlsError {
    pub kind: TlsErrorKind,
    /// In an operator's words: what, and where to look.
    pub detail: String,
}

impl TlsError {
    pub(crate) fn is_identity_mismatch(&self) -> bool {
        self.kind == TlsErrorKind::PeerIdentityMismatch
    }

    fn new(kind: TlsErrorKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }

    /// Reads what tokio-rustls packs into an IO error.
    ///
    /// Of use after the handshake too: in TLS 1.3 a client is done before the server has judged its
    /// certificate, so the refusal arrives with the first read.
    pub fn from_io(error: &io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match inner {
            Some(fault) => Self::from_rustls(fault),
            None => {
                Self::new(TlsErrorKind::Closed, format!("the connection ended in the TLS handshake: {error}"))
            }
        }
    }

    fn from_rustls(fault: &rustls::Error) -> Self {
        use rustls::Error as E;
        match fault {
            E::InvalidCertificate(fault) => Self::from_certificate(fault),
            E::NoCertificatesPresented => Self::no_certificate(),
            E::AlertReceived(alert) => Self::new(TlsErrorKind::RefusedByPeer, refusal(*alert)),
            E::InvalidMessage(_) => Self::new(
                TlsErrorKind::Handshake,
                format!("the peer does not speak TLS here ({fault}); check the port and its tls setting"),
            ),
            E::PeerIncompatible(why) => Self::new(
                TlsErrorKind::Handshake,
                format!(
                    "no TLS version or cipher in common with the peer ({why:?}); compare tls.min_version"
                ),
            ),
            E::NoApplicationProtocol => {
                Self::new(TlsErrorKind::Handshake, "the peer offers no protocol (ALPN) that is spoken here")
            }
            fault => Self::new(TlsErrorKind::Handshake, format!("TLS handshake failed: {fault}")),
        }
    }

    fn from_certificate(fault: &CertificateError) -> Self {
        use CertificateError as E;
        let certificate = |detail: &str| Self::new(TlsErrorKind::Certificate, detail);
        match fault {
            E::ExpiredContext { not_after, .. } => {
                Self::expired(i64::try_from(not_after.as_secs()).unwrap_or(i64::MAX))
            }
            E::Expired => certificate("the peer's certificate, or one that vouches for it, has expired"),
            E::NotValidYet | E::NotValidYetContext { .. } => {
                certificate("the peer's certificate holds only in the future; compare the clocks")
            }
            E::UnknownIssuer => certificate(
                "the peer's certificate is of an unknown issuer: no CA of the trust bundle vouches for it",
            ),
            E::BadSignature => certificate(
                "the peer's certificate has a bad signature; the bundle may have another CA of that name",
            ),
            E::Revoked => certificate("the peer's certificate has been revoked"),
            E::InvalidPurpose | E::InvalidPurposeContext { .. } => certificate(
                "the peer's certificate is for another purpose; its extended key usage needs client and \
                 server authentication",
            ),
            E::NotValidForName | E::NotValidForNameContext { .. } => Self::new(
                TlsErrorKind::PeerIdentityMismatch,
                format!("the server is not who it must be: {fault}; check tls.sni"),
            ),
            E::Other(other) => Self::from_other(&*other.0),
            fault => certificate(&format!("the peer's certificate is not acceptable: {fault}")),
        }
    }

    fn from_other(fault: &(dyn std::error::Error + Send + Sync + 'static)) -> Self {
        if let Some(rejection) = fault.downcast_ref::<Rejection>() {
            let kind = if rejection.is_mismatch() {
                TlsErrorKind::PeerIdentityMismatch
            } else {
                TlsErrorKind::Certificate
            };
            return Self::new(kind, rejection.to_string());
        }
        let detail = match fault.downcast_ref::<webpki::Error>() {
            // webpki fails every URI name under a CA with a URI constraint, permitted or not
            Some(webpki::Error::NameConstraintViolation) => {
                "a CA's name constraints exclude the peer's certificate; CAs with URI constraints do not work"
                    .to_owned()
            }
            Some(webpki::Error::CaUsedAsEndEntity) => {
                "the peer presents a CA's certificate as its own; its own must come first".to_owned()
            }
            _ => format!("the peer's certificate is not acceptable: {fault}"),
        };
        Self::new(TlsErrorKind::Certificate, detail)
    }

    fn identity(fault: &impl ToString) -> Self {
        Self::new(TlsErrorKind::PeerIdentityMismatch, fault.to_string())
    }

    fn not_ready(why: &str) -> Self {
        Self::new(TlsErrorKind::NotReady, format!("no certificate yet: {why}"))
    }

    fn no_certificate() -> Self {
        Self::new(
            TlsErrorKind::Certificate,
            "the peer presented no certificate; it has no identity, or is outside the mesh",
        )
    }

    fn expired(not_after: i64) -> Self {
        Self::new(
            TlsErrorKind::Certificate,
            format!("the peer's certificate expired at {}; check its rotation", date(not_after)),
        )
    }
}

/// What the peer's alert (RFC 8446, 6.2) means to an operator.
fn refusal(alert: AlertDescription) -> String {
    use AlertDescription as A;
    let why = match alert {
        A::UnknownCA => "our certificate comes from a CA it does not know; compare the trust bundles",
        A::CertificateExpired => "our certificate has expired for it; check rotation, and both clocks",
        A::CertificateRevoked => "our certificate is revoked",
        A::CertificateRequired => "it requires a certificate and we have none; set identity, or tls: mutual",
        A::BadCertificate | A::CertificateUnknown | A::UnsupportedCertificate => {
            "our certificate is not acceptable to it; its log says why"
        }
        A::AccessDenied => "we are not admitted; its log says why",
        A::ProtocolVersion => "no TLS version in common; compare tls.min_version",
        A::HandshakeFailure | A::InsufficientSecurity => "no cipher or key exchange in common",
        A::NoApplicationProtocol => "no protocol (ALPN) in common; compare protocol",
        A::UnrecognisedName => "it does not know the server name we asked for; check tls.sni",
        _ => "its log may say why",
    };
    format!("the peer refused the TLS handshake ({alert:?}): {why}")
}

/// Why TLS cannot be set up as configured; found when a config is built, not per connection.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("tls: mutual needs an identity of our own; set identity, or tls: simple")]
    NeedsIdentity,
    #[error("tls: simple needs certificates to trust; set tls.trust_bundle to a PEM file of CAs")]
    NeedsTrustBundle,
    #[error("tls: simple needs the server's name to verify; set tls.sni")]
    NeedsServerName,
    #[error("tls.sni {0:?} is not a host name")]
    BadServerName(String),
    #[error(transparent)]
    TrustBundle(#[from] CredentialsError),
    #[error("the trust bundle cannot verify anyone: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
}

/// The second look of [`Peer::of`] for a client, which needs no more of its server than that it still holds.
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
