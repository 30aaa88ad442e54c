//! The reasons for which we refuse a certificate that rustls would accept: texts for the operator, the cause for the metric,
//! and the error that chooses the alert.

use std::sync::Arc;

use pillion_model::SpiffeId;
use rustls::{CertificateError, OtherError};

use super::path::PathFault;
use crate::identity::NotAnIdentity;

/// Why a genuine certificate is still refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rejection {
    #[error("the {who}'s certificate is not a workload's: {fault}")]
    NotAnIdentity { who: &'static str, fault: NotAnIdentity },
    #[error("the {who} is {id}, expected {}", list(expected))]
    WrongIdentity { who: &'static str, id: SpiffeId, expected: Vec<SpiffeId> },
    #[error("the {who} is {id}, expected any identity of {}", domains(expected))]
    WrongTrustDomain { who: &'static str, id: SpiffeId, expected: Vec<String> },
    #[error(
        "the {who} is {id}, and its trust domain has no trust bundle here; add one to identity.federation"
    )]
    NoBundle { who: &'static str, id: SpiffeId },
    #[error(
        "the {who}'s certificate has been revoked: the list of {issuer} names serial {serial}; issue a new one"
    )]
    Revoked { who: &'static str, serial: String, issuer: String },
    #[error("cannot check whether the {who}'s certificate is revoked: the list of {issuer} fails ({fault})")]
    UnusableList { who: &'static str, issuer: String, fault: webpki::Error },
    #[error("the {who}'s certificate is refused: {fault}")]
    NoPath { who: &'static str, fault: PathFault },
}

impl Rejection {
    /// Whether the peer is another one than expected. All other reasons are about a certificate of the right peer.
    pub(super) fn is_mismatch(&self) -> bool {
        match self {
            Self::Revoked { .. } | Self::UnusableList { .. } | Self::NoPath { .. } => false,
            Self::NotAnIdentity { fault, .. } => !matches!(fault, NotAnIdentity::WeakKey(_)),
            Self::WrongIdentity { .. } | Self::WrongTrustDomain { .. } | Self::NoBundle { .. } => true,
        }
    }

    /// As [`TlsError::cause`](super::TlsError::cause).
    pub(super) const fn cause(&self) -> &'static str {
        match self {
            Self::NotAnIdentity { fault: NotAnIdentity::WeakKey(_), .. } => "key not accepted",
            Self::NotAnIdentity { .. } => "no identity",
            Self::WrongIdentity { .. } => "another identity",
            Self::WrongTrustDomain { .. } | Self::NoBundle { .. } => "another trust domain",
            Self::Revoked { .. } => "revoked",
            Self::UnusableList { .. } => "revocation unknown",
            Self::NoPath { fault, .. } => fault.cause(),
        }
    }

    /// The error for rustls, which chooses the alert by it: the peer learns what is wrong with its certificate as far as
    /// TLS can state it.
    pub(super) fn tls_error(&self) -> CertificateError {
        let plain = match self {
            Self::Revoked { .. } => Some(CertificateError::Revoked),
            Self::UnusableList { .. } => Some(CertificateError::UnknownRevocationStatus),
            Self::NoPath { fault, .. } => fault.tls_error(),
            Self::NotAnIdentity { .. }
            | Self::WrongIdentity { .. }
            | Self::WrongTrustDomain { .. }
            | Self::NoBundle { .. } => None,
        };
        plain.unwrap_or_else(|| CertificateError::Other(OtherError(Arc::new(self.clone()))))
    }
}

fn domains(expected: &[String]) -> String {
    match expected {
        [only] => format!("the trust domain {only:?}"),
        several => format!("one of the trust domains {}", several.join(", ")),
    }
}

fn list(expected: &[SpiffeId]) -> String {
    match expected {
        [only] => only.to_string(),
        several => format!("one of {}", several.iter().map(SpiffeId::as_str).collect::<Vec<_>>().join(", ")),
    }
}
