//! What the connections of one worker, a thread of the data path, share.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use parking_lot::Mutex;
use pillion_model::access_format::Template;
use pillion_model::listener::DownstreamLimits;

use crate::state::Store;
use crate::taps::Taps;
use crate::traces::Traces;
use pillion_base::drain::{Drain, Roll, Work};
use pillion_base::ground::Ground;
use pillion_model::Direction;
use pillion_telemetry::timeline::Ring;
use pillion_telemetry::{AccessLog, Histogram, Recorder};

pub struct Worker {
    pub ground: Arc<Ground>,
    pub state: Arc<Store>,
    /// The limits of a generation of `state`. They cost half of what a read of the state costs.
    limits: Mutex<(u64, DownstreamLimits)>,
    pub recorder: Mutex<Recorder>,
    access_log: Option<Arc<AccessLog>>,
    /// Whether the template of the access log names headers.
    logs_headers: bool,
    timelines: Option<Arc<Ring>>,
    pub taps: Arc<Taps>,
    pub traces: Arc<Traces>,
    /// `metrics.endpoints`.
    pub has_endpoint_metrics: bool,
    /// `metrics.compatibility: [istio]`.
    pub has_istio_metrics: bool,
    pub drain: Drain,
    roll: Arc<Roll>,
    overhead: [Histogram; 2],
    passes: [HeaderValue; 2],
}

/// Where the records of exchanges go.
#[derive(Clone, Default)]
pub struct Records {
    pub access_log: Option<Arc<AccessLog>>,
    /// The timelines of this worker.
    pub timelines: Option<Arc<Ring>>,
    pub taps: Arc<Taps>,
    pub traces: Arc<Traces>,
}

/// Who wants the record of one exchange.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    pub access_log: Option<&'a AccessLog>,
    pub timelines: Option<&'a Ring>,
    pub taps: Option<&'a Taps>,
    /// The exchange is a request whose trace is recorded.
    pub traces: Option<&'a Traces>,
}

impl Wanted<'_> {
    pub const fn by_nobody(&self) -> bool {
        self.access_log.is_none() && self.timelines.is_none() && self.taps.is_none() && self.traces.is_none()
    }
}

impl Worker {
    pub fn new(
        ground: Arc<Ground>,
        state: Arc<Store>,
        records: Records,
        drain: Drain,
        instance: &str,
    ) -> Arc<Self> {
        let pass = |direction| HeaderValue::try_from(format!("{instance}-{direction}=1"));
        let metrics = &ground.metrics;
        Arc::new(Self {
            state,
            limits: Mutex::new((u64::MAX, DownstreamLimits::default())), // of no generation yet
            recorder: Mutex::new(Recorder::new(metrics.clone())),
            logs_headers: records.access_log.as_ref().is_some_and(|log| log.names_headers().is_some()),
            access_log: records.access_log,
            timelines: records.timelines,
            taps: records.taps,
            traces: records.traces,
            has_endpoint_metrics: metrics.has_endpoints(),
            has_istio_metrics: metrics.has_istio(),
            roll: drain.roll(),
            drain,
            overhead: [Direction::Inbound, Direction::Outbound].map(|direction| metrics.overhead(direction)),
            passes: [pass('i'), pass('o')].map(|pass| pass.unwrap_or(HeaderValue::from_static("-=1"))),
            ground,
        })
    }

    /// Whether any exchange may be recorded.
    pub fn records(&self) -> bool {
        self.access_log.is_some() || self.timelines.is_some() || self.taps.is_open()
    }

    /// Whether anyone wants the headers of requests and answers.
    pub fn wants_headers(&self) -> bool {
        self.logs_headers || self.taps.wants_headers()
    }

    /// The template of the access log, if it names headers.
    pub fn log_of_headers(&self) -> Option<&Template> {
        self.access_log.as_ref()?.names_headers()
    }

    /// Who wants the record of an exchange that has ended. Call it once for each, because both samples are random.
    /// `is_notable`: it failed, or its client went away. `slow`: the time by which it counts as slow. `is_traced`: its
    /// trace is recorded.
    pub fn wanted(&self, is_notable: bool, slow: Duration, is_traced: bool) -> Wanted<'_> {
        Wanted {
            access_log: self.access_log.as_deref().filter(|log| log.wants(is_notable)),
            timelines: self.timelines.as_deref().filter(|ring| ring.wants(is_notable, slow)),
            taps: Some(&*self.taps).filter(|taps| taps.is_open()),
            traces: is_traced.then_some(&*self.traces),
        }
    }

    /// The current limits for connections from downstream.
    pub fn limits(&self) -> DownstreamLimits {
        let mut kept = self.limits.lock();
        if kept.0 != self.state.generation() {
            let snapshot = self.state.load();
            *kept = (snapshot.generation, snapshot.limits);
        }
        kept.1
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
