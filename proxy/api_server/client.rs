//! One question to the API server, over a connection of its own.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, HOST, USER_AGENT};
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::Bytes;
use pillion_base::ground::Ground;
use pillion_kubernetes::access::Access;
use pillion_tls::SetupError;
use pillion_tls::client::{ClientTls, Pem, Purpose};
use pillion_upstream::discovery::Resolver;
use zeroize::Zeroizing;

use super::environment::{Environment, NotFound, read};
use pillion_companion::asking::{AGENT, AskError, Body, Server, begin, connect_by};

/// After this time without a byte the kernel asks whether the server is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Asks the API server.
pub(crate) struct Client {
    pub(super) ground: Arc<Ground>,
    environment: Environment,
    resolver: Resolver,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unasked {
    #[error(transparent)]
    NotFound(#[from] NotFound),
    #[error("the files for TLS with it cannot be used: {0}")]
    Setup(#[from] SetupError),
    #[error("the token in use cannot be sent: it has a byte that no token has")]
    BadToken,
    #[error("the question cannot be written: {0}")]
    Unaskable(#[from] http::Error),
    #[error("{at}: {why}")]
    NoAnswer { at: String, why: Box<AskError> },
}

impl Client {
    pub(crate) fn new(ground: Arc<Ground>, environment: Environment) -> Self {
        Self { ground, environment, resolver: Resolver::system() }
    }

    /// Asks for a path with its query. The time is not bounded.
    pub(super) async fn get(&self, path: &str) -> Result<Response<Body>, Unasked> {
        let access = self.environment.access()?;
        let question = question(&access, path)?;
        let tls = tls(&access)?;
        let no_answer = |why| Unasked::NoAnswer { at: access.authority(), why: Box::new(why) };
        let server = Server { is_tls: access.is_tls, host: &access.host, port: access.port };
        let by = (tls.as_ref(), Purpose::Http1);
        let connecting = connect_by(by, server, Some(KEEPALIVE), &self.ground, &self.resolver);
        let transport = connecting.await.map_err(no_answer)?;
        begin(transport, question).await.map_err(no_answer)
    }
}

fn question(access: &Access, path: &str) -> Result<Request<Full<Bytes>>, Unasked> {
    let mut question = Request::get(format!("{}{path}", access.prefix))
        .header(HOST, access.authority())
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, "application/json");
    if let Some(token) = &access.token {
        let token = read(token)?;
        let value = Zeroizing::new([&b"Bearer "[..], token.trim_ascii()].concat());
        let mut value = HeaderValue::from_bytes(&value).map_err(|_bad| Unasked::BadToken)?;
        value.set_sensitive(true);
        question = question.header(AUTHORIZATION, value);
    }
    Ok(question.body(Full::default())?)
}

fn tls(access: &Access) -> Result<Option<ClientTls>, Unasked> {
    if !access.is_tls {
        return Ok(None);
    }
    let authorities = access.authorities.as_ref().map(read).transpose()?;
    let own =
        access.own.as_ref().map(|(certificate, key)| Ok::<_, NotFound>((read(certificate)?, read(key)?)));
    let own = own.transpose()?;
    let pem = Pem {
        authorities: authorities.as_ref().map(|pem| pem.as_slice()),
        own: own.as_ref().map(|(certificate, key)| (certificate.as_slice(), key.as_slice())),
    };
    let name = access.server_name.as_deref().unwrap_or(&access.host);
    Ok(Some(ClientTls::by_pem(&pem, name)?))
}
