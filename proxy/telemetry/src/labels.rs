//! The values of labels, and the label sets made of them.
//!
//! A fixed set of values is an enum; any other value is a [`Symbol`]. Both take a few bytes, so that a label set is
//! hashed and compared without reading a string. Paths, user agents and names that a peer chooses are never labels.

use std::hash::Hash;
use std::net::SocketAddr;

use pillion_model::Direction;

use super::symbols::{Symbol, Symbols};
use pillion_model::Reason;

/// One label: its name and its value.
pub trait Label: Copy + Eq + Hash + Send + Sync + 'static {
    const NAME: &'static str;

    fn value(self, symbols: &Symbols) -> String;

    /// This label with its free-form value replaced.
    #[must_use]
    fn other(self) -> Self {
        self
    }
}

/// All labels of one series. Two sets with the same exported values must be equal, unless [`Self::MAY_COINCIDE`].
pub trait Labels: Copy + Eq + Hash + Send + Sync + 'static {
    /// Two sets may have the same exported values. Their series are exported as one.
    const MAY_COINCIDE: bool = false;

    fn names() -> Vec<&'static str>;

    /// The values in the order of [`Self::names`].
    fn values(self, symbols: &Symbols) -> Vec<String>;

    /// This set with every free-form value replaced by `other`. New sets are counted here beyond the bound.
    #[must_use]
    fn other(self) -> Self;

    /// A coarser set, for when even the sets of [`Self::other`] are too many. Only a few of these may exist.
    #[must_use]
    fn rest(self) -> Self {
        self.other()
    }
}

macro_rules! label_sets {
    ($($set:ident: $index:tt),+) => {
        impl<$($set: Label),+> Labels for ($($set,)+) {
            fn names() -> Vec<&'static str> {
                vec![$($set::NAME),+]
            }
            fn values(self, symbols: &Symbols) -> Vec<String> {
                vec![$(self.$index.value(symbols)),+]
            }
            fn other(self) -> Self {
                ($(self.$index.other(),)+)
            }
        }
    };
}
label_sets!(A: 0);
label_sets!(A: 0, B: 1);
label_sets!(A: 0, B: 1, C: 2);
label_sets!(A: 0, B: 1, C: 2, D: 3);
label_sets!(A: 0, B: 1, C: 2, D: 3, E: 4);

/// The label set of a family with only one series.
impl Labels for () {
    fn names() -> Vec<&'static str> {
        Vec::new()
    }
    fn values(self, _: &Symbols) -> Vec<String> {
        Vec::new()
    }
    fn other(self) -> Self {}
}

/// Declares a fixed set of values: the enum, its words, and the label.
macro_rules! vocabulary {
    ($(#[$doc:meta])* $name:ident as $label:literal { $($(#[$word_doc:meta])* $word:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$word_doc])* $word),+ }

        impl $name {
            #[allow(dead_code)] // the whole vocabulary; not every one is walked through
            pub const ALL: &[Self] = &[$(Self::$word),+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$word => $text),+ }
            }
        }

        impl Label for $name {
            const NAME: &'static str = $label;

            fn value(self, _: &Symbols) -> String {
                self.as_str().to_owned()
            }
        }
    };
}

impl Label for Direction {
    const NAME: &'static str = "direction";

    fn value(self, _: &Symbols) -> String {
        self.as_str().to_owned()
    }
}

vocabulary! {
    /// What happened to a configuration that was read again.
    ReloadOutcome as "outcome" { Applied = "applied", Unchanged = "unchanged", Refused = "refused" }
}

vocabulary! {
    /// How the DNS proxy answered a query.
    DnsOutcome as "outcome" {
        /// With the addresses that the configuration gives to a service.
        Own = "own",
        /// With a service's virtual addresses.
        Virtual = "virtual",
        /// With the answer of a name server, whatever that was.
        Forwarded = "forwarded",
        Cached = "cached",
        /// No answer: no name server replied, too many queries are waiting for one, or the message was not a query.
        Failed = "failed",
    }
}

vocabulary! {
    /// The methods of RFC 9110 and PATCH. Any other method is `other`.
    MethodLabel as "method" {
        Get = "GET", Head = "HEAD", Post = "POST", Put = "PUT", Delete = "DELETE", Connect = "CONNECT",
        Options = "OPTIONS", Trace = "TRACE", Patch = "PATCH", Other = "other",
    }
}

vocabulary! {
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
}

vocabulary! {
    /// The limits of a service's circuit breaker.
    LimitLabel as "limit" {
        Connections = "connections", ConnectionsPerEndpoint = "connections_per_endpoint", Pending = "pending", Requests = "requests", Retries = "retries",
    }
}

vocabulary! {
    EndpointState as "state" { Healthy = "healthy", Unhealthy = "unhealthy", Ejected = "ejected", Draining = "draining" }
}

vocabulary! {
    /// The condition of `outlier_detection` that ejected an endpoint.
    EjectionCause as "cause" {
        ConsecutiveErrors = "consecutive_errors", ErrorRate = "error_rate", GatewayErrors = "gateway_errors", ConnectFailures = "connect_failures",
    }
}

vocabulary! {
    /// The direction of bytes, seen from the sidecar's downstream: a request's body is received.
    Flow as "flow" { Received = "received", Sent = "sent" }
}

vocabulary! {
    /// The protocol of a connection. `Unknown` if the connection ended before the protocol was known.
    Protocol as "protocol" { Http1 = "http1", Http2 = "http2", Tcp = "tcp", Unknown = "unknown" }
}

vocabulary! {
    /// The protocol that the first bytes of an undeclared connection showed.
    DetectionVerdict as "verdict" {
        Http1 = "http1",
        Http2 = "http2",
        /// TLS that the sidecar does not terminate.
        Tls = "tls",
        /// Any other bytes, and every connection on which the server speaks first.
        Opaque = "opaque",
    }
}

vocabulary! {
    /// Whether a connection is encrypted, and which sides presented a certificate.
    Tls as "tls" {
        None = "none",
        ServerOnly = "tls",
        Mutual = "mtls",
    }
}

vocabulary! {
    /// How opening or accepting a connection ended.
    ConnectionOutcome as "outcome" {
        Ok = "ok",
        /// Refused by the peer when connecting, or by a limit of the sidecar when accepting.
        Refused = "refused",
        Timeout = "timeout",
        TlsError = "tls_error",
        /// Any other failure: unreachable, reset, or a first request that is not valid.
        Failed = "failed",
    }
}

vocabulary! {
    HandshakeOutcome as "outcome" {
        Ok = "ok",
        Failed = "failed",
        /// The peer's certificate does not carry an identity that is allowed here.
        Identity = "identity",
        Timeout = "timeout",
    }
}

vocabulary! {
    /// Whose expiry the timestamp shows.
    CertificateUse as "use" {
        /// The sidecar's own certificate chain: the earliest expiry in it.
        Own = "own",
        /// The bundle against which peers are verified: the earliest expiry in it.
        Ca = "ca",
        /// The certificates that are shown to single services: the earliest expiry among them.
        Service = "service",
        /// The certificates of ports for clients outside the mesh: the earliest expiry among them.
        Port = "port",
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

/// The label `service`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Service(pub Symbol);

impl Label for Service {
    const NAME: &'static str = "service";

    fn value(self, symbols: &Symbols) -> String {
        symbols.name(self.0).as_ref().to_owned()
    }

    fn other(self) -> Self {
        Self(Symbol::OTHER)
    }
}

vocabulary! {
    /// What authorization has decided of a request or a connection.
    Decision as "decision" {
        Allowed = "allowed",
        Denied = "denied",
        /// It was denied in audit mode, so it passed.
        WouldDeny = "would_deny",
    }
}

vocabulary! {
    /// What the token of a request came to.
    TokenOutcome as "outcome" {
        Verified = "verified",
        /// The request has none.
        Absent = "absent",
        Invalid = "invalid",
        /// There are no keys yet.
        NoKeys = "no_keys",
    }
}

vocabulary! {
    /// What a check by the external authorizer came to.
    CheckOutcome as "outcome" {
        Allowed = "allowed",
        Denied = "denied",
        /// It did not answer, or said that it has failed itself, as by 5xx.
        Failed = "failed",
        /// It answered, and its answer cannot be read or obeyed.
        Unreadable = "unreadable",
        /// It was not asked, because it has not answered before.
        CircuitOpen = "circuit_open",
    }
}

vocabulary! {
    /// What reading the keys of an issuer came to.
    JwksOutcome as "outcome" {
        Applied = "applied",
        /// They are those in use.
        Unchanged = "unchanged",
        /// They could not be had, and those in use stay.
        Failed = "failed",
    }
}

vocabulary! {
    /// What the watches of Kubernetes' API server do.
    WatchState as "state" {
        /// All objects are asked for.
        Listing = "listing",
        Watching = "watching",
        /// The last question has failed, and the pause before the next one runs.
        Waiting = "waiting",
    }
}

vocabulary! {
    /// Why objects of Kubernetes are listed.
    ListCause as "cause" {
        Start = "start",
        /// Other services are followed.
        Services = "services",
        /// The server has forgotten what happened since the last list (410).
        Expired = "expired",
        /// The server does not accept where a watch would begin.
        Refused = "refused",
        /// What the server sent cannot be read.
        Unreadable = "unreadable",
    }
}

vocabulary! {
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
}

vocabulary! {
    /// What became of the spans of traced requests.
    SpanOutcome as "outcome" {
        /// The collector has taken them.
        Exported = "exported",
        /// The collector has refused them for good, or the message with them cannot be sent.
        Rejected = "rejected",
        /// In all attempts the collector could not be reached, did not answer or was busy.
        Failed = "failed",
        /// They were never sent: the queue was full, or a reload had turned traces off.
        Dropped = "dropped",
    }
}

vocabulary! {
    /// What was closed or refused because the process takes more memory than it may.
    Shed as "kind" {
        /// A connection or an unfinished head of a client that has not proven an identity.
        Unproven = "unproven",
        /// A new connection.
        Refused = "refused",
        /// A client's connection on which nothing happened.
        Idle = "idle",
        /// A connection to an endpoint that no request used.
        Pooled = "pooled",
    }
}

vocabulary! {
    /// What became of a version for the file of a `sync`.
    SyncOutcome as "outcome" {
        /// It is in its place.
        Applied = "applied",
        /// Its check refused it.
        Refused = "refused",
        /// It could not be written or checked; it is tried again.
        Failed = "failed",
        /// The source does not have the file any more, and the last version stays.
        Deleted = "deleted",
        /// It is in its place, and the application could not be told.
        Untold = "untold",
    }
}

vocabulary! {
    /// A kind of companion of the application.
    #[derive(PartialOrd, Ord)]
    CompanionKind as "companion" { Logs = "logs", Sync = "sync" }
}

/// Labels whose value is a name of the configuration.
macro_rules! named {
    ($($(#[$doc:meta])* $label:ident as $name:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $label(pub Symbol);

        impl Label for $label {
            const NAME: &'static str = $name;

            fn value(self, symbols: &Symbols) -> String {
                symbols.name(self.0).as_ref().to_owned()
            }

            fn other(self) -> Self {
                Self(Symbol::OTHER)
            }
        }
    )+};
}

named! {
    /// The name of a companion.
    NameLabel as "name";
    /// The rule of authorization that decided.
    RuleLabel as "rule";
    /// A route.
    RouteLabel as "route";
    /// A source of the log shipper.
    SourceLabel as "source";
    /// A sink of the log shipper.
    SinkLabel as "sink";
}

vocabulary! {
    /// What became of a record of a shipped file.
    LogOutcome as "outcome" {
        /// The sink has taken it.
        Delivered = "delivered",
        /// The sink has refused it for good.
        Refused = "refused",
        /// It was sent once more.
        Retried = "retried",
    }
}

vocabulary! {
    /// `inbound.authorization.mode`.
    AuthorizationMode as "mode" { Enforce = "enforce", Audit = "audit" }
}

vocabulary! {
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
pub(super) const OTHER_STATUS: u16 = 0;
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
