//! Clients that connect again: verified once, and judged again by everything that may have changed.

use std::sync::atomic::Ordering::Relaxed;

use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use rustls::Error;
use rustls::server::danger::ClientCertVerifier;

use super::rotation::authority;
use super::*;
use crate::server::config_with;
use crate::verify::ClientVerifier;

/// A server that counts how often it verifies a chain.
struct Watched {
    verifier: Arc<ClientVerifier>,
    config: Arc<ServerConfig>,
}

impl Watched {
    fn new(own: &Credentials) -> Self {
        let verifier = Arc::new(ClientVerifier::new(own, &provider::provider(&POLICY)));
        let config = config_with(verifier.clone(), own, &POLICY).expect("a server config");
        Self { verifier, config }
    }

    /// Serves a client that has no session to resume.
    async fn serve(&self, caller: &Credentials) -> Served {
        let caller = client(caller, &mutual(&[]), AlpnOffer::Auto);
        shake(self.config.clone(), &caller).await.0
    }

    /// How many chains were verified, and how many are remembered.
    fn counts(&self) -> (usize, usize) {
        (self.verifier.verified.load(Relaxed), self.verifier.known.len())
    }

    /// The verdict about a client's certificates at the Unix second `now`.
    fn judge(&self, caller: &Credentials, now: i64) -> Result<(), Error> {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now.try_into().expect("a time")));
        let (own, intermediates) = caller.chain().split_first().expect("a certificate");
        self.verifier.verify_client_cert(own, intermediates, now).map(drop)
    }
}

#[tokio::test]
async fn a_client_that_connects_again_is_verified_once_and_keeps_its_identity() {
    let ca = ca();
    let (web, other, server) = (issue(&ca, WEB), issue(&ca, OTHER), Watched::new(&issue(&ca, ORDERS)));
    for _ in 0..3 {
        for (caller, name) in [(&web, WEB), (&other, OTHER)] {
            let (peer, _) = server.serve(caller).await.expect("admitted");
            assert_eq!((&peer.id, peer.certificate_sha256), (&id(name), sha256(&caller.chain()[0])));
        }
    }
    assert_eq!(server.counts(), (2, 2));
}

#[tokio::test]
async fn a_tls_1_2_client_is_known_when_it_connects_again() {
    let ca = ca();
    let (web, server) = (issue(&ca, WEB), Watched::new(&issue(&ca, ORDERS)));
    let name = rustls::pki_types::ServerName::try_from("orders.shop").expect("a name");
    for _ in 0..2 {
        let (near, far) = duplex(64 * 1024);
        let connector = old_client(&web);
        let (served, _called) =
            tokio::join!(accept(server.config.clone(), far), connector.connect(name.clone(), near));
        assert_eq!(served.expect("admitted").1.id, id(WEB));
    }
    assert_eq!(server.counts(), (1, 1));
}

#[tokio::test]
async fn a_client_that_was_refused_is_refused_again_and_is_not_remembered() {
    let ca = ca();
    let past = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(86_400);
    let (orders, revoked) = (issue(&ca, ORDERS), issue(&ca, WEB));
    let server = Watched::new(&rotation::with(&orders, &rotation::revoking(&ca, &revoked)));
    let stranger = Credentials { roots: orders.roots.clone(), ..issue(&super::ca(), WEB) };
    let refused_ones = [
        forge(&ca, &[WEB], past),
        forge(&ca, &["spiffe://elsewhere.test/web"], tomorrow()),
        revoked,
        stranger,
    ];
    for _ in 0..2 {
        for caller in &refused_ones {
            assert!(server.serve(caller).await.is_err());
        }
    }
    assert_eq!(server.counts(), (8, 0));
}

#[tokio::test]
async fn a_client_without_the_key_of_a_known_certificate_is_refused() {
    let ca = ca();
    let (web, other, server) = (issue(&ca, WEB), issue(&ca, OTHER), Watched::new(&issue(&ca, ORDERS)));
    let stolen = rustls::sign::CertifiedKey::new(web.chain().to_vec(), other.key.key.clone());
    let thief = Credentials { key: Arc::new(stolen), ..web.clone() };
    for _ in 0..2 {
        assert!(server.serve(&thief).await.is_err());
    }
    assert_eq!(server.counts(), (2, 0), "the chain is good, but the key belongs to another certificate");

    server.serve(&web).await.expect("admitted");
    assert!(server.serve(&thief).await.is_err(), "although the certificate is known");
    server.serve(&web).await.expect("admitted");
    assert_eq!(server.counts(), (3, 1));
}

#[tokio::test]
async fn a_known_client_is_refused_before_and_after_its_certificate_is_valid() {
    let ca = ca();
    let (web, server) = (issue(&ca, WEB), Watched::new(&issue(&ca, ORDERS)));
    server.serve(&web).await.expect("admitted");
    assert_eq!((server.judge(&web, web.not_before), server.judge(&web, web.not_after)), (Ok(()), Ok(())));
    assert_eq!(server.counts(), (1, 1), "remembered all that time");
    let skew = i64::try_from(crate::path::CLOCK_SKEW.as_secs()).expect("a few seconds");
    assert_eq!(server.judge(&web, web.not_before - skew), Ok(()), "a clock may be behind by as much");
    for (now, word) in [(web.not_after + 1, "Expired"), (web.not_before - skew - 1, "NotValidYet")] {
        let refused = server.judge(&web, now).expect_err("must be refused").to_string();
        assert!(refused.contains(word), "{refused}");
    }
}

#[tokio::test]
async fn several_connections_of_one_client_are_judged_once_by_new_rules() {
    let ca = ca();
    let (web, orders) = (issue(&ca, WEB), issue(&ca, ORDERS));
    let (old, new) = (Watched::new(&orders), Watched::new(&orders));
    for _ in 0..3 {
        let (peer, _) = old.serve(&web).await.expect("admitted");
        assert_eq!(new.verifier.admits_still(&peer), Ok(()));
    }
    assert_eq!((old.counts(), new.counts()), ((1, 1), (1, 1)));
}

/// A workload below an intermediate that is valid for a shorter time, until the second `not_after`.
fn below_an_intermediate(not_after: OffsetDateTime) -> Credentials {
    let key = || KeyPair::generate().expect("a key");
    let (root_key, middle_key, leaf_key) = (key(), key(), key());
    let (root, mut middle) = (authority("root", 1), authority("middle", 2));
    middle.not_after = not_after;
    let bundle = root.self_signed(&root_key).expect("signed").pem();
    let root = Issuer::new(root, root_key);
    let middle_pem = middle.signed_by(&middle_key, &root).expect("signed").pem();
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::URI(WEB.try_into().expect("an ID"))];
    let leaf_pem = leaf.signed_by(&leaf_key, &Issuer::new(middle, middle_key)).expect("signed").pem();
    let (chain, key) = ([leaf_pem, middle_pem].concat(), leaf_key.serialize_pem());
    Credentials::from_pem(chain.as_bytes(), key.as_bytes(), bundle.as_bytes()).expect("usable")
}

#[tokio::test]
async fn a_known_client_is_refused_once_an_intermediate_has_expired() {
    let until = tomorrow().unix_timestamp();
    let web = below_an_intermediate(OffsetDateTime::from_unix_timestamp(until).expect("a time"));
    let server = Watched::new(&web);
    server.serve(&web).await.expect("admitted");
    assert_eq!((server.judge(&web, until), server.counts()), (Ok(()), (1, 1)));
    assert!(web.not_after > until + 1);
    let refused = server.judge(&web, until + 1).expect_err("must be refused").to_string();
    assert!(refused.contains("Expired"), "{refused}");
}

#[tokio::test]
async fn a_known_certificate_with_another_chain_is_verified_and_takes_no_further_place() {
    let web = below_an_intermediate(tomorrow());
    let server = Watched::new(&web);
    server.serve(&web).await.expect("admitted");
    let alone = web.chain()[..1].to_vec();
    let alone = rustls::sign::CertifiedKey::new(alone, web.key.key.clone());
    let alone = Credentials { key: Arc::new(alone), ..web.clone() };
    assert!(server.serve(&alone).await.is_err(), "nothing leads from it to the root");

    let more = [web.chain(), &web.bundle].concat();
    let more = rustls::sign::CertifiedKey::new(more, web.key.key.clone());
    let more = Credentials { key: Arc::new(more), ..web };
    server.serve(&more).await.expect("admitted");
    assert_eq!(server.counts(), (3, 1));
}

#[tokio::test]
async fn new_roots_and_new_lists_judge_again_the_clients_that_the_old_ones_knew() {
    let ca = ca();
    let (web, orders) = (issue(&ca, WEB), issue(&ca, ORDERS));
    let foreign = super::ca();
    let foreign_roots = Credentials { roots: issue(&foreign, ORDERS).roots, ..orders.clone() };
    let revoking = rotation::with(&orders, &rotation::revoking(&ca, &web));
    let policy = TlsPolicy { min_version: TlsVersion::Tls13, ..POLICY };
    let [old, by_roots, by_list] =
        [&orders, &foreign_roots, &revoking].map(|own| Server::new(own, &policy).expect("a server"));
    let caller = client(&web, &mutual(&[]), AlpnOffer::Auto);
    let (served, _) = shake(old.config.clone(), &caller).await;
    let (peer, _) = served.expect("admitted");
    assert_eq!(old.admits_still(&peer), Ok(()));
    for (new, words) in [(&by_roots, "unknown issuer"), (&by_list, "revoked")] {
        refused(new.admits_still(&peer), TlsErrorKind::Certificate, words);
        let (served, _) = shake(new.config.clone(), &caller).await;
        refused(served, TlsErrorKind::Certificate, words);
    }
}
