//! Is one of a peer's certificates revoked? Asked after its chain has been verified.
//!
//! List by list, each of a CA that signed one of the certificates shown: webpki looks only at the first list of a
//! name, and CAs that changed their key, or old lists before new ones, share it. With a list a chain is verified once
//! more in a full handshake; without any nothing is done. A certificate whose CA has no list passes.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{
    EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder,
    UnknownStatusPolicy,
};

use super::rejection::Rejection;
use crate::identity::credentials::Credentials;
use crate::identity::parse;
use crate::identity::revocation::RevocationList;

/// The lists that a set of credentials brought.
#[derive(Debug, Clone)]
pub(super) struct Revocations {
    lists: Arc<[RevocationList]>,
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// What a peer showed, and as what.
pub(super) struct Shown<'a> {
    pub(super) who: &'static str,
    pub(super) end_entity: &'a CertificateDer<'a>,
    pub(super) intermediates: &'a [CertificateDer<'a>],
}

impl Revocations {
    pub(super) fn new(
        credentials: Option<&Credentials>,
        roots: Arc<RootCertStore>,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Self {
        let lists = credentials.map_or_else(|| Arc::from([]), |own| own.revocations.clone());
        Self { lists, roots, algorithms }
    }

    /// `usage` and `now` as for the verification that went before.
    pub(super) fn check(&self, shown: &Shown<'_>, usage: KeyUsage, now: UnixTime) -> Result<(), Rejection> {
        for list in self.lists.iter().filter(|list| shown.is_under(list)) {
            match self.ask(list, shown, usage, now) {
                Ok(()) => {}
                Err(webpki::Error::CertRevoked) => return Err(shown.revoked(list)),
                Err(fault) if is_of_a_namesake(&fault) => {}
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
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let lists = [&list.list];
        let options = RevocationOptionsBuilder::new(&lists)
            .map_err(|_none| webpki::Error::UnknownRevocationStatus)?
            .with_depth(RevocationCheckDepth::Chain)
            .with_status_policy(UnknownStatusPolicy::Allow)
            .with_expiration_policy(ExpirationPolicy::Ignore) // `identity::revocation` says why
            .build();
        let (algorithms, roots) = (self.algorithms.all, &self.roots.roots);
        EndEntityCert::try_from(shown.end_entity)?
            .verify_for_usage(algorithms, roots, shown.intermediates, now, usage, Some(options), None)
            .map(drop)
    }
}

/// The list is signed with another key: that of another CA of the same name. The chain itself was verified before, so
/// its own signatures fail only on the way to such a namesake. Of several faults webpki returns the gravest, and
/// `CertRevoked` is graver than these; a search that a peer makes too long is none of them, and refused.
fn is_of_a_namesake(fault: &webpki::Error) -> bool {
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

    /// Whether the list's CA signed one of these. What cannot be read counts: webpki then decides.
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
