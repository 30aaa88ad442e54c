//! One inbound connection, from accept to the application.
//!
//! Strict mTLS: TLS or nothing. A plaintext HTTP client is told so, anything else is closed. Where a request goes
//! is never taken from the request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tower::ServiceBuilder;

use crate::dispatch;
use crate::error::Reason;
use crate::http::server::{self, Version};
use crate::layers::{
    AnsweringService, Name, headers, limit, record, rescue, retry, route, timeout as time, unless,
};
use crate::net::{Prefixed, Stream, Transport};
use crate::runtime::worker::Worker;
use crate::serve::Connection;
use crate::telemetry::{ConnectionOutcome, Direction, HandshakeOutcome, Protocol, Symbol, Tls};
use crate::tls::{self, Alpn, Peer};

/// From accept to the end of the TLS handshake. Envoy's and nginx's defaults are 15 s and 60 s.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The inbound side of a worker.
#[derive(Clone)]
pub(crate) struct Inbound {
    pub(crate) worker: Arc<Worker>,
    /// `None`: mTLS is off.
    pub(crate) tls: Option<Arc<ServerConfig>>,
    /// `By=` of `x-forwarded-client-cert`.
    pub(crate) own_id: Option<Arc<str>>,
}

/// Reads in the order a request meets it.
pub(crate) fn stack(without: Option<Name>) -> impl AnsweringService {
    ServiceBuilder::new()
        .layer(unless(without, Name::Record, record::layer())) // first in, last out: sees every ending
        .layer(rescue::layer()) // errors become answers below the record
        .layer(unless(without, Name::Route, route::layer())) // the application, whatever the request says
        .layer(unless(without, Name::Headers, headers::layer())) // the caller's proven identity, and no other
        .layer(unless(without, Name::Timeout, time::whole())) // off by default: the caller's deadline rules
        .layer(unless(without, Name::Retry, retry::layer())) // only connections that the application had closed
        .layer(unless(without, Name::Limit, limit::layer())) // max_requests, max_body
        .service(dispatch::service())
}

impl Inbound {
    /// Serves one connection. How it ends is told in metrics and log; a bad peer costs only itself.
    pub(crate) async fn serve(self, stream: Stream, from: SocketAddr) {
        match self.tls.clone() {
            None => self.serve_plaintext(stream, from).await,
            Some(tls) => self.serve_mtls(tls, stream, from).await,
        }
    }

    async fn serve_plaintext(self, stream: Stream, from: SocketAddr) {
        let connection = Arc::new(Connection::new(Direction::Inbound, from));
        match server::detect_on(Transport::Plain(Prefixed::new(stream)), &self.worker.drain).await {
            Ok((io, version)) => {
                self.count(protocol(version), Tls::None, ConnectionOutcome::Ok);
                server::serve(io, version, connection, self.worker, stack(None)).await;
            }
            Err(error) => {
                tracing::debug!(%error, %from, "inbound connection ended before a request");
                self.count(Protocol::Unknown, Tls::None, ConnectionOutcome::Failed);
            }
        }
    }

    async fn serve_mtls(self, config: Arc<ServerConfig>, stream: Stream, from: SocketAddr) {
        let shaken = timeout(HANDSHAKE_TIMEOUT, self.handshake(config, stream, from)).await;
        let Some((transport, peer, alpn)) = shaken.unwrap_or_else(|_elapsed| {
            self.handshake_ended(HandshakeOutcome::Timeout, ConnectionOutcome::Timeout);
            None
        }) else {
            return;
        };
        let detected = match alpn {
            Some(alpn) if alpn.is_http2() => Ok((Prefixed::new(transport), Version::Http2)),
            Some(_) => Ok((Prefixed::new(transport), Version::Http1)),
            None => server::detect_on(transport, &self.worker.drain).await,
        };
        match detected {
            Ok((io, version)) => {
                self.count(protocol(version), Tls::Mutual, ConnectionOutcome::Ok);
                let connection = Arc::new(self.connection(from, peer));
                server::serve(io, version, connection, self.worker, stack(None)).await;
            }
            Err(error) => {
                tracing::debug!(%error, %from, "inbound connection ended before a request");
                self.count(Protocol::Unknown, Tls::Mutual, ConnectionOutcome::Failed);
            }
        }
    }

    /// `None`: no TLS, or TLS that failed; the peer was told where it can be.
    async fn handshake(
        &self,
        config: Arc<ServerConfig>,
        mut stream: Stream,
        from: SocketAddr,
    ) -> Option<(Transport, Arc<Peer>, Option<Alpn>)> {
        let mut first = [0; 16];
        let read = stream.read(&mut first).await.unwrap_or_default();
        let first = first.get(..read).unwrap_or_default();
        if first.first() != Some(&TLS_HANDSHAKE) {
            self.refuse_plaintext(first, stream, from).await;
            return None;
        }
        match tls::server::accept(config, Prefixed::with(Bytes::copy_from_slice(first), stream)).await {
            Ok((stream, peer, alpn)) => {
                self.worker.metrics.handshakes(Direction::Inbound, HandshakeOutcome::Ok).inc();
                Some((Transport::Accepted(Box::new(stream)), peer, alpn))
            }
            Err(error) => {
                tracing::debug!(%error, %from, "inbound TLS failed");
                let identity = error.is_identity_mismatch();
                let outcome = if identity { HandshakeOutcome::Identity } else { HandshakeOutcome::Failed };
                self.handshake_ended(outcome, ConnectionOutcome::TlsError);
                None
            }
        }
    }

    /// A plaintext HTTP/1 client hears why; what else it may be is closed.
    async fn refuse_plaintext(&self, first: &[u8], mut stream: Stream, from: SocketAddr) {
        self.count(Protocol::Unknown, Tls::None, ConnectionOutcome::Refused);
        if !first.is_empty() && looks_like_http1(first) {
            let connection = Connection::new(Direction::Inbound, from);
            let (reason, line) = (Reason::MtlsRequired, "403 Forbidden");
            let answer = server::refuse(reason, line, None, &connection, &self.worker);
            // Best effort: who does not listen needs no answer.
            drop(stream.write_all(&answer).await);
            drop(stream.shutdown().await);
        }
    }

    fn connection(&self, from: SocketAddr, peer: Arc<Peer>) -> Connection {
        Connection {
            peer_label: self.worker.metrics.intern(peer.id.as_str()),
            client_cert: self.own_id.as_deref().and_then(|by| client_cert(by, &peer)),
            peer: Some(peer),
            ..Connection::new(Direction::Inbound, from)
        }
    }

    fn handshake_ended(&self, handshake: HandshakeOutcome, connection: ConnectionOutcome) {
        self.worker.metrics.handshakes(Direction::Inbound, handshake).inc();
        self.count(Protocol::Unknown, Tls::Mutual, connection);
    }

    fn count(&self, protocol: Protocol, tls: Tls, outcome: ConnectionOutcome) {
        self.worker.metrics.connections(Direction::Inbound, Symbol::APP, protocol, tls, outcome).inc();
    }
}

/// The content type of a TLS record with a ClientHello (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

pub(crate) const fn protocol(version: Version) -> Protocol {
    match version {
        Version::Http1 => Protocol::Http1,
        Version::Http2 => Protocol::Http2,
    }
}

/// A method and a blank. Enough to tell a browser or a health check from other protocols.
fn looks_like_http1(first: &[u8]) -> bool {
    let method = first.split(|&byte| byte == b' ').next().unwrap_or_default();
    !method.is_empty() && method.len() < first.len() && method.iter().all(u8::is_ascii_uppercase)
}

/// `By=<own id>;Hash=<sha256>;URI=<peer id>`, Envoy's format. SPIFFE IDs need no quoting.
fn client_cert(by: &str, peer: &Peer) -> Option<HeaderValue> {
    let hash: String = peer.certificate_sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::try_from(format!("By={by};Hash={hash};URI={}", peer.id)).ok()
}
