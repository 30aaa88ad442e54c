//! Originates TLS to the endpoints of one cluster: mutual by SPIFFE ID, or simple by host name.

use std::collections::HashMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use pillion_model::SpiffeId;
use pillion_model::cluster::UpstreamTls;
use pillion_model::identity::TlsPolicy;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{DnsName, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::admission::ClientStream;
use super::material::{Material, MaterialError, Wanted};
use super::notes::noting;
use super::revocation::Revocations;
use super::verify::{Expected, Revoking, ServerVerifier, Trust, Unverified};
use super::{Alpn, SetupError, TlsError, provider, recheck_resumed, wire_names};
use crate::identity::credentials::{Bundle, Credentials, certified_by_pem};
use crate::identity::system::Places;
use crate::identity::unix_now;

/// The protocols that a cluster's connections offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AlpnOffer {
    Auto,
    Http1,
    Http2,
}

impl AlpnOffer {
    /// The protocols to offer, the preferred ones first. The sidecar protocols are offered only with mutual TLS,
    /// because only then the server may be a sidecar.
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

/// The purpose of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Requests, in a version that the cluster allows.
    Http,
    /// Requests that need an HTTP/1.1 connection of their own: upgrades and CONNECT.
    Http1,
    /// Opaque bytes.
    Tcp,
}

/// How the connections of one cluster are secured. A [`Setup`] makes it once for each cluster and set of credentials.
/// It is cheap to clone.
#[derive(Clone)]
pub struct ClientTls(State);

#[derive(Clone)]
enum State {
    Ready {
        connectors: Arc<Connectors>,
        server_name: ServerName<'static>,
    },
    /// We have no certificate or no trust bundle yet, for this reason.
    Waiting(Arc<str>),
}

/// PEM texts for [`ClientTls::by_pem`].
#[derive(Clone, Copy)]
pub struct Pem<'a> {
    /// `None`: those of the system.
    pub authorities: Option<&'a [u8]>,
    /// Our own certificate with its chain, and its key.
    pub own: Option<(&'a [u8], &'a [u8])>,
}

/// Sessions kept for resumption. rustls keeps eight for each server, and clusters with the same security share them.
const SESSIONS: usize = 2048;

/// The connectors of all clusters that trust the same peers and offer the same protocols. Most clusters of a large
/// configuration are never called, so the rustls configs are made with the first connection. Sessions resume within one
/// `Connectors`, and never across a certificate rotation.
struct Connectors {
    /// One for each [`Purpose`]. They differ in the ALPN protocols that they offer.
    made: OnceLock<[TlsConnector; 3]>,
    provider: Arc<CryptoProvider>,
    versions: &'static [&'static SupportedProtocolVersion],
    verifier: Arc<dyn ServerCertVerifier>,
    /// Our own certificate, if it is shown to the server.
    own: Option<Arc<CertifiedKey>>,
    /// Whether the server proves a SPIFFE ID, so that it may be a sidecar.
    is_mutual: bool,
    alpn: AlpnOffer,
}

impl Connectors {
    fn get(&self, purpose: Purpose) -> &TlsConnector {
        let [http, http1, tcp] = self.made.get_or_init(|| self.make());
        match purpose {
            Purpose::Http => http,
            Purpose::Http1 => http1,
            Purpose::Tcp => tcp,
        }
    }

    fn make(&self) -> [TlsConnector; 3] {
        let builder = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(self.versions)
            .expect("the setup checked that the provider has these versions")
            // rustls calls every verifier "dangerous" that is not its own; ours is `verify`
            .dangerous()
            .with_custom_certificate_verifier(self.verifier.clone());
        let mut config = match &self.own {
            Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.clone()))),
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        let mutual = self.is_mutual;
        let tcp: &[Alpn] = if mutual { &[Alpn::PillionTcp] } else { &[] };
        let offers = [self.alpn.protocols(mutual), AlpnOffer::Http1.protocols(mutual), tcp.to_vec()];
        offers.map(|offer| {
            config.alpn_protocols = wire_names(&offer);
            TlsConnector::from(Arc::new(config.clone())) // the three share sessions, which do not depend on ALPN
        })
    }
}

impl ClientTls {
    /// `None` when the cluster is plaintext. `host` is the first host of the cluster. It becomes the SNI, unless the
    /// cluster configures its own or the host is no DNS name.
    ///
    /// # Errors
    /// [`SetupError`], also when `tls.trust_bundle` cannot be read. Blocks on file IO when there is a trust bundle.
    pub fn new(
        credentials: Option<&Credentials>,
        tls: &UpstreamTls,
        policy: &TlsPolicy,
        host: Option<&str>,
        alpn: AlpnOffer,
    ) -> Result<Option<Self>, SetupError> {
        let mut wanted = Wanted::default();
        wanted.add_service("", tls);
        let material = Material::of(wanted, &Material::default(), SystemTime::now());
        Setup::new(credentials, &material.map_err(|unusable| unusable.source)?, policy)?
            .client(tls, host, alpn)
    }

    /// For a server whose certificate is not verified, whoever it is of: for measurements that the operator asks for,
    /// never for traffic.
    ///
    /// # Errors
    /// The host is neither a name nor an IP address.
    pub fn unverified(host: &str, alpn: AlpnOffer) -> Result<Self, SetupError> {
        let policy = TlsPolicy::default();
        let (provider, versions) = (provider::provider(&policy), provider::versions(&policy));
        ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions)?;
        let named = ServerName::try_from(host.to_owned());
        let server_name = named.map_err(|_invalid| SetupError::BadServerName(host.to_owned()))?;
        let (made, verifier) = (OnceLock::new(), Arc::new(Unverified(provider.clone())));
        let connectors = Connectors { made, provider, versions, verifier, own: None, is_mutual: false, alpn };
        Ok(Self(State::Ready { connectors: Arc::new(connectors), server_name }))
    }

    /// For a server that is known by `host` and shows a certificate by these authorities. Offers HTTP/1.1 alone.
    ///
    /// # Errors
    /// [`SetupError`]: a PEM text cannot be used, or `host` is neither a name nor an address.
    pub fn by_pem(pem: &Pem<'_>, host: &str) -> Result<Self, SetupError> {
        let material = Material::default();
        let setup = Setup::new(None, &material, &TlsPolicy::default())?;
        let bundle = match pem.authorities {
            Some(authorities) => Bundle::from_pem(Path::new("certificate-authority"), authorities),
            None => Ok(Places::of_this_system().load().map_err(MaterialError::from)?),
        };
        let certified = |(certificate, key)| {
            let (name, key_name) = (Path::new("client-certificate"), Path::new("client-key"));
            certified_by_pem((name, certificate), (key_name, key)).map(Arc::new)
        };
        let own = pem.own.map(certified).transpose().map_err(MaterialError::from)?;
        let connectors = Connectors {
            made: OnceLock::new(),
            verifier: setup.simple(&bundle.map_err(MaterialError::from)?)?,
            provider: setup.provider,
            versions: setup.versions,
            own,
            is_mutual: false,
            alpn: AlpnOffer::Http1,
        };
        let server_name = ServerName::try_from(host.to_owned());
        let server_name = server_name.map_err(|_no_name| SetupError::NeedsServerName)?;
        Ok(Self(State::Ready { connectors: Arc::new(connectors), server_name }))
    }

    /// For a cluster that must use mutual TLS while our own certificate is missing, or the trust bundle of the servers. No
    /// server is called, and each caller gets `why`.
    pub fn waiting(why: &dyn fmt::Display) -> Self {
        Self(State::Waiting(why.to_string().into()))
    }

    /// Why certificates are missing.
    pub fn waits_for(&self) -> Option<&str> {
        match &self.0 {
            State::Waiting(why) => Some(why),
            _ => None,
        }
    }

    /// Does the handshake as the client. It has no time limit; the caller sets one.
    ///
    /// A TLS 1.3 server judges our certificate after this function returns. [`ClientStream::admission`] tells the
    /// result.
    ///
    /// # Errors
    /// [`TlsError`]. Its kind is `PeerIdentityMismatch` when the server's certificate is genuine but names another
    /// identity than expected. While our own certificate is missing, the error comes at once and has the kind
    /// `NotReady`.
    pub async fn connect<IO>(
        &self,
        io: IO,
        purpose: Purpose,
    ) -> Result<(ClientStream<IO>, Option<Alpn>), TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let (connector, server_name) = match &self.0 {
            State::Ready { connectors, server_name } => (connectors.get(purpose), server_name),
            State::Waiting(why) => return Err(TlsError::not_ready(why)),
        };
        let (connected, notes) = noting(connector.connect(server_name.clone(), io)).await;
        let stream = connected.map_err(|error| TlsError::of_handshake(&error, notes))?;
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

/// Makes the TLS of many clusters from one set of credentials. Clusters that trust the same peers and offer the same
/// protocols share everything except the server name.
pub struct Setup<'a> {
    credentials: Option<&'a Credentials>,
    material: &'a Material,
    versions: &'static [&'static SupportedProtocolVersion],
    provider: Arc<CryptoProvider>,
    /// Keyed by what the cluster trusts (without the server name) and the protocols that it offers.
    known: HashMap<(UpstreamTls, AlpnOffer), Arc<Connectors>>,
}

impl<'a> Setup<'a> {
    /// # Errors
    /// The cryptography that was built in cannot do what the policy asks for.
    pub fn new(
        credentials: Option<&'a Credentials>,
        material: &'a Material,
        policy: &TlsPolicy,
    ) -> Result<Self, SetupError> {
        let (provider, versions) = (provider::provider(policy), provider::versions(policy));
        ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions)?;
        Ok(Self { credentials, material, versions, provider, known: HashMap::new() })
    }

    /// Like [`ClientTls::new`], with the policy and credentials of this setup.
    ///
    /// # Errors
    /// Like [`ClientTls::new`].
    pub fn client(
        &mut self,
        tls: &UpstreamTls,
        host: Option<&str>,
        alpn: AlpnOffer,
    ) -> Result<Option<ClientTls>, SetupError> {
        let Some(connectors) = self.connectors(tls, alpn)? else { return Ok(None) };
        let named = match name(tls) {
            Some(sni) => Some(dns_name(sni).ok_or_else(|| SetupError::BadServerName(sni.to_owned()))?),
            None => host.and_then(dns_name),
        };
        let address = || host.and_then(|host| ServerName::try_from(host.to_owned()).ok());
        let server_name = match (named, tls) {
            (Some(named), _) => named,
            (None, UpstreamTls::Mutual { .. }) => nameless(),
            (None, _) => address().ok_or(SetupError::NeedsServerName)?,
        };
        Ok(Some(ClientTls(State::Ready { connectors, server_name })))
    }

    fn connectors(
        &mut self,
        tls: &UpstreamTls,
        alpn: AlpnOffer,
    ) -> Result<Option<Arc<Connectors>>, SetupError> {
        let key = (without_name(tls), alpn);
        if let Some(known) = self.known.get(&key) {
            return Ok(Some(known.clone()));
        }
        let (verifier, own) = match &key.0 {
            UpstreamTls::Off => return Ok(None),
            UpstreamTls::Simple { .. } => {
                let own = self.material.own(&key.0).map(|own| own.key.clone());
                (self.simple(self.bundle(&key.0)?)?, own)
            }
            UpstreamTls::Mutual { identities, trust_bundle, .. } => {
                let bundle = trust_bundle.as_ref().map(|_| self.bundle(&key.0)).transpose()?;
                let (verifier, own) = self.mutual(identities, bundle)?;
                (verifier, Some(own))
            }
        };
        let (made, provider) = (OnceLock::new(), self.provider.clone());
        let is_mutual = matches!(key.0, UpstreamTls::Mutual { .. });
        let made = Connectors { made, provider, versions: self.versions, verifier, own, is_mutual, alpn };
        let made = Arc::new(made);
        self.known.insert(key, made.clone());
        Ok(Some(made))
    }

    fn mutual(
        &self,
        identities: &[SpiffeId],
        bundle: Option<&Bundle>,
    ) -> Result<(Arc<dyn ServerCertVerifier>, Arc<CertifiedKey>), SetupError> {
        let credentials = self.credentials.ok_or(SetupError::NeedsIdentity)?;
        let expected = match identities {
            [] => Expected::TrustDomains(vec![credentials.trust_domain().to_owned()]),
            listed => Expected::AnyOf(listed.to_vec()),
        };
        let trust = match bundle {
            Some(bundle) => Trust::Bundle(bundle.roots.clone()),
            None => federated_trust(credentials, identities)?,
        };
        let verifier = ServerVerifier::new(trust, expected, credentials, &self.provider);
        Ok((Arc::new(verifier), credentials.key.clone()))
    }

    /// The CAs of the mesh vouch for workloads, and not for hosts: they are trusted only if the service names their file.
    fn simple(&self, bundle: &Bundle) -> Result<Arc<dyn ServerCertVerifier>, SetupError> {
        let roots = bundle.roots.clone();
        let algorithms = self.provider.signature_verification_algorithms;
        let revocations = Revocations::new(self.credentials, algorithms);
        let provider = self.provider.clone();
        let inner = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider).build()?;
        Ok(Arc::new(Revoking { inner, roots, revocations }))
    }

    fn bundle(&self, tls: &UpstreamTls) -> Result<&'a Bundle, SetupError> {
        self.material.bundle(tls).map(|bundle| &**bundle).ok_or(SetupError::NeedsTrustBundle)
    }
}

/// Our trust bundle and the federated ones, of which each of these identities needs the one of its trust domain.
fn federated_trust(credentials: &Credentials, identities: &[SpiffeId]) -> Result<Trust, SetupError> {
    match identities.iter().find(|id| credentials.roots_of(id.trust_domain()).is_none()) {
        Some(id) => Err(SetupError::NoBundle(id.clone())),
        None => Ok(Trust::of(credentials)),
    }
}

/// The server name that the configuration gives.
fn name(tls: &UpstreamTls) -> Option<&str> {
    match tls {
        UpstreamTls::Off => None,
        UpstreamTls::Simple { sni, .. } | UpstreamTls::Mutual { sni, .. } => sni.as_deref(),
    }
}

fn without_name(tls: &UpstreamTls) -> UpstreamTls {
    let mut tls = tls.clone();
    match &mut tls {
        UpstreamTls::Off => {}
        UpstreamTls::Simple { sni, .. } | UpstreamTls::Mutual { sni, .. } => *sni = None,
    }
    tls
}

fn dns_name(name: &str) -> Option<ServerName<'static>> {
    match ServerName::try_from(name).ok()? {
        ServerName::DnsName(name) => Some(ServerName::DnsName(DnsName::to_owned(&name))),
        _ => None,
    }
}

/// The value for a server without a name. rustls needs one; for an IP address no SNI is sent, and [`ServerVerifier`]
/// ignores it.
fn nameless() -> ServerName<'static> {
    ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pillion_model::identity::TlsVersion;

    use super::*;
    use crate::identity::issue::Ca;

    fn mutual(identity: &str, sni: &str) -> UpstreamTls {
        let identities = identity.parse().into_iter().collect();
        UpstreamTls::Mutual { identities, sni: Some(sni.to_owned()), trust_bundle: None }
    }

    #[test]
    fn c18_clusters_with_the_same_security_share_all_but_the_server_name_and_unused_ones_cost_nothing() {
        let ca = Ca::generate("cluster.local").expect("a CA");
        let id = "spiffe://cluster.local/ns/default/sa/web".parse().expect("an identity");
        let own = ca.issue(&id, &[], Duration::from_secs(3600)).expect("a certificate").credentials();
        let own = own.expect("credentials");
        let policy = TlsPolicy { min_version: TlsVersion::Tls13, post_quantum: false };
        let material = Material::default();
        let mut setup = Setup::new(Some(&own), &material, &policy).expect("a policy that is possible");
        let mut client = |tls: &UpstreamTls, alpn| {
            let made = setup.client(tls, None, alpn).expect("a good setup").expect("TLS");
            let ClientTls(State::Ready { connectors, server_name }) = made else {
                unreachable!("we have one")
            };
            (connectors, server_name)
        };
        let (any, orders) = ("", "spiffe://cluster.local/ns/default/sa/orders");
        let (first, name) = client(&mutual(any, "a.shop"), AlpnOffer::Auto);
        let (second, other) = client(&mutual(any, "b.shop"), AlpnOffer::Auto);
        assert!(Arc::ptr_eq(&first, &second));
        assert_ne!(name, other);
        for (tls, alpn) in
            [(mutual(orders, "a.shop"), AlpnOffer::Auto), (mutual(any, "a.shop"), AlpnOffer::Http2)]
        {
            assert!(!Arc::ptr_eq(&first, &client(&tls, alpn).0), "another peer, or another offer");
        }
        assert!(first.made.get().is_none(), "no connection was made yet");
    }
}
