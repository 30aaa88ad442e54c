//! Opens one transport to an endpoint. TCP and TLS together must finish within the cluster's `connect_timeout`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use crate::cluster::Cluster;
use pillion_base::error::Error;
use pillion_base::ground::Ground;
use pillion_base::net::descriptors::is_short_of_descriptors;
use pillion_base::net::{Leg, Stream, Transport};
use pillion_model::Direction;
use pillion_model::Reason;
use pillion_telemetry::{ConnectionOutcome, HandshakeOutcome, Metrics, Protocol};
use pillion_tls::admission::{Admission, ClientStream};
use pillion_tls::client::{ClientTls, Purpose};
use pillion_tls::refusals::{self, With};
use pillion_tls::{Alpn, TlsError};

/// An open transport, and the results of its handshake.
pub struct Connected {
    pub transport: Transport,
    pub alpn: Option<Alpn>,
    /// `None` for plaintext, where no certificate is judged.
    pub admission: Option<Arc<Admission>>,
}

/// Opens a transport. A failure is counted here. A success is counted by [`opened`], which the caller calls when it
/// knows the protocol.
///
/// # Errors
/// `connect_refused`, `connect_timeout`, `tls_error`, `peer_identity_mismatch`.
pub async fn connect(
    cluster: &Cluster,
    address: SocketAddr,
    ground: &Ground,
    purpose: Purpose,
) -> Result<Connected, Error> {
    connect_as(cluster.leg, cluster, address, ground, purpose).await
}

/// Connects as [`connect`] does, on the given leg.
///
/// # Errors
/// As [`connect`].
pub async fn connect_as(
    leg: Leg,
    cluster: &Cluster,
    address: SocketAddr,
    ground: &Ground,
    purpose: Purpose,
) -> Result<Connected, Error> {
    let attempt = ConnectAttempt { leg, cluster, address, ground };
    let connected = attempt.run_in_time(purpose).await;
    let service = &*cluster.name;
    match &connected {
        Ok(_) => tracing::debug!(service, endpoint = %address, "connection opened"),
        Err(error) => {
            tracing::debug!(service, endpoint = %address, reason = error.reason.code(), "connection failed");
            cluster.connection_opened(ground, Protocol::Unknown, outcome(error));
        }
    }
    connected
}

/// Connects as [`connect`] does, for a health check. A check is no traffic of the service, so only its handshake is
/// counted.
///
/// # Errors
/// As [`connect`].
pub async fn connect_uncounted(
    cluster: &Cluster,
    address: SocketAddr,
    ground: &Ground,
    purpose: Purpose,
) -> Result<Connected, Error> {
    ConnectAttempt { leg: cluster.leg, cluster, address, ground }.run_in_time(purpose).await
}

/// Counts a connection that speaks `protocol`, as soon as it is known whether the server has accepted us.
pub fn opened(cluster: &Cluster, ground: &Ground, protocol: Protocol, admission: Option<&Arc<Admission>>) {
    let Some(admission) = admission else {
        return cluster.connection_opened(ground, protocol, ConnectionOutcome::Ok);
    };
    let (metrics, direction, symbol, tls) =
        (ground.metrics.clone(), cluster.direction(), cluster.symbol, cluster.tls_label());
    admission.when_known(move |refused| {
        let outcome = if refused.is_some() { ConnectionOutcome::TlsError } else { ConnectionOutcome::Ok };
        metrics.connections(direction, symbol, protocol, tls, outcome).inc();
    });
}

/// The error of a request or a connection whose server refused us in TLS, or broke the TLS connection.
pub fn tls_failed(address: SocketAddr, service: &str, failed: &TlsError) -> Error {
    let mismatch = failed.is_identity_mismatch();
    let reason = if mismatch { Reason::PeerIdentityMismatch } else { Reason::TlsError };
    let error = Error::new(reason, format!("TLS with {address} of \"{service}\" failed: {failed}"));
    error.of_our_fault(failed.is_of_our_certificate)
}

struct ConnectAttempt<'a> {
    leg: Leg,
    cluster: &'a Cluster,
    address: SocketAddr,
    ground: &'a Ground,
}

impl ConnectAttempt<'_> {
    async fn run_in_time(&self, purpose: Purpose) -> Result<Connected, Error> {
        let until = Instant::now() + self.cluster.connect_timeout;
        let stream = timeout_at(until, self.dial_with_room()).await;
        let stream = stream.unwrap_or_else(|_elapsed| Err(self.timed_out("connecting")))?;
        let Some(tls) = self.cluster.tls() else {
            let transport = Transport::plain(stream);
            return Ok(Connected { transport, alpn: None, admission: None });
        };
        match timeout_at(until, self.secure(tls, stream, purpose)).await {
            Ok(connected) => connected,
            Err(_elapsed) => {
                self.ground.metrics.handshakes(self.cluster.direction(), HandshakeOutcome::Timeout).inc();
                Err(self.timed_out("the TLS handshake"))
            }
        }
    }

    async fn dial_with_room(&self) -> Result<Stream, Error> {
        let stream = match self.dial().await {
            Err(error) if is_short_of_descriptors(&error) => {
                self.ground.strangers.free_descriptors().await;
                self.dial().await
            }
            dialled => dialled,
        };
        stream.map_err(|error| self.unreachable(&error))
    }

    async fn secure(&self, tls: &ClientTls, stream: Stream, purpose: Purpose) -> Result<Connected, Error> {
        let (stream, alpn) = match tls.connect(stream, purpose).await {
            Ok(connected) => connected,
            Err(error) => {
                self.handshakes().ended(Some(&error));
                return Err(tls_failed(self.address, &self.cluster.name, &error));
            }
        };
        self.note_server(&stream);
        let (admission, handshakes) = (stream.admission().clone(), self.handshakes());
        admission.when_known(move |refused| handshakes.ended(refused));
        Ok(Connected { transport: Transport::Connected(Box::new(stream)), alpn, admission: Some(admission) })
    }

    /// Istio's metrics name the server by its verified identity.
    fn note_server(&self, stream: &ClientStream<Stream>) {
        let metrics = &self.ground.metrics;
        if !metrics.has_istio() || !self.cluster.verifies_peers() {
            return;
        }
        if let Some(id) = stream.server_id() {
            metrics.note_server(self.cluster.symbol, self.address, id.as_str());
        }
    }

    async fn dial(&self) -> io::Result<Stream> {
        self.ground.network.connect(self.address, self.leg, self.cluster.connection.keepalive).await
    }

    fn handshakes(&self) -> Handshakes {
        Handshakes {
            metrics: self.ground.metrics.clone(),
            direction: self.cluster.direction(),
            service: self.cluster.name.clone(),
            endpoint: self.address,
        }
    }

    fn unreachable(&self, error: &io::Error) -> Error {
        let (address, name) = (self.address, &self.cluster.name);
        match error.kind() {
            io::ErrorKind::TimedOut => self.timed_out("connecting"),
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

    fn timed_out(&self, at: &str) -> Error {
        Error::new(
            Reason::ConnectTimeout,
            format!(
                "{} of \"{}\" did not finish {at} within {:?} (connect_timeout, TCP and TLS together)",
                self.address, self.cluster.name, self.cluster.connect_timeout
            ),
        )
    }
}

/// Counts the handshakes with an endpoint, and logs those that failed.
struct Handshakes {
    metrics: Arc<Metrics>,
    direction: Direction,
    service: Arc<str>,
    endpoint: SocketAddr,
}

impl Handshakes {
    /// Counts a handshake. `None` means that it succeeded.
    fn ended(&self, failed: Option<&TlsError>) {
        let outcome = match failed {
            None => HandshakeOutcome::Ok,
            Some(error) if error.is_identity_mismatch() => HandshakeOutcome::Identity,
            Some(_) => HandshakeOutcome::Failed,
        };
        self.metrics.handshakes(self.direction, outcome).inc();
        let Some(error) = failed else { return };
        let (service, endpoint, cause) = (&*self.service, self.endpoint, error.cause);
        match refusals::left_out_before(With::Servers, error) {
            Some(more) => tracing::warn!(service, %endpoint, cause, more, "outbound TLS failed: {error}"),
            None => tracing::debug!(service, %endpoint, cause, "outbound TLS failed: {error}"),
        }
    }
}

/// How the opening of a connection ended, as a label of the metric.
pub const fn outcome(error: &Error) -> ConnectionOutcome {
    match error.reason {
        Reason::ConnectRefused => ConnectionOutcome::Refused,
        Reason::ConnectTimeout => ConnectionOutcome::Timeout,
        Reason::TlsError | Reason::PeerIdentityMismatch => ConnectionOutcome::TlsError,
        _ => ConnectionOutcome::Failed,
    }
}
