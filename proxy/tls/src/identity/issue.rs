//! A small CA for development, the demo and tests. It uses ECDSA P-256 and one level of certificates.
//!
//! Deliberately absent: anything a production CA needs (approval, rotation of itself, an audit log).

use std::fmt;
use std::time::Duration;

use pillion_model::SpiffeId;
use pillion_model::identity::{BadSpiffeId, check_trust_domain};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, DnsName};
use time::OffsetDateTime;

use super::credentials::{Credentials, CredentialsError};
use super::{NotAnIdentity, names, only_spiffe_id, parse};

/// Certificates are valid from one minute ago: the clocks of two machines differ, and a certificate may be used in the
/// second in which it is made.
const CLOCK_SLACK: Duration = Duration::from_secs(60);

/// Ten years, so that a development CA does not expire while it is in use.
const CA_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Signs certificates for workloads of one trust domain.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    /// `None` when the CA was made elsewhere and names no trust domain. It may then sign for any trust domain.
    trust_domain: Option<String>,
    not_after: OffsetDateTime,
}

/// The files of one workload, as PEM text.
#[derive(Clone)]
pub struct IssuedPem {
    /// `tls.crt`
    pub certificate: String,
    /// `tls.key`, PKCS #8
    pub key: String,
    /// `ca.crt`
    pub bundle: String,
}

/// The content of one certificate, unchecked: tests ask for certificates that no workload should have.
#[derive(Debug, Clone)]
pub struct CertificateRequest {
    pub uris: Vec<String>,
    /// Host names or IP addresses.
    pub hosts: Vec<String>,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
}

/// Why the CA refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("{domain:?} cannot be a trust domain: {source}; an example: cluster.local")]
    TrustDomain { domain: String, source: BadSpiffeId },
    #[error("{0} has no path; a workload's ID looks like spiffe://cluster.local/ns/default/sa/web")]
    NoPath(SpiffeId),
    #[error("{id} is not of this CA's trust domain {own:?}; ask for spiffe://{own}/…, or make another CA")]
    ForeignTrustDomain { id: SpiffeId, own: String },
    #[error("{0:?} is neither a host name nor an IP address")]
    BadHost(String),
    #[error("the CA's certificate is not valid PEM: {0}")]
    BadPem(pem::Error),
    #[error("the CA's certificate cannot be used: {0}")]
    BadCertificate(NotAnIdentity),
    #[error("the certificate is not a CA's: it may not sign others")]
    NotACa,
    #[error("the CA's key does not belong to its certificate")]
    KeyMismatch,
    #[error("the CA's key cannot be read ({0}); expected a PEM block `BEGIN PRIVATE KEY`")]
    BadKey(rcgen::Error),
    #[error("the certificate could not be made: {0}")]
    Make(#[from] rcgen::Error),
}

impl Ca {
    /// Makes a CA with a new key, valid for ten years.
    ///
    /// # Errors
    /// The name is not a valid trust domain.
    pub fn generate(trust_domain: &str) -> Result<Self, CaError> {
        check_trust_domain(trust_domain)
            .map_err(|source| CaError::TrustDomain { domain: trust_domain.to_owned(), source })?;
        let params = ca_params(trust_domain)?;
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        let not_after = params.not_after;
        let trust_domain = Some(trust_domain.to_owned());
        Ok(Self { issuer: Issuer::new(params, key), certificate, trust_domain, not_after })
    }

    /// Loads a CA from its PEM files.
    ///
    /// # Errors
    /// A file is unreadable, the two do not belong together, or the certificate is not a CA's.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, CaError> {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(CaError::BadPem)?;
        let key = KeyPair::from_pem(key).map_err(CaError::BadKey)?;
        let parsed = parse(&der).map_err(CaError::BadCertificate)?;
        if !parsed.is_ca() {
            return Err(CaError::NotACa);
        }
        if parsed.public_key().subject_public_key.data.as_ref() != rcgen::PublicKeyData::der_bytes(&key) {
            return Err(CaError::KeyMismatch);
        }
        let trust_domain = trust_domain(&parsed).map_err(CaError::BadCertificate)?;
        let not_after = parsed.validity().not_after.to_datetime();
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        Ok(Self { issuer, certificate: certificate.to_owned(), trust_domain, not_after })
    }

    /// `ca.crt`
    pub fn certificate_pem(&self) -> &str {
        &self.certificate
    }

    /// The content of `ca.key`. A holder of this key can issue every identity of the trust domain.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Issues a certificate for one workload, valid from one minute ago until `ttl` from now, or until the CA's own
    /// certificate ends if that is sooner.
    ///
    /// # Errors
    /// The ID has no path or belongs to another trust domain, or a host is neither a name nor an address.
    pub fn issue(&self, id: &SpiffeId, hosts: &[String], ttl: Duration) -> Result<IssuedPem, CaError> {
        self.check_id(id)?;
        let now = OffsetDateTime::now_utc();
        let not_after = end(now, ttl).map_or(self.not_after, |end| end.min(self.not_after));
        self.sign(&CertificateRequest {
            uris: vec![id.to_string()],
            hosts: hosts.to_vec(),
            not_before: now - CLOCK_SLACK,
            not_after,
        })
    }

    /// Signs every request, also with foreign, expired or doubled names, which tests need.
    ///
    /// # Errors
    /// A name cannot be written into a certificate.
    pub fn sign(&self, request: &CertificateRequest) -> Result<IssuedPem, CaError> {
        let key = KeyPair::generate()?;
        let certificate = leaf_params(request)?.signed_by(&key, &self.issuer)?;
        Ok(IssuedPem {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            bundle: self.certificate.clone(),
        })
    }

    /// The content of `ca.crl` in PEM: it revokes these serial numbers and is valid until `next_update`, which may be
    /// in the past.
    ///
    /// # Errors
    /// The CA's certificate does not allow it to sign revocation lists.
    pub fn revoke(&self, serials: &[Vec<u8>], next_update: OffsetDateTime) -> Result<String, CaError> {
        let this_update = OffsetDateTime::now_utc().min(next_update) - CLOCK_SLACK;
        let revoked = |serial: &Vec<u8>| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: this_update,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update,
            next_update,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }

    fn check_id(&self, id: &SpiffeId) -> Result<(), CaError> {
        if id.path().is_empty() {
            return Err(CaError::NoPath(id.clone()));
        }
        match &self.trust_domain {
            Some(own) if own != id.trust_domain() => {
                Err(CaError::ForeignTrustDomain { id: id.clone(), own: own.clone() })
            }
            _ => Ok(()),
        }
    }
}

impl IssuedPem {
    /// Credentials that can be used without files.
    ///
    /// # Errors
    /// Like `Credentials::from_pem`. A certificate from [`Ca::sign`] may be no identity.
    pub fn credentials(&self) -> Result<Credentials, CredentialsError> {
        Credentials::from_pem(self.certificate.as_bytes(), self.key.as_bytes(), self.bundle.as_bytes())
    }
}

/// Leaves out the key, which must not appear in logs.
impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

/// Leaves out the key, which must not appear in logs.
impl fmt::Debug for IssuedPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedPem").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

fn end(now: OffsetDateTime, ttl: Duration) -> Option<OffsetDateTime> {
    now.checked_add(time::Duration::try_from(ttl).ok()?)
}

fn ca_params(trust_domain: &str) -> Result<CertificateParams, CaError> {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Pillion CA of {trust_domain}"));
    // X509-SVID, 2: the SPIFFE ID of a signing certificate is its trust domain, without a path
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - CLOCK_SLACK;
    params.not_after = now + CA_TTL;
    Ok(params)
}

fn leaf_params(request: &CertificateRequest) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    // names are only in the alternative names; the key identifier tells two CAs with one name apart
    params.distinguished_name = DistinguishedName::new();
    params.use_authority_key_identifier_extension = true;
    params.subject_alt_names = alt_names(request)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = request.not_before;
    params.not_after = request.not_after;
    Ok(params)
}

fn alt_names(request: &CertificateRequest) -> Result<Vec<SanType>, CaError> {
    let uris = request.uris.iter().map(|uri| Ok(SanType::URI(uri.as_str().try_into()?)));
    uris.chain(request.hosts.iter().map(|host| alt_name(host))).collect()
}

fn alt_name(host: &str) -> Result<SanType, CaError> {
    if let Ok(address) = host.parse() {
        return Ok(SanType::IpAddress(address));
    }
    let name = host.strip_prefix("*.").unwrap_or(host);
    if DnsName::try_from(name).is_err() {
        return Err(CaError::BadHost(host.to_owned()));
    }
    Ok(SanType::DnsName(host.try_into()?))
}

/// The trust domain that a CA's certificate names, if it names one.
fn trust_domain(
    certificate: &x509_parser::certificate::X509Certificate<'_>,
) -> Result<Option<String>, NotAnIdentity> {
    match only_spiffe_id(names(certificate)?) {
        Ok(id) => Ok(Some(id.trust_domain().to_owned())),
        Err(NotAnIdentity::NoUri) => Ok(None),
        Err(fault) => Err(fault),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "spiffe://cluster.local/ns/default/sa/web";
    const DAY: Duration = Duration::from_secs(86_400);

    fn id(text: &str) -> SpiffeId {
        text.parse().expect("a SPIFFE ID")
    }

    fn ca() -> Ca {
        Ca::generate("cluster.local").expect("a CA")
    }

    #[test]
    fn the_ca_refuses_foreign_ids_and_bad_names_with_a_hint() {
        let ca = ca();
        let refusal = |workload: &str, host: &str| {
            let hosts = [host.to_owned()];
            ca.issue(&id(workload), &hosts, DAY).expect_err("must be refused").to_string()
        };
        for (refusal, words) in [
            (refusal("spiffe://elsewhere.test/web", "web"), "ask for spiffe://cluster.local/"),
            (refusal("spiffe://cluster.local", "web"), "has no path"),
            (refusal(WEB, "not a host"), "neither a host name nor an IP address"),
            (Ca::generate("Not A Domain").expect_err("refused").to_string(), "cluster.local"),
        ] {
            assert!(refusal.contains(words), "{refusal}");
        }
    }

    #[test]
    fn a_ca_that_was_loaded_from_its_files_signs_as_before() {
        let made = ca();
        let loaded = Ca::from_pem(made.certificate_pem(), &made.key_pem()).expect("a CA");
        let hosts = ["web.shop", "*.web.shop", "10.0.0.1", "::1"].map(str::to_owned);
        let own = loaded.issue(&id(WEB), &hosts, DAY).expect("issued").credentials().expect("usable");
        assert_eq!(own.id, id(WEB));
        assert!(matches!(
            loaded.issue(&id("spiffe://elsewhere.test/web"), &[], DAY),
            Err(CaError::ForeignTrustDomain { .. })
        ));
    }

    #[test]
    fn files_that_are_not_a_ca_are_refused() {
        let (ca, other) = (ca(), ca());
        let leaf = ca.issue(&id(WEB), &[], DAY).expect("issued");
        let from = |certificate: &str, key: &str| Ca::from_pem(certificate, key).map(drop);
        assert!(matches!(from(ca.certificate_pem(), &other.key_pem()), Err(CaError::KeyMismatch)));
        assert!(matches!(from(&leaf.certificate, &leaf.key), Err(CaError::NotACa)));
        assert!(matches!(from("", &ca.key_pem()), Err(CaError::BadPem(_))));
        assert!(matches!(from(ca.certificate_pem(), ""), Err(CaError::BadKey(_))));
    }

    #[test]
    fn no_certificate_outlives_its_ca_however_long_the_requested_lifetime() {
        let ca = ca();
        for ttl in [Duration::MAX, 100 * CA_TTL] {
            let own = ca.issue(&id(WEB), &[], ttl).expect("issued").credentials().expect("usable");
            assert_eq!(own.not_after, ca.not_after.unix_timestamp());
        }
    }

    #[test]
    fn keys_stay_out_of_debug_output() {
        let ca = ca();
        let printed = format!("{ca:?} {:?}", ca.issue(&id(WEB), &[], DAY));
        assert!(!printed.contains("PRIVATE KEY"), "{printed}");
    }
}
