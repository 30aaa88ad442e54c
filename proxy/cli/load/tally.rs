//! What became of the requests of a load.

use std::collections::BTreeMap;
use std::time::Duration;

use http::StatusCode;

use super::latencies::Latencies;

/// Why a request has no answer when a load ends before it.
pub(super) const UNSENT: &str = "the load was ended before the answer";

/// A request that was answered to the last byte of its body.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: StatusCode,
    /// Bytes of its body.
    pub(crate) bytes: u64,
    /// The header `proxy-status`, with which a proxy says why it answered in the server's place.
    pub(crate) proxy_status: Option<String>,
}

/// Why a request has no complete answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// No server listens.
    Refused,
    /// The connection could not be made for another reason.
    Connect,
    Tls,
    /// The connection or the stream ended before the end of the answer.
    Reset,
    /// What came is no answer of this version of HTTP.
    Protocol,
    /// There was no complete answer within the time of a request.
    Timeout,
    /// The load was ended before the answer.
    Unanswered,
    /// The status is 400 to 499.
    Status4xx,
    /// The status is 500 or above.
    Status5xx,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Reset => "reset",
            Self::Protocol => "protocol",
            Self::Timeout => "timeout",
            Self::Unanswered => "unanswered",
            Self::Status4xx => "status_4xx",
            Self::Status5xx => "status_5xx",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) why: String,
}

impl Failure {
    pub(crate) fn new(kind: Kind, why: impl ToString) -> Self {
        Self { kind, why: why.to_string() }
    }
}

/// When a request was sent, measured by when it was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    OnTime,
    /// No connection was free.
    Waited(Duration),
    /// A connection was free, but this program came late: the machine was busy, or this program was.
    Late(Duration),
}

/// The results of some time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    /// Requests with a complete answer and a status below 400.
    pub(crate) answered: u64,
    pub(crate) failed: u64,
    pub(crate) kinds: BTreeMap<Kind, u64>,
    /// Answers by status.
    pub(crate) statuses: BTreeMap<u16, u64>,
    pub(crate) first_failure: Option<String>,
    /// The latencies of all requests, with those of failed ones.
    pub(crate) latencies: Latencies,
    /// Requests that had to wait for a free connection.
    pub(crate) waited: u64,
    pub(crate) longest_wait: Duration,
    /// Requests that this program itself sent late.
    pub(crate) late: u64,
    pub(crate) latest: Duration,
    /// Bytes of bodies.
    pub(crate) bytes: u64,
}

impl Tally {
    pub(crate) const fn requests(&self) -> u64 {
        self.answered + self.failed
    }

    pub(super) fn count(&mut self, started: Start, took: Duration, result: Result<Answered, Failure>) {
        self.latencies.record(took);
        self.note_start(1, started);
        match result.and_then(|answered| self.judge(answered)) {
            Ok(()) => self.answered += 1,
            Err(Failure { kind, why }) => {
                self.failed += 1;
                *self.kinds.entry(kind).or_default() += 1;
                self.first_failure.get_or_insert(why);
            }
        }
    }

    fn note_start(&mut self, many: u64, started: Start) {
        match started {
            Start::OnTime => {}
            Start::Waited(wait) => {
                self.waited += many;
                self.longest_wait = self.longest_wait.max(wait);
            }
            Start::Late(late) => {
                self.late += many;
                self.latest = self.latest.max(late);
            }
        }
    }

    /// Counts requests that were due and never sent. `first`: when the first of them would have been sent now; `waits` has how long
    /// each has waited, and none has waited longer than the one before it.
    pub(super) fn count_unsent(&mut self, many: u64, first: Start, waits: impl Fn(u64) -> Duration) {
        if many == 0 {
            return;
        }
        self.latencies.record_falling(many, waits);
        self.note_start(many, first);
        self.failed += many;
        *self.kinds.entry(Kind::Unanswered).or_default() += many;
        self.first_failure.get_or_insert_with(|| UNSENT.to_owned());
    }

    /// Counts an answer. One with a status of 400 or above is a failure.
    fn judge(&mut self, answered: Answered) -> Result<(), Failure> {
        let Answered { status, bytes, proxy_status } = answered;
        *self.statuses.entry(status.as_u16()).or_default() += 1;
        self.bytes += bytes;
        let kind = match status.as_u16() {
            ..400 => return Ok(()),
            400..500 => Kind::Status4xx,
            _ => Kind::Status5xx,
        };
        let why = proxy_status.map(|why| format!(" {why}")).unwrap_or_default();
        Err(Failure { kind, why: format!("{status}{why}") })
    }

    /// `later` has the results after those counted here.
    pub(crate) fn add(&mut self, later: &Self) {
        self.answered += later.answered;
        self.failed += later.failed;
        later.kinds.iter().for_each(|(kind, count)| *self.kinds.entry(*kind).or_default() += count);
        later.statuses.iter().for_each(|(status, count)| *self.statuses.entry(*status).or_default() += count);
        self.latencies.add(&later.latencies);
        self.waited += later.waited;
        self.longest_wait = self.longest_wait.max(later.longest_wait);
        self.late += later.late;
        self.latest = self.latest.max(later.latest);
        self.bytes += later.bytes;
        if self.first_failure.is_none() {
            self.first_failure.clone_from(&later.first_failure);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn answered(status: StatusCode, why: Option<&str>) -> Result<Answered, Failure> {
        Ok(Answered { status, bytes: 2, proxy_status: why.map(str::to_owned) })
    }

    #[test]
    fn results_are_added_and_the_first_failure_is_kept() {
        let (mut whole, mut second) = (Tally::default(), Tally::default());
        second.count(Start::OnTime, MILLISECOND, Err(Failure::new(Kind::Reset, "first")));
        second.count(Start::Waited(MILLISECOND), MILLISECOND, Err(Failure::new(Kind::Reset, "second")));
        whole.add(&second);
        second.count(Start::Late(MILLISECOND), MILLISECOND, answered(StatusCode::FOUND, None));
        whole.add(&second);
        assert_eq!((whole.answered, whole.failed, whole.first_failure.as_deref()), (1, 4, Some("first")));
        assert_eq!((whole.requests(), whole.waited, whole.late, whole.bytes), (5, 2, 1, 2));
        assert_eq!(whole.kinds, BTreeMap::from([(Kind::Reset, 4)]));
        assert_eq!(whole.statuses, BTreeMap::from([(302, 1)]));
    }

    #[test]
    fn a_status_of_400_or_above_is_a_failure_with_the_reason_of_the_proxy() {
        let mut tally = Tally::default();
        for status in [StatusCode::OK, StatusCode::NOT_MODIFIED, StatusCode::NOT_FOUND] {
            tally.count(Start::OnTime, MILLISECOND, answered(status, None));
        }
        tally.count(Start::OnTime, MILLISECOND, answered(StatusCode::BAD_GATEWAY, Some("pillion; error=x")));
        assert_eq!((tally.answered, tally.failed), (2, 2));
        assert_eq!(tally.kinds, BTreeMap::from([(Kind::Status4xx, 1), (Kind::Status5xx, 1)]));
        assert_eq!(tally.first_failure.as_deref(), Some("404 Not Found"));
        let mut last = Tally::default();
        last.count(Start::OnTime, MILLISECOND, answered(StatusCode::BAD_GATEWAY, Some("pillion; error=x")));
        assert_eq!(last.first_failure.as_deref(), Some("502 Bad Gateway pillion; error=x"));
    }
}
