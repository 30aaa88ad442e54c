//! Our own identity: certificate chain, private key and trust bundle, loaded and checked together.
//!
//! A [`Credentials`] never changes. A rotation loads a new one and replaces the old one as a whole. Deliberately
//! absent: watching files, and the checks of peers (`tls::verify`).

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pillion_model::SpiffeId;
use pillion_model::identity::{Crl, Files};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Version;
use zeroize::{Zeroize as _, Zeroizing};

use super::pem::{self, BadBlocks, Kind};
use super::revocation::{self, BadList, RevocationList};
use super::{NotAnIdentity, Subject, Validity, date, parse, unix_now};

/// 1 MiB: several times the size of all public CA certificates together. No more than this is read of a file.
pub const MAX_FILE: u64 = 1024 * 1024;

/// Our identity, its proof, and the CAs that we trust.
#[derive(Clone)]
pub struct Credentials {
    pub id: SpiffeId,
    /// The first second at which our certificate is valid, in Unix seconds.
    pub not_before: i64,
    /// The last second at which our certificate is valid, in Unix seconds.
    pub not_after: i64,
    /// The certificate chain, our own first, with its key. They were checked to belong together.
    pub key: Arc<CertifiedKey>,
    /// The certificates of the trust bundle, in the order of the file. Never empty.
    pub bundle: Vec<CertificateDer<'static>>,
    /// The certificates of `bundle`, in the form that the verifier needs.
    pub roots: Arc<RootCertStore>,
    /// The trust bundles of other trust domains, by trust domain.
    pub federated: Arc<BTreeMap<String, Bundle>>,
    /// The revocation lists, which are replaced together with the bundle. Empty when no certificate is known to be
    /// revoked.
    pub revocations: Arc<[RevocationList]>,
}

/// Why a set of files cannot be used as an identity. Each text names its file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("cannot read {}: {source}; it must exist and be readable by the sidecar's user", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} is empty; the program that issues certificates has not filled it yet", path.display())]
    Blank { path: PathBuf },
    #[error("the revocation list {} is refused: {source}; replace the list, or remove it", path.display())]
    BadCrl { path: PathBuf, source: BadList },
    #[error("{} is larger than 1 MiB; give the PEM file of this workload alone", path.display())]
    TooLarge { path: PathBuf },
    #[error("{} is refused: {fault}", path.display())]
    BadPem { path: PathBuf, fault: BadBlocks },
    #[error("certificate {number} in {} cannot be read: {fault}", path.display())]
    BadDer { path: PathBuf, number: usize, fault: String },
    #[error("{} holds no certificate; expected a PEM block `BEGIN CERTIFICATE`", path.display())]
    NoCertificate { path: PathBuf },
    #[error(
        "{} holds no private key; expected a PEM block `BEGIN PRIVATE KEY` without a passphrase",
        path.display()
    )]
    NoKey { path: PathBuf },
    #[error(
        "the key in {} is encrypted, and there is no passphrase for it; write it without one: \
         `openssl pkey -in FILE -out FILE`",
        path.display()
    )]
    EncryptedKey { path: PathBuf },
    #[error("the key in {} cannot be used ({source}); use an ECDSA, Ed25519 or RSA key", path.display())]
    BadKey { path: PathBuf, source: rustls::Error },
    #[error(
        "the key in {} does not belong to the first certificate in {}; write both from one issue, \
         own certificate first",
        key.display(), certificate.display()
    )]
    KeyMismatch { certificate: PathBuf, key: PathBuf },
    #[error("the first certificate in {} is not a workload's certificate: {source}; issue one for this workload", path.display())]
    NotAnIdentity { path: PathBuf, source: NotAnIdentity },
    #[error("the first certificate in {} is a CA's; put the workload's own first", path.display())]
    IsCa { path: PathBuf },
    #[error("the certificate in {} expired at {}; issue a new one", path.display(), date(*not_after))]
    Expired { path: PathBuf, not_after: i64 },
    #[error(
        "the certificate in {} is valid only from {}; wait, or check this machine's clock",
        path.display(), date(*not_before)
    )]
    NotYetValid { path: PathBuf, not_before: i64 },
    #[error("the trust bundle {} is empty; put the CA's certificate there (PEM)", path.display())]
    EmptyBundle { path: PathBuf },
    #[error(
        "certificate {number} of the trust bundle {} cannot be used ({source}); replace or remove it",
        path.display()
    )]
    BadBundle { path: PathBuf, number: usize, source: rustls::Error },
    #[error(
        "certificate {number} of the trust bundle {} is not a CA's: whoever has its key could make identities; \
         remove it",
        path.display()
    )]
    NotACa { path: PathBuf, number: usize },
    #[error(
        "the certificate in {} is {id}, but identity.trust_domain says {configured:?}; correct one of them, \
         or leave trust_domain out",
        path.display()
    )]
    TrustDomain { path: PathBuf, id: SpiffeId, configured: String },
    #[error(
        "identity.federation has a trust bundle for {domain}, the own trust domain; its bundle is \
         identity.trust_bundle"
    )]
    FederatedWithItself { domain: String },
}

impl CredentialsError {
    /// Whether a file is missing, so that waiting makes sense; every other fault needs a correction. An empty file
    /// counts as missing, because a `kubernetes.io/tls` Secret must have its keys before there is any content for them.
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Unreadable { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::Blank { .. } => true,
            _ => false,
        }
    }

    /// Whether waiting makes sense at the start: a file is missing, or the certificate is not valid at this time. In
    /// both cases the program that issues certificates will write new files.
    pub fn is_awaited(&self) -> bool {
        self.is_missing() || matches!(self, Self::Expired { .. } | Self::NotYetValid { .. })
    }

    /// The Unix second from which the same files can be used. `None` when something else than time is wrong.
    pub fn usable_from(&self) -> Option<i64> {
        match self {
            Self::NotYetValid { not_before, .. } => Some(*not_before),
            _ => None,
        }
    }
}

impl Credentials {
    /// Reads and checks the files.
    ///
    /// # Errors
    /// The first fault, in the order certificate, key, bundle, federated bundles, revocation lists. A missing file is reported before any
    /// wrong content. Blocks on file IO.
    pub fn load(source: &Files) -> Result<Self, CredentialsError> {
        let certificate = read(&source.certificate)?;
        let key = Zeroizing::new(read(&source.key)?);
        let bundle = read(&source.trust_bundle)?;
        let federated = source.federation.iter().map(|(domain, path)| Ok((domain, path, read(path)?)));
        let federated = federated.collect::<Result<Vec<_>, CredentialsError>>()?;
        let crl = read_crl(&source.crl)?;
        let parts = Parts { certificate: &certificate, key: &key, bundle: &bundle, form: Form::Pem };
        let mut loaded = Self::check(&parts, source, unix_now())?;
        for (domain, path, pem) in federated {
            loaded = loaded.federated_with(domain, path, &pem)?;
        }
        match crl {
            None => Ok(loaded),
            Some((path, bytes)) => loaded.with_crl(path, &bytes, unix_now()),
        }
    }

    /// These credentials with these revocation lists, in PEM or DER. `path` is used in messages.
    ///
    /// # Errors
    /// [`CredentialsError::BadCrl`]
    pub fn with_crl(self, path: &Path, lists: &[u8], now: i64) -> Result<Self, CredentialsError> {
        let ders = revocation::ders(path, lists)?;
        self.with_lists(path, ders, now)
    }

    fn with_lists(
        self,
        path: &Path,
        ders: Vec<CertificateRevocationListDer<'static>>,
        now: i64,
    ) -> Result<Self, CredentialsError> {
        let lists = revocation::read(path, &ders, &self.all_cas().cloned().collect::<Vec<_>>())?;
        lists.iter().for_each(|list| list.warn_if_outdated(path, now));
        Ok(Self { revocations: lists.into(), ..self })
    }

    /// Credentials from memory. Faults name "certificate", "key" and "trust bundle" in place of a file name.
    ///
    /// # Errors
    /// Like [`Credentials::load`], except for errors of reading.
    pub fn from_pem(certificate: &[u8], key: &[u8], bundle: &[u8]) -> Result<Self, CredentialsError> {
        let parts = Parts { certificate, key, bundle, form: Form::Pem };
        Self::check(&parts, &in_memory(), unix_now())
    }

    /// The credentials that a SPIFFE Workload API hands out. Faults name the fields of its messages in place of files.
    ///
    /// # Errors
    /// Like [`Credentials::load`], except for errors of reading.
    pub fn from_svid(
        svid: &Svid<'_>,
        trust_domain: Option<&str>,
        now: i64,
    ) -> Result<Self, CredentialsError> {
        let names = Files {
            certificate: "x509_svid".into(),
            key: "x509_svid_key".into(),
            trust_bundle: "bundle".into(),
            trust_domain: trust_domain.map(str::to_owned),
            ..in_memory()
        };
        let Svid { chain, key, bundle, federated, lists } = *svid;
        let parts = Parts { certificate: chain, key, bundle, form: Form::Der };
        let mut own = Self::check(&parts, &names, now)?;
        for (domain, der) in federated {
            let name = format!("federated_bundles[{domain}]");
            let bundle = Bundle::check(Path::new(&name), der, Form::Der)?;
            own = own.federated_by(domain, Path::new(&name), bundle)?;
        }
        match lists {
            [] => Ok(own),
            lists => {
                let ders = lists.iter().map(|der| der.clone().into()).collect();
                own.with_lists(Path::new("crl"), ders, now)
            }
        }
    }

    /// These credentials with the trust bundle of another trust domain, in PEM. `path` is used in messages.
    ///
    /// # Errors
    /// The bundle cannot be used, or the trust domain is our own.
    pub fn federated_with(self, domain: &str, path: &Path, pem: &[u8]) -> Result<Self, CredentialsError> {
        if domain == self.trust_domain() {
            return Err(CredentialsError::FederatedWithItself { domain: domain.to_owned() });
        }
        let bundle = Bundle::check(path, pem, Form::Pem)?;
        self.federated_by(domain, path, bundle)
    }

    fn federated_by(mut self, domain: &str, path: &Path, bundle: Bundle) -> Result<Self, CredentialsError> {
        bundle.check_cas(path)?;
        Arc::make_mut(&mut self.federated).insert(domain.to_owned(), bundle);
        Ok(self)
    }

    /// The CAs that may vouch for the workloads of a trust domain. `None`: no workload of it is admitted.
    pub fn roots_of(&self, trust_domain: &str) -> Option<&Arc<RootCertStore>> {
        match trust_domain == self.trust_domain() {
            true => Some(&self.roots),
            false => self.federated.get(trust_domain).map(|bundle| &bundle.roots),
        }
    }

    /// The certificates of all trust bundles.
    pub fn all_cas(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.bundle.iter().chain(self.federated.values().flat_map(|bundle| &bundle.certificates))
    }

    pub fn trust_domain(&self) -> &str {
        self.id.trust_domain()
    }

    pub const fn validity(&self) -> Validity {
        Validity { not_before: self.not_before, not_after: self.not_after }
    }

    /// Our certificate first, then the ones that lead to a root.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }

    fn check(parts: &Parts<'_>, source: &Files, now: i64) -> Result<Self, CredentialsError> {
        let chain = certificates(&source.certificate, parts.certificate, parts.form)?;
        let subject = own_subject(&source.certificate, &chain)?;
        check_dates(&source.certificate, subject.validity(), now)?;
        check_trust_domain(source, &subject.id)?;
        let key = match parts.form {
            Form::Pem => key_of_pem(&source.key, parts.key)?,
            Form::Der => PrivatePkcs8KeyDer::from(parts.key.to_vec()).into(),
        };
        let key = Arc::new(certified(&source.certificate, &source.key, chain, key)?);
        let bundle = Bundle::check(&source.trust_bundle, parts.bundle, parts.form)?;
        bundle.check_cas(&source.trust_bundle)?;
        let Subject { id, not_before, not_after, .. } = subject;
        let Bundle { certificates: bundle, roots } = bundle;
        let (federated, revocations) = (Arc::default(), Arc::from([]));
        Ok(Self { id, not_before, not_after, key, bundle, roots, federated, revocations })
    }
}

/// Leaves out the keys, which must not appear in logs.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, not_after, .. } = self;
        f.debug_struct("Credentials").field("id", id).field("not_after", not_after).finish_non_exhaustive()
    }
}

/// The CAs that we trust to sign a peer's certificate.
#[derive(Clone)]
pub struct Bundle {
    pub certificates: Vec<CertificateDer<'static>>,
    pub roots: Arc<RootCertStore>,
}

impl Bundle {
    /// Reads a PEM file of CA certificates.
    ///
    /// # Errors
    /// The file is unreadable or empty, or a certificate cannot be used. Blocks on file IO.
    pub fn load(path: &Path) -> Result<Self, CredentialsError> {
        Self::check(path, &read(path)?, Form::Pem)
    }

    /// The CA certificates of a PEM text. `name` is what errors call it.
    ///
    /// # Errors
    /// Like [`Self::load`], except for errors of reading.
    pub fn from_pem(name: &Path, pem: &[u8]) -> Result<Self, CredentialsError> {
        Self::check(name, pem, Form::Pem)
    }

    /// A certificate that cannot be used is a fault. If it were skipped, handshakes would fail later and in another
    /// place.
    fn check(path: &Path, bytes: &[u8], form: Form) -> Result<Self, CredentialsError> {
        let certificates = all_certificates(path, bytes, form)?;
        if certificates.is_empty() {
            return Err(CredentialsError::EmptyBundle { path: path.to_owned() });
        }
        let mut roots = RootCertStore::empty();
        for (index, root) in certificates.iter().enumerate() {
            roots.add(root.clone()).map_err(|source| CredentialsError::BadBundle {
                path: path.to_owned(),
                number: index + 1,
                source,
            })?;
        }
        Ok(Self { certificates, roots: Arc::new(roots) })
    }

    /// Checks that each certificate is a CA's: the verifier would let every certificate of the bundle sign others. A
    /// certificate that cannot say so (version 1 has no extensions) passes.
    pub(crate) fn check_cas(&self, path: &Path) -> Result<(), CredentialsError> {
        let may_sign = |der: &CertificateDer<'_>| {
            parse(der).is_ok_and(|ca| ca.version() != X509Version::V3 || ca.is_ca())
        };
        match self.certificates.iter().position(|der| !may_sign(der)) {
            Some(index) => Err(CredentialsError::NotACa { path: path.to_owned(), number: index + 1 }),
            None => Ok(()),
        }
    }
}

/// What a SPIFFE Workload API hands out together: everything in DER, certificates one after the other.
#[derive(Clone, Copy)]
pub struct Svid<'a> {
    /// Our own certificate first.
    pub chain: &'a [u8],
    /// PKCS #8, not encrypted.
    pub key: &'a [u8],
    pub bundle: &'a [u8],
    /// The bundles of other trust domains, by trust domain.
    pub federated: &'a BTreeMap<String, Vec<u8>>,
    pub lists: &'a [Vec<u8>],
}

struct Parts<'a> {
    certificate: &'a [u8],
    key: &'a [u8],
    bundle: &'a [u8],
    form: Form,
}

#[derive(Clone, Copy)]
enum Form {
    Pem,
    /// The key as PKCS #8, and certificates one after the other.
    Der,
}

fn in_memory() -> Files {
    Files {
        certificate: "certificate".into(),
        key: "key".into(),
        trust_bundle: "trust bundle".into(),
        trust_domain: None,
        max_connection_age: None,
        federation: BTreeMap::new(),
        crl: Crl::None,
    }
}

/// Reads the revocation lists. `None` when there are none and none are required.
fn read_crl(crl: &Crl) -> Result<Option<(&Path, Vec<u8>)>, CredentialsError> {
    let (path, may_be_absent) = match crl {
        Crl::None => return Ok(None),
        Crl::IfPresent(path) => (path, true),
        Crl::Required(path) => (path, false),
    };
    match read(path) {
        Err(CredentialsError::Unreadable { source, .. })
            if may_be_absent && source.kind() == io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        read => read.map(|bytes| Some((path.as_path(), bytes))),
    }
}

/// The certificates of a file.
pub(super) fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    certificates(path, &read(path)?, Form::Pem)
}

/// The chain with the key of a file, which must belong to its first certificate.
pub(super) fn read_key(
    certificate: &Path,
    key: &Path,
    chain: Vec<CertificateDer<'static>>,
) -> Result<CertifiedKey, CredentialsError> {
    let pem = Zeroizing::new(read(key)?);
    certified(certificate, key, chain, key_of_pem(key, &pem)?)
}

/// A chain with its key, of two PEM texts. The names are what errors call them.
pub(crate) fn certified_by_pem(
    (certificate, pem): (&Path, &[u8]),
    (key, key_pem): (&Path, &[u8]),
) -> Result<CertifiedKey, CredentialsError> {
    let chain = certificates(certificate, pem, Form::Pem)?;
    certified(certificate, key, chain, key_of_pem(key, key_pem)?)
}

fn read(path: &Path) -> Result<Vec<u8>, CredentialsError> {
    let unreadable = |source| CredentialsError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let size = file.metadata().map_err(unreadable)?.len().min(MAX_FILE);
    let mut bytes = Vec::with_capacity(size as usize + 1); // it does not grow, so no further copy of a key remains
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(CredentialsError::TooLarge { path: path.to_owned() });
    }
    if bytes.trim_ascii().is_empty() {
        return Err(CredentialsError::Blank { path: path.to_owned() });
    }
    Ok(bytes)
}

fn all_certificates(
    path: &Path,
    bytes: &[u8],
    form: Form,
) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    match form {
        Form::Pem => pem::blocks(bytes, Kind::Certificate)
            .map_err(|fault| CredentialsError::BadPem { path: path.to_owned(), fault }),
        Form::Der => split(bytes).map_err(|(number, fault)| {
            let path = path.to_owned();
            CredentialsError::BadDer { path, number, fault }
        }),
    }
}

/// The certificates of a text in DER. The error has the number of the one that cannot be read.
fn split(mut der: &[u8]) -> Result<Vec<CertificateDer<'static>>, (usize, String)> {
    let mut certificates = Vec::new();
    while !der.is_empty() {
        let (rest, _) =
            X509Certificate::from_der(der).map_err(|fault| (certificates.len() + 1, fault.to_string()))?;
        let (one, _) = der.split_at(der.len() - rest.len());
        certificates.push(one.to_vec().into());
        der = rest;
    }
    Ok(certificates)
}

/// Whether the PEM text has a key that is encrypted, in PKCS #8 or as OpenSSL wrote it before.
fn is_encrypted(pem: &[u8]) -> bool {
    let mut lines = pem.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    lines.any(|line| line == b"-----BEGIN ENCRYPTED PRIVATE KEY-----" || line == b"Proc-Type: 4,ENCRYPTED")
}

fn certificates(
    path: &Path,
    bytes: &[u8],
    form: Form,
) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let certificates = all_certificates(path, bytes, form)?;
    if certificates.is_empty() {
        return Err(CredentialsError::NoCertificate { path: path.to_owned() });
    }
    Ok(certificates)
}

fn own_subject(path: &Path, chain: &[CertificateDer<'_>]) -> Result<Subject, CredentialsError> {
    let not_an_identity = |source| CredentialsError::NotAnIdentity { path: path.to_owned(), source };
    let own = chain.first().ok_or_else(|| CredentialsError::NoCertificate { path: path.to_owned() })?;
    // checked first: the usual mistake is a chain in the wrong order, and the error should say so
    if parse(own).map_err(not_an_identity)?.is_ca() {
        return Err(CredentialsError::IsCa { path: path.to_owned() });
    }
    Subject::read(own).map_err(not_an_identity)
}

pub(super) fn check_dates(path: &Path, validity: Validity, now: i64) -> Result<(), CredentialsError> {
    let Validity { not_before, not_after } = validity;
    if now > not_after {
        return Err(CredentialsError::Expired { path: path.to_owned(), not_after });
    }
    if now < not_before {
        return Err(CredentialsError::NotYetValid { path: path.to_owned(), not_before });
    }
    Ok(())
}

fn check_trust_domain(source: &Files, id: &SpiffeId) -> Result<(), CredentialsError> {
    match &source.trust_domain {
        Some(configured) if configured != id.trust_domain() => Err(CredentialsError::TrustDomain {
            path: source.certificate.clone(),
            id: id.clone(),
            configured: configured.clone(),
        }),
        _ => Ok(()),
    }
}

fn key_of_pem(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, CredentialsError> {
    let path = || path.to_owned();
    let pem = pem::without_mark(pem);
    PrivateKeyDer::from_pem_slice(pem).map_err(|fault| match fault {
        _ if is_encrypted(pem) => CredentialsError::EncryptedKey { path: path() },
        rustls::pki_types::pem::Error::NoItemsFound => CredentialsError::NoKey { path: path() },
        fault => CredentialsError::BadPem { path: path(), fault: BadBlocks::Pem(fault) },
    })
}

fn certified(
    certificate: &Path,
    key_file: &Path,
    chain: Vec<CertificateDer<'static>>,
    mut key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, CredentialsError> {
    let path = || key_file.to_owned();
    let signer = any_supported_type(&key);
    key.zeroize(); // AWS-LC wipes its own copy when it is freed
    let own = signer.map(|signer| CertifiedKey::new(chain, signer));
    let own = own.map_err(|source| CredentialsError::BadKey { path: path(), source })?;
    match own.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(own),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(CredentialsError::KeyMismatch { certificate: certificate.to_owned(), key: path() })
        }
        Err(source) => Err(CredentialsError::BadKey { path: path(), source }),
    }
}

#[cfg(test)]
mod tests;
