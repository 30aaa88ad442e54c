//! Exchanges that become tunnels: HTTP/1.1 `Upgrade` (WebSocket and others), CONNECT, and extended CONNECT
//! (RFC 8441), which is the `Upgrade` of HTTP/2.
//!
//! Inside the stack, an extended CONNECT is an upgrade request like that of HTTP/1.1; the form for the version of each
//! side is written where the request or answer leaves. Bytes that a client sends before the answer are not forwarded:
//! they stay in its connection's buffer. An upgrade to `h2c` is ignored: it is not a tunnel but a deprecated way to
//! begin HTTP/2 (RFC 9113, 3.1).

use std::future::ready;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use h2::ext::Protocol;
use http::{HeaderValue, Method, StatusCode, Uri, Version};
use pillion_http1::{Known, Value};
use tokio::sync::oneshot;

use super::body::ResponseTail;
use super::{Body, Exchange, Response};
use crate::state::Route;
use crate::tcp;
use crate::worker::Worker;
use pillion_base::net::Io;
use pillion_http::message::{Headers, Opened, Opening, RequestHead, ResponseHead};
use pillion_http::seen::Seen;
use pillion_model::Direction;
use pillion_telemetry::{Held, Protocol as Carried};

const WEBSOCKET: &[u8] = b"websocket";

/// The kind of tunnel that a request asks for.
#[derive(Debug, Clone)]
pub enum TunnelKind {
    Connect,
    /// An upgrade to the protocol that `Upgrade` or `:protocol` names.
    Upgrade(HeaderValue),
}

/// The downstream's half of a tunnel that the client asked for.
pub struct RequestedTunnel {
    pub kind: TunnelKind,
    on: On,
    version: Version,
    key: Option<HeaderValue>,
}

/// A connection or stream that carries opaque bytes once the tunnel is open.
enum On {
    /// The downstream's: the server of its connection sends it here after the answer.
    Given(oneshot::Receiver<Io>),
    /// The upstream's: it comes with the answer.
    Answered(Opening),
}

impl TunnelKind {
    fn is_websocket(&self) -> bool {
        matches!(self, Self::Upgrade(to) if to.as_bytes().eq_ignore_ascii_case(WEBSOCKET))
    }

    /// The status that tells a client of this version that the tunnel is open.
    pub fn opened(&self, version: Version) -> StatusCode {
        match self {
            Self::Upgrade(_) if version != Version::HTTP_2 => StatusCode::SWITCHING_PROTOCOLS,
            Self::Upgrade(_) | Self::Connect => StatusCode::OK,
        }
    }

    /// Whether this answer opens the tunnel, to a protocol that the client asked for.
    pub fn is_opened_by(&self, status: StatusCode, headers: &Headers, is_http2: bool) -> bool {
        match self {
            Self::Upgrade(to) if !is_http2 => {
                let switched = headers.get(Known::Upgrade);
                status == StatusCode::SWITCHING_PROTOCOLS
                    && switched.is_none_or(|switched| lists(to.as_bytes(), switched))
            }
            Self::Upgrade(_) | Self::Connect => status.is_success(),
        }
    }

    /// Whether the request asks for an upgrade to HTTP/2. Its requests would pass inside the tunnel without being
    /// judged.
    pub fn is_h2c(&self) -> bool {
        matches!(self, Self::Upgrade(to) if is_h2c(to.as_bytes()))
    }
}

/// Whether `one` is among the comma-separated `many`, without regard to case.
fn lists(many: &[u8], one: &[u8]) -> bool {
    many.split(|byte| *byte == b',').any(|listed| listed.trim_ascii().eq_ignore_ascii_case(one.trim_ascii()))
}

/// A cheap first check: `false` for nearly every request.
pub fn may_be_asked(head: &RequestHead, seen: &Seen) -> bool {
    seen.has(Seen::UPGRADE) || head.method == Method::CONNECT
}

/// The tunnel that a request of HTTP/1 asks for, if any. The server of the connection sends the connection through the
/// returned sender when the client has its answer.
pub fn asked_http1(head: &mut RequestHead, body: &Body) -> Option<(RequestedTunnel, oneshot::Sender<Io>)> {
    let kind = match head.method == Method::CONNECT {
        true => TunnelKind::Connect,
        false => TunnelKind::Upgrade(upgrade(head, body)?),
    };
    let (opens, opened) = oneshot::channel();
    Some((RequestedTunnel::new(kind, On::Given(opened), head), opens))
}

/// The tunnel that a request of HTTP/2 asks for, if any. An extended CONNECT is turned into an upgrade request. The
/// server of the stream sends the stream through the returned sender when the client has its answer.
pub fn asked_http2(head: &mut RequestHead) -> Option<(RequestedTunnel, oneshot::Sender<Io>)> {
    if head.method != Method::CONNECT {
        return None;
    }
    let kind = match &head.protocol {
        None => TunnelKind::Connect,
        Some(protocol) => TunnelKind::Upgrade(HeaderValue::from_str(protocol.as_str()).ok()?),
    };
    let (opens, opened) = oneshot::channel();
    Some((RequestedTunnel::new(kind, On::Given(opened), head), opens))
}

impl RequestedTunnel {
    fn new(kind: TunnelKind, on: On, head: &mut RequestHead) -> Self {
        if let TunnelKind::Upgrade(_) = kind {
            head.method = Method::GET;
        }
        let key = map_value(&head.headers, Known::SecWebsocketKey);
        Self { kind, on, version: head.version, key }
    }
}

/// Whether `h2c` (HTTP/2 without TLS) is one of the listed protocols.
fn is_h2c(to: &[u8]) -> bool {
    to.to_ascii_lowercase().split(|byte| *byte == b',').any(|one| one.trim_ascii().starts_with(b"h2c"))
}

fn map_value(headers: &Headers, name: Known) -> Option<HeaderValue> {
    headers.value(name)?.to_map_value(name)
}

/// The value of `Upgrade`. It counts only where `Connection` names it, and not in HTTP/1.0 (RFC 9110, 7.8).
fn upgrade(head: &RequestHead, body: &Body) -> Option<HeaderValue> {
    let to = map_value(&head.headers, Known::Upgrade)?;
    let named = head.headers.all(Known::Connection).any(|value| {
        value.split(|byte| *byte == b',').any(|name| name.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    });
    let is_h2c = is_h2c(to.as_bytes());
    let is_plain_get = head.method == Method::GET && http_body::Body::is_end_stream(body);
    (named && !is_h2c && is_plain_get && head.version == Version::HTTP_11).then_some(to)
}

/// Writes a request for a tunnel in the form of the upstream's version.
pub fn ask(head: &mut RequestHead, kind: &TunnelKind, is_http2: bool) {
    match kind {
        TunnelKind::Connect => ask_to_connect(head, is_http2),
        TunnelKind::Upgrade(to) if is_http2 => {
            head.protocol = Some(Box::new(Protocol::from(to.to_str().unwrap_or_default())));
            head.headers.remove(Known::SecWebsocketKey);
            head.method = Method::CONNECT;
        }
        TunnelKind::Upgrade(to) => {
            head.headers.set(Known::Connection, &HeaderValue::from_static("upgrade"));
            head.headers.set(Known::Upgrade, to);
            if kind.is_websocket() && !head.headers.has(Known::SecWebsocketKey) {
                head.headers.set(Known::SecWebsocketKey, &nonce());
            }
        }
    }
}

fn ask_to_connect(head: &mut RequestHead, is_http2: bool) {
    let authority = head.headers.take(Known::Host);
    let authority = authority.as_ref().and_then(Value::as_str).map(str::to_owned);
    let authority = authority.or_else(|| head.uri.authority().map(ToString::to_string));
    if let Some(Ok(uri)) = authority.map(Uri::try_from) {
        if let (false, Ok(host)) = (is_http2, HeaderValue::from_str(&uri.to_string())) {
            head.headers.set(Known::Host, &host);
        }
        head.uri = uri;
    }
    head.method = Method::CONNECT;
}

/// Takes the upstream's half off an answer that opens the tunnel.
pub fn accept(response: &mut Response) {
    let to = map_value(response.headers(), Known::Upgrade);
    let half = response.body_mut().take_tunnel().unwrap_or_else(|| Box::pin(ready(None)));
    response.head_mut().opened = Some(Box::new(Opened::Switched { half, to }));
}

/// Starts a task that joins the two halves once the downstream has its answer.
pub fn open(asked: RequestedTunnel, mut response: Response, exchange: &Exchange) -> Response {
    let Exchange { worker, connection, .. } = exchange;
    let Some(opened) = response.head_mut().opened.take() else { return response };
    // The drain waits for the connection while the task below holds it.
    let (worker, connection) = (worker.clone(), connection.clone());
    match (*opened, exchange.route()) {
        (Opened::Switched { half, to }, Some(route)) => {
            let tail = response.body_mut().take_response_tail();
            *response.body_mut() = Body::empty();
            log_opened(&asked, to, response.head_mut());
            tokio::spawn(async move {
                let _open = Held::of(&worker.ground.connections_active(connection.direction, Carried::Tcp));
                let most = longest_line(&asked.kind, connection.direction, &worker);
                join(asked.on, On::Answered(half), tail, most, &route, &worker).await;
                drop(connection); // its place in `max_connections` ends here
            });
        }
        (Opened::Switched { .. }, None) => {} // not possible: the answer came over a route
        (Opened::Inside(enter), _) => {
            log_opened(&asked, None, response.head_mut());
            tokio::spawn(async move {
                if let Some(io) = asked.on.io().await {
                    enter(io).await;
                }
                drop(connection);
            });
        }
    }
    response
}

/// Writes the answer in the form of the downstream's version.
fn log_opened(asked: &RequestedTunnel, switched_to: Option<HeaderValue>, head: &mut ResponseHead) {
    let headers = &mut head.headers;
    headers.remove(Known::ContentLength); // RFC 9110, 9.3.6: a tunnel has no content
    headers.remove(Known::TransferEncoding);
    match &asked.kind {
        TunnelKind::Connect => {}
        TunnelKind::Upgrade(_) if asked.version == Version::HTTP_2 => {
            headers.remove(Known::SecWebsocketAccept);
        }
        TunnelKind::Upgrade(to) => {
            headers.set(Known::Connection, &HeaderValue::from_static("upgrade"));
            headers.set(Known::Upgrade, switched_to.as_ref().unwrap_or(to));
            accept_key(asked, headers);
        }
    }
}

/// Adds `Sec-WebSocket-Accept` (RFC 6455, 4.2.2) where the upstream was asked over HTTP/2, which has no key.
fn accept_key(asked: &RequestedTunnel, headers: &mut Headers) {
    let Some(key) = asked.key.as_ref().filter(|_| asked.kind.is_websocket()) else { return };
    if !headers.has(Known::SecWebsocketAccept) {
        headers.set(Known::SecWebsocketAccept, &websocket_accept(key.as_bytes()));
    }
}

fn websocket_accept(key: &[u8]) -> HeaderValue {
    use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat());
    HeaderValue::try_from(BASE64.encode(hash)).unwrap_or(HeaderValue::from_static(""))
}

/// A key for a client that sent none, since HTTP/2 has no key.
fn nonce() -> HeaderValue {
    let random = fastrand::u128(..).to_be_bytes();
    HeaderValue::try_from(BASE64.encode(random)).unwrap_or(HeaderValue::from_static(""))
}

/// The longest first line in which the bytes of a tunnel are searched for HTTP. Some applications answer 200 to a CONNECT
/// without opening a tunnel, and read the bytes after it as requests, which no rule has judged (Go's `net/http` does).
/// A 101 shows that the application has opened an upgrade, so the bytes of upgrades are not searched.
fn longest_line(kind: &TunnelKind, direction: Direction, worker: &Worker) -> Option<usize> {
    let is_searched = direction == Direction::Inbound && matches!(kind, TunnelKind::Connect);
    is_searched.then(|| worker.limits().header_bytes as usize)
}

/// Carries bytes until the tunnel ends, which ends the exchange too.
async fn join(
    ours: On,
    theirs: On,
    mut tail: Box<ResponseTail>,
    most: Option<usize>,
    route: &Route,
    worker: &Worker,
) {
    // A tail that is dropped without an end records that the client went away.
    let Some(mut downstream) = ours.io().await else { return };
    downstream.get_ref().reset_on_drop(); // the client knows the tunnel as open, so a failure must be a reset
    let Some(mut upstream) = theirs.io().await else { return };
    let (ended, reason) = tcp::carry(&mut downstream, &mut upstream, most, route, worker).await;
    tail.tunnel_ended(ended.received, ended.sent, reason);
}

impl On {
    /// The connection or stream. `None`: the tunnel was not opened.
    async fn io(self) -> Option<Io> {
        match self {
            Self::Given(opened) => opened.await.ok(),
            Self::Answered(opening) => opening.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_key_is_that_of_the_rfc() {
        assert_eq!(websocket_accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn each_version_opens_a_tunnel_in_its_own_way() {
        let upgrade = TunnelKind::Upgrade(HeaderValue::from_static("websocket"));
        for (kind, status, is_http2, expected) in [
            (&upgrade, 101, false, true),
            (&upgrade, 200, false, false),
            (&upgrade, 200, true, true),
            (&upgrade, 403, true, false),
            (&TunnelKind::Connect, 200, false, true),
            (&TunnelKind::Connect, 407, false, false),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(
                kind.is_opened_by(status, &Headers::default(), is_http2),
                expected,
                "{kind:?} {status} {is_http2}"
            );
        }
    }

    #[test]
    fn a_switch_must_be_to_what_was_asked_for() {
        for (asked, switched, expected) in [
            ("websocket", "WebSocket", true),
            ("other, websocket", "websocket", true),
            ("websocket", "h2c", false),
            ("websocket", "websocket, h2c", false),
        ] {
            let mut headers = Headers::default();
            headers.set(Known::Upgrade, &HeaderValue::from_static(switched));
            let kind = TunnelKind::Upgrade(HeaderValue::from_static(asked));
            let status = StatusCode::SWITCHING_PROTOCOLS;
            assert_eq!(kind.is_opened_by(status, &headers, false), expected, "{asked} {switched}");
        }
        for (asked, expected) in [("h2c", true), ("websocket, H2C", true), ("websocket", false)] {
            assert_eq!(TunnelKind::Upgrade(HeaderValue::from_static(asked)).is_h2c(), expected, "{asked}");
        }
    }
}
