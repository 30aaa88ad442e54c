//! Clients whose certificates were verified before, so that who connects often is not judged from the start each time.
//!
//! A [`KnownClients`] belongs to one verifier, whose roots, revocation lists and expected identities never change: new
//! credentials bring a new one, which knows nobody. What does change is asked each time: whether the client shows the
//! same certificates, byte for byte, and whether all of them hold now. Deliberately absent: whoever was refused, and
//! whoever has shown a certificate without proving that its key is theirs.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest::SHA256_OUTPUT_LEN;
use parking_lot::Mutex;
use pillion_model::SpiffeId;
use rustls::pki_types::CertificateDer;

use super::sha256;
use crate::identity::{Subject, Validity, parse};

/// Half of the 1,024 chains that are known at most: one of a workload is about 1 KiB, and nobody can show more than a
/// handshake may hold, 12 KiB.
const HALF: usize = 512;

/// A client's certificates that were found good, and what they say.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) id: SpiffeId,
    /// Unix seconds; the last at which the client's own certificate holds.
    pub(super) not_after: i64,
    pub(super) certificate_sha256: [u8; SHA256_OUTPUT_LEN],
    /// The client's own certificate first.
    pub(super) chain: Arc<[CertificateDer<'static>]>,
    /// When all of these hold. `None`: one that the verdict did not need cannot be read.
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

    /// Whether the verdict would be the same for these certificates at `now`, in Unix seconds.
    fn is_of(&self, end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>], now: i64) -> bool {
        self.hold.is_some_and(|hold| hold.includes(now))
            && self.chain.split_first() == Some((end_entity, intermediates))
    }
}

/// The chains that were verified and whose clients have proven their key; what was not asked for longest goes first.
#[derive(Debug, Default)]
pub(super) struct KnownClients(Mutex<Halves>);

/// By the hash of the client's own certificate: each has one place, whatever else is shown with it.
type Chains = HashMap<[u8; SHA256_OUTPUT_LEN], Arc<Verified>>;

/// Whoever is asked for is among the recent. When these are [`HALF`], they become the former, and the former go.
#[derive(Debug, Default)]
struct Halves {
    recent: Chains,
    former: Chains,
}

impl KnownClients {
    /// `now` in Unix seconds. `None`: the chain must be verified.
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

    /// The client has proven that it holds the key of these.
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
    fn at_most_1024_chains_are_known_and_those_asked_for_stay() {
        let known = KnownClients::default();
        for number in 0..10 * HALF {
            known.keep(verified(number));
            assert!(is_known(&known, 0) && is_known(&known, number), "{number}");
            assert!(known.len() <= 2 * HALF, "{}", known.len());
        }
        assert!(known.len() > HALF && !is_known(&known, 1), "never asked for");
    }

    #[test]
    fn a_verdict_is_for_the_same_bytes_and_the_time_in_which_all_of_them_hold() {
        let known = KnownClients::default();
        known.keep(verified(1));
        let own = verified(1).chain[0].clone();
        let found =
            |intermediates: &[CertificateDer<'_>], now| known.find(&own, intermediates, now).is_some();
        assert_eq!([-1, 0, 100, 101].map(|now| found(&[], now)), [false, true, true, false]);
        assert!(!found(std::slice::from_ref(&own), 50), "another chain of the same certificate");

        let unread = Verified { hold: None, ..Arc::into_inner(verified(2)).expect("the only one") };
        known.keep(Arc::new(unread));
        assert!(!is_known(&known, 2), "nobody knows how long it holds");
    }
}
