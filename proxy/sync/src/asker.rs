//! Asks servers, with the connections that the sidecar makes for itself.

use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use pillion_base::ground::Ground;
use pillion_base::net::Transport;
use pillion_companion::asking::{AGENT, AskError, Body, Content, Server, ask, begin, connect};
use pillion_model::sync::{Store, SyncToken, WebUrl};
use pillion_tls::client::AlpnOffer;
use pillion_upstream::discovery::Resolver;
use tokio::time::{Instant, timeout_at};

use super::version::MOST_BYTES;
use super::walk;

/// Base64 and JSON make a version longer by half at most, and each file has some words about it.
const MOST_ANSWER: usize = MOST_BYTES / 2 * 3;
/// A token of Vault or of an issuer has some KiB.
const LONGEST_TOKEN: u64 = 16 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskFault {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("the token in {path} cannot be read: {why}", path = .0.display(), why = .1)]
    TokenFile(PathBuf, #[source] io::Error),
    #[error("the token is empty, or has characters that a header cannot carry")]
    Token,
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
}

#[derive(Clone)]
pub(crate) struct Asker {
    pub(crate) ground: Arc<Ground>,
    pub(crate) resolver: Arc<Resolver>,
    /// Files are looked at whole intervals after this moment, so that the thread is woken once for the files of many entries.
    pub(crate) began: Instant,
}

/// A question before it has the headers that each one has.
pub(crate) struct Question<'a> {
    pub(crate) server: Server<'a>,
    pub(crate) authority: String,
    pub(crate) request: Request<Full<Bytes>>,
}

impl<'a> Question<'a> {
    pub(crate) fn of_store(store: &'a Store, method: Method, path: &str) -> Result<Self, AskFault> {
        let Store { is_tls, host, port, .. } = store;
        let server = Server { is_tls: *is_tls, host, port: *port };
        Self::new(server, store.authority(), method, path)
    }

    pub(crate) fn of_web(url: &'a WebUrl, method: Method) -> Result<Self, AskFault> {
        let WebUrl { is_tls, host, port, path } = url;
        Self::new(Server { is_tls: *is_tls, host, port: *port }, url.authority(), method, path)
    }

    fn new(server: Server<'a>, authority: String, method: Method, path: &str) -> Result<Self, AskFault> {
        let path = PathAndQuery::try_from(path).map_err(http::Error::from)?;
        let mut request = Request::new(Full::default());
        (*request.method_mut(), *request.uri_mut()) = (method, path.into());
        Ok(Self { server, authority, request })
    }

    pub(crate) fn with_json(mut self, text: String) -> Self {
        *self.request.body_mut() = Full::from(text);
        self.request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self
    }

    pub(crate) fn with_token(
        mut self,
        name: HeaderName,
        scheme: &str,
        token: Option<&SyncToken>,
    ) -> Result<Self, AskFault> {
        if let Some(token) = token {
            let mut value = HeaderValue::try_from(format!("{scheme}{}", text(token)?))
                .map_err(|_characters| AskFault::Token)?;
            value.set_sensitive(true);
            self.request.headers_mut().insert(name, value);
        }
        Ok(self)
    }

    fn finished(mut self) -> Result<Request<Full<Bytes>>, AskFault> {
        let host = HeaderValue::try_from(self.authority).map_err(http::Error::from)?;
        let head = self.request.headers_mut();
        head.insert(HOST, host);
        head.insert(USER_AGENT, AGENT);
        Ok(self.request)
    }
}

/// `scheme` of tokens in `authorization`.
pub(crate) const BEARER: (HeaderName, &str) = (AUTHORIZATION, "Bearer ");

fn text(token: &SyncToken) -> Result<String, AskFault> {
    let text = match token {
        SyncToken::Text(text) => text.0.clone(),
        SyncToken::File(path) => {
            let mut text = String::new();
            let read = walk::open(path).and_then(|file| file.take(LONGEST_TOKEN).read_to_string(&mut text));
            read.map_err(|error| AskFault::TokenFile(path.clone(), error))?;
            text.trim().to_owned()
        }
    };
    if text.is_empty() { Err(AskFault::Token) } else { Ok(text) }
}

impl Asker {
    /// Asks, and reads the whole answer if its status is a good one.
    pub(crate) async fn ask(
        &self,
        question: Question<'_>,
        patience: Duration,
    ) -> Result<Response<Content>, AskFault> {
        let until = Instant::now() + patience;
        let server = question.server;
        let request = question.finished()?;
        let transport = self.connect(server, until).await?;
        Ok(ask(transport, request, MOST_ANSWER, until).await?)
    }

    /// Asks, and gives the content of the answer as it comes.
    pub(crate) async fn begin(
        &self,
        question: Question<'_>,
        patience: Duration,
    ) -> Result<Response<Body>, AskFault> {
        let until = Instant::now() + patience;
        let server = question.server;
        let request = question.finished()?;
        let transport = self.connect(server, until).await?;
        let begun = timeout_at(until, begin(transport, request)).await;
        Ok(begun.map_err(|_elapsed| AskError::Slow)??)
    }

    /// Connects within the time for the whole question.
    async fn connect(&self, server: Server<'_>, until: Instant) -> Result<Transport, AskError> {
        let connecting = connect(server, AlpnOffer::Http1, &self.ground, &self.resolver);
        timeout_at(until, connecting).await.unwrap_or(Err(AskError::Slow))
    }

    /// Sends a request without content. The content of its answer is not read.
    pub(crate) async fn call(
        &self,
        method: Method,
        url: &WebUrl,
        patience: Duration,
    ) -> Result<StatusCode, AskFault> {
        Ok(self.begin(Question::of_web(url, method)?, patience).await?.status())
    }
}
