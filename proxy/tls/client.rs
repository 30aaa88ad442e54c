//! Originates TLS to the endpoints of one cluster: mutual by SPIFFE ID, or simple by host name.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use pillion_model::SpiffeId;
use pillion_model::cluster::UpstreamTls;
use pillion_model::identity::TlsPolicy;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{DnsName, ServerName};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::admission::ClientStream;
use super::notes::noting;
use super::revocation::Revocations;
use super::verify::{Expected, Revoking, ServerVerifier};
use super::{Alpn, SetupError, TlsError, provider, recheck_resumed, wire_names};
use crate::identity::credentials::{Bundle, Credentials};
use crate::identity::unix_now;

/// Which protocols a cluster's connections offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AlpnOffer {
    Auto,
    Http1,
    Http2,
}

impl AlpnOffer {
    /// Preferred first. A sidecar's own names only where a sidecar may be: behind mutual TLS.
    fn protocols(self, mutual: bool) -> Vec<Alpn> {
        let offered = |alpn: &Alpn| match self {
            _ if *alpn == Alpn::PillionTcp => false,
            Self::Auto => true,
            Self::Http1 => !alpn.is_http2(),
            Self::Http2 => alpn.is_http2(),
        };
        Alpn::ALL.into_iter().filter(|alpn| offered(alpn) && (mutual || !alpn.is_sidecar())).collect()
    }
}

/// What one connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Requests, in a version that the cluster allows.
    Http,
    /// Requests that need an HTTP/1.1 connection of their own: upgrades and CONNECT.
    Http1,
    /// Opaque bytes.
    Tcp,
}

/// How the connections of one cluster are secured. Built once per cluster and set of credentials; cheap to
/// clone. Sessions resume within it (rustls' 256 in memory), never across a rotation.
#[derive(Clone)]
pub struct ClientTls(State);

#[derive(Clone)]
enum State {
    Ready {
        /// By [`Purpose`]; they differ in the ALPN that they offer.
        connectors: [TlsConnector; 3],
        server_name: ServerName<'static>,
    },
    /// Why there is no certificate yet.
    Waiting(Arc<str>),
}

impl ClientTls {
    /// `None`: the cluster is plaintext. `host` is the first host of the cluster; it becomes the SNI, unless
    /// the cluster has its own or the host is no DNS name.
    ///
    /// # Errors
    /// [`SetupError`], also when `tls.trust_bundle` cannot be read. Blocks on file IO where there is one.
    pub fn new(
        credentials: Option<&Credentials>,
        tls: &UpstreamTls,
        policy: &TlsPolicy,
        host: Option<&str>,
        alpn: AlpnOffer,
    ) -> Result<Option<Self>, SetupError> {
        let builder = Builder { credentials, policy, host, alpn };
        match tls {
            UpstreamTls::Off => Ok(None),
            UpstreamTls::Simple { sni, trust_bundle } => {
                builder.simple(sni.as_deref(), trust_bundle.as_ref()).map(Some)
            }
            UpstreamTls::Mutual { identities, sni, trust_bundle } => {
                builder.mutual(identities, sni.as_deref(), trust_bundle.as_ref()).map(Some)
            }
        }
    }

    /// For a cluster that must be mutual while our own certificate is awaited: nobody is called, and whoever asks
    /// hears `why`.
    pub fn waiting(why: &dyn fmt::Display) -> Self {
        Self(State::Waiting(why.to_string().into()))
    }

    /// Why our own certificate is not there yet.
    pub fn waits_for(&self) -> Option<&str> {
        match &self.0 {
            State::Waiting(why) => Some(why),
            _ => None,
        }
    }

    /// Shakes hands as the client. Unbounded in time: the caller sets the limit.
    ///
    /// In TLS 1.3 a server judges our certificate after this returns: [`ClientStream::admission`] tells what came of
    /// that.
    ///
    /// # Errors
    /// [`TlsError`]; of kind `PeerIdentityMismatch` when the server is genuine but not who it must be. At once, and of
    /// kind `NotReady`, while our certificate is awaited.
    pub async fn connect<IO>(
        &self,
        io: IO,
        purpose: Purpose,
    ) -> Result<(ClientStream<IO>, Option<Alpn>), TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let (connectors, server_name) = match &self.0 {
            State::Ready { connectors, server_name } => (connectors, server_name),
            State::Waiting(why) => return Err(TlsError::not_ready(why)),
        };
        let [http, http1, tcp] = connectors;
        let connector = match purpose {
            Purpose::Http => http,
            Purpose::Http1 => http1,
            Purpose::Tcp => tcp,
        };
        let (connected, notes) = noting(connector.connect(server_name.clone(), io)).await;
        let stream = connected.map_err(|error| TlsError::noted(&error, notes))?;
        let (_, session) = stream.get_ref();
        recheck_resumed(session.handshake_kind(), session.peer_certificates(), unix_now())?;
        let alpn = Alpn::agreed(session.alpn_protocol());
        Ok((ClientStream::new(stream), alpn))
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            State::Ready { server_name, .. } => {
                f.debug_struct("ClientTls").field("server_name", server_name).finish_non_exhaustive()
            }
            State::Waiting(why) => f.debug_tuple("Waiting").field(why).finish(),
        }
    }
}

struct Builder<'a> {
    credentials: Option<&'a Credentials>,
    policy: &'a TlsPolicy,
    host: Option<&'a str>,
    alpn: AlpnOffer,
}

impl Builder<'_> {
    fn mutual(
        &self,
        identities: &[SpiffeId],
        sni: Option<&str>,
        trust_bundle: Option<&PathBuf>,
    ) -> Result<ClientTls, SetupError> {
        let credentials = self.credentials.ok_or(SetupError::NeedsIdentity)?;
        let roots = self.roots(trust_bundle)?;
        let expected = match identities {
            [] => Expected::TrustDomain(credentials.trust_domain().to_owned()),
            listed => Expected::AnyOf(listed.to_vec()),
        };
        let provider = provider::provider(self.policy);
        let verifier = Arc::new(ServerVerifier::new(roots, expected, credentials, &provider));
        let server_name = self.sni(sni)?.unwrap_or_else(nameless);
        self.client(provider, verifier, Some(credentials), server_name)
    }

    fn simple(&self, sni: Option<&str>, trust_bundle: Option<&PathBuf>) -> Result<ClientTls, SetupError> {
        let provider = provider::provider(self.policy);
        let roots = self.roots(trust_bundle)?;
        let algorithms = provider.signature_verification_algorithms;
        let revocations = Revocations::new(self.credentials, roots.clone(), algorithms);
        let inner = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build()?;
        let verifier = Arc::new(Revoking { inner, revocations });
        let address = || self.host.and_then(|host| ServerName::try_from(host.to_owned()).ok());
        let server_name = self.sni(sni)?.or_else(address).ok_or(SetupError::NeedsServerName)?;
        self.client(provider, verifier, None, server_name)
    }

    fn client(
        &self,
        provider: Arc<CryptoProvider>,
        verifier: Arc<dyn ServerCertVerifier>,
        credentials: Option<&Credentials>,
        server_name: ServerName<'static>,
    ) -> Result<ClientTls, SetupError> {
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(provider::versions(self.policy))?
            // "dangerous" is any verifier that is not the library's; ours is `verify`
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match credentials {
            Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.key.clone()))),
            None => builder.with_no_client_auth(),
        };
        let mutual = credentials.is_some();
        let tcp: &[Alpn] = if mutual { &[Alpn::PillionTcp] } else { &[] };
        let offers = [self.alpn.protocols(mutual), AlpnOffer::Http1.protocols(mutual), tcp.to_vec()];
        let connectors = offers.map(|offer| {
            config.alpn_protocols = wire_names(&offer);
            TlsConnector::from(Arc::new(config.clone())) // sessions are shared: they do not depend on ALPN
        });
        Ok(ClientTls(State::Ready { connectors, server_name }))
    }

    fn roots(&self, trust_bundle: Option<&PathBuf>) -> Result<Arc<RootCertStore>, SetupError> {
        match (trust_bundle, self.credentials) {
            (Some(path), _) => Ok(Bundle::load(path)?.roots),
            (None, Some(own)) => Ok(own.roots.clone()),
            (None, None) => Err(SetupError::NeedsTrustBundle),
        }
    }

    /// The configured name, else the host where it is a DNS name.
    fn sni(&self, configured: Option<&str>) -> Result<Option<ServerName<'static>>, SetupError> {
        match configured {
            Some(sni) => dns_name(sni).map(Some).ok_or_else(|| SetupError::BadServerName(sni.to_owned())),
            None => Ok(self.host.and_then(dns_name)),
        }
    }
}

fn dns_name(name: &str) -> Option<ServerName<'static>> {
    match ServerName::try_from(name).ok()? {
        ServerName::DnsName(name) => Some(ServerName::DnsName(DnsName::to_owned(&name))),
        _ => None,
    }
}

/// An address stands where rustls wants a name: no SNI is sent, and [`ServerVerifier`] does not look.
fn nameless() -> ServerName<'static> {
    ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into())
}
