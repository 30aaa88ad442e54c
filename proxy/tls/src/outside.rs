//! Accepts TLS from clients outside the mesh: the server is known by names of hosts, and a client by a certificate only
//! where the port asks for one.
//!
//! A client's certificate proves no SPIFFE identity, whatever its names say: an [`OutsideClient`] is no
//! [`Peer`](super::Peer), and rules by identity never match it.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use pillion_model::identity::TlsPolicy;
use pillion_model::listener::ClientCertificates;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, ResolvesServerCert, ServerSessionMemoryCache, VerifierBuilderError, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{DistinguishedName, Error, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use webpki::{KeyUsage, VerifiedPath};
use x509_parser::extensions::GeneralName;
use x509_parser::x509::X509Name;

use super::identity::credentials::Bundle;
use super::identity::pair::Pair;
use super::identity::{names, not_after, parse};
use super::notes::{self, noting};
use super::path::{self, Shown};
use super::rejection::Rejection;
use super::sessions::Sessions;
use super::signatures::signatures;
use super::{Alpn, SetupError, TlsError, hex, provider, sha256, wire_names};

/// 1,024 sessions of clients without certificates, of about 300 bytes each. A browser opens several connections, and
/// resumes all but the first.
const SESSIONS: usize = 1024;

/// The bytes of a subject that applications are told. A longer one is cut off.
const SUBJECT_BYTES: usize = 512;

/// The TLS server of one port.
#[derive(Debug)]
pub struct OutsideServer {
    config: Arc<ServerConfig>,
    /// A number that no other server has. It tells whether this one admitted a client.
    pub serial: u64,
    /// `None`: clients are not asked for certificates.
    clients: Option<Arc<Clients>>,
}

/// A client outside the mesh, whose handshake is complete.
#[derive(Debug)]
pub struct OutsideClient {
    /// The certificates that it showed, its own first. They were verified. Empty: it showed none.
    chain: Arc<[CertificateDer<'static>]>,
    admitted: UnixTime,
    /// The last second at which all certificates of the path that was verified last are valid. `i64::MAX`: it showed none.
    holds_until: AtomicI64,
    /// [`OutsideServer::serial`] of the server that admitted it.
    pub by: u64,
}

impl OutsideServer {
    /// `pairs` are the certificates, of which the first is shown to clients that ask for no known name. `bundle` has the
    /// authorities of clients' certificates. `is_http`: the protocols of HTTP are agreed on by ALPN.
    ///
    /// # Errors
    /// The cryptography that was built in cannot do what the policy asks for, or the bundle can verify no client.
    pub fn new(
        pairs: &[Arc<Pair>],
        (client, bundle): (&ClientCertificates, Option<&Bundle>),
        policy: &TlsPolicy,
        is_http: bool,
    ) -> Result<Arc<Self>, SetupError> {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let provider = provider::provider(policy);
        let clients = match client {
            ClientCertificates::Off => None,
            ClientCertificates::Request { .. } | ClientCertificates::Require { .. } => {
                let bundle = bundle.ok_or(SetupError::NeedsTrustBundle)?;
                let may_be_absent = matches!(client, ClientCertificates::Request { .. });
                Some(Arc::new(Clients::new(&bundle.roots, &provider, may_be_absent)?))
            }
        };
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(provider::versions(policy))?;
        let builder = match &clients {
            Some(clients) => builder.with_client_cert_verifier(clients.clone()),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(ByName::of(pairs)));
        if is_http {
            config.alpn_protocols = wire_names(&[Alpn::H2, Alpn::Http1]);
        }
        config.session_storage = match &clients {
            Some(_) => Sessions::new(), // none is resumed after the client's certificate has expired
            None => ServerSessionMemoryCache::new(SESSIONS),
        };
        config.send_tls13_tickets = 1;
        config.ignore_client_order = true; // the reason is in `server`
        let serial = SERIAL.fetch_add(1, Relaxed);
        Ok(Arc::new(Self { config: Arc::new(config), serial, clients }))
    }

    /// Does the handshake as the server. It has no time limit; the caller sets one.
    ///
    /// # Errors
    /// [`TlsError`]. The client has received an alert if TLS allows it.
    pub async fn accept<IO>(
        &self,
        io: IO,
    ) -> Result<(TlsStream<IO>, Arc<OutsideClient>, Option<Alpn>), TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let (accepted, notes) = noting(TlsAcceptor::from(self.config.clone()).accept(io)).await;
        let holds_until = notes.holds_until;
        let stream = accepted.map_err(|error| TlsError::of_handshake(&error, notes))?;
        let (_, session) = stream.get_ref();
        let alpn = Alpn::agreed(session.alpn_protocol());
        let chain = session.peer_certificates().unwrap_or_default().into();
        let client = OutsideClient::new(chain, holds_until, self.serial);
        Ok((stream, Arc::new(client), alpn))
    }

    /// Whether clients' certificates are verified.
    pub const fn verifies_clients(&self) -> bool {
        self.clients.is_some()
    }

    /// Whether a client that an older server has admitted would be admitted by this one. Its path is looked for anew as of
    /// the time of its admission, and from then on the end of the new path counts.
    ///
    /// # Errors
    /// The reason why the client would not be admitted.
    pub fn admits_still(&self, client: &OutsideClient) -> Result<(), TlsError> {
        let Some(clients) = self.clients.as_ref().filter(|_| client.by != self.serial) else { return Ok(()) };
        match client.chain.split_first() {
            None if clients.client_auth_mandatory() => Err(TlsError::no_certificate()),
            None => Ok(()),
            Some((own, others)) => {
                let end = clients.verify(own, others, client.admitted);
                let end = end.map_err(|rejection| TlsError::from_rejection(&rejection))?;
                client.holds_until.store(end, Relaxed);
                Ok(())
            }
        }
    }
}

impl OutsideClient {
    /// `noted`: the end that was noted in the handshake. Also a session that was not resumed in the end leaves one.
    fn new(chain: Arc<[CertificateDer<'static>]>, noted: Option<i64>, by: u64) -> Self {
        let holds_until = noted.filter(|_| !chain.is_empty()).unwrap_or(i64::MAX).into();
        Self { chain, admitted: UnixTime::now(), holds_until, by }
    }

    /// Whether it has shown a certificate, which was verified.
    pub fn has_certificate(&self) -> bool {
        !self.chain.is_empty()
    }

    /// Whether its certificate, or one of a CA by which it was verified, is valid no longer. `now` is in Unix seconds.
    pub fn has_expired(&self, now: i64) -> bool {
        now > self.holds_until.load(Relaxed)
    }

    /// The client's certificate in the form of Envoy's `x-forwarded-client-cert`: hash and subject. `None`: it showed
    /// none. There is never a `URI`, by which applications know workloads of the mesh.
    pub fn described(&self) -> Option<String> {
        let own = self.chain.first()?;
        let hash = hex(&sha256(own));
        let subject =
            parse(own).map(|certificate| distinguished_name(certificate.subject())).unwrap_or_default();
        Some(format!("Hash={hash};Subject=\"{subject}\""))
    }
}

/// A distinguished name as RFC 4514 writes it, but in the order of the certificate. Every byte that could end a value, an
/// element or the header for any reader is written as two hexadecimal digits.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    for attribute in name.iter_attributes() {
        if text.len() > SUBJECT_BYTES {
            break;
        }
        if !text.is_empty() {
            text.push(',');
        }
        let oid = attribute.attr_type().to_id_string();
        text.push_str(short_name(&oid).unwrap_or(&oid));
        text.push('=');
        for byte in attribute.attr_value().data.iter().take(SUBJECT_BYTES) {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b' ' | b'.' | b'-' | b'_' | b'@' => {
                    text.push(char::from(*byte));
                }
                byte => {
                    text.push('\\');
                    text.push_str(&hex(&[*byte]));
                }
            }
        }
    }
    text
}

/// The short names of RFC 4514, 3. Other attributes are written by their object identifiers.
fn short_name(oid: &str) -> Option<&'static str> {
    Some(match oid {
        "2.5.4.3" => "CN",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "STREET",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        _ => return None,
    })
}

/// Chooses the certificate by the name that the client asks for.
#[derive(Debug)]
struct ByName {
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// Keyed by what follows `*.`, which stands for one label.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// All of them, in the order of the configuration.
    all: Vec<Arc<CertifiedKey>>,
}

impl ByName {
    fn of(pairs: &[Arc<Pair>]) -> Self {
        let (mut exact, mut wildcard) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        let all: Vec<_> = pairs.iter().map(|pair| pair.key.clone()).collect();
        for key in &all {
            for name in key.cert.first().map(|own| host_names(own)).unwrap_or_default() {
                let entry = match name.strip_prefix("*.") {
                    Some(rest) => wildcard.entry(rest.to_owned()).or_default(),
                    None => exact.entry(name).or_default(),
                };
                entry.push(key.clone());
            }
        }
        Self { exact, wildcard, all }
    }

    /// The certificates for a name. Those that have it exactly go before those with a wildcard.
    fn named(&self, name: &str) -> &[Arc<CertifiedKey>] {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let wildcard = || name.split_once('.').and_then(|(_, rest)| self.wildcard.get(rest));
        self.exact.get(&name).or_else(wildcard).map_or(&[], Vec::as_slice)
    }
}

impl ResolvesServerCert for ByName {
    /// Of several certificates for the name, as ECDSA and RSA, the first that the client can verify.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(schemes).is_some();
        let named = hello.server_name().map_or(&[][..], |name| self.named(name));
        named.iter().chain(&self.all).find(fits).cloned()
    }
}

/// The DNS names of a certificate, in lower case.
fn host_names(der: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = parse(der) else { return Vec::new() };
    let names = names(&certificate).unwrap_or_default().iter();
    let host = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(host) => Some(host.to_ascii_lowercase()),
        _ => None,
    };
    names.filter_map(host).collect()
}

/// Verifies clients' certificates by the port's own bundle, and notes how long they are valid, for [`Sessions`].
#[derive(Debug)]
pub(super) struct Clients {
    inner: Arc<dyn ClientCertVerifier>,
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Clients {
    /// # Errors
    /// The roots can verify no client.
    pub(super) fn new(
        roots: &Arc<RootCertStore>,
        provider: &Arc<CryptoProvider>,
        may_be_absent: bool,
    ) -> Result<Self, VerifierBuilderError> {
        let builder = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
        let builder = if may_be_absent { builder.allow_unauthenticated() } else { builder };
        let algorithms = provider.signature_verification_algorithms;
        Ok(Self { inner: builder.build()?, roots: roots.clone(), algorithms })
    }

    /// Verifies a client's certificate, and returns the last second at which all certificates of its path are valid.
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<i64, Rejection> {
        let (who, judged) = ("client", (KeyUsage::client_auth(), now));
        let (shown, end) = (Shown { who, end_entity, intermediates }, Cell::new(i64::MIN));
        let note_end = |path: &VerifiedPath<'_>, _now| {
            end.set(ends(end_entity, path).ok_or(webpki::Error::BadDer)?);
            Ok(())
        };
        path::verify(&shown, &self.roots, &self.algorithms, judged, &note_end)
            .map(|()| end.get())
            .map_err(|fault| Rejection::NoPath { who, fault })
    }
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    /// Browsers choose a certificate by these names.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let end = self.verify(end_entity, intermediates, now).map_err(|refused| {
            let error = refused.tls_error();
            notes::rejected(refused);
            Error::from(error)
        })?;
        notes::set_holds_until(end);
        Ok(ClientCertVerified::assertion())
    }

    signatures!(as inner);
}

/// The last second at which all certificates of a path are valid. Others that the client showed do not matter. `None`: one of
/// them cannot be read.
fn ends(end_entity: &CertificateDer<'_>, path: &VerifiedPath<'_>) -> Option<i64> {
    let own = not_after(end_entity).ok()?;
    path.intermediate_certificates().try_fold(own, |first, ca| Some(first.min(not_after(&ca.der()).ok()?)))
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

    use super::*;

    fn ca(name: &str, usage: KeyUsagePurpose) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![usage];
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    /// A client's certificate by an intermediate CA with this key usage, and whether it is accepted.
    fn is_accepted_below(usage: KeyUsagePurpose) -> bool {
        let keys = [(); 3].map(|()| KeyPair::generate().expect("a key"));
        let [root_key, middle_key, own_key] = keys;
        let (root, middle) = (ca("root", KeyUsagePurpose::KeyCertSign), ca("middle", usage));
        let root_der = root.self_signed(&root_key).expect("signed").der().clone();
        let by_root = Issuer::new(root, root_key);
        let middle_der = middle.signed_by(&middle_key, &by_root).expect("signed").der().clone();
        let by_middle = Issuer::new(middle, middle_key);
        let own = CertificateParams::default().signed_by(&own_key, &by_middle).expect("signed").der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(root_der).expect("a root");
        let provider = provider::provider(&TlsPolicy::default());
        let clients = Clients::new(&Arc::new(roots), &provider, false).expect("a verifier");
        clients.verify_client_cert(&own, &[middle_der], UnixTime::now()).is_ok()
    }

    #[test]
    fn a_ca_whose_key_usage_does_not_allow_it_vouches_for_no_client() {
        assert!(is_accepted_below(KeyUsagePurpose::KeyCertSign));
        assert!(!is_accepted_below(KeyUsagePurpose::CrlSign));
        assert!(!is_accepted_below(KeyUsagePurpose::DigitalSignature));
    }

    #[tokio::test]
    async fn a_client_has_expired_when_the_first_certificate_of_its_path_has() {
        let lasting = |mut params: CertificateParams, until: i64| {
            params.not_before = time::OffsetDateTime::from_unix_timestamp(0).expect("a time");
            params.not_after = time::OffsetDateTime::from_unix_timestamp(until).expect("a time");
            params
        };
        let ca = |name| ca(name, KeyUsagePurpose::KeyCertSign);
        let keys = [(); 4].map(|()| KeyPair::generate().expect("a key"));
        let [root_key, middle_key, other_key, own_key] = keys;
        let root = lasting(ca("root"), 500); // the validity of the bundle's CAs does not matter
        let root_der = root.self_signed(&root_key).expect("signed").der().clone();
        let by_root = Issuer::new(root, root_key);
        let middle = lasting(ca("middle"), 2000);
        let middle_der = middle.signed_by(&middle_key, &by_root).expect("signed").der().clone();
        let by_middle = Issuer::new(middle, middle_key);
        let other = lasting(ca("other"), 1000);
        let other_der = other.signed_by(&other_key, &by_root).expect("signed").der().clone();
        let own = lasting(CertificateParams::default(), 3000);
        let own_der = own.signed_by(&own_key, &by_middle).expect("signed").der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(root_der.clone()).expect("a root");
        let provider = provider::provider(&TlsPolicy::default());
        let clients = Clients::new(&Arc::new(roots), &provider, false).expect("a verifier");
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(900));
        let verified = async { clients.verify_client_cert(&own_der, &[other_der, middle_der.clone()], now) };
        let (verified, notes) = noting(verified).await;
        assert!(verified.is_ok(), "{verified:?}");
        let client = OutsideClient::new(vec![own_der.clone()].into(), notes.holds_until, 0);
        let expired = [1001, 2000, 2001].map(|now| client.has_expired(now));
        assert_eq!(expired, [false, false, true], "a CA that was only shown does not matter");
        let without = OutsideClient::new(Arc::from([]), notes.holds_until, 0);
        assert!(!without.has_expired(i64::MAX), "it has shown none");
        let chain: Arc<[_]> = [own_der, middle_der.clone()].into();
        let client = OutsideClient { admitted: now, ..OutsideClient::new(chain, notes.holds_until, 0) };
        for (bundle, expired) in [(&middle_der, [false, false, true]), (&root_der, [false, true, true])] {
            assert_eq!(server(bundle).admits_still(&client), Ok(()));
            let found = [2000, 2001, 3001].map(|now| client.has_expired(now));
            assert_eq!(found, expired, "a CA of the bundle ends no path, one below it does");
        }
    }

    /// The server of a port whose bundle has this CA alone.
    fn server(ca: &CertificateDer<'static>) -> Arc<OutsideServer> {
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone()).expect("a root");
        let bundle = Bundle { certificates: vec![ca.clone()], roots: Arc::new(roots) };
        let required = ClientCertificates::Require { trust_bundle: "clients.pem".into() };
        OutsideServer::new(&[], (&required, Some(&bundle)), &TlsPolicy::default(), true).expect("a server")
    }

    #[test]
    fn a_subject_cannot_end_its_value_nor_name_an_identity() {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "jo\",URI=spiffe://cluster.local/ns/x;By=é\r\n");
        params.distinguished_name.push(DnType::OrganizationName, "Acme Inc.");
        let key = KeyPair::generate().expect("a key");
        let own = params.self_signed(&key).expect("signed").der().clone();
        let client = OutsideClient::new(vec![own].into(), None, 0);
        let told = client.described().expect("a certificate");
        let (_, subject) = told.split_once(";Subject=").expect("a subject");
        assert!(
            subject.contains("O=Acme Inc.") && subject.contains(r"CN=jo\22\2cURI\3dspiffe\3a\2f\2f"),
            "{subject}"
        );
        assert!(
            !subject.trim_matches('"').contains(['"', ';', '\r', '\n']) && subject.is_ascii(),
            "{subject}"
        );
        assert!(!told.contains("URI="), "{told}");
    }
}
