//! Opens one transport to an endpoint: TCP and TLS, together within the cluster's `connect_timeout`.

use std::io;
use std::net::SocketAddr;

use tokio::time::timeout;

use super::Cluster;
use crate::error::{Error, Reason};
use crate::net::descriptors::is_short_of_descriptors;
use crate::net::{Prefixed, Transport};
use crate::runtime::worker::Worker;
use crate::telemetry::{ConnectionOutcome, HandshakeOutcome, Protocol};
use crate::tls::client::Purpose;
use crate::tls::{Alpn, TlsError};

/// An open transport and what was agreed on in its handshake. A failure is counted here, a success by whoever
/// learns what is spoken.
///
/// # Errors
/// `connect_refused`, `connect_timeout`, `tls_error`, `peer_identity_mismatch`.
pub(crate) async fn connect(
    cluster: &Cluster,
    address: SocketAddr,
    worker: &Worker,
    purpose: Purpose,
) -> Result<(Transport, Option<Alpn>), Error> {
    let attempt = Attempt { cluster, address, worker };
    let connected = timeout(cluster.connect_timeout, attempt.run(purpose)).await;
    let connected = connected.unwrap_or_else(|_elapsed| Err(attempt.timed_out()));
    if let Err(error) = &connected {
        cluster.connection_opened(worker, Protocol::Unknown, outcome(error));
    }
    connected
}

struct Attempt<'a> {
    cluster: &'a Cluster,
    address: SocketAddr,
    worker: &'a Worker,
}

impl Attempt<'_> {
    async fn run(&self, purpose: Purpose) -> Result<(Transport, Option<Alpn>), Error> {
        let Cluster { leg, connection, .. } = self.cluster;
        let stream = self.worker.network.connect(self.address, *leg, connection.keepalive).await;
        let stream = stream.map_err(|error| self.unreachable(&error))?;
        let Some(tls) = self.cluster.tls() else {
            return Ok((Transport::Plain(Prefixed::new(stream)), None));
        };
        let connected = tls.connect(stream, purpose).await;
        self.count_handshake(connected.as_ref().err());
        let (stream, alpn) = connected.map_err(|error| self.tls_failed(&error))?;
        Ok((Transport::Connected(Box::new(stream)), alpn))
    }

    fn count_handshake(&self, failed: Option<&TlsError>) {
        let outcome = match failed {
            None => HandshakeOutcome::Ok,
            Some(error) if error.is_identity_mismatch() => HandshakeOutcome::Identity,
            Some(_) => HandshakeOutcome::Failed,
        };
        self.worker.metrics.handshakes(self.cluster.direction(), outcome).inc();
    }

    fn unreachable(&self, error: &io::Error) -> Error {
        let (address, name) = (self.address, &self.cluster.name);
        match error.kind() {
            io::ErrorKind::TimedOut => self.timed_out(),
            _ if is_short_of_descriptors(error) || error.kind() == io::ErrorKind::AddrNotAvailable => {
                Error::new(
                    Reason::Overloaded,
                    format!(
                        "no descriptor or port is left for a connection to {address} of \"{name}\": {error}"
                    ),
                )
            }
            io::ErrorKind::ConnectionRefused => Error::new(
                Reason::ConnectRefused,
                format!("{address} of \"{name}\" refused the connection: is anything listening there?"),
            ),
            _ => Error::new(
                Reason::ConnectRefused,
                format!("{address} of \"{name}\" could not be connected to: {error}"),
            ),
        }
    }

    fn timed_out(&self) -> Error {
        Error::new(
            Reason::ConnectTimeout,
            format!(
                "{} of \"{}\" did not finish connecting within {:?} (connect_timeout, TCP and TLS together)",
                self.address, self.cluster.name, self.cluster.connect_timeout
            ),
        )
    }

    fn tls_failed(&self, error: &TlsError) -> Error {
        let mismatch = error.is_identity_mismatch();
        let reason = if mismatch { Reason::PeerIdentityMismatch } else { Reason::TlsError };
        let (address, name) = (self.address, &self.cluster.name);
        Error::new(reason, format!("TLS with {address} of \"{name}\" failed: {error}"))
    }
}

/// How the setting-up of a connection ended, in the metric's words.
pub(crate) const fn outcome(error: &Error) -> ConnectionOutcome {
    match error.reason {
        Reason::ConnectRefused => ConnectionOutcome::Refused,
        Reason::ConnectTimeout => ConnectionOutcome::Timeout,
        Reason::TlsError | Reason::PeerIdentityMismatch => ConnectionOutcome::TlsError,
        _ => ConnectionOutcome::Failed,
    }
}
