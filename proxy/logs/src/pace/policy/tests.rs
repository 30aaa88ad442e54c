//! Tables and stories of what a sink's answers mean for the records of a batch.

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
fn insist(policy: &mut Policy, work: &mut Work, answer: impl Fn(usize) -> Outcome) -> (Vec<String>, usize) {
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
    policy.takes_others(&mut Work::new(Batch::default()), reasons, Instant::now());
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
    policy.takes_others(&mut Work::new(Batch::default()), Vec::new(), Instant::now());
    assert_eq!(policy.look_ahead(), LEAST_AHEAD);
}

#[test]
fn a_sink_that_was_mended_while_it_was_looked_ahead_costs_nothing_at_its_next_fault() {
    let mut policy = believed();
    policy.takes_others(&mut Work::new(Batch::default()), vec![why()], Instant::now());
    let sent = Outcome::Failed(why(), Duration::ZERO);
    policy.judge(&mut Work::new(Batch::default()), batch("a"), sent);
    assert_eq!(policy.on_trial, [why()], "it is not known yet");
    policy.judge(&mut Work::new(Batch::default()), batch("a"), Outcome::Taken);
    let verdict = policy.judge(&mut Work::new(Batch::default()), batch("a"), each("a"));
    assert!(verdict.lost.is_none() && matches!(verdict.next, Next::Again(..)));
}

#[test]
fn records_are_given_up_for_an_hour_and_then_come_back_again() {
    let (mut policy, mut work, now) = (believed(), Work::new(Batch::default()), Instant::now());
    work.suspects.push((batch("s"), why()));
    policy.takes_others(&mut work, vec![why()], now);
    assert!(work.suspects.is_empty(), "what was refused before is sent once more");
    policy.expire(now + GIVEN_UP_FOR - Duration::from_secs(1));
    assert!(policy.judge(&mut work, batch("a"), each("a")).lost.is_some());
    policy.expire(now + GIVEN_UP_FOR);
    assert!(policy.judge(&mut work, batch("a"), each("a")).lost.is_none());
}

#[test]
fn the_reasons_for_which_records_are_given_up_have_a_bound() {
    let mut policy = believed();
    for nth in 0..100 {
        policy.takes_others(&mut Work::new(Batch::default()), vec![nth.to_string()], Instant::now());
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
