//! Certificate revocation lists (RFC 5280, 5): which certificates of a CA are no longer valid.
//!
//! Lists are read and replaced together with the trust bundle. A list whose `nextUpdate` has passed stays in force,
//! with a warning at load. So revoked certificates stay refused; refusing every peer would turn an outage of the list's
//! publisher into an outage of the whole mesh. Deliberately absent: fetching lists, and the verdict about a peer
//! (`tls::verify`).

use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::CertificateRevocationListDer;
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::credentials::CredentialsError;
use super::pem::{self, BadBlocks, Kind};
use super::{date, parse};
use crate::provider;

/// The list of one CA, checked to be well formed.
#[derive(Debug)]
pub struct RevocationList {
    /// The DER name of the CA, by which the list is found.
    pub issuer: Vec<u8>,
    /// The CA's name as text.
    pub issuer_name: String,
    /// Unix seconds.
    pub this_update: i64,
    /// The last second for which the CA promises that the list is current, in Unix seconds. A few lists have none.
    pub next_update: Option<i64>,
    /// The number of certificates that the list revokes.
    pub revoked: usize,
    pub list: CertRevocationList<'static>,
}

/// Why a list cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadList {
    #[error("it holds no list; expected a PEM block `BEGIN X509 CRL`, or one list in DER")]
    None,
    #[error(transparent)]
    Pem(#[from] BadBlocks),
    #[error("list {number} cannot be read: {fault}")]
    Unreadable { number: usize, fault: String },
    #[error("list {number} cannot be used: {fault}")]
    Unusable { number: usize, fault: webpki::Error },
    #[error("list {number} names {issuer} as its CA, but no CA of that name in the trust bundle signed it")]
    Forged { number: usize, issuer: String },
}

/// Reads these lists.
///
/// If a CA in `bundle` has the list's name, the list must have its signature. Other lists belong to intermediate CAs:
/// their signature is verified when a peer shows the CA's certificate.
///
/// # Errors
/// [`CredentialsError::BadCrl`]. A list that was read only in part would admit certificates that it revokes.
pub(super) fn read(
    path: &Path,
    ders: &[CertificateRevocationListDer<'_>],
    bundle: &[CertificateDer<'_>],
) -> Result<Vec<RevocationList>, CredentialsError> {
    let lists = ders.iter().enumerate().map(|(index, der)| RevocationList::read(index + 1, der, bundle));
    lists
        .collect::<Result<_, _>>()
        .map_err(|source| CredentialsError::BadCrl { path: path.to_owned(), source })
}

/// The first byte of every DER list, a SEQUENCE (0x30). PEM text never begins with this byte, which is the digit zero:
/// it begins with a dash or with a comment, which OpenSSL writes as `Certificate Revocation List`.
const SEQUENCE: u8 = 0x30;

/// The lists of one file: PEM with one or several lists, or one list in DER.
///
/// # Errors
/// [`CredentialsError::BadCrl`], also when there is none.
pub(super) fn ders(
    path: &Path,
    bytes: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, CredentialsError> {
    let refused = |source| CredentialsError::BadCrl { path: path.to_owned(), source };
    if bytes.first() == Some(&SEQUENCE) {
        return Ok(vec![bytes.to_vec().into()]);
    }
    match pem::blocks(bytes, Kind::RevocationList) {
        Ok(lists) if lists.is_empty() => Err(refused(BadList::None)),
        Ok(lists) => Ok(lists),
        Err(fault) => Err(refused(fault.into())),
    }
}

impl RevocationList {
    fn read(number: usize, der: &[u8], bundle: &[CertificateDer<'_>]) -> Result<Self, BadList> {
        let unreadable = |fault| BadList::Unreadable { number, fault };
        let (rest, parsed) =
            CertificateRevocationList::from_der(der).map_err(|fault| unreadable(fault.to_string()))?;
        if !rest.is_empty() {
            return Err(unreadable(format!("{} bytes after its end", rest.len())));
        }
        let list =
            OwnedCertRevocationList::from_der(der).map_err(|fault| BadList::Unusable { number, fault })?;
        let issuer_name = parsed.issuer().to_string();
        if !is_signed_by_bundle(&parsed, bundle) {
            return Err(BadList::Forged { number, issuer: issuer_name });
        }
        Ok(Self {
            issuer: parsed.issuer().as_raw().to_vec(),
            issuer_name,
            this_update: parsed.last_update().timestamp(),
            next_update: parsed.next_update().map(|at| at.timestamp()),
            revoked: parsed.iter_revoked_certificates().count(),
            list: list.into(),
        })
    }

    pub fn is_outdated(&self, now: i64) -> bool {
        self.next_update.is_some_and(|next| now > next)
    }

    /// Warns, once per load, about a list that should have been replaced by a newer one.
    pub(super) fn warn_if_outdated(&self, path: &Path, now: i64) {
        if let (true, Some(next)) = (self.is_outdated(now), self.next_update) {
            tracing::warn!(
                file = %path.display(), issuer = %self.issuer_name, next_update = %date(next),
                "a revocation list is out of date: it stays in force, but certificates that were revoked since are accepted"
            );
        }
    }
}

/// Whether one of the bundle's CAs with the list's name signed the list, or the bundle has no CA with that name. After
/// a change of its key a CA may be in the bundle twice.
fn is_signed_by_bundle(list: &CertificateRevocationList<'_>, bundle: &[CertificateDer<'_>]) -> bool {
    let mut named = false;
    for der in bundle {
        // a root that webpki accepted but x509-parser cannot read signs no list
        let Ok(ca) = parse(der) else { continue };
        if ca.subject().as_raw() != list.issuer().as_raw() {
            continue;
        }
        named = true;
        if is_signed_by(list, &ca.public_key().subject_public_key.data) {
            return true;
        }
    }
    !named
}

/// Tries every algorithm: only the key matters, and it is the key of a CA that we trust.
fn is_signed_by(list: &CertificateRevocationList<'_>, key: &[u8]) -> bool {
    let (message, signature) = (list.tbs_cert_list.as_ref(), &list.signature_value.data);
    let algorithms = provider::any().signature_verification_algorithms.all;
    algorithms.iter().any(|algorithm| algorithm.verify_signature(key, message, signature).is_ok())
}
