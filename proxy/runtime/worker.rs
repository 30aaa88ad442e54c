//! One thread of the data path, and what its connections share.

use std::sync::Arc;

use http::HeaderValue;
use parking_lot::Mutex;
use pillion_model::listener::DownstreamLimits;

use super::deadline::Timers;
use super::drain::{Drain, Roll, Work};
use crate::http::h2::Memory;
use crate::net::Network;
use crate::state::Store;
use crate::telemetry::{AccessLog, Direction, Histogram, IntGauge, Metrics, Protocol, Recorder};

pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) network: Network,
    pub(crate) state: Arc<Store>,
    pub(crate) timers: Timers,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) recorder: Mutex<Recorder>,
    pub(crate) access_log: Option<Arc<AccessLog>>,
    pub(crate) drain: Drain,
    roll: Arc<Roll>,
    pub(crate) rng: Mutex<fastrand::Rng>,
    /// What its HTTP/2 connections may hold together.
    pub(crate) http2_memory: Arc<Memory>,
    overhead: [Histogram; 2],
    passes: [HeaderValue; 2],
}

impl Worker {
    pub(crate) fn new(
        (index, workers): (usize, usize),
        network: Network,
        state: Arc<Store>,
        metrics: Arc<Metrics>,
        access_log: Option<Arc<AccessLog>>,
        drain: Drain,
        instance: &str,
    ) -> Arc<Self> {
        let pass = |direction| HeaderValue::try_from(format!("{instance}-{direction}=1"));
        Arc::new(Self {
            index,
            network,
            state,
            timers: Timers::default(),
            recorder: Mutex::new(Recorder::new(metrics.clone())),
            access_log,
            roll: drain.roll(),
            drain,
            rng: Mutex::new(fastrand::Rng::new()),
            http2_memory: Memory::of_one_in(workers),
            overhead: [Direction::Inbound, Direction::Outbound].map(|direction| metrics.overhead(direction)),
            passes: [pass('i'), pass('o')].map(|pass| pass.unwrap_or(HeaderValue::from_static("-=1"))),
            metrics,
        })
    }

    /// What a connection from downstream may take, for one that comes now.
    pub(crate) fn limits(&self) -> DownstreamLimits {
        self.state.load().limits
    }

    /// Time spent in the sidecar itself.
    pub(crate) fn overhead(&self, direction: Direction) -> &Histogram {
        let [inbound, outbound] = &self.overhead;
        match direction {
            Direction::Inbound => inbound,
            Direction::Outbound => outbound,
        }
    }

    /// Of a connection that is there from now on.
    pub(crate) fn work(&self, direction: Direction) -> Work {
        Work::begin(&self.roll, direction)
    }

    /// What this sidecar adds to `x-pillion-via`.
    pub(crate) const fn passes(&self, direction: Direction) -> &HeaderValue {
        let [inbound, outbound] = &self.passes;
        match direction {
            Direction::Inbound => inbound,
            Direction::Outbound => outbound,
        }
    }

    pub(crate) fn connections_active(&self, direction: Direction, protocol: Protocol) -> IntGauge {
        self.metrics.connections_active(direction, protocol)
    }
}
