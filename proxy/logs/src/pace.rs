//! One sink at work: it collects a batch, delivers it, and notes how far it is. It waits for no other sink.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use pillion_model::logs;
use pillion_telemetry::companions::Entry;
use pillion_telemetry::{LogOutcome, Metrics, Seldom, Symbol};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::catalog::{Catalog, Now};
use crate::delivery::{Delivery, Fate, Outcome};
use crate::encode::Batch;
use crate::tail::{Load, Tail};

/// The pause after a first failure. It doubles with each further one, up to [`LONGEST_PAUSE`], and a random part of up to a
/// half is left out.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The pause of a sidecar that ends.
const LAST_PAUSE: Duration = Duration::from_millis(200);
/// How long a request that is under way is waited for when a reload changes the sinks: without its answer, its records would be
/// sent again.
const PATIENCE_AT_RELOAD: Duration = Duration::from_secs(5);
/// The pause between two requests to a sink that takes nothing: it must not get hundreds in a second.
const VAIN_PAUSE: Duration = Duration::from_millis(20);
/// After so many refusals without a record that is taken, a sink is down, and gets its requests more slowly; and one that has
/// never taken any is perhaps set up wrongly.
const MOST_VAIN: usize = 32;
/// So often such a sink is tried until it is believed, which takes a minute: a wrong address must not cost the backlog, and
/// records that no server takes must not stop the others for ever.
const VAIN_ATTEMPTS: u32 = 8;

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
    /// Whether what the sink refuses is lost: it has taken a record since it was set up, or has refused all for long enough.
    pub(crate) is_believed: bool,
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

    /// Counts the records of a batch that are meant.
    fn count(&self, batch: &Batch, outcome: LogOutcome, is_meant: impl Fn(usize) -> bool) {
        for (place, source) in self.sources.iter().enumerate() {
            let of_source =
                |(nth, of): &(usize, &crate::encode::Document)| of.source == place && is_meant(*nth);
            let count = batch.documents.iter().enumerate().filter(of_source).count();
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

/// What a sink has refused of a batch. Batches are divided until single records are refused.
#[derive(Default)]
struct Refusals {
    /// How many there were since a record was taken.
    vain: usize,
    /// The single records that were refused while the sink was not believed.
    suspects: Vec<(Batch, String)>,
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
                    Delivered::Stopped => break,
                    Delivered::Nothing(why) => {
                        // it is read again, with what has come meanwhile: of that the sink may take a record
                        self.tail.rewind(&self.catalog.borrow(), &load.reads);
                        if !self.failed(&why, Duration::ZERO, &mut failures).await {
                            break;
                        }
                        self.is_believed = failures >= VAIN_ATTEMPTS;
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
                return None;
            }
            if self.tail.is_full(&load) || is_due {
                return Some(load);
            }
            let now = Now { at: now, unix: unix_now(), is_last: phase == Phase::Finish };
            let read = self.tail.step(&mut self.catalog.borrow_mut(), &mut load, now);
            if let Some(lost) = read {
                self.counts.metrics.logs_truncated().inc_by(lost);
                if lost > 0 && self.notices.truncated.due(std::time::Instant::now()).is_some() {
                    tracing::warn!(
                        sink = self.name,
                        bytes = lost,
                        "a file was truncated before it was shipped to its end"
                    );
                }
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

    /// Delivers a batch, whole or in parts, however often it takes.
    async fn deliver(&mut self, batch: Batch) -> Delivered {
        let (mut waiting, mut failures, mut refusals) = (vec![batch], 0, Refusals::default());
        while let Some(batch) = waiting.pop() {
            let body = self.delivery.body(&batch);
            let Some(outcome) = self.send(&batch, body).await else { return Delivered::Stopped };
            let (again, why, rest) = match outcome {
                Outcome::Taken => {
                    self.taken(&batch, |_| true);
                    (failures, refusals.vain) = (0, 0);
                    continue;
                }
                Outcome::TakenBut(refused, why) => {
                    let refused = usize::try_from(refused).unwrap_or(usize::MAX);
                    self.taken(&batch, |nth| nth >= refused);
                    self.refused(&batch, &why, |nth| nth < refused);
                    continue;
                }
                Outcome::Refused(why) => {
                    match batch.halves() {
                        Some(halves) => waiting.extend(halves),
                        None => refusals.suspects.push((batch, why.clone())),
                    }
                    refusals.vain += 1;
                    self.refuse(&mut refusals);
                    if refusals.vain <= MOST_VAIN {
                        continue;
                    }
                    if !self.is_believed {
                        return Delivered::Nothing(why);
                    }
                    self.entry.down(&why);
                    if !self.pause(VAIN_PAUSE).await {
                        return Delivered::Stopped;
                    }
                    continue;
                }
                Outcome::Each(fates) => match self.each(&batch, &fates) {
                    Some((again, why)) => (again, why, Duration::ZERO),
                    None => continue,
                },
                Outcome::Long(why) => match batch.halves() {
                    Some(halves) => {
                        waiting.extend(halves);
                        continue;
                    }
                    None => (batch, why, Duration::ZERO),
                },
                Outcome::Failed(why, rest) => (batch, why, rest),
            };
            if !self.failed(&why, rest, &mut failures).await {
                return Delivered::Stopped;
            }
            self.counts.count(&again, LogOutcome::Retried, |_| true);
            waiting.push(again);
        }
        self.refuse(&mut refusals);
        match refusals.suspects.pop() {
            Some((_, why)) => Delivered::Nothing(why),
            None => Delivered::All,
        }
    }

    /// The records that were refused are lost, if the sink is believed.
    fn refuse(&self, refusals: &mut Refusals) {
        if self.is_believed {
            refusals.suspects.drain(..).for_each(|(batch, why)| self.refused(&batch, &why, |_| true));
        }
    }

    /// Tells of a failure, and waits before the next attempt. `false`: the sink was stopped.
    async fn failed(&mut self, why: &str, rest: Duration, failures: &mut u32) -> bool {
        self.problem(why);
        let goes_on = self.pause(rest.max(pause(*failures, fastrand::f64()))).await;
        *failures += 1;
        goes_on
    }

    /// Sends a batch. `None`: the sink was stopped, and the answer has not come.
    async fn send(&mut self, batch: &Batch, body: bytes::Bytes) -> Option<Outcome> {
        let Self { delivery, phase, .. } = self;
        let stopped = async {
            if phase.wait_for(|phase| *phase == Phase::Stop).await.is_ok() {
                sleep(PATIENCE_AT_RELOAD).await;
            }
        };
        tokio::select! { // a request that is dropped is sent again by the next configuration: at least once
            biased;
            outcome = delivery.send(batch, body) => Some(outcome),
            () = stopped => None,
        }
    }

    /// What became of each record. Returns those that are to be sent again, and why.
    fn each(&mut self, batch: &Batch, fates: &[Fate]) -> Option<(Batch, String)> {
        self.counts.count(batch, LogOutcome::Delivered, |nth| fates.get(nth) == Some(&Fate::Taken));
        self.is_believed |= fates.contains(&Fate::Taken);
        let refused =
            fates.iter().find_map(|fate| if let Fate::Refused(why) = fate { Some(why) } else { None });
        if let Some(why) = refused {
            self.refused(batch, why, |nth| matches!(fates.get(nth), Some(Fate::Refused(_))));
        }
        let again = fates.iter().find_map(|fate| if let Fate::Again(why) = fate { Some(why) } else { None });
        match again {
            Some(why) => {
                Some((batch.only(|nth| matches!(fates.get(nth), Some(Fate::Again(_)))), why.clone()))
            }
            None => {
                self.works();
                None
            }
        }
    }

    fn taken(&mut self, batch: &Batch, is_meant: impl Fn(usize) -> bool) {
        self.is_believed |= (0..batch.documents.len()).any(&is_meant);
        self.counts.count(batch, LogOutcome::Delivered, is_meant);
        self.works();
    }

    fn works(&mut self) {
        self.entry.up();
        if self.notices.problem.take().is_some() {
            tracing::info!(sink = self.name, "the sink takes records again");
        }
    }

    fn refused(&self, batch: &Batch, why: &str, is_meant: impl Fn(usize) -> bool) {
        let count = (0..batch.documents.len()).filter(|nth| is_meant(*nth)).count();
        self.counts.count(batch, LogOutcome::Refused, is_meant);
        self.entry.note("last_refusal", why);
        if self.notices.refused.due(std::time::Instant::now()).is_some() {
            tracing::warn!(
                sink = self.name,
                records = count,
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

    /// Waits before the next attempt. `false`: the sink was stopped.
    async fn pause(&mut self, length: Duration) -> bool {
        let is_last = *self.phase.borrow() == Phase::Finish;
        let waiting =
            self.phase.wait_for(|phase| *phase == Phase::Stop || !is_last && *phase == Phase::Finish);
        let length = if is_last { length.min(LAST_PAUSE) } else { length };
        drop(timeout(length, waiting).await); // the time is over, or there is another phase
        *self.phase.borrow() != Phase::Stop
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
}
