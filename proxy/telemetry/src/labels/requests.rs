//! Labels of requests, of their tries and of what a cache did for them.

use std::net::SocketAddr;

use super::{Label, Labels};
use crate::symbols::{Symbol, Symbols};
use pillion_model::{Direction, Reason};

vocabulary! {
    /// The methods of RFC 9110 and PATCH. Any other method is `other`.
    MethodLabel as "method" {
        Get = "GET", Head = "HEAD", Post = "POST", Put = "PUT", Delete = "DELETE", Connect = "CONNECT",
        Options = "OPTIONS", Trace = "TRACE", Patch = "PATCH", Other = "other",
    }

    /// How a retry ended, or why it was not made.
    RetryOutcome as "outcome" {
        /// The request had not been written, or was refused before processing, and was sent again without asking the
        /// policy.
        Replaced = "replaced",
        Succeeded = "succeeded",
        /// The retry was made and failed too.
        Failed = "failed",
        /// The retry was made beside a try that was slow, however it ended.
        Hedged = "hedged",
        /// Refused by the retry budget.
        Budget = "budget",
        /// Refused by the breaker's `max_retries`.
        Limit = "limit",
        /// The body was larger than the part that is kept for a retry.
        NotReplayable = "not_replayable",
    }

    /// How the cache of a service served a request.
    CacheOutcome as "outcome" {
        /// With an answer that was stored and fresh, or that came while the request waited.
        Hit = "hit",
        /// With an answer of the service, because none was stored.
        Miss = "miss",
        /// With a stale answer: while it is validated, because the request allows it, or in place of an error.
        Stale = "stale",
        /// With a stored answer of which the service has said that it still holds.
        Revalidated = "revalidated",
        /// The cache had nothing to do with it.
        Pass = "pass",
    }

    /// How a try at one endpoint ended.
    TryOutcome as "outcome" {
        /// Answered with a status below 500.
        Ok = "ok",
        /// Answered with 5xx.
        Error = "error",
        /// The endpoint's sidecar refused it before it forwarded it.
        Refused = "refused",
        Timeout = "timeout",
        /// Any other failure: the connection was refused, reset or closed.
        Failed = "failed",
        /// Ended by the sidecar or the client before there was an answer, because nobody waits for it any more.
        Cancelled = "cancelled",
    }
}

impl From<&http::Method> for MethodLabel {
    fn from(method: &http::Method) -> Self {
        match *method {
            http::Method::GET => Self::Get,
            http::Method::HEAD => Self::Head,
            http::Method::POST => Self::Post,
            http::Method::PUT => Self::Put,
            http::Method::DELETE => Self::Delete,
            http::Method::CONNECT => Self::Connect,
            http::Method::OPTIONS => Self::Options,
            http::Method::TRACE => Self::Trace,
            http::Method::PATCH => Self::Patch,
            _ => Self::Other,
        }
    }
}

/// The labels of `pillion_endpoint_requests_total` for one try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EndpointLabels {
    pub service: Symbol,
    /// `None`: any endpoint, beyond the bound.
    pub endpoint: Option<SocketAddr>,
    pub outcome: TryOutcome,
}

impl Labels for EndpointLabels {
    fn names() -> Vec<&'static str> {
        vec!["service", "endpoint", "outcome"]
    }

    fn values(self, symbols: &Symbols) -> Vec<String> {
        let endpoint = self.endpoint.map_or_else(|| "other".to_owned(), |endpoint| endpoint.to_string());
        vec![symbols.name(self.service).as_ref().to_owned(), endpoint, self.outcome.value(symbols)]
    }

    fn other(self) -> Self {
        Self { service: Symbol::OTHER, endpoint: None, ..self }
    }
}

/// The labels of `pillion_requests_total` for one finished request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestLabels {
    pub direction: Direction,
    pub service: Symbol,
    /// [`Symbol::EMPTY`] if no configured route matched.
    pub route: Symbol,
    pub method: MethodLabel,
    /// The status sent downstream. A number outside 100 to 599 counts as `other`.
    pub status: u16,
    /// `None` if the request is not gRPC. A number above 16, the last status of gRPC, counts as `other`.
    pub grpc_status: Option<u8>,
    /// `None` if the sidecar did not make the response.
    pub reason: Option<Reason>,
    /// The verified SPIFFE ID; [`Symbol::EMPTY`] without one.
    pub peer: Symbol,
}

/// Stands for every status outside 100 to 599, and for a status that is no longer exported.
pub(crate) const OTHER_STATUS: u16 = 0;

/// Stands for every gRPC status above 16.
const OTHER_GRPC_STATUS: u8 = u8::MAX;

impl RequestLabels {
    /// Replaces numbers that a peer made up, so that series with equal labels have equal keys.
    #[must_use]
    pub fn tidy(mut self) -> Self {
        if !(100..=599).contains(&self.status) {
            self.status = OTHER_STATUS;
        }
        self.grpc_status = self.grpc_status.map(|code| if code > 16 { OTHER_GRPC_STATUS } else { code });
        self
    }

    fn status_value(self) -> String {
        if self.status == OTHER_STATUS { "other".to_owned() } else { self.status.to_string() }
    }

    fn grpc_value(self) -> String {
        match self.grpc_status {
            None => String::new(),
            Some(OTHER_GRPC_STATUS) => "other".to_owned(),
            Some(code) => code.to_string(),
        }
    }
}

impl Labels for RequestLabels {
    fn names() -> Vec<&'static str> {
        vec!["direction", "service", "route", "method", "status", "grpc_status", "reason", "peer"]
    }

    fn values(self, symbols: &Symbols) -> Vec<String> {
        let name = |symbol| symbols.name(symbol).as_ref().to_owned();
        vec![
            self.direction.value(symbols),
            name(self.service),
            name(self.route),
            self.method.value(symbols),
            self.status_value(),
            self.grpc_value(),
            self.reason.map_or("", Reason::code).to_owned(),
            name(self.peer),
        ]
    }

    fn other(self) -> Self {
        Self { service: Symbol::OTHER, route: Symbol::OTHER, peer: Symbol::OTHER, ..self }
    }

    /// Peers influence method, status and reason, and together these could make thousands of label sets.
    fn rest(self) -> Self {
        let unsaid = Self { method: MethodLabel::Other, status: OTHER_STATUS, ..self.other() };
        Self { grpc_status: None, reason: None, ..unsaid }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok() -> RequestLabels {
        RequestLabels {
            direction: Direction::Outbound,
            service: Symbol::OTHER,
            route: Symbol::EMPTY,
            method: MethodLabel::Get,
            status: 200,
            grpc_status: None,
            reason: None,
            peer: Symbol::EMPTY,
        }
    }

    #[test]
    fn unknown_methods_are_other() {
        let cases =
            [("GET", "GET"), ("PATCH", "PATCH"), ("get", "other"), ("PURGE", "other"), ("TRACE", "TRACE")];
        for (sent, label) in cases {
            let method = http::Method::from_bytes(sent.as_bytes()).expect("a token is a method");
            assert_eq!(MethodLabel::from(&method).as_str(), label, "{sent}");
        }
    }

    #[test]
    fn unknown_status_numbers_share_one_series() {
        let cases = [
            (99, None, "other", ""),
            (100, Some(0), "100", "0"),
            (599, Some(16), "599", "16"),
            (600, Some(17), "other", "other"),
            (999, Some(255), "other", "other"),
        ];
        let symbols = Symbols::new(0);
        for (status, grpc_status, status_value, grpc_value) in cases {
            let values = RequestLabels { status, grpc_status, ..ok() }.tidy().values(&symbols);
            assert_eq!([&*values[4], &*values[5]], [status_value, grpc_value], "{status} {grpc_status:?}");
        }
        let [low, high] = [600, 999].map(|status| RequestLabels { status, ..ok() }.tidy());
        assert_eq!(low, high);
    }

    #[test]
    fn the_values_are_in_the_order_of_the_names() {
        let said =
            RequestLabels { reason: Some(Reason::NoRoute), status: 404, ..ok() }.values(&Symbols::new(0));
        let names: Vec<_> =
            RequestLabels::names().into_iter().zip(&said).map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(
            names.join(" "),
            "direction=outbound service=other route= method=GET status=404 grpc_status= reason=no_route peer="
        );
    }

    #[test]
    fn beyond_the_bound_label_sets_keep_fixed_values_and_then_only_the_direction() {
        let symbols = Symbols::new(0);
        assert_eq!(
            ok().other().values(&symbols),
            ["outbound", "other", "other", "GET", "200", "", "", "other"]
        );
        assert_eq!(
            ok().rest().values(&symbols),
            ["outbound", "other", "other", "other", "other", "", "", "other"]
        );
    }
}
