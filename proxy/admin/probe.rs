//! `/probe/NAME`: sends the configured health check to the application and returns its result.
//!
//! This serves kubelets, which have no certificate for a strict mTLS port: the check does not go through the inbound
//! port. Only the name comes from the request, so a client of the metrics port can only choose among the operator's
//! probes. Equal checks at the same moment are sent once ([`shared`]), so no client can displace the kubelet.

pub(super) mod bounded;
mod grpc;
mod shared;

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use http::header::{CONNECTION, HOST, HeaderValue, USER_AGENT};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pillion_model::listener::{AppProtocol, Inbound, Probe, Question, RedirectTo};

use super::answer::{Answer, text};
use bounded::bounded;
use pillion_base::net::{Leg, Network, Transport};
use pillion_sidecar::state::Snapshot;
use shared::Questions;

/// The longest time from the first packet to the last byte of the response. The kubelet waits as long as its
/// `timeoutSeconds` says (1 s by default) and then closes, which ends the check. This limit ends checks whose clients
/// wait longer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of the application's response that are passed on: enough for a reason, not for a page.
const ANSWER_BYTES: usize = 1024;
/// Bytes of a response's head.
const HEAD_BYTES: usize = 64 * 1024;
/// The address of the application if none is configured.
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const AGENT: HeaderValue = HeaderValue::from_static(concat!("pillion-probe/", env!("CARGO_PKG_VERSION")));

/// Sends health checks, for all connections of the admin and metrics ports.
#[derive(Clone)]
pub(super) struct Prober {
    network: Network,
    questions: Questions,
}

/// A check of the application at an address. Equal inquiries have equal results.
#[derive(Debug, Clone, PartialEq)]
struct Inquiry {
    probe: Probe,
    to: SocketAddr,
    over_http2: bool,
}

/// Why the application does not count as healthy. It is one sentence, because kubelet writes it into an event.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeFailure {
    #[error("{0} is the sidecar's own port, not the application's")]
    Own(SocketAddr),
    #[error("cannot connect to {0}: {1}")]
    Unreachable(SocketAddr, #[source] io::Error),
    #[error("no answer from {0} within {s} s", s = TIMEOUT.as_secs())]
    Silent(SocketAddr),
    #[error("{0} broke off: {1}")]
    BrokeOff(SocketAddr, #[source] hyper::Error),
    #[error("{0} answers with more than {kib} KiB", kib = bounded::MOST / 1024)]
    TooLong(SocketAddr),
    #[error("{0} answered {1}, which is not a final response")]
    Unfinished(SocketAddr, StatusCode),
    #[error("the request cannot be written: {0}")]
    Unaskable(#[from] http::Error),
    #[error("{0} says: {1}")]
    Grpc(SocketAddr, grpc::NotServing),
}

impl Prober {
    pub(super) fn new(network: Network) -> Self {
        Self { network, questions: Questions::default() }
    }

    /// `asked_at` is the sidecar's address of the connection that asks for the probe.
    pub(super) async fn answer(&self, name: &str, now: &Snapshot, asked_at: Option<IpAddr>) -> Answer {
        let inbound = now.inbound.as_ref().map(|side| &side.policy);
        let probes = inbound.map_or(&[][..], |inbound| &inbound.probes);
        let (Some(inbound), Some(probe)) = (inbound, probes.iter().find(|probe| probe.name == name)) else {
            return text(StatusCode::NOT_FOUND, unknown(probes));
        };
        let to = target(inbound, probe.port, asked_at);
        if now.own.contains(to) {
            return failure_answer(&ProbeFailure::Own(to));
        }
        let over_http2 = speaks_http2(inbound, probe.port);
        let inquiry = Inquiry { probe: probe.clone(), to, over_http2 };
        let network = self.network.clone();
        self.questions.ask(inquiry, |inquiry| ask(network, inquiry)).await
    }
}

async fn ask(network: Network, inquiry: Inquiry) -> Answer {
    let Inquiry { probe, to, over_http2 } = inquiry;
    let asked = async {
        let connected = network.connect(to, Leg::Inbound, None).await;
        let io = Transport::plain(connected.map_err(|error| ProbeFailure::Unreachable(to, error))?);
        answered(io, &probe.asks, to, &to.to_string(), over_http2).await
    };
    let asked = tokio::time::timeout(TIMEOUT, asked).await.unwrap_or(Err(ProbeFailure::Silent(to)));
    asked.unwrap_or_else(|why| failure_answer(&why))
}

/// Puts a question to the server `to` over an open connection. Returns the status of its answer.
pub(crate) async fn put(
    io: Transport,
    asks: &Question,
    to: SocketAddr,
    host: &str,
    over_http2: bool,
) -> Result<StatusCode, ProbeFailure> {
    answered(io, asks, to, host, over_http2).await.map(|answer| answer.status())
}

async fn answered(
    io: Transport,
    asks: &Question,
    to: SocketAddr,
    host: &str,
    over_http2: bool,
) -> Result<Answer, ProbeFailure> {
    let io = bounded(io, bounded::MOST);
    match asks {
        Question::Tcp => Ok(text(StatusCode::OK, "open\n")),
        Question::Http { path } if over_http2 => http2(io, to, host, path).await,
        Question::Http { path } => http1(io, to, host, path).await,
        Question::Grpc { service } => grpc::ask(io, to, host, service).await,
    }
}

fn failure_answer(why: &ProbeFailure) -> Answer {
    text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"))
}

impl ProbeFailure {
    fn broke_off(to: SocketAddr, error: hyper::Error) -> Self {
        match bounded::is_too_long(&error) {
            true => Self::TooLong(to),
            false => Self::BrokeOff(to, error),
        }
    }
}

fn unknown(probes: &[Probe]) -> String {
    let names: Vec<&str> = probes.iter().map(|probe| &*probe.name).collect();
    match names.is_empty() {
        true => "inbound.probes has no probe\n".to_owned(),
        false => format!("the known probes are {}\n", names.join(", ")),
    }
}

/// The address of this port of the application: the configured one, else the address to which the client connected,
/// which in a pod is the pod's.
fn target(inbound: &Inbound, port: u16, asked_at: Option<IpAddr>) -> SocketAddr {
    if let Some(app) = inbound.app.filter(|app| app.port() == port) {
        return app;
    }
    let has_own_listener = inbound.ports.get(&port).is_some_and(|policy| !policy.listen.is_empty());
    let ip = match asked_at {
        _ if has_own_listener => inbound.app.map_or(LOOPBACK, |app| app.ip()),
        Some(ip) if inbound.redirect_to == RedirectTo::Original => ip.to_canonical(),
        Some(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_none() => Ipv6Addr::LOCALHOST.into(),
        _ => LOOPBACK,
    };
    (ip, port).into()
}

/// Whether HTTP/2 is declared for the port, as for the application's other traffic. Before the first byte there is no
/// other way to know it.
fn speaks_http2(inbound: &Inbound, port: u16) -> bool {
    let single = inbound.ports.get(&port).and_then(|policy| policy.protocol);
    single.unwrap_or(inbound.protocol) == AppProtocol::Http2
}

async fn http1(io: Transport, to: SocketAddr, host: &str, path: &str) -> Result<Answer, ProbeFailure> {
    let question = Request::get(path).header(HOST, host).header(USER_AGENT, AGENT);
    let question = question.header(CONNECTION, "close").body(Full::<Bytes>::default())?;
    let broke_off = |error| ProbeFailure::broke_off(to, error);
    let handshake = http1::Builder::new().max_buf_size(HEAD_BYTES).handshake(TokioIo::new(io)).await;
    let (mut send, conn) = handshake.map_err(broke_off)?;
    let answer = async { read_answer(send.send_request(question).await.map_err(broke_off)?, to).await };
    driven(conn, answer).await
}

async fn http2(io: Transport, to: SocketAddr, host: &str, path: &str) -> Result<Answer, ProbeFailure> {
    let question = Request::get(format!("http://{host}{path}")).header(USER_AGENT, AGENT);
    let question = question.body(Full::<Bytes>::default())?;
    let answered = async |answer| read_answer(answer, to).await;
    over_http2(io, to, question, answered).await
}

/// `then` reads the response while the connection is open.
async fn over_http2<T>(
    io: Transport,
    to: SocketAddr,
    question: Request<Full<Bytes>>,
    then: impl AsyncFnOnce(Response<Incoming>) -> Result<T, ProbeFailure>,
) -> Result<T, ProbeFailure> {
    let broke_off = |error| ProbeFailure::broke_off(to, error);
    let handshake = http2::Builder::new(TokioExecutor::new())
        .max_header_list_size(u32::try_from(HEAD_BYTES).unwrap_or(u32::MAX))
        .handshake(TokioIo::new(io))
        .await;
    let (mut send, conn) = handshake.map_err(broke_off)?;
    let answer = async { then(send.send_request(question).await.map_err(broke_off)?).await };
    driven(conn, answer).await
}

/// Drives the connection; it lives no longer than the check.
async fn driven<T>(conn: impl Future, asking: impl Future<Output = T>) -> T {
    let (mut conn, mut asking) = (pin!(conn), pin!(asking));
    tokio::select! {
        biased;
        answer = &mut asking => answer, // the connection is dropped, and closed with that
        _ = &mut conn => asking.await, // the response has what the connection had read
    }
}

/// The status, and the beginning of the body.
async fn read_answer(answer: Response<Incoming>, to: SocketAddr) -> Result<Answer, ProbeFailure> {
    let status = answer.status();
    match status.is_informational() {
        true => Err(ProbeFailure::Unfinished(to, status)),
        false => Ok(text(status, beginning(&mut answer.into_body()).await)),
    }
}

/// At most [`ANSWER_BYTES`]; fewer if the body breaks off, because the status is known anyway.
async fn beginning(body: &mut Incoming) -> Bytes {
    let mut read = Vec::new();
    while read.len() < ANSWER_BYTES
        && let Some(Ok(frame)) = body.frame().await
    {
        if let Ok(data) = frame.into_data() {
            read.extend(data.iter().take(ANSWER_BYTES - read.len()));
        }
    }
    read.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inbound(text: &str) -> Inbound {
        let file = format!("inbound: {{ {text} }}");
        let (config, _) = pillion_config::parse(&file, std::path::Path::new("")).expect("a good file");
        config.inbound.expect("an inbound side")
    }

    #[test]
    fn a_probe_goes_to_the_configured_address_or_to_that_of_the_client() {
        let table = [
            ("", "10.0.0.1", "10.0.0.1:8080"),
            ("", "fd00::1", "[fd00::1]:8080"),
            ("", "127.0.0.1", "127.0.0.1:8080"),
            ("", "::ffff:10.0.0.1", "10.0.0.1:8080"),
            ("redirect_to: loopback", "10.0.0.1", "127.0.0.1:8080"),
            ("redirect_to: loopback", "fd00::1", "[::1]:8080"),
            ("app: \"10.9.0.9:8080\"", "10.0.0.1", "10.9.0.9:8080"),
            ("app: \"10.9.0.9:80\"", "10.0.0.1", "10.0.0.1:8080"),
            ("app: \"10.9.0.9:80\", ports: { 8080: { listen: \"0.0.0.0:1\" } }", "10.0.0.1", "10.9.0.9:8080"),
            ("ports: { 8080: { listen: \"0.0.0.0:1\" } }", "10.0.0.1", "127.0.0.1:8080"),
        ];
        for (text, asked_at, expected) in table {
            let asked_at = asked_at.parse().expect("an address");
            let to = target(&inbound(text), 8080, Some(asked_at));
            assert_eq!(to.to_string(), expected, "{text} asked at {asked_at}");
        }
        assert_eq!(target(&inbound(""), 8080, None).to_string(), "127.0.0.1:8080");
    }

    #[test]
    fn http2_is_spoken_where_it_is_declared() {
        assert!(!speaks_http2(&inbound(""), 8080));
        assert!(speaks_http2(&inbound("protocol: http2"), 8080));
        assert!(speaks_http2(&inbound("ports: { 8080: { protocol: http2 } }"), 8080));
        assert!(!speaks_http2(&inbound("protocol: http2, ports: { 8080: { protocol: http1 } }"), 8080));
    }
}
