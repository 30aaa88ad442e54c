//! Finds a server for one opaque connection: picks an endpoint, dials it, and dials further ones where `retry` allows
//! it.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use pillion_model::policy::Retry;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::connection::Origin;
use crate::detect::{Early, EarlyServer};
use crate::exchange::attempts::{AttemptId, AttemptOutcome, Attempts};
use crate::exchange::{DialFailure, Facts};
use crate::state::Route;
use crate::worker::Worker;
use pillion_base::error::Error;
use pillion_base::net::returning::{is_loop, loop_detected, passes};
use pillion_base::net::{Io, Leg, Prefixed};
use pillion_model::Reason;
use pillion_telemetry::Protocol;
use pillion_tls::admission::Admission;
use pillion_tls::client::Purpose;
use pillion_upstream::cluster::balance::Tried;
use pillion_upstream::cluster::budget::Deposit;
use pillion_upstream::cluster::endpoint::{Endpoint, InFlight};
use pillion_upstream::cluster::outlier::Cause;
use pillion_upstream::cluster::retry::{Withheld, failure_meets};
use pillion_upstream::cluster::{Cluster, backoff};
use pillion_upstream::connect::{Connected, connect_as, opened, tls_failed};
use pillion_upstream::slots::Slot;

/// A connection to an endpoint for one opaque connection alone, and what is held as long as it is open.
pub struct Dialled {
    pub io: Io,
    /// The facts of the opaque connection, with all attempts until now.
    pub(super) facts: Facts,
    /// The attempt that made this connection.
    pub(super) attempt: AttemptId,
    cluster: Arc<Cluster>,
    /// `None`: plaintext.
    admission: Option<Arc<Admission>>,
    /// How long the connect took.
    took: Duration,
    /// `None` while it is not known whether the connection will be used.
    slot: Option<Slot>,
    /// The deposit of the first try in the retry budget, until the connection is used. It is not kept for a connection
    /// that turns out to be HTTP, because requests make deposits of their own.
    deposit: Option<Deposit>,
    in_flight: InFlight,
}

impl EarlyServer for Dialled {
    fn io(&mut self) -> &mut Io {
        &mut self.io
    }

    fn tls_failure(&self) -> Option<Error> {
        let failure = self.admission.as_ref()?.failure()?;
        Some(tls_failed(self.in_flight.endpoint().address, &self.cluster.name, &failure.error))
    }

    fn failed(self, error: Error) -> DialFailure {
        let failure = DialFailure::of_attempt(error, self.attempt, self.facts);
        DialFailure { deposit: self.deposit, ..failure }
    }
}

/// Boxed, because the future of a TLS handshake takes kilobytes, and few connections need one.
pub type BoxedDial<'a> = Pin<Box<dyn Future<Output = Result<Dialled, DialFailure>> + Send + 'a>>;

/// Dials `route` once its client has been silent for a while, to learn whether the server speaks first.
pub fn early<'a>(
    route: &'a Arc<Route>,
    origin: Origin,
    worker: &'a Worker,
) -> Early<impl FnOnce() -> BoxedDial<'a> + Send> {
    let cluster = &route.cluster;
    Early {
        after: cluster.patience(),
        expects_http: cluster.expects_http(),
        is_at_hand: false,
        dial: move || Box::pin(dial_for(origin, route, worker)) as BoxedDial<'a>,
    }
}

/// Dials for a client, unless the client is the sidecar itself.
async fn dial_for(origin: Origin, route: &Arc<Route>, worker: &Worker) -> Result<Dialled, DialFailure> {
    let Origin { from, original, .. } = origin;
    if is_loop(route.cluster.direction(), from, original) {
        return Err(DialFailure::new(loop_detected(from, original), Facts::of(route)));
    }
    dial_counted(TakesPlace::WhenUsed, route, origin, Attempts::default(), worker).await
}

/// An early dial that is done already: the server was dialled to answer a CONNECT.
pub fn at_hand(
    dialled: Dialled,
    route: &Route,
) -> Early<impl FnOnce() -> std::future::Ready<Result<Dialled, DialFailure>> + Send> {
    let expects_http = route.cluster.expects_http();
    Early {
        after: Duration::ZERO,
        expects_http,
        is_at_hand: true,
        dial: move || std::future::ready(Ok(dialled)),
    }
}

/// When a connection takes its place among `max_connections`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TakesPlace {
    /// Before each dial. Between two dials the connection has no place.
    WhileDialled,
    /// When it is used, so that silent clients do not take the places of others.
    WhenUsed,
}

/// How the connections for one client are made.
#[derive(Debug, Clone, Copy)]
struct How {
    counted: TakesPlace,
    leg: Leg,
}

/// Connects to an endpoint, and to further ones where `retry` allows it. `before`: attempts that were already made for
/// this connection.
///
/// # Errors
/// `overloaded` where `max_connections` is reached or every endpoint is at its own limit; `loop_detected` where the
/// bytes came through this sidecar more often than `limits.via_passes`; otherwise the error of the last attempt to
/// connect.
pub async fn dial(
    route: &Arc<Route>,
    origin: Origin,
    before: Attempts,
    worker: &Worker,
) -> Result<Dialled, DialFailure> {
    dial_counted(TakesPlace::WhileDialled, route, origin, before, worker).await
}

async fn dial_counted(
    counted: TakesPlace,
    route: &Arc<Route>,
    origin: Origin,
    before: Attempts,
    worker: &Worker,
) -> Result<Dialled, DialFailure> {
    let key = route.cluster.hash_of_client(origin.from.ip());
    let mut facts = Facts { attempts: before, key, ..Facts::of(route) };
    let leg = match leg(origin, route, worker) {
        Ok(leg) => leg,
        Err(error) => return Err(DialFailure::new(error, facts)),
    };
    let how = How { counted, leg };
    let now = Instant::now().into_std();
    let deposit = route.budget.as_ref().map(|budget| Deposit::into(budget, now));
    match dial_and_redial(how, &mut facts, route, worker).await {
        Ok(dialled) => Ok(Dialled { facts, deposit, ..dialled }),
        Err(error) => Err(DialFailure { deposit, ..DialFailure::new(error, facts) }),
    }
}

/// The leg of the connections for this client. A service may have a listener of the sidecar as its endpoint: the bytes
/// of a client that is the sidecar itself have passed it before.
fn leg(origin: Origin, route: &Route, worker: &Worker) -> Result<Leg, Error> {
    match origin.at.map_or(0, |at| passes(origin.from, at)) {
        0 => Ok(route.cluster.leg),
        before if before >= worker.limits().via_passes => {
            let detail = format!(
                "the connection came through this sidecar {before} times: \"{}\" and perhaps other services lead to \
                 each other in a circle",
                route.cluster.name
            );
            Err(Error::new(Reason::LoopDetected, detail))
        }
        before => Ok(Leg::OutboundAgain(before)),
    }
}

/// Dials, and dials another endpoint after a failure, since no byte was sent to the failed one: where a condition of
/// `retry` is met, after the pause of its `backoff`, and within its budget and `max_retries`.
async fn dial_and_redial(
    how: How,
    facts: &mut Facts,
    route: &Route,
    worker: &Worker,
) -> Result<Dialled, Error> {
    let (cluster, budget) = (&route.cluster, route.budget.as_deref());
    let mut dialled = dial_next(how, facts, cluster, worker).await;
    for tries in 1.. {
        let Err(error) = dialled else { break };
        let Some(retry) = route.retry.as_deref().filter(|retry| may_redial(retry, tries, &error)) else {
            return Err(error);
        };
        let mut retried =
            cluster.begin_retry(budget, Instant::now()).map_err(|why| explained(&error, why))?;
        tracing::debug!(%error, "another endpoint is dialled");
        let pause = backoff::pause(&retry.backoff, tries - 1, &mut worker.ground.rng.lock());
        retried.pause(pause).await;
        dialled = dial_next(how, facts, cluster, worker).await;
        retried.ended(dialled.is_ok());
    }
    dialled
}

/// Whether another endpoint may be dialled. `tries`: the tries that were made, including the failed one.
/// `retry.methods` does not matter, because no byte was sent.
fn may_redial(retry: &Retry, tries: u32, error: &Error) -> bool {
    tries <= retry.attempts && retry.conditions.iter().any(|&condition| failure_meets(condition, error))
}

/// Adds to the failure's text why no further endpoint was dialled. Its reason stays.
fn explained(error: &Error, why: Withheld) -> Error {
    let why = match why {
        Withheld::Budget => "the retries of the last 10 s have used up retry.budget",
        Withheld::Limit => "as many retries as circuit_breaker.max_retries allows are under way",
    };
    Error::new(error.reason, format!("{error}; no other endpoint was dialled: {why}"))
}

/// Makes one attempt, at an endpoint that was not tried yet.
async fn dial_next(
    How { counted, leg }: How,
    facts: &mut Facts,
    cluster: &Arc<Cluster>,
    worker: &Worker,
) -> Result<Dialled, Error> {
    let in_cluster = (counted == TakesPlace::WhileDialled).then(|| cluster.slot_now()).transpose()?;
    let endpoint = with_room(cluster, facts, worker)?;
    let attempt = facts.attempts.begin();
    facts.picked(attempt, &endpoint, Instant::now());
    let mut dialled = dial_endpoint(leg, cluster, endpoint, attempt, worker).await;
    if let (Ok(made), Some(in_cluster)) = (&mut dialled, in_cluster)
        && let Err(full) = made.take_place(in_cluster)
    {
        dialled = Err(full);
    }
    let now = Instant::now();
    match &dialled {
        Ok(_) => facts.attempts.note(attempt, |attempt| attempt.connected = Some(now)),
        Err(error) => facts.attempts.end(attempt, AttemptOutcome::Failed(error.reason), now),
    }
    dialled
}

/// Picks an endpoint that may have one more connection, and skips those that are at their own limit.
fn with_room(cluster: &Cluster, facts: &mut Facts, worker: &Worker) -> Result<Arc<Endpoint>, Error> {
    let Facts { tried, key, .. } = facts;
    let mut rng = worker.ground.rng.lock();
    let mut pick =
        || cluster.pick(tried, *key, Instant::now(), &mut rng).ok_or_else(|| cluster.no_endpoint());
    let mut endpoint = pick()?;
    for _ in 1..cluster.endpoints().all.len().min(Tried::ROOM) {
        if !endpoint.is_full() {
            break;
        }
        pass_by(&endpoint);
        endpoint = pick()?;
    }
    if endpoint.is_full() {
        pass_by(&endpoint);
        return Err(cluster.endpoint_is_full(&endpoint));
    }
    Ok(endpoint)
}

/// Gives back a picked endpoint to which nothing is sent: if it was to be probed, another connection may probe it.
fn pass_by(endpoint: &Endpoint) {
    endpoint.outlier.on_neither(Instant::now().into_std());
}

async fn dial_endpoint(
    leg: Leg,
    cluster: &Arc<Cluster>,
    endpoint: Arc<Endpoint>,
    attempt: AttemptId,
    worker: &Worker,
) -> Result<Dialled, Error> {
    let (in_flight, began) = (InFlight::at(&endpoint), Instant::now());
    let connected = connect_as(leg, cluster, endpoint.address, &worker.ground, Purpose::Tcp).await;
    let (took, now) = (began.elapsed(), Instant::now().into_std());
    match connected {
        Ok(Connected { transport, admission, .. }) => {
            opened(cluster, &worker.ground, Protocol::Tcp, admission.as_ref());
            if let Some(admission) = &admission {
                let (endpoint, cluster) = (endpoint.clone(), cluster.clone());
                admission.when_known(move |refused| {
                    let now = Instant::now().into_std();
                    match refused {
                        None => {}
                        Some(error) if error.is_of_our_certificate => endpoint.outlier.on_neither(now),
                        Some(_) => endpoint.failed(took, Cause::Connect, &cluster, now),
                    }
                });
            }
            let io = Prefixed::new(transport);
            let cluster = cluster.clone();
            let facts = Facts::default();
            let (slot, deposit) = (None, None);
            Ok(Dialled { io, facts, attempt, cluster, admission, took, slot, deposit, in_flight })
        }
        Err(error) => {
            match Cause::of(&error) {
                Some(cause) => endpoint.failed(took, cause, cluster, now),
                None => endpoint.outlier.on_neither(now),
            }
            Err(error)
        }
    }
}

impl Dialled {
    pub(super) fn endpoint(&self) -> SocketAddr {
        self.in_flight.endpoint().address
    }

    /// The connection, whose attempts follow those that were made beside it.
    pub fn after(mut self, mut others: Attempts) -> Self {
        self.attempt = others.append(std::mem::take(&mut self.facts.attempts));
        self.facts.attempts = others;
        self
    }

    /// Gives the connection this place in the cluster, and one at its endpoint.
    fn take_place(&mut self, in_cluster: OwnedSemaphorePermit) -> Result<(), Error> {
        let at_endpoint = self.cluster.slot_now_at(self.in_flight.endpoint())?;
        self.slot = Some(Slot::new(in_cluster, at_endpoint));
        Ok(())
    }

    /// Counts the connection from here on: among those of its service, and as a success of its endpoint. A connection
    /// that is not used, or on which neither side sent a byte, does not show how its endpoint answers requests.
    pub(super) fn used(mut self, is_silent: bool) -> Result<Self, DialFailure> {
        if self.slot.is_none()
            && let Err(error) = self.cluster.slot_now().and_then(|in_cluster| self.take_place(in_cluster))
        {
            return Err(self.failed(error));
        }
        if let Some(deposit) = self.deposit.take() {
            deposit.keep();
        }
        let (endpoint, cluster, took) = (self.in_flight.endpoint().clone(), self.cluster.clone(), self.took);
        let answered = move || {
            if !is_silent {
                endpoint.answered(took, &cluster, Instant::now().into_std());
            }
        };
        match &self.admission {
            None => answered(),
            Some(admission) => admission.when_known(move |refused| {
                if refused.is_none() {
                    answered(); // `dial_endpoint` counts a refusal
                }
            }),
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use pillion_model::Reason;
    use pillion_model::policy::{Backoff, RetryBudget, RetryCondition, RetryMethods};

    use super::*;

    fn retry(attempts: u32, conditions: &[RetryCondition]) -> Retry {
        Retry {
            attempts,
            conditions: conditions.to_vec(),
            methods: RetryMethods::Idempotent,
            per_try_timeout: None,
            backoff: Backoff::default(),
            budget: RetryBudget { ratio: 0.2, min_per_second: 10 },
            max_body: 0,
            hedge_after: None,
        }
    }

    #[test]
    fn another_endpoint_is_dialled_while_tries_are_left_and_a_condition_is_met() {
        use RetryCondition::{ConnectFailure, FiveXx, GatewayError, RefusedStream, Reset};
        let table = [
            (Reason::ConnectRefused, 1, &[ConnectFailure][..], true),
            (Reason::ConnectTimeout, 2, &[ConnectFailure], true),
            (Reason::TlsError, 2, &[ConnectFailure], true),
            (Reason::ConnectRefused, 3, &[ConnectFailure], false),
            (Reason::ConnectRefused, 1, &[FiveXx], true),
            (Reason::ConnectRefused, 1, &[RefusedStream, Reset, GatewayError], false),
            (Reason::ConnectRefused, 1, &[], false),
            (Reason::PeerIdentityMismatch, 1, &[ConnectFailure], false),
            (Reason::NoEndpoints, 1, &[ConnectFailure, FiveXx], false),
            (Reason::Overloaded, 1, &[ConnectFailure, FiveXx], false),
        ];
        for (reason, tries, conditions, expected) in table {
            let may = may_redial(&retry(2, conditions), tries, &Error::new(reason, ""));
            assert_eq!(may, expected, "{reason:?} {tries} {conditions:?}");
        }
    }
}
