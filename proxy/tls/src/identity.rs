//! Reads which workload a certificate names, and how long it is valid.
//!
//! [`credentials`] is our own identity, [`pair`] a certificate for programs outside the mesh, [`revocation`] the revoked certificates, [`system`] the authorities that the system trusts, [`pem`] reads both out of text,
//! [`watch`] notices newer files, [`view`] shows everything, and [`issue`] is a small CA. Deliberately absent: trust. A [`Subject`] is only what a
//! certificate claims; `tls::verify` decides whether to trust it.

pub mod credentials;
pub mod issue;
pub mod pair;
pub mod pem;
pub mod revocation;
pub mod system;
pub mod view;
pub mod watch;

use std::ops::RangeInclusive;

use pillion_model::SpiffeId;
use pillion_model::identity::BadSpiffeId;
use rustls::pki_types::UnixTime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, SubjectAlternativeName};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// What a workload's certificate (an X.509-SVID) claims about its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Always has a path. A SPIFFE ID without a path names the trust domain, not a workload.
    pub id: SpiffeId,
    /// The first second at which the certificate is valid, in Unix seconds.
    pub not_before: i64,
    /// The last second at which the certificate is valid, in Unix seconds.
    pub not_after: i64,
}

/// The time in which a certificate is valid, from the first second to the last, in Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub not_before: i64,
    pub not_after: i64,
}

impl Validity {
    pub fn of(certificate: &X509Certificate<'_>) -> Self {
        let validity = certificate.validity();
        Self { not_before: validity.not_before.timestamp(), not_after: validity.not_after.timestamp() }
    }

    /// The time in which both are valid.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            not_before: self.not_before.max(other.not_before),
            not_after: self.not_after.min(other.not_after),
        }
    }

    pub const fn includes(self, now: i64) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// Why the certificate in use is not valid at `now`. `None` when it is valid.
    pub fn why_not(self, now: i64) -> Option<String> {
        let Self { not_before, not_after } = self;
        if now > not_after {
            Some(format!(
                "the certificate in use expired at {}; no newer certificate was found",
                date(not_after)
            ))
        } else if now < not_before {
            Some(format!(
                "the certificate in use is valid only from {}; check this machine's clock",
                date(not_before)
            ))
        } else {
            None
        }
    }
}

/// Why a certificate is not a SPIFFE identity (X509-SVID standard, section 2).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAnIdentity {
    #[error("it is not a readable X.509 certificate ({0})")]
    Unreadable(String),
    #[error("it has no SPIFFE ID (no URI among its subject alternative names)")]
    NoUri,
    #[error("it has {0} URIs among its subject alternative names where a SPIFFE identity has exactly one")]
    SeveralUris(usize),
    #[error("its URI {uri:?} is not a SPIFFE ID: {fault}")]
    NotSpiffe { uri: String, fault: BadSpiffeId },
    #[error("its SPIFFE ID {0} names a trust domain, not a workload: it has no path")]
    NoPath(SpiffeId),
    #[error(
        "its key usage allows it to sign certificates or revocation lists, which a workload's must not \
         (X.509-SVID, 4.3)"
    )]
    MaySign,
    #[error("it is a CA's certificate (X.509-SVID, 4.1); a workload's own must come first")]
    IsCa,
    #[error(
        "its key usage does not allow its key to sign a handshake: it lacks digitalSignature, which every workload's has \
         (X.509-SVID, 4.3)"
    )]
    MayNotSignHandshakes,
    #[error(
        "its key ({0}) is not accepted; use ECDSA P-256, P-384 or P-521, Ed25519, or RSA with 2048 to 8192 bits"
    )]
    WeakKey(String),
}

impl Subject {
    pub const fn validity(&self) -> Validity {
        Validity { not_before: self.not_before, not_after: self.not_after }
    }

    /// Reads one DER certificate.
    ///
    /// # Errors
    /// [`NotAnIdentity`] unless the certificate has exactly one URI name, this is a SPIFFE ID with a path, and the
    /// certificate is a workload's by its basic constraints, its key usage and its key (X.509-SVID, 5.2).
    pub fn read(der: &[u8]) -> Result<Self, NotAnIdentity> {
        let certificate = parse(der)?;
        check_use(&certificate)?;
        check_key(&certificate)?;
        let Validity { not_before, not_after } = Validity::of(&certificate);
        Ok(Self { id: workload_id(&certificate)?, not_before, not_after })
    }
}

/// The last second at which a certificate is valid, in Unix seconds. Works for a host's certificate as well.
pub fn not_after(der: &[u8]) -> Result<i64, NotAnIdentity> {
    Ok(Validity::of(&parse(der)?).not_after)
}

/// Parses one certificate. Bytes after its end are an error.
pub fn parse(der: &[u8]) -> Result<X509Certificate<'_>, NotAnIdentity> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok((rest, _)) => Err(NotAnIdentity::Unreadable(format!("{} bytes after its end", rest.len()))),
        Err(fault) => Err(NotAnIdentity::Unreadable(fault.to_string())),
    }
}

/// The subject alternative names of a certificate. Empty when it lacks the extension.
pub fn names<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a [GeneralName<'a>], NotAnIdentity> {
    let names = certificate.subject_alternative_name();
    let names = names.map_err(|fault| NotAnIdentity::Unreadable(fault.to_string()))?;
    Ok(names.map_or(&[], |extension| {
        let SubjectAlternativeName { general_names } = extension.value;
        general_names.as_slice()
    }))
}

/// Checks that the certificate is for handshakes, and for nothing else: a holder of a certificate that may sign others
/// could make other identities with it. A certificate without a key usage passes, because the standard does not ask
/// verifiers to refuse it.
fn check_use(certificate: &X509Certificate<'_>) -> Result<(), NotAnIdentity> {
    let unreadable = |fault: x509_parser::error::X509Error| NotAnIdentity::Unreadable(fault.to_string());
    let usage = certificate.key_usage().map_err(unreadable)?;
    let constraints = certificate.basic_constraints().map_err(unreadable)?;
    if usage.as_ref().is_some_and(|usage| usage.value.key_cert_sign() || usage.value.crl_sign()) {
        return Err(NotAnIdentity::MaySign);
    }
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(NotAnIdentity::IsCa);
    }
    match usage {
        Some(usage) if !usage.value.digital_signature() => Err(NotAnIdentity::MayNotSignHandshakes),
        _ => Ok(()),
    }
}

/// The bits of the RSA keys whose signatures are verified.
const RSA_BITS: RangeInclusive<usize> = 2048..=8192;

/// The curves on which signatures are verified: P-256, P-384 and P-521 (RFC 5480, 2.1.1.1).
const CURVES: [&str; 3] = ["1.2.840.10045.3.1.7", "1.3.132.0.34", "1.3.132.0.35"];

/// Checks that the key can be used in a handshake. Otherwise the handshake would fail by a signature that seems bad.
fn check_key(certificate: &X509Certificate<'_>) -> Result<(), NotAnIdentity> {
    let key = certificate.public_key();
    let is_accepted = match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => RSA_BITS.contains(&rsa.key_size()),
        Ok(PublicKey::EC(_)) => CURVES.contains(&&*curve(key)),
        _ => key.algorithm.algorithm.to_id_string() == ED25519,
    };
    match is_accepted {
        true => Ok(()),
        false => Err(NotAnIdentity::WeakKey(key_algorithm(certificate))),
    }
}

/// The object identifier of the curve of a key. Empty where it is missing.
fn curve(key: &SubjectPublicKeyInfo<'_>) -> String {
    let parameters = key.algorithm.parameters.as_ref();
    parameters.and_then(|curve| curve.as_oid().ok()).map_or_else(String::new, |curve| curve.to_id_string())
}

const ED25519: &str = "1.3.101.112";

/// The algorithm of the certificate's key, such as `ecdsa-256`, `rsa-2048` or `ed25519`. Others are shown by their object
/// identifier, and so are other curves.
fn key_algorithm(certificate: &X509Certificate<'_>) -> String {
    let key = certificate.public_key();
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => format!("rsa-{}", rsa.key_size()),
        Ok(PublicKey::EC(point)) => match curve(key) {
            curve if CURVES.contains(&&*curve) => format!("ecdsa-{}", point.key_size()),
            curve => format!("ecdsa on the curve {curve}"),
        },
        _ => match key.algorithm.algorithm.to_id_string() {
            id if id == ED25519 => "ed25519".to_owned(),
            id => id,
        },
    }
}

fn workload_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, NotAnIdentity> {
    let id = only_spiffe_id(names(certificate)?)?;
    if id.path().is_empty() {
        return Err(NotAnIdentity::NoPath(id));
    }
    Ok(id)
}

/// The one URI of these names, as a SPIFFE ID. A URI that is not text is counted, so that it cannot hide a second
/// identity.
pub fn only_spiffe_id(names: &[GeneralName<'_>]) -> Result<SpiffeId, NotAnIdentity> {
    let mut uris = names.iter().filter_map(uri);
    let first = uris.next().ok_or(NotAnIdentity::NoUri)?;
    match uris.count() {
        0 => first.parse().map_err(|fault| NotAnIdentity::NotSpiffe { uri: first.to_owned(), fault }),
        more => Err(NotAnIdentity::SeveralUris(more + 1)),
    }
}

/// The tag of `uniformResourceIdentifier` in a GeneralName (RFC 5280, 4.2.1.6).
const URI_TAG: u32 = 6;

fn uri<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
    match name {
        GeneralName::URI(uri) => Some(uri),
        GeneralName::Invalid(tag, _) if tag.0 == URI_TAG => Some("\u{fffd}"),
        _ => None,
    }
}

/// One hour, in seconds: the least time that a person needs to repair a rotation.
const ALARM: i64 = 3600;

/// The longest delay of a renewal that is no reason for a warning: cert-manager renews when a third of the lifetime is
/// left, and Kubernetes takes up to two minutes to update a mounted Secret.
const RENEWAL: i64 = 300;

/// Whether a newer certificate was due when a third of the lifetime was left. A tenth of this third passes first, or
/// [`RENEWAL`] if that is shorter.
pub fn is_due(not_before: i64, not_after: i64, now: i64) -> bool {
    now > due(not_before, not_after)
}

/// The last second in which no newer certificate is due.
pub fn due(not_before: i64, not_after: i64) -> i64 {
    let third = not_after.saturating_sub(not_before).max(0) / 3;
    not_after.saturating_sub(third - (third / 10).min(RENEWAL))
}

/// Whether a newer certificate should have come already: when a tenth of the lifetime is left, or one hour if that is
/// longer. For a short lifetime the limit is a quarter of it, so that a certificate issued for one hour is late with 15
/// minutes left, and not all the time.
pub fn expires_soon(not_before: i64, not_after: i64, now: i64) -> bool {
    now > late(not_before, not_after)
}

/// The last second in which a newer certificate is not late.
pub fn late(not_before: i64, not_after: i64) -> i64 {
    let life = not_after.saturating_sub(not_before).max(0);
    not_after.saturating_sub((life / 10).max(ALARM.min(life / 4)))
}

/// Seconds since 1970, the clock by which certificates are judged.
pub fn unix_now() -> i64 {
    unix_seconds(UnixTime::now())
}

pub fn unix_seconds(time: UnixTime) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// A time as text, such as `2026-11-21T03:45:00Z`.
pub fn date(unix: i64) -> String {
    let date = OffsetDateTime::from_unix_timestamp(unix).ok().and_then(|date| date.format(&Rfc3339).ok());
    date.unwrap_or_else(|| format!("{unix} s since 1970"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use x509_parser::asn1_rs::Tag;

    use super::*;

    const WEB: &str = "spiffe://cluster.local/ns/default/sa/web";

    #[test]
    fn a_certificate_has_exactly_one_uri_and_an_unreadable_uri_counts() {
        let web = GeneralName::URI(WEB);
        let garbage = GeneralName::Invalid(Tag(URI_TAG), b"\xff");
        let host = GeneralName::DNSName("web.shop");
        let id_of = |names: &[GeneralName<'_>]| only_spiffe_id(names).map_err(|fault| fault.to_string());

        assert_eq!(id_of(&[host.clone(), web.clone()]), Ok(WEB.parse().expect("a SPIFFE ID")));
        for (names, words) in [
            (vec![host], "no SPIFFE ID"),
            (vec![web.clone(), web.clone()], "2 URIs"),
            (vec![web, garbage.clone()], "2 URIs"),
            (vec![garbage], "not a SPIFFE ID"),
            (vec![GeneralName::URI("https://web.shop/")], "not a SPIFFE ID"),
        ] {
            let fault = id_of(&names).expect_err(words);
            assert!(fault.contains(words), "{fault}");
        }
    }

    fn certificate() -> Vec<u8> {
        use rustls::pki_types::CertificateDer;
        use rustls::pki_types::pem::PemObject;
        let ca = issue::Ca::generate("cluster.local").expect("a CA");
        let web = WEB.parse().expect("a SPIFFE ID");
        let pem = ca.issue(&web, &[], std::time::Duration::from_secs(60)).expect("issued");
        CertificateDer::from_pem_slice(pem.certificate.as_bytes()).expect("PEM").to_vec()
    }

    #[test]
    fn a10_a_certificate_that_may_sign_others_is_not_an_identity() {
        use KeyUsagePurpose::{CrlSign, DigitalSignature, KeyCertSign};
        use rcgen::{CertificateParams, KeyPair, KeyUsagePurpose, SanType};
        let key = KeyPair::generate().expect("a key");
        for (usages, is_refused) in [
            (vec![DigitalSignature], false),
            (vec![], false),
            (vec![DigitalSignature, KeyCertSign], true),
            (vec![DigitalSignature, CrlSign], true),
            (vec![KeyCertSign], true),
        ] {
            let mut params = CertificateParams::default();
            params.subject_alt_names = vec![SanType::URI(WEB.try_into().expect("an ID"))];
            params.key_usages = usages.clone();
            let der = params.self_signed(&key).expect("signed").der().to_vec();
            let refused = Subject::read(&der) == Err(NotAnIdentity::MaySign);
            assert_eq!(refused, is_refused, "{usages:?}");
        }
    }

    #[test]
    fn bytes_after_the_end_of_a_certificate_are_refused() {
        let mut der = certificate();
        assert_eq!(Subject::read(&der).map(|subject| subject.id.to_string()), Ok(WEB.to_owned()));
        der.push(0);
        assert!(matches!(Subject::read(&der), Err(NotAnIdentity::Unreadable(_))));
    }

    #[test]
    fn a_certificate_is_due_for_renewal_with_a_tenth_of_its_lifetime_left_or_an_hour() {
        const HOUR: i64 = 3600;
        for (life, late) in
            [(90 * 24 * HOUR, 9 * 24 * HOUR), (24 * HOUR, 8640), (5 * HOUR, HOUR), (HOUR, 900)]
        {
            assert!(!expires_soon(0, life, life - late), "{life}");
            assert!(expires_soon(0, life, life - late + 1), "{life}");
            assert!(expires_soon(0, life, life + 1), "{life}: expired");
        }
        assert!(!expires_soon(10, 0, -10) && expires_soon(10, 0, 5), "dates in the wrong order do not panic");
    }

    #[test]
    fn a_newer_certificate_is_due_with_a_third_of_the_lifetime_left_and_a_delay() {
        const HOUR: i64 = 3600;
        for (life, late) in [(24 * HOUR, 8 * HOUR - 300), (HOUR, 1080), (60, 18)] {
            assert!(!is_due(0, life, life - late) && is_due(0, life, life - late + 1), "{life}");
            assert!((0..life).all(|now| is_due(0, life, now) || !expires_soon(0, life, now)), "{life}");
        }
        assert!(!is_due(10, 0, -10), "dates in the wrong order do not panic");
    }

    proptest! {
        #[test]
        fn damaged_certificates_are_read_or_refused_but_never_panic(
            places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut der = CERTIFICATE.clone();
            for (place, byte) in places {
                let at = place.index(der.len());
                der[at] = byte;
            }
            drop(Subject::read(&der));
            der.truncate(cut.index(der.len()));
            prop_assert!(Subject::read(&der).is_err());
        }
    }

    static CERTIFICATE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(certificate);
}
