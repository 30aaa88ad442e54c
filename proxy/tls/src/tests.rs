//! Handshakes over in-memory streams: which peers are admitted or refused, and what each side learns.

mod corpus;
mod federation;
mod known;
mod rotation;
mod simple;

use std::sync::Arc;
use std::time::Duration;

use pillion_model::cluster::UpstreamTls;
use pillion_model::identity::{TlsPolicy, TlsVersion};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::UnixTime;
use rustls::{
    CertificateError, ClientConfig, NamedGroup, OtherError, ServerConfig, SupportedProtocolVersion,
};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::admission::ClientStream;
use super::client::{AlpnOffer, ClientTls, Purpose};
use super::server::{Server, accept, server_config};
use super::*;
use crate::identity::credentials::Credentials;
use crate::identity::issue::{Ca, CertificateRequest, IssuedPem};
use pillion_testkit::Scratch;

const WEB: &str = "spiffe://cluster.local/ns/default/sa/web";
const ORDERS: &str = "spiffe://cluster.local/ns/shop/sa/orders";
const OTHER: &str = "spiffe://cluster.local/ns/shop/sa/other";
const POLICY: TlsPolicy = TlsPolicy { min_version: TlsVersion::Tls12, post_quantum: true };
const HOUR: Duration = Duration::from_secs(3600);

fn id(text: &str) -> SpiffeId {
    text.parse().expect("a SPIFFE ID")
}

fn ca() -> Ca {
    Ca::generate("cluster.local").expect("a CA")
}

fn issue(ca: &Ca, workload: &str) -> Credentials {
    let hosts = ["orders.shop".to_owned()];
    ca.issue(&id(workload), &hosts, HOUR).expect("issued").credentials().expect("usable")
}

/// A certificate that no sidecar would load, but a hostile peer may present.
fn forge(ca: &Ca, uris: &[&str], not_after: OffsetDateTime) -> Credentials {
    let pem = ca
        .sign(&CertificateRequest {
            uris: uris.iter().map(ToString::to_string).collect(),
            hosts: Vec::new(),
            not_before: OffsetDateTime::UNIX_EPOCH,
            not_after,
        })
        .expect("signed");
    with_key(issue(ca, WEB), &pem)
}

fn with_key(credentials: Credentials, pem: &IssuedPem) -> Credentials {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let chain = vec![CertificateDer::from_pem_slice(pem.certificate.as_bytes()).expect("PEM")];
    let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).expect("PEM");
    let key = rustls::sign::CertifiedKey::from_der(chain, key, &provider::any()).expect("a pair");
    Credentials { key: Arc::new(key), ..credentials }
}

fn tomorrow() -> OffsetDateTime {
    OffsetDateTime::now_utc() + Duration::from_secs(24 * 3600)
}

fn serve(credentials: &Credentials) -> Arc<ServerConfig> {
    server_config(credentials, &POLICY).expect("a server config")
}

fn mutual(identities: &[&str]) -> UpstreamTls {
    let identities = identities.iter().map(|text| id(text)).collect();
    UpstreamTls::Mutual { identities, sni: None, trust_bundle: None }
}

/// Simple TLS that trusts the hosts of this CA, with its file.
fn simple(ca: &Ca, sni: Option<&str>) -> (Scratch, UpstreamTls) {
    let scratch = Scratch::new();
    let trust_bundle = Some(scratch.write("ca.crt", ca.certificate_pem()));
    (scratch, UpstreamTls::Simple { sni: sni.map(str::to_owned), trust_bundle, own: None })
}

fn client(credentials: &Credentials, tls: &UpstreamTls, alpn: AlpnOffer) -> ClientTls {
    let tls = ClientTls::new(Some(credentials), tls, &POLICY, Some("orders.shop"), alpn);
    tls.expect("a client config").expect("not plaintext")
}

type Served = Result<(Arc<Peer>, Option<Alpn>), TlsError>;
type Called = Result<(ClientStream<DuplexStream>, Option<Alpn>), TlsError>;

/// One handshake, and one byte from the server: with TLS 1.3 only that byte tells the client that it was admitted.
async fn shake(server: Arc<ServerConfig>, client: &ClientTls) -> (Served, Called) {
    let (near, far) = duplex(64 * 1024);
    let serving = async {
        let (mut stream, peer, alpn) = accept(server, far).await?;
        stream.write_all(b"!").await.expect("the client is there");
        Ok((peer, alpn))
    };
    let calling = async {
        let (mut stream, alpn) = client.connect(near, Purpose::Http).await?;
        stream.read_u8().await.map_err(|error| TlsError::from_io(&error))?;
        Ok((stream, alpn))
    };
    tokio::join!(serving, calling)
}

fn refused<T>(result: Result<T, TlsError>, kind: TlsErrorKind, words: &str) {
    let error = result.map(drop).expect_err("must be refused");
    assert_eq!(error.kind, kind, "{error}");
    assert!(error.detail.contains(words), "{error}");
}

#[tokio::test]
async fn the_error_for_a_wrong_identity_names_it_and_the_expected_ones() {
    let ca = ca();
    let caller = client(&issue(&ca, WEB), &mutual(&[ORDERS, OTHER]), AlpnOffer::Auto);
    let (_, called) = shake(serve(&issue(&ca, WEB)), &caller).await;
    let words = format!("the server is {WEB}, expected one of {ORDERS}, {OTHER}");
    refused(called, TlsErrorKind::PeerIdentityMismatch, &words);
}

#[tokio::test]
async fn each_side_refuses_a_certificate_of_an_unknown_ca_and_the_other_side_gets_an_alert() {
    let (ours, theirs) = (ca(), ca());
    let caller = client(&issue(&theirs, WEB), &mutual(&[]), AlpnOffer::Auto);
    let (served, called) = shake(serve(&issue(&ours, ORDERS)), &caller).await;
    let error = called.map(drop).expect_err("an unknown CA");
    assert_eq!(error.kind, TlsErrorKind::Certificate, "{error}");
    refused(served, TlsErrorKind::RefusedByPeer, "the peer refused");

    let trusting = Credentials { roots: issue(&ours, WEB).roots, ..issue(&theirs, WEB) };
    let caller = client(&trusting, &mutual(&[]), AlpnOffer::Auto);
    let (served, called) = shake(serve(&issue(&ours, ORDERS)), &caller).await;
    assert_eq!(served.map(drop).expect_err("an unknown CA").kind, TlsErrorKind::Certificate);
    refused(called, TlsErrorKind::RefusedByPeer, "the peer refused");
}

#[tokio::test]
async fn a_ca_of_another_name_is_an_unknown_issuer() {
    let elsewhere = Ca::generate("elsewhere.test").expect("a CA");
    let stranger = issue_of(&elsewhere, "spiffe://elsewhere.test/web");
    let caller = client(&issue(&ca(), WEB), &mutual(&[]), AlpnOffer::Auto);
    let (_, called) = shake(serve(&stranger), &caller).await;
    refused(called, TlsErrorKind::Certificate, "unknown issuer");
}

fn issue_of(ca: &Ca, workload: &str) -> Credentials {
    ca.issue(&id(workload), &[], HOUR).expect("issued").credentials().expect("usable")
}

#[tokio::test]
async fn each_side_names_what_is_wrong_with_a_certificate() {
    use TlsErrorKind::{Certificate, PeerIdentityMismatch};
    let ca = ca();
    let foreign = "spiffe://elsewhere.test/web";
    let past = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(86_400);
    let table: [(&[&str], _, _, _); 6] = [
        (&[WEB], past, Certificate, "expired at 1970-01-02T00:00:00Z"),
        (&[WEB, OTHER], tomorrow(), PeerIdentityMismatch, "2 URIs"),
        (&[], tomorrow(), PeerIdentityMismatch, "no SPIFFE ID"),
        (&["https://web.shop/"], tomorrow(), PeerIdentityMismatch, "not a SPIFFE ID"),
        (&["spiffe://cluster.local"], tomorrow(), PeerIdentityMismatch, "has no path"),
        (
            &[foreign],
            tomorrow(),
            PeerIdentityMismatch,
            "expected any identity of the trust domain \"cluster.local\"",
        ),
    ];
    for (uris, not_after, kind, words) in table {
        let (good, bad) = (issue(&ca, WEB), forge(&ca, uris, not_after));
        let (served, _) = shake(serve(&good), &client(&bad, &mutual(&[]), AlpnOffer::Auto)).await;
        refused(served, kind, words);
        let (_, called) = shake(serve(&bad), &client(&good, &mutual(&[]), AlpnOffer::Auto)).await;
        refused(called, kind, words);
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused_with_the_reason() {
    let ca = ca();
    let (_scratch, simple) = simple(&ca, None);
    let caller = client(&issue(&ca, WEB), &simple, AlpnOffer::Auto);
    let (served, called) = shake(serve(&issue(&ca, ORDERS)), &caller).await;
    refused(served, TlsErrorKind::Certificate, "presented no certificate");
    refused(called, TlsErrorKind::RefusedByPeer, "our certificate: none was presented; it requires one");
}

#[tokio::test]
async fn simple_tls_refuses_a_server_with_another_host_name() {
    let ca = ca();
    let (_scratch, simple) = simple(&ca, Some("billing.shop"));
    let caller = client(&issue(&ca, WEB), &simple, AlpnOffer::Auto);
    let (_, called) = shake(serve(&issue(&ca, ORDERS)), &caller).await;
    refused(called, TlsErrorKind::PeerIdentityMismatch, "billing.shop");
}

#[tokio::test]
async fn a_client_that_does_not_speak_tls_is_named_as_such() {
    let (mut near, far) = duplex(1024);
    near.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("room");
    let served = accept(serve(&issue(&ca(), ORDERS)), far).await;
    refused(served, TlsErrorKind::Handshake, "does not speak TLS");
}

#[tokio::test]
async fn a_peer_that_closes_during_the_handshake_is_reported_as_closed() {
    let (near, far) = duplex(1024);
    drop(near);
    let served = accept(serve(&issue(&ca(), ORDERS)), far).await;
    refused(served, TlsErrorKind::Closed, "ended in the TLS handshake");
}

/// A client that speaks TLS 1.2 only, without ALPN. Our own clients always speak TLS 1.3 as well.
fn old_client(own: &Credentials) -> TlsConnector {
    foreign_client(own, provider::provider(&POLICY), &rustls::version::TLS12)
}

/// A client of one TLS version, without ALPN.
fn foreign_client(
    own: &Credentials,
    provider: Arc<CryptoProvider>,
    version: &'static SupportedProtocolVersion,
) -> TlsConnector {
    let expected = verify::Expected::TrustDomains(vec!["cluster.local".to_owned()]);
    let verifier = verify::ServerVerifier::new(verify::Trust::of(own), expected, own, &provider);
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("it is built in")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(own.key.clone())));
    TlsConnector::from(Arc::new(config))
}

#[tokio::test]
async fn tls_1_2_is_served_by_default_and_refused_where_1_3_is_the_minimum() {
    let ca = ca();
    let name = rustls::pki_types::ServerName::try_from("orders.shop").expect("a name");
    for (min_version, admitted) in [(TlsVersion::Tls12, true), (TlsVersion::Tls13, false)] {
        let policy = TlsPolicy { min_version, ..POLICY };
        let config = server_config(&issue(&ca, ORDERS), &policy).expect("a server config");
        let (near, far) = duplex(64 * 1024);
        let connector = old_client(&issue(&ca, WEB));
        let (served, called) = tokio::join!(accept(config, far), connector.connect(name.clone(), near));
        match served {
            Ok((_, peer, alpn)) => assert_eq!((peer.id.as_str(), alpn, admitted), (WEB, None, true)),
            error => {
                assert!(!admitted);
                refused(error, TlsErrorKind::Handshake, "tls.min_version");
                let error = called.map_err(|error| TlsError::from_io(&error));
                refused(error, TlsErrorKind::RefusedByPeer, "no TLS version in common");
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_prefers_aes_256_is_served_with_aes_128() {
    use rustls::CipherSuite as C;
    let (ca, name) = (ca(), rustls::pki_types::ServerName::try_from("orders.shop").expect("a name"));
    let server = serve(&issue(&ca, ORDERS));
    for (version, suite) in [
        (&rustls::version::TLS13, C::TLS13_AES_128_GCM_SHA256),
        (&rustls::version::TLS12, C::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ] {
        let connector = foreign_client(&issue(&ca, WEB), Arc::new(provider::any()), version);
        let (near, far) = duplex(64 * 1024);
        let (served, called) =
            tokio::join!(accept(server.clone(), far), connector.connect(name.clone(), near));
        let (served, _called) = (served.expect("admitted").0, called.expect("connected"));
        let agreed = served.get_ref().1.negotiated_cipher_suite().expect("agreed");
        assert_eq!(agreed.suite(), suite);
    }
}

#[tokio::test]
async fn expected_identities_are_admitted_and_each_offer_agrees_on_its_protocol() {
    let ca = ca();
    let (web, orders) = (issue(&ca, WEB), issue(&ca, ORDERS));
    let server = serve(&orders);
    for (offer, alpn) in [
        (AlpnOffer::Auto, Alpn::PillionH2),
        (AlpnOffer::Http2, Alpn::PillionH2),
        (AlpnOffer::Http1, Alpn::PillionHttp1),
    ] {
        let caller = client(&web, &mutual(&[ORDERS]), offer);
        let (served, called) = shake(server.clone(), &caller).await;
        let (peer, served_alpn) = served.expect("admitted");
        let (_, called_alpn) = called.expect("connected");
        assert_eq!((served_alpn, called_alpn), (Some(alpn), Some(alpn)));
        assert_eq!((&peer.id, peer.certificate_sha256), (&id(WEB), sha256(&web.chain()[0])));
    }
}

#[tokio::test]
async fn simple_tls_verifies_the_host_name_and_offers_no_sidecar_protocol() {
    let ca = ca();
    let orders = issue(&ca, ORDERS);
    let mut config = ServerConfig::builder_with_provider(provider::provider(&POLICY))
        .with_protocol_versions(provider::versions(&POLICY))
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(orders.key.clone())));
    config.alpn_protocols = wire_names(&Alpn::ALL);
    let (_scratch, simple) = simple(&ca, None);
    let caller = client(&issue(&ca, WEB), &simple, AlpnOffer::Auto);
    let (near, far) = duplex(64 * 1024);
    let (served, called) =
        tokio::join!(TlsAcceptor::from(Arc::new(config)).accept(far), caller.connect(near, Purpose::Http));
    let served = served.expect("served");
    assert_eq!(served.get_ref().1.server_name(), Some("orders.shop"));
    assert_eq!(called.expect("connected").1, Some(Alpn::H2));
}

#[tokio::test]
async fn key_exchange_is_post_quantum_only_when_the_policy_wants_it() {
    let ca = ca();
    for (post_quantum, group) in [(true, NamedGroup::X25519MLKEM768), (false, NamedGroup::X25519)] {
        let policy = TlsPolicy { post_quantum, ..POLICY };
        let server = server_config(&issue(&ca, ORDERS), &policy).expect("a server config");
        let caller = ClientTls::new(Some(&issue(&ca, WEB)), &mutual(&[]), &policy, None, AlpnOffer::Auto);
        let caller = caller.expect("a client config").expect("not plaintext");
        let (_, called) = shake(server, &caller).await;
        let (stream, _) = called.expect("connected");
        let agreed = stream.get_ref().1.negotiated_key_exchange_group().expect("agreed");
        assert_eq!(agreed.name(), group);
    }
}

#[tokio::test]
async fn resumed_sessions_know_the_peer_and_end_with_their_config() {
    use HandshakeKind::{Full, Resumed};
    let ca = ca();
    let orders = issue(&ca, ORDERS);
    let (old, new) = (serve(&orders), serve(&orders));
    let caller = client(&issue(&ca, WEB), &mutual(&[ORDERS]), AlpnOffer::Auto);
    for (server, kind) in [(&old, Full), (&old, Resumed), (&new, Full), (&new, Resumed)] {
        let (served, called) = shake(server.clone(), &caller).await;
        assert_eq!(served.expect("admitted").0.id, id(WEB));
        assert_eq!(called.expect("connected").0.get_ref().1.handshake_kind(), Some(kind));
    }
}

#[tokio::test]
async fn each_connection_leaves_one_ticket_which_the_next_connection_uses() {
    let (ca, mut kinds) = (ca(), Vec::new());
    let (server, caller) =
        (serve(&issue(&ca, ORDERS)), client(&issue(&ca, WEB), &mutual(&[ORDERS]), AlpnOffer::Auto));
    for _ in 0..4 {
        let (stream, _) = shake(server.clone(), &caller).await.1.expect("connected");
        let session = stream.get_ref().1;
        assert_eq!(session.tls13_tickets_received(), 1);
        kinds.push(session.handshake_kind().expect("known"));
    }
    use HandshakeKind::{Full, Resumed};
    assert_eq!(kinds, [Full, Resumed, Resumed, Resumed]);
}

#[test]
fn a_resumed_peer_whose_certificate_has_expired_since_is_refused() {
    let web = issue(&ca(), WEB);
    let at = |now: i64| UnixTime::since_unix_epoch(Duration::from_secs(now.try_into().expect("a time")));
    let peer = |now| Peer::of(Some(web.chain()), at(now));
    assert_eq!(peer(web.not_after).map(|peer| peer.id), Ok(id(WEB)));
    refused(peer(web.not_after + 1), TlsErrorKind::Certificate, "expired at");
    refused(Peer::of(None, at(0)), TlsErrorKind::Certificate, "no certificate");

    let resumed = |now| recheck_resumed(Some(HandshakeKind::Resumed), Some(web.chain()), now);
    assert_eq!(resumed(web.not_after), Ok(()));
    refused(resumed(web.not_after + 1), TlsErrorKind::Certificate, "expired at");
}

/// What a client's stream knows of its server: nothing yet, that the server accepted the client, or why it refused it.
fn watched(stream: &ClientStream<DuplexStream>) -> Arc<std::sync::OnceLock<Option<TlsError>>> {
    let outcome = Arc::new(std::sync::OnceLock::new());
    let heir = outcome.clone();
    stream.admission().when_known(move |refused| heir.set(refused.cloned()).expect("reported once"));
    outcome
}

#[tokio::test]
async fn c3_an_alert_that_has_arrived_is_the_reported_reason_even_if_a_write_fails_first() {
    let ca = ca();
    let past = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(86_400);
    let caller = client(&forge(&ca, &[WEB], past), &mutual(&[]), AlpnOffer::Auto);
    let (near, far) = duplex(64 * 1024);
    let (served, called) =
        tokio::join!(accept(serve(&issue(&ca, ORDERS)), far), caller.connect(near, Purpose::Tcp));
    let refusal = served.map(drop).expect_err("expired");
    assert_eq!((refusal.cause, refusal.claimed), ("expired", Some(id(WEB))));
    let (mut stream, _) = called.expect("the handshake has ended for the client");
    let outcome = watched(&stream);
    assert_eq!((outcome.get(), stream.admission().failure()), (None, None), "nothing was read yet");
    let error = stream.write_all(b"GET / HTTP/1.1").await.expect_err("the server is gone");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
    let failure = stream.admission().failure().expect("the alert was read");
    assert!(failure.is_refusal);
    assert_eq!((failure.error.kind, failure.error.cause), (TlsErrorKind::RefusedByPeer, "expired"));
    assert_eq!(outcome.get(), Some(&Some(failure.error)));
}

#[tokio::test]
async fn c3_a_server_has_accepted_us_when_it_sends_anything_or_ends_without_a_refusal() {
    let ca = ca();
    let (web, orders) = (issue(&ca, WEB), issue(&ca, ORDERS));
    let caller = client(&web, &mutual(&[]), AlpnOffer::Auto);
    let connected = async || {
        let (near, far) = duplex(64 * 1024);
        let (served, called) = tokio::join!(accept(serve(&orders), far), caller.connect(near, Purpose::Tcp));
        let (stream, _) = called.expect("connected");
        let outcome = watched(&stream);
        assert_eq!(outcome.get(), None);
        (served.expect("admitted").0, stream, outcome)
    };
    let (mut server, mut stream, outcome) = connected().await;
    server.flush().await.expect("the client is there");
    let read = tokio::time::timeout(Duration::ZERO, stream.read_u8()).await;
    assert_eq!((read.is_err(), outcome.get()), (true, Some(&None)), "a ticket has come, and no byte");

    let (server, stream, outcome) = connected().await;
    drop((server, stream));
    assert_eq!(outcome.get(), Some(&None), "the server has not refused us");
}

#[test]
fn c3_an_alert_about_our_certificate_is_explained_in_the_error() {
    use rustls::AlertDescription as A;
    for (alert, cause) in [
        (A::CertificateExpired, "expired"),
        (A::CertificateRevoked, "revoked"),
        (A::UnknownCA, "unknown CA"),
        (A::UnsupportedCertificate, "unsupported certificate"),
        (A::BadCertificate, "bad certificate"),
        (A::CertificateRequired, "none was presented"),
    ] {
        let error = TlsError::from_rustls(&rustls::Error::AlertReceived(alert));
        assert_eq!((error.kind, error.cause), (TlsErrorKind::RefusedByPeer, cause));
        let words = format!("the peer refused our certificate: {cause}; ");
        assert!(error.detail.starts_with(&words), "{error}");
    }
}

#[test]
fn fingerprints_are_lower_case_hexadecimal_with_leading_zeros() {
    assert_eq!((hex(&[0x00, 0x0a, 0xf0, 0xff]), hex(&[])), ("000af0ff".to_owned(), String::new()));
}

#[test]
fn a_violated_name_constraint_is_explained_although_rustls_has_no_error_for_it() {
    let hidden = OtherError(Arc::new(webpki::Error::NameConstraintViolation));
    let error = TlsError::from_certificate(&CertificateError::Other(hidden));
    assert!(error.detail.contains("CAs with URI constraints do not work"), "{error}");
}

#[test]
fn a_refusal_is_one_short_line_whatever_the_names_of_a_certificate_are() {
    let expected = rustls::pki_types::ServerName::try_from("orders.shop").expect("a name");
    let presented = (0..3000).map(|number| format!("DnsName(\"{number}\n\u{1b}[31m.test\")")).collect();
    let wrong = TlsError::from_certificate(&CertificateError::NotValidForNameContext { expected, presented });
    assert!(
        wrong.detail.contains(r"0\n\u{1b}[31m.test") && wrong.detail.contains("2997 more names"),
        "{wrong}"
    );
    assert!(wrong.is_identity_mismatch() && wrong.cause == "wrong name");

    let ids = |count: usize| format!("spiffe://cluster.local/{}", "a".repeat(count));
    let root = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![rcgen::SanType::URI(ids(20_000).try_into().expect("ASCII"))];
    let long = params.self_signed(&root).expect("signed");
    let fault = Subject::read(long.der()).expect_err("no SPIFFE ID is so long");
    for error in [wrong, TlsError::identity(&fault)] {
        assert!(error.detail.chars().count() <= 1025, "{} characters", error.detail.chars().count());
        assert!(!error.detail.chars().any(char::is_control), "{error}");
    }
}

/// rustls holds the records of a message until it is whole, 64 KiB of them at most.
#[tokio::test]
async fn a_handshake_in_too_many_records_is_too_long_and_not_a_closed_connection() {
    let client = client(&issue(&ca(), WEB), &mutual(&[]), AlpnOffer::Auto);
    let (near, mut far) = duplex(64 * 1024);
    let sending = async {
        let begins = [22, 3, 3, 0, 4, 2, 0, 0xf0, 0]; // a ServerHello of 60 KiB
        let records = [&begins[..], &[22, 3, 3, 0, 1, 0].repeat(20_000)].concat();
        let _gone: std::io::Result<()> = far.write_all(&records).await;
    };
    let (called, ()) =
        tokio::join!(async move { client.connect(near, Purpose::Http).await.map(drop) }, sending);
    let error = called.expect_err("refused");
    assert_eq!((error.kind, error.cause), (TlsErrorKind::Handshake, "too long"), "{error}");
}

#[test]
fn a_client_that_cannot_be_set_up_names_what_is_missing() {
    let own = issue(&ca(), WEB);
    let (scratch, _) = simple(&ca(), None);
    let simple = |sni: Option<&str>| UpstreamTls::Simple {
        sni: sni.map(str::to_owned),
        trust_bundle: Some(scratch.path("ca.crt")),
        own: None,
    };
    let new = |own: Option<&Credentials>, tls: &UpstreamTls| {
        ClientTls::new(own, tls, &POLICY, None, AlpnOffer::Auto).map(|tls| tls.is_some())
    };
    assert!(matches!(new(None, &UpstreamTls::Off), Ok(false)));
    assert!(matches!(new(None, &mutual(&[])), Err(SetupError::NeedsIdentity)));
    assert!(matches!(new(Some(&own), &simple(None)), Err(SetupError::NeedsServerName)));
    assert!(matches!(new(Some(&own), &simple(Some("10.0.0.1"))), Err(SetupError::BadServerName(_))));
    let absent = UpstreamTls::Simple {
        sni: Some("a.test".to_owned()),
        trust_bundle: Some("absent.pem".into()),
        own: None,
    };
    let error = new(Some(&own), &absent).expect_err("no such file").to_string();
    assert!(error.contains("absent.pem"), "{error}");
}

#[test]
fn the_bundle_of_a_mutual_service_holds_cas_alone_and_that_of_a_simple_one_may_pin_a_certificate() {
    let (ca, scratch) = (ca(), Scratch::new());
    let own = issue(&ca, WEB);
    let issued = ca.issue(&id(ORDERS), &[], HOUR).expect("issued");
    scratch.write("leaf.crt", format!("{}{}", ca.certificate_pem(), issued.certificate));
    scratch.write("ca.crt", ca.certificate_pem());
    let new = |tls: &UpstreamTls| {
        let made = ClientTls::new(Some(&own), tls, &POLICY, Some("orders.shop"), AlpnOffer::Auto);
        made.map(drop).map_err(|error| error.to_string())
    };
    let mutual = |file| {
        let (identities, trust_bundle) = (vec![id(ORDERS)], Some(scratch.path(file)));
        new(&UpstreamTls::Mutual { identities, sni: None, trust_bundle })
    };
    assert_eq!(mutual("ca.crt"), Ok(()));
    let refusal = mutual("leaf.crt").expect_err("a workload's certificate must not sign");
    assert!(refusal.contains("leaf.crt is not a CA's"), "{refusal}");
    assert_eq!(
        new(&UpstreamTls::Simple { sni: None, trust_bundle: Some(scratch.path("leaf.crt")), own: None }),
        Ok(())
    );
}
