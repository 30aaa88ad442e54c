//! The innermost service of both stacks: picks an endpoint, takes a connection, sends the request, and tells outlier
//! detection how the endpoint did.

mod families;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Uri, Version};
use pillion_model::cluster::ClusterKind;
use tokio::time::Instant;
use tower::{Service as _, ServiceBuilder, service_fn};

use crate::connection::Destination;
use crate::exchange::attempts::{AttemptId, AttemptOutcome};
use crate::http::call::RequestContext;
use crate::http::tunnel;
use crate::http::{Body, Call, Exchange, FailedCall, Response};
use crate::layers::headers::tell_passes;
use crate::layers::limit::upload_failure;
use crate::layers::{HttpService, limit, retry};
use crate::state::Route;
use pillion_base::boxed::{boxed, pinned};
use pillion_base::error::{Error, Sent};
use pillion_http::expect;
use pillion_http::framing;
use pillion_http::h2::send::OutgoingBody as _;
use pillion_http::head::HeadLimits;
use pillion_http::headers::{grpc_status, grpc_timeout_value, join_cookies, reason_of_sidecar};
use pillion_http::message::RequestHead;
use pillion_http::seen::Seen;
use pillion_http::transfer::Carrier;
use pillion_http1::{Known, Value};
use pillion_model::Reason;
use pillion_upstream::cluster::endpoint::{Endpoint, InFlight, Preference};
use pillion_upstream::cluster::outlier::Cause;
use pillion_upstream::cluster::{Cluster, ClusterProtocol};
use pillion_upstream::lease::{Lease, Patience, SendFailure};

use families::Wish;

/// The innermost service. Its future is boxed because it is by far the largest, and the layers above would move it.
pub fn service() -> impl HttpService {
    service_fn(|call: Box<Call>| pinned(|| dispatch(call)))
}

/// Carries a request that the sidecar itself makes: within the limits of its cluster, and again where a connection from
/// the pool had just been closed.
pub fn of_ours(call: Box<Call>) -> Pin<Box<dyn Future<Output = Result<Response, FailedCall>> + Send>> {
    let mut stack = ServiceBuilder::new().layer(retry::layer()).layer(limit::layer()).service(service());
    Box::pin(async move { stack.call(call).await })
}

async fn dispatch(mut call: Box<Call>) -> Result<Response, FailedCall> {
    let route = match routed(&call) {
        Ok(route) => route,
        Err(error) => return Err(FailedCall::untouched(error, call)),
    };
    let cluster = &route.cluster;
    let Some(mut trial) = Trial::begin(cluster, &call) else {
        return Err(FailedCall::untouched(cluster.no_endpoint(), call));
    };
    let most_fields = call.common.exchange.worker.limits().response_header_count;
    let wish = Wish::of(&call, cluster, most_fields);
    let connected = match wish.at_once(&trial.endpoint) {
        Some(lease) => Ok(lease),
        None => Box::pin(wish.connect(&mut trial)).await,
    };
    let mut carried = match connected {
        Ok(lease) => boxed(|| Carried { lease, in_flight: None }),
        Err(error) => {
            trial.failed(&error);
            return Err(FailedCall::untouched(error, call));
        }
    };
    call.body.watch_request_once(&call.common.exchange, cluster.max_body);
    let lease = &mut carried.lease;
    let (before, mut target) = prepare(&mut call, lease, cluster);
    trial.sent(lease, call.number);
    lease.hold(call.permit.take(), patience(&route, lease));
    let Call { head, body, common, .. } = &mut *call;
    match lease.send((head, &mut target), body, &common.exchange).await {
        Ok(mut response) => {
            receive(&mut response, &call, &route, &mut carried, &mut trial, most_fields)?;
            carry(&mut response, carried, trial);
            Ok(response)
        }
        Err(failure) => {
            let failure = match failure.is_large_head {
                true => large_head(most_fields, &carried.lease, cluster, &trial.endpoint).into(),
                false => explain(failure, call, before, cluster, &trial.endpoint),
            };
            trial.failed(&failure.error);
            Err(failure)
        }
    }
}

/// The route of the request, if its cluster can carry the request.
fn routed(call: &Call) -> Result<Arc<Route>, Error> {
    let refused = |detail: &'static str| Err(Error::new(Reason::NoRoute, detail));
    match &call.common.route {
        None => refused("the request reached dispatch without a route, which is a bug in the sidecar"),
        Some(route) if call.common.is_grpc && route.cluster.protocol == ClusterProtocol::Http1 => {
            refused("gRPC needs HTTP/2, and the service's `protocol` is http1")
        }
        Some(route) => Ok(route.clone()),
    }
}

/// Judges an answer, and prepares it to be forwarded.
fn receive(
    response: &mut Response,
    call: &Call,
    route: &Route,
    carried: &mut Carried,
    trial: &mut Trial<'_>,
    most_fields: u32,
) -> Result<(), FailedCall> {
    let lease = &mut carried.lease;
    let other = || switched_unasked(&route.cluster, &trial.endpoint);
    if let Err(error) = accept(call, response, lease.is_http2(), other) {
        trial.failed(&error);
        return Err(error.into());
    }
    let seen = Seen::of(response.headers());
    if let Err(why) = checked(response, &seen, lease, most_fields) {
        let error = not_forwarded(&why, &route.cluster, &trial.endpoint);
        trial.failed(&error);
        return Err(error.into());
    }
    let (is_sidecar, is_ours) = (lease.is_sidecar(), seen.has(Seen::OURS));
    let refused = is_ours && is_sidecar && response.headers().has(Known::XPillionRefused);
    let grpc_status = if call.common.is_grpc { grpc_status(response.headers()) } else { None };
    trial.answered(response.status(), grpc_status, refused);
    if is_sidecar {
        lease.learn_spelling(response, is_ours);
    }
    // Only bad answers have a reason. For gRPC these have status 200, too.
    let is_bad = is_sidecar && (response.status().as_u16() >= 400 || call.common.is_grpc);
    if is_bad || call.attempt != AttemptId::FIRST {
        let reason = if is_bad { reason_of_sidecar(response.headers()) } else { None };
        trial.exchange.answered_by_sidecar(reason);
    }
    if is_ours && !is_sidecar {
        response.headers_mut().remove(Known::XPillionRefused); // only a verified sidecar may refuse
    }
    response.body_mut().response_tail().seen = Some(seen);
    Ok(())
}

/// Attaches the connection to the response, so that it is held until the response's last byte.
fn carry(response: &mut Response, mut carried: Box<Carried>, mut trial: Trial<'_>) {
    carried.in_flight = Some(trial.end());
    response.body_mut().response_tail().carrier = Some(carried);
}

/// Which version of HTTP the request prefers. A tunnel needs an HTTP/1.1 connection of its own, unless the endpoint
/// only accepts HTTP/2.
fn preference(call: &Call, cluster: &Cluster) -> Preference {
    let is_http2 = match cluster.protocol {
        ClusterProtocol::AppAuto => call.common.is_grpc,
        _ => call.common.is_grpc || call.head.version == Version::HTTP_2,
    };
    let stays_http2 = match cluster.protocol {
        ClusterProtocol::Http2 => true,
        ClusterProtocol::Auto => is_http2 && cluster.tls().is_none(),
        _ => false,
    };
    match call.common.tunnel.is_some() {
        true if !stays_http2 => Preference::OnlyHttp1,
        _ if is_http2 => Preference::Http2,
        _ => Preference::Http1,
    }
}

/// How long the request keeps its place among `max_requests` after its client has given it up. Over HTTP/2 only a
/// request to the application keeps it: nothing would tell that a service has ended one, and a service of the mesh
/// counts its own.
fn patience(route: &Route, lease: &Lease) -> Patience {
    match route.cluster.kind {
        ClusterKind::Service | ClusterKind::Passthrough if lease.is_http2() => Patience::NONE,
        ClusterKind::Service | ClusterKind::Passthrough => Patience::of(route.timeouts.request.bound()),
        ClusterKind::Application => Patience::of(route.timeouts.request.bound()).of_application(),
    }
}

/// Takes the upstream's half of a tunnel, if the answer opens the tunnel that the request asked for. `other`: the error
/// if it opens another one.
fn accept(
    call: &Call,
    response: &mut Response,
    is_http2: bool,
    other: impl FnOnce() -> Error,
) -> Result<(), Error> {
    match &call.common.tunnel {
        Some(kind) if kind.is_opened_by(response.status(), response.headers(), is_http2) => {
            tunnel::accept(response);
            *response.status_mut() = kind.opened(call.head.version);
            Ok(())
        }
        _ if response.status() == http::StatusCode::SWITCHING_PROTOCOLS => Err(other()),
        _ => Ok(()),
    }
}

fn switched_unasked(cluster: &Cluster, endpoint: &Endpoint) -> Error {
    let (address, name) = (endpoint.address, &cluster.name);
    let detail = format!("{address} of \"{name}\" {SWITCHED}; {CHECK_PORT}");
    Error::new(Reason::UpgradeFailed, detail).sent(Sent::Perhaps)
}

const SWITCHED: &str = "switched to a protocol that the request did not ask for";
const CHECK_PORT: &str = "check its port, and the service's `protocol`";
const SEE_ITS_LOG: &str = "its own log may say why";

/// Checks the head of an answer before it is forwarded. `Err`: why it cannot be forwarded.
fn checked(response: &mut Response, seen: &Seen, lease: &mut Lease, most_fields: u32) -> Result<(), String> {
    let (fields, most) =
        (response.headers().len(), HeadLimits::of_answers(most_fields, lease.is_sidecar()).fields);
    if fields > most as usize {
        return Err(format!(
            "it has {fields} header fields, more than {most} (limits.response_header_count)"
        ));
    }
    if response.opens_tunnel() {
        return Ok(()); // a tunnel has no framing (RFC 9110, 9.3.6)
    }
    let status = response.status();
    framing::check_answer(status, response.headers_mut(), seen).map_err(|fault| fault.to_string())
}

/// The error for an answer whose head exceeds the limits.
fn large_head(most_fields: u32, lease: &Lease, cluster: &Cluster, endpoint: &Endpoint) -> Error {
    let HeadLimits { fields, bytes, .. } = HeadLimits::of_answers(most_fields, lease.is_sidecar());
    let why = format!(
        "it has more than {fields} header fields (limits.response_header_count), or {bytes} bytes of them"
    );
    not_forwarded(&why, cluster, endpoint)
}

fn not_forwarded(why: &str, cluster: &Cluster, endpoint: &Endpoint) -> Error {
    let (address, name) = (endpoint.address, &cluster.name);
    let detail = format!("the answer of {address} of \"{name}\" cannot be forwarded: {why}");
    Error::new(Reason::ProtocolError, detail).sent(Sent::Perhaps)
}

/// The parts of a head that [`prepare`] changes, as they were before.
struct OriginalHead {
    method: Method,
    uri: Option<Uri>,
}

/// Puts the request into the form of the connection's version. [`restore`] undoes it; the host is kept in `common`. The
/// second value is the target over HTTP/2. It is not written into the head, because further tries share that.
fn prepare(call: &mut Call, lease: &Lease, cluster: &Cluster) -> (OriginalHead, Option<Uri>) {
    let mut before = OriginalHead { method: call.head.method.clone(), uri: None };
    let Call { head, body, common, seen, .. } = call;
    let tells = lease.is_sidecar() || common.exchange.connection.is_own;
    match (tells, head.headers.has(Known::XPillionVia)) {
        (true, false) => tell_passes(&mut Arc::make_mut(head).headers, common),
        (false, true) => drop(Arc::make_mut(head).headers.remove(Known::XPillionVia)),
        _ => {}
    }
    if let (Some(deadline), true) = (common.deadline, common.is_grpc) {
        let left = deadline.saturating_duration_since(Instant::now());
        Arc::make_mut(head).headers.set(Known::GrpcTimeout, &grpc_timeout_value(left));
    }
    let mut target = None;
    if lease.is_http2() {
        let scheme = if cluster.tls().is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        let host = common.host.as_ref().map(Value::as_bytes).unwrap_or_default();
        let authority = common.exchange.connection.authority(host);
        target = Some(absolute(path(&head.uri), authority, scheme));
    } else {
        if head.uri.authority().is_some() && !keeps_form(head, common, cluster) {
            let origin_form = Uri::from(path(&head.uri));
            before.uri = Some(std::mem::replace(&mut Arc::make_mut(head).uri, origin_form));
        }
        if seen.has(Seen::COOKIE) && head.version == Version::HTTP_2 {
            join_cookies(&mut Arc::make_mut(head).headers);
        }
        if let (Some(host), false) = (&common.host, common.names_host) {
            Arc::make_mut(head).headers.put(Known::Host, host);
        }
    }
    if let Some(kind) = &common.tunnel {
        common.names_host = false; // a CONNECT names its host in the target
        before.uri.get_or_insert_with(|| head.uri.clone());
        let head = Arc::make_mut(head);
        if let Some(target) = target.take() {
            head.headers.remove(Known::Host);
            head.uri = target;
        }
        tunnel::ask(head, kind, lease.is_http2());
    }
    if common.waits_to_send {
        let timers = &common.exchange.worker.ground.timers;
        *body = Body::gated(expect::ask_first(&mut Arc::make_mut(head).headers, body.take(), timers));
    }
    (before, target)
}

/// Undoes [`prepare`] for a request of which nothing was sent: the next endpoint may speak another version, or may not
/// be a sidecar.
fn restore(call: &mut Call, before: OriginalHead) {
    let waits_to_send = call.common.waits_to_send;
    let head = call.head_mut();
    head.method = before.method;
    if let Some(uri) = before.uri {
        head.uri = uri;
    }
    head.protocol = None;
    for ours in [Known::Connection, Known::Upgrade] {
        head.headers.remove(ours);
    }
    if waits_to_send {
        head.headers.remove(Known::Expect);
    }
    call.body = call.body.take().ungated();
}

/// Whether the target stays in absolute-form: the client meant it for the destination, not for this proxy.
fn keeps_form(head: &RequestHead, common: &RequestContext, cluster: &Cluster) -> bool {
    let is_named = matches!(common.exchange.connection.destination, Destination::Named);
    let is_theirs = cluster.kind != ClusterKind::Service;
    is_theirs && !is_named && head.version != Version::HTTP_2 && head.uri.scheme().is_some()
}

/// The path and query of a target. Absolute-form may leave out the slash before a query, so it is added for the other
/// forms.
fn path(uri: &Uri) -> PathAndQuery {
    const ROOT: PathAndQuery = PathAndQuery::from_static("/");
    match uri.path_and_query() {
        Some(path) if path.as_str().starts_with('?') => format!("/{}", path.as_str()).parse().unwrap_or(ROOT),
        Some(path) => path.clone(),
        None => ROOT,
    }
}

/// Adds scheme and authority for HTTP/2's pseudo-headers. A host that is not a valid authority is left out.
fn absolute(path: PathAndQuery, authority: Option<Authority>, scheme: Scheme) -> Uri {
    let mut parts = http::uri::Parts::default();
    if authority.is_some() {
        parts.scheme = Some(scheme);
    }
    parts.authority = authority;
    parts.path_and_query = Some(path.clone());
    Uri::from_parts(parts).unwrap_or_else(|_invalid| Uri::from(path))
}

/// The connection of an answer. The request counts as under way at its endpoint while this exists.
struct Carried {
    lease: Lease,
    in_flight: Option<InFlight>,
}

impl Carrier for Carried {
    fn give_back(self: Box<Self>) {
        let Self { lease, in_flight } = *self;
        lease.give_back();
        drop(in_flight);
    }
}

/// The failure of a call without an answer. It has the call, if nothing of the call was sent.
fn explain(
    failure: SendFailure,
    mut call: Box<Call>,
    before: OriginalHead,
    cluster: &Cluster,
    endpoint: &Endpoint,
) -> FailedCall {
    let exchange = call.common.exchange.clone();
    if let Some(error) = upload_failure(&exchange, cluster.max_body) {
        return error.into();
    }
    let (address, name, detail) = (endpoint.address, &cluster.name, failure.detail);
    let (what, next) = match failure.reason {
        Reason::ProtocolError => ("sent an answer that is not valid HTTP", CHECK_PORT),
        Reason::UpstreamReset => ("reset the request", SEE_ITS_LOG),
        Reason::UpgradeFailed => (SWITCHED, CHECK_PORT),
        _ => ("closed the connection before it answered", SEE_ITS_LOG),
    };
    let detail = match failure.reason {
        Reason::TlsError => format!("TLS with {address} of \"{name}\" failed: {detail}"),
        _ => format!("{address} of \"{name}\" {what}: {detail}; {next}"),
    };
    let error = Error::new(failure.reason, detail).sent(failure.sent).of_our_fault(failure.is_our_fault);
    if !failure.is_unsent {
        return error.into();
    }
    restore(&mut call, before);
    FailedCall::untouched(error, call)
}

/// One attempt at one endpoint. However it ends, outlier detection gets one result.
struct Trial<'a> {
    endpoint: Arc<Endpoint>,
    cluster: &'a Cluster,
    exchange: Arc<Exchange>,
    attempt: AttemptId,
    in_flight: Option<InFlight>,
    began: Instant,
    /// Whether it is the first try of its request.
    is_first: bool,
    is_sent: bool,
    is_judged: bool,
}

impl<'a> Trial<'a> {
    /// Picks an endpoint that was not tried yet for this request, if there is one.
    fn begin(cluster: &'a Cluster, call: &Call) -> Option<Self> {
        let exchange = call.common.exchange.clone();
        let is_first = call.attempt == AttemptId::FIRST; // the exchange has just begun: its time saves a read of the clock
        let began = if is_first { exchange.started } else { Instant::now() };
        let (mut tried, key) = exchange.tried();
        let endpoint = cluster.pick(&mut tried, key, began, &mut exchange.worker.ground.rng.lock())?;
        exchange.picked(call.attempt, &endpoint, began);
        Some(Self {
            in_flight: Some(InFlight::at(&endpoint)),
            endpoint,
            cluster,
            exchange,
            attempt: call.attempt,
            began,
            is_first: call.number <= 1,
            is_sent: false,
            is_judged: false,
        })
    }

    /// The request goes to another endpoint than the one that was picked first, which it left with this outcome.
    fn moves_to(&mut self, endpoint: Arc<Endpoint>, left: AttemptOutcome) {
        self.in_flight = Some(InFlight::at(&endpoint));
        self.exchange.moved(self.attempt, &endpoint, left, Instant::now());
        self.endpoint = endpoint;
    }

    /// Notes that the request is about to be sent. The endpoint's time begins here.
    fn sent(&mut self, lease: &Lease, number: u32) {
        self.began = Instant::now();
        self.is_sent = true;
        let (service, connection) = (&*self.cluster.name, if lease.is_reused() { "reused" } else { "new" });
        let endpoint = self.endpoint.address;
        tracing::debug!(request = self.exchange.id(), attempt = number, service, %endpoint, connection, "try sent");
        self.exchange.note_attempt(self.attempt, |attempt| {
            (attempt.connected, attempt.sent) = (Some(self.began), Some(self.began));
            attempt.is_reused = lease.is_reused();
        });
    }

    fn answered(&mut self, status: http::StatusCode, grpc_status: Option<u8>, refused: bool) {
        let now = Instant::now();
        let outcome = match refused {
            true => AttemptOutcome::Refused(status.as_u16()),
            false => AttemptOutcome::Answered(status.as_u16()),
        };
        self.exchange.note_attempt(self.attempt, |attempt| {
            (attempt.first_byte, attempt.grpc_status) = (Some(now), grpc_status);
            attempt.end(outcome, now);
        });
        self.is_judged = true;
        let (took, endpoint) = (now - self.began, self.endpoint.address);
        tracing::debug!(request = self.exchange.id(), %endpoint, status = status.as_u16(), ?took, "try answered");
        let cause = Cause::of_status(status);
        // How quickly an endpoint fails says nothing about how long its work takes.
        if !refused && cause.is_none() {
            self.cluster.note_latency(took, now);
        }
        match cause {
            // A sidecar may be busy (503) without fault; a failure of its application (502, 504) counts.
            Some(_) if refused && status == http::StatusCode::SERVICE_UNAVAILABLE => {
                self.endpoint.outlier.on_neither(now.into_std());
            }
            None => self.endpoint.answered(took, self.cluster, now.into_std()),
            Some(cause) => self.endpoint.failed(took, cause, self.cluster, now.into_std()),
        }
    }

    fn failed(&mut self, error: &Error) {
        self.is_judged = true;
        let endpoint = self.endpoint.address;
        tracing::debug!(request = self.exchange.id(), %endpoint, reason = error.reason.code(), %error, "try failed");
        self.exchange.end_attempt(self.attempt, AttemptOutcome::Failed(error.reason), Instant::now());
        match Cause::of(error) {
            None if error.sent == Sent::OnStaleConnection => {
                self.endpoint.lost_connection(self.cluster, Instant::now().into_std());
            }
            cause => self.judge(cause),
        }
    }

    fn judge(&self, cause: Option<Cause>) {
        let now = Instant::now();
        match cause {
            Some(cause) => self.endpoint.failed(now - self.began, cause, self.cluster, now.into_std()),
            None => self.endpoint.outlier.on_neither(now.into_std()),
        }
    }

    /// Hands the count of the request at its endpoint to the answer's body.
    fn end(&mut self) -> InFlight {
        self.in_flight.take().unwrap_or_else(|| InFlight::at(&self.endpoint))
    }
}

/// Judges an attempt that is dropped without an outcome: a timeout counts against the endpoint, a client that went away
/// does not.
impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if !self.is_judged {
            let gone = AttemptOutcome::Failed(Reason::ClientGone);
            let ended = self.exchange.end_attempt(self.attempt, gone, Instant::now());
            // A client that has not sent its whole request may itself be slow.
            if self.is_sent && !self.exchange.progress.is_unfinished() {
                let now = Instant::now();
                self.cluster.note_latency_of_at_least(now - self.began, now);
            }
            if ended == Some(AttemptOutcome::Outrun) && self.is_sent {
                let now = Instant::now();
                return self.endpoint.outrun(now - self.began, self.is_first, self.cluster, now.into_std());
            }
            // Time in the sidecar's own queue and a client that stalls are not the endpoint's fault.
            let is_its_fault = match ended {
                Some(AttemptOutcome::Expired(reason)) => self.is_sent && reason != Reason::RequestStalled,
                _ => false,
            };
            self.judge(is_its_fault.then_some(Cause::Timeout));
        }
    }
}
