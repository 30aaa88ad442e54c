//! One sink at work: it collects a batch, delivers it, and notes how far it is. It waits for no other sink.

mod policy;

use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use pillion_model::logs;
use pillion_telemetry::companions::Entry;
use pillion_telemetry::{LogOutcome, Metrics, Seldom, Symbol};
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::catalog::{Catalog, Now, Read};
use crate::delivery::{Delivery, Outcome};
use crate::encode::Batch;
use crate::tail::{Load, Tail};
pub(crate) use policy::Policy;
use policy::{Next, Verdict, Work};

/// The pause after a first failure. It doubles with each further one, up to [`LONGEST_PAUSE`], and a random part of up to a
/// half is left out.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The pause of a sidecar that ends.
const LAST_PAUSE: Duration = Duration::from_millis(200);
/// How long the batch that is under way is waited for when a reload changes the sinks: without the answers, its records would be
/// sent again. All sinks wait for the slowest one.
const PATIENCE_AT_RELOAD: Duration = Duration::from_secs(5);
/// The pause between two requests to a sink that takes nothing: it must not get hundreds in a second.
const VAIN_PAUSE: Duration = Duration::from_millis(20);

/// What sinks are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Work,
    /// Deliver what there is, and end.
    Finish,
    /// End. What was not delivered waits in its files.
    Stop,
}

pub(crate) struct Pace {
    pub(crate) sink: usize,
    pub(crate) name: String,
    pub(crate) batch: logs::Batch,
    pub(crate) tail: Tail,
    pub(crate) delivery: Delivery,
    pub(crate) catalog: Rc<RefCell<Catalog>>,
    pub(crate) counts: Counts,
    pub(crate) entry: Entry,
    pub(crate) phase: watch::Receiver<Phase>,
    /// Changes when files have changed.
    pub(crate) changes: watch::Receiver<u64>,
    pub(crate) notices: Notices,
    pub(crate) policy: Policy,
}

/// What is counted for a sink.
pub(crate) struct Counts {
    metrics: std::sync::Arc<Metrics>,
    sources: Vec<Symbol>,
    sink: Symbol,
}

impl Counts {
    pub(crate) fn new(metrics: &std::sync::Arc<Metrics>, sources: &[Symbol], sink: Symbol) -> Self {
        let counts = Self { metrics: metrics.clone(), sources: sources.to_vec(), sink };
        for source in sources {
            for outcome in LogOutcome::ALL {
                counts.metrics.logs_records(*source, sink, *outcome);
            }
        }
        counts
    }

    fn count(&self, batch: &Batch, outcome: LogOutcome) {
        for (place, source) in self.sources.iter().enumerate() {
            let count = batch.documents.iter().filter(|document| document.source == place).count();
            if count > 0 {
                self.metrics.logs_records(*source, self.sink, outcome).inc_by(count as u64);
            }
        }
    }
}

/// What the log has of a sink's state.
#[derive(Default)]
pub(crate) struct Notices {
    problem: Option<String>,
    failed: Seldom,
    refused: Seldom,
    truncated: Seldom,
}

/// What has become of a batch.
enum Delivered {
    All,
    /// The sink has refused it, and is not believed yet. Nothing of it is lost.
    Nothing(String),
    /// The sink was stopped before.
    Stopped,
}

impl Pace {
    /// Until the sidecar ends or a reload changes the sinks.
    pub(crate) async fn run(mut self) {
        self.entry.up(); // it has no problem yet
        let mut failures = 0;
        while let Some(load) = self.collect().await {
            if !load.batch.is_empty() {
                self.catalog.borrow_mut().save_new();
                match self.deliver(load.batch).await {
                    Delivered::All => failures = 0,
                    Delivered::Stopped => {
                        self.leave(&load.reads);
                        break;
                    }
                    Delivered::Nothing(why) => {
                        // it is read again, with what has come meanwhile: of that the sink may take a record
                        let lost =
                            self.tail.rewind(&mut self.catalog.borrow_mut(), &load.reads, Instant::now());
                        self.truncated(lost);
                        let Some(is_whole) = self.failed(&why, Duration::ZERO, &mut failures).await else {
                            self.leave(&[]);
                            break;
                        };
                        if self.policy.waited(is_whole) {
                            tracing::warn!(
                                sink = self.name,
                                "the sink has never taken a record; what it refuses from now on is lost: {why}"
                            );
                        }
                        continue;
                    }
                }
            }
            let mut catalog = self.catalog.borrow_mut();
            catalog.confirm(self.sink, &load.reads);
            catalog.save();
            self.entry.note("checkpoint", catalog.problem.as_deref().unwrap_or("kept"));
        }
        self.delivery.close().await;
    }

    /// The next batch. `None`: there is nothing more to do.
    async fn collect(&mut self) -> Option<Load> {
        let (mut load, mut until) = (Load::default(), None::<Instant>);
        loop {
            let phase = *self.phase.borrow_and_update();
            self.changes.mark_unchanged();
            let now = Instant::now();
            let is_due = until.is_some_and(|until| now >= until);
            if phase == Phase::Stop {
                self.leave(&load.reads);
                return None;
            }
            if self.tail.is_full(&load) || is_due {
                return Some(load);
            }
            let now = Now { at: now, unix: unix_now(), is_last: phase == Phase::Finish };
            if self.read(&mut load, now) {
                if !load.reads.is_empty() {
                    until.get_or_insert(now.at + self.batch.every);
                }
                tokio::task::yield_now().await;
                continue;
            }
            if phase == Phase::Finish {
                return (!load.reads.is_empty()).then_some(load);
            }
            let due = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! { // all only wait
                _ = self.phase.changed() => {}
                _ = self.changes.changed() => {}
                () = due => {}
            }
        }
    }

    /// Reads a portion of a file. Returns whether there is one.
    fn read(&mut self, load: &mut Load, now: Now) -> bool {
        let read = self.tail.step(&mut self.catalog.borrow_mut(), load, now);
        self.truncated(read.unwrap_or(0));
        read.is_some()
    }

    /// The sink stops, and has not taken these.
    fn leave(&mut self, reads: &[Read]) {
        let lost = self.tail.leave(&mut self.catalog.borrow_mut(), reads, Instant::now());
        self.truncated(lost);
    }

    fn truncated(&mut self, lost: u64) {
        self.counts.metrics.logs_truncated().inc_by(lost);
        if lost > 0 && self.notices.truncated.due(std::time::Instant::now()).is_some() {
            tracing::warn!(
                sink = self.name,
                bytes = lost,
                "a file was truncated before it was shipped to its end"
            );
        }
    }

    /// Whether the sink takes a record that stands behind those that came back for long. Then these are given up when they come back
    /// once more; else the sink is at fault, and nothing is lost. What was sent is read and sent again in its turn: such sinks have
    /// each record once, but one without a time of its own that goes to the index of another day. `None`: the sink was stopped.
    async fn look_ahead(&mut self) -> Option<bool> {
        let mark = self.tail.mark();
        let takes_others = self.send_ahead().await;
        self.tail.back_to(mark);
        takes_others
    }

    /// Sends portions of what is to be read next, until the sink takes a record.
    async fn send_ahead(&mut self) -> Option<bool> {
        let mut late = pin!(late(self.phase.clone()));
        for _ in 0..self.policy.look_ahead() {
            let (mut load, unix) = (Load::default(), unix_now());
            let is_read = self.read(&mut load, Now { at: Instant::now(), unix, is_last: false });
            if !is_read {
                break; // nobody waits for those that come back
            }
            if load.batch.is_empty() {
                // all of its lines are left out
                tokio::select! {
                    biased;
                    () = &mut late => return None,
                    () = yield_now() => continue,
                }
            }
            self.catalog.borrow_mut().save_new();
            let body = self.delivery.body(&load.batch);
            let outcome = tokio::select! { // the answer is lost, and its records are sent again
                biased;
                () = &mut late => return None,
                outcome = self.delivery.send(&load.batch, body) => outcome,
            };
            if outcome.takes_any() {
                return Some(true);
            }
            let is_cut = !self.pause(VAIN_PAUSE).await?;
            if is_cut || matches!(outcome, Outcome::Failed(..) | Outcome::Slow(_)) {
                break;
            }
        }
        Some(false)
    }

    /// Delivers a batch, whole or in parts, however often it takes. A part that is under way at a reload is sent again by the
    /// next configuration: at least once.
    async fn deliver(&mut self, batch: Batch) -> Delivered {
        let mut late = pin!(late(self.phase.clone()));
        let (mut work, mut failures) = (Work::new(batch), 0);
        while let Some(batch) = work.next() {
            let body = self.delivery.body(&batch);
            let outcome = tokio::select! { // the answer is lost, and its records are sent again
                biased;
                () = &mut late => return Delivered::Stopped,
                outcome = self.delivery.send(&batch, body) => outcome,
            };
            self.policy.expire(Instant::now());
            let Verdict { taken, lost, next } = self.policy.judge(&mut work, batch, outcome);
            lost.iter().for_each(|(batch, why)| self.lost(batch, why));
            if let Some(batch) = taken {
                self.counts.count(&batch, LogOutcome::Delivered);
                if !matches!(next, Next::Again(..)) {
                    self.works();
                }
                if self.delivery.is_answered() {
                    failures = 0; // what comes back is less than before
                }
            }
            let goes_on = match next {
                Next::Part => true,
                Next::PartLater(why) => {
                    self.entry.down(&why);
                    self.pause(VAIN_PAUSE).await.is_some()
                }
                Next::Again(batch, why, rest) => {
                    let Some(is_whole) = self.failed(&why, rest, &mut failures).await else {
                        return Delivered::Stopped;
                    };
                    self.counts.count(&batch, LogOutcome::Retried);
                    work.again(batch);
                    match work.waited(is_whole) {
                        Some(reasons) => match self.look_ahead().await {
                            Some(true) => {
                                self.policy.takes_others(&mut work, reasons, Instant::now());
                                true
                            }
                            Some(false) => true,
                            None => false,
                        },
                        None => true,
                    }
                }
                Next::Nothing(why) => return Delivered::Nothing(why),
            };
            if !goes_on {
                return Delivered::Stopped;
            }
        }
        work.doubt().map_or(Delivered::All, Delivered::Nothing)
    }

    /// Tells of a failure, and waits before the next attempt. Returns whether the pause was whole. `None`: the sink was stopped.
    async fn failed(&mut self, why: &str, rest: Duration, failures: &mut u32) -> Option<bool> {
        self.problem(why);
        let is_whole = self.pause(rest.max(pause(*failures, fastrand::f64()))).await;
        *failures += 1;
        is_whole
    }

    fn works(&mut self) {
        self.entry.up();
        if self.notices.problem.take().is_some() {
            tracing::info!(sink = self.name, "the sink takes records again");
        }
    }

    fn lost(&self, batch: &Batch, why: &str) {
        self.counts.count(batch, LogOutcome::Refused);
        self.entry.note("last_refusal", why);
        if self.notices.refused.due(std::time::Instant::now()).is_some() {
            tracing::warn!(
                sink = self.name,
                records = batch.documents.len(),
                "the sink has refused records, which are lost: {why}"
            );
        }
    }

    fn problem(&mut self, why: &str) {
        self.entry.down(why);
        let is_new = self.notices.problem.as_deref() != Some(why);
        if is_new && self.notices.failed.due(std::time::Instant::now()).is_some() {
            tracing::warn!(sink = self.name, "records cannot be delivered and wait in their files: {why}");
            self.notices.problem = Some(why.to_owned());
        }
    }

    async fn pause(&mut self, length: Duration) -> Option<bool> {
        rest(&mut self.phase, length).await
    }
}

/// Waits before the next attempt. Returns whether it was for the whole time, which it is only at [`Phase::Work`]. `None`: the
/// sink was stopped.
async fn rest(phase: &mut watch::Receiver<Phase>, length: Duration) -> Option<bool> {
    let is_last = *phase.borrow() == Phase::Finish;
    let length = if is_last { length.min(LAST_PAUSE) } else { length };
    let is_over = |phase: &Phase| *phase == Phase::Stop || !is_last && *phase == Phase::Finish;
    let is_whole = timeout(length, phase.wait_for(is_over)).await.is_err() && !is_last;
    (*phase.borrow() != Phase::Stop).then_some(is_whole)
}

/// Until a reload has changed the sinks, and what is under way was waited for.
async fn late(mut phase: watch::Receiver<Phase>) {
    if phase.wait_for(|phase| *phase == Phase::Stop).await.is_ok() {
        sleep(PATIENCE_AT_RELOAD).await;
    }
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// The pause before the next attempt. `dice` is in [0, 1): sidecars whose sink was restarted do not come at once.
fn pause(failures: u32, dice: f64) -> Duration {
    PAUSE.saturating_mul(1 << failures.min(10)).min(LONGEST_PAUSE).mul_f64(1.0 - dice / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_not_the_same_for_all() {
        let millis = |failures, dice| pause(failures, dice).as_millis();
        assert_eq!(
            [0, 1, 2, 10, u32::MAX].map(|failures| millis(failures, 0.0)),
            [500, 1000, 2000, 30_000, 30_000]
        );
        assert!((250..260).contains(&millis(0, 0.999)));
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_pause_that_a_sink_had_at_work_is_whole() {
        let (phases, mut phase) = watch::channel(Phase::Work);
        let length = Duration::from_secs(1);
        assert_eq!(rest(&mut phase, length).await, Some(true));
        let (cut, ()) = tokio::join!(rest(&mut phase, length), async {
            phases.send_replace(Phase::Finish);
        });
        assert_eq!(cut, Some(false));
        let begun = Instant::now();
        assert_eq!((rest(&mut phase, length).await, begun.elapsed()), (Some(false), LAST_PAUSE));
        phases.send_replace(Phase::Stop);
        assert_eq!(rest(&mut phase, length).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn all_parts_of_a_batch_have_one_time_after_a_reload() {
        let (phases, phase) = watch::channel(Phase::Work);
        let (mut late, mut parts) = (pin!(late(phase)), 0);
        phases.send_replace(Phase::Stop);
        loop {
            tokio::select! {
                biased;
                () = &mut late => break,
                () = sleep(Duration::from_secs(2)) => parts += 1,
            }
        }
        assert_eq!(parts, 2);
    }
}
