//! Connects a request to the endpoint that was picked for it. Where the service has endpoints of IPv4 and of IPv6, and
//! this one cannot be connected to, or not within a quarter of a second, an endpoint of the other family is connected to
//! as well, and the first connection is used (RFC 8305). So a family that leads nowhere costs no request its
//! `connect_timeout`.
//!
//! The other dial goes on: its connection serves a later request, and its failure counts against its endpoint.

use std::pin::{Pin, pin};
use std::sync::Arc;

use tokio::time::{Instant, timeout};

use crate::http::Call;
use pillion_base::error::Error;
use pillion_base::ground::Ground;
use pillion_base::race::DELAY;
use pillion_upstream::cluster::Cluster;
use pillion_upstream::cluster::balance::Tried;
use pillion_upstream::cluster::endpoint::{Endpoint, Preference};
use pillion_upstream::cluster::outlier::Cause;
use pillion_upstream::lease::{self, Lease};

/// What a request wants of a connection to any endpoint of its cluster.
pub(super) struct Wish<'a> {
    pub(super) cluster: &'a Arc<Cluster>,
    pub(super) ground: &'a Arc<Ground>,
    pub(super) preference: Preference,
    /// `limits.response_header_count`.
    pub(super) most_fields: u32,
}

/// A connection, and its endpoint where it is not `picked`.
type Connected = (Lease, Option<Arc<Endpoint>>);

impl Wish<'_> {
    /// A connection that is free now.
    pub(super) fn at_once(&self, endpoint: &Endpoint) -> Option<Lease> {
        lease::free(self.cluster, endpoint, self.ground, self.preference, self.most_fields)
    }

    /// Waits for a connection, to `picked` or to an endpoint of the other family.
    pub(super) async fn connect(&self, picked: &Arc<Endpoint>, call: &Call) -> Result<Connected, Error> {
        let mut first = pin!(self.wait(picked));
        if !self.cluster.endpoints().has_both_families {
            return first.await.map(|lease| (lease, None));
        }
        let failed = match timeout(DELAY, &mut first).await {
            Ok(Err(error)) if Cause::of(&error) == Some(Cause::Connect) => Some(error),
            Ok(ended) => return ended.map(|lease| (lease, None)),
            Err(_elapsed) => None,
        };
        match (of_other_family(self.cluster, picked, call), failed) {
            (Some(other), Some(error)) => {
                let second = self.wait(&other).await;
                self.settle((picked, error), (&other, second))
            }
            (Some(other), None) => self.race(first, picked, other).await,
            (None, Some(error)) => Err(error),
            (None, None) => first.await.map(|lease| (lease, None)),
        }
    }

    /// The connection that comes first. If neither comes, the error is that of `picked`.
    async fn race(
        &self,
        mut first: Pin<&mut impl Future<Output = Result<Lease, Error>>>,
        picked: &Endpoint,
        other: Arc<Endpoint>,
    ) -> Result<Connected, Error> {
        let mut second = pin!(self.wait(&other));
        tokio::select! { // the dropped branch loses its place in a queue; its dial goes on
            biased;
            ended = &mut first => match ended {
                Ok(lease) => Ok((lease, None)),
                Err(error) => self.settle((picked, error), (&other, second.await)),
            },
            ended = &mut second => match ended {
                Ok(lease) => Ok((lease, Some(other.clone()))),
                Err(error) => {
                    self.blame(&other, &error);
                    first.await.map(|lease| (lease, None))
                }
            },
        }
    }

    /// The result when the first endpoint has failed and the second has ended. The failure that the request does not
    /// end with is counted here.
    fn settle(
        &self,
        (picked, error): (&Endpoint, Error),
        (other, second): (&Arc<Endpoint>, Result<Lease, Error>),
    ) -> Result<Connected, Error> {
        match second {
            Ok(lease) => {
                self.blame(picked, &error);
                Ok((lease, Some(other.clone())))
            }
            Err(failed) => {
                self.blame(other, &failed);
                Err(error)
            }
        }
    }

    async fn wait(&self, endpoint: &Arc<Endpoint>) -> Result<Lease, Error> {
        lease::wait(self.cluster, endpoint, self.ground, self.preference, self.most_fields).await
    }

    /// Counts a failed connection against its endpoint, although the request goes on.
    fn blame(&self, endpoint: &Endpoint, error: &Error) {
        let now = Instant::now().into_std();
        match Cause::of(error) {
            Some(cause) => endpoint.failed(DELAY, cause, self.cluster, now),
            None => endpoint.outlier.on_neither(now),
        }
    }
}

/// An endpoint of the other family that was not tried for this request.
fn of_other_family(cluster: &Cluster, than: &Endpoint, call: &Call) -> Option<Arc<Endpoint>> {
    let exchange = &call.common.exchange;
    let ((before, key), now) = (exchange.tried(), Instant::now());
    let (mut tried, mut rng) = (before, exchange.worker.ground.rng.lock());
    for _ in 0..Tried::ROOM {
        let picked = cluster.pick(&mut tried, key, now, &mut rng)?;
        let is_other = picked.address.is_ipv4() != than.address.is_ipv4();
        if is_other && !before.contains(picked.id) {
            return Some(picked);
        }
        picked.outlier.on_neither(now.into_std()); // nothing is sent to it
    }
    None
}
