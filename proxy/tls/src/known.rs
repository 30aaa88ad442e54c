//! Remembers clients whose certificates were verified, so that a client that connects often is not verified from the
//! start each time.
//!
//! A [`KnownClients`] belongs to one verifier, whose roots, revocation lists and expected identities never change. New
//! credentials bring a new verifier, which knows no client. Each use checks what may change: whether the client shows
//! the same certificates, byte for byte, and whether all of them are valid now. Deliberately absent: clients that were
//! refused, and clients that have shown a certificate without proving that they have its key.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest::SHA256_OUTPUT_LEN;
use parking_lot::Mutex;
use pillion_model::SpiffeId;
use rustls::pki_types::CertificateDer;

use super::sha256;
use crate::identity::{Subject, Validity, parse};

/// Half of the 1,024 chains that are remembered at most. The chain of a workload has about 1 KiB, and no client can
/// show more than fits into a handshake, 12 KiB.
const HALF: usize = 512;

/// The verified certificates of a client, and what they claim.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) id: SpiffeId,
    /// The last second at which the client's own certificate is valid, in Unix seconds.
    pub(super) not_after: i64,
    pub(super) certificate_sha256: [u8; SHA256_OUTPUT_LEN],
    /// The client's certificates, its own first.
    pub(super) chain: Arc<[CertificateDer<'static>]>,
    /// The time in which all certificates of the chain are valid. `None` when a certificate that the verdict did not
    /// need cannot be read.
    hold: Option<Validity>,
}

impl Verified {
    pub(super) fn new(
        subject: Subject,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Arc<Self> {
        let Subject { id, not_before, not_after } = subject;
        let chain = std::iter::once(end_entity).chain(intermediates);
        let chain = chain.map(|der| der.clone().into_owned()).collect();
        let hold = intermediates.iter().try_fold(Validity { not_before, not_after }, |both, der| {
            parse(der).ok().map(|read| both.and(Validity::of(&read)))
        });
        Arc::new(Self { id, not_after, certificate_sha256: sha256(end_entity), chain, hold })
    }

    /// Whether the verdict would be the same for these certificates at the Unix second `now`.
    fn is_of(&self, end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>], now: i64) -> bool {
        self.hold.is_some_and(|hold| hold.includes(now))
            && self.chain.split_first() == Some((end_entity, intermediates))
    }
}

/// The chains that were verified and whose clients have proven their key. The least recently used half is dropped
/// first.
#[derive(Debug, Default)]
pub(super) struct KnownClients(Mutex<Halves>);

/// Keyed by the hash of the client's own certificate: each certificate has one place, whatever is shown with it.
type Chains = HashMap<[u8; SHA256_OUTPUT_LEN], Arc<Verified>>;

/// A chain that is looked up moves into `recent`. When `recent` has [`HALF`] chains, it becomes `former`, and the old
/// `former` is dropped.
#[derive(Debug, Default)]
struct Halves {
    recent: Chains,
    former: Chains,
}

impl KnownClients {
    /// `now` is in Unix seconds. `None` means that the chain must be verified.
    pub(super) fn find(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: i64,
    ) -> Option<Arc<Verified>> {
        let certificate = sha256(end_entity);
        let found = self.0.lock().find(&certificate)?;
        found.is_of(end_entity, intermediates, now).then_some(found)
    }

    /// Remembers a client that has proven to have the key of these certificates.
    pub(super) fn keep(&self, verified: Arc<Verified>) {
        if verified.hold.is_some() {
            self.0.lock().keep(verified);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let halves = self.0.lock();
        halves.recent.len() + halves.former.len()
    }
}

impl Halves {
    fn find(&mut self, certificate: &[u8; SHA256_OUTPUT_LEN]) -> Option<Arc<Verified>> {
        if let Some(recent) = self.recent.get(certificate) {
            return Some(recent.clone());
        }
        let former = self.former.remove(certificate)?;
        self.keep(former.clone());
        Some(former)
    }

    fn keep(&mut self, verified: Arc<Verified>) {
        let certificate = verified.certificate_sha256;
        self.former.remove(&certificate);
        if self.recent.len() >= HALF && !self.recent.contains_key(&certificate) {
            self.former = std::mem::take(&mut self.recent);
        }
        self.recent.insert(certificate, verified);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verified(number: usize) -> Arc<Verified> {
        let id = format!("spiffe://cluster.local/{number}").parse().expect("a SPIFFE ID");
        let subject = Subject { id, not_before: 0, not_after: 100 };
        Verified::new(subject, &number.to_be_bytes().to_vec().into(), &[])
    }

    fn is_known(known: &KnownClients, number: usize) -> bool {
        known.find(&number.to_be_bytes().to_vec().into(), &[], 50).is_some()
    }

    #[test]
    fn at_most_1024_chains_are_remembered_and_those_in_use_stay() {
        let known = KnownClients::default();
        for number in 0..10 * HALF {
            known.keep(verified(number));
            assert!(is_known(&known, 0) && is_known(&known, number), "{number}");
            assert!(known.len() <= 2 * HALF, "{}", known.len());
        }
        assert!(known.len() > HALF && !is_known(&known, 1), "never looked up");
    }

    #[test]
    fn a_verdict_is_reused_for_the_same_bytes_while_every_certificate_is_valid() {
        let known = KnownClients::default();
        known.keep(verified(1));
        let own = verified(1).chain[0].clone();
        let found =
            |intermediates: &[CertificateDer<'_>], now| known.find(&own, intermediates, now).is_some();
        assert_eq!([-1, 0, 100, 101].map(|now| found(&[], now)), [false, true, true, false]);
        assert!(!found(std::slice::from_ref(&own), 50), "another chain of the same certificate");

        let unread = Verified { hold: None, ..Arc::into_inner(verified(2)).expect("the only one") };
        known.keep(Arc::new(unread));
        assert!(!is_known(&known, 2), "its time of validity is not known");
    }
}
