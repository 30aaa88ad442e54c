//! What each worker thread of the data path uses: its network, timers, metrics, random numbers and memory bounds.
//!
//! Everything that is not a pure function of its arguments comes through here, so that a test can run a whole sidecar
//! on an in-memory network, a paused clock and a seed.

use std::sync::Arc;

use parking_lot::Mutex;

use super::deadline::Timers;
use super::exchanges::Exchanges;
use super::memory::Memory;
use super::memory::ceiling::Ceiling;
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
    /// The bound of the inbound exchanges of this worker.
    pub exchanges: Arc<Exchanges>,
    /// The bound of its outbound exchanges, where the memory of the process is limited.
    pub application_exchanges: Arc<Exchanges>,
    /// The inbound connections of all workers whose client has not proven an identity.
    pub strangers: Arc<Strangers>,
    /// The unfinished handshakes and heads of all workers.
    pub unfinished: Arc<Unfinished>,
    /// The limit of the memory of the process.
    pub ceiling: Arc<Ceiling>,
}

/// What all workers share.
#[derive(Clone, Default)]
pub struct Shared {
    /// The inbound connections of all workers whose client has not proven an identity.
    pub strangers: Arc<Strangers>,
    /// The unfinished handshakes and heads of all workers.
    pub unfinished: Arc<Unfinished>,
    /// The limit of the memory of the process.
    pub ceiling: Arc<Ceiling>,
}

impl Shared {
    /// For a process that may take the given bytes of memory.
    pub fn of_host(bytes: u64) -> Self {
        let ceiling = Arc::new(Ceiling::of_host(bytes));
        Self { strangers: Arc::default(), unfinished: Arc::new(Unfinished::within(ceiling.clone())), ceiling }
    }
}

impl Ground {
    /// The ground of worker number `index` out of `workers`.
    pub fn new(
        (index, workers): (usize, usize),
        network: Network,
        metrics: Arc<Metrics>,
        Shared { strangers, unfinished, ceiling }: Shared,
    ) -> Arc<Self> {
        let rng = Mutex::new(fastrand::Rng::new());
        let http2_memory = Memory::of_one_in(workers, ceiling.clone());
        let exchanges = Exchanges::of_one_in(workers, ceiling.clone());
        let application_exchanges = Exchanges::of_application(workers, ceiling.clone());
        Arc::new(Self {
            index,
            network,
            timers: Timers::default(),
            metrics,
            rng,
            http2_memory,
            exchanges,
            application_exchanges,
            strangers,
            unfinished,
            ceiling,
        })
    }

    pub fn connections_active(&self, direction: Direction, protocol: Protocol) -> IntGauge {
        self.metrics.connections_active(direction, protocol)
    }
}
