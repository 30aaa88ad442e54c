//! What the connections of one worker, a thread of the data path, share.

use std::sync::Arc;

use http::HeaderValue;
use parking_lot::Mutex;
use pillion_model::listener::DownstreamLimits;

use crate::state::Store;
use pillion_base::drain::{Drain, Roll, Work};
use pillion_base::ground::Ground;
use pillion_model::Direction;
use pillion_telemetry::{AccessLog, Histogram, Recorder};

pub struct Worker {
    pub ground: Arc<Ground>,
    pub state: Arc<Store>,
    pub recorder: Mutex<Recorder>,
    pub access_log: Option<Arc<AccessLog>>,
    /// `metrics.endpoints`.
    pub has_endpoint_metrics: bool,
    pub drain: Drain,
    roll: Arc<Roll>,
    overhead: [Histogram; 2],
    passes: [HeaderValue; 2],
}

impl Worker {
    pub fn new(
        ground: Arc<Ground>,
        state: Arc<Store>,
        access_log: Option<Arc<AccessLog>>,
        drain: Drain,
        instance: &str,
    ) -> Arc<Self> {
        let pass = |direction| HeaderValue::try_from(format!("{instance}-{direction}=1"));
        let metrics = &ground.metrics;
        Arc::new(Self {
            state,
            recorder: Mutex::new(Recorder::new(metrics.clone())),
            access_log,
            has_endpoint_metrics: metrics.has_endpoints(),
            roll: drain.roll(),
            drain,
            overhead: [Direction::Inbound, Direction::Outbound].map(|direction| metrics.overhead(direction)),
            passes: [pass('i'), pass('o')].map(|pass| pass.unwrap_or(HeaderValue::from_static("-=1"))),
            ground,
        })
    }

    /// The current limits for connections from downstream.
    pub fn limits(&self) -> DownstreamLimits {
        self.state.load().limits
    }

    /// The metric of the time that requests spend in the sidecar itself.
    pub fn overhead(&self, direction: Direction) -> &Histogram {
        let [inbound, outbound] = &self.overhead;
        match direction {
            Direction::Inbound => inbound,
            Direction::Outbound => outbound,
        }
    }

    /// Registers a new connection with the drain, which waits for it.
    pub fn work(&self, direction: Direction) -> Work {
        Work::begin(&self.roll, direction)
    }

    /// The entry that this sidecar adds to `x-pillion-via`.
    pub const fn passes(&self, direction: Direction) -> &HeaderValue {
        let [inbound, outbound] = &self.passes;
        match direction {
            Direction::Inbound => inbound,
            Direction::Outbound => outbound,
        }
    }
}
