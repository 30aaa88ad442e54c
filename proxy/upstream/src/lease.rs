//! Gives a request its connection.
//!
//! A request asks for a [`Lease`]. It gets an idle HTTP/1 connection or a stream of a shared HTTP/2 connection at once.
//! If none is free it waits, while a dial runs on a task of its own. The request that has waited longest gets the first
//! connection that becomes available, either given back or newly dialled. A dial goes on when the request that started
//! it is given up.
//!
//! The endpoint's [`Pool`](crate::pool::Pool) holds the open connections and the waiting requests.

mod dial;

use std::sync::Arc;

use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::cluster::endpoint::{Endpoint, Preference};
use crate::pool::Terms;
use pillion_base::error::Error;
use pillion_base::ground::Ground;
use pillion_base::limits::Permit;
use pillion_model::Reason;
use pillion_telemetry::LimitLabel;

pub use crate::pool::{Lease, Patience, SendFailure};

/// A connection to `endpoint` that is free now. `most_fields` limits the fields of an answer.
pub fn free(
    cluster: &Cluster,
    endpoint: &Endpoint,
    ground: &Ground,
    preference: Preference,
    most_fields: u32,
) -> Option<Lease> {
    let lease = endpoint.pool.shard(ground.index)?.take(endpoint.want(cluster, preference))?;
    lease.limit_answer(most_fields);
    Some(lease)
}

/// The place of one request among those that wait for a connection. It is held while the request waits, also where it
/// waits for several endpoints.
///
/// # Errors
/// `limit_pending` when too many requests wait already.
pub fn pending(cluster: &Cluster) -> Result<Permit, Error> {
    cluster.limits.pending.try_acquire().ok_or_else(|| too_many_pending(cluster))
}

/// Since when `endpoint` is being dialled without success. `None` while no dial is under way: requests may then wait for
/// the place of a connection.
pub fn dialled_since(endpoint: &Endpoint, ground: &Ground) -> Option<Instant> {
    endpoint.pool.shard(ground.index)?.dialled_since()
}

/// A connection to `endpoint` as soon as one is free: the slow path, which the first requests take, and requests under
/// pressure. The request holds a place of [`pending`]. Over HTTP/2 `most_fields` applies to a connection that is opened
/// for this request, too.
///
/// # Errors
/// The error of the failed connection attempt.
pub async fn wait(
    cluster: &Arc<Cluster>,
    endpoint: &Arc<Endpoint>,
    ground: &Arc<Ground>,
    preference: Preference,
    most_fields: u32,
) -> Result<Lease, Error> {
    let lease = served(cluster, endpoint, ground, preference, most_fields).await?;
    lease.limit_answer(most_fields);
    Ok(lease)
}

async fn served(
    cluster: &Arc<Cluster>,
    endpoint: &Arc<Endpoint>,
    ground: &Arc<Ground>,
    preference: Preference,
    most_fields: u32,
) -> Result<Lease, Error> {
    let shard = endpoint.pool.shard_or_make(ground.index, || first_use(cluster, endpoint));
    loop {
        // The wanted kind may change while waiting: the first connection shows the endpoint's HTTP version.
        let want = endpoint.want(cluster, preference);
        if let Some(lease) = shard.take(want) {
            return Ok(lease);
        }
        let mut turn = shard.queue(want);
        if let Some(ticket) = shard.ticket(want) {
            let dial = |slot| dial::start(cluster, endpoint, ground, shard, ticket, slot, most_fields);
            match cluster.try_slot(endpoint) {
                Some(slot) => dial(slot),
                // At a limit of connections: waits for a connection that is given back or for a free place, whichever comes first.
                None => tokio::select! { // the dropped branch loses only its place in one queue
                    biased;
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

/// Called when an endpoint is connected to for the first time. From now on its pool is swept.
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
