use std::fs;
use std::time::Duration;

use time::OffsetDateTime;

use super::*;
use crate::identity::issue::{Ca, CertificateRequest, IssuedPem};

const WEB: &str = "spiffe://cluster.local/ns/default/sa/web";
const DAY: Duration = Duration::from_secs(86_400);

fn ca() -> Ca {
    Ca::generate("cluster.local").expect("a CA")
}

fn signed(ca: &Ca, uris: &[&str], from: OffsetDateTime, to: OffsetDateTime) -> IssuedPem {
    let uris = uris.iter().map(ToString::to_string).collect();
    ca.sign(&CertificateRequest { uris, hosts: Vec::new(), not_before: from, not_after: to }).expect("signed")
}

fn web(ca: &Ca) -> IssuedPem {
    ca.issue(&WEB.parse().expect("a SPIFFE ID"), &[], DAY).expect("issued")
}

fn parts(pem: &IssuedPem) -> Parts<'_> {
    Parts {
        certificate: pem.certificate.as_bytes(),
        key: pem.key.as_bytes(),
        bundle: pem.bundle.as_bytes(),
        form: Form::Pem,
    }
}

fn fault(certificate: &str, key: &str, bundle: &str) -> String {
    let loaded = Credentials::from_pem(certificate.as_bytes(), key.as_bytes(), bundle.as_bytes());
    loaded.expect_err("must be refused").to_string()
}

#[test]
fn each_fault_names_its_file_and_what_to_do() {
    let (ca, now) = (ca(), OffsetDateTime::now_utc());
    let (good, other) = (web(&ca), web(&ca));
    let past = signed(&ca, &[WEB], now - 2 * DAY, now - DAY);
    let future = signed(&ca, &[WEB], now + DAY, now + 2 * DAY);
    let two = signed(&ca, &[WEB, WEB], now - DAY, now + DAY);
    let none = signed(&ca, &[], now - DAY, now + DAY);
    let cut = &good.certificate[..good.certificate.len() / 2];
    let (certificate, key, bundle) = (&*good.certificate, &*good.key, &*good.bundle);
    let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let junk_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    for (error, words) in [
        (fault("", key, bundle), "certificate holds no certificate"),
        (fault(cut, key, bundle), "certificate is refused: it is not valid PEM"),
        (fault(junk, key, bundle), "is not a workload's certificate: it is not a readable"),
        (fault(ca.certificate_pem(), &ca.key_pem(), bundle), "put the workload's own first"),
        (fault(&two.certificate, &two.key, bundle), "2 URIs"),
        (fault(&none.certificate, &none.key, bundle), "no SPIFFE ID"),
        (fault(&past.certificate, &past.key, bundle), "issue a new one"),
        (fault(&future.certificate, &future.key, bundle), "is valid only from"),
        (fault(certificate, "", bundle), "key holds no private key"),
        (fault(certificate, junk_key, bundle), "the key in key cannot be used"),
        (fault(certificate, &other.key, bundle), "does not belong to the first certificate in certificate"),
        (fault(certificate, key, ""), "the trust bundle trust bundle is empty"),
        (fault(certificate, key, &format!("{bundle}{junk}")), "certificate 2 of the trust bundle"),
    ] {
        assert!(error.contains(words), "{error}\n  should say {words:?}");
    }
}

#[test]
fn a_configured_trust_domain_must_match_the_certificate() {
    let pem = web(&ca());
    let parts = parts(&pem);
    let check = |domain: &str| {
        Credentials::check(
            &parts,
            &Files { trust_domain: Some(domain.to_owned()), ..in_memory() },
            unix_now(),
        )
    };
    assert!(check("cluster.local").is_ok());
    let error = check("elsewhere.test").expect_err("another trust domain").to_string();
    assert!(error.contains(WEB) && error.contains("\"elsewhere.test\""), "{error}");
}

#[test]
fn a_certificate_is_valid_through_its_last_second() {
    let pem = web(&ca());
    let parts = parts(&pem);
    let last = pem.credentials().expect("usable").not_after;
    assert!(Credentials::check(&parts, &in_memory(), last).is_ok());
    let after = Credentials::check(&parts, &in_memory(), last + 1);
    assert!(matches!(after, Err(CredentialsError::Expired { not_after, .. }) if not_after == last));
}

#[test]
fn files_are_loaded_and_a_missing_one_is_reported_as_missing() {
    let folder = std::env::temp_dir().join(format!("pillion-credentials-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let [certificate, key, trust_bundle] = ["tls.crt", "tls.key", "ca.crt"].map(|name| folder.join(name));
    let source = Files { certificate, key, trust_bundle, crl: Crl::None, ..in_memory() };

    let missing = Credentials::load(&source).expect_err("nothing there");
    assert!(missing.is_missing() && missing.to_string().contains("tls.crt"), "{missing}");

    let pem = web(&ca());
    fs::write(&source.certificate, &pem.certificate).expect("written");
    fs::write(&source.key, &pem.key).expect("written");
    fs::write(&source.trust_bundle, &pem.bundle).expect("written");
    let loaded = Credentials::load(&source).expect("usable");
    assert_eq!((loaded.id.as_str(), loaded.trust_domain(), loaded.bundle.len()), (WEB, "cluster.local", 1));
    assert!(!format!("{loaded:?}").contains("PRIVATE"));

    fs::write(&source.trust_bundle, vec![b' '; 1024 * 1024 + 1]).expect("written");
    assert!(matches!(Credentials::load(&source), Err(CredentialsError::TooLarge { .. })));
    fs::remove_dir_all(&folder).expect("cleaned up");
}
