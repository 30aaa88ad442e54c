//! Terminates mTLS: every client proves by certificate that it is a workload of our trust domain.

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
use super::verify::{ClientVerifier, Expected};
use super::{Alpn, Peer, SetupError, TlsError, provider, wire_names};
use crate::identity::credentials::Credentials;

/// One for each connection, where rustls sends two: a client that comes again spends one and gets one. Each takes the
/// server 2 us, and one of the sessions that it keeps.
const TICKETS: usize = 1;

/// What inbound serves with: our certificate, TLS versions and key exchanges by `policy`, ALPN as
/// [`Alpn::ALL`] (a client that offers none is served too), and a client certificate required.
///
/// Sessions resume from memory (256 per config, no tickets that outlive it): that saves about two thirds of a
/// handshake's CPU. They are bound to this config, so new credentials start with none, and none is resumed when the
/// certificate that began it has expired ([`Sessions`]). A full handshake of a client that comes again need not verify
/// its certificates once more ([`known`](super::known)): that saves a third of the CPU.
///
/// # Errors
/// The bundle cannot verify anyone; not with [`Credentials`] that were checked.
pub fn server_config(credentials: &Credentials, policy: &TlsPolicy) -> Result<Arc<ServerConfig>, SetupError> {
    config_with(client_verifier(credentials, policy)?, credentials, policy)
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
    config.ignore_client_order = true; // OpenSSL offers AES-256 first: `provider` says what that costs
    Ok(Arc::new(config))
}

/// Whom inbound lets in: any workload of our trust domain.
fn client_verifier(credentials: &Credentials, policy: &TlsPolicy) -> Result<Arc<ClientVerifier>, SetupError> {
    let expected = Expected::TrustDomain(credentials.trust_domain().to_owned());
    ClientVerifier::new(credentials, expected, provider::provider(policy)).map(Arc::new)
}

/// What inbound shakes hands by, and judges those by who have shaken hands before it was there.
#[derive(Debug)]
pub struct Server {
    pub config: Arc<ServerConfig>,
    /// No other has the same: tells whether a peer was judged by this one.
    pub serial: u64,
    peers: Arc<ClientVerifier>,
}

impl Server {
    /// # Errors
    /// As of [`server_config`].
    pub fn new(credentials: &Credentials, policy: &TlsPolicy) -> Result<Arc<Self>, SetupError> {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let peers = client_verifier(credentials, policy)?;
        let config = config_with(peers.clone(), credentials, policy)?;
        Ok(Arc::new(Self { config, serial: SERIAL.fetch_add(1, Relaxed), peers }))
    }

    /// Whether a peer that another one has admitted would be admitted by this one.
    ///
    /// # Errors
    /// It would not, and why.
    pub fn admits_still(&self, peer: &Peer) -> Result<(), TlsError> {
        self.peers.admits_still(peer)
    }
}

/// Shakes hands as the server. Unbounded in time: the caller sets the limit.
///
/// # Errors
/// [`TlsError`]; the client has been told by alert where TLS allows it.
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
