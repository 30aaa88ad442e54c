//! Chooses the endpoint for the next try.
//!
//! Pure: the endpoints, what was tried already, `now` and the random generator are arguments. A pick does not allocate.
//! Only `round_robin` takes a lock, for a short time.

pub mod levels;
mod maglev;
mod occasion;
mod ring;
pub mod slow_start;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pillion_model::cluster::LoadBalancer;

use super::ewma;
use super::hashing::{KeyHash, hash, mix, nth};
use maglev::Maglev;
use ring::Ring;

/// Random draws before the whole list is searched. In a cluster with half of its endpoints ejected, all eight draws
/// fail once in 256 picks.
const DRAWS: usize = 8;

/// What the balancer needs to know about an endpoint.
pub trait Candidate {
    /// Unique in its cluster. [`Tried`] remembers it.
    fn id(&self) -> usize;
    /// The number by which ring_hash and maglev identify the endpoint. It is the same on every sidecar.
    fn address(&self) -> SocketAddr;
    fn weight(&self) -> NonZeroU32;
    /// Requests that were sent and have not ended. Used by peak_ewma, least_request and ring_hash.
    fn in_flight(&self) -> u32;
    /// See [`ewma::Ewma::latency`]. Used by peak_ewma only.
    fn latency(&self, now: Instant) -> Option<f64>;
    /// Whether the endpoint may be used: neither ejected nor waiting for its probe.
    fn is_usable(&self, now: Instant) -> bool;
    /// For how long the endpoint has been ready since it came or came back; `None`: since the start.
    fn ready_for(&self, now: Instant) -> Option<Duration>;
}

/// The endpoints that were already tried for a request. Beyond [`Tried::ROOM`] the oldest one is forgotten.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tried {
    /// The lower half of each, which saves copies: ids count up from zero.
    ids: [u32; Self::ROOM],
    count: u32,
}

impl Tried {
    /// 8, because the defaults need at most three tries and three replacements. More tries are rare.
    pub const ROOM: usize = 8;

    pub fn insert(&mut self, id: usize) {
        if let Some(place) = self.ids.get_mut(self.count as usize % Self::ROOM) {
            *place = id as u32;
            self.count = self.count.saturating_add(1);
        }
    }

    pub fn contains(&self, id: usize) -> bool {
        self.ids.iter().take(self.count as usize).any(|&tried| tried == id as u32)
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// The balancer of one cluster for one list of endpoints. A new list gets a new balancer.
#[derive(Debug)]
pub struct Balancer {
    rule: Rule,
    weights: Weights,
    slow_start: Option<Duration>,
}

#[derive(Debug)]
enum Rule {
    /// Draws two by weight and takes the one with the shorter expected wait.
    PeakEwma,
    /// Draws two by weight and takes the one with the shorter queue for its weight.
    LeastRequest,
    /// Round robin among endpoints of equal weight: the index of the next one. `RoundRobin` would pick in the same
    /// order, but it looks at every endpoint for each pick.
    Equals(Mutex<usize>),
    /// nginx's smooth weighted round robin: each endpoint gains its weight, the one with the highest balance is picked,
    /// and pays the sum of the weights. This spreads the turns of a heavy endpoint instead of bunching them.
    RoundRobin(Mutex<Box<[i64]>>),
    Random,
    RingHash(Box<Ring>),
    Maglev(Box<Maglev>),
}

impl Balancer {
    /// `endpoints` are those that [`pick`](Self::pick) will get, in the same order.
    pub fn new<E: Candidate>(
        rule: &LoadBalancer,
        slow_start: Option<Duration>,
        endpoints: &[Arc<E>],
    ) -> Self {
        let weights = Weights::new(endpoints.iter().map(|endpoint| endpoint.weight()));
        let rule = match rule {
            _ if endpoints.len() < 2 => Rule::Random,
            LoadBalancer::PeakEwma => Rule::PeakEwma,
            LoadBalancer::LeastRequest => Rule::LeastRequest,
            LoadBalancer::RoundRobin if weights.are_equal => Rule::Equals(Mutex::new(0)),
            LoadBalancer::RoundRobin => Rule::RoundRobin(Mutex::new(vec![0; weights.ends.len()].into())),
            LoadBalancer::Random => Rule::Random,
            LoadBalancer::RingHash(_) => Rule::RingHash(Box::new(Ring::new(endpoints))),
            LoadBalancer::Maglev(_) => Rule::Maglev(Box::new(Maglev::new(endpoints))),
        };
        Self { rule, weights, slow_start }
    }

    /// A usable endpoint that was not tried yet, otherwise a usable one that was, otherwise `None`. `key` is for the
    /// balancers that hash; without it they draw by weight.
    pub fn pick<'a, E: Candidate>(
        &self,
        endpoints: &'a [Arc<E>],
        avoid: &Tried,
        key: Option<KeyHash>,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Option<&'a Arc<E>> {
        if let [only] = endpoints {
            return only.is_usable(now).then_some(only);
        }
        let context = &mut PickContext { avoid, key, now, rng };
        self.warm(endpoints, context)
            .or_else(|| self.untried(endpoints, context))
            .or_else(|| self.usable(endpoints, context))
    }

    /// An endpoint that fits, for a request that is not hashed.
    pub fn pick_fitting<'a, E: Candidate>(
        &self,
        endpoints: &'a [Arc<E>],
        now: Instant,
        rng: &mut fastrand::Rng,
        fits: impl Fn(&E) -> bool,
    ) -> Option<&'a Arc<E>> {
        self.choose(endpoints, &mut PickContext { avoid: &Tried::default(), key: None, now, rng }, fits)
    }

    /// With `slow_start`: like [`Self::untried`], where an endpoint that has just become ready takes part in some picks
    /// only. Otherwise `None`.
    fn warm<'a, E: Candidate>(
        &self,
        endpoints: &'a [Arc<E>],
        context: &mut PickContext<'_>,
    ) -> Option<&'a Arc<E>> {
        let (window, now, avoid) = (self.slow_start?, context.now, context.avoid);
        let draw = context.key.map_or_else(|| context.rng.u64(..), KeyHash::get);
        let takes_part = |e: &E| slow_start::takes_part(e, draw, window, now);
        let fits = |e: &E| e.is_usable(now) && !avoid.contains(e.id()) && takes_part(e);
        self.choose(endpoints, context, fits)
    }

    /// A usable endpoint that was not tried yet.
    fn untried<'a, E: Candidate>(
        &self,
        endpoints: &'a [Arc<E>],
        context: &mut PickContext<'_>,
    ) -> Option<&'a Arc<E>> {
        let (now, avoid) = (context.now, context.avoid);
        if avoid.is_empty() {
            return self.usable(endpoints, context);
        }
        self.choose(endpoints, context, |e| e.is_usable(now) && !avoid.contains(e.id()))
    }

    fn usable<'a, E: Candidate>(
        &self,
        endpoints: &'a [Arc<E>],
        context: &mut PickContext<'_>,
    ) -> Option<&'a Arc<E>> {
        let now = context.now;
        self.choose(endpoints, context, |e| e.is_usable(now))
    }

    /// The part of its weight that an endpoint counts as.
    fn ramp<E: Candidate>(&self, endpoint: &E, now: Instant) -> f64 {
        self.slow_start.map_or(1.0, |window| slow_start::ramp(endpoint.ready_for(now), window))
    }

    fn choose<'a, E: Candidate>(
        &self,
        endpoints: &'a [Arc<E>],
        context: &mut PickContext<'_>,
        fits: impl Fn(&E) -> bool,
    ) -> Option<&'a Arc<E>> {
        let now = context.now;
        let load: fn(&E, Instant) -> f64 = match &self.rule {
            Rule::Equals(next) => return after_last(&mut next.lock(), endpoints, fits),
            Rule::RoundRobin(turns) => return in_turn(&mut turns.lock(), endpoints, fits),
            Rule::RingHash(_) | Rule::Maglev(_) | Rule::Random => {
                return self.hashed_or_drawn(endpoints, context, &fits);
            }
            Rule::PeakEwma => |e, now| ewma::load(e.latency(now), e.in_flight(), e.weight()),
            Rule::LeastRequest => |e, _| ewma::load(Some(1.0), e.in_flight(), e.weight()),
        };
        let (index, first) = self.draw(endpoints, None, context.rng, &fits)?;
        let Some((_, second)) = self.draw(endpoints, Some(index), context.rng, &fits) else {
            return Some(first);
        };
        // On a tie the first one wins: it was drawn by weight alone, so idle endpoints are used by weight.
        Some(if load(second, now) < load(first, now) { second } else { first })
    }

    fn hashed_or_drawn<'a, E: Candidate>(
        &self,
        endpoints: &'a [Arc<E>],
        context: &mut PickContext<'_>,
        fits: &impl Fn(&E) -> bool,
    ) -> Option<&'a Arc<E>> {
        match (&self.rule, context.key) {
            (Rule::RingHash(ring), Some(key)) => ring.pick(key.get(), endpoints, context.now, fits),
            (Rule::Maglev(table), Some(key)) => table.pick(key.get(), endpoints, fits),
            _ => self.draw(endpoints, None, context.rng, fits).map(|(_, endpoint)| endpoint),
        }
    }

    /// A usable endpoint and its index, drawn by weight, never `except`.
    fn draw<'a, E: Candidate>(
        &self,
        endpoints: &'a [Arc<E>],
        except: Option<usize>,
        rng: &mut fastrand::Rng,
        fits: &impl Fn(&E) -> bool,
    ) -> Option<(usize, &'a Arc<E>)> {
        for _ in 0..DRAWS {
            let index = self.weights.draw(except, rng)?;
            if let Some(endpoint) = endpoints.get(index).filter(|e| fits(e)) {
                return Some((index, endpoint));
            }
        }
        search(endpoints, except, rng, fits)
    }
}

/// What one pick is made for, and with.
struct PickContext<'p> {
    avoid: &'p Tried,
    key: Option<KeyHash>,
    now: Instant,
    rng: &'p mut fastrand::Rng,
}

/// A number for each endpoint, made of its address, so that all sidecars have the same ones. An address that is listed
/// twice has two.
fn seeds<E: Candidate>(endpoints: &[Arc<E>]) -> Box<[u64]> {
    let mut listed: HashMap<SocketAddr, u64> = HashMap::with_capacity(endpoints.len());
    let seed = |endpoint: &Arc<E>| {
        let address = endpoint.address();
        let times = listed.entry(address).or_insert(0);
        *times += 1;
        nth(hash(address.to_string().as_bytes()), *times)
    };
    endpoints.iter().map(seed).collect()
}

/// The endpoint that fits and whose seed makes the highest number with this key (rendezvous hashing).
fn nearest_of_all<'a, E: Candidate>(
    key: u64,
    seeds: &[u64],
    endpoints: &'a [Arc<E>],
    fits: &impl Fn(&E) -> bool,
) -> Option<&'a Arc<E>> {
    let fitting = endpoints.iter().zip(seeds).filter(|(endpoint, _)| fits(endpoint));
    fitting.max_by_key(|(_, seed)| mix(key ^ **seed)).map(|(endpoint, _)| endpoint)
}

/// Looks at all endpoints: each one that fits replaces the one before it with a probability of its weight in the sum so
/// far.
fn search<'a, E: Candidate>(
    endpoints: &'a [Arc<E>],
    except: Option<usize>,
    rng: &mut fastrand::Rng,
    fits: &impl Fn(&E) -> bool,
) -> Option<(usize, &'a Arc<E>)> {
    let mut sum = 0;
    let mut drawn = None;
    for (index, endpoint) in endpoints.iter().enumerate().filter(|(i, e)| Some(*i) != except && fits(e)) {
        let weight = u64::from(endpoint.weight().get());
        sum += weight;
        if rng.u64(0..sum) < weight {
            drawn = Some((index, endpoint));
        }
    }
    drawn
}

fn after_last<'a, E: Candidate>(
    next: &mut usize,
    endpoints: &'a [Arc<E>],
    fits: impl Fn(&E) -> bool,
) -> Option<&'a Arc<E>> {
    let (before, from_next) = endpoints.split_at_checked(*next).unwrap_or((&[], endpoints));
    let behind = endpoints.len() - from_next.len();
    let from_next = from_next.iter().enumerate().map(|(nth, endpoint)| (behind + nth, endpoint));
    let (index, endpoint) = from_next.chain(before.iter().enumerate()).find(|(_, e)| fits(e))?;
    *next = index + 1;
    Some(endpoint)
}

fn in_turn<'a, E: Candidate>(
    turns: &mut [i64],
    endpoints: &'a [Arc<E>],
    fits: impl Fn(&E) -> bool,
) -> Option<&'a Arc<E>> {
    let mut sum = 0;
    let mut richest: Option<(&mut i64, &Arc<E>)> = None;
    for (turn, endpoint) in turns.iter_mut().zip(endpoints).filter(|(_, e)| fits(e)) {
        let weight = i64::from(endpoint.weight().get());
        *turn += weight;
        sum += weight;
        if richest.as_ref().is_none_or(|(most, _)| **most < *turn) {
            richest = Some((turn, endpoint));
        }
    }
    richest.map(|(turn, endpoint)| {
        *turn -= sum;
        endpoint
    })
}

/// The endpoints as consecutive intervals, each as long as its weight. `ends` are the right ends of the intervals.
#[derive(Debug)]
struct Weights {
    ends: Box<[u64]>,
    /// Whether all weights are equal. A draw then needs no search for the interval of a point.
    are_equal: bool,
}

impl Weights {
    fn new(weights: impl IntoIterator<Item = NonZeroU32>) -> Self {
        let mut end = 0;
        let ends = weights.into_iter().map(|weight| {
            end += u64::from(weight.get());
            end
        });
        let ends: Box<[u64]> = ends.collect();
        let first = ends.first().copied().unwrap_or(0);
        let are_equal = ends.iter().zip(1..).all(|(end, nth)| *end == nth * first);
        Self { ends, are_equal }
    }

    /// An index drawn by weight, never `except`, whose interval is left out. `None` when no endpoint is left.
    fn draw(&self, except: Option<usize>, rng: &mut fastrand::Rng) -> Option<usize> {
        if self.are_equal {
            let left = self.ends.len().saturating_sub(usize::from(except.is_some()));
            let index = (left > 0).then(|| below(left, rng))?;
            return Some(index + usize::from(except.is_some_and(|except| except <= index)));
        }
        let (start, length) = except.map_or((0, 0), |index| self.stretch(index));
        let left = self.end(self.ends.len().checked_sub(1)) - length;
        if left == 0 {
            return None;
        }
        let point = rng.u64(0..left);
        let point = if point < start { point } else { point + length };
        Some(self.ends.partition_point(|&end| end <= point))
    }

    fn stretch(&self, index: usize) -> (u64, u64) {
        let start = self.end(index.checked_sub(1));
        (start, self.end(Some(index)).saturating_sub(start))
    }

    fn end(&self, index: Option<usize>) -> u64 {
        index.and_then(|index| self.ends.get(index)).copied().unwrap_or(0)
    }
}

/// A random number below `most`. The bias is too small to be seen, and this costs a third of `usize(..)`.
fn below(most: usize, rng: &mut fastrand::Rng) -> usize {
    ((u128::from(rng.u64(..)) * most as u128) >> 64) as usize
}

#[cfg(test)]
mod tests;
