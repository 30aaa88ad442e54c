//! Detects the protocol of an undeclared connection: by the client's first bytes, or because the server speaks first.
//!
//! A client's silence alone never decides. Once the client has been silent for [`Early::after`], its destination is
//! dialled early, where that is allowed. If the server then speaks first, the connection is opaque; if the client then
//! speaks HTTP, the early connection is not used. [`bytes`] and [`hello`] judge bytes and do nothing else.

pub mod bytes;
mod client;
mod early;
pub mod hello;
#[cfg(test)]
mod lenient;
mod watch;

use std::future::Future;
use std::io;
use std::net::SocketAddr;

use tokio::time::Instant;

use crate::exchange::{DialFailure, Facts};
use crate::worker::Worker;
pub use client::PeekedClient;
use client::{ClientRead, Patience};
use early::race;
pub use early::{Early, EarlyServer, NO_EARLY_DIAL, NoEarlyServer};
use hello::Hello;
use pillion_base::drain::Work;
use pillion_base::error::Error;
use pillion_base::net::Io;
use pillion_base::unfinished::Side;
use pillion_model::{Direction, Reason};
use pillion_telemetry::{ConnectionOutcome, DetectionVerdict};
use pillion_tls::TlsError;
pub use watch::Watched;

/// A version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http1,
    Http2,
}

/// The detected protocol, with what its first bytes have shown.
#[derive(Debug)]
pub enum Found {
    Http1,
    Http2,
    /// TLS, with the contents of its ClientHello where that could be read.
    Tls(Option<Hello>),
    Opaque,
}

impl Found {
    pub const fn is_http(&self) -> bool {
        matches!(self, Self::Http1 | Self::Http2)
    }

    /// The version of HTTP by which the connection is served where it must be HTTP. Bytes that are not HTTP are served
    /// as HTTP/1, which answers 400.
    pub const fn version(&self) -> Version {
        match self {
            Self::Http2 => Version::Http2,
            _ => Version::Http1,
        }
    }

    /// Counts and logs the detected protocol of an undeclared connection.
    pub fn note(&self, direction: Direction, from: SocketAddr, worker: &Worker) {
        let verdict = self.verdict();
        tracing::debug!(direction = direction.as_str(), %from, protocol = verdict.as_str(), "protocol detected");
        worker.ground.metrics.detections(direction, verdict).inc();
    }

    const fn verdict(&self) -> DetectionVerdict {
        match self {
            Self::Http1 => DetectionVerdict::Http1,
            Self::Http2 => DetectionVerdict::Http2,
            Self::Tls(_) => DetectionVerdict::Tls,
            Self::Opaque => DetectionVerdict::Opaque,
        }
    }
}

/// A connection whose protocol is known.
pub struct Detected<D> {
    pub found: Found,
    /// The connection, which yields the examined bytes once more.
    pub io: Io,
    /// The early connection, or why its dial failed: the failed dial is not repeated at once.
    pub early: Option<Result<D, DialFailure>>,
    /// Neither end has sent a byte, so the connection shows nothing about the protocol of its destination.
    pub is_silent: bool,
    /// The connection is carried as opaque, but its first line may still become HTTP: see [`Watched`].
    pub is_undecided: bool,
    /// When the client's first byte came; `None` if it has not.
    pub began: Option<Instant>,
}

impl<D> Detected<D> {
    /// An opaque connection by declaration: its bytes are not examined.
    pub fn declared(io: Io, early: Option<D>) -> Self {
        let early = early.map(Ok);
        Self { found: Found::Opaque, io, early, is_silent: false, is_undecided: false, began: None }
    }

    /// An HTTP connection whose version both sidecars have agreed on by ALPN, before any byte was sent.
    pub fn agreed(io: Io, is_http2: bool) -> Self {
        let found = if is_http2 { Found::Http2 } else { Found::Http1 };
        Self { found, is_silent: true, ..Self::declared(io, None) }
    }

    /// The server name in the client's ClientHello.
    pub fn server_name(&self) -> Option<&str> {
        match &self.found {
            Found::Tls(Some(hello)) => hello.server_name.as_deref(),
            _ => None,
        }
    }

    /// Whether the destination speaks HTTP; `None` if this connection does not show it.
    pub fn shows_http(&self) -> Option<bool> {
        (!self.is_silent).then_some(self.found.is_http())
    }
}

impl Detected<NoEarlyServer> {
    /// Turns a result that was detected without an early dial into the type of results that may have one.
    pub fn alone<D>(self) -> Detected<D> {
        let Self { found, io, is_silent, is_undecided, began, .. } = self;
        Detected { found, io, early: None, is_silent, is_undecided, began }
    }
}

/// Why a connection ended undecided.
#[derive(Debug, thiserror::Error)]
pub enum Undecided {
    /// The client closed the connection, or a timeout ended it.
    #[error("the client closed the connection, or a timeout ended it: {0}")]
    Ended(io::Error),
    /// The client broke its TLS session, or ended it by an alert.
    #[error("{0}")]
    Tls(TlsError),
    #[error("the sidecar is draining, and the client has sent nothing")]
    Drained,
    #[error("the client was silent, and there is no server that might speak first: {0}")]
    NoServer(DialFailure),
    #[error("the client was silent, and the server closed the connection soon after it was dialled: {0}")]
    HungUp(DialFailure),
    #[error(
        "the limit of memory for incomplete first bytes is reached, and this connection is the oldest of them"
    )]
    GivenUp,
}

impl Undecided {
    fn of(error: io::Error) -> Self {
        TlsError::inside(&error).map_or(Self::Ended(error), Self::Tls)
    }

    /// The outcome by which the connection is counted.
    pub fn outcome(&self) -> ConnectionOutcome {
        match self {
            Self::Ended(error) if error.kind() == io::ErrorKind::TimedOut => ConnectionOutcome::Timeout,
            Self::Tls(_) => ConnectionOutcome::TlsError,
            Self::Drained | Self::GivenUp => ConnectionOutcome::Refused,
            Self::Ended(_) | Self::NoServer(_) | Self::HungUp(_) => ConnectionOutcome::Failed,
        }
    }

    /// What to record: a server that was dialled for the connection without success, or that the sidecar refused it.
    pub fn failure(self) -> Option<DialFailure> {
        match self {
            Self::NoServer(failure) | Self::HungUp(failure) => Some(failure),
            Self::GivenUp => {
                let error = Error::new(Reason::Overloaded, self.to_string());
                Some(DialFailure::new(error, Facts::default()))
            }
            Self::Ended(_) | Self::Tls(_) | Self::Drained => None,
        }
    }
}

/// Waits until the protocol that `client` speaks is known.
pub async fn detect<D, M, F>(
    mut client: PeekedClient<'_>,
    work: &Work,
    early: Option<Early<M>>,
) -> Result<Detected<D>, Undecided>
where
    D: EarlyServer,
    M: FnOnce() -> F,
    F: Future<Output = Result<D, DialFailure>>,
{
    let Some(early) = early else { return client.alone(work, None).await };
    // Most clients send their first bytes before the early dial would begin, so the race is needed seldom.
    match client.listen(work, Patience::Silence(early.after)).await? {
        Some(found) if early.is_at_hand && !found.is_http() => {
            let dialled = (early.dial)().await;
            Ok(client.decided(found, Some(dialled)))
        }
        Some(found) => Ok(client.decided(found, None)),
        None => Box::pin(race(client, work, early)).await,
    }
}

/// Waits for a first byte without holding a buffer.
pub async fn first_byte(io: Io, worker: &Worker, work: &Work) -> Result<Io, Undecided> {
    let mut client = PeekedClient::new(io, worker, Side::Strangers, None);
    match client.read(work, client.until(Patience::Whole)).await? {
        Some(ClientRead::Bytes) => Ok(client.decided::<NoEarlyServer>(Found::Opaque, None).io),
        Some(ClientRead::End) => Err(Undecided::Ended(io::ErrorKind::UnexpectedEof.into())),
        None => Err(Undecided::Ended(io::ErrorKind::TimedOut.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_breaks_its_tls_session_is_counted_as_a_tls_error_and_not_as_closed() {
        let broken = Undecided::of(io::Error::new(io::ErrorKind::InvalidData, rustls::Error::DecryptError));
        assert_eq!(broken.outcome(), ConnectionOutcome::TlsError);
        assert_eq!(broken.to_string(), "TLS failed: cannot decrypt peer's message");
        let gone = Undecided::of(io::ErrorKind::UnexpectedEof.into());
        assert_eq!(gone.outcome(), ConnectionOutcome::Failed);
    }
}
