//! Fetches a key set over HTTP/1.1: with the system's CAs, or in plaintext on loopback.
//!
//! Bounded in time and bytes. Redirects are not followed: the address of the keys is the operator's alone.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use pillion_authz::keys::MOST_BYTES;
use pillion_base::ground::Ground;
use pillion_base::net::{Leg, Transport};
use pillion_model::authorization::JwksUrl;
use pillion_model::cluster::{DnsRecords, UpstreamTls};
use pillion_model::identity::TlsPolicy;
use pillion_tls::client::{AlpnOffer, ClientTls, Purpose};
use pillion_tls::{SetupError, TlsError};
use pillion_upstream::discovery::{Answer, Resolver};
use tokio::time::timeout;

/// From the question for the name to the last byte.
const PATIENCE: Duration = Duration::from_secs(10);
/// The time for one of several addresses, TCP and TLS together.
const PATIENCE_TO_CONNECT: Duration = Duration::from_secs(3);
/// The addresses of a name that are tried.
const MOST_ADDRESSES: usize = 4;
/// Bytes of the answer's head.
const HEAD_BYTES: usize = 64 * 1024;
const AGENT: HeaderValue = HeaderValue::from_static(concat!("pillion/", env!("CARGO_PKG_VERSION")));

/// Why keys could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("no answer within {s} s", s = PATIENCE.as_secs())]
    Slow,
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
    #[error("the request cannot be written: {0}")]
    Unaskable(#[from] http::Error),
    #[error("it was answered {0}, where 200 is expected")]
    Status(StatusCode),
    #[error("its answer has more than {kib} KiB", kib = MOST_BYTES / 1024)]
    TooLong,
}

pub(super) async fn fetch(
    url: &JwksUrl,
    ground: &Ground,
    resolver: &Resolver,
) -> Result<Vec<u8>, FetchError> {
    let fetched = async {
        let tls = if url.is_https { tls(&url.host)? } else { None };
        let transport = connect(url, tls.as_ref(), ground, resolver).await?;
        ask(url, transport).await
    };
    timeout(PATIENCE, fetched).await.unwrap_or(Err(FetchError::Slow))
}

/// Made anew for each fetch, so that new CAs of the system are used.
fn tls(host: &str) -> Result<Option<ClientTls>, SetupError> {
    let simple = UpstreamTls::Simple { sni: None, trust_bundle: None, own: None };
    ClientTls::new(None, &simple, &TlsPolicy::default(), Some(host), AlpnOffer::Http1)
}

/// Connects to the first address that can be connected to.
async fn connect(
    url: &JwksUrl,
    tls: Option<&ClientTls>,
    ground: &Ground,
    resolver: &Resolver,
) -> Result<Transport, FetchError> {
    let mut failed = FetchError::NoAddress("it was not found".to_owned());
    for ip in addresses(&url.host, resolver).await?.into_iter().take(MOST_ADDRESSES) {
        let to = SocketAddr::new(ip, url.port);
        let connected = timeout(PATIENCE_TO_CONNECT, connect_to(to, tls, ground)).await;
        match connected.unwrap_or(Err(FetchError::SlowToConnect(to))) {
            Ok(transport) => return Ok(transport),
            Err(why) => failed = why,
        }
    }
    Err(failed)
}

async fn addresses(host: &str, resolver: &Resolver) -> Result<Vec<IpAddr>, FetchError> {
    if let Ok(ip) = host.parse() {
        return Ok(vec![ip]);
    }
    match resolver.ask(&DnsRecords::Addresses { name: host.to_owned(), port: 0 }).await {
        Answer::Found { addresses, .. } => Ok(addresses),
        Answer::Services { .. } => Ok(Vec::new()), // not asked for
        Answer::Failed(why) | Answer::Nothing(why) | Answer::NotOffered(why) => {
            Err(FetchError::NoAddress(why))
        }
    }
}

async fn connect_to(
    to: SocketAddr,
    tls: Option<&ClientTls>,
    ground: &Ground,
) -> Result<Transport, FetchError> {
    let connected = ground.network.connect(to, Leg::Outbound, None).await;
    let stream = connected.map_err(|error| FetchError::Unreachable(to, error))?;
    let Some(tls) = tls else { return Ok(Transport::plain(stream)) };
    let (stream, _alpn) =
        tls.connect(stream, Purpose::Http1).await.map_err(|error| FetchError::Tls(to, error))?;
    Ok(Transport::Connected(Box::new(stream)))
}

async fn ask(url: &JwksUrl, transport: Transport) -> Result<Vec<u8>, FetchError> {
    let question = Request::get(&url.path)
        .header(HOST, url.authority())
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let (mut send, conn) =
        http1::Builder::new().max_buf_size(HEAD_BYTES).handshake(TokioIo::new(transport)).await?;
    let answer = async {
        let answer = send.send_request(question).await?;
        match answer.status() {
            StatusCode::OK => whole(answer.into_body()).await,
            status => Err(FetchError::Status(status)),
        }
    };
    let (mut conn, mut answer) = (pin!(conn), pin!(answer));
    tokio::select! {
        biased;
        answer = &mut answer => answer, // the connection is dropped, and closed with that
        _ = &mut conn => answer.await, // the answer has what the connection had read
    }
}

async fn whole(mut body: Incoming) -> Result<Vec<u8>, FetchError> {
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            if read.len() + data.len() > MOST_BYTES {
                return Err(FetchError::TooLong);
            }
            read.extend_from_slice(&data);
        }
    }
    Ok(read)
}
