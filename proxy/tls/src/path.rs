//! Verifies the path from a peer's certificate to a CA of a bundle: RFC 5280, 6, and X.509-SVID, 5.1.
//!
//! webpki builds the path. It does not read the key usage of the CAs in it, so this module does. Deliberately absent:
//! names and identities of the peer (`verify`), and revocation (`revocation`).

use std::time::Duration;

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use rustls::{CertificateError, RootCertStore};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, GeneralSubtree, NameConstraints};
use x509_parser::prelude::FromDer;

use super::branches;
use crate::identity::{date, parse, unix_seconds};

/// A certificate is accepted this long before its validity begins: the clock of its CA may be ahead of ours, and a
/// workload uses its certificate in the second in which it is issued. SPIRE dates its certificates back by as much.
/// A certificate that has expired is accepted for no second longer.
pub(super) const CLOCK_SKEW: Duration = Duration::from_secs(10);

/// The certificates that a peer showed, and the peer's role.
pub(super) struct Shown<'a> {
    pub(super) who: &'static str,
    pub(super) end_entity: &'a CertificateDer<'a>,
    pub(super) intermediates: &'a [CertificateDer<'a>],
}

/// The tag of a SEQUENCE in DER.
const SEQUENCE: u8 = 0x30;

/// Why no valid path leads from a certificate to a CA of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathFault {
    #[error("it, or the certificate of a CA above it, expired at {}; check its rotation", date(*.0))]
    Expired(i64),
    #[error(
        "it, or the certificate of a CA above it, is not valid yet, but only from {}; compare the clocks of both sides",
        date(*.0)
    )]
    NotYetValid(i64),
    #[error("its validity, or that of a CA above it, ends before it begins; issue a new one")]
    NeverValid,
    #[error(
        "it is of an unknown issuer: no CA of the trust bundle signed it, and no intermediate certificate that was \
         shown leads to one"
    )]
    UnknownIssuer,
    #[error("it is of an unknown issuer: the trust bundle has a CA of the same name, but with another key")]
    Namesake,
    #[error(
        "it, or the certificate of a CA above it, is signed with an algorithm that is not accepted; sign with ECDSA \
         or RSA (2048 bits or more) and SHA-256 or better, or with Ed25519"
    )]
    WeakSignature,
    #[error("it is for another purpose; its extended key usage needs client and server authentication")]
    Purpose,
    #[error(
        "a CA above it has name constraints for URIs, which cannot be judged here; use a CA without them, and a \
         trust bundle for each trust domain"
    )]
    UriConstraint,
    #[error("a CA above it has name constraints that exclude one of its names")]
    NameConstraint,
    #[error("there are more CAs between it and the trust bundle than a CA above it allows (its path length)")]
    PathLength,
    #[error(
        "the path to the trust bundle is too long, or has too many branches; show only the certificates of one path"
    )]
    TooLong,
    #[error("it is a CA's certificate, and a workload's own must come first")]
    IsCa,
    #[error(
        "a certificate above it may not sign others: it is not a CA's, or its key usage lacks keyCertSign"
    )]
    NotCa,
    #[error("it, or the certificate of a CA above it, has a critical extension that is not known here")]
    UnknownExtension,
    #[error("each path to the trust bundle has a revoked certificate")]
    Revoked,
    #[error("it, or the certificate of a CA above it, is not well formed ({0})")]
    Malformed(webpki::Error),
}

impl PathFault {
    /// As [`TlsError::cause`](super::TlsError::cause).
    pub(super) const fn cause(&self) -> &'static str {
        match self {
            Self::Expired(_) => "expired",
            Self::NotYetValid(_) | Self::NeverValid => "not valid yet",
            Self::UnknownIssuer | Self::Namesake => "unknown CA",
            Self::WeakSignature => "signature not accepted",
            Self::Purpose => "wrong key usage",
            Self::UriConstraint | Self::NameConstraint => "name constraint",
            Self::PathLength | Self::TooLong => "path too long",
            Self::IsCa => "a CA's certificate",
            Self::NotCa => "not a CA",
            Self::Revoked => "revoked",
            Self::UnknownExtension | Self::Malformed(_) => "not readable",
        }
    }

    /// The error that makes rustls send the alert which OpenSSL sends for the same fault.
    pub(super) const fn tls_error(&self) -> Option<CertificateError> {
        Some(match self {
            Self::Expired(_) => CertificateError::Expired,
            Self::NotYetValid(_) | Self::NeverValid => CertificateError::NotValidYet,
            Self::UnknownIssuer | Self::Namesake | Self::PathLength | Self::TooLong | Self::NotCa => {
                CertificateError::UnknownIssuer
            }
            Self::Purpose | Self::IsCa => CertificateError::InvalidPurpose,
            Self::WeakSignature | Self::Malformed(_) => CertificateError::BadEncoding,
            Self::UnknownExtension => CertificateError::UnhandledCriticalExtension,
            Self::Revoked => CertificateError::Revoked,
            Self::UriConstraint | Self::NameConstraint => return None,
        })
    }

    fn of(fault: webpki::Error, has_uri_constraint: impl FnOnce() -> bool) -> Self {
        use webpki::Error as E;
        match fault {
            E::CertExpired { not_after, .. } => Self::Expired(unix_seconds(not_after)),
            E::CertNotValidYet { not_before, .. } => Self::NotYetValid(unix_seconds(not_before)),
            E::InvalidCertValidity => Self::NeverValid,
            E::UnknownIssuer => Self::UnknownIssuer,
            E::InvalidSignatureForPublicKey => Self::Namesake,
            E::UnsupportedSignatureAlgorithmContext(_)
            | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
            | E::SignatureAlgorithmMismatch => Self::WeakSignature,
            E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => Self::Purpose,
            E::NameConstraintViolation if has_uri_constraint() => Self::UriConstraint,
            E::NameConstraintViolation => Self::NameConstraint,
            E::PathLenConstraintViolated => Self::PathLength,
            E::MaximumPathDepthExceeded
            | E::MaximumPathBuildCallsExceeded
            | E::MaximumSignatureChecksExceeded
            | E::MaximumNameConstraintComparisonsExceeded => Self::TooLong,
            E::CaUsedAsEndEntity => Self::IsCa,
            E::EndEntityUsedAsCa => Self::NotCa,
            E::UnsupportedCriticalExtension => Self::UnknownExtension,
            E::CertRevoked => Self::Revoked,
            fault => Self::Malformed(fault),
        }
    }
}

/// A further check of one path at a time: `now`, or up to [`CLOCK_SKEW`] later. After an error other paths are tried.
pub(super) type Check<'a> = dyn Fn(&VerifiedPath<'_>, UnixTime) -> Result<(), webpki::Error> + 'a;

/// Verifies that a path which passes `check` leads from the peer's certificate to one of `roots`. The CAs of `roots` are
/// trusted as they are: their own validity and signatures do not matter.
pub(super) fn verify(
    shown: &Shown<'_>,
    roots: &RootCertStore,
    algorithms: &WebPkiSupportedAlgorithms,
    (usage, now): (KeyUsage, UnixTime),
    check: &Check<'_>,
) -> Result<(), PathFault> {
    if !branches::are_few(shown.end_entity, shown.intermediates) {
        return Err(PathFault::TooLong);
    }
    let verify_at = |at| build(shown, roots, algorithms, (usage, at), check);
    let outcome = match verify_at(now) {
        Err(webpki::Error::CertNotValidYet { not_before, .. }) if is_within_skew(not_before, now) => {
            verify_at(UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + CLOCK_SKEW))
        }
        outcome => outcome,
    };
    outcome.map_err(|fault| PathFault::of(fault, || has_uri_constraint(shown, roots)))
}

fn is_within_skew(not_before: UnixTime, now: UnixTime) -> bool {
    not_before.as_secs().saturating_sub(now.as_secs()) <= CLOCK_SKEW.as_secs()
}

fn build(
    shown: &Shown<'_>,
    roots: &RootCertStore,
    algorithms: &WebPkiSupportedAlgorithms,
    (usage, now): (KeyUsage, UnixTime),
    check: &Check<'_>,
) -> Result<(), webpki::Error> {
    let end_entity = EndEntityCert::try_from(shown.end_entity)?;
    let (roots, intermediates) = (&roots.roots, shown.intermediates);
    let path = end_entity.verify_for_usage(
        algorithms.all,
        roots,
        intermediates,
        now,
        usage,
        None,
        Some(&|path| check_cas(path).and_then(|()| check(path, now))),
    );
    path.map(drop)
}

/// Whether each intermediate CA may sign certificates by its key usage (RFC 5280, 6.1.4 n).
fn check_cas(path: &VerifiedPath<'_>) -> Result<(), webpki::Error> {
    let may_sign = |der: CertificateDer<'_>| match parse(&der) {
        Ok(ca) => ca.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.key_cert_sign())),
        Err(_unreadable) => false,
    };
    match path.intermediate_certificates().all(|ca| may_sign(ca.der())) {
        true => Ok(()),
        false => Err(webpki::Error::EndEntityUsedAsCa),
    }
}

/// Whether a CA that may be above the certificate restricts URIs. webpki refuses every URI name below such a CA.
fn has_uri_constraint(shown: &Shown<'_>, roots: &RootCertStore) -> bool {
    let of_ca = |der: &CertificateDer<'_>| parse(der).is_ok_and(|ca| restricts_uris(&ca));
    shown.intermediates.iter().any(of_ca) || roots.roots.iter().any(anchor_restricts_uris)
}

fn restricts_uris(ca: &X509Certificate<'_>) -> bool {
    ca.name_constraints().ok().flatten().is_some_and(|constraints| names_uris(constraints.value))
}

/// webpki keeps only the content of an anchor's constraints, and they are read with the SEQUENCE around it.
fn anchor_restricts_uris(anchor: &TrustAnchor<'_>) -> bool {
    let Some(content) = &anchor.name_constraints else { return false };
    let Ok(length) = u16::try_from(content.len()) else { return false };
    let der = match length.to_be_bytes() {
        [0, low @ 0..=0x7f] => [&[SEQUENCE, low], &**content].concat(),
        [0, low] => [&[SEQUENCE, 0x81, low], &**content].concat(),
        [high, low] => [&[SEQUENCE, 0x82, high, low], &**content].concat(),
    };
    NameConstraints::from_der(&der).is_ok_and(|(_, constraints)| names_uris(&constraints))
}

fn names_uris(constraints: &NameConstraints<'_>) -> bool {
    let is_uri = |subtree: &GeneralSubtree<'_>| matches!(subtree.base, GeneralName::URI(_));
    let subtrees = [&constraints.permitted_subtrees, &constraints.excluded_subtrees];
    subtrees.into_iter().flatten().flatten().any(is_uri)
}
