//! Servers outside the mesh: which certificates prove a host.

use rcgen::{CertificateParams, DnType, IsCa, KeyPair};

use super::*;
use crate::identity::system::Places;

/// A server that shows these certificates, and asks for none.
pub(super) fn open_server(own: &Credentials) -> Arc<ServerConfig> {
    let config = ServerConfig::builder_with_provider(provider::provider(&POLICY))
        .with_protocol_versions(provider::versions(&POLICY))
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(own.key.clone())));
    Arc::new(config)
}

pub(super) async fn call(server: Arc<ServerConfig>, caller: &ClientTls) -> Result<(), TlsError> {
    let (near, far) = duplex(64 * 1024);
    let (_, called) =
        tokio::join!(TlsAcceptor::from(server).accept(far), caller.connect(near, Purpose::Http));
    called.map(drop)
}

/// A host's certificate, signed by the CA or by itself, as a server's credentials. The other parts are of no use here.
fn host(ca: &Ca, names: &[&str], not_after: OffsetDateTime, signed_by_itself: bool) -> Credentials {
    let hosts = names.iter().map(ToString::to_string).collect();
    if !signed_by_itself {
        let not_before = OffsetDateTime::UNIX_EPOCH;
        let pem = ca.sign(&CertificateRequest { uris: Vec::new(), hosts, not_before, not_after });
        return with_key(issue(&super::ca(), WEB), &pem.expect("signed"));
    }
    let mut params = CertificateParams::new(hosts).expect("names");
    (params.not_after, params.is_ca) = (not_after, IsCa::ExplicitNoCa);
    params.distinguished_name.push(DnType::CommonName, "self-signed");
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("signed").pem();
    with_key(
        issue(&super::ca(), WEB),
        &IssuedPem { certificate, key: key.serialize_pem(), bundle: String::new() },
    )
}

#[tokio::test]
async fn a_host_outside_the_mesh_proves_its_name_by_a_certificate_of_a_trusted_authority() {
    let (ca, other) = (ca(), Ca::generate("elsewhere.test").expect("a CA"));
    let (past, later) = (OffsetDateTime::now_utc() - Duration::from_secs(60), tomorrow());
    let api = &["api.example.com"][..];
    for (server, called_as, expected) in [
        (host(&ca, api, later, false), "api.example.com", Ok(())),
        (host(&ca, &["*.example.com"], later, false), "api.example.com", Ok(())),
        (host(&ca, &["*.example.com"], later, false), "a.b.example.com", Err("for another name")),
        (host(&ca, &["*.example.com"], later, false), "example.com", Err("for another name")),
        (host(&ca, api, later, false), "web.example.com", Err("for another name")),
        (host(&ca, &[], later, false), "api.example.com", Err("for another name")),
        (host(&ca, api, past, false), "api.example.com", Err("certificate expired at")),
        (host(&other, api, later, false), "api.example.com", Err("unknown issuer")),
        (host(&ca, api, later, true), "api.example.com", Err("unknown issuer")),
        (host(&ca, &["192.0.2.1"], later, false), "192.0.2.1", Ok(())),
        (host(&ca, &["192.0.2.1"], later, false), "192.0.2.2", Err("for another name")),
        (host(&ca, api, later, false), "192.0.2.1", Err("for another name")),
    ] {
        let (_scratch, tls) = simple(&ca, None);
        let caller = ClientTls::new(None, &tls, &POLICY, Some(called_as), AlpnOffer::Auto);
        let caller = caller.expect("a client config").expect("not plaintext");
        let called = call(open_server(&server), &caller).await.map_err(|error| error.detail);
        match (&called, expected) {
            (Ok(()), Ok(())) => {}
            (Err(detail), Err(words)) if detail.contains(words) => {}
            _ => unreachable!("{called_as}: {called:?} in place of {expected:?}"),
        }
    }
}

#[tokio::test]
async fn c16_the_mesh_s_own_ca_is_not_trusted_for_hosts_unless_the_service_names_it() {
    let ca = ca();
    let (web, orders) = (issue(&ca, WEB), issue(&ca, ORDERS));
    let tls =
        |trust_bundle| UpstreamTls::Simple { sni: Some("orders.shop".to_owned()), trust_bundle, own: None };
    let new = |tls: &UpstreamTls| ClientTls::new(Some(&web), tls, &POLICY, None, AlpnOffer::Auto);
    match new(&tls(None)) {
        Ok(caller) => {
            let called = call(open_server(&orders), &caller.expect("not plaintext")).await;
            let error = called.expect_err("the system does not know the CA of this test");
            assert_eq!((error.kind, error.cause), (TlsErrorKind::Certificate, "unknown CA"));
        }
        Err(error) => assert!(Places::of_this_system().load().is_err(), "{error}"),
    }
    let scratch = Scratch::new();
    let named = tls(Some(scratch.write("ca.crt", ca.certificate_pem())));
    let caller = new(&named).expect("a client config").expect("not plaintext");
    assert_eq!(call(open_server(&orders), &caller).await, Ok(()));
}
