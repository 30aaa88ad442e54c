//! How many requests there may be in a time: token buckets.
//!
//! Pure: no clock and no waiting. The caller passes `now`, and gets the time at which there is room. Tokens are whole
//! numbers, so that nothing is lost to rounding: in any time there are never more than the burst and what the rate brings.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// So many `requests` in each `per`, and at most `burst` at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub requests: u32,
    pub per: Duration,
    pub burst: u32,
}

impl Rate {
    /// What one request costs. A bucket gains `requests` with each nanosecond.
    const fn cost(self) -> u128 {
        self.per.as_nanos()
    }

    const fn full(self) -> u128 {
        self.cost() * self.burst as u128
    }
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    level: u128,
    /// When `level` was what it had.
    at: Instant,
}

impl Bucket {
    const fn full(rate: Rate, now: Instant) -> Self {
        Self { level: rate.full(), at: now }
    }

    fn level(&self, rate: Rate, now: Instant) -> u128 {
        let gained = now.saturating_duration_since(self.at).as_nanos() * u128::from(rate.requests);
        (self.level + gained).min(rate.full())
    }

    /// `Err`: after so long there is room for one.
    fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        let now = now.max(self.at); // other threads may have seen a later moment
        (self.level, self.at) = (self.level(rate, now), now);
        match self.level.checked_sub(rate.cost()) {
            Some(left) => {
                self.level = left;
                Ok(())
            }
            None => {
                let nanos = (rate.cost() - self.level).div_ceil(u128::from(rate.requests.max(1)));
                Err(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
            }
        }
    }
}

/// One bucket, shared by all threads.
#[derive(Debug)]
pub struct RateLimit {
    rate: Rate,
    bucket: Mutex<Bucket>,
}

impl RateLimit {
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, bucket: Mutex::new(Bucket::full(rate, now)) }
    }

    pub const fn rate(&self) -> Rate {
        self.rate
    }

    /// # Errors
    /// There is no room now; after so long there may be.
    pub fn take(&self, now: Instant) -> Result<(), Duration> {
        self.bucket.lock().take(self.rate, now)
    }
}

/// A bucket for each of many peers, of which so many are known at once; all others share one.
///
/// A bucket that is full again says nothing that a new one does not say, so it is forgotten when another one needs its
/// place. A peer is known by a hash of its own key: its size does not depend on names.
#[derive(Debug)]
pub struct PeerRateLimits {
    rate: Rate,
    hasher: RandomState,
    most: usize,
    peers: Mutex<Peers>,
}

#[derive(Debug)]
struct Peers {
    known: HashMap<u64, Bucket>,
    others: Bucket,
    /// No place is looked for before then: it takes a look at every bucket.
    sweep_at: Instant,
}

impl PeerRateLimits {
    /// Half a MiB of buckets.
    pub const MOST: usize = 8192;
    const BETWEEN_SWEEPS: Duration = Duration::from_secs(1);

    pub fn new(rate: Rate, now: Instant) -> Self {
        Self::of_at_most(Self::MOST, rate, now)
    }

    fn of_at_most(most: usize, rate: Rate, now: Instant) -> Self {
        let peers = Peers { known: HashMap::new(), others: Bucket::full(rate, now), sweep_at: now };
        Self { rate, hasher: RandomState::new(), most, peers: Mutex::new(peers) }
    }

    pub const fn rate(&self) -> Rate {
        self.rate
    }

    /// # Errors
    /// The peer has no room now; after so long it may have.
    pub fn take(&self, peer: &impl Hash, now: Instant) -> Result<(), Duration> {
        let key = self.hasher.hash_one(peer);
        let mut peers = self.peers.lock();
        if let Some(bucket) = peers.known.get_mut(&key) {
            return bucket.take(self.rate, now);
        }
        if peers.known.len() >= self.most && peers.sweep_at <= now {
            peers.known.retain(|_, bucket| bucket.level(self.rate, now) < self.rate.full());
            peers.sweep_at = now + Self::BETWEEN_SWEEPS;
        }
        match peers.known.len() < self.most {
            true => {
                peers.known.entry(key).or_insert_with(|| Bucket::full(self.rate, now)).take(self.rate, now)
            }
            false => peers.others.take(self.rate, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn rate(requests: u32, per: Duration, burst: u32) -> Rate {
        Rate { requests, per, burst }
    }

    #[test]
    fn a_burst_then_the_rate_and_the_wait_is_given_exactly() {
        let (start, rate) = (Instant::now(), rate(2, Duration::from_secs(1), 3));
        let limit = RateLimit::new(rate, start);
        for _ in 0..3 {
            assert_eq!(limit.take(start), Ok(()));
        }
        let half = Duration::from_millis(500);
        assert_eq!(limit.take(start), Err(half));
        assert_eq!(limit.take(start + half - Duration::from_nanos(1)), Err(Duration::from_nanos(1)));
        assert_eq!(limit.take(start + half), Ok(()));
        assert_eq!(limit.take(start), Err(half), "a clock that goes back gives nothing");
        let later = start + Duration::from_secs(3600);
        assert_eq!(
            (0..10).filter(|_| limit.take(later).is_ok()).count(),
            3,
            "an idle bucket is full, and no more"
        );
    }

    #[test]
    fn each_peer_has_its_own_and_those_beyond_the_bound_share_one() {
        let (start, rate) = (Instant::now(), rate(1, Duration::from_secs(1), 1));
        let limits = PeerRateLimits::of_at_most(2, rate, start);
        for peer in ["a", "b", "others"] {
            assert_eq!(limits.take(&peer, start), Ok(()), "{peer}");
            assert!(limits.take(&peer, start).is_err(), "{peer}");
        }
        assert!(limits.take(&"one more", start).is_err(), "it is one of the others");
        assert_eq!(limits.peers.lock().known.len(), 2);
        let later = start + Duration::from_secs(2);
        assert_eq!(limits.take(&"one more", later), Ok(()));
        assert_eq!(limits.peers.lock().known.len(), 1, "those whose buckets are full again were forgotten");
    }

    proptest! {
        /// Whatever comes when: never more than the burst and what the rate brings, over any stretch of time, and no
        /// request is refused that a bucket with so much in it must let through.
        #[test]
        fn never_more_than_the_burst_and_the_rate(
            requests in 1_u32..1000, per_millis in 1_u64..5000, burst in 1_u32..50,
            pauses in prop::collection::vec(0_u64..2_000_000_000, 1..200),
        ) {
            let start = Instant::now();
            let rate = rate(requests, Duration::from_millis(per_millis), burst);
            let limit = RateLimit::new(rate, start);
            let mut now = start;
            let mut passed: Vec<Instant> = Vec::new();
            for pause in pauses {
                now += Duration::from_nanos(pause / u64::from(requests));
                match limit.take(now) {
                    Ok(()) => passed.push(now),
                    Err(wait) => prop_assert!(!wait.is_zero() && wait <= rate.per),
                }
            }
            for (first, from) in passed.iter().enumerate() {
                for (last, to) in passed.iter().enumerate().skip(first) {
                    let brought = (*to - *from).as_nanos() * u128::from(requests) / rate.per.as_nanos();
                    let count = (last - first + 1) as u128;
                    prop_assert!(count <= u128::from(burst) + brought, "{count} in {:?}", *to - *from);
                }
            }
        }
    }
}
