//! The tokens of requests: the issuer's keys, and the tokens that were verified lately.
//!
//! A signature takes much longer than everything else about a request, and a client sends one token with many requests. So a verified token is remembered until
//! it expires or the keys change. Deliberately absent: where keys come from (`pillion::app`), and how a request carries a
//! token (`layers::route`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwapOption, Guard};
use parking_lot::Mutex;
use pillion_authz::keys::KeySet;
use pillion_authz::token::{Refusal, Verified, Verifier, may_be_of_newer_key};
use pillion_model::authorization::{Authorization, Jwks, Jwt};
use pillion_telemetry::family::IntCounter;
use pillion_telemetry::{Metrics, TokenOutcome};
use pillion_tls::sha256;
use tokio::sync::Notify;

/// The keys of one source. They outlive reloads that do not change the source.
pub struct Keys {
    pub source: Jwks,
    set: ArcSwapOption<KeySet>,
    /// A token may be signed by a key that is not in the set.
    missed: Notify,
    /// There are keys for the first time.
    known: Notify,
}

impl Keys {
    pub fn new(source: Jwks, set: Option<KeySet>) -> Arc<Self> {
        let set = ArcSwapOption::new(set.map(Arc::new));
        Arc::new(Self { source, set, missed: Notify::new(), known: Notify::new() })
    }

    /// The keys in use, for another way to follow their source.
    pub fn with_source(&self, source: Jwks) -> Arc<Self> {
        let set = ArcSwapOption::new(self.set.load_full());
        Arc::new(Self { source, set, missed: Notify::new(), known: Notify::new() })
    }

    pub fn load(&self) -> Guard<Option<Arc<KeySet>>> {
        self.set.load()
    }

    pub fn replace(&self, set: KeySet) {
        self.set.store(Some(Arc::new(set)));
        self.known.notify_waiters();
    }

    /// Waits until a token may be signed by a key that is not in the set.
    pub async fn missed(&self) {
        self.missed.notified().await;
    }

    /// Waits until there are keys, but at most for `patience`.
    pub async fn first(&self, patience: Duration) {
        let known = self.known.notified();
        if self.set.load().is_none() {
            drop(tokio::time::timeout(patience, known).await); // the start goes on in any case
        }
    }
}

/// Judges tokens by the current keys.
pub struct Tokens {
    pub of: Jwt,
    pub keys: Arc<Keys>,
    verifier: Verifier,
    known: [Mutex<Known>; SHARDS],
    counters: Box<[IntCounter]>,
}

/// Why a token proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum BadToken {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("no token can be judged, because the keys of {0} have not been fetched yet: the log says why")]
    NoKeys(String),
}

/// Workers rarely wait for each other on one of 16 locks.
const SHARDS: usize = 16;
/// 128 tokens in each of two generations of each lock: 4,096 in all, of some 500 bytes, and 14 KiB at most.
const GENERATION: usize = 128;

/// Verified tokens, by their SHA-256. When the younger generation is full, it replaces the older one.
#[derive(Default)]
struct Known {
    /// The [`KeySet::serial`] of the keys that verified them.
    by: u64,
    young: HashMap<[u8; 32], Arc<Verified>>,
    old: HashMap<[u8; 32], Arc<Verified>>,
}

impl Known {
    fn get(&mut self, token: &[u8; 32], by: u64) -> Option<Arc<Verified>> {
        if self.by != by {
            return None;
        }
        match self.young.get(token) {
            Some(known) => Some(known.clone()),
            None => {
                let known = self.old.remove(token)?;
                self.put(*token, known.clone(), by);
                Some(known)
            }
        }
    }

    fn put(&mut self, token: [u8; 32], verified: Arc<Verified>, by: u64) {
        if self.by != by {
            *self = Self { by, ..Self::default() };
        }
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(token, verified);
    }
}

impl Tokens {
    pub fn new(of: &Jwt, rules: &Authorization, keys: Arc<Keys>, metrics: &Metrics) -> Self {
        Self {
            of: of.clone(),
            keys,
            verifier: Verifier::new(of, rules),
            known: Default::default(),
            counters: TokenOutcome::ALL.iter().map(|outcome| metrics.tokens(*outcome)).collect(),
        }
    }

    pub fn count(&self, outcome: TokenOutcome) {
        if let Some(counter) = self.counters.get(outcome as usize) {
            counter.inc();
        }
    }

    /// `now` is in Unix seconds.
    ///
    /// # Errors
    /// The token is not accepted, or there are no keys yet.
    pub fn verify(&self, token: &[u8], now: u64) -> Result<Arc<Verified>, BadToken> {
        let keys = self.keys.load();
        let Some(keys) = keys.as_deref() else { return Err(BadToken::NoKeys(source(&self.of.jwks))) };
        if token.len() > pillion_authz::token::MOST_BYTES {
            return Err(Refusal::TooLong.into());
        }
        let name = sha256(token);
        let shard = name.first().map_or(0, |byte| usize::from(*byte)) % SHARDS;
        let Some(shard) = self.known.get(shard) else { return Err(Refusal::Form.into()) };
        let known = shard.lock().get(&name, keys.serial);
        if let Some(known) = known.filter(|known| known.is_valid_at(now)) {
            return Ok(known);
        }
        let verified = self.verifier.verify(token, keys, now).inspect_err(|why| {
            if may_be_of_newer_key(why, token, keys) {
                self.keys.missed.notify_one();
            }
        })?;
        let verified = Arc::new(verified);
        shard.lock().put(name, verified.clone(), keys.serial);
        Ok(verified)
    }
}

fn source(of: &Jwks) -> String {
    match of {
        Jwks::File(path) => path.display().to_string(),
        Jwks::Url { url, .. } => url.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verified_tokens_are_forgotten_with_their_keys_and_beyond_the_bound() {
        let token = |nth: usize| sha256(&nth.to_be_bytes());
        let mut known = Known::default();
        let verified = Arc::new(Verified::default());
        for nth in 0..10 * GENERATION {
            known.put(token(nth), verified.clone(), 1);
            assert!(known.get(&token(0), 1).is_some(), "a token in use stays");
            assert!(known.young.len() + known.old.len() <= 2 * GENERATION);
        }
        assert!(known.get(&token(1), 1).is_none());
        assert!(known.get(&token(0), 2).is_none(), "other keys");
        known.put(token(5), verified, 2);
        assert!(known.get(&token(0), 1).is_none() && known.get(&token(0), 2).is_none());
        assert!(known.get(&token(5), 2).is_some());
    }
}
