//! Why a handshake failed, in words for an operator.

use std::io;

use pillion_model::SpiffeId;
use rustls::{AlertDescription, CertificateError, InvalidMessage};

use super::notes::Notes;
use super::rejection::Rejection;
use crate::identity::date;

/// The kind of a handshake's failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsErrorKind {
    /// The peer's certificate is expired, unknown to us, or otherwise not acceptable.
    Certificate,
    /// The peer proved its identity, and it is not the expected one.
    PeerIdentityMismatch,
    /// The peer refused us by an alert.
    RefusedByPeer,
    /// The connection ended before the handshake did.
    Closed,
    /// The peers have no TLS version or cipher in common, or the peer does not speak TLS.
    Handshake,
    /// Our own certificate is missing. The peer was not contacted.
    NotReady,
}

const TOO_LONG: &str =
    "the peer sends more in its handshake than TLS allows; check how many certificates it shows";

/// The most characters of a detail. It may quote a peer's certificate, which may have 60 KB of names, and it appears in log
/// lines and in the head of an answer.
const MOST_DETAIL: usize = 1024;
/// The most names of a certificate that a detail lists.
const MOST_NAMES: usize = 3;

/// A handshake that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct TlsError {
    pub kind: TlsErrorKind,
    /// One of a fixed set of short causes. Failures of one cause are counted together in the log.
    pub cause: &'static str,
    /// What happened and where to look, in words for an operator.
    pub detail: String,
    /// The identity that the refused certificate names. It is only a claim and proves nothing.
    pub claimed: Option<SpiffeId>,
    /// Whether the peer refused our certificate, or refused us because we showed none.
    pub is_of_our_certificate: bool,
}

impl TlsError {
    pub fn is_identity_mismatch(&self) -> bool {
        self.kind == TlsErrorKind::PeerIdentityMismatch
    }

    fn new(kind: TlsErrorKind, cause: &'static str, detail: impl AsRef<str>) -> Self {
        let detail = one_line(detail.as_ref());
        Self { kind, cause, detail, claimed: None, is_of_our_certificate: false }
    }

    /// Reads the TLS error inside an IO error of tokio-rustls.
    ///
    /// Also used after the handshake: a TLS 1.3 client ends its handshake before the server has judged its certificate,
    /// so the refusal arrives with the first read.
    pub fn from_io(error: &io::Error) -> Self {
        match rustls_error(error) {
            Some(fault) => Self::from_rustls(fault),
            None if error.kind() == io::ErrorKind::QuotaExceeded => Self::new(
                TlsErrorKind::Handshake,
                "too long",
                "the peer sends more than 12 KiB in its handshake; check how many certificates it shows",
            ),
            // rustls holds 64 KiB of a handshake message with the headers of its records
            None if error.kind() == io::ErrorKind::InvalidData => {
                Self::new(TlsErrorKind::Handshake, "too long", TOO_LONG)
            }
            None => Self::new(
                TlsErrorKind::Closed,
                "closed in the handshake",
                format!("the connection ended in the TLS handshake: {error}"),
            ),
        }
    }

    /// The TLS error inside an IO error; `None` for an error of the transport below TLS.
    pub fn inside(error: &io::Error) -> Option<Self> {
        rustls_error(error).map(Self::from_rustls)
    }

    /// The error of a handshake, with the notes of its verifiers: they know more than rustls can pass on.
    pub(super) fn of_handshake(error: &io::Error, notes: Notes) -> Self {
        let error = match &notes.rejection {
            Some(rejection) => Self::from_rejection(rejection),
            None => Self::from_io(error),
        };
        Self { claimed: notes.claimed, ..error }
    }

    pub(super) fn from_rustls(fault: &rustls::Error) -> Self {
        use rustls::Error as E;
        let handshake = |cause, detail: String| Self::new(TlsErrorKind::Handshake, cause, detail);
        match fault {
            E::InvalidCertificate(fault) => Self::from_certificate(fault),
            E::NoCertificatesPresented => Self::no_certificate(),
            E::AlertReceived(alert) => Self::refused(*alert),
            E::InvalidMessage(
                InvalidMessage::HandshakePayloadTooLarge | InvalidMessage::CertificatePayloadTooLarge,
            ) => handshake("too long", TOO_LONG.to_owned()),
            E::InvalidMessage(_) => handshake(
                "no TLS",
                format!("the peer does not speak TLS here ({fault}); check the port and its tls setting"),
            ),
            E::PeerIncompatible(why) => handshake(
                "nothing in common",
                format!(
                    "no TLS version or cipher in common with the peer ({why:?}); compare tls.min_version"
                ),
            ),
            E::NoApplicationProtocol => handshake(
                "no protocol in common",
                "the peer offers no protocol (ALPN) that is spoken here".to_owned(),
            ),
            fault => handshake("broken", format!("TLS failed: {fault}")),
        }
    }

    pub(super) fn from_certificate(fault: &CertificateError) -> Self {
        use CertificateError as E;
        let certificate = |cause, detail: &str| Self::new(TlsErrorKind::Certificate, cause, detail);
        match fault {
            E::ExpiredContext { not_after, .. } => {
                Self::expired(i64::try_from(not_after.as_secs()).unwrap_or(i64::MAX))
            }
            E::Expired => {
                certificate("expired", "the peer's certificate, or the certificate of its CA, has expired")
            }
            E::NotValidYet | E::NotValidYetContext { .. } => certificate(
                "not valid yet",
                "the peer's certificate is not valid yet; compare the clocks of both sides",
            ),
            E::UnknownIssuer => certificate(
                "unknown CA",
                "the peer's certificate is of an unknown issuer: no CA of the trust bundle signed it",
            ),
            E::BadSignature => certificate(
                "bad signature",
                "the peer does not have the key of its certificate: its signature in the handshake is bad",
            ),
            E::Revoked => certificate("revoked", "the peer's certificate has been revoked"),
            E::InvalidPurpose | E::InvalidPurposeContext { .. } => certificate(
                "wrong key usage",
                "the peer's certificate is for another purpose; its extended key usage needs client and \
                 server authentication",
            ),
            E::NotValidForNameContext { expected, presented } => {
                Self::wrong_name(&expected.to_str(), presented)
            }
            E::NotValidForName => Self::new(
                TlsErrorKind::PeerIdentityMismatch,
                "wrong name",
                "the server's certificate is for another name; check tls.sni",
            ),
            E::Other(other) => Self::from_other(&*other.0),
            fault => {
                certificate("not acceptable", &format!("the peer's certificate is not acceptable: {fault}"))
            }
        }
    }

    fn wrong_name(expected: &str, presented: &[String]) -> Self {
        let listed = presented.iter().take(MOST_NAMES).map(String::as_str).collect::<Vec<_>>().join(", ");
        let names = match presented.len().saturating_sub(MOST_NAMES) {
            _ if presented.is_empty() => "no name".to_owned(),
            0 => listed,
            more => format!("{listed} and {more} more names"),
        };
        let detail = format!(
            "the server's certificate is for another name than {expected:?}: it has {names}; check tls.sni"
        );
        Self::new(TlsErrorKind::PeerIdentityMismatch, "wrong name", detail)
    }

    fn from_other(fault: &(dyn std::error::Error + Send + Sync + 'static)) -> Self {
        if let Some(rejection) = fault.downcast_ref::<Rejection>() {
            return Self::from_rejection(rejection);
        }
        let (cause, detail) = match fault.downcast_ref::<webpki::Error>() {
            // webpki fails every URI name under a CA with a URI constraint, permitted or not
            Some(webpki::Error::NameConstraintViolation) => (
                "name constraint",
                "a CA's name constraints exclude the peer's certificate; CAs with URI constraints do not work"
                    .to_owned(),
            ),
            Some(webpki::Error::CaUsedAsEndEntity) => (
                "a CA's certificate",
                "the peer presents a CA's certificate as its own; its own must come first".to_owned(),
            ),
            _ => ("not acceptable", format!("the peer's certificate is not acceptable: {fault}")),
        };
        Self::new(TlsErrorKind::Certificate, cause, detail)
    }

    pub(super) fn from_rejection(rejection: &Rejection) -> Self {
        let kind = match rejection.is_mismatch() {
            true => TlsErrorKind::PeerIdentityMismatch,
            false => TlsErrorKind::Certificate,
        };
        Self::new(kind, rejection.cause(), rejection.to_string())
    }

    /// The meaning of the peer's alert (RFC 8446, 6.2) for an operator.
    fn refused(alert: AlertDescription) -> Self {
        let refused = |cause, detail| Self::new(TlsErrorKind::RefusedByPeer, cause, detail);
        match (refused_certificate(alert), refused_handshake(alert)) {
            (Some((cause, hint)), _) => Self {
                is_of_our_certificate: true,
                ..refused(cause, format!("the peer refused our certificate: {cause}; {hint}"))
            },
            (None, Some((cause, hint))) => {
                refused(cause, format!("the peer refused the TLS handshake: {cause}; {hint}"))
            }
            (None, None) => refused(
                "another alert",
                format!("the peer ended the TLS connection by an alert ({alert:?}); its log may say why"),
            ),
        }
    }

    pub(super) fn identity(fault: &impl ToString) -> Self {
        Self::new(TlsErrorKind::PeerIdentityMismatch, "no identity", fault.to_string())
    }

    pub(super) fn not_ready(why: &str) -> Self {
        Self::new(TlsErrorKind::NotReady, "not ready", format!("certificates are missing: {why}"))
    }

    pub(super) fn no_certificate() -> Self {
        Self::new(
            TlsErrorKind::Certificate,
            "no certificate",
            "the peer presented no certificate; it has no identity, or is outside the mesh",
        )
    }

    pub(super) fn expired(not_after: i64) -> Self {
        Self::new(
            TlsErrorKind::Certificate,
            "expired",
            format!("the peer's certificate expired at {}; check its rotation", date(not_after)),
        )
    }
}

/// The text without control characters, which could begin a new line of the log. The middle of a text that is longer than
/// [`MOST_DETAIL`] is left out: the end often says what is wrong.
fn one_line(text: &str) -> String {
    let mut line = Vec::with_capacity(text.len());
    for char in text.chars() {
        match char.is_control() {
            true => line.extend(char.escape_default()),
            false => line.push(char),
        }
    }
    match line.len().checked_sub(MOST_DETAIL) {
        None | Some(0) => line.into_iter().collect(),
        Some(surplus) => {
            let (first, rest) = line.split_at(MOST_DETAIL / 2);
            first.iter().chain(&['…']).chain(rest.iter().skip(surplus)).collect()
        }
    }
}

/// The rustls error inside an IO error of tokio-rustls. `None` for errors of the transport below TLS.
pub(super) fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Whether the server refused us by this error. It has then read nothing of what was sent to it.
pub(super) fn is_refusal(fault: &rustls::Error) -> bool {
    matches!(fault, rustls::Error::AlertReceived(alert)
        if refused_certificate(*alert).is_some() || refused_handshake(*alert).is_some())
}

type Words = (&'static str, &'static str);

/// Alerts about our certificate: the cause, and where to look.
const fn refused_certificate(alert: AlertDescription) -> Option<Words> {
    use AlertDescription as A;
    Some(match alert {
        A::CertificateExpired => ("expired", "check its rotation, and the clocks of both sides"),
        A::CertificateRevoked => ("revoked", "issue a new one"),
        A::UnknownCA => ("unknown CA", "compare the trust bundles of both sides"),
        A::CertificateRequired => ("none was presented", "it requires one: set identity, or tls: mutual"),
        A::UnsupportedCertificate => {
            ("unsupported certificate", "its extended key usage needs client and server authentication")
        }
        A::BadCertificate => ("bad certificate", "the peer's log says why; check its signature algorithm"),
        A::CertificateUnknown => ("not acceptable", "the peer's log says why"),
        A::AccessDenied => ("access denied", "the peer's log says why"),
        _ => return None,
    })
}

/// Alerts about the rest of the handshake: the cause, and where to look.
const fn refused_handshake(alert: AlertDescription) -> Option<Words> {
    use AlertDescription as A;
    Some(match alert {
        A::ProtocolVersion => ("no TLS version in common", "compare tls.min_version"),
        A::HandshakeFailure | A::InsufficientSecurity => {
            ("no cipher or key exchange in common", "the peer's log may say why")
        }
        A::NoApplicationProtocol => ("no protocol (ALPN) in common", "compare protocol"),
        A::UnrecognisedName => ("it does not know the server name that was asked for", "check tls.sni"),
        A::DecryptError => {
            ("a signature does not verify", "the trust bundle may have another CA of the same name")
        }
        _ => return None,
    })
}
