//! Verifies that a path without a revoked certificate leads from a peer's certificate to a CA of a bundle.
//!
//! Each list is checked alone, if its CA signed one of the certificates of the path. webpki looks only at the first list
//! with a given name, and several lists may share a name: those of a CA that changed its key, or an old list before a
//! new one. All lists are checked against one and the same path: a CA that two roots have signed has two paths, and each
//! may be revoked by another list. With a list, a full handshake verifies the path once more; without lists nothing is
//! done. A certificate whose CA has no list passes.

use std::cell::RefCell;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    Cert, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder,
    UnknownStatusPolicy, VerifiedPath,
};

use super::path::{self, PathFault, Shown};
use super::rejection::Rejection;
use crate::identity::credentials::Credentials;
use crate::identity::parse;
use crate::identity::revocation::RevocationList;

/// The revocation lists of a set of credentials.
#[derive(Debug, Clone)]
pub(super) struct Revocations {
    lists: Arc<[RevocationList]>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Revocations {
    pub(super) fn new(credentials: Option<&Credentials>, algorithms: WebPkiSupportedAlgorithms) -> Self {
        let lists = credentials.map_or_else(|| Arc::from([]), |own| own.revocations.clone());
        Self { lists, algorithms }
    }

    /// Whether there are no lists.
    pub(super) fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    /// Verifies the chain up to one of `roots`, and that none of its certificates is revoked.
    pub(super) fn verify(
        &self,
        shown: &Shown<'_>,
        roots: &RootCertStore,
        usage: &KeyUsage,
        now: UnixTime,
    ) -> Result<(), Rejection> {
        let rejection = RefCell::new(None);
        let check = |path: &VerifiedPath<'_>, now| {
            self.check(path, shown, usage, now).map_err(|why| {
                rejection.replace(Some(why));
                webpki::Error::CertRevoked
            })
        };
        path::verify(shown, roots, &self.algorithms, (*usage, now), &check).map_err(|fault| {
            match (fault, rejection.take()) {
                (PathFault::Revoked, Some(why)) => why,
                (fault, _) => Rejection::NoPath { who: shown.who, fault },
            }
        })
    }

    /// Whether no certificate of this path is revoked. `usage` and `now` must be those with which it was verified.
    fn check(
        &self,
        path: &VerifiedPath<'_>,
        shown: &Shown<'_>,
        usage: &KeyUsage,
        now: UnixTime,
    ) -> Result<(), Rejection> {
        if self.lists.is_empty() {
            return Ok(());
        }
        let intermediates: Vec<_> = path.intermediate_certificates().map(Cert::der).collect();
        let shown = &Shown { intermediates: &intermediates, ..*shown };
        for list in self.lists.iter().filter(|list| shown.is_under(list)) {
            match self.ask(list, shown, path.anchor(), usage, now) {
                Ok(()) => {}
                Err(webpki::Error::CertRevoked) => return Err(shown.revoked(list)),
                Err(fault) if is_from_ca_of_same_name(&fault) => {}
                Err(fault) => {
                    let issuer = list.issuer_name.clone();
                    return Err(Rejection::UnusableList { who: shown.who, issuer, fault });
                }
            }
        }
        Ok(())
    }

    fn ask(
        &self,
        list: &RevocationList,
        shown: &Shown<'_>,
        root: &TrustAnchor<'_>,
        usage: &KeyUsage,
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let lists = [&list.list];
        let options = RevocationOptionsBuilder::new(&lists)
            .map_err(|_none| webpki::Error::UnknownRevocationStatus)?
            .with_depth(RevocationCheckDepth::Chain)
            .with_status_policy(UnknownStatusPolicy::Allow)
            .with_expiration_policy(ExpirationPolicy::Ignore) // the reason is in `identity::revocation`
            .build();
        let (algorithms, roots) = (self.algorithms.all, std::slice::from_ref(root));
        EndEntityCert::try_from(shown.end_entity)?
            .verify_for_usage(algorithms, roots, shown.intermediates, now, *usage, Some(options), None)
            .map(drop)
    }
}

/// Whether the list was signed with another key, which is the key of another CA with the same name. The chain itself
/// was verified before, so its own signatures can fail only on the way to such a CA. webpki returns the gravest of
/// several faults, and `CertRevoked` is graver than these. A search that a peer makes too long is not among these
/// faults, and leads to a refusal.
fn is_from_ca_of_same_name(fault: &webpki::Error) -> bool {
    use webpki::Error as E;
    matches!(
        fault,
        E::InvalidCrlSignatureForPublicKey
            | E::InvalidSignatureForPublicKey
            | E::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_)
            | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
    )
}

impl Shown<'_> {
    fn certificates(&self) -> impl Iterator<Item = &CertificateDer<'_>> {
        std::iter::once(self.end_entity).chain(self.intermediates)
    }

    /// Whether the list's CA signed one of these certificates. A certificate that cannot be read counts, so that webpki
    /// decides.
    fn is_under(&self, list: &RevocationList) -> bool {
        self.certificates().any(|der| parse(der).map_or(true, |read| read.issuer().as_raw() == list.issuer))
    }

    fn revoked(&self, list: &RevocationList) -> Rejection {
        let found = self.certificates().filter_map(|der| parse(der).ok()).find_map(|read| {
            let named = list.list.find_serial(read.raw_serial()).ok().flatten().is_some();
            (named && read.issuer().as_raw() == list.issuer).then(|| read.raw_serial_as_string())
        });
        let serial = found.unwrap_or_else(|| "unknown".to_owned());
        Rejection::Revoked { who: self.who, serial, issuer: list.issuer_name.clone() }
    }
}
