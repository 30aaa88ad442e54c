//! The present state of a cluster for the admin pages. It reads values that the data path counts anyway.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Cluster;
use super::balance::Candidate as _;
use super::balance::slow_start::ramp;
use super::endpoint::Endpoint;
use super::outlier::Standing;
use pillion_base::limits::{Limit, NO_LIMIT};
use pillion_model::Endpoint as Spec;

impl Cluster {
    pub fn picture(&self, now: Instant) -> Value {
        let set = self.endpoints();
        let endpoints = set.all.iter().zip(set.said.endpoints.iter());
        let endpoints =
            endpoints.map(|(endpoint, spec)| endpoint_picture(endpoint, spec, self.slow_start, now));
        let (most_used, most) = self.fullest_endpoint();
        let limit = |limit: &Limit| used_of(limit.used(), limit.max());
        json!({
            "name": &*self.name,
            "direction": self.direction().as_str(),
            "endpoints": endpoints.collect::<Vec<_>>(),
            "limits": {
                "max_connections": used_of(self.slots.used(), self.slots.max()),
                "max_connections_per_endpoint": used_of(most_used, most),
                "max_pending_requests": limit(&self.limits.pending),
                "max_requests": limit(&self.limits.requests),
                "max_retries": limit(&self.limits.retries),
            },
            "cache": self.cache_picture(),
            "retry_budget": self.budget.as_ref().map(|budget| json!({ "left": budget.left(now) })),
        })
    }

    /// What its cache holds, and may hold; `None`: it has none.
    pub fn cache_picture(&self) -> Option<Value> {
        let cache = self.cache()?;
        Some(json!({ "bytes": cache.bytes(), "max": cache.policy().max, "entries": cache.entries() }))
    }

    /// Each endpoint, and whether it can get a request now: `eligible`, or why not.
    pub fn eligibility(&self, now: Instant) -> Vec<(SocketAddr, &'static str)> {
        let is_full = self.limits.requests.used() >= self.limits.requests.max();
        let state = |endpoint: &Endpoint| match endpoint.outlier.standing(now) {
            _ if endpoint.is_unhealthy() => "unhealthy",
            Standing::Ejected(_) => "ejected",
            _ if is_full || endpoint.slots().is_some_and(|slots| slots.is_full()) => "breaker",
            Standing::Probing => "probing",
            Standing::Available => "eligible",
        };
        self.endpoints().all.iter().map(|endpoint| (endpoint.address, state(endpoint))).collect()
    }
}

fn used_of(used: u32, max: u32) -> Value {
    let max = if max == NO_LIMIT { json!("off") } else { json!(max) };
    json!({ "used": used, "max": max })
}

fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

fn endpoint_picture(endpoint: &Endpoint, spec: &Spec, slow_start: Option<Duration>, now: Instant) -> Value {
    let connections = endpoint.pool.connections();
    let health = endpoint.health();
    let (requests, errors) = endpoint.tries();
    json!({
        "address": endpoint.address.to_string(),
        "weight": endpoint.weight().get(),
        "zone": spec.zone.as_deref(),
        "priority": spec.priority,
        "state": match endpoint.outlier.standing(now) {
            _ if endpoint.is_unhealthy() => "unhealthy",
            Standing::Available => "healthy",
            Standing::Ejected(_) => "ejected",
            Standing::Probing => "probing",
        },
        "ejected_for_ms": match endpoint.outlier.standing(now) {
            Standing::Ejected(rest) => json!(rest.as_millis() as u64),
            Standing::Available | Standing::Probing => Value::Null,
        },
        "slow_start": slow_start.map(|window| percent(ramp(endpoint.ready_for(now), window))),
        "health_check": health.last.map(|last| json!({
            "passed": last.failure.is_none(),
            "failure": last.failure.as_deref(),
            "ago_ms": now.saturating_duration_since(last.at).as_millis() as u64,
        })),
        "requests": requests,
        "errors": errors,
        "in_flight": endpoint.in_flight(),
        // rounded to the microsecond, because more digits would be noise
        "latency_ms": endpoint.latency(now).map(|nanos| (nanos / 1e3).round() / 1e3),
        "connections": { "idle": connections.idle, "open": connections.open },
    })
}
