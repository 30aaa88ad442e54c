//! Load on a fixed schedule (open loop): what `pillion bench` and the demo send.
//!
//! Requests are due at evenly spaced times, whether or not earlier ones have been answered. One that finds no free
//! connection waits for one, and its latency counts from when it was due: a server that stalls for a second delays all
//! requests of that second, and the percentiles show all of them. A load that waits for answers would leave most of them out
//! ("coordinated omission").
//!
//! The schedule is arithmetic: requests that wait are a number, and take no memory. The load ends at the latest when the
//! last request has had the time of a request; what has no answer then is counted as a failure with the time that it waited,
//! all of it at once. Whether a request waits for the target or for this program, [`busy`] tells.

mod busy;
mod latencies;
mod line;
mod tally;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

pub(crate) use busy::{Meter, of_kernel};
use line::Line;
pub(crate) use line::Target;
use tally::{Answered, Start, UNSENT};
pub(crate) use tally::{Failure, Kind, Tally};

/// The runtime's timer counts milliseconds, so a task is woken up to one of them late, and a little later on top of that.
/// This is not counted: it is not the target's, and would hide latencies below it.
const TIMER: Duration = Duration::from_millis(2);

/// The time between two looks at how busy the sending thread is.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// When and how requests are sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Requests per second, at least 1.
    pub(crate) rate: u32,
    pub(crate) connections: usize,
    /// Requests in flight on one connection: 1 for HTTP/1.
    pub(crate) streams: usize,
    /// `None`: until it is stopped.
    pub(crate) lasts: Option<Duration>,
    /// The longest time from sending a request to the last byte of its answer.
    pub(crate) timeout: Duration,
}

/// A load that is being sent.
pub(crate) struct Load {
    round: Arc<Round>,
    senders: JoinSet<()>,
    /// Looks how busy the thread is.
    _looking: JoinSet<()>,
}

/// The state that all senders share.
struct Round {
    plan: Plan,
    target: Arc<Target>,
    began: Instant,
    next: AtomicU64,
    phase: watch::Sender<Phase>,
    tally: Mutex<Tally>,
    meter: Meter,
    /// What the meter showed at the beginning.
    busy_before: Option<Duration>,
    /// The sending thread has no time left, so that a request which is not sent when it is due waits for this program.
    is_saturated: AtomicBool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Sending,
    /// Requests that are due later are not sent.
    Over(Instant),
    /// Requests that are due later are not sent, and those that have no answer yet are given up.
    GivenUp(Instant),
}

impl Load {
    /// Connects, and begins to send. Must be called on a runtime of one thread, whose meter this is.
    ///
    /// # Errors
    /// No connection could be made within the time of a request.
    pub(crate) async fn start(target: Target, plan: Plan, meter: Meter) -> Result<Self, Failure> {
        let target = Arc::new(target);
        let lines = open(&target, plan).await?;
        let round = Arc::new(Round {
            plan,
            target,
            began: Instant::now(),
            next: AtomicU64::new(0),
            phase: watch::Sender::new(Phase::Sending),
            tally: Mutex::default(),
            busy_before: meter(),
            meter,
            is_saturated: AtomicBool::new(false),
        });
        let mut looking = JoinSet::new();
        looking.spawn(round.clone().look());
        let mut senders = JoinSet::new();
        for line in lines.iter().flat_map(|line| std::iter::repeat_n(line, plan.streams)) {
            senders.spawn(round.clone().send(line.clone()));
        }
        Ok(Self { round, senders, _looking: looking })
    }

    /// The counts since the last call.
    pub(crate) fn take(&self) -> Tally {
        std::mem::take(&mut *self.round.tally.lock())
    }

    /// Waits until all requests have been answered or given up. It never is for a plan without an end. Nothing is lost if
    /// the future is dropped.
    pub(crate) async fn ended(&mut self) {
        if let Some(lasts) = self.round.plan.lasts {
            let last = self.round.began + lasts;
            if timeout_at(last + self.round.plan.timeout, self.senders_end()).await.is_err() {
                self.round.end(Phase::GivenUp(last));
            }
        }
        self.senders_end().await;
        self.round.count_unsent(Instant::now());
    }

    async fn senders_end(&mut self) {
        while self.senders.join_next().await.is_some() {}
    }

    /// Sends no further requests. Those that are due already have so much time to be sent and answered; what has no answer
    /// then is counted as a failure.
    pub(crate) async fn stop(&mut self, patience: Duration) {
        let now = Instant::now();
        self.round.end(Phase::Over(now));
        if timeout(patience, self.senders_end()).await.is_err() {
            self.round.end(Phase::GivenUp(now));
            self.senders_end().await;
        }
        self.round.count_unsent(Instant::now());
    }

    /// The share of the time since the first request was due in which the sending thread was busy, if that is known.
    pub(crate) fn busy(&self) -> Option<f64> {
        let busy = (self.round.meter)()?.saturating_sub(self.round.busy_before?);
        Some(busy::share(busy, self.elapsed()))
    }

    /// The time since the first request was due.
    pub(crate) fn elapsed(&self) -> Duration {
        self.round.began.elapsed()
    }

    /// Connections that have been made.
    pub(crate) fn connections(&self) -> u64 {
        self.round.target.connections.load(Relaxed)
    }
}

/// Makes all connections at once. Those that fail are made again by their first request.
async fn open(target: &Arc<Target>, plan: Plan) -> Result<Vec<Arc<Line>>, Failure> {
    let line = || Arc::new(Line::new(target.clone(), plan.timeout));
    let lines: Vec<_> = std::iter::repeat_with(line).take(plan.connections).collect();
    let mut opening = JoinSet::new();
    for line in lines.clone() {
        opening.spawn(async move { line.open().await });
    }
    let mut failed = None;
    while let Some(opened) = opening.join_next().await {
        if let Ok(Err(failure)) = opened {
            failed = Some(failure);
        }
    }
    match failed {
        Some(failure) if target.connections.load(Relaxed) == 0 => Err(failure),
        _ => Ok(lines),
    }
}

/// A request that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Due {
    at: Instant,
    /// From when its latency counts.
    began: Instant,
    start: Start,
}

impl Due {
    /// `asked`: when a connection was free for it. `woken`: when it can be sent. `is_saturated`: the thread has no time left, and
    /// finds late that a connection is free.
    fn new(at: Instant, asked: Instant, woken: Instant, is_saturated: bool) -> Self {
        let delay = woken.saturating_duration_since(at);
        let had_to_wait = asked > at;
        let (began, start) = match delay > TIMER {
            true if had_to_wait && !is_saturated => (at, Start::Waited(delay)),
            true => (at, Start::Late(delay)),
            false if had_to_wait => (at, Start::OnTime),
            false => (woken, Start::OnTime),
        };
        Self { at, began, start }
    }
}

impl Phase {
    const fn is_given_up(self) -> bool {
        matches!(self, Self::GivenUp(_))
    }

    fn ends_before(self, due: Instant) -> bool {
        match self {
            Self::Sending => false,
            Self::Over(at) | Self::GivenUp(at) => due > at,
        }
    }
}

impl Plan {
    /// When request `nth` is due, from the beginning. `None`: the load has ended then.
    fn due(&self, nth: u64) -> Option<Duration> {
        let rate = u64::from(self.rate.max(1));
        let due = Duration::from_secs(nth / rate) + Duration::from_nanos(nth % rate * 1_000_000_000 / rate);
        (self.lasts.is_none_or(|lasts| due < lasts)).then_some(due)
    }

    /// How many requests are due within this time, its end included.
    fn due_within(&self, time: Duration) -> u64 {
        let last = self.lasts.map_or(time, |lasts| time.min(lasts.saturating_sub(Duration::from_nanos(1))));
        let (nanos, rate) = (last.as_nanos().saturating_add(1), u128::from(self.rate.max(1)));
        u64::try_from(nanos.saturating_mul(rate).div_ceil(1_000_000_000)).unwrap_or(u64::MAX)
    }
}

impl Round {
    /// The work of one stream: it sends the next request that is due, again and again.
    async fn send(self: Arc<Self>, line: Arc<Line>) {
        let mut phase = self.phase.subscribe();
        while let Some(due) = self.next_is_due(&mut phase).await {
            let result = self.exchange(&line, &mut phase).await;
            self.tally.lock().count(due.start, due.began.elapsed(), result);
        }
    }

    /// Takes the next request, and waits until it is due. `None`: the load is over before that.
    async fn next_is_due(&self, phase: &mut watch::Receiver<Phase>) -> Option<Due> {
        if phase.borrow().is_given_up() {
            return None; // what is left is counted at once
        }
        let at = self.began + self.plan.due(self.next.fetch_add(1, Relaxed))?;
        let asked = Instant::now();
        tokio::select! { // the request is not sent when the load is over
            biased;
            _ = phase.wait_for(|phase| phase.ends_before(at)) => return None,
            () = sleep_until(at) => {}
        }
        Some(Due::new(at, asked, Instant::now(), self.is_saturated.load(Relaxed)))
    }

    /// A load that was given up stays so.
    fn end(&self, phase: Phase) {
        self.phase.send_if_modified(|known| {
            let changes = !known.is_given_up();
            if changes {
                *known = phase;
            }
            changes
        });
    }

    /// Counts what was due before the load was given up, and was taken by no stream. A second call finds nothing more.
    fn count_unsent(&self, now: Instant) {
        let Phase::GivenUp(until) = *self.phase.borrow() else { return };
        let due = self.plan.due_within(until.saturating_duration_since(self.began));
        let taken = self.next.fetch_max(due, Relaxed);
        let at = |nth: u64| self.plan.due(taken.saturating_add(nth)).map_or(until, |due| self.began + due);
        let first = Due::new(at(0), now, now, self.is_saturated.load(Relaxed));
        let waited = |nth| now.saturating_duration_since(at(nth));
        self.tally.lock().count_unsent(due.saturating_sub(taken), first.start, waited);
    }

    /// Looks again and again how busy the thread is.
    async fn look(self: Arc<Self>) {
        let (mut at, mut before) = (self.began, self.busy_before);
        loop {
            sleep(LOOK_EVERY).await;
            let (now, busy) = (Instant::now(), (self.meter)());
            if let (Some(busy), Some(before)) = (busy, before) {
                let share = busy::share(busy.saturating_sub(before), now - at);
                self.is_saturated.store(busy::is_all(share), Relaxed);
            }
            (at, before) = (now, busy);
        }
    }

    async fn exchange(&self, line: &Line, phase: &mut watch::Receiver<Phase>) -> Result<Answered, Failure> {
        let given_up = phase.wait_for(|phase| phase.is_given_up());
        tokio::select! { // the connection (or the stream) of an exchange that is not finished is closed
            biased;
            _ = given_up => Err(Failure::new(Kind::Unanswered, UNSENT)),
            () = sleep(self.plan.timeout) => {
                Err(Failure::new(Kind::Timeout, format!("no answer within {:?}", self.plan.timeout)))
            }
            result = line.exchange() => result,
        }
    }
}

#[cfg(test)]
mod tests;
