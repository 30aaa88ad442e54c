//! The drain of a sidecar, in two steps: first it asks its clients to go elsewhere while it serves on, then inbound
//! refuses new requests. It drains both sides before the process ends. Inbound alone may drain earlier, while the
//! application still needs outbound. A process whose successor serves refuses nothing, and closes its idle connections
//! of both sides before it ends ([`Drain::dismiss`]).
//!
//! [`Drain`] holds the current phase of each side. Every task may read it, at the cost of one atomic load. A connection that must
//! not be cut off holds a [`Work`]. Each worker counts its own, and the code that ends the process checks at short
//! intervals whether any is left ([`Drain::finished`]). The decision about the next step is made in [`next`], which is
//! pure.
//!
//! Deliberately absent: how a client is asked to go elsewhere. Each protocol does so in its own module when it sees the
//! phase.

mod work;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use pillion_model::Direction;
use pillion_model::listener::Drain as Plan;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use work::Count;
pub use work::{QUIET, Roll, Work};

/// The interval between checks whether the drain is over. 20 ms more do not matter at the end of a process.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How far the drain of one side has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Serving,
    /// The side accepts and serves. It announces to its clients that the connection will close.
    Announcing,
    /// Connections at rest look once more whether a request has come, and are closed. The side still serves.
    Dismissing,
    /// Inbound accepts nothing new. Outbound never comes to this phase, because the application may need it in order to
    /// finish.
    Closing,
}

/// How the drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainOutcome {
    /// No connection was cut off.
    Finished,
    /// `timeout` was reached while this many connections were still at work.
    Cut { inbound: usize, outbound: usize },
}

/// How far the drain of inbound has come, for the command that waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboundState {
    /// This many connections are at work, or `delay` is not over.
    Draining {
        at_work: usize,
    },
    Idle,
    /// `timeout` is over, and this many connections are still at work.
    TimedOut {
        at_work: usize,
    },
}

/// The handle of a sidecar's drain. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Drain(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    inbound: Side,
    outbound: Side,
    /// Whether `delay` is skipped.
    in_haste: AtomicBool,
    began: Mutex<Began>,
    /// The roll of each worker that still exists.
    rolls: Mutex<Vec<Weak<Roll>>>,
}

/// How far one side has come, and who waits for each further phase.
#[derive(Debug, Default)]
struct Side {
    phase: AtomicU8,
    announcing: Notify,
    dismissing: Notify,
    closing: Notify,
}

/// When the drain began. `delay` counts from the beginning of inbound's, and `timeout` of the process from that of both
/// sides: a process that drained inbound long ago still lets outbound finish.
#[derive(Debug, Clone, Copy, Default)]
struct Began {
    inbound: Option<Instant>,
    both: Option<Instant>,
    /// [`Phase::Closing`].
    closing: Option<Instant>,
}

impl Drain {
    /// Begins the drain, because the process is about to end: from now on both sides announce that connections will
    /// close. A second call does nothing. The code that runs the process then awaits [`Drain::finished`].
    pub fn begin(&self) {
        self.begin_both();
        self.enter(Direction::Inbound, Phase::Announcing);
        self.enter(Direction::Outbound, Phase::Announcing);
    }

    /// Begins the drain of inbound alone, and returns whether none had begun before. The caller then awaits
    /// [`Drain::inbound_finished`].
    pub fn begin_inbound(&self) -> bool {
        let is_first = {
            let inbound = &mut self.0.began.lock().inbound;
            let is_first = inbound.is_none();
            inbound.get_or_insert_with(Instant::now);
            is_first
        };
        self.enter(Direction::Inbound, Phase::Announcing);
        is_first
    }

    /// Begins the drain without `delay`, for a process to which no client sends requests any more.
    pub fn begin_in_haste(&self) {
        self.0.in_haste.store(true, Ordering::SeqCst);
        self.begin();
    }

    /// Closes connections at rest of both sides, of a process that ends soon and to which no client connects any more. No
    /// request is refused.
    pub fn dismiss(&self) {
        self.enter(Direction::Inbound, Phase::Dismissing);
        self.enter(Direction::Outbound, Phase::Dismissing);
    }

    /// Whether this side asks its clients to go elsewhere.
    pub fn has_begun(&self, direction: Direction) -> bool {
        self.has_come_to(direction, Phase::Announcing)
    }

    fn has_come_to(&self, direction: Direction, phase: Phase) -> bool {
        self.0.side(direction).phase(Ordering::Relaxed) >= phase
    }

    /// Waits from [`Drain::begin`] until no connection is at work any more, but not beyond `plan.timeout`.
    pub async fn finished(&self, plan: Plan) -> DrainOutcome {
        let (inbound_began, began) = self.begin_both();
        let mut watch = Watch::begin(began, &self.count());
        loop {
            let (now, count) = (Instant::now(), self.count());
            watch.look(&count, now);
            let facts = watch.facts(&count, now, (now - inbound_began, self.closing_since()));
            match next(&self.now_planned(plan), &facts) {
                Step::Wait => sleep(LOOK_EVERY).await,
                Step::Close => self.close(),
                Step::End(ended) => return ended,
            }
        }
    }

    /// Waits from [`Drain::begin_inbound`] until no inbound connection is at work any more, but not beyond `plan.timeout`.
    /// From then on inbound accepts nothing new.
    pub async fn inbound_finished(&self, plan: Plan) -> DrainOutcome {
        loop {
            match self.next_of_inbound(plan) {
                Step::Wait => sleep(LOOK_EVERY).await,
                Step::Close => self.close(),
                Step::End(ended) => {
                    self.close();
                    return ended;
                }
            }
        }
    }

    /// How far the drain of inbound has come. It must have begun.
    pub fn inbound_state(&self, plan: Plan) -> InboundState {
        match self.next_of_inbound(plan) {
            Step::Wait | Step::Close => InboundState::Draining { at_work: self.count().inbound },
            Step::End(DrainOutcome::Finished) => InboundState::Idle,
            Step::End(DrainOutcome::Cut { inbound, .. }) => InboundState::TimedOut { at_work: inbound },
        }
    }

    fn next_of_inbound(&self, plan: Plan) -> Step {
        let began = *self.0.began.lock().inbound.get_or_insert_with(Instant::now);
        let (elapsed, closing) = (Instant::now() - began, self.closing_since());
        next(&self.now_planned(plan), &Facts::of_inbound(elapsed, closing, &self.count()))
    }

    /// From now on inbound refuses new requests. Connections at rest look whether one has come, and end.
    fn close(&self) {
        self.0.began.lock().closing.get_or_insert_with(Instant::now);
        self.enter(Direction::Inbound, Phase::Closing);
    }

    /// How long inbound has refused new requests.
    fn closing_since(&self) -> Option<Duration> {
        self.0.began.lock().closing.map(|closing| Instant::now() - closing)
    }

    /// The plan without `delay` if the drain is in haste.
    fn now_planned(&self, plan: Plan) -> Plan {
        let haste = self.0.in_haste.load(Ordering::SeqCst);
        Plan { delay: if haste { Duration::ZERO } else { plan.delay }, ..plan }
    }

    /// Notes the beginning of both sides' drain, unless it is known. Returns when inbound's began, and when both began.
    fn begin_both(&self) -> (Instant, Instant) {
        let (mut began, now) = (self.0.began.lock(), Instant::now());
        let both = *began.both.get_or_insert(now);
        (*began.inbound.get_or_insert(both), both)
    }

    /// Whether inbound refuses new requests.
    pub fn is_closing(&self) -> bool {
        self.has_come_to(Direction::Inbound, Phase::Closing)
    }

    /// A future that becomes ready when the drain of this side has reached `phase`.
    pub fn reached(&self, direction: Direction, phase: Phase) -> Reached {
        Reached { shared: self.0.clone(), direction, phase, notified: None }
    }

    /// A new roll, on which one worker counts its connections.
    pub fn roll(&self) -> Arc<Roll> {
        let roll = Arc::new(Roll::new(self.clone()));
        self.0.rolls.lock().push(Arc::downgrade(&roll));
        roll
    }

    fn enter(&self, direction: Direction, phase: Phase) {
        let side = self.0.side(direction);
        if side.phase.fetch_max(phase as u8, Ordering::SeqCst) >= phase as u8 {
            return;
        }
        let Count { inbound, outbound, .. } = self.count();
        let direction = direction.as_str();
        match phase {
            Phase::Closing => tracing::info!(inbound, outbound, "inbound accepts nothing new"),
            Phase::Dismissing => {
                tracing::info!(direction, "idle connections are closed, requests are still served");
            }
            Phase::Serving | Phase::Announcing => tracing::info!(
                direction,
                inbound,
                outbound,
                "draining: clients are asked to go elsewhere, requests are still served"
            ),
        }
        side.notify(phase);
    }

    fn count(&self) -> Count {
        self.0.rolls.lock().iter().filter_map(Weak::upgrade).map(|roll| roll.count()).sum()
    }
}

impl Shared {
    const fn side(&self, direction: Direction) -> &Side {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }
}

impl Side {
    fn phase(&self, ordering: Ordering) -> Phase {
        match self.phase.load(ordering) {
            0 => Phase::Serving,
            1 => Phase::Announcing,
            2 => Phase::Dismissing,
            _ => Phase::Closing,
        }
    }

    /// Notifies those who wait for this phase, and for the ones that it passes over.
    fn notify(&self, phase: Phase) {
        for passed in [Phase::Announcing, Phase::Dismissing, Phase::Closing] {
            if passed <= phase {
                self.notifier(passed).notify_waiters();
            }
        }
    }

    const fn notifier(&self, phase: Phase) -> &Notify {
        match phase {
            Phase::Serving | Phase::Announcing => &self.announcing,
            Phase::Dismissing => &self.dismissing,
            Phase::Closing => &self.closing,
        }
    }
}

/// The facts on which [`next`] decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Facts {
    /// Time since the drain began that is to end.
    elapsed: Duration,
    /// Time since inbound asks its clients to go elsewhere.
    announced: Duration,
    /// Time since inbound refuses new requests.
    closing: Option<Duration>,
    /// Inbound connections at work, and listeners whose queues are not empty yet.
    inbound: usize,
    outbound: usize,
    /// Inbound connections at rest.
    resting: usize,
    /// Whether outbound has had no connection at work for one second.
    is_outbound_quiet: bool,
}

impl Facts {
    /// The drain of inbound alone, which does not wait for outbound.
    const fn of_inbound(elapsed: Duration, closing: Option<Duration>, count: &Count) -> Self {
        let &Count { inbound, resting, .. } = count;
        Self { elapsed, announced: elapsed, closing, inbound, outbound: 0, resting, is_outbound_quiet: true }
    }

    /// Whether each connection at rest has ended, or works because a request had come to it. The workers of a busy machine
    /// need a moment for that. One that has not after [`QUIET`] has nothing to say.
    fn has_looked(&self) -> bool {
        self.resting == 0 || self.closing.is_some_and(|closing| closing >= QUIET)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Wait,
    Close,
    End(DrainOutcome),
}

/// The next step. Never [`Step::Close`] or [`Step::End`] before `delay` is over, unless `timeout` is shorter: load
/// balancers need that time to learn that this endpoint ends.
fn next(plan: &Plan, facts: &Facts) -> Step {
    let &Facts { elapsed, announced, closing, inbound, outbound, is_outbound_quiet, .. } = facts;
    if elapsed >= plan.timeout && inbound + outbound > 0 {
        Step::End(DrainOutcome::Cut { inbound, outbound })
    } else if elapsed >= plan.timeout {
        Step::End(DrainOutcome::Finished)
    } else if announced < plan.delay {
        Step::Wait
    } else if closing.is_none() {
        Step::Close
    } else if inbound == 0 && outbound == 0 && is_outbound_quiet && facts.has_looked() {
        Step::End(DrainOutcome::Finished)
    } else {
        Step::Wait
    }
}

/// Remembers when outbound was last at work, even if only for a moment.
struct Watch {
    began: Instant,
    outbound_begun: u64,
    /// `None` when outbound was never at work.
    outbound_busy: Option<Instant>,
}

impl Watch {
    /// Activity before the drain began has no known time. If outbound was ever at work, `began` is taken as the last
    /// time.
    fn begin(began: Instant, count: &Count) -> Self {
        let outbound_begun = count.outbound_begun;
        Self { began, outbound_begun, outbound_busy: (outbound_begun > 0).then_some(began) }
    }

    fn look(&mut self, count: &Count, now: Instant) {
        if count.outbound > 0 || count.outbound_begun != self.outbound_begun {
            self.outbound_busy = Some(now);
        }
        self.outbound_begun = count.outbound_begun;
    }

    fn facts(
        &self,
        count: &Count,
        now: Instant,
        (announced, closing): (Duration, Option<Duration>),
    ) -> Facts {
        Facts {
            elapsed: now - self.began,
            announced,
            closing,
            inbound: count.inbound,
            outbound: count.outbound,
            resting: count.resting,
            is_outbound_quiet: self.outbound_busy.is_none_or(|busy| now - busy >= QUIET),
        }
    }
}

/// Reads the phase. It joins the shared list of waiters only once, and not at every poll of a busy connection.
pub struct Reached {
    shared: Arc<Shared>,
    direction: Direction,
    phase: Phase,
    notified: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Future for Reached {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.notified.is_none() {
            let (shared, direction, phase) = (self.shared.clone(), self.direction, self.phase);
            let mut notified =
                Box::pin(async move { shared.side(direction).notifier(phase).notified().await });
            // Joins the waiters before it reads the phase: a phase that begins in between is seen in one of the two
            // ways. The task's waker does not change, so joining once is enough.
            let entered = notified.as_mut().poll(cx).is_ready();
            self.notified = Some(notified);
            if entered {
                return Poll::Ready(());
            }
        }
        match self.shared.side(self.direction).phase(Ordering::SeqCst) >= self.phase {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan { delay: Duration::from_secs(5), timeout: Duration::from_secs(25) };

    #[tokio::test]
    async fn a_phase_is_seen_by_tasks_that_waited_for_it_and_by_tasks_that_ask_later() {
        let drain = Drain::default();
        let waits = |direction, phase| tokio::spawn(drain.reached(direction, phase));
        let sides = [Direction::Inbound, Direction::Outbound];
        let announcing = sides.map(|direction| waits(direction, Phase::Announcing));
        let closing = waits(Direction::Inbound, Phase::Closing);
        tokio::task::yield_now().await;
        drain.begin();
        for (direction, announcing) in sides.into_iter().zip(announcing) {
            announcing.await.unwrap();
            drain.reached(direction, Phase::Announcing).await;
            assert!(drain.has_begun(direction));
        }
        tokio::task::yield_now().await;
        assert!(!drain.is_closing() && !closing.is_finished());
        drain.enter(Direction::Inbound, Phase::Closing);
        closing.await.unwrap();
        drain.begin();
        assert!(drain.is_closing(), "the phase never goes back");
    }

    #[test]
    fn the_drain_ends_when_nothing_is_at_work_and_neither_before_delay_nor_after_timeout() {
        let quiet = Facts::of_inbound(PLAN.delay, Some(Duration::ZERO), &Count::default());
        let early = Duration::from_millis(4_999);
        let late = PLAN.timeout;
        for (facts, expected) in [
            (Facts { announced: early, closing: None, ..quiet }, Step::Wait),
            (Facts { elapsed: Duration::ZERO, closing: None, ..quiet }, Step::Close),
            (Facts { elapsed: Duration::ZERO, announced: late, ..quiet }, Step::End(DrainOutcome::Finished)),
            (Facts { closing: None, ..quiet }, Step::Close),
            (Facts { closing: None, inbound: 3, ..quiet }, Step::Close),
            (quiet, Step::End(DrainOutcome::Finished)),
            (Facts { inbound: 1, ..quiet }, Step::Wait),
            (Facts { outbound: 1, is_outbound_quiet: false, ..quiet }, Step::Wait),
            (Facts { is_outbound_quiet: false, ..quiet }, Step::Wait),
            (Facts { resting: 1, ..quiet }, Step::Wait),
            (Facts { resting: 1, closing: Some(QUIET), ..quiet }, Step::End(DrainOutcome::Finished)),
            (
                Facts { elapsed: late, inbound: 2, ..quiet },
                Step::End(DrainOutcome::Cut { inbound: 2, outbound: 0 }),
            ),
            (
                Facts { elapsed: late, closing: None, outbound: 1, ..quiet },
                Step::End(DrainOutcome::Cut { inbound: 0, outbound: 1 }),
            ),
            (Facts { elapsed: late, is_outbound_quiet: false, ..quiet }, Step::End(DrainOutcome::Finished)),
        ] {
            assert_eq!(next(&PLAN, &facts), expected, "{facts:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_with_no_connection_lasts_as_long_as_delay_and_in_haste_no_time() {
        let (drain, start) = (Drain::default(), Instant::now());
        drain.begin();
        assert_eq!(drain.finished(PLAN).await, DrainOutcome::Finished);
        assert_eq!(start.elapsed(), PLAN.delay);
        let (drain, start) = (Drain::default(), Instant::now());
        drain.begin_in_haste();
        assert_eq!(drain.finished(PLAN).await, DrainOutcome::Finished);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    /// With little CPU the workers come to a connection long after it was dismissed, and a request may have come to it.
    #[tokio::test(start_paused = true)]
    async fn the_end_waits_for_the_last_look_of_connections_at_rest_and_at_most_a_second() {
        const LOOKS_AFTER: Duration = Duration::from_millis(410);
        for (is_alone, leaves, expected) in
            [(false, true, 54), (true, true, 54), (false, false, 60), (true, false, 60)]
        {
            let (drain, start) = (Drain::default(), Instant::now());
            let work = Work::begin(&drain.roll(), Direction::Inbound);
            let rests = tokio::spawn(async move {
                work.dismissed(Instant::now()).await;
                sleep(if leaves { LOOKS_AFTER } else { PLAN.timeout }).await;
                work.wake();
            });
            let ended = match is_alone {
                true => {
                    drain.begin_inbound();
                    drain.inbound_finished(PLAN).await
                }
                false => {
                    drain.begin();
                    drain.finished(PLAN).await
                }
            };
            let tenths = start.elapsed().as_millis() / 100;
            assert_eq!((ended, tenths), (DrainOutcome::Finished, expected), "{is_alone} {leaves}");
            rests.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_drain_waits_until_outbound_was_quiet_for_a_second_and_until_inbound_is_done() {
        for (direction, expected) in [(Direction::Outbound, 8), (Direction::Inbound, 7)] {
            let (drain, start) = (Drain::default(), Instant::now());
            let work = Work::begin(&drain.roll(), direction);
            drain.begin();
            tokio::spawn(async move {
                sleep(Duration::from_secs(7)).await;
                drop(work);
            });
            assert_eq!(drain.finished(PLAN).await, DrainOutcome::Finished);
            assert_eq!(start.elapsed().as_secs(), expected, "{direction:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn outbound_work_that_begins_and_ends_between_two_checks_is_counted() {
        let drain = Drain::default();
        let (roll, start) = (drain.roll(), Instant::now());
        drain.begin();
        let of = roll.clone();
        tokio::spawn(async move {
            sleep(Duration::from_millis(4_995)).await;
            drop(Work::begin(&of, Direction::Outbound));
        });
        drain.finished(PLAN).await;
        assert_eq!(start.elapsed().as_secs(), 6, "five seconds of delay and one quiet second");
        drop(roll);
    }

    #[tokio::test(start_paused = true)]
    async fn connections_that_do_not_end_are_cut_at_the_timeout_and_counted() {
        let (drain, start) = (Drain::default(), Instant::now());
        let rolls = [drain.roll(), drain.roll()];
        let stays: Vec<_> = rolls.iter().map(|roll| Work::begin(roll, Direction::Inbound)).collect();
        let _rests = {
            let work = Work::begin(&rolls[0], Direction::Outbound);
            work.rest();
            work
        };
        drain.begin();
        assert_eq!(drain.finished(PLAN).await, DrainOutcome::Cut { inbound: stays.len(), outbound: 0 });
        assert_eq!(start.elapsed(), PLAN.timeout);
    }

    /// `timeout` is 25 s: inbound's drain ends at 25 s, with a connection that stays. The process is told to end at 60 s.
    #[tokio::test(start_paused = true)]
    async fn inbound_drains_alone_and_the_end_of_the_process_gives_outbound_its_time_without_a_new_delay() {
        let (drain, start) = (Drain::default(), Instant::now());
        let (stays, calls) = {
            let roll = drain.roll();
            (Work::begin(&roll, Direction::Inbound), Work::begin(&roll, Direction::Outbound))
        };
        assert!(drain.begin_inbound() && !drain.begin_inbound(), "a second order joins the first");
        assert_eq!(drain.inbound_state(PLAN), InboundState::Draining { at_work: 1 });
        assert_eq!(drain.inbound_finished(PLAN).await, DrainOutcome::Cut { inbound: 1, outbound: 0 });
        assert_eq!((start.elapsed(), drain.is_closing()), (PLAN.timeout, true));
        assert_eq!(drain.inbound_state(PLAN), InboundState::TimedOut { at_work: 1 });
        assert!(!drain.has_begun(Direction::Outbound), "outbound is untouched");
        drop(stays);
        assert_eq!(drain.inbound_state(PLAN), InboundState::Idle);
        sleep(Duration::from_secs(35)).await;
        drain.begin();
        assert!(drain.has_begun(Direction::Outbound) && !drain.begin_inbound());
        tokio::spawn(async move {
            sleep(Duration::from_secs(3)).await;
            drop(calls);
        });
        assert_eq!(drain.finished(PLAN).await, DrainOutcome::Finished);
        assert_eq!(start.elapsed().as_secs(), 64, "three seconds and the quiet one");
    }

    #[tokio::test(start_paused = true)]
    async fn inbound_is_drained_at_delay_when_nothing_is_at_work() {
        let (drain, start) = (Drain::default(), Instant::now());
        let _calls = Work::begin(&drain.roll(), Direction::Outbound);
        drain.begin_inbound();
        assert_eq!(drain.inbound_finished(PLAN).await, DrainOutcome::Finished);
        assert_eq!(start.elapsed(), PLAN.delay);
    }
}
