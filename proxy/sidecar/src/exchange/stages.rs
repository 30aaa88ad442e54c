//! The stages of an exchange that has ended: where its time went. A pure function of its facts.
//!
//! The stages follow one another and add up to the duration of the exchange. Of two attempts that are made beside each
//! other, the one that was given up has its stages until the other one begins; what it did afterwards takes no time,
//! and its `detail` says how long it went on. A stage `hedge` shows where the second one begins. What happened before the exchange began (the handshake with the client, and the
//! time until its first bytes showed what it speaks) takes no time of it: these stages have their times in `detail`.

use std::time::Duration;

use pillion_telemetry::timeline::{Stage, StageName, StageOutcome};
use tokio::time::Instant;

use super::Facts;
use super::attempts::{Attempt, AttemptOutcome};
use pillion_model::Reason;

/// What is known of an exchange besides its facts.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    pub started: Instant,
    pub ended: Instant,
    /// When the whole request had come. `None`: it has no body, or the body never ended.
    pub request_complete: Option<Instant>,
    /// The request has a body.
    pub has_body: bool,
    /// An opaque connection: what the client sends is no request.
    pub is_opaque: bool,
    /// How long the connection took until this exchange, its first one, began. `None` for later ones.
    pub first: Option<Opening>,
    /// From when to when the external authorizer was asked.
    pub authorizer: Option<(Instant, Option<Instant>)>,
    /// The first attempt was held up until then.
    pub delayed_until: Option<Instant>,
    pub status: u16,
    /// The text of `authorization`'s rule.
    pub rule: &'a str,
    /// The route's name; empty for a service's own route.
    pub route: &'a str,
    /// The service's name; empty if none was found.
    pub service: &'a str,
}

/// What a connection did before its first exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// How long the handshake with the client took; `None` without one.
    pub handshake: Option<Duration>,
    /// From the first wait for the client's bytes to the beginning of the exchange.
    pub detection: Duration,
}

/// The stages in the order in which they began.
pub fn stages(facts: &Facts, frame: &Frame<'_>) -> Vec<Stage> {
    let mut line = Line {
        frame: *frame,
        cursor: frame.started,
        until: None,
        beside: None,
        stages: Vec::with_capacity(8),
    };
    line.opening();
    line.decisions(facts);
    let mut queued_at = Vec::new();
    for (number, attempt) in (1..).zip(facts.attempts.all()) {
        let Some(queued) = line.frame.queued(attempt) else { continue }; // no endpoint was picked for it
        line.until = line.frame.given_up(attempt, facts);
        // one that another family's connection left was queued at the same time, and is no hedge
        let is_beside = line.is_under_way_at(queued) && !queued_at.contains(&queued);
        line.before(number, attempt, queued, is_beside);
        line.attempt(number, attempt, queued, facts.reason);
        line.beside = line.beside.or(line.until);
        queued_at.push(queued);
    }
    line.until = None;
    line.finish(facts, !queued_at.is_empty());
    line.stages.sort_by_key(|stage| stage.at);
    line.stages
}

impl Frame<'_> {
    /// From when on the time of an attempt that was given up belongs to a later one that was made beside it.
    fn given_up(&self, attempt: &Attempt, facts: &Facts) -> Option<Instant> {
        let (queued, ended) = (self.queued(attempt)?, attempt.ended.unwrap_or(self.ended));
        let is_beside = |later: &Instant| *later > queued && *later < ended;
        let later = facts.attempts.all().filter(|_| attempt.is_lost).filter_map(|other| self.queued(other));
        later.filter(is_beside).min()
    }

    /// When an attempt began to wait for a connection. The time of the first one is taken from the start of the exchange,
    /// to save a read of the clock, so what is known to have come before it is not in that time.
    pub(super) fn queued(&self, attempt: &Attempt) -> Option<Instant> {
        let before =
            self.authorizer.map(|(_, answered)| answered.unwrap_or(self.ended)).max(self.delayed_until);
        Some(attempt.queued?.max(before.unwrap_or(self.started)))
    }
}

struct Line<'a> {
    frame: Frame<'a>,
    /// Up to here the time is accounted for.
    cursor: Instant,
    /// From here on the time belongs to another attempt than the one that is added now.
    until: Option<Instant>,
    /// When an attempt began beside one that was given up.
    beside: Option<Instant>,
    stages: Vec<Stage>,
}

impl Line<'_> {
    /// Whether an attempt was under way then that had begun before.
    fn is_under_way_at(&self, queued: Instant) -> bool {
        queued < self.cursor || self.beside.is_some_and(|began| began == queued)
    }

    /// Adds a stage from `from` to `to`. The time up to `to` is then accounted for; what was accounted for before, or
    /// belongs to another attempt, is not counted again.
    fn push(&mut self, name: StageName, (from, to): (Instant, Instant), outcome: StageOutcome) -> &mut Stage {
        let to = to.max(from);
        let (begins, ends) = (from.max(self.cursor), self.until.map_or(to, |until| to.min(until)));
        let took = ends.saturating_duration_since(begins);
        let beside = (to - from).saturating_sub(took);
        let shown_at = if took.is_zero() { from } else { begins };
        self.cursor = self.cursor.max(ends);
        let detail = (!beside.is_zero()).then(|| format!("{beside:.1?} of it beside another attempt").into());
        let at = self.stages.len();
        self.stages.push(Stage {
            name,
            at: shown_at.saturating_duration_since(self.frame.started),
            took,
            attempt: 0,
            endpoint: None,
            outcome,
            detail,
        });
        &mut self.stages[at]
    }

    /// A stage that takes none of the exchange's time.
    fn mark(&mut self, name: StageName, at: Instant, outcome: StageOutcome) -> &mut Stage {
        self.push(name, (at, at), outcome)
    }

    fn opening(&mut self) {
        let Some(opening) = self.frame.first else { return };
        let started = self.frame.started;
        if let Some(took) = opening.handshake {
            let detail = format!("the handshake with the client took {took:.1?}, before this exchange began");
            self.mark(StageName::Tls, started, StageOutcome::Done).detail = Some(detail.into());
        }
        let waited = opening.detection;
        let detail =
            format!("the client's first bytes were awaited for {waited:.1?}, before this exchange began");
        self.mark(StageName::Detect, started, StageOutcome::Done).detail = Some(detail.into());
    }

    /// The stages before the first attempt.
    fn decisions(&mut self, facts: &Facts) {
        let first = facts.attempts.all().find_map(|attempt| self.frame.queued(attempt));
        let end = first.unwrap_or(self.frame.ended).max(self.frame.started);
        let denied =
            matches!(facts.reason, Some(Reason::AuthzDenied | Reason::JwtInvalid | Reason::AuthzUnavailable));
        let limited = facts.reason == Some(Reason::RateLimited);
        let outcome = match facts.reason {
            Some(reason) if first.is_none() && !denied && !limited => StageOutcome::Reason(reason),
            _ => StageOutcome::Done,
        };
        let (asked, answered) = self.frame.authorizer.unwrap_or((end, None));
        let (asked, answered) = (asked.min(end), answered.unwrap_or(end).min(end));
        let started = self.frame.started;
        let found = found(self.frame.route, self.frame.service, self.frame.delayed_until.is_some());
        self.push(StageName::Route, (started, asked), outcome).detail = found;
        if let Some(decided) = facts.authorization {
            let rule = self.frame.rule;
            let word = StageOutcome::Word(decided.decision.as_str());
            self.push(StageName::Authorize, (asked, answered), word).detail = some(rule);
        } else if denied || answered > asked {
            let outcome = facts.reason.filter(|_| denied).map_or(StageOutcome::Done, StageOutcome::Reason);
            self.push(StageName::Authorize, (asked, answered), outcome);
        }
        if limited {
            self.mark(StageName::RateLimit, answered, StageOutcome::Reason(Reason::RateLimited));
        }
        if answered < end {
            // after the authorizer's answer: headers, and the choice of an endpoint
            self.push(StageName::Route, (answered, end), StageOutcome::Done);
        }
    }

    /// The time between two attempts.
    fn before(&mut self, number: u32, attempt: &Attempt, queued: Instant, is_beside: bool) {
        if is_beside {
            self.mark(StageName::Hedge, queued, StageOutcome::Done).attempt = number;
        } else if queued > self.cursor {
            let stage = self.push(StageName::Backoff, (self.cursor, queued), StageOutcome::Done);
            (stage.attempt, stage.endpoint) = (number, attempt.endpoint);
        }
    }

    /// The stages of one attempt.
    fn attempt(&mut self, number: u32, attempt: &Attempt, queued: Instant, reason: Option<Reason>) {
        let before = self.stages.len();
        let over = attempt.ended.unwrap_or(self.frame.ended);
        let last = outcome(attempt, reason);
        match attempt.connected.filter(|connected| *connected <= over) {
            None => drop(self.push(waited_for(attempt, last), (queued, over), last)),
            Some(connected) => {
                let name = if attempt.is_reused { StageName::Queue } else { StageName::Connect };
                self.push(name, (queued, connected), StageOutcome::Done);
                self.exchanged(attempt, connected, over, last);
            }
        }
        for stage in self.stages.iter_mut().skip(before) {
            (stage.attempt, stage.endpoint) = (number, attempt.endpoint);
        }
    }

    /// What happened over the connection of an attempt, up to the first byte of its answer.
    fn exchanged(&mut self, attempt: &Attempt, connected: Instant, over: Instant, last: StageOutcome) {
        let Frame { has_body, request_complete, is_opaque, .. } = self.frame;
        let answered = match is_opaque {
            true => attempt.first_byte.unwrap_or(connected), // the rest of an opaque connection is its body
            false => attempt.first_byte.unwrap_or(over),
        };
        let head = attempt.sent.unwrap_or(connected).clamp(connected, answered);
        let sent = match (has_body && !is_opaque, request_complete) {
            (false, _) => head,
            (true, Some(complete)) => complete.clamp(head, answered),
            (true, None) => answered,
        };
        if !is_opaque {
            self.push(StageName::Send, (connected, sent), StageOutcome::Done);
        }
        let from = if is_opaque { connected } else { sent };
        if attempt.first_byte.is_some() || !is_opaque {
            let outcome = if is_opaque { StageOutcome::Done } else { last };
            self.push(StageName::FirstByte, (from, answered), outcome);
        }
    }

    fn finish(&mut self, facts: &Facts, was_tried: bool) {
        let ended = self.frame.ended.max(self.cursor);
        let outcome = facts.reason.map_or(StageOutcome::Done, StageOutcome::Reason);
        if was_tried {
            self.push(StageName::Body, (self.cursor, ended), outcome);
        }
        let outcome = match (facts.reason, self.frame.status) {
            (Some(reason), _) => StageOutcome::Reason(reason),
            (None, 0) => StageOutcome::Done,
            (None, status) => StageOutcome::Status(status),
        };
        self.mark(StageName::End, ended, outcome).detail = facts.detail.clone();
    }
}

/// Which route and service were found.
fn found(route: &str, service: &str, is_delayed: bool) -> Option<Box<str>> {
    let delay = if is_delayed { ", held up by its fault.delay" } else { "" };
    match (route, service) {
        (_, "") => None,
        ("", service) => Some(format!("service {service}{delay}").into()),
        (route, service) => Some(format!("route {route} to service {service}{delay}").into()),
    }
}

fn some(text: &str) -> Option<Box<str>> {
    (!text.is_empty()).then(|| text.into())
}

/// What an attempt that never had a connection waited for.
const fn waited_for(attempt: &Attempt, last: StageOutcome) -> StageName {
    match last {
        StageOutcome::Reason(Reason::LimitPending | Reason::Overloaded | Reason::LimitRequests) => {
            StageName::Queue
        }
        _ if attempt.is_reused => StageName::Queue,
        _ => StageName::Connect,
    }
}

/// How an attempt ended. One that was under way to the end ended with the exchange.
pub(super) fn outcome(attempt: &Attempt, reason: Option<Reason>) -> StageOutcome {
    match attempt.outcome {
        Some(AttemptOutcome::Answered(status) | AttemptOutcome::Refused(status)) => {
            StageOutcome::Status(status)
        }
        Some(AttemptOutcome::Closed) => StageOutcome::Word("closed"),
        Some(AttemptOutcome::Outrun) => StageOutcome::Word("outrun"),
        Some(AttemptOutcome::Failed(reason) | AttemptOutcome::Expired(reason)) => {
            StageOutcome::Reason(reason)
        }
        None => reason.map_or(StageOutcome::Done, StageOutcome::Reason),
    }
}

/// The frame of an exchange without a body that took so long.
#[cfg(test)]
pub(super) fn frame(now: Instant, millis: u64) -> Frame<'static> {
    Frame {
        started: now,
        ended: now + Duration::from_millis(millis),
        request_complete: None,
        has_body: false,
        is_opaque: false,
        first: None,
        authorizer: None,
        delayed_until: None,
        status: 200,
        rule: "",
        route: "",
        service: "",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use pillion_telemetry::Decision;

    use super::*;
    use crate::exchange::attempts::{AttemptId, Attempts};

    /// An attempt, in milliseconds after the start: queued, connected, first byte or end.
    fn attempt(
        attempts: &mut Attempts,
        now: Instant,
        (queued, connected, ended): (u64, Option<u64>, u64),
        outcome: AttemptOutcome,
    ) -> AttemptId {
        let at = |millis| now + Duration::from_millis(millis);
        let id = attempts.begin();
        attempts.pick(id, ([10, 0, 0, 1], 80).into(), at(queued));
        attempts.note(id, |attempt| {
            (attempt.connected, attempt.sent) = (connected.map(at), connected.map(at));
            if matches!(outcome, AttemptOutcome::Answered(_)) {
                attempt.first_byte = Some(at(ended));
            }
        });
        attempts.end(id, outcome, at(ended));
        id
    }

    /// Name, beginning and length of each stage, in milliseconds.
    fn told(stages: &[Stage]) -> Vec<(&'static str, u128, u128)> {
        stages
            .iter()
            .map(|stage| (stage.name.as_str(), stage.at.as_millis(), stage.took.as_millis()))
            .collect()
    }

    #[test]
    fn a_retried_request_shows_both_attempts_and_the_pause_between_them() {
        let now = Instant::now();
        let mut facts = Facts::default();
        attempt(&mut facts.attempts, now, (1, None, 3), AttemptOutcome::Failed(Reason::ConnectRefused));
        attempt(&mut facts.attempts, now, (28, Some(30), 50), AttemptOutcome::Answered(200));
        let stages = stages(&facts, &frame(now, 60));
        let expected = [
            ("route", 0, 1),
            ("connect", 1, 2),
            ("backoff", 3, 25),
            ("connect", 28, 2),
            ("send", 30, 0),
            ("first_byte", 30, 20),
            ("body", 50, 10),
            ("end", 60, 0),
        ];
        assert_eq!(told(&stages), expected);
        assert_eq!(stages[1].outcome, StageOutcome::Reason(Reason::ConnectRefused));
        assert_eq!((stages[5].attempt, stages[5].outcome), (2, StageOutcome::Status(200)));
    }

    #[test]
    fn a_request_that_was_refused_before_any_attempt_shows_what_refused_it() {
        let now = Instant::now();
        for (reason, names) in [
            (Reason::NoRoute, &["route", "end"][..]),
            (Reason::RateLimited, &["route", "rate_limit", "end"]),
            (Reason::JwtInvalid, &["route", "authorize", "end"]),
        ] {
            let facts = Facts { reason: Some(reason), ..Facts::default() };
            let stages = stages(&facts, &frame(now, 2));
            let seen: Vec<&str> = stages.iter().map(|stage| stage.name.as_str()).collect();
            assert_eq!(seen, names);
            let by = stages.iter().find(|stage| stage.outcome == StageOutcome::Reason(reason));
            assert_eq!(by.map(|stage| stage.name.as_str()), Some(names[names.len() - 2]));
        }
    }

    #[test]
    fn the_body_of_a_request_belongs_to_its_sending_and_the_authorizer_has_a_stage() {
        let now = Instant::now();
        let at = |millis| now + Duration::from_millis(millis);
        let mut facts = Facts::default();
        attempt(&mut facts.attempts, now, (10, Some(12), 50), AttemptOutcome::Answered(200));
        let authorization =
            super::super::Decided { decision: Decision::Allowed, rule: pillion_telemetry::Symbol::EMPTY };
        facts.authorization = Some(authorization);
        let frame = Frame {
            has_body: true,
            request_complete: Some(at(40)),
            authorizer: Some((at(1), Some(at(9)))),
            rule: "readers",
            ..frame(now, 60)
        };
        let expected = [
            ("route", 0, 1),
            ("authorize", 1, 8),
            ("route", 9, 1),
            ("connect", 10, 2),
            ("send", 12, 28),
            ("first_byte", 40, 10),
            ("body", 50, 10),
            ("end", 60, 0),
        ];
        let stages = stages(&facts, &frame);
        assert_eq!(told(&stages), expected);
        assert_eq!(stages[1].detail.as_deref(), Some("readers"));
    }

    #[test]
    fn of_two_attempts_beside_each_other_the_time_belongs_to_the_first_and_then_to_the_one_that_was_answered()
    {
        let now = Instant::now();
        let mut facts = Facts::default();
        let slow = attempt(&mut facts.attempts, now, (0, Some(1), 40), AttemptOutcome::Outrun);
        attempt(&mut facts.attempts, now, (20, Some(21), 40), AttemptOutcome::Answered(200));
        facts.attempts.lose(slow, now + Duration::from_millis(40));
        let stages = stages(&facts, &frame(now, 50));
        let expected = [
            ("route", 0, 0),
            ("connect", 0, 1),
            ("send", 1, 0),
            ("first_byte", 1, 19),
            ("hedge", 20, 0),
            ("connect", 20, 1),
            ("send", 21, 0),
            ("first_byte", 21, 19),
            ("body", 40, 10),
            ("end", 50, 0),
        ];
        assert_eq!(told(&stages), expected);
        assert_eq!((stages[3].outcome, stages[4].attempt), (StageOutcome::Word("outrun"), 2));
        assert_eq!(stages[3].detail.as_deref(), Some("20.0ms of it beside another attempt"));
    }

    #[test]
    fn a_second_attempt_that_was_outrun_takes_no_time() {
        let now = Instant::now();
        let mut facts = Facts::default();
        attempt(&mut facts.attempts, now, (0, Some(1), 40), AttemptOutcome::Answered(200));
        let quick = attempt(&mut facts.attempts, now, (20, Some(21), 40), AttemptOutcome::Outrun);
        facts.attempts.lose(quick, now + Duration::from_millis(40));
        let stages = stages(&facts, &frame(now, 50));
        let expected = [
            ("route", 0, 0),
            ("connect", 0, 1),
            ("send", 1, 0),
            ("first_byte", 1, 39),
            ("hedge", 20, 0),
            ("connect", 20, 0),
            ("send", 21, 0),
            ("first_byte", 21, 0),
            ("body", 40, 10),
            ("end", 50, 0),
        ];
        assert_eq!(told(&stages), expected);
    }

    #[test]
    fn an_endpoint_that_another_family_outran_takes_no_time_of_its_own() {
        let now = Instant::now();
        let at = |millis| now + Duration::from_millis(millis);
        let mut facts = Facts { attempts: Attempts::begun(), ..Facts::default() };
        facts.attempts.pick(AttemptId::FIRST, ([10, 0, 0, 1], 80).into(), at(0));
        let left = AttemptOutcome::Failed(Reason::ConnectTimeout);
        facts.attempts.moved(AttemptId::FIRST, ([10, 0, 0, 2], 80).into(), left, at(250));
        facts.attempts.note(AttemptId::FIRST, |attempt| {
            (attempt.connected, attempt.sent, attempt.first_byte) =
                (Some(at(250)), Some(at(250)), Some(at(260)));
        });
        facts.attempts.end(AttemptId::FIRST, AttemptOutcome::Answered(200), at(260));
        let stages = stages(&facts, &frame(now, 260));
        let seen: Vec<_> = told(&stages).into_iter().filter(|(name, ..)| *name != "hedge").collect();
        let expected = [
            ("route", 0, 0),
            ("connect", 0, 250),
            ("connect", 0, 0),
            ("send", 250, 0),
            ("first_byte", 250, 10),
            ("body", 260, 0),
            ("end", 260, 0),
        ];
        assert_eq!(
            (seen.len(), stages.len()),
            (expected.len(), expected.len()),
            "no hedge: {:?}",
            told(&stages)
        );
        assert_eq!(seen, expected);
    }

    #[test]
    fn an_opaque_connection_is_a_body_after_the_first_byte_of_its_server() {
        let now = Instant::now();
        let at = |millis| now + Duration::from_millis(millis);
        let mut facts = Facts::default();
        let id = attempt(&mut facts.attempts, now, (0, Some(2), 90), AttemptOutcome::Closed);
        facts.attempts.note(id, |attempt| (attempt.sent, attempt.first_byte) = (Some(at(30)), Some(at(5))));
        let opening =
            Opening { handshake: Some(Duration::from_millis(3)), detection: Duration::from_millis(1) };
        let frame = Frame { is_opaque: true, status: 0, first: Some(opening), ..frame(now, 90) };
        let stages = stages(&facts, &frame);
        let expected = [
            ("tls", 0, 0),
            ("detect", 0, 0),
            ("route", 0, 0),
            ("connect", 0, 2),
            ("first_byte", 2, 3),
            ("body", 5, 85),
            ("end", 90, 0),
        ];
        assert_eq!(told(&stages), expected);
        let detail = stages[0].detail.as_deref().unwrap_or_default();
        assert_eq!(detail, "the handshake with the client took 3.0ms, before this exchange began");
    }

    proptest! {
        /// Attempts in any order, also beside each other, leave no time out and count none twice.
        #[test]
        fn the_stages_of_attempts_beside_each_other_add_up_too(
            all in prop::collection::vec((0..90_u64, 0..40_u64, 0..40_u64, any::<bool>()), 0..5),
            rest in 0..50_u64,
        ) {
            let now = Instant::now();
            let mut facts = Facts::default();
            let mut all = all;
            all.sort_by_key(|(queued, ..)| *queued);
            let last = all.iter().map(|(queued, connect, answer, _)| queued + connect + answer).max().unwrap_or(0);
            for (queued, connect, answer, is_lost) in all {
                let connected = queued + connect;
                let ended = connected + answer;
                let outcome = if is_lost { AttemptOutcome::Outrun } else { AttemptOutcome::Answered(200) };
                let id = attempt(&mut facts.attempts, now, (queued, Some(connected), ended), outcome);
                if is_lost {
                    facts.attempts.lose(id, now + Duration::from_millis(ended));
                }
            }
            let frame = frame(now, last + rest);
            let stages = stages(&facts, &frame);
            let sum: Duration = stages.iter().map(|stage| stage.took).sum();
            prop_assert_eq!(sum, frame.ended - frame.started, "{:?}", told(&stages));
            prop_assert!(stages.is_sorted_by_key(|stage| stage.at));
        }

        /// Attempts that follow one another leave no time out and count none twice.
        #[test]
        fn the_stages_of_an_exchange_add_up_to_its_duration(
            gaps in prop::collection::vec((0..50_u64, 0..50_u64, 0..50_u64, any::<bool>(), any::<bool>()), 0..6),
            (upload, rest, authorizer) in (0..200_u64, 0..50_u64, prop::option::of((0..60_u64, 0..60_u64))),
            has_body in any::<bool>(),
        ) {
            let now = Instant::now();
            let (mut facts, mut at) = (Facts::default(), authorizer.map_or(0, |(asked, took)| asked + took));
            for (pause, connect, answer, connects, answers) in gaps {
                let queued = at + pause;
                let connected = queued + connect;
                at = connected + answer;
                let outcome = match answers && connects {
                    true => AttemptOutcome::Answered(503),
                    false => AttemptOutcome::Failed(Reason::UpstreamReset),
                };
                attempt(&mut facts.attempts, now, (queued, connects.then_some(connected), at), outcome);
            }
            let millis = |millis| now + Duration::from_millis(millis);
            let frame = Frame {
                has_body,
                request_complete: has_body.then(|| millis(upload)),
                authorizer: authorizer.map(|(asked, took)| (millis(asked), Some(millis(asked + took)))),
                ..frame(now, at + rest)
            };
            let stages = stages(&facts, &frame);
            let sum: Duration = stages.iter().map(|stage| stage.took).sum();
            prop_assert_eq!(sum, frame.ended - frame.started, "{:?}", told(&stages));
            prop_assert!(stages.is_sorted_by_key(|stage| stage.at));
        }
    }
}
