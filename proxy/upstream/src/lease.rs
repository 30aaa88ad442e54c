//! How a request comes to its connection.
//!
//! It asks for a [`Lease`]. An idle HTTP/1 connection or a stream of a shared HTTP/2 connection is given at once; else the
//! request waits, while a dial runs on a task of its own. Whatever comes first serves the longest waiting: a connection
//! given back, or one just dialled. A dial outlives the request that caused it.
//!
//! What is open, and who waits for it, is the endpoint's [`Pool`](crate::pool::Pool).

mod dial;

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::cluster::endpoint::{Endpoint, Preference};
use crate::pool::Terms;
use pillion_base::error::Error;
use pillion_base::ground::Ground;
use pillion_model::Reason;
use pillion_telemetry::LimitLabel;

pub use crate::pool::{Lease, SendFailure};

/// A connection to `endpoint`: at once where one is free, else as soon as one is. `most_fields`: what an answer may have;
/// over HTTP/2, on one that is opened for this.
///
/// # Errors
/// `limit_pending` when too many wait already, and whatever kept the endpoint from being connected to.
pub async fn acquire(
    cluster: &Arc<Cluster>,
    endpoint: &Arc<Endpoint>,
    ground: &Arc<Ground>,
    preference: Preference,
    most_fields: u32,
) -> Result<Lease, Error> {
    let shard = endpoint.pool.shard(ground.index);
    let lease = match shard.and_then(|shard| shard.take(endpoint.want(cluster, preference))) {
        Some(lease) => lease,
        None => Box::pin(wait(cluster, endpoint, ground, preference, most_fields)).await?,
    };
    lease.limit_answer(most_fields);
    Ok(lease)
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
    let shard = endpoint.pool.shard_or_make(ground.index, || first_use(cluster, endpoint));
    loop {
        // What to want may change while waiting: the first connection tells what the endpoint speaks.
        let want = endpoint.want(cluster, preference);
        if let Some(lease) = shard.take(want) {
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

/// An endpoint is connected to for the first time: its pool is worth sweeping from now on.
fn first_use(cluster: &Cluster, endpoint: &Arc<Endpoint>) -> Terms {
    cluster.pools.add(endpoint);
    cluster.terms()
}

fn too_many_pending(cluster: &Cluster) -> Error {
    let limit = &cluster.limits.pending;
    cluster.rejected(LimitLabel::Pending);
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
