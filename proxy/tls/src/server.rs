//! Accepts mutual TLS: every client proves by its certificate that it is a workload of our trust domain, or of a
//! federated one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use pillion_model::identity::TlsPolicy;
use rustls::ServerConfig;
use rustls::pki_types::UnixTime;
use rustls::sign::SingleCertAndKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::notes::noting;
use super::sessions::Sessions;
use super::verify::ClientVerifier;
use super::{Alpn, Peer, SetupError, TlsError, provider, wire_names};
use crate::identity::credentials::Credentials;

/// Tickets for each connection. rustls sends two by default; a client that connects again uses one and gets one. Each
/// ticket costs the server 2 us and one of the sessions that it keeps.
const TICKETS: usize = 1;

/// The TLS config of inbound: our certificate, TLS versions and key exchanges by `policy`, the protocols of
/// [`Alpn::ALL`] (a client without ALPN is served as well), and a required client certificate.
///
/// Sessions resume from memory: at most 256 for each config, which saves about two thirds of a handshake's CPU. They
/// belong to this config, so new credentials start without sessions, and no session is resumed after the certificate
/// that began it has expired ([`Sessions`]). When a known client does a full handshake, its certificates are not
/// verified once more ([`known`](super::known)): this saves a third of the CPU.
///
/// # Errors
/// The cryptography that was built in cannot do what the policy asks for.
pub fn server_config(credentials: &Credentials, policy: &TlsPolicy) -> Result<Arc<ServerConfig>, SetupError> {
    config_with(client_verifier(credentials, policy), credentials, policy)
}

pub(super) fn config_with(
    verifier: Arc<ClientVerifier>,
    credentials: &Credentials,
    policy: &TlsPolicy,
) -> Result<Arc<ServerConfig>, SetupError> {
    let mut config = ServerConfig::builder_with_provider(provider::provider(policy))
        .with_protocol_versions(provider::versions(policy))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(credentials.key.clone())));
    config.alpn_protocols = wire_names(&Alpn::ALL);
    config.session_storage = Sessions::new();
    config.send_tls13_tickets = TICKETS;
    config.ignore_client_order = true; // OpenSSL offers AES-256 first, whose cost is stated in `provider`
    Ok(Arc::new(config))
}

fn client_verifier(credentials: &Credentials, policy: &TlsPolicy) -> Arc<ClientVerifier> {
    Arc::new(ClientVerifier::new(credentials, &provider::provider(policy)))
}

/// The TLS config of inbound, and the verifier that judges clients again that were admitted under an older one.
#[derive(Debug)]
pub struct Server {
    pub config: Arc<ServerConfig>,
    /// A number that no other `Server` has. It tells whether this one admitted a peer.
    pub serial: u64,
    peers: Arc<ClientVerifier>,
}

impl Server {
    /// # Errors
    /// Like [`server_config`].
    pub fn new(credentials: &Credentials, policy: &TlsPolicy) -> Result<Arc<Self>, SetupError> {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let peers = client_verifier(credentials, policy);
        let config = config_with(peers.clone(), credentials, policy)?;
        Ok(Arc::new(Self { config, serial: SERIAL.fetch_add(1, Relaxed), peers }))
    }

    /// Whether a peer that an older `Server` has admitted would be admitted by this one.
    ///
    /// # Errors
    /// The reason why the peer would not be admitted.
    pub fn admits_still(&self, peer: &Peer) -> Result<(), TlsError> {
        self.peers.admits_still(peer)
    }
}

/// Does the handshake as the server. It has no time limit; the caller sets one.
///
/// # Errors
/// [`TlsError`]. The client has received an alert if TLS allows it.
pub async fn accept<IO>(
    config: Arc<ServerConfig>,
    io: IO,
) -> Result<(TlsStream<IO>, Arc<Peer>, Option<Alpn>), TlsError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (accepted, notes) = noting(TlsAcceptor::from(config).accept(io)).await;
    let stream = match accepted {
        Ok(stream) => stream,
        Err(error) => return Err(TlsError::of_handshake(&error, notes)),
    };
    let (_, session) = stream.get_ref();
    let alpn = Alpn::agreed(session.alpn_protocol());
    let now = UnixTime::now();
    let peer = match notes.verified {
        Some(verified) => Peer::verified(&verified, now),
        None => Peer::of(session.peer_certificates(), now)?,
    };
    Ok((stream, Arc::new(peer), alpn))
}
