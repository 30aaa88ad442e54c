//! Revoked certificates, outdated lists, and sessions that must not outlive the credentials they began with.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};

use super::simple::{call, open_server};
use super::*;
use crate::identity::parse;
use crate::identity::unix_now;

fn serial(of: &Credentials) -> Vec<u8> {
    parse(&of.chain()[0]).expect("a certificate").raw_serial().to_vec()
}

fn serial_text(of: &Credentials) -> String {
    parse(&of.chain()[0]).expect("a certificate").raw_serial_as_string()
}

pub(super) fn with(own: &Credentials, lists: &str) -> Credentials {
    own.clone().with_crl("ca.crl".as_ref(), lists.as_bytes(), unix_now()).expect("lists")
}

pub(super) fn revoking(ca: &Ca, revoked: &Credentials) -> String {
    ca.revoke(&[serial(revoked)], tomorrow()).expect("a list")
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_on_both_sides_and_its_serial_is_named() {
    let ca = ca();
    let (web, orders) = (issue(&ca, WEB), issue(&ca, ORDERS));
    let words = |of| {
        format!(
            "has been revoked: the list of CN=Pillion CA of cluster.local names serial {}",
            serial_text(of)
        )
    };

    let server = serve(&with(&orders, &revoking(&ca, &web)));
    let (served, called) = shake(server, &client(&web, &mutual(&[]), AlpnOffer::Auto)).await;
    refused(served, TlsErrorKind::Certificate, &words(&web));
    refused(called, TlsErrorKind::RefusedByPeer, "the peer refused");

    let own = with(&web, &revoking(&ca, &orders));
    let (_, called) = shake(serve(&orders), &client(&own, &mutual(&[]), AlpnOffer::Auto)).await;
    refused(called, TlsErrorKind::Certificate, &words(&orders));
    let (_scratch, simple) = simple(&ca, Some("orders.shop"));
    let called = call(open_server(&orders), &client(&own, &simple, AlpnOffer::Auto)).await;
    refused(called, TlsErrorKind::Certificate, &words(&orders));
}

#[tokio::test]
async fn certificates_not_on_a_list_and_those_of_a_ca_without_a_list_are_admitted() {
    let (ours, theirs) = (ca(), Ca::generate("cluster.local").expect("a CA of the same name"));
    let (web, orders, foreign) = (issue(&ours, WEB), issue(&ours, ORDERS), issue(&theirs, WEB));
    let bundle = [ours.certificate_pem(), theirs.certificate_pem()].concat();
    let pem = ours.issue(&id(ORDERS), &[], HOUR).expect("issued");
    let both = Credentials::from_pem(pem.certificate.as_bytes(), pem.key.as_bytes(), bundle.as_bytes());
    let server = serve(&with(&both.expect("usable"), &revoking(&ours, &orders)));
    let trusting = |own: &Credentials| Credentials { roots: orders.roots.clone(), ..own.clone() };
    for caller in [&web, &trusting(&foreign)] {
        let (served, called) = shake(server.clone(), &client(caller, &mutual(&[]), AlpnOffer::Auto)).await;
        assert!(served.is_ok() && called.is_ok(), "{:?} {:?}", served.err(), called.err());
    }
}

#[tokio::test]
async fn every_list_with_a_ca_s_name_counts_in_any_order_and_with_any_of_its_keys() {
    let (ours, theirs) = (ca(), Ca::generate("cluster.local").expect("a CA of the same name"));
    let (web, orders, foreign) = (issue(&ours, WEB), issue(&ours, ORDERS), issue(&theirs, WEB));
    let bundle = [ours.certificate_pem(), theirs.certificate_pem()].concat();
    let pem = ours.issue(&id(ORDERS), &[], HOUR).expect("issued");
    let both = Credentials::from_pem(pem.certificate.as_bytes(), pem.key.as_bytes(), bundle.as_bytes());
    let lists = [revoking(&ours, &orders), revoking(&ours, &web), revoking(&theirs, &foreign)].concat();
    let server = serve(&with(&both.expect("usable"), &lists));
    let trusting = |own: &Credentials| Credentials { roots: orders.roots.clone(), ..own.clone() };
    for caller in [&web, &trusting(&foreign)] {
        let (served, _) = shake(server.clone(), &client(caller, &mutual(&[]), AlpnOffer::Auto)).await;
        refused(served, TlsErrorKind::Certificate, &serial_text(caller));
    }
}

#[test]
fn no_revocation_list_is_left_out_however_the_lists_are_joined() {
    let ca = ca();
    let (web, orders) = (issue(&ca, WEB), issue(&ca, ORDERS));
    let (one, two) = (revoking(&ca, &web), revoking(&ca, &orders));
    let loaded = |text: String| orders.clone().with_crl("ca.crl".as_ref(), text.as_bytes(), unix_now());
    for text in [format!("{one}{two}"), format!("\u{feff}{one}{two}"), format!("# both\n{one}\n{two}")] {
        assert_eq!(loaded(text).expect("lists").revocations.len(), 2);
    }
    for text in [
        format!("{}{two}", one.trim_end()),
        format!("{one}  {two}"),
        format!("{one}\u{feff}{two}"),
        format!("{one}{}", two.replace("X509 CRL", "CRL")),
    ] {
        let refusal = loaded(text).expect_err("one list would be left out").to_string();
        assert!(refusal.contains("ca.crl") && refusal.contains("1 of 2 blocks `X509 CRL`"), "{refusal}");
    }
}

#[tokio::test]
async fn an_outdated_list_refuses_the_revoked_certificates_and_no_others() {
    let ca = ca();
    let (web, other, orders) = (issue(&ca, WEB), issue(&ca, OTHER), issue(&ca, ORDERS));
    let yesterday = OffsetDateTime::now_utc() - Duration::from_secs(24 * 3600);
    let own = with(&orders, &ca.revoke(&[serial(&web)], yesterday).expect("a list"));
    assert!(own.revocations[0].is_outdated(unix_now()));
    let server = serve(&own);
    let (served, _) = shake(server.clone(), &client(&web, &mutual(&[]), AlpnOffer::Auto)).await;
    refused(served, TlsErrorKind::Certificate, "revoked");
    let (served, _) = shake(server, &client(&other, &mutual(&[]), AlpnOffer::Auto)).await;
    assert_eq!(served.expect("admitted").0.id, id(OTHER));
}

#[tokio::test]
async fn a_session_does_not_resume_past_a_swap_that_revokes_its_certificate() {
    use HandshakeKind::{Full, Resumed};
    let ca = ca();
    let (web, orders) = (issue(&ca, WEB), issue(&ca, ORDERS));
    let (before, after) = (serve(&orders), serve(&with(&orders, &revoking(&ca, &web))));
    let caller = client(&web, &mutual(&[]), AlpnOffer::Auto);
    for kind in [Full, Resumed] {
        let (_, called) = shake(before.clone(), &caller).await;
        assert_eq!(called.expect("connected").0.get_ref().1.handshake_kind(), Some(kind));
    }
    let (served, _) = shake(after, &caller).await;
    refused(served, TlsErrorKind::Certificate, "revoked");

    // the other direction: the caller gets a list that revokes the server, with which it has sessions
    let swapped = client(&with(&web, &revoking(&ca, &orders)), &mutual(&[]), AlpnOffer::Auto);
    let (_, called) = shake(before, &swapped).await;
    refused(called, TlsErrorKind::Certificate, "revoked");
}

#[tokio::test]
async fn other_cas_of_the_same_name_in_the_chain_do_not_hide_a_revoked_certificate() {
    let ca = ca();
    let (web, orders) = (issue(&ca, WEB), issue(&ca, ORDERS));
    let server = serve(&with(&orders, &revoking(&ca, &web)));
    let mut chain = web.chain().to_vec();
    for _ in 0..3 {
        let namesake = issue(&self::ca(), WEB);
        chain.push(namesake.bundle[0].clone());
    }
    let key = Arc::new(rustls::sign::CertifiedKey::new(chain, web.key.key.clone()));
    let crowd = Credentials { key, ..web };
    let (served, _) = shake(server, &client(&crowd, &mutual(&[]), AlpnOffer::Auto)).await;
    refused(served, TlsErrorKind::Certificate, "revoked");
}

/// A root, an intermediate below it, and a workload below that.
struct Chain {
    root: Issuer<'static, KeyPair>,
    intermediate_serial: Vec<u8>,
    own: Credentials,
}

pub(super) fn authority(name: &str, serial: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from(serial));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn chain() -> Chain {
    let key = || KeyPair::generate().expect("a key");
    let (root_key, middle_key, leaf_key) = (key(), key(), key());
    let (root, middle) = (authority("root", 1), authority("middle", 0x0b_ad));
    let root_pem = root.self_signed(&root_key).expect("signed").pem();
    let root = Issuer::new(root, root_key);
    let middle_pem = middle.signed_by(&middle_key, &root).expect("signed").pem();
    let middle = Issuer::new(middle, middle_key);
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::URI(WEB.try_into().expect("an ID"))];
    let leaf_pem = leaf.signed_by(&leaf_key, &middle).expect("signed").pem();
    let (certificates, key) = ([leaf_pem, middle_pem].concat(), leaf_key.serialize_pem());
    let own = Credentials::from_pem(certificates.as_bytes(), key.as_bytes(), root_pem.as_bytes());
    Chain { root, intermediate_serial: vec![0x0b, 0xad], own: own.expect("usable") }
}

#[tokio::test]
async fn a_revoked_intermediate_makes_its_workloads_certificates_refused() {
    let Chain { root, intermediate_serial, own } = chain();
    let now = OffsetDateTime::now_utc();
    let revoked = RevokedCertParams {
        serial_number: SerialNumber::from_slice(&intermediate_serial),
        revocation_time: now,
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: now,
        next_update: tomorrow(),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&root).expect("signed");
    let caller = client(&own, &mutual(&[]), AlpnOffer::Auto);
    let (served, _) = shake(serve(&own), &caller).await;
    assert_eq!(served.expect("admitted").0.id, id(WEB));

    for bytes in [list.pem().expect("PEM").into_bytes(), list.der().to_vec()] {
        let own = own.clone().with_crl("ca.crl".as_ref(), &bytes, unix_now()).expect("a list");
        let (served, _) = shake(serve(&own), &caller).await;
        refused(served, TlsErrorKind::Certificate, "the list of CN=root names serial 0b:ad");
    }
}

#[tokio::test]
async fn a10_a_certificate_that_may_sign_others_is_admitted_on_neither_side_and_not_loaded() {
    let key = KeyPair::generate().expect("a key");
    let root = authority("root", 1);
    let bundle = root.self_signed(&key).expect("signed").pem();
    let root = Issuer::new(root, key);
    let leaf = |usages: Vec<KeyUsagePurpose>| {
        let (mut params, key) = (CertificateParams::default(), KeyPair::generate().expect("a key"));
        params.subject_alt_names = vec![SanType::URI(WEB.try_into().expect("an ID"))];
        params.key_usages = usages;
        let certificate = params.signed_by(&key, &root).expect("signed").pem();
        IssuedPem { certificate, key: key.serialize_pem(), bundle: bundle.clone() }
    };
    let good = leaf(vec![KeyUsagePurpose::DigitalSignature]).credentials().expect("usable");
    let signer = leaf(vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign]);
    let refusal = signer.credentials().expect_err("must not be loaded").to_string();
    assert!(refusal.contains("allows it to sign"), "{refusal}");

    let bad = with_key(good.clone(), &signer);
    let (served, _) = shake(serve(&good), &client(&bad, &mutual(&[]), AlpnOffer::Auto)).await;
    refused(served, TlsErrorKind::PeerIdentityMismatch, "allows it to sign");
    let (_, called) = shake(serve(&bad), &client(&good, &mutual(&[]), AlpnOffer::Auto)).await;
    refused(called, TlsErrorKind::PeerIdentityMismatch, "allows it to sign");
    let (served, called) = shake(serve(&good), &client(&good, &mutual(&[]), AlpnOffer::Auto)).await;
    assert!(served.is_ok() && called.is_ok());
}

#[tokio::test]
async fn no_server_is_called_while_our_certificate_is_missing() {
    let (near, mut far) = duplex(1024);
    let waiting = ClientTls::waiting(&"certs/tls.crt is not there");
    assert!(waiting.waits_for().is_some());
    let called = waiting.connect(near, Purpose::Http).await;
    refused(called, TlsErrorKind::NotReady, "certificates are missing: certs/tls.crt is not there");
    assert_eq!(far.read(&mut [0; 1]).await.ok(), Some(0), "not a byte was sent");
}
