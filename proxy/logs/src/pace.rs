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
/// How often a batch is divided to find the records that a sink does not take: each needs some ten divisions among thousands. A
/// sink that takes nothing at all must not get a request for each record.
const MOST_DIVISIONS: usize = 1024;
/// After so many divisions without a record that is taken, the sink counts as one that takes nothing.
const MOST_VAIN_DIVISIONS: usize = 32;
/// The pause between two divisions.
const PAUSE_OF_DIVISION: Duration = Duration::from_millis(20);
/// So often a batch of which a sink takes nothing is tried until its first record counts as refused: a record that no server takes
/// must not stop the others for ever, and an address that takes nothing must not cost the backlog.
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

/// A batch that a sink has refused is divided, until the records are found that it does not take.
#[derive(Default)]
struct Division {
    count: usize,
    /// The parts that were refused, in their order.
    refused: Vec<Batch>,
    why: String,
    /// Whether the sink has taken a record meanwhile.
    is_taken: bool,
    /// How often the sink has taken nothing of the batch.
    attempts: u32,
}

impl Division {
    /// The halves of a batch that was refused, the first one last. None: it is not divided further.
    fn refused(&mut self, batch: Batch, why: String) -> Vec<Batch> {
        self.count += 1;
        self.why = why;
        let half = batch.documents.len() / 2;
        if half == 0 || self.count > MOST_DIVISIONS {
            self.refused.push(batch);
            return Vec::new();
        }
        vec![batch.only(|nth| nth >= half), batch.only(|nth| nth < half)]
    }

    fn is_vain(&self) -> bool {
        !self.is_taken && self.count > MOST_VAIN_DIVISIONS
    }
}

impl Pace {
    /// Until the sidecar ends or a reload changes the sinks.
    pub(crate) async fn run(mut self) {
        self.entry.up(); // it has no problem yet
        while let Some(load) = self.collect().await {
            if !load.batch.is_empty() {
                self.catalog.borrow_mut().save_new();
                if !self.deliver(load.batch).await {
                    break;
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

    /// Delivers a batch, whole or in parts, however often it takes. `false`: the sink was stopped before.
    async fn deliver(&mut self, batch: Batch) -> bool {
        let (mut waiting, mut failures, mut division) = (vec![batch], 0, Division::default());
        loop {
            let Some(batch) = waiting.pop() else {
                let Some((batch, why)) = self.divided(&mut division) else { return true };
                waiting.push(batch);
                if !self.failed(&why, Duration::ZERO, &mut failures, &waiting).await {
                    return false;
                }
                continue;
            };
            let body = self.delivery.body(&batch);
            let Some(outcome) = self.send(&batch, body).await else { return false };
            let (why, rest) = match outcome {
                Outcome::Taken => {
                    self.taken(&batch, |_| true);
                    (failures, division.is_taken) = (0, true);
                    continue;
                }
                Outcome::TakenBut(refused, why) => {
                    let refused = usize::try_from(refused).unwrap_or(usize::MAX);
                    self.taken(&batch, |nth| nth >= refused);
                    self.refused(&batch, &why, |nth| nth < refused);
                    division.is_taken = true;
                    continue;
                }
                Outcome::Refused(why) => {
                    waiting.extend(division.refused(batch, why));
                    if division.is_vain() {
                        division.refused.extend(waiting.drain(..).rev());
                    } else if !self.pause(PAUSE_OF_DIVISION).await {
                        return false;
                    }
                    continue;
                }
                Outcome::Each(fates) => {
                    division.is_taken |= fates.contains(&Fate::Taken);
                    let Some((again, why)) = self.each(&batch, &fates) else { continue };
                    waiting.push(again);
                    (why, Duration::ZERO)
                }
                Outcome::Failed(why, rest) => {
                    waiting.push(batch);
                    (why, rest)
                }
            };
            if !self.failed(&why, rest, &mut failures, &waiting).await {
                return false;
            }
        }
    }

    /// What becomes of the parts of a batch that were refused: they are lost if the sink takes others. If it takes none, they
    /// are to be sent again, and why.
    fn divided(&mut self, division: &mut Division) -> Option<(Batch, String)> {
        let Division { refused, why, is_taken, attempts, .. } = std::mem::take(division);
        if is_taken {
            refused.iter().for_each(|batch| self.refused(batch, &why, |_| true));
            return None;
        }
        let mut batch = Batch::joined(refused)?;
        let attempts = attempts + 1;
        if attempts % VAIN_ATTEMPTS == 0 {
            self.refused(&batch, &why, |nth| nth == 0);
            batch = batch.only(|nth| nth > 0);
            if batch.is_empty() {
                return None;
            }
        }
        *division = Division { attempts, ..Division::default() };
        Some((batch, why))
    }

    /// Tells of a failure, and waits before the next attempt. `false`: the sink was stopped.
    async fn failed(&mut self, why: &str, rest: Duration, failures: &mut u32, waiting: &[Batch]) -> bool {
        self.problem(why);
        if !self.pause(rest.max(pause(*failures, fastrand::f64()))).await {
            return false;
        }
        *failures += 1;
        if let Some(again) = waiting.last() {
            self.counts.count(again, LogOutcome::Retried, |_| true);
        }
        true
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

    fn batch_of(records: usize) -> Batch {
        Batch::of_texts((0..records).map(|nth| nth.to_string()))
    }

    /// All that a batch has.
    fn texts(batch: &Batch) -> Vec<String> {
        batch.texts().map(|text| String::from_utf8(text.to_vec()).unwrap()).collect()
    }

    #[test]
    fn a_batch_is_divided_until_single_records_are_refused() {
        let (mut division, mut waiting, mut requests) = (Division::default(), vec![batch_of(8)], 0);
        while let Some(batch) = waiting.pop() {
            requests += 1;
            if texts(&batch).contains(&"5".to_owned()) {
                waiting.extend(division.refused(batch, "no".to_owned()));
            } else {
                division.is_taken = true;
            }
        }
        assert_eq!(
            (division.refused.iter().flat_map(texts).collect::<Vec<_>>(), requests),
            (vec!["5".to_owned()], 7)
        );
        assert!(!division.is_vain());
    }

    #[test]
    fn a_sink_that_takes_nothing_is_asked_few_times_and_nothing_is_left_out() {
        let (mut division, mut waiting) = (Division::default(), vec![batch_of(1000)]);
        while let Some(batch) = waiting.pop() {
            waiting.extend(division.refused(batch, "no".to_owned()));
            if division.is_vain() {
                division.refused.extend(waiting.drain(..).rev());
            }
        }
        assert!(division.count <= MOST_VAIN_DIVISIONS + 1);
        let all = Batch::joined(division.refused).unwrap();
        assert_eq!(texts(&all), texts(&batch_of(1000)));
    }

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
