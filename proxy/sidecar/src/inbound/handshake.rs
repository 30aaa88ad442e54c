//! The TLS handshake with an inbound client.

use std::net::SocketAddr;

use pillion_model::{Direction, SpiffeId};
use tokio::time::{Instant, timeout_at};

use super::arrived::{Arrived, Proven, Who};
use super::{Inbound, Step};
use pillion_base::net::{Io, Prefixed, Records, Transport};
use pillion_base::unfinished::{HANDSHAKE, HANDSHAKE_BYTES, Side};
use pillion_telemetry::{ConnectionOutcome, HandshakeOutcome, Protocol, Tls};
use pillion_tls::TlsError;
use pillion_tls::outside::OutsideServer;
use pillion_tls::refusals::{self, With};
use pillion_tls::server::{Server, accept};

/// The TLS server for a handshake.
pub(super) enum Terminates<'a> {
    Mesh(&'a Server),
    Outside(&'a OutsideServer),
}

impl Terminates<'_> {
    const fn label(&self) -> Tls {
        match self {
            Self::Mesh(_) => Tls::Mutual,
            Self::Outside(_) => Tls::ServerOnly,
        }
    }

    const fn with(&self) -> With {
        match self {
            Self::Mesh(_) => With::Peers,
            Self::Outside(_) => With::Outside,
        }
    }
}

impl Inbound {
    /// When a handshake must be complete, by the current limits: on a strict port counted from accept, on other ports
    /// from its first byte.
    pub(super) fn handshake_until(&self, arrived: &Arrived) -> Instant {
        arrived.since + self.worker.limits().header_timeout
    }

    pub(super) async fn terminate(&self, tls: &Terminates<'_>, io: Io, mut arrived: Arrived) -> Step {
        let mut share = self.worker.ground.unfinished.begin(Side::Strangers);
        share.hold(HANDSHAKE);
        let (until, from) = (self.handshake_until(&arrived), arrived.from);
        let shaken = tokio::select! { // a handshake that is dropped loses no data: no request came through it yet
            biased;
            () = share.given_up() => {
                tracing::debug!(%from, "inbound TLS failed: handshakes exceed their memory limit, and this one is the oldest");
                self.handshake_ended(HandshakeOutcome::Failed, tls.label(), ConnectionOutcome::Refused);
                None
            }
            shaken = timeout_at(until, Box::pin(self.handshake(tls, io, from))) => {
                shaken.unwrap_or_else(|_elapsed| {
                    tracing::debug!(%from, "inbound TLS failed: the handshake was not complete within limits.header_timeout");
                    self.handshake_ended(HandshakeOutcome::Timeout, tls.label(), ConnectionOutcome::Timeout);
                    None
                })
            }
        };
        let Some((io, proven)) = shaken else { return Step::Ended };
        (arrived.proven, arrived.began) = (Some(proven), None);
        if self.keep(&mut arrived) { Step::Proven(io, arrived) } else { Step::Ended }
    }

    /// Shakes hands with the client. `None`: TLS failed, and the peer got a TLS alert where that was possible.
    async fn handshake(&self, tls: &Terminates<'_>, io: Io, from: SocketAddr) -> Option<(Io, Proven)> {
        let began = Instant::now();
        let mut io = io.into_plain()?;
        io.read_at_most(HANDSHAKE_BYTES);
        let shaken = match tls {
            Terminates::Mesh(server) => {
                accept(server.config.clone(), io).await.map(|(stream, peer, alpn)| {
                    (stream, Proven { who: Who::Peer(peer), alpn, by: server.serial, micros: 0 })
                })
            }
            Terminates::Outside(server) => server.accept(io).await.map(|(stream, client, alpn)| {
                (stream, Proven { who: Who::Outside(client), alpn, by: server.serial, micros: 0 })
            }),
        };
        match shaken {
            Ok((mut stream, mut proven)) => {
                proven.micros = u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX).max(1);
                stream.get_mut().0.read_at_most(usize::MAX);
                self.worker.ground.metrics.handshakes(Direction::Inbound, HandshakeOutcome::Ok).inc();
                let io = Prefixed::new(Transport::Accepted(Box::new(Records::new(stream))));
                Some((io, proven))
            }
            Err(error) => {
                log_failed(tls.with(), from, &error);
                let identity = error.is_identity_mismatch();
                let outcome = if identity { HandshakeOutcome::Identity } else { HandshakeOutcome::Failed };
                self.handshake_ended(outcome, tls.label(), ConnectionOutcome::TlsError);
                None
            }
        }
    }

    fn handshake_ended(&self, handshake: HandshakeOutcome, tls: Tls, connection: ConnectionOutcome) {
        self.worker.ground.metrics.handshakes(Direction::Inbound, handshake).inc();
        self.count(Protocol::Unknown, tls, connection);
    }
}

/// Logs a failed handshake with the identity that the peer claimed, where it is known, and the cause.
fn log_failed(with: With, from: SocketAddr, error: &TlsError) {
    let claimed = error.claimed.as_ref().map_or("unknown", SpiffeId::as_str);
    match refusals::left_out_before(with, error) {
        Some(more) => {
            tracing::warn!(%from, claimed, cause = error.cause, more, "inbound TLS failed: {error}");
        }
        None => tracing::debug!(%from, claimed, cause = error.cause, "inbound TLS failed: {error}"),
    }
}
