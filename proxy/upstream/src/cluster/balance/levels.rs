//! The order in which groups of endpoints are used: those of the own zone before those of other zones, and lower
//! priorities before higher ones.
//!
//! A level gets all requests that the levels before it leave, while enough of its endpoints are usable: its share is
//! [`SPARE`] times its usable part, as in Envoy. So a level keeps everything until 29 % of its weight is out, and then
//! hands on the rest. With `slow_start`, an endpoint that has just become ready counts as a part of its weight, which
//! grows. If no level is left, the levels that have usable endpoints share what remains in proportion:
//! endpoints that are out never get requests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use pillion_model::cluster::LoadBalancer;

use super::super::hashing::{KeyHash, nth, unit};
use super::occasion::Occasion;
use super::{Balancer, Candidate, PickContext, Tried};

/// Endpoints can carry so many times their usual load. Envoy's overprovisioning factor, 140 %.
const SPARE: f64 = 1.4;

/// Where an endpoint stands in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    pub priority: u32,
    /// Whether the endpoint is in another zone than the own one, or in an unknown zone; or whether its source says so.
    pub is_elsewhere: bool,
}

/// The levels of a set of endpoints, each with a balancer of its own.
#[derive(Debug)]
pub struct Levels<E> {
    all: Box<[Level<E>]>,
    occasion: Occasion,
}

#[derive(Debug)]
struct Level<E> {
    endpoints: Box<[Arc<E>]>,
    balancer: Balancer,
    /// The sum of the endpoints' weights.
    weight: f64,
    /// The share of the requests, as the bits of an `f64`.
    share: AtomicU64,
}

impl<E: Candidate> Levels<E> {
    /// `None`: all endpoints are on one level. `ranks` are those of the endpoints, in the same order.
    pub fn new(
        rule: &LoadBalancer,
        slow_start: Option<Duration>,
        endpoints: &[Arc<E>],
        ranks: impl IntoIterator<Item = Rank>,
    ) -> Option<Self> {
        let mut levels: BTreeMap<Rank, Vec<Arc<E>>> = BTreeMap::new();
        for (endpoint, rank) in endpoints.iter().zip(ranks) {
            levels.entry(rank).or_default().push(endpoint.clone());
        }
        let is_needed = levels.len() > 1;
        let all = || levels.into_values().map(|endpoints| Level::new(rule, slow_start, endpoints)).collect();
        is_needed.then(|| Self { all: all(), occasion: Occasion::among(endpoints.len()) })
    }

    /// Like [`Balancer::pick`]. An untried endpoint of any level is preferred to one that was tried.
    pub fn pick(
        &self,
        avoid: &Tried,
        key: Option<KeyHash>,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Option<&Arc<E>> {
        if self.occasion.is_due() {
            self.share_out(now);
        }
        let drawn = self.draw(key.map_or_else(|| rng.f64(), fraction));
        let others = self.all.iter().enumerate().filter(|(index, _)| *index != drawn);
        let in_order = || self.all.get(drawn).into_iter().chain(others.clone().map(|(_, level)| level));
        let context = &mut PickContext { avoid, key, now, rng };
        in_order()
            .find_map(|level| level.balancer.warm(&level.endpoints, context))
            .or_else(|| in_order().find_map(|level| level.balancer.untried(&level.endpoints, context)))
            .or_else(|| in_order().find_map(|level| level.balancer.usable(&level.endpoints, context)))
    }

    /// An endpoint that fits, on the level of the endpoint `id`. The pick is not hashed.
    pub fn pick_beside(
        &self,
        id: usize,
        now: Instant,
        rng: &mut fastrand::Rng,
        fits: impl Fn(&E) -> bool,
    ) -> Option<&Arc<E>> {
        let level =
            self.all.iter().find(|level| level.endpoints.iter().any(|endpoint| endpoint.id() == id))?;
        level.balancer.pick_fitting(&level.endpoints, now, rng, fits)
    }

    /// The number of endpoints that are on the last level.
    pub fn last(&self) -> usize {
        self.all.last().map_or(0, |level| level.endpoints.len())
    }

    /// Computes the shares anew.
    fn share_out(&self, now: Instant) {
        let mut left = 1.0;
        for level in &self.all {
            let share = share_of(left, level.usable(now), level.weight);
            left -= share;
            level.share.store(share.to_bits(), Relaxed);
        }
    }

    /// The index of a level. `point`: from 0 to below 1. Shares whose sum is below 1 are stretched.
    fn draw(&self, point: f64) -> usize {
        let mut left = point * self.all.iter().map(Level::share).sum::<f64>();
        let is_it = |level: &Level<E>| {
            left -= level.share();
            left < 0.0
        };
        self.all.iter().position(is_it).unwrap_or(0)
    }
}

/// The share of a level of which this weight is usable, where the levels before it left so much.
fn share_of(left: f64, usable: f64, weight: f64) -> f64 {
    if weight > 0.0 { (SPARE * usable / weight).min(left) } else { 0.0 }
}

/// A number from 0 to below 1 that is the same for all requests with one key: they stay on their level while the shares
/// do not change.
fn fraction(key: KeyHash) -> f64 {
    unit(nth(key.get(), 1))
}

impl<E: Candidate> Level<E> {
    fn new(rule: &LoadBalancer, slow_start: Option<Duration>, endpoints: Vec<Arc<E>>) -> Self {
        let weight = endpoints.iter().map(|endpoint| f64::from(endpoint.weight().get())).sum();
        let balancer = Balancer::new(rule, slow_start, &endpoints);
        Self { endpoints: endpoints.into(), balancer, weight, share: AtomicU64::new(1.0_f64.to_bits()) }
    }

    fn share(&self) -> f64 {
        f64::from_bits(self.share.load(Relaxed))
    }

    fn usable(&self, now: Instant) -> f64 {
        let usable = self.endpoints.iter().filter(|endpoint| endpoint.is_usable(now));
        usable.map(|endpoint| f64::from(endpoint.weight().get()) * self.balancer.ramp(&**endpoint, now)).sum()
    }
}
