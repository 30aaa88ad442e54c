//! `ring_hash`: each endpoint has points on a ring of 64-bit numbers. A key belongs to the first point at or behind its
//! hash.
//!
//! When an endpoint leaves, only its own keys move, and each moves to the next point. An endpoint that has more than
//! [`BOUND`] times its share of the requests in flight is passed over, so that one hot key does not overload it
//! ("Consistent Hashing with Bounded Loads", Mirrokni, Thorup and Zadimoghaddam, 2016).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use super::super::hashing::nth;
use super::occasion::Occasion;
use super::{Candidate, nearest_of_all, seeds};

/// The points of an endpoint for each unit of its weight. With 128, shares differ by about a tenth from the weights.
const POINTS: u64 = 128;
/// 262,144 points take 4 MiB. With larger sums of weights, each endpoint has fewer points in proportion.
const MOST_POINTS: u64 = 1 << 18;
/// 1,024 take 16 KiB: weights that are written as hundreds or thousands take no more memory than small ones need.
const MOST_POINTS_EACH: u64 = 1024;
/// How far an endpoint's requests in flight may be above its share. The value is that of Envoy's documentation.
const BOUND: f64 = 1.25;
/// Points that are looked at before all endpoints are. Only where nearly all endpoints are out does a pick look further.
const MOST_STEPS: usize = 1024;

#[derive(Debug)]
pub(super) struct Ring {
    /// The points in their order, each with the index of its endpoint.
    points: Box<[(u64, u32)]>,
    seeds: Box<[u64]>,
    /// The requests in flight that each unit of weight may have, as the bits of an `f64`.
    allowed: AtomicU64,
    occasion: Occasion,
}

impl Ring {
    pub(super) fn new<E: Candidate>(endpoints: &[Arc<E>]) -> Self {
        let seeds = seeds(endpoints);
        let sum: u64 = endpoints.iter().map(|endpoint| u64::from(endpoint.weight().get())).sum();
        let halvings = halvings(sum, endpoints.len());
        let mut points: Vec<(u64, u32)> = Vec::new();
        for ((endpoint, seed), index) in endpoints.iter().zip(&seeds).zip(0..) {
            let count = ((u64::from(endpoint.weight().get()) * POINTS) >> halvings).max(1);
            points.extend((0..count).map(|point| (nth(*seed, point), index)));
        }
        points.sort_unstable();
        let allowed = AtomicU64::new(f64::INFINITY.to_bits());
        Self { points: points.into(), seeds, allowed, occasion: Occasion::among(endpoints.len()) }
    }

    /// The endpoint of this key: the first one behind its hash that fits and is within its bound, otherwise the first
    /// that fits.
    pub(super) fn pick<'a, E: Candidate>(
        &self,
        key: u64,
        endpoints: &'a [Arc<E>],
        now: Instant,
        fits: &impl Fn(&E) -> bool,
    ) -> Option<&'a Arc<E>> {
        let start = self.points.partition_point(|(point, _)| *point < key);
        let (before, behind) = self.points.split_at_checked(start)?;
        let (mut first, mut looked_at) = (None, None);
        for (_, index) in behind.iter().chain(before).take(MOST_STEPS) {
            if looked_at == Some(*index) {
                continue;
            }
            looked_at = Some(*index);
            let Some(endpoint) = endpoints.get(*index as usize).filter(|endpoint| fits(endpoint)) else {
                continue;
            };
            if self.is_within_bound(&**endpoint, endpoints, now) {
                return Some(endpoint);
            }
            first = first.or(Some(endpoint));
        }
        first.or_else(|| nearest_of_all(key, &self.seeds, endpoints, fits))
    }

    /// Whether one more request keeps the endpoint within its bound. An idle endpoint always is.
    fn is_within_bound<E: Candidate>(&self, endpoint: &E, all: &[Arc<E>], now: Instant) -> bool {
        let in_flight = endpoint.in_flight();
        if in_flight == 0 {
            return true;
        }
        if self.occasion.is_due() {
            self.allowed.store(allowed(all, now).to_bits(), Relaxed);
        }
        let allowed = f64::from_bits(self.allowed.load(Relaxed)) * f64::from(endpoint.weight().get());
        f64::from(in_flight) < allowed.ceil()
    }
}

/// How often the points of each unit of weight are halved, so that so many endpoints with this sum of weights have no more
/// than they may. Halving keeps half of the points where they are, and few lists that differ in one endpoint differ in it.
fn halvings(sum: u64, endpoints: usize) -> u32 {
    let most = u128::from(MOST_POINTS.min(MOST_POINTS_EACH.saturating_mul(endpoints as u64)));
    let points = u128::from(sum) * u128::from(POINTS);
    (0..u64::BITS).find(|halvings| points >> halvings <= most).unwrap_or(u64::BITS - 1)
}

/// The requests in flight that each unit of weight may have, the next one included, among the usable endpoints.
fn allowed<E: Candidate>(all: &[Arc<E>], now: Instant) -> f64 {
    let (mut in_flight, mut weight) = (1.0, 0.0);
    for endpoint in all.iter().filter(|endpoint| endpoint.is_usable(now)) {
        in_flight += f64::from(endpoint.in_flight());
        weight += f64::from(endpoint.weight().get());
    }
    if weight > 0.0 { BOUND * in_flight / weight } else { f64::INFINITY }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_points_are_bounded_whatever_the_weights() {
        let rows = [
            (2, 2, 256),
            (8, 2, 1024),
            (2_000, 2, 2_000),
            (2_500, 3, 2_500),
            (2 * u64::from(u32::MAX), 2, 2_047),
        ];
        for (sum, endpoints, expected) in rows {
            assert_eq!((sum * POINTS) >> halvings(sum, endpoints), expected, "{sum} {endpoints}");
        }
        assert!((3_000 * POINTS) >> halvings(3_000, 3_000) <= MOST_POINTS);
    }
}
