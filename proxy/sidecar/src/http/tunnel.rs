//! Exchanges that become tunnels: HTTP/1.1 `Upgrade` (WebSocket and others), CONNECT, and extended CONNECT
//! (RFC 8441), which is HTTP/2's way of saying `Upgrade`.
//!
//! On the way through the stack an extended CONNECT is an upgrade request like HTTP/1.1's; what each side's version
//! wants is written at its edge. Nothing that a client sends before the answer goes further than its connection's buffer.
//! An upgrade to `h2c` is no tunnel but another way to speak HTTP/2, long deprecated (RFC 9113, 3.1): ignored.

use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use h2::ext::Protocol;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, StatusCode, Uri, Version};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::body::ResponseTail;
use super::{Body, Exchange, Response};
use crate::state::Route;
use crate::tcp;
use crate::worker::Worker;
use pillion_base::net::Io;
use pillion_http::body::Opening;
use pillion_http::seen::Seen;
use pillion_telemetry::{Held, Protocol as Carried};

const SEC_WEBSOCKET_KEY: HeaderName = header::SEC_WEBSOCKET_KEY;
const SEC_WEBSOCKET_ACCEPT: HeaderName = header::SEC_WEBSOCKET_ACCEPT;
const WEBSOCKET: &[u8] = b"websocket";

/// What a request wants to become.
#[derive(Debug, Clone)]
pub enum TunnelKind {
    Connect,
    /// To what `Upgrade` or `:protocol` names.
    Upgrade(HeaderValue),
}

/// The downstream's half of a tunnel that was asked for.
pub struct Asked {
    pub kind: TunnelKind,
    on: On,
    version: Version,
    key: Option<HeaderValue>,
}

/// A connection or stream that will be bytes alone, once that is settled on both sides.
enum On {
    /// Whoever has it hands it over.
    Given(oneshot::Receiver<Io>),
    /// The upstream's.
    Answered(Opening),
}

/// Carries what runs inside a CONNECT, to its end. Given by the side that answered it.
pub type Enter = Box<dyn FnOnce(Io) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// The upstream's half, on the way back to the downstream's. Rides on the response.
#[derive(Clone)]
pub struct Accepted(Arc<Mutex<Option<Upstream>>>);

enum Upstream {
    /// The endpoint has switched.
    Switched { on: Box<On>, to: Option<HeaderValue>, route: Arc<Route> },
    /// The sidecar itself is the proxy that was asked; what runs inside goes on from here.
    Inside(Enter),
}

impl TunnelKind {
    fn is_websocket(&self) -> bool {
        matches!(self, Self::Upgrade(to) if to.as_bytes().eq_ignore_ascii_case(WEBSOCKET))
    }

    /// The status that tells a client of this version so.
    pub fn opened(&self, version: Version) -> StatusCode {
        match self {
            Self::Upgrade(_) if version != Version::HTTP_2 => StatusCode::SWITCHING_PROTOCOLS,
            Self::Upgrade(_) | Self::Connect => StatusCode::OK,
        }
    }

    /// Whether this answer opens the tunnel: with what was asked for, and nothing else.
    pub fn is_opened_by<B>(&self, response: &http::Response<B>, is_http2: bool) -> bool {
        match self {
            Self::Upgrade(to) if !is_http2 => {
                let switched = response.headers().get(header::UPGRADE);
                response.status() == StatusCode::SWITCHING_PROTOCOLS
                    && switched.is_none_or(|switched| lists(to.as_bytes(), switched.as_bytes()))
            }
            Self::Upgrade(_) | Self::Connect => response.status().is_success(),
        }
    }

    /// Another way to speak HTTP/2, around everything that is judged request by request.
    pub fn is_h2c(&self) -> bool {
        matches!(self, Self::Upgrade(to) if is_h2c(to.as_bytes()))
    }
}

/// Whether `one` is among the comma-separated `many`, in any case.
fn lists(many: &[u8], one: &[u8]) -> bool {
    many.split(|byte| *byte == b',').any(|listed| listed.trim_ascii().eq_ignore_ascii_case(one.trim_ascii()))
}

/// A quick look that nearly every request fails.
pub fn may_be_asked<B>(request: &Request<B>, seen: &Seen) -> bool {
    seen.has(Seen::UPGRADE) || *request.method() == Method::CONNECT
}

/// What a request of HTTP/1 asks to become, where whoever has its connection hands that over when the client has its
/// answer.
pub fn asked_http1<B: http_body::Body>(request: &mut Request<B>) -> Option<(Asked, oneshot::Sender<Io>)> {
    let kind = match *request.method() == Method::CONNECT {
        true => TunnelKind::Connect,
        false => TunnelKind::Upgrade(upgrade(request)?),
    };
    let (opens, opened) = oneshot::channel();
    Some((Asked::new(kind, On::Given(opened), request), opens))
}

/// What a request of HTTP/2 asks to become. An extended CONNECT is an upgrade request from here on. Whoever has the
/// stream hands it over when the client has its answer.
pub fn asked_http2<B>(request: &mut Request<B>) -> Option<(Asked, oneshot::Sender<Io>)> {
    if *request.method() != Method::CONNECT {
        return None;
    }
    let kind = match request.extensions().get::<Protocol>() {
        None => TunnelKind::Connect,
        Some(protocol) => TunnelKind::Upgrade(HeaderValue::from_str(protocol.as_str()).ok()?),
    };
    let (opens, opened) = oneshot::channel();
    Some((Asked::new(kind, On::Given(opened), request), opens))
}

impl Asked {
    fn new<B>(kind: TunnelKind, on: On, request: &mut Request<B>) -> Self {
        if let TunnelKind::Upgrade(_) = kind {
            *request.method_mut() = Method::GET;
        }
        let key = request.headers().get(SEC_WEBSOCKET_KEY).cloned();
        Self { kind, on, version: request.version(), key }
    }
}

/// HTTP/2 without TLS is one of the protocols listed.
fn is_h2c(to: &[u8]) -> bool {
    to.to_ascii_lowercase().split(|byte| *byte == b',').any(|one| one.trim_ascii().starts_with(b"h2c"))
}

/// RFC 9110, 7.8: `Upgrade` counts where `Connection` names it, and not in HTTP/1.0.
fn upgrade<B: http_body::Body>(request: &Request<B>) -> Option<HeaderValue> {
    let to = request.headers().get(header::UPGRADE)?;
    let named = request.headers().get_all(header::CONNECTION).iter().any(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|name| name.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    });
    let is_h2c = is_h2c(to.as_bytes());
    let is_plain_get = *request.method() == Method::GET && http_body::Body::is_end_stream(request.body());
    (named && !is_h2c && is_plain_get && request.version() == Version::HTTP_11).then(|| to.clone())
}

/// Writes what the upstream's version wants of a request that shall become a tunnel.
pub fn ask(request: &mut Request<Body>, kind: &TunnelKind, is_http2: bool) {
    match kind {
        TunnelKind::Connect => {
            let authority = request.headers_mut().remove(header::HOST);
            let authority = authority.as_ref().and_then(|host| host.to_str().ok()).map(str::to_owned);
            let authority = authority.or_else(|| request.uri().authority().map(ToString::to_string));
            if let Some(Ok(uri)) = authority.map(Uri::try_from) {
                if let (false, Ok(host)) = (is_http2, HeaderValue::from_str(&uri.to_string())) {
                    request.headers_mut().insert(header::HOST, host);
                }
                *request.uri_mut() = uri;
            }
            *request.method_mut() = Method::CONNECT;
        }
        TunnelKind::Upgrade(to) if is_http2 => {
            let protocol = Protocol::from(to.to_str().unwrap_or_default());
            request.extensions_mut().insert(protocol);
            request.headers_mut().remove(SEC_WEBSOCKET_KEY);
            *request.method_mut() = Method::CONNECT;
        }
        TunnelKind::Upgrade(to) => {
            let headers = request.headers_mut();
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, to.clone());
            if kind.is_websocket() && !headers.contains_key(SEC_WEBSOCKET_KEY) {
                headers.insert(SEC_WEBSOCKET_KEY, nonce());
            }
        }
    }
}

/// Takes the upstream's half off an answer that opens the tunnel.
pub fn accept(response: &mut Response, route: &Arc<Route>) -> Accepted {
    let to = response.headers().get(header::UPGRADE).cloned();
    let opening = response.body_mut().take_tunnel().unwrap_or_else(|| Box::pin(ready(None)));
    Accepted::new(Upstream::Switched { on: Box::new(On::Answered(opening)), to, route: route.clone() })
}

impl Accepted {
    fn new(upstream: Upstream) -> Self {
        Self(Arc::new(Mutex::new(Some(upstream))))
    }

    /// The sidecar itself answers a CONNECT.
    pub fn inside(enter: Enter) -> Self {
        Self::new(Upstream::Inside(enter))
    }
}

/// Whether this answer opens the tunnel that was asked for.
pub fn is_opened(response: &Response) -> bool {
    response.extensions().get::<Accepted>().is_some()
}

/// Joins the two halves, once the downstream has its answer, on a task of its own.
pub fn open(asked: Asked, mut response: Response, exchange: &Exchange) -> Response {
    let Exchange { worker, connection, .. } = exchange;
    let accepted = response.extensions_mut().remove::<Accepted>();
    let Some(upstream) = accepted.and_then(|accepted| accepted.0.lock().take()) else { return response };
    // The drain waits for the connection for as long as somebody has it.
    let (worker, connection) = (worker.clone(), connection.clone());
    match upstream {
        Upstream::Switched { on, to, route } => {
            let tail = response.body_mut().take_response_tail();
            *response.body_mut() = Body::empty();
            log_opened(&asked, to, &mut response);
            tokio::spawn(async move {
                let _open = Held::of(&worker.ground.connections_active(connection.direction, Carried::Tcp));
                join(asked.on, *on, tail, &route, &worker).await;
                drop(connection); // its place in `max_connections` ends here
            });
        }
        Upstream::Inside(enter) => {
            log_opened(&asked, None, &mut response);
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

/// The answer as the downstream's version wants it.
fn log_opened(asked: &Asked, switched_to: Option<HeaderValue>, response: &mut Response) {
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH); // RFC 9110, 9.3.6: a tunnel has no content
    headers.remove(header::TRANSFER_ENCODING);
    match &asked.kind {
        TunnelKind::Connect => {}
        TunnelKind::Upgrade(_) if asked.version == Version::HTTP_2 => {
            headers.remove(SEC_WEBSOCKET_ACCEPT);
        }
        TunnelKind::Upgrade(to) => {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, switched_to.unwrap_or_else(|| to.clone()));
            accept_key(asked, headers);
        }
    }
}

/// An upstream that was asked over HTTP/2 has seen no key: RFC 6455, 4.2.2, is answered here.
fn accept_key(asked: &Asked, headers: &mut HeaderMap) {
    let Some(key) = asked.key.as_ref().filter(|_| asked.kind.is_websocket()) else { return };
    if !headers.contains_key(SEC_WEBSOCKET_ACCEPT) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, websocket_accept(key.as_bytes()));
    }
}

fn websocket_accept(key: &[u8]) -> HeaderValue {
    use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat());
    HeaderValue::try_from(BASE64.encode(hash)).unwrap_or(HeaderValue::from_static(""))
}

/// The key of a client that had none to bring.
fn nonce() -> HeaderValue {
    let random = fastrand::u128(..).to_be_bytes();
    HeaderValue::try_from(BASE64.encode(random)).unwrap_or(HeaderValue::from_static(""))
}

/// Carries bytes until the tunnel ends, which ends the exchange too.
async fn join(ours: On, theirs: On, mut tail: Box<ResponseTail>, route: &Route, worker: &Worker) {
    // Dropped without an end, the tail tells that the client went away.
    let Some(mut downstream) = ours.io().await else { return };
    downstream.get_ref().reset_on_drop(); // it was told that the tunnel is open
    let Some(mut upstream) = theirs.io().await else { return };
    let ended = tcp::carry(&mut downstream, &mut upstream, route, worker).await;
    tail.tunnel_ended(ended.received, ended.sent, tcp::reason(&ended.how));
}

impl On {
    /// `None`: it came to nothing.
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
            let response = http::Response::builder().status(status).body(()).unwrap();
            assert_eq!(kind.is_opened_by(&response, is_http2), expected, "{kind:?} {status} {is_http2}");
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
            let response =
                http::Response::builder().status(101).header("upgrade", switched).body(()).unwrap();
            let kind = TunnelKind::Upgrade(HeaderValue::from_static(asked));
            assert_eq!(kind.is_opened_by(&response, false), expected, "{asked} {switched}");
        }
        for (asked, expected) in [("h2c", true), ("websocket, H2C", true), ("websocket", false)] {
            assert_eq!(TunnelKind::Upgrade(HeaderValue::from_static(asked)).is_h2c(), expected, "{asked}");
        }
    }
}
