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

use super::access::{DETAIL_BYTES, HOST_BYTES, NAME_BYTES, PATH_BYTES, REQUEST_ID_BYTES, Record};
use super::json::printable;
use super::labels::Decision;
use super::propagation::TraceId;

/// A quarter of a ring belongs to exchanges that did not fail, so that a storm of failures leaves them.
const FAILED_SHARE: (usize, usize) = (3, 4);
/// 16 KiB: what a ring has at least, with some twenty timelines. So many workers may hold more than `explain.keep`.
const LEAST: usize = 16 * 1024;

/// What is kept of one exchange, a request or an opaque connection. It has neither the query nor any header but the
/// host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeline {
    /// The request's ID. An opaque connection gets one when its timeline is kept.
    pub id: Box<str>,
    /// When it began.
    pub time: SystemTime,
    pub trace: Option<TraceId>,
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
        let text = |bytes: &[u8], most| printable(bytes, most).into_boxed_str();
        Self {
            id: text(record.request.request_id, REQUEST_ID_BYTES),
            time: record.time,
            trace: record.request.trace,
            direction: record.direction,
            service: record.service.into(),
            route: record.route.into(),
            protocol: record.protocol,
            method: text(record.request.method.as_bytes(), REQUEST_ID_BYTES),
            path: text(path_of(record.request.path), PATH_BYTES),
            host: text(without_user(record.request.host), HOST_BYTES),
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
        !self.peer_reason.is_empty() || is_failure(self.reason, self.status, self.grpc_status)
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

/// Whether an exchange counts as failed: a sidecar ended it, the answer is a 5xx, or the gRPC status says that the server
/// failed (UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS). A client that went away is no failure.
pub fn is_failure(reason: Option<Reason>, status: u16, grpc_status: Option<u8>) -> bool {
    match reason {
        Some(Reason::ClientGone) => false,
        Some(_) => true,
        None => status >= 500 || matches!(grpc_status, Some(2 | 4 | 13 | 14 | 15)),
    }
}

/// The path of a request's target, without the query. The target of a refused head is as the client wrote it, and may
/// name a user with a password before its host.
fn path_of(target: &[u8]) -> &[u8] {
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let after = |at: usize| path.get(at + SCHEME_END.len()..).unwrap_or_default();
    let authority = path.windows(SCHEME_END.len()).position(|window| window == SCHEME_END).map(after);
    match authority.filter(|_| !path.starts_with(b"/")) {
        None => path,
        Some(rest) => {
            rest.iter().position(|byte| *byte == b'/').and_then(|at| rest.get(at..)).unwrap_or(b"/")
        }
    }
}

const SCHEME_END: &[u8] = b"://";

fn without_user(host: &[u8]) -> &[u8] {
    host.rsplit(|byte| *byte == b'@').next().unwrap_or_default()
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
    /// `is_notable`: it failed, or its client went away.
    pub fn wants(&self, is_notable: bool, took: Duration) -> bool {
        is_notable || took >= self.slow || fastrand::u64(..) < self.sample
    }

    /// Keeps a timeline.
    pub fn keep(&self, timeline: Arc<Timeline>) {
        let [failed, others] = &mut *self.kept.lock();
        let queue = if timeline.is_failure() { failed } else { others };
        queue.push(timeline);
    }

    /// The last failed ones, at most so many.
    fn last_failed(&self, most: usize) -> Vec<Arc<Timeline>> {
        let [failed, _] = &*self.kept.lock();
        failed.kept.iter().rev().take(most).cloned().collect()
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
        let bytes = cost(&timeline);
        if bytes > self.most {
            return; // it has no room, and the others stay
        }
        self.bytes += bytes;
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
    /// Each worker gets an equal part of the memory, and at least [`LEAST`].
    pub fn new(explain: &Explain, workers: usize) -> Self {
        let bytes = (usize::try_from(explain.keep).unwrap_or(usize::MAX) / workers.max(1)).max(LEAST);
        Self((0..workers).map(|_| Arc::new(Ring::new(explain, bytes))).collect())
    }

    pub fn ring(&self, worker: usize) -> Option<Arc<Ring>> {
        self.0.get(worker).cloned()
    }

    /// The failed exchanges that ended last, at most so many.
    pub fn last_failed(&self, most: usize) -> Vec<Arc<Timeline>> {
        let all = self.0.iter().flat_map(|ring| ring.last_failed(most)).collect();
        let mut newest = newest_first(all);
        newest.truncate(most);
        newest
    }

    /// All timelines, those that ended last first.
    pub fn newest(&self) -> Vec<Arc<Timeline>> {
        newest_first(self.0.iter().flat_map(|ring| ring.kept()).collect())
    }
}

fn newest_first(mut all: Vec<Arc<Timeline>>) -> Vec<Arc<Timeline>> {
    all.sort_by_key(|timeline| std::cmp::Reverse(timeline.time + timeline.duration));
    all
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
    fn a_timeline_has_no_query_no_password_and_no_control_character() {
        assert_eq!(&*timeline(1, 200).path, "/a");
        for (target, expected) in [
            ("http://user:password@orders/a?b", "/a"),
            ("http://user:password@orders", "/"),
            ("/a://b", "/a://b"),
            ("*", "*"),
            ("", ""),
        ] {
            assert_eq!(path_of(target.as_bytes()), expected.as_bytes(), "{target}");
        }
        assert_eq!(without_user(b"user:password@orders:80"), b"orders:80");
        let record = crate::access::tests::record();
        let request =
            RequestRecord { path: b"/\x1b]0;x\x07\xc2\x9b2J\x7f", host: b"\x1b[2J", ..record.request };
        let kept = Timeline::of(&Record { request, ..record }, Vec::new());
        let all = format!("{}{}", kept.path, kept.host);
        assert!(!all.contains(char::is_control) && all.contains("]0;x"), "{all:?}");
    }

    #[test]
    fn a_server_that_fails_by_grpc_has_failed_and_a_client_that_left_has_not() {
        for (reason, status, grpc, expected) in [
            (None, 200, None, false),
            (None, 500, None, true),
            (None, 404, None, false),
            (None, 200, Some(0), false),
            (None, 200, Some(5), false),
            (None, 200, Some(14), true),
            (Some(Reason::NoRoute), 404, None, true),
            (Some(Reason::ClientGone), 499, None, false),
        ] {
            assert_eq!(is_failure(reason, status, grpc), expected, "{reason:?} {status} {grpc:?}");
        }
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
            timelines.ring(worker).unwrap().keep(Arc::new(timeline(id, 200)));
        }
        assert_eq!(ids(&timelines), [4, 3, 2, 1]);
        assert!(timelines.ring(2).is_none());
    }

    #[test]
    fn a_storm_of_failures_leaves_what_was_slow() {
        let timelines = Timelines::new(&explain(64 << 10, 0.0), 1);
        let ring = timelines.ring(0).unwrap();
        ring.keep(Arc::new(timeline(1, 200)));
        (2..10_000).for_each(|id| ring.keep(Arc::new(timeline(id, 503))));
        let last: Vec<_> = timelines.last_failed(2).iter().map(|kept| kept.id.to_string()).collect();
        assert_eq!(last, ["9999", "9998"]);
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
                prop_assert_eq!(queue.kept.back().map(|kept| &*kept.id), Some(&*id.to_string()));
            }
        }
    }
}
