//! Asks a server that the operator has named by its URL: with the system's CAs, or in plaintext. It is for requests that the
//! sidecar makes for itself, beside the data path.
//!
//! Each connection carries one question. The bytes of its answer are bounded, or come one piece after the other
//! ([`begin`]); the caller bounds the time. Redirects are not followed,
//! because the address is the operator's alone.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::time::Duration;

use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use pillion_base::ground::Ground;
use pillion_base::net::{Leg, Transport};
use pillion_model::cluster::{DnsRecords, UpstreamTls};
use pillion_model::identity::TlsPolicy;
use pillion_tls::client::{AlpnOffer, ClientTls, Purpose};
use pillion_tls::{SetupError, TlsError};
use pillion_upstream::discovery::{Answer, Resolver};
use tokio::time::{Instant, timeout, timeout_at};

/// The time for one of several addresses, TCP and TLS together.
const PATIENCE_TO_CONNECT: Duration = Duration::from_secs(3);
/// The addresses of a name that are tried.
const MOST_ADDRESSES: usize = 4;
/// Bytes of an answer that says why a request failed.
const FAILURE_BYTES: usize = 64 * 1024;
/// Bytes of the answer's head.
const HEAD_BYTES: usize = 64 * 1024;
pub const AGENT: HeaderValue = HeaderValue::from_static(concat!("pillion/", env!("CARGO_PKG_VERSION")));

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("its host has no address: {0}")]
    NoAddress(String),
    #[error("cannot connect to {0}: {1}")]
    Unreachable(SocketAddr, #[source] io::Error),
    #[error("no connection to {0} within {s} s", s = PATIENCE_TO_CONNECT.as_secs())]
    SlowToConnect(SocketAddr),
    #[error("its server cannot be verified: {0}")]
    Setup(#[from] SetupError),
    #[error("TLS with {0} failed: {1}")]
    Tls(SocketAddr, #[source] TlsError),
    #[error("the connection broke off: {0}")]
    BrokeOff(#[from] hyper::Error),
    #[error("its answer has more than {kib} KiB", kib = .0 / 1024)]
    TooLong(usize),
    #[error("its answer has not come in time")]
    Slow,
}

/// The server of a URL.
#[derive(Debug, Clone, Copy)]
pub struct Server<'a> {
    pub is_tls: bool,
    /// A name, or an IP address without brackets.
    pub host: &'a str,
    pub port: u16,
}

/// Connects to the first address that can be connected to, with the system's CAs.
pub async fn connect(
    to: Server<'_>,
    offer: AlpnOffer,
    ground: &Ground,
    resolver: &Resolver,
) -> Result<Transport, AskError> {
    let tls = if to.is_tls { tls(to.host, offer)? } else { None };
    let purpose = if matches!(offer, AlpnOffer::Http1) { Purpose::Http1 } else { Purpose::Http };
    connect_by((tls.as_ref(), purpose), to, None, ground, resolver).await
}

/// Connects to the first address that can be connected to. `keepalive`: after what time without a byte the kernel asks
/// whether the server is still there.
pub async fn connect_by(
    (tls, purpose): (Option<&ClientTls>, Purpose),
    to: Server<'_>,
    keepalive: Option<Duration>,
    ground: &Ground,
    resolver: &Resolver,
) -> Result<Transport, AskError> {
    let mut failed = AskError::NoAddress("it was not found".to_owned());
    for ip in addresses(to.host, resolver).await?.into_iter().take(MOST_ADDRESSES) {
        let to = SocketAddr::new(ip, to.port);
        let connecting = connect_to(to, (tls, purpose), keepalive, ground);
        let connected = timeout(PATIENCE_TO_CONNECT, connecting).await;
        match connected.unwrap_or(Err(AskError::SlowToConnect(to))) {
            Ok(transport) => return Ok(transport),
            Err(why) => failed = why,
        }
    }
    Err(failed)
}

/// Made anew for each connection, so that new CAs of the system are used.
fn tls(host: &str, offer: AlpnOffer) -> Result<Option<ClientTls>, SetupError> {
    let simple = UpstreamTls::Simple { sni: None, trust_bundle: None, own: None };
    ClientTls::new(None, &simple, &TlsPolicy::default(), Some(host), offer)
}

/// The addresses of a host.
///
/// # Errors
/// It has none, or no name server answers.
pub async fn addresses(host: &str, resolver: &Resolver) -> Result<Vec<IpAddr>, AskError> {
    if let Ok(ip) = host.parse() {
        return Ok(vec![ip]);
    }
    match resolver.ask(&DnsRecords::Addresses { name: host.to_owned(), port: 0 }).await {
        Answer::Found { addresses, .. } => Ok(addresses),
        Answer::Services { .. } => Ok(Vec::new()), // not asked for
        Answer::Failed(why) | Answer::Nothing(why) | Answer::NotOffered(why) => Err(AskError::NoAddress(why)),
    }
}

async fn connect_to(
    to: SocketAddr,
    (tls, purpose): (Option<&ClientTls>, Purpose),
    keepalive: Option<Duration>,
    ground: &Ground,
) -> Result<Transport, AskError> {
    let connected = ground.network.connect(to, Leg::Outbound, keepalive).await;
    let stream = connected.map_err(|error| AskError::Unreachable(to, error))?;
    let Some(tls) = tls else { return Ok(Transport::plain(stream)) };
    let (stream, _alpn) = tls.connect(stream, purpose).await.map_err(|error| AskError::Tls(to, error))?;
    Ok(Transport::Connected(Box::new(stream)))
}

/// What an answer has beside its head; or why it cannot be read, which makes the head no less valid.
pub type Content = Result<Vec<u8>, AskError>;

/// Sends a request of HTTP/1.1, and reads the answer. Its content is read only if the status is a good one (2xx), because the
/// pages that explain failures may be of any length. It has at most so many bytes, and it has come `until` then. A head that
/// has come in time is given to the caller whatever becomes of its content.
pub async fn ask(
    transport: Transport,
    question: Request<Full<Bytes>>,
    most: usize,
    until: Instant,
) -> Result<Response<Content>, AskError> {
    let begun = timeout_at(until, begin(transport, question)).await;
    let (head, mut body) = begun.map_err(|_elapsed| AskError::Slow)??.into_parts();
    let content = match head.status.is_success() {
        true => timeout_at(until, body.whole(most)).await.unwrap_or(Err(AskError::Slow)),
        false => Ok(Vec::new()),
    };
    Ok(Response::from_parts(head, content))
}

/// A connection that carries one question after the other.
pub struct Kept {
    send: http1::SendRequest<Full<Bytes>>,
    conn: Option<Conn>,
}

impl Kept {
    /// # Errors
    /// The connection broke off.
    pub async fn new(transport: Transport) -> Result<Self, AskError> {
        let (send, conn) =
            http1::Builder::new().max_buf_size(HEAD_BYTES).handshake(TokioIo::new(transport)).await?;
        Ok(Self { send, conn: Some(Box::pin(conn)) })
    }

    /// Sends a request, and reads the answer with its content, of whatever status it is. The content has at most so many
    /// bytes, and at most 64 KiB where the status is not a good one (2xx). After an error the connection is of no use.
    ///
    /// # Errors
    /// The connection broke off, or the head has not come `until` then.
    pub async fn ask(
        &mut self,
        question: Request<Full<Bytes>>,
        most: usize,
        until: Instant,
    ) -> Result<Response<Content>, AskError> {
        let begun = timeout_at(until, self.begin(question)).await;
        let (head, incoming) = begun.map_err(|_elapsed| AskError::Slow)??.into_parts();
        let mut body = Body { incoming, conn: self.conn.take() };
        let most = if head.status.is_success() { most } else { most.min(FAILURE_BYTES) };
        let content = timeout_at(until, body.whole(most)).await.unwrap_or(Err(AskError::Slow));
        self.conn = body.conn.filter(|_| content.is_ok());
        Ok(Response::from_parts(head, content))
    }

    async fn begin(&mut self, question: Request<Full<Bytes>>) -> Result<Response<Incoming>, AskError> {
        let mut answer = pin!(self.send.send_request(question));
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return Ok(answer?),
                () = ended(&mut self.conn) => self.conn = None, // the answer has what the connection had read
            }
        }
    }

    /// Whether it can carry another question.
    pub fn is_open(&self) -> bool {
        self.conn.is_some() && !self.send.is_closed()
    }
}

/// Sends a request of HTTP/1.1, and reads the head of the answer.
pub async fn begin(transport: Transport, question: Request<Full<Bytes>>) -> Result<Response<Body>, AskError> {
    let (mut send, conn) =
        http1::Builder::new().max_buf_size(HEAD_BYTES).handshake(TokioIo::new(transport)).await?;
    let mut conn = Some(Box::pin(conn));
    let mut answer = pin!(send.send_request(question));
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return Ok(answer?.map(|incoming| Body { incoming, conn })),
            () = ended(&mut conn) => conn = None, // the answer has what the connection had read
        }
    }
}

/// Waits until the connection has ended. Without one it waits forever.
async fn ended(conn: &mut Option<Conn>) {
    match conn {
        Some(conn) => drop(conn.await),
        None => std::future::pending().await,
    }
}

type Conn = Pin<Box<http1::Connection<TokioIo<Transport>, Full<Bytes>>>>;

/// The content of an answer, as it comes. The connection is closed when this is dropped.
pub struct Body {
    incoming: Incoming,
    /// `None`: it has ended, and `incoming` has what it had read.
    conn: Option<Conn>,
}

impl Body {
    /// The next bytes. `None`: the content has ended, and is complete.
    pub async fn next(&mut self) -> Option<Result<Bytes, AskError>> {
        loop {
            tokio::select! {
                biased;
                frame = self.incoming.frame() => match frame?.map(hyper::body::Frame::into_data) {
                    Ok(Ok(data)) => return Some(Ok(data)),
                    Ok(Err(_trailers)) => {}
                    Err(broken) => return Some(Err(broken.into())),
                },
                () = ended(&mut self.conn) => self.conn = None,
            }
        }
    }

    /// All of it, if it has at most so many bytes.
    pub async fn whole(&mut self, most: usize) -> Content {
        let mut read = Vec::new();
        while let Some(data) = self.next().await {
            let data = data?;
            if read.len() + data.len() > most {
                return Err(AskError::TooLong(most));
            }
            read.extend_from_slice(&data);
        }
        Ok(read)
    }
}
