//! What is known of a run while it goes on: the requests and where they arrived, the trace, and the broken invariants.

use parking_lot::Mutex;
use tokio::time::Instant;

use super::plan::{Ask, Kind, Plan};

/// One further try for each connection that its server had just closed.
const STALE: usize = 1;

pub(super) struct World {
    started: Instant,
    is_loud: bool,
    requests: Mutex<Vec<Known>>,
    record: Mutex<Record>,
}

struct Known {
    ask: Ask,
    /// How often it may reach a replica.
    most: usize,
    is_sent: bool,
    /// It arrived at a replica or was answered.
    was_seen: bool,
    arrived: usize,
    /// Where it arrived last.
    place: Option<usize>,
    /// How often its head was written to a connection of HTTP/1: to a replica, and to the sidecar before one.
    written: [usize; 2],
    ended: usize,
}

#[derive(Default)]
struct Record {
    faults: Vec<String>,
    /// FNV-1a of everything that was noted.
    hash: u64,
}

impl World {
    pub(super) fn new(plan: &Plan, is_loud: bool) -> Self {
        let mut asks: Vec<_> = plan.asks().cloned().collect();
        asks.extend([farewell(asks.len()), farewell(asks.len() + 1)]);
        let known = |ask: Ask| {
            let most = most_arrivals(&ask, plan);
            Known {
                ask,
                most,
                is_sent: false,
                was_seen: false,
                arrived: 0,
                place: None,
                written: [0; 2],
                ended: 0,
            }
        };
        let requests = Mutex::new(asks.into_iter().map(known).collect());
        let record = Mutex::new(Record { hash: 0xcbf2_9ce4_8422_2325, ..Record::default() });
        Self { started: Instant::now(), is_loud, requests, record }
    }

    /// Adds a line to the trace, whose hash is compared between runs.
    pub(super) fn note(&self, what: &str) {
        let at = self.started.elapsed().as_micros();
        if self.is_loud {
            println!("{:>12.3} ms  {what}", at as f64 / 1000.0);
        }
        let mut record = self.record.lock();
        for byte in at.to_le_bytes().iter().chain(what.as_bytes()) {
            record.hash = (record.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Records a broken invariant.
    pub(super) fn fault(&self, what: String) {
        self.note(&format!("FAULT {what}"));
        self.record.lock().faults.push(what);
    }

    pub(super) fn sent(&self, token: usize) {
        self.note(&format!("request {token} is sent"));
        self.requests.lock()[token].is_sent = true;
    }

    /// A request arrived at a replica.
    pub(super) fn arrived(&self, token: usize, replica: usize) {
        self.note(&format!("request {token} arrives at replica {replica}"));
        let mut requests = self.requests.lock();
        let known = &mut requests[token];
        known.arrived += 1;
        known.place = Some(replica);
        known.was_seen = true;
        let (arrived, most, kind) = (known.arrived, known.most, known.ask.kind);
        drop(requests);
        if arrived > most {
            self.fault(format!("request {token} ({kind:?}) arrived {arrived} times, and may {most} times"));
        }
    }

    /// The head of a request was written to a connection of HTTP/1.
    pub(super) fn written(&self, token: usize, level: usize) {
        let mut requests = self.requests.lock();
        let Some(known) = requests.get_mut(token) else { return };
        known.written[level] += 1;
        let (written, most, kind) = (known.written[level], known.most, known.ask.kind);
        drop(requests);
        if written > most {
            self.fault(format!(
                "request {token} ({kind:?}) was written {written} times, and may be {most} times"
            ));
        }
    }

    /// A client has its answer, or knows that there is none.
    pub(super) fn ended(&self, token: usize, how: &str, is_answer: bool) {
        self.note(&format!("request {token} ends: {how}"));
        let mut requests = self.requests.lock();
        requests[token].ended += 1;
        requests[token].was_seen |= is_answer;
    }

    pub(super) fn ask(&self, token: usize) -> Option<Ask> {
        self.requests.lock().get(token).map(|known| known.ask.clone())
    }

    /// The last two requests of a run, which must succeed. They have the same key.
    pub(super) fn farewells(&self) -> Vec<Ask> {
        let requests = self.requests.lock();
        requests.iter().skip(requests.len() - 2).map(|known| known.ask.clone()).collect()
    }

    /// The replica at which a request arrived last.
    pub(super) fn place(&self, token: usize) -> Option<usize> {
        self.requests.lock().get(token)?.place
    }

    /// The requests that the sidecar has certainly counted, and those that it can have counted.
    pub(super) fn counted(&self) -> (u64, u64) {
        let requests = self.requests.lock();
        let count = |is: fn(&Known) -> bool| requests.iter().filter(|known| is(known)).count() as u64;
        (count(|known| known.was_seen), count(|known| known.is_sent))
    }

    /// The requests that did not end exactly once.
    pub(super) fn unended(&self) -> Vec<usize> {
        let requests = self.requests.lock();
        let wrong = requests.iter().filter(|known| known.ended != usize::from(known.is_sent));
        wrong.map(|known| known.ask.token).collect()
    }

    pub(super) fn result(&self) -> (u64, Vec<String>) {
        let record = self.record.lock();
        (record.hash, record.faults.clone())
    }
}

fn farewell(token: usize) -> Ask {
    Ask {
        token,
        key: 0,
        kind: Kind::Get,
        size: 0,
        is_chunked: false,
        pace: 0,
        answer_size: 100,
        is_answer_chunked: false,
        after: 0,
        patience: None,
    }
}

/// The bound is that of the most generous policy, because a reload may come at any time.
fn most_arrivals(ask: &Ask, plan: &Plan) -> usize {
    let repeats = |keyed: bool| match ask.kind {
        Kind::Get | Kind::Put => true,
        Kind::Keyed => keyed,
        Kind::Post | Kind::Grpc => false,
    };
    let policies = plan.policies.iter().filter(|policy| repeats(policy.repeats_keyed));
    let by_caller =
        policies.map(|policy| if policy.attempts == 0 { 1 } else { policy.attempts + 1 + STALE }).max();
    let by_caller = by_caller.unwrap_or(1);
    // The application's sidecar replaces a connection that the application had just closed.
    let by_application = if plan.has_pairs && repeats(false) { 1 + STALE } else { 1 };
    by_caller * by_application
}
