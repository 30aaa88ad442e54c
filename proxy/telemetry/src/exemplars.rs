//! The traces that stand beside the buckets of request durations in OpenMetrics, as exemplars. Only recorded requests leave
//! one; each bucket shows its latest.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use pillion_model::Direction;

use super::families::DURATION_BUCKETS;
use super::propagation::TraceId;
use super::symbols::Symbol;

/// 1,000: the most services whose traces are remembered, with some 20 buckets of 56 bytes each.
const MOST: usize = 1000;

/// The latest traces by side, service and bucket.
#[derive(Default)]
pub(super) struct Exemplars(RwLock<HashMap<(Direction, Symbol), Box<Buckets>>>);

/// One for each bucket, and one for the bucket without an upper bound.
type Buckets = [Option<Exemplar>; DURATION_BUCKETS.len() + 1];

#[derive(Debug, Clone, Copy)]
struct Exemplar {
    trace: TraceId,
    took: Duration,
    time: SystemTime,
}

impl Exemplars {
    /// Notes a recorded request that has just ended.
    pub(super) fn note(&self, of: (Direction, Symbol), took: Duration, trace: TraceId, time: SystemTime) {
        let mut known = self.0.write();
        if known.len() >= MOST && !known.contains_key(&of) {
            return;
        }
        let buckets = known.entry(of).or_insert_with(|| Box::new([None; DURATION_BUCKETS.len() + 1]));
        if let Some(place) = buckets.get_mut(bucket(took.as_secs_f64())) {
            *place = Some(Exemplar { trace, took, time });
        }
    }

    pub(super) fn forget(&self, gone: &HashSet<Symbol>) {
        self.0.write().retain(|(_, service), _| !gone.contains(service));
    }

    /// The exemplar of a bucket as OpenMetrics writes it, by the bucket's upper bound.
    pub(super) fn of(&self, direction: Direction, service: Symbol, bound: f64) -> Option<String> {
        let known = self.0.read();
        known.get(&(direction, service))?.get(bucket(bound))?.as_ref().map(Exemplar::text)
    }
}

impl Exemplar {
    fn text(&self) -> String {
        let time = self.time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (seconds, millis) = (time.as_secs(), time.subsec_millis());
        format!("{{trace_id=\"{}\"}} {} {seconds}.{millis:03}", self.trace, self.took.as_secs_f64())
    }
}

/// The place of the first bucket that takes this value.
fn bucket(seconds: f64) -> usize {
    DURATION_BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(DURATION_BUCKETS.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Metrics;

    #[test]
    fn a_flood_of_services_takes_bounded_memory() {
        let (metrics, trace) = (Metrics::new(1000), TraceId::read(&[b'1'; 32]).unwrap());
        let exemplars = Exemplars::default();
        for number in 0..2 * MOST {
            let service = metrics.intern(&number.to_string());
            exemplars.note((Direction::Outbound, service), Duration::ZERO, trace, SystemTime::UNIX_EPOCH);
        }
        assert_eq!(exemplars.0.read().len(), MOST);
    }
}
