//! Decides what an answer means for the records of a batch: which are delivered, which are lost, which are sent again, and when
//! the sink is down.
//!
//! Pure. [`super::Pace`] sends, waits and counts.

use std::collections::VecDeque;
use std::time::Duration;

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
    pub(super) fn takes_others(&mut self, reasons: Vec<String>) {
        (self.is_believed, self.ahead, self.on_trial) = (true, 0, reasons);
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
mod tests {
    use super::*;

    /// Records of a batch, each a letter: small ones are good, capitals are refused.
    fn batch(letters: &str) -> Batch {
        Batch::of_texts(letters.chars().map(String::from))
    }

    fn letters(batch: &Batch) -> String {
        batch.texts().map(String::from_utf8_lossy).collect()
    }

    fn is_bad(batch: &Batch) -> bool {
        letters(batch).contains(char::is_uppercase)
    }

    fn why() -> String {
        "no".to_owned()
    }

    fn each(fates: &str) -> Outcome {
        let fate = |fate| match fate {
            't' => Fate::Taken,
            'r' => Fate::Refused(why()),
            'b' => Fate::Busy(why()),
            _ => Fate::Again(why()),
        };
        Outcome::Each(fates.chars().map(fate).collect())
    }

    fn believed() -> Policy {
        Policy { is_believed: true, ..Policy::default() }
    }

    /// How a batch ends: what was taken, what was lost, how many requests it took, and why nothing is confirmed.
    fn deliver(
        policy: &mut Policy,
        all: &str,
        answer: impl Fn(&Batch) -> Outcome,
    ) -> (String, String, usize, bool) {
        let (mut work, mut taken, mut lost, mut requests) =
            (Work::new(batch(all)), String::new(), String::new(), 0);
        while let Some(part) = work.next() {
            requests += 1;
            let outcome = answer(&part);
            let verdict = policy.judge(&mut work, part, outcome);
            verdict.taken.iter().for_each(|batch| taken.push_str(&letters(batch)));
            verdict.lost.iter().for_each(|(batch, _)| lost.push_str(&letters(batch)));
            match verdict.next {
                Next::Again(batch, ..) => work.again(batch),
                Next::Nothing(_) => return (taken, lost, requests, true),
                Next::Part | Next::PartLater(_) => {}
            }
        }
        (taken, lost, requests, work.doubt().is_some())
    }

    /// As a sink over HTTP does it.
    fn whole(batch: &Batch) -> Outcome {
        if is_bad(batch) { Outcome::Refused(why()) } else { Outcome::Taken }
    }

    #[test]
    fn an_answer_is_sorted_by_records() {
        for (is_believed, outcome, taken, lost, suspects, next) in [
            (false, Outcome::Taken, "abc", "", "", "part"),
            (true, Outcome::TakenBut(2, why()), "c", "ab", "", "part"),
            (false, Outcome::TakenBut(2, why()), "c", "ab", "", "part"),
            (true, Outcome::TakenBut(9, why()), "", "abc", "", "part"),
            (false, Outcome::TakenBut(3, why()), "", "", "abc", "part"),
            (true, each("trt"), "ac", "b", "", "part"),
            (true, each("rrr"), "", "abc", "", "part"),
            (false, each("rrr"), "", "", "abc", "part"),
            (false, each("tra"), "a", "b", "", "again c"),
            (false, each("rra"), "", "", "ab", "again c"),
            (true, each("aaa"), "", "", "", "again abc"),
            (true, each("tab"), "a", "", "", "again bc"),
            (true, Outcome::Failed(why(), Duration::ZERO), "", "", "", "again abc"),
            (true, Outcome::Slow(why()), "", "", "", "again a"),
            (true, Outcome::Refused(why()), "", "", "", "part"),
            (false, Outcome::Long(why()), "", "", "", "part"),
        ] {
            let (mut policy, mut work) =
                (Policy { is_believed, ..Policy::default() }, Work::new(Batch::default()));
            work.next();
            let what = format!("{is_believed} {outcome:?}");
            let verdict = policy.judge(&mut work, batch("abc"), outcome);
            assert_eq!(verdict.taken.as_ref().map(letters).unwrap_or_default(), taken, "{what}");
            assert_eq!(verdict.lost.map(|(batch, _)| letters(&batch)).unwrap_or_default(), lost, "{what}");
            let suspected: String = work.suspects.iter().map(|(batch, _)| letters(batch)).collect();
            assert_eq!(suspected, suspects, "{what}");
            let next_is = match verdict.next {
                Next::Part => "part".to_owned(),
                Next::Again(batch, ..) => format!("again {}", letters(&batch)),
                other => format!("{other:?}"),
            };
            assert_eq!(next_is, next, "{what}");
            assert_eq!(policy.is_believed, is_believed || !taken.is_empty(), "{what}");
        }
    }

    #[test]
    fn a_record_that_is_refused_is_found_and_all_others_are_taken() {
        let all = "abcdeFghijKlmnopqrstuvwxyz";
        for policy in [&mut believed(), &mut Policy::default()] {
            let (taken, lost, _, is_doubted) = deliver(policy, all, whole);
            assert_eq!((taken.len(), is_doubted), (24, false));
            assert_eq!(lost, "FK");
        }
    }

    #[test]
    fn what_was_refused_before_a_sink_took_its_first_record_is_sent_once_more() {
        use std::cell::Cell;
        let asked = Cell::new(0);
        let mended = |batch: &Batch| {
            asked.set(asked.get() + 1);
            // it is set up rightly after it has refused some
            if asked.get() <= 5 || is_bad(batch) { Outcome::Refused(why()) } else { Outcome::Taken }
        };
        let (mut taken, lost, ..) = deliver(&mut Policy::default(), "abcdefgH", mended);
        taken = taken.chars().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
        assert_eq!((taken.as_str(), lost.as_str()), ("abcdefg", "H"));
    }

    #[test]
    fn a_sink_that_takes_nothing_costs_nothing_until_it_was_tried_for_a_minute() {
        type Answer = fn(&Batch) -> Outcome;
        let answers: [Answer; 4] = [
            |_| Outcome::Refused(why()),
            |batch| each(&"r".repeat(batch.documents.len())),
            |batch| Outcome::TakenBut(batch.documents.len() as u64, why()),
            |_| Outcome::Long(why()),
        ];
        for answer in answers {
            let (mut policy, all, mut told) = (Policy::default(), "x".repeat(1000), Vec::new());
            for _ in 0..VAIN_ATTEMPTS {
                let (taken, lost, requests, is_doubted) = deliver(&mut policy, &all, answer);
                assert_eq!((taken.len(), lost.len(), is_doubted), (0, 0, true));
                assert!(requests <= 2 * MOST_VAIN + 11, "{requests}");
                for _ in 0..100 {
                    assert!(!policy.waited(false), "the sidecar ends");
                }
                told.push(policy.waited(true));
            }
            assert_eq!(told.iter().position(|told| *told), Some(told.len() - 1));
            let (taken, lost, _, is_doubted) = deliver(&mut policy, &all, answer);
            assert_eq!((taken.len(), lost.len(), is_doubted), (0, 1000, false));
        }
    }

    /// Sends a batch until it is whole or the same records came back for long. Returns the reasons, and how often it was sent.
    fn insist(
        policy: &mut Policy,
        work: &mut Work,
        answer: impl Fn(usize) -> Outcome,
    ) -> (Vec<String>, usize) {
        let mut requests = 0;
        while let Some(part) = work.next() {
            requests += 1;
            assert!(requests < 1000, "it ends");
            if let Next::Again(batch, ..) = policy.judge(work, part, answer(requests)).next {
                work.again(batch);
                if let Some(reasons) = work.waited(true) {
                    return (reasons, requests);
                }
            }
        }
        (Vec::new(), requests)
    }

    #[test]
    fn records_that_come_back_for_long_are_given_up_if_others_are_taken() {
        let mut policy = Policy::default();
        let most = MOST_RETURNS as usize;
        let (reasons, requests) = insist(&mut policy, &mut Work::new(batch("abc")), |_| each("aaa"));
        assert_eq!((reasons, requests), (vec![why()], most));
        // nothing behind them was taken: the sink may be set up wrongly
        let (reasons, requests) = insist(&mut policy, &mut Work::new(batch("abc")), |_| each("aaa"));
        assert_eq!(requests, most);
        policy.takes_others(reasons);
        let again = |letter: &Batch| each(if is_bad(letter) { "a" } else { "t" });
        let (taken, lost, requests, is_doubted) = deliver(&mut policy, "B", again);
        assert_eq!((taken.as_str(), lost.as_str(), requests, is_doubted), ("", "B", 1, false));
        let other = |_| Outcome::Each(vec![Fate::Again("busy".to_owned())]);
        let (_, requests) = insist(&mut policy, &mut Work::new(batch("b")), other);
        assert_eq!(requests, most, "another reason");
    }

    #[test]
    fn a_sink_that_is_slow_or_down_gives_up_no_record() {
        let all = "x".repeat(400);
        let (reasons, requests) = insist(&mut believed(), &mut Work::new(batch(&all)), |nth| match nth {
            // of what is left it takes one at a time
            1..=399 => each(&format!("t{}", "a".repeat(400 - nth))),
            _ => Outcome::Taken,
        });
        assert_eq!((reasons.len(), requests), (0, 400));
        for outcome in [|| Outcome::Failed(why(), Duration::ZERO), || each("bb")] {
            let answer = |nth| if nth > 500 { Outcome::Taken } else { outcome() };
            let (reasons, requests) = insist(&mut believed(), &mut Work::new(batch("ab")), answer);
            assert_eq!((reasons.len(), requests), (0, 501));
        }
        let mut work = Work::new(batch("a"));
        for _ in 0..100 {
            believed().judge(&mut work, batch("a"), each("a"));
            assert_eq!(work.waited(false), None, "the sidecar ends");
        }
    }

    #[test]
    fn it_looks_further_ahead_each_time_up_to_a_bound() {
        let mut policy = Policy::default();
        let looks: Vec<usize> = (0..8).map(|_| policy.look_ahead()).collect();
        assert_eq!(looks, [64, 128, 256, 512, 1024, 2048, 4096, 4096]);
        policy.takes_others(Vec::new());
        assert_eq!(policy.look_ahead(), LEAST_AHEAD);
    }

    #[test]
    fn a_sink_that_was_mended_while_it_was_looked_ahead_costs_nothing_at_its_next_fault() {
        let mut policy = believed();
        policy.takes_others(vec![why()]);
        let sent = Outcome::Failed(why(), Duration::ZERO);
        policy.judge(&mut Work::new(Batch::default()), batch("a"), sent);
        assert_eq!(policy.on_trial, [why()], "it is not known yet");
        policy.judge(&mut Work::new(Batch::default()), batch("a"), Outcome::Taken);
        let verdict = policy.judge(&mut Work::new(Batch::default()), batch("a"), each("a"));
        assert!(verdict.lost.is_none() && matches!(verdict.next, Next::Again(..)));
    }

    #[test]
    fn the_reasons_for_which_records_are_given_up_have_a_bound() {
        let mut policy = believed();
        for nth in 0..100 {
            policy.takes_others(vec![nth.to_string()]);
            policy.decide(&Outcome::Each(vec![Fate::Again(nth.to_string())]));
        }
        assert_eq!(policy.given_up.len(), MOST_REASONS);
        assert_eq!(policy.given_up.back().map(String::as_str), Some("99"));
    }

    #[test]
    fn a_single_record_with_an_answer_that_is_too_long_stops_nothing() {
        let long = |batch: &Batch| if is_bad(batch) { Outcome::Long(why()) } else { Outcome::Taken };
        let (taken, lost, _, is_doubted) = deliver(&mut believed(), "aBc", long);
        assert_eq!((taken.as_str(), lost.as_str(), is_doubted), ("ac", "B", false));
    }

    #[test]
    fn a_batch_that_takes_too_long_is_sent_in_parts() {
        let slow = |part: &Batch| match part.documents.len() {
            1..=3 => Outcome::Taken,
            _ => Outcome::Slow(why()),
        };
        for policy in [&mut believed(), &mut Policy::default()] {
            let (taken, lost, requests, is_doubted) = deliver(policy, "abcdefghij", slow);
            assert_eq!((taken.as_str(), lost.as_str(), is_doubted), ("abcdefghij", "", false));
            assert_eq!(requests, 7);
        }
    }

    #[test]
    fn a_sink_that_refuses_all_is_down_also_if_each_batch_has_one_record() {
        let mut policy = believed();
        let mut next = |outcome| policy.judge(&mut Work::new(Batch::default()), batch("X"), outcome).next;
        for _ in 0..MOST_VAIN {
            assert!(matches!(next(Outcome::Refused(why())), Next::Part));
        }
        assert!(matches!(next(each("r")), Next::PartLater(_)));
        assert!(matches!(next(each("a")), Next::Again(..)));
        assert!(matches!(next(each("r")), Next::PartLater(_)));
        next(Outcome::TakenBut(0, String::new()));
        assert!(matches!(next(Outcome::Refused(why())), Next::Part));
    }

    #[test]
    fn a_hundred_thousand_refused_records_are_not_found_one_by_one() {
        let mut requests = 0;
        for _ in 0..20 {
            let (_, lost, of_batch, _) = deliver(&mut believed(), &"X".repeat(5000), whole);
            assert_eq!(lost.len(), 5000);
            requests += of_batch;
        }
        assert!(requests < 6500, "{requests}: two minutes at 50 a second");
        // a part of the next batch is divided again
        let mut policy = believed();
        deliver(&mut policy, &"X".repeat(5000), whole);
        let (taken, lost, ..) = deliver(&mut policy, "aXb", whole);
        assert_eq!((taken.as_str(), lost.as_str()), ("ab", "X"));
    }
}
