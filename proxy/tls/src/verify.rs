//! Judges a peer's certificate: `path` verifies its chain, `revocation` looks for it in lists, then the SPIFFE ID is
//! compared, byte for byte.
//!
//! Host names are compared only by the inner verifier of [`Revoking`]: a workload keeps its identity when its address
//! changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use pillion_model::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DistinguishedName, Error, RootCertStore};
use webpki::KeyUsage;

use super::known::{KnownClients, Verified};
use super::path::{PathFault, Shown};
use super::rejection::Rejection;
use super::revocation::Revocations;
use super::signatures::signatures;
use super::{Peer, TlsError, branches, notes};
use crate::identity::credentials::Credentials;
use crate::identity::{NotAnIdentity, Subject, unix_seconds};

/// The identities that are accepted at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    AnyOf(Vec<SpiffeId>),
    /// Any workload of these trust domains.
    TrustDomains(Vec<String>),
}

/// The CAs that may vouch for a peer.
#[derive(Debug, Clone)]
pub enum Trust {
    /// A service's own bundle, for every identity that the service names.
    Bundle(Arc<RootCertStore>),
    /// The bundle of the peer's trust domain alone: our own, or a federated one.
    Domains { own: Arc<RootCertStore>, domains: Arc<BTreeMap<String, Arc<RootCertStore>>> },
}

impl Trust {
    pub fn of(credentials: &Credentials) -> Self {
        let own = (credentials.trust_domain().to_owned(), credentials.roots.clone());
        let federated = credentials.federated.iter();
        let federated = federated.map(|(domain, bundle)| (domain.clone(), bundle.roots.clone()));
        let domains = Arc::new(std::iter::once(own).chain(federated).collect());
        Self::Domains { own: credentials.roots.clone(), domains }
    }

    /// `None`: no CA may vouch for a workload of this trust domain.
    fn bundle_of(&self, trust_domain: &str) -> Option<&RootCertStore> {
        match self {
            Self::Bundle(bundle) => Some(bundle),
            Self::Domains { domains, .. } => domains.get(trust_domain).map(|bundle| &**bundle),
        }
    }

    fn own(&self) -> &RootCertStore {
        match self {
            Self::Bundle(own) | Self::Domains { own, .. } => own,
        }
    }
}

/// What a verifier judges peers by.
#[derive(Debug)]
struct Rules {
    trust: Trust,
    expected: Expected,
    algorithms: WebPkiSupportedAlgorithms,
    revocations: Revocations,
}

impl Rules {
    fn new(trust: Trust, expected: Expected, own: &Credentials, provider: &CryptoProvider) -> Self {
        let algorithms = provider.signature_verification_algorithms;
        Self { trust, expected, algorithms, revocations: Revocations::new(Some(own), algorithms) }
    }

    /// A peer without an identity, or of a trust domain without a bundle, is refused in any case. Its path is verified
    /// before that with our own bundle, because a stranger's certificate should be reported as such.
    fn judge(&self, shown: &Shown<'_>, usage: &KeyUsage, now: UnixTime) -> Result<Subject, Rejection> {
        let claimed = Subject::read(shown.end_entity);
        let domain = claimed.as_ref().ok().map(|subject| subject.id.trust_domain());
        let bundle = domain.and_then(|domain| self.trust.bundle_of(domain));
        self.revocations.verify(shown, bundle.unwrap_or_else(|| self.trust.own()), usage, now)?;
        let subject = self.expected.check(shown.who, claimed)?;
        match bundle {
            Some(_) => Ok(subject),
            None => Err(Rejection::NoBundle { who: shown.who, id: subject.id }),
        }
    }
}

/// Accepts the certificate of every server. The signatures of the handshake are verified nevertheless: rustls asks for it.
#[derive(Debug)]
pub(super) struct Unverified(pub(super) Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    signatures!(by 0.signature_verification_algorithms);
}

/// Why a verifier does not admit a certificate.
enum NotAdmitted {
    /// rustls' own error says everything.
    Tls(Error),
    Rejected(Rejection),
}

impl From<Error> for NotAdmitted {
    /// When two CAs have one name, as two test CAs of one trust domain do, a chain fails by its signature. rustls
    /// reports this as an attack on the handshake; for the peer and the operator it is an unknown CA.
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidCertificate(CertificateError::BadSignature) => {
                Self::Rejected(Rejection::NoPath { who: "server", fault: PathFault::Namesake })
            }
            error => Self::Tls(error),
        }
    }
}

impl From<Rejection> for NotAdmitted {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

/// Passes a verdict on to rustls, and notes what rustls' error cannot state.
fn keep_verdict<T>(
    end_entity: &CertificateDer<'_>,
    verdict: Result<T, impl Into<NotAdmitted>>,
) -> Result<T, Error> {
    verdict.map_err(|verdict| {
        notes::refused(end_entity);
        match verdict.into() {
            NotAdmitted::Tls(error) => error,
            NotAdmitted::Rejected(rejection) => {
                let error = rejection.tls_error();
                notes::rejected(rejection);
                error.into()
            }
        }
    })
}

impl Expected {
    fn check(
        &self,
        who: &'static str,
        claimed: Result<Subject, NotAnIdentity>,
    ) -> Result<Subject, Rejection> {
        let subject = claimed.map_err(|fault| Rejection::NotAnIdentity { who, fault })?;
        let is_of = |domain: &String| domain == subject.id.trust_domain();
        match self {
            Self::AnyOf(ids) if ids.contains(&subject.id) => Ok(subject),
            Self::TrustDomains(domains) if domains.iter().any(is_of) => Ok(subject),
            Self::AnyOf(ids) => Err(Rejection::WrongIdentity { who, id: subject.id, expected: ids.clone() }),
            Self::TrustDomains(domains) => {
                Err(Rejection::WrongTrustDomain { who, id: subject.id, expected: domains.clone() })
            }
        }
    }
}

/// Judges the servers that we call.
#[derive(Debug)]
pub struct ServerVerifier(Rules);

impl ServerVerifier {
    pub fn new(trust: Trust, expected: Expected, own: &Credentials, provider: &CryptoProvider) -> Self {
        Self(Rules::new(trust, expected, own, provider))
    }
}

impl ServerCertVerifier for ServerVerifier {
    /// Ignores the server name and stapled OCSP answers: the identity is the SPIFFE ID, and workload certificates have
    /// too short a life to make an OCSP responder worthwhile. The operator's revocation lists are checked.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let shown = Shown { who: "server", end_entity, intermediates };
        keep_verdict(end_entity, self.0.judge(&shown, &KeyUsage::server_auth(), now))
            .map(|_subject| ServerCertVerified::assertion())
    }

    signatures!(by 0.algorithms);
}

/// Judges the clients that call us. A client without a certificate is refused. The rules of one verifier never change.
#[derive(Debug)]
pub struct ClientVerifier {
    rules: Rules,
    pub(super) known: KnownClients,
    /// How many chains were verified.
    #[cfg(test)]
    pub(super) verified: std::sync::atomic::AtomicUsize,
}

impl ClientVerifier {
    /// Admits any workload of our trust domain and of the federated ones.
    pub fn new(own: &Credentials, provider: &CryptoProvider) -> Self {
        let domains = std::iter::once(own.trust_domain()).chain(own.federated.keys().map(String::as_str));
        let expected = Expected::TrustDomains(domains.map(str::to_owned).collect());
        Self {
            rules: Rules::new(Trust::of(own), expected, own, provider),
            known: KnownClients::default(),
            #[cfg(test)]
            verified: std::sync::atomic::AtomicUsize::new(0),
        }
    }

    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Arc<Verified>, Rejection> {
        if let Some(known) = self.known.find(end_entity, intermediates, unix_seconds(now)) {
            return Ok(known);
        }
        #[cfg(test)]
        self.verified.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let shown = Shown { who: "client", end_entity, intermediates };
        let subject = self.rules.judge(&shown, &KeyUsage::client_auth(), now)?;
        Ok(Verified::new(subject, end_entity, intermediates))
    }

    /// Remembers a client that has signed the handshake with the key of the certificate that was verified just before,
    /// and so has proven its identity.
    fn keep_proven(
        &self,
        signed: Result<HandshakeSignatureValid, Error>,
    ) -> Result<HandshakeSignatureValid, Error> {
        let proven = signed?;
        if let Some(verified) = notes::verified() {
            self.known.keep(verified);
        }
        Ok(proven)
    }

    /// Whether a peer that other rules have admitted would be admitted by these rules. Its certificate is judged as of
    /// the time of its admission, because a connection may outlive the certificate that it began with.
    ///
    /// # Errors
    /// The reason why the peer would not be admitted.
    pub(super) fn admits_still(&self, peer: &Peer) -> Result<(), TlsError> {
        let (end_entity, intermediates) = peer.chain.split_first().ok_or_else(TlsError::no_certificate)?;
        match self.judge(end_entity, intermediates, peer.admitted) {
            Ok(verified) => {
                self.known.keep(verified); // its handshake has ended, so it has proven its key
                Ok(())
            }
            Err(rejection) => Err(TlsError::from_rejection(&rejection)),
        }
    }
}

impl ClientCertVerifier for ClientVerifier {
    /// No hints: this saves their bytes in every handshake, and some clients send a certificate only if they know a
    /// hint.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        notes::set_verified(keep_verdict(end_entity, self.judge(end_entity, intermediates, now))?);
        Ok(ClientCertVerified::assertion())
    }

    signatures!(by rules.algorithms then keep_proven);
}

/// Judges servers as `inner` does, and checks our revocation lists as well.
#[derive(Debug)]
pub struct Revoking {
    pub(super) inner: Arc<dyn ServerCertVerifier>,
    pub(super) roots: Arc<RootCertStore>,
    pub(super) revocations: Revocations,
}

impl ServerCertVerifier for Revoking {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let judge = || -> Result<ServerCertVerified, NotAdmitted> {
            let shown = Shown { who: "server", end_entity, intermediates };
            if !branches::are_few(end_entity, intermediates) {
                return Err(Rejection::NoPath { who: shown.who, fault: PathFault::TooLong }.into());
            }
            let verified = self.inner.verify_server_cert(end_entity, intermediates, name, ocsp, now)?;
            if !self.revocations.is_empty() {
                self.revocations.verify(&shown, &self.roots, &KeyUsage::server_auth(), now)?;
            }
            Ok(verified)
        };
        keep_verdict(end_entity, judge())
    }

    signatures!(as inner);
}
