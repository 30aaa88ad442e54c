//! The end of a sidecar, in two steps: it says goodbye while it goes on, then inbound takes nothing new.
//!
//! [`Drain`] is the phase that everybody sees, and looking at it costs an atomic load. Who must not be cut off holds
//! a [`Work`]; each worker counts its own, and whoever ends the process looks from time to time whether there is any
//! left ([`Drain::finished`]). What follows from what it sees is decided in [`next`], which is pure.
//!
//! Deliberately absent: what saying goodbye means. Each protocol does that in its own room, when it sees the phase.

mod work;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use pillion_model::listener::Drain as Plan;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use work::Count;
pub use work::{QUIET, Roll, Work};

/// How often is looked whether it is over. A process that ends 20 ms later is noticed by nobody.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Serving,
    /// Both sides accept and serve; their clients hear that they had better go elsewhere.
    Goodbye,
    /// Inbound takes nothing new. Outbound goes on: the application may need it to come to its own end.
    Closing,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainOutcome {
    /// Nobody was cut off.
    Finished,
    /// At `timeout`: so many connections were at work still.
    Cut { inbound: usize, outbound: usize },
}

/// The one who stops; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Drain(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    phase: AtomicU8,
    /// `delay` is left out.
    in_haste: AtomicBool,
    began: Mutex<Option<Instant>>,
    /// Rung when a phase begins: goodbye, closing.
    bells: [Notify; 2],
    /// One for each worker that is there.
    rolls: Mutex<Vec<Weak<Roll>>>,
}

impl Drain {
    /// The process is about to end: both sides say goodbye from here on. Nothing happens the second time.
    /// Whoever runs the process then awaits [`Drain::finished`].
    pub fn begin(&self) {
        self.0.began.lock().get_or_insert_with(Instant::now);
        self.enter(Phase::Goodbye);
    }

    /// Begins without `delay`: for a process that nobody sends requests to any more.
    pub fn begin_in_haste(&self) {
        self.0.in_haste.store(true, Ordering::SeqCst);
        self.begin();
    }

    pub fn has_begun(&self) -> bool {
        self.phase() >= Phase::Goodbye
    }

    /// From [`Drain::begin`] to the end of all that is waited for, at the latest to `plan.timeout`.
    pub async fn finished(&self, plan: Plan) -> DrainOutcome {
        let began = *self.0.began.lock().get_or_insert_with(Instant::now);
        let mut watch = Watch::begin(began, &self.count());
        loop {
            let haste = self.0.in_haste.load(Ordering::SeqCst);
            let plan = Plan { delay: if haste { Duration::ZERO } else { plan.delay }, ..plan };
            let (now, count) = (Instant::now(), self.count());
            watch.look(&count, now);
            let facts = watch.facts(&count, now, self.is_closing());
            match next(&plan, &facts) {
                Step::Wait => sleep(LOOK_EVERY).await,
                Step::Close => self.enter(Phase::Closing),
                Step::End(ended) => return ended,
            }
        }
    }

    /// Inbound takes nothing new.
    pub fn is_closing(&self) -> bool {
        self.phase() == Phase::Closing
    }

    /// Ready when it has come that far.
    pub fn reached(&self, phase: Phase) -> Reached {
        Reached { shared: self.0.clone(), phase, notified: None }
    }

    /// The roll of one worker's connections.
    pub fn roll(&self) -> Arc<Roll> {
        let roll = Arc::new(Roll::new(self.clone()));
        self.0.rolls.lock().push(Arc::downgrade(&roll));
        roll
    }

    fn phase(&self) -> Phase {
        self.0.phase(Ordering::Relaxed)
    }

    fn enter(&self, phase: Phase) {
        if self.0.phase.fetch_max(phase as u8, Ordering::SeqCst) >= phase as u8 {
            return;
        }
        let Count { inbound, outbound, .. } = self.count();
        match phase {
            Phase::Closing => tracing::info!(inbound, outbound, "inbound takes nothing new"),
            _ => tracing::info!(inbound, outbound, "draining: saying goodbye, and serving on"),
        }
        self.0.bell(phase).notify_waiters();
    }

    fn count(&self) -> Count {
        self.0.rolls.lock().iter().filter_map(Weak::upgrade).map(|roll| roll.count()).sum()
    }
}

impl Shared {
    fn phase(&self, ordering: Ordering) -> Phase {
        match self.phase.load(ordering) {
            0 => Phase::Serving,
            1 => Phase::Goodbye,
            _ => Phase::Closing,
        }
    }

    const fn bell(&self, phase: Phase) -> &Notify {
        let [goodbye, closing] = &self.bells;
        match phase {
            Phase::Closing => closing,
            Phase::Serving | Phase::Goodbye => goodbye,
        }
    }
}

/// What a decision rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Facts {
    /// Since the signal.
    elapsed: Duration,
    is_closing: bool,
    /// Connections, and listeners whose queues are not empty yet.
    inbound: usize,
    outbound: usize,
    /// Outbound has had no connection at work for a second.
    is_outbound_quiet: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Wait,
    Close,
    End(DrainOutcome),
}

/// What is to be done now. Never before `delay` is over: load balancers must have time to hear of it.
fn next(plan: &Plan, facts: &Facts) -> Step {
    let &Facts { elapsed, is_closing, inbound, outbound, is_outbound_quiet } = facts;
    if elapsed >= plan.timeout && inbound + outbound > 0 {
        Step::End(DrainOutcome::Cut { inbound, outbound })
    } else if elapsed >= plan.timeout {
        Step::End(DrainOutcome::Finished)
    } else if elapsed < plan.delay {
        Step::Wait
    } else if !is_closing {
        Step::Close
    } else if inbound == 0 && outbound == 0 && is_outbound_quiet {
        Step::End(DrainOutcome::Finished)
    } else {
        Step::Wait
    }
}

/// Remembers when outbound was last at work, however short that was.
struct Watch {
    began: Instant,
    outbound_begun: u64,
    /// `None`: it never was.
    outbound_busy: Option<Instant>,
}

impl Watch {
    /// What was before the beginning is not known: a side that was ever at work may have been a moment ago.
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

    fn facts(&self, count: &Count, now: Instant, is_closing: bool) -> Facts {
        Facts {
            elapsed: now - self.began,
            is_closing,
            inbound: count.inbound,
            outbound: count.outbound,
            is_outbound_quiet: self.outbound_busy.is_none_or(|busy| now - busy >= QUIET),
        }
    }
}

/// Looks at the phase; the shared list of waiters is entered once, not with every poll of a busy connection.
pub struct Reached {
    shared: Arc<Shared>,
    phase: Phase,
    notified: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Future for Reached {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.notified.is_none() {
            let (shared, phase) = (self.shared.clone(), self.phase);
            let mut notified = Box::pin(async move { shared.bell(phase).notified().await });
            // Entered before the phase is read: a beginning in between is seen either way. The task's waker does not
            // change, so once is enough.
            let entered = notified.as_mut().poll(cx).is_ready();
            self.notified = Some(notified);
            if entered {
                return Poll::Ready(());
            }
        }
        match self.shared.phase(Ordering::SeqCst) >= self.phase {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_model::Direction;

    const PLAN: Plan = Plan { delay: Duration::from_secs(5), timeout: Duration::from_secs(25) };

    #[tokio::test]
    async fn a_phase_is_seen_by_those_who_waited_and_by_those_who_come_later() {
        let drain = Drain::default();
        let (goodbye, closing) =
            (tokio::spawn(drain.reached(Phase::Goodbye)), tokio::spawn(drain.reached(Phase::Closing)));
        tokio::task::yield_now().await;
        drain.begin();
        goodbye.await.unwrap();
        drain.reached(Phase::Goodbye).await;
        tokio::task::yield_now().await;
        assert!(drain.has_begun() && !drain.is_closing() && !closing.is_finished());
        drain.enter(Phase::Closing);
        closing.await.unwrap();
        drain.begin();
        assert!(drain.is_closing(), "there is no way back");
    }

    #[test]
    fn it_ends_when_nobody_is_at_work_and_neither_before_delay_nor_after_timeout() {
        let quiet =
            Facts { elapsed: PLAN.delay, is_closing: true, inbound: 0, outbound: 0, is_outbound_quiet: true };
        let early = Duration::from_millis(4_999);
        let late = PLAN.timeout;
        for (facts, expected) in [
            (Facts { elapsed: early, is_closing: false, ..quiet }, Step::Wait),
            (Facts { is_closing: false, ..quiet }, Step::Close),
            (Facts { is_closing: false, inbound: 3, ..quiet }, Step::Close),
            (quiet, Step::End(DrainOutcome::Finished)),
            (Facts { inbound: 1, ..quiet }, Step::Wait),
            (Facts { outbound: 1, is_outbound_quiet: false, ..quiet }, Step::Wait),
            (Facts { is_outbound_quiet: false, ..quiet }, Step::Wait),
            (
                Facts { elapsed: late, inbound: 2, ..quiet },
                Step::End(DrainOutcome::Cut { inbound: 2, outbound: 0 }),
            ),
            (
                Facts { elapsed: late, is_closing: false, outbound: 1, ..quiet },
                Step::End(DrainOutcome::Cut { inbound: 0, outbound: 1 }),
            ),
            (Facts { elapsed: late, is_outbound_quiet: false, ..quiet }, Step::End(DrainOutcome::Finished)),
        ] {
            assert_eq!(next(&PLAN, &facts), expected, "{facts:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_anything_at_work_it_takes_the_delay_and_in_haste_no_time() {
        let (drain, start) = (Drain::default(), Instant::now());
        drain.begin();
        assert_eq!(drain.finished(PLAN).await, DrainOutcome::Finished);
        assert_eq!(start.elapsed(), PLAN.delay);
        let (drain, start) = (Drain::default(), Instant::now());
        drain.begin_in_haste();
        assert_eq!(drain.finished(PLAN).await, DrainOutcome::Finished);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn outbound_is_waited_for_until_it_was_quiet_for_a_second_and_inbound_until_it_is_done() {
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
    async fn work_that_came_and_went_between_two_looks_counts_as_well() {
        let drain = Drain::default();
        let (roll, start) = (drain.roll(), Instant::now());
        drain.begin();
        let of = roll.clone();
        tokio::spawn(async move {
            sleep(Duration::from_millis(4_995)).await;
            drop(Work::begin(&of, Direction::Outbound));
        });
        drain.finished(PLAN).await;
        assert_eq!(start.elapsed().as_secs(), 6, "five, and the quiet second");
        drop(roll);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_end_is_cut_and_counted() {
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
}
