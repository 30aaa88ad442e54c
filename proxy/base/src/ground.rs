//! What each worker thread of the data path uses: its network, timers, metrics, random numbers and memory bounds.
//!
//! Everything that is not a pure function of its arguments comes through here, so that a test can run a whole sidecar
//! on an in-memory network, a paused clock and a seed.

use std::sync::Arc;

use parking_lot::Mutex;

use super::deadline::Timers;
use super::exchanges::Exchanges;
use super::memory::Memory;
use super::strangers::Strangers;
use super::unfinished::Unfinished;
use crate::net::Network;
use pillion_model::Direction;
use pillion_telemetry::{IntGauge, Metrics, Protocol};

pub struct Ground {
    /// The index of this worker, from 0. Pools keep one shard for each worker.
    pub index: usize,
    pub network: Network,
    pub timers: Timers,
    pub metrics: Arc<Metrics>,
    /// Random numbers for balancing, jitter and request ids. Nothing secret is made of them.
    pub rng: Mutex<fastrand::Rng>,
    /// The bound of the memory that this worker's HTTP/2 connections hold together.
    pub http2_memory: Arc<Memory>,
    /// The bound of the exchanges of this worker.
    pub exchanges: Arc<Exchanges>,
    /// The inbound connections of all workers whose client has not proven an identity.
    pub strangers: Arc<Strangers>,
    /// The unfinished handshakes and heads of all workers.
    pub unfinished: Arc<Unfinished>,
}

impl Ground {
    /// The ground of worker number `index` out of `workers`.
    pub fn new(
        (index, workers): (usize, usize),
        network: Network,
        metrics: Arc<Metrics>,
        (strangers, unfinished): (Arc<Strangers>, Arc<Unfinished>),
    ) -> Arc<Self> {
        let rng = Mutex::new(fastrand::Rng::new());
        let http2_memory = Memory::of_one_in(workers);
        let exchanges = Exchanges::of_one_in(workers, network.host_memory());
        Arc::new(Self {
            index,
            network,
            timers: Timers::default(),
            metrics,
            rng,
            http2_memory,
            exchanges,
            strangers,
            unfinished,
        })
    }

    pub fn connections_active(&self, direction: Direction, protocol: Protocol) -> IntGauge {
        self.metrics.connections_active(direction, protocol)
    }
}
