//! Connects a request to the endpoint that was picked for it. Where the service has endpoints of IPv4 and of IPv6, and
//! this one cannot be connected to, or not within a quarter of a second, an endpoint of the other family is connected to
//! as well, and the first connection is used (RFC 8305). So a family that leads nowhere costs no request its
//! `connect_timeout`.
//!
//! The other endpoint has the same zone and priority, and a request that is hashed stays where its key belongs. A request
//! that waits for the place of a connection goes on waiting: only a dial shows whether a family leads anywhere.
//!
//! The other dial goes on: its connection serves a later request, and its failure counts against its endpoint. So an
//! endpoint that is probed and does not connect is ejected again.

use std::pin::{Pin, pin};
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::{Trial, preference};
use crate::exchange::attempts::AttemptOutcome;
use crate::http::{Call, Exchange};
use pillion_base::error::Error;
use pillion_base::ground::Ground;
use pillion_base::race::DELAY;
use pillion_upstream::cluster::Cluster;
use pillion_upstream::cluster::endpoint::{Endpoint, Preference};
use pillion_upstream::cluster::outlier::Cause;
use pillion_upstream::lease::{self, Lease};

/// What a request wants of a connection to any endpoint of its cluster.
pub(super) struct Wish<'a> {
    cluster: &'a Arc<Cluster>,
    ground: &'a Arc<Ground>,
    preference: Preference,
    /// `limits.response_header_count`.
    most_fields: u32,
}

/// A connection, and where its endpoint is not `picked`, the endpoint and how `picked` was left.
type Connected = (Lease, Option<(Arc<Endpoint>, AttemptOutcome)>);

impl<'a> Wish<'a> {
    pub(super) fn of(call: &'a Call, cluster: &'a Arc<Cluster>, most_fields: u32) -> Self {
        let ground = &call.common.exchange.worker.ground;
        Self { cluster, ground, preference: preference(call, cluster), most_fields }
    }

    /// A connection that is free now.
    pub(super) fn at_once(&self, endpoint: &Endpoint) -> Option<Lease> {
        lease::free(self.cluster, endpoint, self.ground, self.preference, self.most_fields)
    }

    /// Waits for a connection, to the endpoint of the trial or to one of the other family.
    pub(super) async fn connect(&self, trial: &mut Trial<'_>) -> Result<Lease, Error> {
        let _pending = lease::pending(self.cluster)?;
        let (lease, other) = self.first_to_connect(&trial.endpoint, &trial.exchange).await?;
        if let Some((endpoint, left)) = other {
            trial.moves_to(endpoint, left);
        }
        Ok(lease)
    }

    async fn first_to_connect(
        &self,
        picked: &Arc<Endpoint>,
        exchange: &Exchange,
    ) -> Result<Connected, Error> {
        let mut first = pin!(self.wait(picked));
        if !self.cluster.endpoints().has_both_families {
            return first.await.map(|lease| (lease, None));
        }
        let failed = match self.alone(first.as_mut(), picked).await {
            Some(Err(error)) if Cause::of(&error) == Some(Cause::Connect) => Some(error),
            Some(ended) => return ended.map(|lease| (lease, None)),
            None => None,
        };
        match (of_other_family(self.cluster, picked, exchange), failed) {
            (Some(other), Some(error)) => {
                let second = self.wait(&other).await;
                self.settle((picked, error), (&other, second))
            }
            (Some(other), None) => self.race(first, picked, other).await,
            (None, Some(error)) => Err(error),
            (None, None) => first.await.map(|lease| (lease, None)),
        }
    }

    /// The result of the first endpoint, unless it was dialled for [`DELAY`] and has not connected.
    async fn alone(
        &self,
        mut first: Pin<&mut impl Future<Output = Result<Lease, Error>>>,
        picked: &Endpoint,
    ) -> Option<Result<Lease, Error>> {
        let mut until = Instant::now() + DELAY;
        loop {
            if let Ok(ended) = timeout_at(until, &mut first).await {
                return Some(ended);
            }
            let now = Instant::now();
            until = lease::dialled_since(picked, self.ground).unwrap_or(now) + DELAY;
            if until <= now {
                return None;
            }
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
                Ok(lease) => Ok((lease, Some((other.clone(), AttemptOutcome::Outrun)))),
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
                match Cause::of(&error) {
                    Some(_) => self.blame(picked, &error),
                    None => picked.outlier.on_neither(Instant::now().into_std()),
                }
                Ok((lease, Some((other.clone(), AttemptOutcome::Failed(error.reason)))))
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
        if let Some(cause) = Cause::of(error) {
            endpoint.failed(DELAY, cause, self.cluster, Instant::now().into_std());
        }
    }
}

/// An endpoint of the other family for a request that is not hashed.
fn of_other_family(cluster: &Cluster, than: &Endpoint, exchange: &Exchange) -> Option<Arc<Endpoint>> {
    match exchange.tried() {
        (_, Some(_key)) => None,
        (tried, None) => {
            cluster.pick_of_other_family(than, &tried, Instant::now(), &mut exchange.worker.ground.rng.lock())
        }
    }
}
