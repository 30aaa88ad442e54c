//! One address of a cluster: its load, its health, and the connections to it.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::balance::Candidate;
use super::ewma::Ewma;
use super::outlier::{Cause, Outlier};
use super::{Cluster, ClusterProtocol};
use crate::pool::{Pool, Want};
use crate::slots::Slots;
use pillion_telemetry::EjectionCause;

pub struct Endpoint {
    pub id: usize,
    pub address: SocketAddr,
    weight: AtomicU32,
    /// Dropping the endpoint closes what is idle in it.
    pub pool: Pool,
    /// `max_connections_per_endpoint`; `None`: off. Looked at for each dial, and for no request.
    slots: Mutex<Option<Arc<Slots>>>,
    in_flight: AtomicU32,
    latency: Ewma,
    pub outlier: Outlier,
    /// What it chose by ALPN the last time.
    learnt: AtomicU8,
    /// Nobody new comes here.
    has_left: AtomicBool,
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

/// What an endpoint was found to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Speaks {
    Http1 = 1,
    Http2 = 2,
}

/// A failed try counts as at least this slow, so that an endpoint which fails fast does not look fast.
const FAILURE_COSTS: Duration = Duration::from_millis(50);

impl Endpoint {
    pub fn new(
        id: usize,
        spec: &pillion_model::Endpoint,
        outlier: Outlier,
        workers: usize,
        epoch: Instant,
    ) -> Self {
        Self {
            id,
            address: spec.address,
            weight: AtomicU32::new(spec.weight.get()),
            pool: Pool::new(workers),
            slots: Mutex::new(None),
            in_flight: AtomicU32::new(0),
            latency: Ewma::new(epoch),
            outlier,
            learnt: AtomicU8::new(0),
            has_left: AtomicBool::new(false),
        }
    }

    /// It is in no set of endpoints any more: what it has begun it finishes, and nobody new comes.
    pub(super) fn leave(&self) {
        self.has_left.store(true, Relaxed);
    }

    /// Closes connections that were idle for too long, which for an endpoint that has left is no time at all.
    pub fn sweep(&self) {
        self.pool.sweep(self.has_left.load(Relaxed));
    }

    /// A reload may change it.
    pub fn set_weight(&self, weight: NonZeroU32) {
        self.weight.store(weight.get(), Relaxed);
    }

    /// A reload may change it. A changed limit counts the connections that are opened from then on.
    pub(super) fn limit_connections(&self, most: Option<u32>) {
        let mut slots = self.slots.lock();
        if slots.as_ref().map(|slots| slots.max()) != most {
            *slots = most.map(Slots::new);
        }
    }

    /// Places for its connections; `None`: it has no limit of its own.
    pub fn slots(&self) -> Option<Arc<Slots>> {
        self.slots.lock().clone()
    }

    /// Whether it is at its own limit.
    pub fn is_full(&self) -> bool {
        self.slots.lock().as_ref().is_some_and(|slots| slots.is_full())
    }

    /// What the preference of a request comes to here.
    pub fn want(&self, cluster: &Cluster, preference: Preference) -> Want {
        let is_http2 = match preference {
            Preference::OnlyHttp1 => return Want::OnlyHttp1,
            preference => preference == Preference::Http2,
        };
        match cluster.protocol {
            ClusterProtocol::Http1 | ClusterProtocol::Tcp => Want::Http1,
            ClusterProtocol::Http2 => Want::Http2,
            ClusterProtocol::AppAuto => callers(is_http2),
            ClusterProtocol::Auto if cluster.tls().is_none() => callers(is_http2),
            ClusterProtocol::Auto => match self.learnt.load(Relaxed) {
                1 => Want::Http1,
                2 => Want::Http2,
                _ => Want::Negotiated,
            },
        }
    }

    pub fn learn(&self, speaks: Speaks) {
        self.learnt.store(speaks as u8, Relaxed);
    }

    pub fn answered(&self, took: Duration, cluster: &Cluster, now: Instant) {
        self.latency.observe(took, now);
        if self.outlier.on_success(now) {
            let (service, endpoint) = (&*cluster.name, self.address);
            tracing::info!(service, %endpoint, "endpoint is back: the probe after its ejection was answered");
        }
    }

    pub fn failed(&self, took: Duration, cause: Cause, cluster: &Cluster, now: Instant) {
        self.latency.observe(took.max(FAILURE_COSTS), now);
        if let Some(ejected) = self.outlier.on_error(now, cause) {
            cluster.metrics().ejections(EjectionCause::ConsecutiveErrors).inc();
            tracing::info!(
                service = &*cluster.name,
                endpoint = %self.address,
                last = ejected.cause.label(),
                rest_ms = ejected.rest.as_millis() as u64,
                "endpoint ejected after errors in a row"
            );
        }
    }
}

const fn callers(is_http2: bool) -> Want {
    if is_http2 { Want::Http2 } else { Want::Http1 }
}

impl Candidate for Endpoint {
    fn id(&self) -> usize {
        self.id
    }

    fn weight(&self) -> NonZeroU32 {
        NonZeroU32::new(self.weight.load(Relaxed)).unwrap_or(NonZeroU32::MIN)
    }

    fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    fn latency(&self, now: Instant) -> Option<f64> {
        self.latency.latency(now)
    }

    fn is_usable(&self, now: Instant) -> bool {
        self.outlier.is_usable(now)
    }
}

/// One request at an endpoint, until the last byte of its answer.
pub struct InFlight(Arc<Endpoint>);

impl InFlight {
    pub fn at(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.in_flight.fetch_add(1, Relaxed);
        Self(endpoint.clone())
    }

    pub const fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}
