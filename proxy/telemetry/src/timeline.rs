//! The timelines of exchanges that have ended: of the failed ones, the slow ones, and a sample of the others.
//!
//! Each worker has a [`Ring`] of its own, so that its requests wait for no other worker. [`Timelines`] has all of them;
//! the admin port reads it. The memory of a ring is bounded in bytes: a new timeline takes the place of the oldest ones.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use pillion_model::telemetry::Explain;
use pillion_model::{Direction, Reason};

use super::access::{DETAIL_BYTES, NAME_BYTES, PATH_BYTES, Record};
use super::json::lossy;
use super::labels::Decision;

/// A quarter of a ring belongs to exchanges that did not fail, so that a storm of failures leaves them.
const FAILED_SHARE: (usize, usize) = (3, 4);

/// What is kept of one exchange, a request or an opaque connection. It has neither the query nor any header but the
/// host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeline {
    /// The request's ID. An opaque connection gets one when its timeline is kept.
    pub id: Box<str>,
    /// When it began.
    pub time: SystemTime,
    pub direction: Direction,
    pub service: Box<str>,
    pub route: Box<str>,
    pub protocol: &'static str,
    /// Empty for opaque connections, as `path` and `host`.
    pub method: Box<str>,
    /// Without the query, which may have secrets.
    pub path: Box<str>,
    pub host: Box<str>,
    /// 0 for opaque connections.
    pub status: u16,
    pub grpc_status: Option<u8>,
    pub reason: Option<Reason>,
    /// The reason of the other sidecar; empty if that did not make the answer.
    pub peer_reason: Box<str>,
    /// The sentence that explains `reason`.
    pub detail: Box<str>,
    pub duration: Duration,
    pub attempts: u32,
    /// The verified SPIFFE ID of the client; empty without one.
    pub peer: Box<str>,
    pub downstream: Option<SocketAddr>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub authorization: Option<Decision>,
    pub rule: Box<str>,
    /// In the order in which they began.
    pub stages: Box<[Stage]>,
}

/// One part of the time of an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    pub name: StageName,
    /// When it began, after the beginning of the exchange.
    pub at: Duration,
    pub took: Duration,
    /// The number of the attempt, from 1; 0: it belongs to none.
    pub attempt: u32,
    pub endpoint: Option<SocketAddr>,
    pub outcome: StageOutcome,
    pub detail: Option<Box<str>>,
}

/// The stages, in the order in which an exchange passes through them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StageName {
    /// The sidecar found out what the client speaks.
    Detect,
    /// The handshake with the client.
    Tls,
    /// Everything before the first attempt: the route, headers, limits.
    Route,
    Authorize,
    RateLimit,
    /// An attempt waited for a connection that was open already, or for a place.
    Queue,
    /// A connection was made, with its handshake.
    Connect,
    /// The request was written, with its body.
    Send,
    /// From the end of the request to the head of the answer.
    FirstByte,
    /// The pause before a further attempt.
    Backoff,
    /// A second attempt began beside the first.
    Hedge,
    /// The body of the answer.
    Body,
    End,
}

impl StageName {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Detect => "detect",
            Self::Tls => "tls",
            Self::Route => "route",
            Self::Authorize => "authorize",
            Self::RateLimit => "rate_limit",
            Self::Queue => "queue",
            Self::Connect => "connect",
            Self::Send => "send",
            Self::FirstByte => "first_byte",
            Self::Backoff => "backoff",
            Self::Hedge => "hedge",
            Self::Body => "body",
            Self::End => "end",
        }
    }
}

/// How a stage ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StageOutcome {
    /// It led to the next one.
    Done,
    /// A word of this program.
    Word(&'static str),
    Status(u16),
    Reason(Reason),
}

impl Timeline {
    pub fn of(record: &Record<'_>, stages: Vec<Stage>) -> Self {
        let text = |bytes: &[u8], most| lossy(bytes, most).into_boxed_str();
        let path = record.request.path.split(|byte| *byte == b'?').next().unwrap_or_default();
        Self {
            id: text(record.request.request_id, NAME_BYTES),
            time: record.time,
            direction: record.direction,
            service: record.service.into(),
            route: record.route.into(),
            protocol: record.protocol,
            method: text(record.request.method.as_bytes(), NAME_BYTES),
            path: text(path, PATH_BYTES),
            host: text(record.request.host, NAME_BYTES),
            status: record.request.status,
            grpc_status: record.request.grpc_status,
            reason: record.reason,
            peer_reason: text(record.request.peer_reason.as_bytes(), NAME_BYTES),
            detail: text(record.detail.as_bytes(), DETAIL_BYTES),
            duration: record.duration,
            attempts: record.attempts,
            peer: record.peer.into(),
            downstream: record.downstream,
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
            authorization: record.authorization,
            rule: record.rule.into(),
            stages: stages.into_boxed_slice(),
        }
    }

    /// The CODE with which it failed, of this sidecar or of the other one; empty if neither made the answer.
    pub fn code(&self) -> &str {
        match self.reason {
            Some(reason) => reason.code(),
            None => &self.peer_reason,
        }
    }

    /// Whether it counts as failed: see [`is_failure`].
    pub fn is_failure(&self) -> bool {
        is_failure(self.reason.is_some() || !self.peer_reason.is_empty(), self.status)
    }

    /// The memory that it takes, in bytes.
    fn bytes(&self) -> usize {
        let texts = [
            &self.id,
            &self.service,
            &self.route,
            &self.method,
            &self.path,
            &self.host,
            &self.peer_reason,
            &self.detail,
            &self.peer,
            &self.rule,
        ];
        let details = self.stages.iter().filter_map(|stage| stage.detail.as_ref());
        let texts: usize = texts.into_iter().chain(details).map(|text| text.len()).sum();
        size_of::<Self>() + texts + size_of_val(&*self.stages)
    }
}

/// Whether an exchange counts as failed, for the access log and for what is kept: a sidecar ended it, or the answer is a
/// 5xx.
pub const fn is_failure(has_reason: bool, status: u16) -> bool {
    has_reason || status >= 500
}

/// The timelines of one worker.
pub struct Ring {
    slow: Duration,
    /// A random number below this keeps an exchange.
    sample: u64,
    /// Failed exchanges, and others.
    kept: Mutex<[Queue; 2]>,
}

impl Ring {
    fn new(explain: &Explain, bytes: usize) -> Self {
        let failed = bytes / FAILED_SHARE.1 * FAILED_SHARE.0;
        Self {
            slow: explain.slow,
            sample: threshold(explain.sample),
            kept: Mutex::new([Queue::new(failed), Queue::new(bytes - failed)]),
        }
    }

    /// Whether the timeline of this exchange is kept. Call it once for each exchange, because the sample is random.
    pub fn wants(&self, is_failure: bool, took: Duration) -> bool {
        is_failure || took >= self.slow || fastrand::u64(..) < self.sample
    }

    /// Keeps a timeline.
    pub fn keep(&self, timeline: Timeline) {
        let [failed, others] = &mut *self.kept.lock();
        let queue = if timeline.is_failure() { failed } else { others };
        queue.push(Arc::new(timeline));
    }

    fn kept(&self) -> Vec<Arc<Timeline>> {
        self.kept.lock().iter().flat_map(|queue| queue.kept.iter().cloned()).collect()
    }
}

/// A random number of 64 bits is below it with this probability.
fn threshold(share: f64) -> u64 {
    if share >= 1.0 { u64::MAX } else { (share * 2_f64.powi(64)) as u64 }
}

/// Timelines in the order in which they ended, bounded in bytes.
struct Queue {
    kept: VecDeque<Arc<Timeline>>,
    bytes: usize,
    most: usize,
}

impl Queue {
    const fn new(most: usize) -> Self {
        Self { kept: VecDeque::new(), bytes: 0, most }
    }

    fn push(&mut self, timeline: Arc<Timeline>) {
        self.bytes += cost(&timeline);
        self.kept.push_back(timeline);
        while self.bytes > self.most
            && let Some(oldest) = self.kept.pop_front()
        {
            self.bytes -= cost(&oldest);
        }
    }
}

/// The memory of a kept timeline: itself, the counts of its `Arc`, its place in the queue, and what the allocator rounds
/// up, some 16 bytes for each of a dozen texts.
fn cost(timeline: &Timeline) -> usize {
    const AROUND: usize = 3 * size_of::<usize>() + 12 * 16;
    timeline.bytes() + AROUND
}

/// The timelines of all workers.
#[derive(Clone)]
pub struct Timelines(Arc<[Arc<Ring>]>);

impl Timelines {
    /// Each worker gets an equal part of the memory.
    pub fn new(explain: &Explain, workers: usize) -> Self {
        let bytes = usize::try_from(explain.keep).unwrap_or(usize::MAX) / workers.max(1);
        Self((0..workers).map(|_| Arc::new(Ring::new(explain, bytes))).collect())
    }

    pub fn ring(&self, worker: usize) -> Option<Arc<Ring>> {
        self.0.get(worker).cloned()
    }

    /// All timelines, those that ended last first.
    pub fn newest(&self) -> Vec<Arc<Timeline>> {
        let mut all: Vec<Arc<Timeline>> = self.0.iter().flat_map(|ring| ring.kept()).collect();
        all.sort_by_key(|timeline| std::cmp::Reverse(timeline.time + timeline.duration));
        all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::RequestRecord;

    fn explain(keep: u64, sample: f64) -> Explain {
        Explain { keep, sample, slow: Duration::from_secs(1) }
    }

    fn timeline(id: usize, status: u16) -> Timeline {
        let (text, duration) = (id.to_string(), Duration::from_millis(id as u64));
        let record = crate::access::tests::record();
        let request = RequestRecord {
            path: b"/a?token=secret",
            request_id: text.as_bytes(),
            status,
            grpc_status: None,
            ..record.request
        };
        let (reason, detail) = (None, "");
        Timeline::of(&Record { request, duration, reason, detail, ..record }, Vec::new())
    }

    fn ids(timelines: &Timelines) -> Vec<usize> {
        timelines.newest().iter().map(|kept| kept.id.parse().unwrap()).collect()
    }

    #[test]
    fn the_query_of_a_path_is_not_kept() {
        assert_eq!(&*timeline(1, 200).path, "/a");
    }

    #[test]
    fn failed_and_slow_exchanges_are_kept_and_others_by_the_sample() {
        let ring = |sample| Timelines::new(&explain(1 << 20, sample), 1).ring(0).unwrap();
        let (none, all, half) = (ring(0.0), ring(1.0), ring(0.5));
        let (quick, slow) = (Duration::from_millis(999), Duration::from_secs(1));
        assert!(none.wants(true, quick) && none.wants(false, slow) && !none.wants(false, quick));
        assert!(all.wants(false, quick));
        let wanted = (0..10_000).filter(|_| half.wants(false, quick)).count();
        assert!((4_000..6_000).contains(&wanted), "{wanted}");
    }

    #[test]
    fn the_newest_timelines_of_all_workers_come_first() {
        let timelines = Timelines::new(&explain(1 << 20, 0.0), 2);
        for (id, worker) in [(1, 0), (2, 1), (3, 0), (4, 1)] {
            timelines.ring(worker).unwrap().keep(timeline(id, 200));
        }
        assert_eq!(ids(&timelines), [4, 3, 2, 1]);
        assert!(timelines.ring(2).is_none());
    }

    #[test]
    fn a_storm_of_failures_leaves_what_was_slow() {
        let timelines = Timelines::new(&explain(64 << 10, 0.0), 1);
        let ring = timelines.ring(0).unwrap();
        ring.keep(timeline(1, 200));
        (2..10_000).for_each(|id| ring.keep(timeline(id, 503)));
        let kept: HashSet<usize> = ids(&timelines).into_iter().collect();
        assert!(kept.contains(&1) && kept.contains(&9_999) && !kept.contains(&2));
        assert!(kept.len() > 50, "{}", kept.len());
    }

    proptest! {
        #[test]
        fn a_ring_never_holds_more_than_its_bytes(sizes in prop::collection::vec(0..5_000_usize, 1..100)) {
            let mut queue = Queue::new(20_000);
            for (id, size) in sizes.into_iter().enumerate() {
                let detail = "x".repeat(size).into();
                queue.push(Arc::new(Timeline { detail, ..timeline(id, 200) }));
                let held: usize = queue.kept.iter().map(|kept| cost(kept)).sum();
                prop_assert_eq!(held, queue.bytes);
                prop_assert!(held <= 20_000);
                prop_assert_eq!(&*queue.kept.back().unwrap().id, &*id.to_string());
            }
        }
    }
}
