//! Decides whether a request may be sent again after a try that failed or had a bad answer.
//!
//! Pure: a [`Verdict::Retry`] still needs the consent of the budget and of `max_retries`. The functions are not called
//! once response headers went downstream.

use std::time::Duration;

use http::{Method, StatusCode};
use pillion_model::policy::{Retry, RetryCondition, RetryMethods};

use pillion_base::error::{Error, Sent};
use pillion_upstream::cluster::retry::{answer_meets, failure_meets, is_idempotent, is_lost_connection};

/// 3 replacements per request, each on another connection. An upstream that refuses so many in a row is not expected to
/// accept the next one, so the fourth refusal is judged like any other failure.
pub const MAX_REPLACEMENTS: u32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Return this answer or error to the caller.
    Keep,
    /// Send the request on another connection at once. `retry.attempts`, budget and backoff do not apply; it is counted
    /// as `replaced`.
    Replace,
    /// Send the request to another endpoint after a pause, if the budget allows it.
    Retry,
}

/// What is known of a request before its first try.
#[derive(Debug, Clone, Copy)]
pub struct RetrySubject<'a> {
    /// `None`: `retry: off`.
    pub retry: Option<&'a Retry>,
    pub method: &'a Method,
    /// The request has an `Idempotency-Key`.
    pub keyed: bool,
    /// The request came with an `x-pillion-attempt` above 1: an earlier sidecar has sent it as a retry.
    pub marked: bool,
}

/// The progress of a request.
#[derive(Debug, Clone, Copy)]
pub struct RetryState {
    /// The number of tries, including the judged one, without replacements: 1 after the first try.
    pub tries: u32,
    /// The number of replacements of both kinds: for refusals and for stale connections.
    pub replaced: u32,
    /// One of the replacements was for a stale connection.
    pub stale_replaced: bool,
    /// The body can be sent from its first byte: empty, kept for replay, or not touched yet.
    pub whole: bool,
}

/// The outcome of a try.
#[derive(Debug, Clone, Copy)]
pub enum TryOutcome<'a> {
    /// The upstream answered. `grpc`: the `grpc-status` of the answer's headers (a "Trailers-Only" answer).
    Answered {
        status: StatusCode,
        grpc: Option<u8>,
    },
    /// An authenticated sidecar answered that it refused the request before forwarding it.
    Refused {
        status: StatusCode,
    },
    Failed(&'a Error),
}

impl<'a> RetrySubject<'a> {
    /// Whether the request may be sent again although the upstream may have acted on it. Then its body is worth
    /// keeping.
    pub fn may_repeat(&self) -> bool {
        self.policy().is_some_and(|retry| self.method_allowed(retry))
    }

    /// Whether the request may be sent a second time although nothing failed. `methods: all` agrees to a repetition after
    /// a failure only; a list names the methods for which both are right.
    pub fn may_hedge(&self) -> bool {
        self.policy().is_some_and(|retry| match retry.methods {
            RetryMethods::All => self.keyed || is_idempotent(self.method),
            _ => self.method_allowed(retry),
        })
    }

    /// The timeout of try number `try_number` (1 is the first). The last try has none, and neither has a request that
    /// may not be sent again.
    pub fn per_try_timeout(&self, try_number: u32) -> Option<Duration> {
        let retry = self.policy().filter(|retry| self.method_allowed(retry))?;
        (try_number <= retry.attempts).then_some(retry.per_try_timeout).flatten()
    }

    pub fn judge(&self, progress: RetryState, outcome: TryOutcome<'_>) -> Verdict {
        if !progress.whole || is_plainly_good(outcome) {
            Verdict::Keep
        } else if self.may_replace(progress, outcome) {
            Verdict::Replace
        } else if self.may_retry(progress, outcome) {
            Verdict::Retry
        } else {
            Verdict::Keep
        }
    }

    fn may_replace(&self, progress: RetryState, outcome: TryOutcome<'_>) -> bool {
        let stale = was_stale(outcome) && !progress.stale_replaced && self.may_repeat();
        progress.replaced < MAX_REPLACEMENTS && (was_refused(outcome) || stale)
    }

    fn may_retry(&self, progress: RetryState, outcome: TryOutcome<'_>) -> bool {
        let Some(retry) = self.policy() else { return false };
        progress.tries <= retry.attempts
            && (was_never_sent(outcome) || self.method_allowed(retry))
            && retry.conditions.iter().any(|&condition| meets(condition, outcome))
    }

    fn policy(&self) -> Option<&'a Retry> {
        self.retry.filter(|_| !self.marked)
    }

    fn method_allowed(&self, retry: &Retry) -> bool {
        match &retry.methods {
            RetryMethods::Idempotent => is_idempotent(self.method),
            RetryMethods::IdempotentOrKeyed => self.keyed || is_idempotent(self.method),
            RetryMethods::All => true,
            RetryMethods::List(methods) => methods.iter().any(|method| method == self.method.as_str()),
        }
    }
}

/// Whether the answer is one that no condition can meet, as nearly every answer.
fn is_plainly_good(outcome: TryOutcome<'_>) -> bool {
    matches!(outcome, TryOutcome::Answered { status, grpc: None } if status.is_success())
}

/// Whether there was a connection, and the upstream did not process the request: a pooled connection ended before the
/// request was written, REFUSED_STREAM, a stream beyond a GOAWAY, or a sidecar's refusal.
///
/// A failed connect is not a refusal, although nothing was sent: it is a fault of the endpoint, so the request is
/// retried at another endpoint, with a pause and the budget.
fn was_refused(outcome: TryOutcome<'_>) -> bool {
    match outcome {
        TryOutcome::Refused { .. } => true,
        TryOutcome::Failed(error) => error.sent == Sent::Never && is_lost_connection(error.reason),
        TryOutcome::Answered { .. } => false,
    }
}

/// Whether a reused connection ended before any byte of the answer.
fn was_stale(outcome: TryOutcome<'_>) -> bool {
    matches!(outcome, TryOutcome::Failed(error)
        if error.sent == Sent::OnStaleConnection && is_lost_connection(error.reason))
}

fn was_never_sent(outcome: TryOutcome<'_>) -> bool {
    match outcome {
        TryOutcome::Refused { .. } => true,
        TryOutcome::Failed(error) => error.sent == Sent::Never,
        TryOutcome::Answered { .. } => false,
    }
}

fn meets(condition: RetryCondition, outcome: TryOutcome<'_>) -> bool {
    match outcome {
        TryOutcome::Answered { status, grpc } => answer_meets(condition, status.as_u16(), grpc),
        TryOutcome::Refused { status } => {
            condition == RetryCondition::RefusedStream || answer_meets(condition, status.as_u16(), None)
        }
        TryOutcome::Failed(error) => failure_meets(condition, error),
    }
}

#[cfg(test)]
mod tests {
    use pillion_model::Reason;
    use pillion_model::policy::{Backoff, RetryBudget};

    use super::*;
    use Reason::{
        ClientGone, ConnectRefused, ConnectTimeout, LimitPending, LimitRequests, NoEndpoints, NoRoute,
        PeerIdentityMismatch, PerTryTimeout, ProtocolError, RequestTimeout, TlsError, UpstreamClosed,
        UpstreamReset,
    };
    use RetryCondition as On;
    use Sent::{Never, OnStaleConnection, Perhaps};
    use Verdict::{Keep, Replace, Retry as Again};

    /// A request in a test: the parts that differ from an ordinary GET after its first try.
    #[derive(Clone)]
    struct Request {
        retry: Option<Retry>,
        method: Method,
        keyed: bool,
        marked: bool,
        progress: RetryState,
    }

    fn get() -> Request {
        let progress = RetryState { tries: 1, replaced: 0, stale_replaced: false, whole: true };
        Request { retry: Some(defaults()), method: Method::GET, keyed: false, marked: false, progress }
    }

    fn post() -> Request {
        Request { method: Method::POST, ..get() }
    }

    fn defaults() -> Retry {
        Retry {
            attempts: 2,
            conditions: vec![On::ConnectFailure, On::RefusedStream, On::Reset, On::GatewayError],
            methods: RetryMethods::Idempotent,
            per_try_timeout: None,
            backoff: Backoff::default(),
            budget: RetryBudget { ratio: 0.2, min_per_second: 10 },
            max_body: 64 * 1024,
            hedge_after: None,
        }
    }

    impl Request {
        fn subject(&self) -> RetrySubject<'_> {
            let Self { retry, method, keyed, marked, .. } = self;
            RetrySubject { retry: retry.as_ref(), method, keyed: *keyed, marked: *marked }
        }

        fn off(mut self) -> Self {
            self.retry = None;
            self
        }

        fn on(self, condition: RetryCondition) -> Self {
            self.set(|retry| retry.conditions = vec![condition])
        }

        fn methods(self, methods: RetryMethods) -> Self {
            self.set(|retry| retry.methods = methods)
        }

        fn set(mut self, change: impl FnOnce(&mut Retry)) -> Self {
            change(self.retry.get_or_insert_with(defaults));
            self
        }

        fn keyed(self) -> Self {
            Self { keyed: true, ..self }
        }

        fn marked(self) -> Self {
            Self { marked: true, ..self }
        }

        fn tries(mut self, tries: u32) -> Self {
            self.progress.tries = tries;
            self
        }

        fn replaced(mut self, replaced: u32) -> Self {
            self.progress.replaced = replaced;
            self
        }

        fn stale_replaced(mut self) -> Self {
            self.progress.stale_replaced = true;
            self.replaced(1)
        }

        fn streamed_on(mut self) -> Self {
            self.progress.whole = false;
            self
        }

        fn failed(&self, reason: Reason, sent: Sent) -> Verdict {
            self.subject().judge(self.progress, TryOutcome::Failed(&Error::new(reason, "").sent(sent)))
        }

        fn answered(&self, status: u16) -> Verdict {
            self.subject().judge(self.progress, TryOutcome::Answered { status: code(status), grpc: None })
        }

        fn answered_grpc(&self, grpc: u8) -> Verdict {
            self.subject().judge(self.progress, TryOutcome::Answered { status: code(200), grpc: Some(grpc) })
        }

        fn refused(&self, status: u16) -> Verdict {
            self.subject().judge(self.progress, TryOutcome::Refused { status: code(status) })
        }
    }

    fn code(status: u16) -> StatusCode {
        StatusCode::from_u16(status).expect("tests use real statuses")
    }

    #[test]
    #[rustfmt::skip] // one table, a row per rule
    fn each_row_of_the_retry_table_gets_its_verdict() {
        let rows: Vec<(&str, Verdict, Verdict)> = vec![
            // Refused before processing: replaced always.
            ("never written to a pooled connection", get().failed(UpstreamClosed, Never), Replace),
            ("a refused stream, any method", post().failed(UpstreamReset, Never), Replace),
            ("beyond a GOAWAY, retry off", post().off().failed(ProtocolError, Never), Replace),
            ("refused though it is a retry already", post().marked().failed(UpstreamReset, Never), Replace),
            ("refused on the last try", get().tries(3).failed(UpstreamReset, Never), Replace),
            ("a sidecar refused before forwarding", post().off().refused(503), Replace),
            ("refused, but the body has gone", post().streamed_on().failed(UpstreamReset, Never), Keep),
            ("a sidecar refused, but the body has gone", post().streamed_on().refused(503), Keep),
            // Replacements have a limit, so that an upstream that refuses everything does not cause endless tries.
            ("refused for the third time", get().replaced(2).failed(UpstreamReset, Never), Replace),
            ("for the fourth time: an ordinary retry", post().replaced(3).failed(UpstreamReset, Never), Again),
            ("… by its condition", post().on(On::RefusedStream).replaced(3).failed(UpstreamReset, Never), Again),
            ("… and by no other", post().on(On::GatewayError).replaced(3).failed(UpstreamReset, Never), Keep),
            ("… not with retry off", post().off().replaced(3).failed(UpstreamReset, Never), Keep),
            ("a sidecar's fourth refusal", post().replaced(3).refused(503), Again),
            ("… with retry off is the answer", post().off().replaced(3).refused(503), Keep),
            // Written to a connection that had gone stale: once outside budget and attempts.
            ("stale, idempotent", get().failed(UpstreamClosed, OnStaleConnection), Replace),
            ("stale on the last try", get().tries(3).failed(UpstreamClosed, OnStaleConnection), Replace),
            ("stale, whatever the conditions", get().on(On::GatewayError).failed(UpstreamReset, OnStaleConnection), Replace),
            ("stale, method not allowed", post().failed(UpstreamClosed, OnStaleConnection), Keep),
            ("stale, method allowed", post().methods(RetryMethods::All).failed(UpstreamClosed, OnStaleConnection), Replace),
            ("stale, retry off", get().off().failed(UpstreamClosed, OnStaleConnection), Keep),
            ("stale, a retry already", get().marked().failed(UpstreamClosed, OnStaleConnection), Keep),
            ("stale, body gone", get().streamed_on().failed(UpstreamClosed, OnStaleConnection), Keep),
            ("stale once more: an ordinary retry", get().stale_replaced().failed(UpstreamClosed, OnStaleConnection), Again),
            ("stale once more on the last try", get().stale_replaced().tries(3).failed(UpstreamClosed, OnStaleConnection), Keep),
            // connect_failure: nothing was sent, so any method may be retried; the retry counts as a try.
            ("connection refused", get().failed(ConnectRefused, Never), Again),
            ("connection refused, any method", post().failed(ConnectRefused, Never), Again),
            ("connect timeout, any method", post().failed(ConnectTimeout, Never), Again),
            ("TLS failed, any method", post().failed(TlsError, Never), Again),
            ("connection refused, no tries left", get().tries(3).failed(ConnectRefused, Never), Keep),
            ("connection refused, retry off", get().off().failed(ConnectRefused, Never), Keep),
            ("connection refused, a retry already", get().marked().failed(ConnectRefused, Never), Keep),
            ("connection refused, not a condition", get().on(On::Reset).failed(ConnectRefused, Never), Keep),
            ("connection refused means 5xx too", get().on(On::FiveXx).failed(ConnectRefused, Never), Again),
            ("connection refused, body gone", post().streamed_on().failed(ConnectRefused, Never), Keep),
            ("the wrong peer", get().failed(PeerIdentityMismatch, Never), Keep),
            ("the wrong peer is no 5xx", get().on(On::FiveXx).failed(PeerIdentityMismatch, Never), Keep),
            // reset
            ("reset", get().failed(UpstreamReset, Perhaps), Again),
            ("closed early", get().failed(UpstreamClosed, Perhaps), Again),
            ("not HTTP", get().failed(ProtocolError, Perhaps), Again),
            ("reset, perhaps acted on", post().failed(UpstreamReset, Perhaps), Keep),
            ("reset, not a condition", get().on(On::ConnectFailure).failed(UpstreamReset, Perhaps), Keep),
            ("reset means 5xx too", get().on(On::FiveXx).failed(UpstreamReset, Perhaps), Again),
            ("reset is no refusal", get().on(On::RefusedStream).failed(UpstreamReset, Perhaps), Keep),
            ("reset, body gone", get().streamed_on().failed(UpstreamReset, Perhaps), Keep),
            // per_try_timeout
            ("too slow, by default", get().failed(PerTryTimeout, Perhaps), Keep),
            ("too slow, a condition", get().on(On::PerTryTimeout).failed(PerTryTimeout, Perhaps), Again),
            ("too slow, perhaps acted on", post().on(On::PerTryTimeout).failed(PerTryTimeout, Perhaps), Keep),
            ("too slow before it was sent", post().on(On::PerTryTimeout).failed(PerTryTimeout, Never), Again),
            ("too slow is no 5xx answer", get().on(On::FiveXx).failed(PerTryTimeout, Perhaps), Keep),
            ("the whole time is up", get().on(On::PerTryTimeout).failed(RequestTimeout, Perhaps), Keep),
            // Failures that the sidecar or the caller caused.
            ("pending limit", get().on(On::FiveXx).failed(LimitPending, Never), Keep),
            ("request limit", get().on(On::FiveXx).failed(LimitRequests, Never), Keep),
            ("no route", get().on(On::FiveXx).failed(NoRoute, Never), Keep),
            ("no endpoints", get().on(On::FiveXx).failed(NoEndpoints, Never), Keep),
            ("the client has gone", get().on(On::FiveXx).failed(ClientGone, Perhaps), Keep),
            // Answers.
            ("a good answer", get().answered(200), Keep),
            ("bad gateway", get().answered(502), Again),
            ("unavailable", get().answered(503), Again),
            ("gateway timeout", get().answered(504), Again),
            ("a plain 500", get().answered(500), Keep),
            ("501 is no gateway's", get().answered(501), Keep),
            ("unavailable, perhaps acted on", post().answered(503), Keep),
            ("unavailable, retry off", get().off().answered(503), Keep),
            ("unavailable, a retry already", get().marked().answered(503), Keep),
            ("unavailable, body gone", get().streamed_on().answered(503), Keep),
            ("500 with 5xx", get().on(On::FiveXx).answered(500), Again),
            ("599 with 5xx", get().on(On::FiveXx).answered(599), Again),
            ("499 with 5xx", get().on(On::FiveXx).answered(499), Keep),
            ("409 by default", get().answered(409), Keep),
            ("409 with retriable_4xx", get().on(On::Retriable4xx).answered(409), Again),
            ("404 with retriable_4xx", get().on(On::Retriable4xx).answered(404), Keep),
            ("a status by number", get().on(On::Status(429)).answered(429), Again),
            ("another status", get().on(On::Status(429)).answered(430), Keep),
            ("gRPC unavailable", get().on(On::Grpc(14)).answered_grpc(14), Again),
            ("another gRPC status", get().on(On::Grpc(14)).answered_grpc(13), Keep),
            ("gRPC is a POST", post().on(On::Grpc(14)).answered_grpc(14), Keep),
            ("gRPC, all methods", post().on(On::Grpc(14)).methods(RetryMethods::All).answered_grpc(14), Again),
            ("no gRPC status at all", get().on(On::Grpc(14)).answered(200), Keep),
            // attempts
            ("second try", get().tries(2).answered(503), Again),
            ("third and last try", get().tries(3).answered(503), Keep),
            ("no attempts", get().set(|retry| retry.attempts = 0).answered(503), Keep),
            ("no conditions", get().set(|retry| retry.conditions.clear()).answered(503), Keep),
            // methods
            ("a key does not count by default", post().keyed().answered(503), Keep),
            ("a key", post().keyed().methods(RetryMethods::IdempotentOrKeyed).answered(503), Again),
            ("no key", post().methods(RetryMethods::IdempotentOrKeyed).answered(503), Keep),
            ("idempotent without a key", get().methods(RetryMethods::IdempotentOrKeyed).answered(503), Again),
            ("listed", post().methods(RetryMethods::List(vec!["POST".into()])).answered(503), Again),
            ("not listed", get().methods(RetryMethods::List(vec!["POST".into()])).answered(503), Keep),
        ];
        let wrong: Vec<_> = rows.iter().filter(|(_, verdict, expected)| verdict != expected).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn six_methods_are_idempotent() {
        for (method, expected) in [
            ("GET", Again),
            ("HEAD", Again),
            ("OPTIONS", Again),
            ("TRACE", Again),
            ("PUT", Again),
            ("DELETE", Again),
            ("POST", Keep),
            ("PATCH", Keep),
            ("CONNECT", Keep),
            ("QUERY", Keep),
            ("get", Keep),
        ] {
            let method = method.parse().expect("a method");
            assert_eq!(Request { method, ..get() }.answered(503), expected);
        }
    }

    #[test]
    fn the_last_try_and_requests_that_may_not_be_repeated_have_no_per_try_timeout() {
        let second = Some(Duration::from_secs(1));
        let bounded = |request: Request, number: u32| {
            request.set(|retry| retry.per_try_timeout = second).subject().per_try_timeout(number)
        };
        assert_eq!([1, 2, 3, 4].map(|number| bounded(get(), number)), [second, second, None, None]);
        assert_eq!(bounded(post(), 1), None);
        assert_eq!(bounded(get().marked(), 1), None);
        assert_eq!(get().off().subject().per_try_timeout(1), None);
        assert_eq!(get().subject().per_try_timeout(1), None, "off by default");
    }

    #[test]
    fn the_body_is_kept_only_for_requests_that_may_be_repeated() {
        assert!(get().subject().may_repeat());
        assert!(!post().subject().may_repeat());
        assert!(!get().off().subject().may_repeat());
        assert!(!get().marked().subject().may_repeat());
    }
}
