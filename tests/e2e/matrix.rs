//! Every version of HTTP to every other one: the version in which the application is addressed, and the caller's
//! answer.
//!
//! A [`Cell`] is one exchange, and [`expected`] is the table of its results. The cells of a row have the application
//! and `inbound.protocol` in common. They share four sidecars: the caller's, and three of the application: without
//! mTLS,
//! with mTLS, and permissive.

mod alone;
mod application;
mod caller;
mod credentials;
mod curl;
mod expected;
mod grpcio;
mod row;

use http::Version;

use application::Heard;
use caller::CallerResult;
use expected::{Answer, Expected};
use row::Row;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cell {
    /// The only version that the application understands.
    app: Version,
    /// `None`: the application has no sidecar.
    inbound: Option<Inbound>,
    way: Way,
    caller: Caller,
}

/// The application's sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Inbound {
    protocol: Protocol,
    mtls: Mtls,
}

/// The value of a `protocol` key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Auto,
    Http1,
    Http2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mtls {
    Off,
    Permissive,
    Strict,
}

/// How the caller connects to the application's sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Through a sidecar of its own.
    Sidecar(Hop, Door),
    Plain,
    /// Directly, with a certificate of its own.
    Tls(Alpn),
}

/// The settings of the service in the caller's sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hop {
    is_mutual: bool,
    protocol: Protocol,
}

/// The listener of its sidecar to which the caller connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    /// The request names the service.
    ProxyPort,
    /// The port is the service's.
    OwnPort,
}

/// The ALPN that a client offers in its handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alpn {
    H2,
    Http1,
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    Http1,
    Http2,
    Grpc,
}

impl Caller {
    const ALL: [Self; 3] = [Self::Http1, Self::Http2, Self::Grpc];

    const fn version(self) -> Version {
        match self {
            Self::Http1 => Version::HTTP_11,
            Self::Http2 | Self::Grpc => Version::HTTP_2,
        }
    }
}

impl Protocol {
    const ALL: [Self; 3] = [Self::Auto, Self::Http1, Self::Http2];

    /// The word in the configuration.
    const fn key(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
        }
    }
}

impl Mtls {
    const ALL: [Self; 3] = [Self::Off, Self::Permissive, Self::Strict];

    const fn key(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Permissive => "permissive",
            Self::Strict => "strict",
        }
    }

    /// The connections that are admitted, by whether they use mutual TLS.
    fn admitted(self) -> &'static [bool] {
        match self {
            Self::Off => &[false],
            Self::Permissive => &[false, true],
            Self::Strict => &[true],
        }
    }
}

impl Way {
    /// All ways into a sidecar with this `mtls`.
    fn into(mtls: Mtls) -> Vec<Self> {
        let direct = |is_mutual: &bool| match is_mutual {
            true => [Alpn::H2, Alpn::Http1, Alpn::Nothing].map(Self::Tls).to_vec(),
            false => vec![Self::Plain],
        };
        let direct = mtls.admitted().iter().flat_map(direct);
        Hop::into(mtls).into_iter().flat_map(Self::by).chain(direct).collect()
    }

    fn by(hop: Hop) -> [Self; 2] {
        [Door::ProxyPort, Door::OwnPort].map(|door| Self::Sidecar(hop, door))
    }

    /// Whether the combination makes sense: a client that agreed on a version by ALPN speaks that version.
    fn suits(self, caller: Caller) -> bool {
        match self {
            Self::Tls(Alpn::H2) => caller.version() == Version::HTTP_2,
            Self::Tls(Alpn::Http1) => caller.version() == Version::HTTP_11,
            Self::Tls(Alpn::Nothing) | Self::Plain | Self::Sidecar(..) => true,
        }
    }
}

impl Hop {
    fn into(mtls: Mtls) -> Vec<Self> {
        let declared = |is_mutual: &bool| {
            let is_mutual = *is_mutual;
            Protocol::ALL.map(|protocol| Self { is_mutual, protocol })
        };
        mtls.admitted().iter().flat_map(declared).collect()
    }
}

impl Cell {
    /// Caller, application and both sidecars must agree with the table.
    fn check(&self, id: &str, result: &CallerResult, heard: &Heard) {
        let expected = expected::of(self);
        let Expected { spoken, answer, .. } = expected;
        assert_eq!(result.version(), self.caller.version(), "{self:?}: the answer's version");
        result.check(self, &expected);
        let requests = match answer {
            Answer::Echo => vec![(id.to_owned(), self.app)],
            Answer::Failed | Answer::Unimplemented => vec![],
        };
        assert_eq!(heard.requests, requests, "{self:?}: the application's requests");
        let others = heard.connections.iter().any(|version| Some(*version) != spoken);
        assert!(!others, "{self:?}: the application is spoken to in {spoken:?}, not {:?}", heard.connections);
        let was_tried = answer != Answer::Failed || !heard.connections.is_empty();
        assert!(was_tried, "{self:?}: the wrong version was never tried");
    }
}

async fn row(app: Version, protocol: Protocol) {
    let row = Box::pin(Row::start(app, protocol)).await;
    Box::pin(row.check()).await;
}

#[tokio::test]
async fn an_http1_application_without_a_declared_protocol() {
    row(Version::HTTP_11, Protocol::Auto).await;
}

#[tokio::test]
async fn an_http1_application_that_is_declared() {
    row(Version::HTTP_11, Protocol::Http1).await;
}

#[tokio::test]
async fn an_http1_application_that_is_wrongly_declared() {
    row(Version::HTTP_11, Protocol::Http2).await;
}

#[tokio::test]
async fn an_http2_application_without_a_declared_protocol() {
    row(Version::HTTP_2, Protocol::Auto).await;
}

#[tokio::test]
async fn an_http2_application_that_is_declared() {
    row(Version::HTTP_2, Protocol::Http2).await;
}

#[tokio::test]
async fn an_http2_application_that_is_wrongly_declared() {
    row(Version::HTTP_2, Protocol::Http1).await;
}
