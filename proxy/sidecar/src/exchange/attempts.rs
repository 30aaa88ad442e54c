//! The attempts of one exchange: where each went, how far it came and when, and how it ended.
//!
//! A request has an attempt for every time that it is sent: the first time, retries, and replacements. An opaque
//! connection has an attempt for every time that a server is dialled for it. A try is an attempt that counts: a
//! replacement of an attempt that no endpoint has processed belongs to the same try. A retry is a try after the first;
//! `retry.attempts` limits the retries.
//!
//! Metrics, the access log, timelines and spans read this one list. Several attempts may be under way
//! at once, so each has an [`AttemptId`].

use std::net::SocketAddr;
use std::time::Duration;

use pillion_model::Reason;
use pillion_telemetry::Flow;
use tokio::time::Instant;

/// 16: how many attempts of one exchange are remembered, so that the list cannot grow without bound. `retry.attempts`
/// and the replacements together stay far below it. Beyond it, each new attempt replaces the last one in the list.
const MOST: usize = 16;

/// Names one attempt of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptId(u32);

impl AttemptId {
    /// The attempt that every exchange begins with.
    pub const FIRST: Self = Self(0);

    /// The number of the attempt, from 0.
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// One attempt. Each time is `None` until the event has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The endpoint that was picked.
    pub endpoint: Option<SocketAddr>,
    /// When it began to wait for a connection.
    pub queued: Option<Instant>,
    /// When it had a connection: a pooled one, or one that was made for it.
    pub connected: Option<Instant>,
    /// When its head, or the client's first bytes, were handed to the connection.
    pub sent: Option<Instant>,
    /// When the head of its answer, or the server's first byte, had come.
    pub first_byte: Option<Instant>,
    /// When its outcome was known: for a request, when the answer's head had come; for opaque bytes, after the last
    /// byte.
    pub ended: Option<Instant>,
    /// `None` while it is under way.
    pub outcome: Option<AttemptOutcome>,
    /// The status of gRPC in the head of its answer, which then has no message.
    pub grpc_status: Option<u8>,
    /// Whether another attempt, made beside it, gave the answer.
    pub is_lost: bool,
    /// Its connection had carried an exchange before.
    pub is_reused: bool,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The endpoint answered with this status.
    Answered(u16),
    /// Opaque bytes were carried until both sides had ended.
    Closed,
    /// A sidecar at the endpoint refused the request before it forwarded it.
    Refused(u16),
    Failed(Reason),
    /// It was ended because another attempt, made beside it, was answered first.
    Outrun,
    /// A timeout of the sidecar ended it. The endpoint caused it, unless the client stalled.
    Expired(Reason),
}

/// All attempts of an exchange, in the order in which they began. The first one is stored without a heap allocation.
#[derive(Debug, Default)]
pub struct Attempts {
    first: Option<Attempt>,
    more: Vec<Attempt>,
    total: u32,
    picked: u32,
}

impl Attempt {
    const NEW: Self = Self {
        endpoint: None,
        queued: None,
        connected: None,
        sent: None,
        first_byte: None,
        ended: None,
        outcome: None,
        grpc_status: None,
        is_lost: false,
        is_reused: false,
    };

    /// How long the endpoint took to its first byte: counted from the first byte that was sent to it or, where the
    /// endpoint spoke first, from the connect.
    pub fn took(&self) -> Option<Duration> {
        let first_byte = self.first_byte?;
        let since = self.sent.filter(|sent| *sent <= first_byte).or(self.connected)?;
        Some(first_byte.saturating_duration_since(since))
    }

    /// One that has ended already stays as it is.
    pub const fn end(&mut self, outcome: AttemptOutcome, now: Instant) {
        if self.outcome.is_none() {
            (self.ended, self.outcome) = (Some(now), Some(outcome));
        }
    }

    /// Notes that opaque bytes move in this direction.
    pub fn carries(&mut self, flow: Flow, now: impl FnOnce() -> Instant) {
        let first = match flow {
            Flow::Received => &mut self.sent,
            Flow::Sent => &mut self.first_byte,
        };
        first.get_or_insert_with(now);
    }
}

impl Attempts {
    /// A list in which the first attempt, [`AttemptId::FIRST`], has begun.
    pub const fn begun() -> Self {
        Self { first: Some(Attempt::NEW), more: Vec::new(), total: 1, picked: 0 }
    }

    /// Begins another attempt.
    pub fn begin(&mut self) -> AttemptId {
        let id = AttemptId(self.total);
        self.total = self.total.saturating_add(1);
        if self.first.is_none() {
            self.first = Some(Attempt::NEW);
        } else if self.more.len() < MOST - 1 {
            self.more.push(Attempt::NEW);
        } else if let Some(last) = self.more.last_mut() {
            *last = Attempt::NEW;
        }
        id
    }

    /// The attempt with this id; `None` when a later one has replaced it.
    pub fn find(&self, id: AttemptId) -> Option<&Attempt> {
        match self.place(id)? {
            0 => self.first.as_ref(),
            place => self.more.get(place - 1),
        }
    }

    /// Adds attempts that were made beside these. Returns the id of the last of them, if it is still in the list.
    pub fn append(&mut self, others: Self) -> AttemptId {
        let mut last = AttemptId(self.total.saturating_sub(1));
        for other in others.first.into_iter().chain(others.more) {
            last = self.begin();
            self.note(last, |attempt| *attempt = other);
        }
        self.picked = self.picked.saturating_add(others.picked);
        last
    }

    /// Notes the endpoint that was picked for an attempt. The attempt now waits for a connection to it.
    pub fn pick(&mut self, id: AttemptId, endpoint: SocketAddr, now: Instant) {
        self.picked = self.picked.saturating_add(1);
        self.note(id, |attempt| (attempt.endpoint, attempt.queued) = (Some(endpoint), Some(now)));
    }

    /// The attempt goes on at another endpoint, because the one that was picked for it has not connected. What was done
    /// there is now an attempt of its own, with this outcome.
    pub fn moved(&mut self, id: AttemptId, endpoint: SocketAddr, left: AttemptOutcome, now: Instant) {
        let has_room = (self.total as usize) < MOST;
        if let Some(mut before) = self.find(id).filter(|_| has_room).cloned() {
            before.end(left, now);
            before.is_lost = true;
            let other = self.begin();
            self.note(other, |attempt| *attempt = before);
        }
        self.picked = self.picked.saturating_add(1);
        self.note(id, |attempt| attempt.endpoint = Some(endpoint));
    }

    /// Changes the attempt with this id, if it is still in the list.
    pub fn note(&mut self, id: AttemptId, what: impl FnOnce(&mut Attempt)) {
        let attempt = match self.place(id) {
            None => None,
            Some(0) => self.first.as_mut(),
            Some(place) => self.more.get_mut(place - 1),
        };
        if let Some(attempt) = attempt {
            what(attempt);
        }
    }

    /// Ends an attempt. An attempt that has already ended is not changed.
    pub fn end(&mut self, id: AttemptId, outcome: AttemptOutcome, now: Instant) {
        self.note(id, |attempt| attempt.end(outcome, now));
    }

    /// Ends every attempt that is under way, because the timeout of the whole request has expired.
    pub fn expire_all(&mut self, reason: Reason, now: Instant) {
        for attempt in self.first.iter_mut().chain(&mut self.more).filter(|attempt| attempt.outcome.is_none())
        {
            (attempt.ended, attempt.outcome) = (Some(now), Some(AttemptOutcome::Expired(reason)));
        }
    }

    /// Notes that another attempt, made beside this one, gave the answer. An attempt that is under way ends by it.
    pub fn lose(&mut self, id: AttemptId, now: Instant) {
        self.note(id, |attempt| {
            attempt.is_lost = true;
            attempt.end(AttemptOutcome::Outrun, now);
        });
    }

    /// The latest attempt for which an endpoint was picked, and that no other outran: the one that the access line shows.
    pub fn last_picked(&self) -> Option<&Attempt> {
        self.more
            .iter()
            .rev()
            .chain(&self.first)
            .find(|attempt| attempt.endpoint.is_some() && !attempt.is_lost)
    }

    /// How long the upstream took for the answer. Where the answer is that of a second attempt beside a slow first one,
    /// the time begins with the first.
    pub fn upstream_time(&self) -> Option<Duration> {
        let answered = self.last_picked()?;
        let is_beside = |first: &&Attempt| first.is_lost && answered.queued < first.ended;
        match self.first.as_ref().filter(is_beside) {
            Some(first) => Some(answered.first_byte?.saturating_duration_since(first.sent?)),
            None => answered.took(),
        }
    }

    /// The attempts with their ids.
    pub fn with_ids(&self) -> impl Iterator<Item = (AttemptId, &Attempt)> {
        let id = |place: u32| if place + 1 < MOST as u32 { place } else { self.total.saturating_sub(1) };
        (0..).zip(self.all()).map(move |(place, attempt)| (AttemptId(id(place)), attempt))
    }

    pub fn all(&self) -> impl Iterator<Item = &Attempt> {
        self.first.iter().chain(&self.more)
    }

    /// When the first attempt began to wait for a connection.
    pub fn began(&self) -> Option<Instant> {
        self.first.as_ref()?.queued
    }

    /// How many attempts there were, including those that are no longer remembered. An attempt that found no endpoint
    /// is not counted.
    pub const fn made(&self) -> u32 {
        self.picked
    }

    /// The place of an attempt in the list. The last place belongs to the latest attempt alone.
    fn place(&self, id: AttemptId) -> Option<usize> {
        let (place, last) = (id.0 as usize, MOST - 1);
        match place < last {
            true => Some(place),
            false => (id.0 + 1 == self.total).then_some(last),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_stand_in_the_order_in_which_they_began() {
        let mut attempts = Attempts::default();
        let now = Instant::now();
        let ids: Vec<AttemptId> = (0..3).map(|_| attempts.begin()).collect();
        for (port, id) in (1..).zip(&ids) {
            attempts.pick(*id, ([10, 0, 0, 1], port).into(), now);
        }
        attempts.end(ids[1], AttemptOutcome::Failed(Reason::UpstreamReset), now);
        let port = |id: &AttemptId| attempts.find(*id).and_then(|attempt| Some(attempt.endpoint?.port()));
        let ports: Vec<u16> = ids.iter().filter_map(port).collect();
        assert_eq!((ports, attempts.made()), (vec![1, 2, 3], 3));
        assert_eq!(
            attempts.find(ids[1]).unwrap().outcome,
            Some(AttemptOutcome::Failed(Reason::UpstreamReset))
        );
        assert_eq!(attempts.find(ids[2]).unwrap().outcome, None);
        assert_eq!(attempts.last_picked().unwrap().endpoint.unwrap().port(), 3);
    }

    #[test]
    fn a_timeout_of_one_attempt_leaves_the_others_alone() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let (first, hedge) = (attempts.begin(), attempts.begin());
        attempts.end(first, AttemptOutcome::Expired(Reason::PerTryTimeout), now);
        assert_eq!(attempts.find(hedge).unwrap().outcome, None);
        attempts.expire_all(Reason::RequestTimeout, now);
        assert_eq!(
            attempts.find(first).unwrap().outcome,
            Some(AttemptOutcome::Expired(Reason::PerTryTimeout))
        );
        assert_eq!(
            attempts.find(hedge).unwrap().outcome,
            Some(AttemptOutcome::Expired(Reason::RequestTimeout))
        );
    }

    #[test]
    fn an_endpoint_is_timed_from_what_it_was_sent_or_from_its_connection_where_it_speaks_first() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let took = |flows: &[(Flow, u64)]| {
            let mut attempt = Attempt { connected: Some(now), ..Attempt::NEW };
            flows.iter().for_each(|(flow, seconds)| attempt.carries(*flow, || at(*seconds)));
            attempt.took().map(|took| took.as_secs())
        };
        assert_eq!(took(&[]), None);
        assert_eq!(took(&[(Flow::Received, 1)]), None);
        assert_eq!(took(&[(Flow::Received, 3), (Flow::Sent, 5), (Flow::Sent, 9)]), Some(2));
        assert_eq!(took(&[(Flow::Sent, 5), (Flow::Received, 6), (Flow::Sent, 9)]), Some(5));
    }

    #[test]
    fn an_attempt_that_moves_leaves_another_one_for_the_endpoint_that_did_not_connect() {
        let (mut attempts, now) = (Attempts::begun(), Instant::now());
        attempts.pick(AttemptId::FIRST, ([10, 0, 0, 1], 1).into(), now);
        let left = AttemptOutcome::Failed(Reason::ConnectRefused);
        attempts.moved(AttemptId::FIRST, ([10, 0, 0, 1], 2).into(), left, now);
        let seen = |attempt: &Attempt| (attempt.endpoint.unwrap().port(), attempt.outcome, attempt.queued);
        assert_eq!(attempts.last_picked().map(seen), Some((2, None, Some(now))));
        assert_eq!(attempts.find(AttemptId(1)).map(seen), Some((1, Some(left), Some(now))));
        assert_eq!(attempts.made(), 2);
        for port in 3..40 {
            attempts.moved(AttemptId::FIRST, ([10, 0, 0, 1], port).into(), left, now);
        }
        assert_eq!((attempts.last_picked().map(seen), attempts.made()), (Some((39, None, Some(now))), 39));
    }

    #[test]
    fn an_attempt_that_found_no_endpoint_is_not_counted() {
        let mut attempts = Attempts::begun();
        assert_eq!((attempts.made(), attempts.began()), (0, None));
        let now = Instant::now();
        attempts.pick(AttemptId::FIRST, ([10, 0, 0, 1], 1).into(), now);
        attempts.begin();
        assert_eq!((attempts.made(), attempts.began()), (1, Some(now)));
    }

    #[test]
    fn the_answer_of_one_of_two_attempts_is_timed_from_the_first_and_shown_with_its_endpoint() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let hedged = |lost: AttemptId, answered: AttemptId| {
            let mut attempts = Attempts::default();
            for (port, began) in [(1, 0), (2, 5)] {
                let id = attempts.begin();
                attempts.pick(id, ([10, 0, 0, 1], port).into(), at(began));
                attempts.note(id, |attempt| {
                    (attempt.connected, attempt.sent) = (Some(at(began)), Some(at(began)));
                });
            }
            attempts.end(AttemptId(1), AttemptOutcome::Answered(503), at(6)); // a bad answer, before the race was decided
            attempts.note(answered, |attempt| attempt.first_byte = Some(at(8)));
            attempts.lose(lost, at(8));
            let shown = attempts.last_picked().and_then(|attempt| attempt.endpoint).map(|it| it.port());
            (shown, attempts.upstream_time().map(|took| took.as_secs()))
        };
        assert_eq!(hedged(AttemptId(1), AttemptId::FIRST), (Some(1), Some(8)));
        assert_eq!(hedged(AttemptId::FIRST, AttemptId(1)), (Some(2), Some(8)));
    }

    #[test]
    fn an_attempt_that_has_ended_does_not_end_again() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let id = attempts.begin();
        attempts.end(id, AttemptOutcome::Answered(200), now);
        attempts.end(id, AttemptOutcome::Failed(Reason::ClientGone), now);
        assert_eq!(attempts.find(id).unwrap().outcome, Some(AttemptOutcome::Answered(200)));
    }

    #[test]
    fn the_list_has_a_bound_and_the_latest_attempt_is_always_in_it() {
        let mut attempts = Attempts::default();
        let mut last = attempts.begin();
        for begun in 2..1000_u32 {
            let before = last;
            last = attempts.begin();
            attempts.pick(last, ([10, 0, 0, 1], 1).into(), Instant::now());
            assert!(attempts.find(last).is_some_and(|attempt| attempt.endpoint.is_some()), "{begun}");
            assert_eq!(attempts.find(before).is_some(), begun as usize <= MOST, "{begun}");
            assert_eq!(1 + attempts.more.len(), MOST.min(begun as usize));
            assert_eq!(attempts.made(), begun - 1, "no endpoint was picked for the first");
        }
    }
}
