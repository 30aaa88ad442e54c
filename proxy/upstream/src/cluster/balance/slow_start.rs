//! `slow_start`: an endpoint that has just become ready gets few requests, and more and more of them.
//!
//! For each pick it is drawn whether such an endpoint takes part, with a probability that grows from a tenth to one. So
//! its share grows in the same way, with every balancer, also with those that look for the shortest queue, which an
//! empty endpoint always has. With a key the draw depends on the key: each key moves to the endpoint once.

use std::time::{Duration, Instant};

use super::super::hashing::nth;
use super::Candidate;

/// 10 %: what an endpoint begins with, as in Envoy (`min_weight_percent`).
const LEAST: f64 = 0.1;

/// The part of its share that an endpoint gets: `ready_for` says how long it has been ready.
pub fn ramp(ready_for: Option<Duration>, window: Duration) -> f64 {
    let over = ready_for.map_or(1.0, |ready_for| ready_for.as_secs_f64() / window.as_secs_f64());
    if over < 1.0 { LEAST + (1.0 - LEAST) * over } else { 1.0 }
}

/// Whether the endpoint takes part in a pick. `draw` is the same number for all endpoints of the pick.
pub(super) fn takes_part<E: Candidate>(endpoint: &E, draw: u64, window: Duration, now: Instant) -> bool {
    let ramp = ramp(endpoint.ready_for(now), window);
    let point = (nth(draw, endpoint.id() as u64) >> 11) as f64 / (1_u64 << 53) as f64;
    point < ramp
}
