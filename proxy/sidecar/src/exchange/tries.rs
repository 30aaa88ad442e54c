//! The attempts of a traced exchange that has ended, as its spans need them. A pure function of its facts.

use pillion_model::Reason;
use tokio::time::Instant;

use super::Facts;
use super::attempts::{Attempt, AttemptOutcome};
use super::stages::{Frame, outcome};
use crate::traces::Try;

/// The attempts for which an endpoint was picked, in the order in which they began.
pub(super) fn tries(facts: &Facts, frame: &Frame<'_>) -> Vec<Try> {
    let last = facts.attempts.last_picked();
    let tries = (1..).zip(facts.attempts.with_ids()).filter_map(|(stage, (id, attempt))| {
        let began = frame.queued(attempt)?;
        let is_last = last.is_some_and(|last| std::ptr::eq(last, attempt));
        let ended = ended(attempt, is_last, frame);
        Some(Try {
            number: id.number(),
            stage,
            endpoint: attempt.endpoint?,
            at: began.saturating_duration_since(frame.started),
            took: ended.saturating_duration_since(began),
            outcome: outcome(attempt, facts.reason),
            cut: cut(attempt, facts.reason).filter(|_| is_last),
            grpc_status: attempt.grpc_status,
            is_sent: attempt.sent.is_some(),
            is_lost: attempt.is_lost,
            is_last,
        })
    });
    tries.collect()
}

/// When an attempt ended. The body of the answer belongs to the attempt whose answer the client got.
fn ended(attempt: &Attempt, is_last: bool, frame: &Frame<'_>) -> Instant {
    match attempt.outcome {
        Some(AttemptOutcome::Answered(_)) if is_last => frame.ended,
        _ => attempt.ended.unwrap_or(frame.ended),
    }
}

/// Why the answer of an attempt broke off. A client that went away, or whose request was at fault, breaks off no answer.
const fn cut(attempt: &Attempt, reason: Option<Reason>) -> Option<Reason> {
    use Reason::{MaxDuration, ProtocolError, StreamIdleTimeout, TlsError, UpstreamClosed, UpstreamReset};
    let (Some(AttemptOutcome::Answered(_)), Some(reason)) = (attempt.outcome, reason) else { return None };
    match reason {
        UpstreamReset | UpstreamClosed | ProtocolError | TlsError | StreamIdleTimeout | MaxDuration => {
            Some(reason)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pillion_telemetry::timeline::StageOutcome;

    use super::super::attempts::{AttemptId, Attempts};
    use super::super::stages::frame;
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn begun(attempts: &mut Attempts, id: AttemptId, at: Instant) -> AttemptId {
        attempts.pick(id, ([10, 0, 0, 1], 80).into(), at);
        id
    }

    #[test]
    fn the_body_belongs_to_the_attempt_that_was_answered_and_others_end_by_themselves() {
        let now = Instant::now();
        let mut facts = Facts { attempts: Attempts::begun(), ..Facts::default() };
        let attempts = &mut facts.attempts;
        begun(attempts, AttemptId::FIRST, now);
        attempts.end(AttemptId::FIRST, AttemptOutcome::Answered(503), now + millis(10));
        let slow = attempts.begin();
        begun(attempts, slow, now + millis(30));
        let quick = attempts.begin();
        begun(attempts, quick, now + millis(50));
        attempts.end(quick, AttemptOutcome::Answered(200), now + millis(60));
        attempts.lose(slow, now + millis(60));
        attempts.begin(); // no endpoint was picked for it
        let told: Vec<_> = tries(&facts, &frame(now, 100))
            .iter()
            .map(|of| (of.number, of.stage, of.at, of.took, of.outcome))
            .collect();
        let expected = [
            (0, 1, millis(0), millis(10), StageOutcome::Status(503)),
            (1, 2, millis(30), millis(30), StageOutcome::Word("outrun")),
            (2, 3, millis(50), millis(50), StageOutcome::Status(200)),
        ];
        assert_eq!(told, expected);
    }

    /// Whether each attempt is the last one, by its number.
    fn last(facts: &Facts, now: Instant) -> Vec<(u32, bool)> {
        tries(facts, &frame(now, 100)).iter().map(|of| (of.number, of.is_last)).collect()
    }

    #[test]
    fn the_last_attempt_is_the_one_whose_answer_the_client_got() {
        let now = Instant::now();
        let mut facts = Facts { attempts: Attempts::begun(), ..Facts::default() };
        begun(&mut facts.attempts, AttemptId::FIRST, now);
        let hedge = facts.attempts.begin();
        begun(&mut facts.attempts, hedge, now + millis(10));
        // a call of gRPC may be answered 200 and have failed, so that the other attempt goes on
        facts.attempts.end(hedge, AttemptOutcome::Answered(200), now + millis(20));
        facts.attempts.end(AttemptId::FIRST, AttemptOutcome::Answered(200), now + millis(30));
        facts.attempts.lose(hedge, now + millis(30));
        assert_eq!(last(&facts, now), [(0, true), (1, false)]);

        let mut facts = Facts { attempts: Attempts::begun(), ..Facts::default() };
        begun(&mut facts.attempts, AttemptId::FIRST, now);
        let left = AttemptOutcome::Failed(Reason::ConnectTimeout);
        facts.attempts.moved(AttemptId::FIRST, ([10, 0, 0, 2], 80).into(), left, now + millis(10));
        facts.attempts.end(AttemptId::FIRST, AttemptOutcome::Answered(200), now + millis(20));
        assert_eq!(last(&facts, now), [(0, true), (1, false)], "the endpoint that was left comes after");
    }

    #[test]
    fn an_answer_is_cut_by_its_server_and_not_by_the_client() {
        let now = Instant::now();
        for (reason, expected) in [
            (None, None),
            (Some(Reason::UpstreamReset), Some(Reason::UpstreamReset)),
            (Some(Reason::StreamIdleTimeout), Some(Reason::StreamIdleTimeout)),
            (Some(Reason::ClientGone), None),
            (Some(Reason::BodyTooLarge), None),
        ] {
            let mut facts = Facts { attempts: Attempts::begun(), reason, ..Facts::default() };
            for status in [503, 200] {
                let id = if status == 503 { AttemptId::FIRST } else { facts.attempts.begin() };
                begun(&mut facts.attempts, id, now);
                facts.attempts.end(id, AttemptOutcome::Answered(status), now);
            }
            let told = tries(&facts, &frame(now, 100));
            assert_eq!((told[0].cut, told[1].cut), (None, expected), "{reason:?}");
            assert_eq!(told[1].outcome, StageOutcome::Status(200));
        }
    }

    #[test]
    fn an_attempt_that_is_under_way_ends_with_the_exchange_and_its_reason() {
        let now = Instant::now();
        let mut facts =
            Facts { attempts: Attempts::begun(), reason: Some(Reason::ClientGone), ..Facts::default() };
        begun(&mut facts.attempts, AttemptId::FIRST, now + millis(1));
        let told = tries(&facts, &frame(now, 100));
        assert_eq!(told[0].took, millis(99));
        assert_eq!(told[0].outcome, StageOutcome::Reason(Reason::ClientGone));
    }

    #[test]
    fn the_last_place_of_a_long_list_has_the_number_of_the_latest_attempt() {
        let now = Instant::now();
        let mut facts = Facts { attempts: Attempts::begun(), ..Facts::default() };
        begun(&mut facts.attempts, AttemptId::FIRST, now);
        for _ in 0..40 {
            let id = facts.attempts.begin();
            begun(&mut facts.attempts, id, now);
        }
        let numbers: Vec<u32> = tries(&facts, &frame(now, 100)).iter().map(|of| of.number).collect();
        assert_eq!((numbers.len(), numbers[14], numbers[15]), (16, 14, 40));
    }
}
