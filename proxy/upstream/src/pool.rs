//! Connections to endpoints: leased to requests, kept while idle, bounded always.
//!
//! A request asks for a [`Lease`]. An idle HTTP/1 connection or a stream of a shared HTTP/2 connection is given
//! at once; else the request waits, while a dial runs on a task of its own. Whatever comes first serves the
//! longest waiting: a connection given back, or one just dialled. A dial outlives the request that caused it.
//!
//! Each endpoint has one [`shard::Shard`] per worker, so that workers share nothing while connections last. Only
//! at `max_connections` does a worker close idle connections of the others.

mod departing;
mod dial;
mod fields;
mod hold;
mod lease;
mod shard;
mod transport;

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::cluster::endpoint::Endpoint;
use pillion_base::error::Error;
use pillion_base::ground::Ground;
use pillion_model::Reason;
use pillion_telemetry::Limit;

pub use departing::Departing;
pub use lease::{Lease, SendFailure};
pub use shard::{Pool, SWEEP_EVERY};
pub use transport::AnswerFirst;

/// What the [`Preference`] of a request comes to at its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    Http1,
    Http2,
    /// HTTP/1.1 whatever else the endpoint speaks.
    OnlyHttp1,
    /// Whatever the endpoint chooses by ALPN, which is not known yet.
    Negotiated,
}

/// Which version a request would like its connection to speak. What the endpoint speaks decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preference {
    /// The caller spoke HTTP/1.
    Http1,
    /// The caller spoke HTTP/2, or the request needs it (gRPC).
    Http2,
    /// It shall become a tunnel, for which HTTP/1.1 needs no consent of the endpoint's.
    OnlyHttp1,
}

impl Want {
    /// Whether others may use the connection at the same time.
    const fn is_shared(self) -> bool {
        matches!(self, Self::Http2 | Self::Negotiated)
    }
}

/// A connection to `endpoint`: at once where one is free, else as soon as one is. `most_fields`: what an answer may have
/// on one that is opened for this.
///
/// # Errors
/// `limit_pending` when too many wait already, and whatever kept the endpoint from being connected to.
pub async fn lease(
    cluster: &Arc<Cluster>,
    endpoint: &Arc<Endpoint>,
    ground: &Arc<Ground>,
    preference: Preference,
    most_fields: u32,
) -> Result<Lease, Error> {
    let shard = endpoint.pool.shard(ground.index);
    match shard.and_then(|shard| shard.take(cluster, endpoint.want(cluster, preference))) {
        Some(lease) => Ok(lease),
        None => Box::pin(wait(cluster, endpoint, ground, preference, most_fields)).await,
    }
}

/// The slow way, taken by the first requests and under pressure.
async fn wait(
    cluster: &Arc<Cluster>,
    endpoint: &Arc<Endpoint>,
    ground: &Arc<Ground>,
    preference: Preference,
    most_fields: u32,
) -> Result<Lease, Error> {
    let _pending = cluster.limits.pending.try_acquire().ok_or_else(|| too_many_pending(cluster))?;
    let shard = endpoint.pool.shard_or_make(ground.index, || cluster.pools.add(endpoint));
    loop {
        // What to want may change while waiting: the first connection tells what the endpoint speaks.
        let want = endpoint.want(cluster, preference);
        if let Some(lease) = shard.take(cluster, want) {
            return Ok(lease);
        }
        let mut turn = shard.queue(want);
        if let Some(ticket) = shard.ticket(want) {
            let dial = |slot| dial::start(cluster, endpoint, ground, shard, ticket, slot, most_fields);
            match cluster.try_slot(endpoint) {
                Some(slot) => dial(slot),
                // At a limit of connections: a connection given back, or room for another, whichever comes first.
                None => tokio::select! { // the branch not taken loses its place in one queue, nothing else
                    served = turn.served() => match served? {
                        Some(lease) => return Ok(lease),
                        None => continue,
                    },
                    slot = cluster.slot(endpoint) => dial(slot?),
                },
            }
        }
        if let Some(lease) = turn.served().await? {
            return Ok(lease);
        }
    }
}

fn too_many_pending(cluster: &Cluster) -> Error {
    let limit = &cluster.limits.pending;
    cluster.rejected(Limit::Pending);
    Error::new(
        Reason::LimitPending,
        format!(
            "{} requests already wait for a connection to \"{}\" (circuit_breaker.{} is {})",
            limit.used(),
            cluster.name,
            limit.name(),
            limit.max(),
        ),
    )
}
