//! Decides what an answer means for the records of a batch: which are delivered, which are lost, which are sent again, and when
//! the sink is down.
//!
//! Pure. [`super::Pace`] sends, waits and counts.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::delivery::{Fate, Outcome};
use crate::encode::Batch;

/// After so many refusals without a record that is taken, a sink is down, and gets its requests more slowly; and one that has
/// never taken any is perhaps set up wrongly.
const MOST_VAIN: usize = 32;
/// So many records are refused at once after [`MOST_VAIN`] refusals of one batch: to find each of many thousand lines that are
/// too old would stop the sink for an hour.
const MOST_REFUSED_WHOLE: usize = 64;
/// So often such a sink is tried until it is believed, which takes a minute: a wrong address must not cost the backlog within
/// that time, and records that no server takes must not stop the others for ever.
const VAIN_ATTEMPTS: u32 = 8;
/// So often the same records come back one by one, with a whole pause after each time, until it is looked whether the sink takes
/// those behind them: ten minutes.
const MOST_RETURNS: u32 = 30;
/// So many portions of files (128 KiB) it looks ahead the first time, and twice as many each further time, up to the most: all
/// that is waiting may be for an index that is closed.
const LEAST_AHEAD: usize = 64;
const MOST_AHEAD: usize = 4096;
/// So long records are refused at once for a reason that was found. After that they come back for ten minutes again.
const GIVEN_UP_FOR: Duration = Duration::from_hours(1);
/// So many reasons are known for which records are given up.
const MOST_REASONS: usize = 64;

/// What a sink's answers have told of it.
#[derive(Debug, Default)]
pub(crate) struct Policy {
    /// Whether what the sink refuses is lost: it has taken a record since it was set up, or has refused all for long enough.
    is_believed: bool,
    /// How often it was tried until now, with the whole pause after each.
    attempts: u32,
    /// How many refusals there were since a record was taken, in whatever batch.
    vain: usize,
    /// Records came back for these reasons for long, while the sink took others. They are refused.
    given_up: VecDeque<String>,
    /// Until then.
    given_up_until: Option<Instant>,
    /// The sink takes others than those that came back for these reasons. They are given up if that is so once more: the sink may
    /// take all again.
    on_trial: Vec<String>,
    /// How many portions it looked ahead the last time, in vain.
    ahead: usize,
}

/// A batch that is being delivered.
#[derive(Debug)]
pub(super) struct Work {
    /// Its parts that have not been sent, the next one last.
    waiting: Vec<Batch>,
    /// What was refused while the sink was not believed: an entry for each refusal, of which there are at most
    /// [`MOST_VAIN`] and one.
    suspects: Vec<(Batch, String)>,
    /// How many refusals of it there were since a record was taken.
    vain: usize,
    /// Why records came back the last time, one by one.
    reasons: Vec<String>,
    /// How often the same ones came back.
    returns: u32,
}

/// What an answer means.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) taken: Option<Batch>,
    pub(super) lost: Option<(Batch, String)>,
    pub(super) next: Next,
}

#[derive(Debug)]
pub(super) enum Next {
    /// The next part.
    Part,
    /// The next part after a short pause: the sink takes nothing, for this reason.
    PartLater(String),
    /// This again after a pause, which is at least as long as the sink asks for.
    Again(Batch, String, Duration),
    /// The sink takes nothing, and is not believed. Nothing of the batch is lost.
    Nothing(String),
}

impl Work {
    pub(super) fn new(batch: Batch) -> Self {
        Self { waiting: vec![batch], suspects: Vec::new(), vain: 0, reasons: Vec::new(), returns: 0 }
    }

    /// What is to be sent next.
    pub(super) fn next(&mut self) -> Option<Batch> {
        self.waiting.pop()
    }

    pub(super) fn again(&mut self, batch: Batch) {
        self.waiting.push(batch);
    }

    /// The pause is over after which records are sent again. If the same ones came back for long, it says for which reasons.
    pub(super) fn waited(&mut self, is_whole: bool) -> Option<Vec<String>> {
        self.returns += u32::from(is_whole && !self.reasons.is_empty());
        let is_long = self.returns >= MOST_RETURNS;
        self.returns = if is_long { 0 } else { self.returns };
        is_long.then(|| std::mem::take(&mut self.reasons))
    }

    /// Why nothing of the batch is confirmed, if that is so, after its last part.
    pub(super) fn doubt(self) -> Option<String> {
        self.suspects.into_iter().next_back().map(|(_, why)| why)
    }
}

/// An answer, sorted by records.
#[derive(Default)]
struct Sorted {
    taken: Option<Batch>,
    refused: Option<(Batch, String)>,
    again: Option<(Batch, String, Duration)>,
    /// Parts that are to be sent later, the next one last.
    later: Vec<Batch>,
    /// Why they were refused together, if that is so.
    divided: Option<String>,
}

impl Policy {
    /// What an answer means for what was sent.
    pub(super) fn judge(&mut self, work: &mut Work, batch: Batch, outcome: Outcome) -> Verdict {
        let is_found =
            self.is_believed && work.vain >= MOST_VAIN && batch.documents.len() <= MOST_REFUSED_WHOLE;
        self.decide(&outcome);
        let outcome = self.give_up(outcome);
        work.reasons = reasons(&outcome);
        let Sorted { taken, refused, again, later, divided } = sort(batch, outcome, is_found);
        work.waiting.extend(later);
        let why = divided.or_else(|| refused.as_ref().map(|(_, why)| why.clone()));
        if taken.is_some() || refused.is_some() {
            work.returns = 0; // what comes back is less than before
        }
        if taken.is_some() {
            self.takes(work);
        } else if why.is_some() {
            self.vain = self.vain.saturating_add(1);
            work.vain = work.vain.saturating_add(1);
        }
        let lost = if self.is_believed {
            refused
        } else {
            work.suspects.extend(refused);
            None
        };
        let next = match (again, why) {
            (Some((batch, why, rest)), _) => Next::Again(batch, why, rest),
            (None, Some(why)) if !self.is_believed && work.vain > MOST_VAIN => Next::Nothing(why),
            (None, Some(why)) if self.is_believed && self.vain > MOST_VAIN => Next::PartLater(why),
            _ => Next::Part,
        };
        Verdict { taken, lost, next }
    }

    /// The sink has taken a record. What it refused before is sent once more: it may have been set up rightly only now.
    fn takes(&mut self, work: &mut Work) {
        self.is_believed = true;
        (self.vain, work.vain) = (0, 0);
        work.waiting.extend(work.suspects.drain(..).map(|(batch, _)| batch));
    }

    /// Decides for which reasons records are given up, when the sink has answered for the first time after it took others.
    fn decide(&mut self, outcome: &Outcome) {
        if matches!(outcome, Outcome::Failed(..) | Outcome::Slow(_)) {
            return; // it has not said anything of them
        }
        let still = reasons(outcome);
        self.given_up.extend(self.on_trial.drain(..).filter(|why| still.contains(why)));
        let surplus = self.given_up.len().saturating_sub(MOST_REASONS);
        self.given_up.drain(..surplus);
    }

    /// Refuses what comes back for a reason for which records are given up.
    fn give_up(&self, outcome: Outcome) -> Outcome {
        let fate = |fate| match fate {
            Fate::Again(why) if self.given_up.contains(&why) => {
                Fate::Refused(format!("came back for ten minutes while others were taken: {why}"))
            }
            fate => fate,
        };
        match outcome {
            Outcome::Each(fates) => Outcome::Each(fates.into_iter().map(fate).collect()),
            outcome => outcome,
        }
    }

    /// How many portions it is to look ahead, because the same records come back.
    pub(super) fn look_ahead(&mut self) -> usize {
        self.ahead = (self.ahead * 2).clamp(LEAST_AHEAD, MOST_AHEAD);
        self.ahead
    }

    /// The sink has taken a record that stands behind those that came back for these reasons.
    pub(super) fn takes_others(&mut self, work: &mut Work, reasons: Vec<String>, now: Instant) {
        self.takes(work);
        (self.ahead, self.on_trial) = (0, reasons);
        self.given_up_until = Some(now + GIVEN_UP_FOR);
    }

    /// Records are not given up for ever for a reason that was found once.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.given_up_until.is_some_and(|until| now >= until) {
            self.given_up_until = None;
            self.given_up.clear();
            self.on_trial.clear();
        }
    }

    /// The sink takes nothing, and the pause after that is over. Only a whole one counts as an attempt: a sidecar that ends does
    /// not wait for long enough to know. Returns whether the sink is believed from now on.
    pub(super) fn waited(&mut self, is_whole: bool) -> bool {
        self.attempts = self.attempts.saturating_add(u32::from(is_whole));
        let was_believed = std::mem::replace(&mut self.is_believed, self.attempts >= VAIN_ATTEMPTS);
        self.is_believed |= was_believed;
        self.is_believed && !was_believed
    }
}

/// Sorts an answer. `is_found`: what is refused together is not divided.
fn sort(batch: Batch, outcome: Outcome, is_found: bool) -> Sorted {
    let (why, is_refusal) = match outcome {
        Outcome::Taken => return Sorted { taken: Some(batch), ..Sorted::default() },
        Outcome::TakenBut(count, why) => {
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            let refused = some(&batch, |nth| nth < count).map(|batch| (batch, why));
            return Sorted { taken: some(&batch, |nth| nth >= count), refused, ..Sorted::default() };
        }
        Outcome::Each(fates) => return sort_each(&batch, &fates),
        Outcome::Failed(why, rest) => {
            return Sorted { again: Some((batch, why, rest)), ..Sorted::default() };
        }
        Outcome::Slow(why) => {
            let (batch, later) = match batch.halves() {
                Some([later, batch]) => (batch, vec![later]),
                None => (batch, Vec::new()),
            };
            return Sorted { again: Some((batch, why, Duration::ZERO)), later, ..Sorted::default() };
        }
        Outcome::Refused(why) => (why, true),
        // that for a single record that is taken is short
        Outcome::Long(why) => (why, false),
    };
    match batch.halves().filter(|_| !(is_refusal && is_found)) {
        Some(halves) => {
            Sorted { later: halves.into(), divided: is_refusal.then_some(why), ..Sorted::default() }
        }
        None => Sorted { refused: Some((batch, why)), ..Sorted::default() },
    }
}

fn sort_each(batch: &Batch, fates: &[Fate]) -> Sorted {
    let refused = fates.iter().find_map(|fate| if let Fate::Refused(why) = fate { Some(why) } else { None });
    let again = fates.iter().find_map(|fate| match fate {
        Fate::Again(why) | Fate::Busy(why) => Some(why),
        Fate::Taken | Fate::Refused(_) => None,
    });
    let refused = refused.and_then(|why| {
        Some((some(batch, |nth| matches!(fates.get(nth), Some(Fate::Refused(_))))?, why.clone()))
    });
    let again = again.and_then(|why| {
        let batch = some(batch, |nth| matches!(fates.get(nth), Some(Fate::Again(_) | Fate::Busy(_))))?;
        Some((batch, why.clone(), Duration::ZERO))
    });
    Sorted {
        taken: some(batch, |nth| fates.get(nth) == Some(&Fate::Taken)),
        refused,
        again,
        ..Sorted::default()
    }
}

/// Why records come back, if the sink has said it of each.
fn reasons(outcome: &Outcome) -> Vec<String> {
    let Outcome::Each(fates) = outcome else { return Vec::new() };
    let mut reasons: Vec<String> = Vec::new();
    for fate in fates {
        if let Fate::Again(why) = fate
            && !reasons.contains(why)
            && reasons.len() < MOST_REASONS
        {
            reasons.push(why.clone());
        }
    }
    reasons
}

/// These records, if there are any.
fn some(batch: &Batch, is_meant: impl Fn(usize) -> bool) -> Option<Batch> {
    Some(batch.only(is_meant)).filter(|batch| !batch.is_empty())
}

#[cfg(test)]
mod tests;
