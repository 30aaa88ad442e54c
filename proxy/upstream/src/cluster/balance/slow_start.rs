//! `slow_start`: an endpoint that has just become ready gets few requests, and more and more of them.
//!
//! For each pick it is drawn whether such an endpoint takes part, with a probability that grows from a tenth to one. So
//! its share grows in the same way, with every balancer, also with those that look for the shortest queue, which an
//! empty endpoint always has. With a key the draw depends on the key: each key moves to the endpoint once.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::super::hashing::{mix, nth, unit};
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
    ramp >= 1.0 || point(draw, endpoint.address()) < ramp
}

/// A number from 0 to below 1 for an endpoint in a pick. It is the same on every sidecar, and does not depend on the one
/// by which a key's level is drawn.
fn point(draw: u64, address: SocketAddr) -> f64 {
    let of_address = match address.ip() {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    };
    let of_address = mix((of_address >> 64) as u64 ^ nth(of_address as u64, u64::from(address.port())));
    unit(nth(nth(draw, u64::MAX), of_address))
}
