//! Workloads of other trust domains: each is verified with the bundle of its own trust domain alone, on both sides.

use super::*;

const PARTNER: &str = "spiffe://partner.example/ns/shop/sa/billing";

/// Two trust domains, and a workload of each that has the bundle of the other.
struct Two {
    ours: Ca,
    theirs: Ca,
    web: Credentials,
    partner: Credentials,
}

fn federated(own: Credentials, domain: &str, ca: &Ca) -> Credentials {
    own.federated_with(domain, "bundle".as_ref(), ca.certificate_pem().as_bytes()).expect("a bundle")
}

fn two() -> Two {
    let (ours, theirs) = (ca(), Ca::generate("partner.example").expect("a CA"));
    let web = federated(issue(&ours, WEB), "partner.example", &theirs);
    let partner = federated(issue(&theirs, PARTNER), "cluster.local", &ours);
    Two { ours, theirs, web, partner }
}

/// The credentials of `own` with the certificate and the key of another workload.
fn showing(own: &Credentials, other: &Credentials) -> Credentials {
    Credentials { key: other.key.clone(), ..own.clone() }
}

/// A certificate for any identity by any CA.
fn by(ca: &Ca, uri: &str) -> Credentials {
    let request = CertificateRequest {
        uris: vec![uri.to_owned()],
        hosts: Vec::new(),
        not_before: OffsetDateTime::UNIX_EPOCH,
        not_after: tomorrow(),
    };
    with_key(issue(&super::ca(), WEB), &ca.sign(&request).expect("signed"))
}

#[tokio::test]
async fn workloads_of_two_federated_trust_domains_admit_each_other_in_both_directions() {
    let Two { web, partner, .. } = two();
    let caller = client(&web, &mutual(&[PARTNER]), AlpnOffer::Auto);
    let (served, called) = shake(serve(&partner), &caller).await;
    assert_eq!(served.expect("admitted").0.id, id(WEB));
    called.map(drop).expect("connected");

    let caller = client(&partner, &mutual(&[WEB]), AlpnOffer::Auto);
    let (served, called) = shake(serve(&web), &caller).await;
    assert_eq!(served.expect("admitted").0.id, id(PARTNER));
    called.map(drop).expect("connected");
}

#[tokio::test]
async fn a_ca_of_one_trust_domain_cannot_vouch_for_an_identity_of_another() {
    let Two { ours, theirs, web, partner } = two();
    let (our_id_by_them, their_id_by_us) = (by(&theirs, WEB), by(&ours, PARTNER));
    for (judge, forged, expected) in [
        (&web, &our_id_by_them, WEB),
        (&web, &their_id_by_us, PARTNER),
        (&partner, &our_id_by_them, WEB),
        (&partner, &their_id_by_us, PARTNER),
    ] {
        let forged = showing(&web, forged);
        let caller = client(&showing(judge, &forged), &mutual(&[]), AlpnOffer::Auto);
        let (served, _) = shake(serve(judge), &caller).await;
        refused(served, TlsErrorKind::Certificate, "unknown issuer");
        let (_, called) = shake(serve(&forged), &client(judge, &mutual(&[expected]), AlpnOffer::Auto)).await;
        refused(called, TlsErrorKind::Certificate, "unknown issuer");
    }
}

#[tokio::test]
async fn a_ca_of_one_trust_domain_cannot_vouch_as_an_intermediate_of_another_or_by_a_longer_chain() {
    let Two { ours, theirs, web, .. } = two();
    for (forged, bundle) in [(by(&theirs, WEB), &theirs), (by(&ours, PARTNER), &ours)] {
        use rustls::pki_types::CertificateDer;
        use rustls::pki_types::pem::PemObject;
        let root = CertificateDer::from_pem_slice(bundle.certificate_pem().as_bytes()).expect("PEM");
        let chain = vec![forged.chain()[0].clone(), root];
        let key = Arc::new(rustls::sign::CertifiedKey::new(chain, forged.key.key.clone()));
        let forged = Credentials { key, ..web.clone() };
        let (_, called) =
            shake(serve(&forged), &client(&web, &mutual(&[WEB, PARTNER]), AlpnOffer::Auto)).await;
        refused(called, TlsErrorKind::Certificate, "unknown issuer");
    }
}

#[tokio::test]
async fn without_federation_a_workload_of_another_trust_domain_is_refused() {
    let Two { ours, theirs, web, .. } = two();
    let stranger = showing(&web, &by(&theirs, "spiffe://third.example/web"));
    let (served, _) = shake(serve(&web), &client(&stranger, &mutual(&[]), AlpnOffer::Auto)).await;
    refused(served, TlsErrorKind::Certificate, "unknown issuer");
    let ours_of_third = showing(&web, &by(&ours, "spiffe://third.example/web"));
    let (served, _) = shake(serve(&web), &client(&ours_of_third, &mutual(&[]), AlpnOffer::Auto)).await;
    refused(
        served,
        TlsErrorKind::PeerIdentityMismatch,
        "one of the trust domains cluster.local, partner.example",
    );

    let refusal =
        ClientTls::new(Some(&issue(&ours, WEB)), &mutual(&[PARTNER]), &POLICY, None, AlpnOffer::Auto);
    let refusal = refusal.expect_err("no bundle").to_string();
    assert!(refusal.contains("federation: { partner.example: FILE }"), "{refusal}");
}

#[tokio::test]
async fn mutual_without_identities_stays_within_the_own_trust_domain() {
    let Two { web, partner, .. } = two();
    let (_, called) = shake(serve(&partner), &client(&web, &mutual(&[]), AlpnOffer::Auto)).await;
    refused(
        called,
        TlsErrorKind::PeerIdentityMismatch,
        "expected any identity of the trust domain \"cluster.local\"",
    );
}

#[tokio::test]
async fn a_revoked_workload_of_a_federated_trust_domain_is_refused() {
    let Two { theirs, web, partner, .. } = two();
    let caller = client(&partner, &mutual(&[WEB]), AlpnOffer::Auto);
    let (served, _) =
        shake(serve(&rotation::with(&web, &rotation::revoking(&theirs, &partner))), &caller).await;
    refused(served, TlsErrorKind::Certificate, "revoked");
}

#[test]
fn the_own_trust_domain_and_a_bundle_of_no_cas_are_refused_as_federation() {
    let Two { theirs, web, partner, .. } = two();
    let with = |domain: &str, pem: &str| {
        let refused = web.clone().federated_with(domain, "bundle".as_ref(), pem.as_bytes());
        refused.expect_err("must be refused").to_string()
    };
    let leaf = theirs.issue(&partner.id, &[], HOUR).expect("issued").certificate;
    assert!(with("cluster.local", theirs.certificate_pem()).contains("the own trust domain"));
    assert!(with("partner.example", "").contains("is empty"));
    assert!(with("partner.example", &leaf).contains("is not a CA's"));
}

#[tokio::test]
async fn a_session_across_trust_domains_resumes_and_not_past_a_swap_that_refuses_the_peer() {
    use HandshakeKind::{Full, Resumed};
    let Two { ours, theirs, web, partner } = two();
    let caller = client(&partner, &mutual(&[WEB]), AlpnOffer::Auto);
    let before = serve(&web);
    for kind in [Full, Resumed] {
        let (served, called) = shake(before.clone(), &caller).await;
        assert_eq!(served.expect("admitted").0.id, id(PARTNER));
        assert_eq!(called.expect("connected").0.get_ref().1.handshake_kind(), Some(kind));
    }
    // the server no longer has the bundle, has one with another key, or has a list that revokes the caller
    let namesake = Ca::generate("partner.example").expect("a CA");
    let another_key = federated(issue(&ours, WEB), "partner.example", &namesake);
    let revoking = rotation::with(&web, &rotation::revoking(&theirs, &partner));
    for (swapped, words) in
        [(issue(&ours, WEB), "unknown issuer"), (another_key, "another key"), (revoking, "revoked")]
    {
        let (served, _) = shake(serve(&swapped), &caller).await;
        refused(served, TlsErrorKind::Certificate, words);
    }

    // the other direction: the caller's new set has a list that revokes the server
    let swapped = rotation::with(&partner, &rotation::revoking(&ours, &web));
    let (_, called) = shake(before, &client(&swapped, &mutual(&[WEB]), AlpnOffer::Auto)).await;
    refused(called, TlsErrorKind::Certificate, "revoked");
}

/// The CA of another trust domain may have any name, also that of our CA. Its list names serials of its own alone.
#[tokio::test]
async fn a_revocation_list_counts_for_its_own_ca_alone_among_cas_of_one_name_in_two_trust_domains() {
    let ours = ca();
    let (key, mut namesake) = (rcgen::KeyPair::generate().expect("a key"), rotation::authority("", 2));
    namesake.distinguished_name = rcgen::DistinguishedName::new();
    namesake.distinguished_name.push(rcgen::DnType::CommonName, "Pillion CA of cluster.local");
    let pem = namesake.self_signed(&key).expect("signed").pem();
    let theirs = Ca::from_pem(&pem, &key.serialize_pem()).expect("a CA");
    let web = federated(issue(&ours, WEB), "partner.example", &theirs);
    let (peer, partner) = (issue(&ours, OTHER), issue(&theirs, PARTNER));
    for (issuer, revoked, refuses) in [
        (&theirs, &partner, Some(PARTNER)),
        (&theirs, &peer, None),
        (&ours, &peer, Some(OTHER)),
        (&ours, &partner, None),
    ] {
        let server = serve(&rotation::with(&web, &rotation::revoking(issuer, revoked)));
        for caller in [&peer, &partner] {
            let calling = client(&showing(&web, caller), &mutual(&[]), AlpnOffer::Auto);
            let (served, _) = shake(server.clone(), &calling).await;
            match refuses == Some(caller.id.as_str()) {
                true => refused(served, TlsErrorKind::Certificate, "revoked"),
                false => assert_eq!(served.expect("admitted").0.id, caller.id),
            }
        }
    }
}
