//! `maglev`: a table in which each endpoint has places by its weight. A key belongs to the place of its hash.
//!
//! The table is filled as in "Maglev: A Fast and Reliable Software Network Load Balancer" (Eisenbud and others, 2016):
//! each endpoint has an order of all places of its own, and the endpoints take the next free one in turns. Shares are
//! more even than on a ring, and a pick is one look, but when an endpoint leaves, a few keys of others move, too.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::super::hashing::nth;
use super::{Candidate, nearest_of_all, seeds};

/// The places of the table: a prime, as in the paper and in Envoy, far above the number of endpoints of most services.
const PLACES: u32 = 65_537;
/// Places that are tried before all endpoints are looked at.
const DRAWS: u64 = 16;
/// The time between two turns of an endpoint with weight 1. Weights divide it.
const STRIDE: u64 = 1 << 40;

#[derive(Debug)]
pub(super) struct Maglev {
    /// The index of the endpoint of each place. Endpoints beyond the 65,536th have no place.
    places: Box<[u16]>,
    seeds: Box<[u64]>,
}

/// The next turn of an endpoint. The heap gives the earliest first; equal ones by seed, because the order of the list
/// must not matter.
type Turn = Reverse<(u64, u64, u16)>;

impl Maglev {
    pub(super) fn new<E: Candidate>(endpoints: &[Arc<E>]) -> Self {
        let seeds = seeds(endpoints);
        let strides: Vec<u64> =
            endpoints.iter().map(|endpoint| STRIDE / u64::from(endpoint.weight().get())).collect();
        let mut orders: Vec<Order> = seeds.iter().map(|seed| Order::of(*seed)).collect();
        let turns = strides.iter().zip(&seeds).zip(0..=u16::MAX);
        let mut turns: BinaryHeap<Turn> =
            turns.map(|((stride, seed), index)| Reverse((*stride, *seed, index))).collect();
        let mut places: Vec<Option<u16>> = vec![None; PLACES as usize];
        let mut free = if turns.is_empty() { 0 } else { PLACES };
        while free > 0 {
            let Some(mut turn) = turns.peek_mut() else { break };
            let Reverse((at, _, index)) = &mut *turn;
            *at = at.saturating_add(strides.get(usize::from(*index)).copied().unwrap_or(STRIDE));
            let (index, order) = (*index, orders.get_mut(usize::from(*index)));
            drop(turn); // sorts the heap again
            if let Some(place) = order.and_then(|order| order.next_free(&mut places)) {
                *place = Some(index);
            }
            free -= 1;
        }
        Self { places: places.into_iter().flatten().collect(), seeds }
    }

    /// The endpoint of this key. If it does not fit, the hash is hashed again.
    pub(super) fn pick<'a, E: Candidate>(
        &self,
        key: u64,
        endpoints: &'a [Arc<E>],
        fits: &impl Fn(&E) -> bool,
    ) -> Option<&'a Arc<E>> {
        let place = |draw| {
            let hash = if draw == 0 { key } else { nth(key, draw) };
            let index = self.places.get((hash % u64::from(PLACES)) as usize)?;
            endpoints.get(usize::from(*index)).filter(|endpoint| fits(endpoint))
        };
        (0..DRAWS).find_map(place).or_else(|| nearest_of_all(key, &self.seeds, endpoints, fits))
    }
}

/// The order in which an endpoint wants the places: every place once, because their number is a prime.
struct Order {
    next: u32,
    skip: u32,
}

impl Order {
    fn of(seed: u64) -> Self {
        let below = |nth: u64, most: u32| (nth % u64::from(most)) as u32;
        Self { next: below(nth(seed, 1), PLACES), skip: below(nth(seed, 2), PLACES - 1) + 1 }
    }

    fn next_free<'p>(&mut self, places: &'p mut [Option<u16>]) -> Option<&'p mut Option<u16>> {
        for _ in 0..PLACES {
            let place = self.next as usize;
            self.next = (self.next + self.skip) % PLACES;
            if places.get(place).is_some_and(Option::is_none) {
                return places.get_mut(place);
            }
        }
        None
    }
}
