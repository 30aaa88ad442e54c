//! What every thread of the data path stands on: its network, timers, metrics and randomness.
//!
//! Whatever is not a pure function of its arguments comes through here, so that a whole sidecar can run on an
//! in-memory network, a paused clock and a seed.

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
    /// Which of the process's workers this is, from 0: pools keep a shard for each.
    pub index: usize,
    pub network: Network,
    pub timers: Timers,
    pub metrics: Arc<Metrics>,
    /// For balancing, jitter and request ids. Nothing secret comes from it.
    pub rng: Mutex<fastrand::Rng>,
    /// What the worker's HTTP/2 connections may hold together.
    pub http2_memory: Arc<Memory>,
    /// Exchanges of the worker that are under way.
    pub exchanges: Arc<Exchanges>,
    /// Inbound connections of all workers that were not admitted yet.
    pub strangers: Arc<Strangers>,
    /// Handshakes and heads of all workers that are not whole.
    pub unfinished: Arc<Unfinished>,
}

impl Ground {
    /// The ground of worker `index` of `workers`.
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
