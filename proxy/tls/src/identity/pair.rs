//! A certificate chain and its key, by which this sidecar is known outside the mesh. Its names need not be SPIFFE IDs.
//!
//! A [`Pair`] never changes. Deliberately absent: trust bundles, and watching files (`material`).

use std::sync::Arc;

use pillion_model::identity::KeyPair;
use rustls::sign::CertifiedKey;
use serde_json::Value;

use super::credentials::{self, CredentialsError};
use super::view::CertificateView;
use super::{Validity, parse};

#[derive(Debug, Clone)]
pub struct Pair {
    /// The chain, its own certificate first, with its key. They were checked to belong together.
    pub key: Arc<CertifiedKey>,
    pub validity: Validity,
}

impl Pair {
    /// Reads the files. A certificate that is not valid at `now`, in Unix seconds, replaces none that is: an issuer that
    /// writes an old file again must not break what works. Without a valid one before, it is used, and its peers judge it.
    ///
    /// # Errors
    /// A file is unreadable, the two do not belong together, or the certificate is not valid. Blocks on file IO.
    pub fn load(files: &KeyPair, before: Option<&Self>, now: i64) -> Result<Self, CredentialsError> {
        let KeyPair { certificate: path, key } = files;
        let chain = credentials::read_chain(path)?;
        let unreadable = |source| CredentialsError::NotAnIdentity { path: path.clone(), source };
        let own = chain.first().ok_or_else(|| CredentialsError::NoCertificate { path: path.clone() })?;
        let validity = Validity::of(&parse(own).map_err(unreadable)?);
        if before.is_some_and(|before| before.validity.includes(now)) {
            credentials::check_dates(path, validity, now)?;
        }
        let key = Arc::new(credentials::read_key(path, key, chain)?);
        Ok(Self { key, validity })
    }

    /// The certificates, as the page `/certs` shows them.
    pub fn to_json(&self) -> Vec<Value> {
        CertificateView::chain(&self.key.cert).iter().map(CertificateView::to_json).collect()
    }
}
