//! Fetches a key set over HTTP/1.1: with the system's CAs, or in plaintext on loopback.

use std::time::Duration;

use http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use pillion_authz::keys::MOST_BYTES;
use pillion_base::ground::Ground;
use pillion_model::authorization::JwksUrl;
use pillion_tls::client::AlpnOffer;
use pillion_upstream::discovery::Resolver;
use tokio::time::{Instant, timeout_at};

use pillion_companion::asking::{AGENT, AskError, Server, ask, connect};

/// From the question for the name to the last byte.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why keys could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("no answer within {s} s", s = PATIENCE.as_secs())]
    Slow,
    #[error(transparent)]
    NoAnswer(#[from] AskError),
    #[error("the request cannot be written: {0}")]
    Unaskable(#[from] http::Error),
    #[error("it was answered {0}, where 200 is expected")]
    Status(StatusCode),
}

pub(super) async fn fetch(
    url: &JwksUrl,
    ground: &Ground,
    resolver: &Resolver,
) -> Result<Vec<u8>, FetchError> {
    let until = Instant::now() + PATIENCE;
    let fetched = async {
        let question = Request::get(&url.path)
            .header(HOST, url.authority())
            .header(USER_AGENT, AGENT)
            .header(ACCEPT, "application/jwk-set+json, application/json")
            .header(CONNECTION, "close")
            .body(Full::<Bytes>::default())?;
        let server = Server { is_tls: url.is_https, host: &url.host, port: url.port };
        let transport = connect(server, AlpnOffer::Http1, ground, resolver).await?;
        let answer = ask(transport, question, MOST_BYTES, until).await?;
        match answer.status() {
            StatusCode::OK => Ok(answer.into_body()?),
            status => Err(FetchError::Status(status)),
        }
    };
    timeout_at(until, fetched).await.unwrap_or(Err(FetchError::Slow))
}
