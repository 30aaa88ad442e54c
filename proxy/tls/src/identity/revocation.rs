//! Certificate revocation lists (RFC 5280, 5): which certificates of a CA no longer hold.
//!
//! Read with the trust bundle and swapped with it. A list whose `nextUpdate` has passed stays in force and is told
//! of loudly at load: with it the revoked stay out, while refusing everybody would turn a publisher's outage into one
//! of the whole mesh. Deliberately absent: fetching lists, and the verdict on a peer (`tls::verify`).

use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::{self, PemObject};
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::credentials::CredentialsError;
use super::{date, parse};
use crate::provider;

/// One CA's list, known to be well formed.
#[derive(Debug)]
pub struct RevocationList {
    /// The DER name of the CA, to find the list by.
    pub issuer: Vec<u8>,
    /// The CA's name as people read it.
    pub issuer_name: String,
    /// Unix seconds.
    pub this_update: i64,
    /// Unix seconds; the last at which the CA stands by it. Few lists have none.
    pub next_update: Option<i64>,
    /// How many certificates it names.
    pub revoked: usize,
    pub list: CertRevocationList<'static>,
}

/// Why a list cannot be relied on.
#[derive(Debug, thiserror::Error)]
pub enum BadList {
    #[error("it holds no list; expected a PEM block `BEGIN X509 CRL`, or one list in DER")]
    None,
    #[error("it is not valid PEM: {0}")]
    Pem(pem::Error),
    #[error("list {number} cannot be read: {fault}")]
    Unreadable { number: usize, fault: String },
    #[error("list {number} cannot be used: {fault}")]
    Unusable { number: usize, fault: webpki::Error },
    #[error(
        "list {number} says that it is of {issuer}, but no CA of that name in the trust bundle signed it"
    )]
    Forged { number: usize, issuer: String },
}

/// Reads the lists of one file, PEM with one or several or a single DER.
///
/// A list of a CA in `bundle` must bear its signature. Others are of intermediate CAs: their signature is verified
/// when a peer brings the CA's certificate.
///
/// # Errors
/// [`CredentialsError::BadCrl`]: half a list would let in whom it was to keep out.
pub(super) fn read(
    path: &Path,
    bytes: &[u8],
    bundle: &[CertificateDer<'_>],
) -> Result<Vec<RevocationList>, CredentialsError> {
    lists(bytes, bundle).map_err(|source| CredentialsError::BadCrl { path: path.to_owned(), source })
}

fn lists(bytes: &[u8], bundle: &[CertificateDer<'_>]) -> Result<Vec<RevocationList>, BadList> {
    let ders = ders(bytes)?;
    if ders.is_empty() {
        return Err(BadList::None);
    }
    ders.iter().enumerate().map(|(index, der)| RevocationList::read(index + 1, der, bundle)).collect()
}

/// The first byte of any DER list: a SEQUENCE. No PEM text begins with a zero (0x30): it begins with a dash or
/// with a comment, which OpenSSL writes as `Certificate Revocation List`.
const SEQUENCE: u8 = 0x30;

fn ders(bytes: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, BadList> {
    if bytes.first() == Some(&SEQUENCE) {
        return Ok(vec![bytes.to_vec().into()]);
    }
    CertificateRevocationListDer::pem_slice_iter(bytes).collect::<Result<_, _>>().map_err(BadList::Pem)
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
        if !is_vouched_for(&parsed, bundle) {
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

    /// Tells, once per load, of a list that should have been followed by a newer one.
    pub(super) fn warn_if_outdated(&self, path: &Path, now: i64) {
        if let (true, Some(next)) = (self.is_outdated(now), self.next_update) {
            tracing::warn!(
                file = %path.display(), issuer = %self.issuer_name, next_update = %date(next),
                "a revocation list is out of date: it stays in force, but certificates revoked since are let in"
            );
        }
    }
}

/// By one of the CAs of that name, where the bundle has any: after a change of its key a CA may stand there twice.
fn is_vouched_for(list: &CertificateRevocationList<'_>, bundle: &[CertificateDer<'_>]) -> bool {
    let mut named = false;
    for der in bundle {
        // what webpki could take up as a root, yet x509-parser cannot read, vouches for nothing
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

/// By whatever algorithm: the key decides, and it is a CA's that we trust.
fn is_signed_by(list: &CertificateRevocationList<'_>, key: &[u8]) -> bool {
    let (message, signature) = (list.tbs_cert_list.as_ref(), &list.signature_value.data);
    let algorithms = provider::any().signature_verification_algorithms.all;
    algorithms.iter().any(|algorithm| algorithm.verify_signature(key, message, signature).is_ok())
}
