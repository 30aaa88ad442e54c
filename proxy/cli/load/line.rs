//! A connection to the target of a load. It is made again when it has ended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pillion_base::net::{Network, Transport};
use pillion_tls::client::{ClientTls, Purpose};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::tally::{Answered, Failure, Kind};
use crate::cli::client::dial;

/// Bytes of the answer's head.
const HEAD_BYTES: usize = 64 * 1024;

/// A server closes kept connections, and says so when a request is already on its way. Such a request has so many tries.
const TRIES: usize = 3;

/// Where requests go, and what is sent.
pub(crate) struct Target {
    pub(crate) network: Network,
    /// They are tried one after the other.
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) tls: Option<ClientTls>,
    pub(crate) is_http2: bool,
    pub(crate) request: Request<Bytes>,
    /// Connections that have been made.
    pub(crate) connections: AtomicU64,
}

/// The sending half of an open connection.
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// One connection of HTTP/1, which carries one request at a time, or of HTTP/2, which carries several.
pub(super) struct Line {
    target: Arc<Target>,
    /// The time of one address, TCP and TLS together: all have their turn within the time of a request.
    patience: Duration,
    /// The place of the address that could be connected to last, which is tried first.
    reached: AtomicUsize,
    /// `None`: it is not connected, or a request of HTTP/1 is using it.
    sender: Mutex<Option<Sender>>,
}

impl Line {
    /// `within`: the time of a request.
    pub(super) fn new(target: Arc<Target>, within: Duration) -> Self {
        let patience = within / u32::try_from(target.addresses.len().max(1)).unwrap_or(u32::MAX);
        Self { target, patience, reached: AtomicUsize::new(0), sender: Mutex::new(None) }
    }

    /// Connects, so that the first request need not.
    pub(super) async fn open(&self) -> Result<(), Failure> {
        let mut sender = self.sender.lock().await;
        if sender.is_none() {
            *sender = Some(self.connect().await?);
        }
        Ok(())
    }

    /// Sends the request and reads the answer to its end. If the future is dropped, the connection (of HTTP/1) or the
    /// stream (of HTTP/2) is given up.
    pub(super) async fn exchange(&self) -> Result<Answered, Failure> {
        let mut tries = 1;
        loop {
            let mut sender = self.ready().await?;
            match sender.send(self.target.request()).await {
                Ok(answer) => {
                    let answered = read(answer).await?;
                    if let Sender::Http1(_) = sender {
                        *self.sender.lock().await = Some(sender); // it carries the next request, if it stays open
                    }
                    return Ok(answered);
                }
                Err(NotAnswered { was_served: false, .. }) if tries < TRIES => tries += 1,
                Err(NotAnswered { error, .. }) => return Err(of_hyper(&error)),
            }
        }
    }

    /// A connection that can carry a request: the open one, or a new one.
    async fn ready(&self) -> Result<Sender, Failure> {
        let kept = match &mut *self.sender.lock().await {
            kept @ Some(Sender::Http1(_)) => kept.take(),
            Some(Sender::Http2(sender)) if !sender.is_closed() => Some(Sender::Http2(sender.clone())),
            _ => None,
        };
        match kept {
            Some(mut sender) => match sender.is_ready().await {
                true => Ok(sender),
                false => self.connected().await,
            },
            None => self.connected().await,
        }
    }

    /// A new connection. Requests of HTTP/2 that need one at the same time get the same.
    async fn connected(&self) -> Result<Sender, Failure> {
        let mut kept = self.sender.lock().await;
        if let Some(Sender::Http2(sender)) = &*kept
            && !sender.is_closed()
        {
            return Ok(Sender::Http2(sender.clone()));
        }
        let sender = self.connect().await?;
        if let Sender::Http2(sender) = &sender {
            *kept = Some(Sender::Http2(sender.clone()));
        }
        Ok(sender)
    }

    async fn connect(&self) -> Result<Sender, Failure> {
        let mut failed = Failure::new(Kind::Connect, "the name has no address");
        let addresses = &self.target.addresses;
        let first = self.reached.load(Relaxed);
        for (nth, address) in addresses.iter().enumerate().cycle().skip(first).take(addresses.len()) {
            let connecting = async {
                let io = self.target.connect(*address).await?;
                self.target.connections.fetch_add(1, Relaxed);
                Sender::over(io, self.target.is_http2).await
            };
            match timeout(self.patience, connecting).await {
                Ok(Ok(sender)) => {
                    self.reached.store(nth, Relaxed);
                    return Ok(sender);
                }
                Ok(Err(failure)) => failed = failure,
                Err(_elapsed) => {
                    let why = format!("no connection to {address} within {:?}", self.patience);
                    failed = Failure::new(Kind::Timeout, why);
                }
            }
        }
        Err(failed)
    }
}

impl Target {
    /// A server of HTTP/1.1 without TLS.
    pub(crate) fn plaintext(address: SocketAddr, request: Request<Bytes>) -> Self {
        Self {
            network: Network::Os,
            addresses: vec![address],
            tls: None,
            is_http2: false,
            request,
            connections: AtomicU64::new(0),
        }
    }

    fn request(&self) -> Request<Full<Bytes>> {
        self.request.clone().map(Full::new)
    }

    async fn connect(&self, to: SocketAddr) -> Result<Transport, Failure> {
        let stream = dial(&self.network, to).await.map_err(|error| {
            let kind = match error.kind() {
                std::io::ErrorKind::ConnectionRefused => Kind::Refused,
                _ => Kind::Connect,
            };
            Failure::new(kind, format!("cannot connect to {to}: {error}"))
        })?;
        let Some(tls) = &self.tls else { return Ok(Transport::plain(stream)) };
        let purpose = if self.is_http2 { Purpose::Http } else { Purpose::Http1 };
        let connected = tls.connect(stream, purpose).await;
        let failed =
            |why: &dyn std::fmt::Display| Failure::new(Kind::Tls, format!("TLS with {to} failed: {why}"));
        let (stream, alpn) = connected.map_err(|error| failed(&error))?;
        match self.is_http2 && !alpn.is_some_and(pillion_tls::Alpn::is_http2) {
            true => Err(failed(&"the server does not choose HTTP/2 (ALPN)")),
            false => Ok(Transport::Connected(Box::new(stream))),
        }
    }
}

struct NotAnswered {
    error: hyper::Error,
    /// `false`: nothing was sent, or the server says that it did not read the request.
    was_served: bool,
}

impl Sender {
    /// Starts HTTP. The task that moves the connection's bytes ends when the last sender is dropped.
    async fn over(io: Transport, is_http2: bool) -> Result<Self, Failure> {
        if is_http2 {
            let builder = http2::Builder::new(TokioExecutor::new());
            let (sender, connection) =
                builder.handshake(TokioIo::new(io)).await.map_err(|error| of_hyper(&error))?;
            tokio::spawn(async { drop(connection.await) }); // the requests get its error
            return Ok(Self::Http2(sender));
        }
        let mut builder = http1::Builder::new();
        let (sender, connection) = builder
            .max_buf_size(HEAD_BYTES)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| of_hyper(&error))?;
        tokio::spawn(async { drop(connection.await) }); // the request gets its error
        Ok(Self::Http1(sender))
    }

    /// Waits until a request can be sent. `false`: the connection has ended.
    async fn is_ready(&mut self) -> bool {
        match self {
            Self::Http1(sender) => sender.ready().await.is_ok(),
            Self::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, NotAnswered> {
        let answered = match self {
            Self::Http1(sender) => sender.try_send_request(request).await,
            Self::Http2(sender) => sender.try_send_request(request).await,
        };
        answered.map_err(|mut error| {
            let is_unsent = error.take_message().is_some();
            let error = error.into_error();
            NotAnswered { was_served: !is_unsent && !is_refused(&error), error }
        })
    }
}

/// Whether a server of HTTP/2 has refused the stream, or ends the connection and has not read it.
fn is_refused(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| match cause.reason() {
        Some(h2::Reason::REFUSED_STREAM) => true,
        Some(h2::Reason::NO_ERROR) => cause.is_go_away() && cause.is_remote(),
        _ => false,
    })
}

/// Reads the body and forgets it.
async fn read(answer: Response<Incoming>) -> Result<Answered, Failure> {
    let (head, mut body) = answer.into_parts();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| of_hyper(&error))?;
        bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
    let why = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let proxy_status = match head.status.as_u16() {
        ..400 => None,
        _ => head.headers.get("proxy-status").map(why),
    };
    Ok(Answered { status: head.status, bytes, proxy_status })
}

fn of_hyper(error: &hyper::Error) -> Failure {
    let kind = if error.is_parse() { Kind::Protocol } else { Kind::Reset };
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    Failure::new(kind, format!("{error}{cause}"))
}
