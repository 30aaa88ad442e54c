//! Services and clients outside the mesh, which know hosts and clients by certificates without identities.

use std::time::Duration;

use pillion_base::net::memory::Pipe;
use pillion_model::cluster::UpstreamTls;
use pillion_model::identity::{KeyPair, TlsPolicy};
use pillion_testkit::Scratch;
use pillion_tls::client::{AlpnOffer, ClientTls, Purpose};
use pillion_tls::identity::credentials::Credentials;
use pillion_tls::identity::issue::{Ca, CertificateRequest, IssuedPem};
use pillion_tls::{Alpn, TlsError};

use super::backend::OK;
use super::mesh::{self, A, Mesh, Pair, Sidecar, settle};
use super::peer::Peer;

const AT: &str = "10.1.0.1:15006";

fn issue(ca: &Ca, account: &str, hosts: &[&str]) -> IssuedPem {
    let id = format!("spiffe://cluster.local/ns/default/sa/{account}").parse().expect("an identity");
    let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    ca.issue(&id, &hosts, Duration::from_secs(3600)).expect("a certificate")
}

/// Credentials of a server that proves the host `orders`.
pub(super) fn host(ca: &Ca) -> Credentials {
    issue(ca, "orders", &["orders"]).credentials().expect("credentials")
}

/// Writes a certificate by which a client is known to one service.
pub(super) fn write(scratch: &Scratch, name: &str, ca: &Ca, account: &str) {
    let issued = issue(ca, account, &[]);
    scratch.write(&format!("{name}.crt"), issued.certificate);
    scratch.write(&format!("{name}.key"), issued.key);
}

/// How many requests the server had of this client.
fn of(server: &Sidecar, account: &str) -> u64 {
    server.sum(&format!("pillion_requests_total peer=spiffe://cluster.local/ns/default/sa/{account}"))
}

/// The server is a strict sidecar, which asks every client for a certificate. For its caller it is a host as any other.
#[tokio::test(start_paused = true)]
async fn a_certificate_for_a_service_is_shown_to_this_service_alone_and_is_rotated() {
    let (pair, scratch) = (Pair::new(), Scratch::new());
    let _app = pair.mesh.answering(A, OK);
    let server = pair.application_as(AT, A, host(&pair.ca));
    write(&scratch, "client", &pair.ca, "web");
    let at = |file: &str| scratch.path(file).display().to_string();
    scratch.write("ca.crt", pair.ca.certificate_pem());
    let tls = format!("mode: simple, sni: orders, trust_bundle: \"{}\"", at("ca.crt"));
    let own = format!("certificate: \"{}\", key: \"{}\"", at("client.crt"), at("client.key"));
    let yaml = mesh::caller(&format!("endpoints: [\"{AT}\"], tls: {{ {tls}, {own} }}"))
        + &format!("  other: {{ endpoints: [\"{AT}\"], tls: {{ {tls} }} }}\n");
    let mut sidecar = pair.mesh.sidecar(&yaml, None);
    let mut client = sidecar.client().await;
    for expected in 1..=2 {
        assert_eq!(client.get("/").await.status_and_reason(), (200, None));
        settle().await;
        assert_eq!(of(&server, "web"), expected);
    }
    let handshakes = || server.sum("pillion_tls_handshakes_total direction=inbound outcome=ok");
    assert_eq!(handshakes(), 1);
    let other = client.ask("GET / HTTP/1.1\r\nhost: other\r\n\r\n").await;
    assert_eq!(other.status_and_reason(), (502, Some("tls_error")), "it has no certificate to show");

    let stranger = Ca::generate("cluster.local").expect("a CA");
    scratch.write("client.key", issue(&stranger, "web", &[]).key);
    assert_eq!(sidecar.look_at_material(), (false, vec!["services.orders.tls".to_owned()]));
    assert_eq!((client.get("/").await.status(), handshakes()), (Some(200), 1), "the old pair stays in use");

    write(&scratch, "client", &pair.ca, "shop");
    assert_eq!(sidecar.look_at_material(), (true, vec![]));
    assert_eq!(client.get("/").await.status_and_reason(), (200, None));
    settle().await;
    assert_eq!((of(&server, "shop"), handshakes()), (1, 2), "no connection of the old certificate is used");
    assert!(sidecar.sum("pillion_certificate_not_after_timestamp_seconds use=service") > 0);
}

/// The listener for clients outside the mesh.
pub(super) const FRONT: &str = "10.1.0.1:443";

/// A sidecar of the mesh, with this `tls` at [`FRONT`] for port 80 of the application. `more` are keys of `inbound`.
fn front(scratch: &Scratch, tls: &str, more: &str) -> pillion_model::Config {
    let port = format!("80: {{ listen: {FRONT}, tls: {tls} }}");
    let yaml = mesh::application_at(AT, &format!("app: {A}, ports: {{ {port} }}{more}")) + mesh::IDENTITY;
    match pillion_config::parse(&yaml, &scratch.path("")) {
        Ok((config, _warnings)) => config,
        Err(faults) => unreachable!("{faults}\n{yaml}"),
    }
}

const SITE: &str = "{ certificate: site.crt, key: site.key }";

/// A certificate for hosts, as a public authority issues them.
pub(super) fn site(scratch: &Scratch, name: &str, ca: &Ca, hosts: &[&str]) {
    let now = time::OffsetDateTime::now_utc();
    let request = CertificateRequest {
        uris: Vec::new(),
        hosts: hosts.iter().map(ToString::to_string).collect(),
        not_before: now - Duration::from_secs(60),
        not_after: now + Duration::from_secs(3600),
    };
    let issued = ca.sign(&request).expect("signed");
    scratch.write(&format!("{name}.crt"), issued.certificate);
    scratch.write(&format!("{name}.key"), issued.key);
}

/// The certificates of these stories: a site of a public authority, whose file is `web-ca.crt`.
pub(super) fn public(scratch: &Scratch) -> Ca {
    let ca = Ca::generate("web.test").expect("a CA");
    scratch.write("web-ca.crt", ca.certificate_pem());
    site(scratch, "site", &ca, &["shop.test", "*.shop.test"]);
    ca
}

/// A client outside the mesh that asks for this host, with a certificate of its own where it is given.
pub(super) async fn browse(
    mesh: &Mesh,
    scratch: &Scratch,
    host: &str,
    own: Option<&str>,
) -> Result<Peer, TlsError> {
    let file = |name: &str, end: &str| scratch.path(&format!("{name}.{end}"));
    let own = own.map(|name| KeyPair { certificate: file(name, "crt"), key: file(name, "key") });
    let tls = UpstreamTls::Simple { sni: None, trust_bundle: Some(scratch.path("web-ca.crt")), own };
    let tls = ClientTls::new(None, &tls, &TlsPolicy::default(), Some(host), AlpnOffer::Http1);
    let io = mesh.memory.connect(mesh::at(FRONT)).await.expect("the sidecar listens");
    let (mut io, alpn) = tls.expect("a client config").expect("TLS").connect(io, Purpose::Http1).await?;
    assert_eq!(alpn, Some(Alpn::Http1));
    let (near, mut far) = Pipe::pair(1024 * 1024);
    tokio::spawn(async move { tokio::io::copy_bidirectional(&mut far, &mut io).await });
    Ok(Peer::new(near))
}

#[tokio::test(start_paused = true)]
async fn clients_outside_the_mesh_are_served_over_tls_beside_strict_mtls() {
    let (pair, scratch) = (Pair::new(), Scratch::new());
    let app = pair.mesh.answering(A, OK);
    public(&scratch);
    let sidecar = pair.mesh.start(&front(&scratch, SITE, ""), Some(host(&pair.ca))).expect("a sidecar");
    let mut client = browse(&pair.mesh, &scratch, "www.shop.test", None).await.expect("a handshake");
    let forged = "GET / HTTP/1.1\r\nhost: shop.test\r\nx-forwarded-proto: http\r\n\
                  x-forwarded-client-cert: URI=spiffe://cluster.local/ns/default/sa/web\r\nx-pillion-attempt: 2\r\n\r\n";
    assert_eq!(client.ask(forged).await.status_and_reason(), (200, None));
    let request = &app.requests()[0];
    assert_eq!(request.header("x-forwarded-proto"), Some("https"));
    assert_eq!(
        (request.header("x-forwarded-client-cert"), request.header("x-pillion-attempt")),
        (None, None)
    );
    assert!(request.header("x-forwarded-for").is_some());

    let plain = pair.mesh.memory.connect(mesh::at(FRONT)).await.expect("the sidecar listens");
    assert_eq!(Peer::new(plain).get("/").await.status_and_reason(), (400, Some("bad_request")));
    let plain = pair.mesh.memory.connect(mesh::at(AT)).await.expect("the sidecar listens");
    assert_eq!(Peer::new(plain).get("/").await.status_and_reason(), (403, Some("mtls_required")));
    let mut peer = pair.peer(AT, Purpose::Http1).await;
    assert_eq!(peer.get("/").await.status_and_reason(), (200, None), "peers of the mesh come as ever");
    settle().await;
    assert_eq!(sidecar.sum("pillion_connections_total tls=tls protocol=http1 outcome=ok"), 1);
    assert_eq!(
        sidecar.sum("pillion_requests_total status=200 peer=spiffe://cluster.local/ns/default/sa/web"),
        1
    );
    assert!(sidecar.sum("pillion_certificate_not_after_timestamp_seconds use=port") > 0);
}

#[tokio::test(start_paused = true)]
async fn the_expiry_of_certificates_that_a_reload_removes_is_shown_no_more() {
    let (pair, scratch) = (Pair::new(), Scratch::new());
    public(&scratch);
    write(&scratch, "client", &pair.ca, "web");
    let with = |port: &str, service: &str| {
        let port = format!("80: {{ listen: {FRONT}{port} }}");
        let yaml = mesh::application_at(AT, &format!("app: {A}, ports: {{ {port} }}")) + mesh::IDENTITY;
        let tls = format!("mode: simple, sni: orders, trust_bundle: web-ca.crt{service}");
        yaml + &format!("services: {{ orders: {{ endpoints: [\"{AT}\"], tls: {{ {tls} }} }} }}\n")
    };
    let read = |yaml: String| match pillion_config::parse(&yaml, &scratch.path("")) {
        Ok((config, _warnings)) => config,
        Err(faults) => unreachable!("{faults}\n{yaml}"),
    };
    let both = read(with(&format!(", tls: {SITE}"), ", certificate: client.crt, key: client.key"));
    let mut sidecar = pair.mesh.start(&both, Some(host(&pair.ca))).expect("a sidecar");
    let ends = |sidecar: &Sidecar, of: &str| {
        sidecar.sum(&format!("pillion_certificate_not_after_timestamp_seconds use={of}"))
    };
    assert!(ends(&sidecar, "service") > 0 && ends(&sidecar, "port") > 0);
    sidecar.controller.apply(&std::sync::Arc::new(read(with("", "")))).expect("a good file");
    assert_eq!((ends(&sidecar, "service"), ends(&sidecar, "port")), (0, 0));
    assert!(ends(&sidecar, "own") > 0 && ends(&sidecar, "ca") > 0);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_of_a_client_outside_the_mesh_is_no_identity_of_the_mesh() {
    let (pair, scratch) = (Pair::new(), Scratch::new());
    let app = pair.mesh.answering(A, OK);
    public(&scratch);
    // the authority of these clients issues certificates with SPIFFE IDs of the mesh
    let clients = Ca::generate("cluster.local").expect("a CA");
    scratch.write("clients.crt", clients.certificate_pem());
    write(&scratch, "client", &clients, "web");
    write(&scratch, "stranger", &Ca::generate("cluster.local").expect("a CA"), "web");
    let tls = "{ certificate: site.crt, key: site.key, client: require, trust_bundle: clients.crt }";
    let mut sidecar = pair.mesh.start(&front(&scratch, tls, ""), Some(host(&pair.ca))).expect("a sidecar");
    for own in [None, Some("stranger")] {
        // a client of TLS 1.3 learns the refusal after its own handshake
        if let Ok(mut client) = browse(&pair.mesh, &scratch, "shop.test", own).await {
            client.try_send("GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n").await.unwrap_or_default();
            assert!(client.message().await.is_none(), "{own:?}");
        }
    }
    settle().await;
    assert_eq!(sidecar.sum("pillion_tls_handshakes_total direction=inbound outcome=failed"), 2);
    let mut client = browse(&pair.mesh, &scratch, "shop.test", Some("client")).await.expect("a handshake");
    assert_eq!(client.get("/").await.status_and_reason(), (200, None));
    let told = app.requests()[0].header("x-forwarded-client-cert").expect("the certificate").to_owned();
    assert!(told.starts_with("Hash=") && told.ends_with(";Subject=\"\"") && !told.contains("URI"), "{told}");
    settle().await;
    assert_eq!(sidecar.sum("pillion_requests_total peer=spiffe://cluster.local/ns/default/sa/web"), 0);

    let rules =
        ", authorization: { rules: [ { name: web, from: [\"spiffe://cluster.local/ns/default/sa/web\"] } ] }";
    let config = front(&scratch, tls, rules);
    sidecar.controller.apply(&std::sync::Arc::new(config)).expect("a good file");
    let mut client = browse(&pair.mesh, &scratch, "shop.test", Some("client")).await.expect("a handshake");
    assert_eq!(client.get("/").await.status_and_reason(), (403, Some("authz_denied")));
}

/// A client's certificate that ends at this time.
fn ending(scratch: &Scratch, clients: &Ca, not_after: time::OffsetDateTime) {
    let not_before = time::OffsetDateTime::now_utc() - Duration::from_secs(60);
    let request =
        CertificateRequest { uris: Vec::new(), hosts: vec!["jo".to_owned()], not_before, not_after };
    let issued = clients.sign(&request).expect("signed");
    scratch.write("client.crt", issued.certificate);
    scratch.write("client.key", issued.key);
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_certificate_expires_is_refused_by_its_next_request() {
    let (pair, scratch) = (Pair::new(), Scratch::new());
    let _app = pair.mesh.answering(A, OK);
    public(&scratch);
    let clients = Ca::generate("clients.test").expect("a CA");
    scratch.write("clients.crt", clients.certificate_pem());
    let tls = "{ certificate: site.crt, key: site.key, client: require, trust_bundle: clients.crt }";
    let mut sidecar = pair.mesh.start(&front(&scratch, tls, ""), Some(host(&pair.ca))).expect("a sidecar");
    let end = time::OffsetDateTime::now_utc() + Duration::from_secs(3600);
    ending(&scratch, &clients, end);
    let mut connected = Vec::new();
    for _ in 0..2 {
        let mut client =
            browse(&pair.mesh, &scratch, "shop.test", Some("client")).await.expect("a handshake");
        pair.mesh.memory.set_unix_now(end.unix_timestamp());
        assert_eq!(client.get("/").await.status_and_reason(), (200, None));
        connected.push(client);
    }
    pair.mesh.memory.set_unix_now(end.unix_timestamp() + 1);
    assert_eq!(connected[0].get("/").await.status_and_reason(), (403, Some("mtls_required")));
    sidecar.controller.apply(&std::sync::Arc::new(front(&scratch, SITE, ""))).expect("a good file");
    let answer = connected[1].get("/").await;
    assert_eq!(answer.status_and_reason(), (200, None), "certificates are not verified any more");
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_is_not_verified_any_more_is_not_told_to_the_application() {
    let (pair, scratch) = (Pair::new(), Scratch::new());
    let app = pair.mesh.answering(A, OK);
    public(&scratch);
    let clients = Ca::generate("cluster.local").expect("a CA");
    scratch.write("clients.crt", clients.certificate_pem());
    write(&scratch, "client", &clients, "web");
    let tls = "{ certificate: site.crt, key: site.key, client: require, trust_bundle: clients.crt }";
    let mut sidecar = pair.mesh.start(&front(&scratch, tls, ""), Some(host(&pair.ca))).expect("a sidecar");
    let mut client = browse(&pair.mesh, &scratch, "shop.test", Some("client")).await.expect("a handshake");
    assert_eq!(client.get("/").await.status_and_reason(), (200, None));
    sidecar.controller.apply(&std::sync::Arc::new(front(&scratch, SITE, ""))).expect("a good file");
    assert_eq!(client.get("/").await.status_and_reason(), (200, None));
    let told: Vec<_> =
        app.requests().iter().map(|asked| asked.header("x-forwarded-client-cert").is_some()).collect();
    assert_eq!(told, [true, false]);
}

#[tokio::test(start_paused = true)]
async fn a5_clients_outside_the_mesh_leave_half_of_the_connections_to_its_peers() {
    let (pair, scratch) = (Pair::new(), Scratch::new());
    let _app = pair.mesh.answering(A, OK);
    public(&scratch);
    let config = front(&scratch, SITE, ", max_connections: 8");
    let sidecar = pair.mesh.start(&config, Some(host(&pair.ca))).expect("a sidecar");
    let (mut guests, mut refused) = (Vec::new(), 0);
    for _ in 0..8 {
        let mut client = browse(&pair.mesh, &scratch, "shop.test", None).await.expect("a handshake");
        client.try_send("GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n").await.unwrap_or_default();
        match client.message().await {
            Some(answer) => {
                assert_eq!(answer.status(), Some(200));
                guests.push(client);
            }
            None => refused += 1,
        }
    }
    assert_eq!((guests.len(), refused), (4, 4));
    let mut peers = Vec::new();
    for _ in 0..4 {
        let mut peer = pair.peer(AT, Purpose::Http1).await;
        assert_eq!(peer.get("/").await.status_and_reason(), (200, None));
        peers.push(peer);
    }
    for guest in &mut guests {
        assert_eq!(guest.get("/").await.status(), Some(200), "an admitted client stays");
    }
    assert_eq!(sidecar.sum("pillion_connections_total direction=inbound tls=tls outcome=refused"), 4);
}

#[tokio::test(start_paused = true)]
async fn a5_clients_outside_the_mesh_that_came_before_the_identity_count_among_those_after_it() {
    const GET: &str = "GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n";
    let (pair, scratch) = (Pair::new(), Scratch::new());
    let _app = pair.mesh.answering(A, OK);
    public(&scratch);
    let mut sidecar =
        pair.mesh.start(&front(&scratch, SITE, ", max_connections: 8"), None).expect("a sidecar");
    let mut guests = Vec::new();
    for _ in 0..5 {
        let mut client = browse(&pair.mesh, &scratch, "shop.test", None).await.expect("a handshake");
        assert_eq!(client.ask(GET).await.status(), Some(200), "there is no mesh to leave room for");
        guests.push(client);
    }
    sidecar.rotate(host(&pair.ca)).expect("an identity");
    let mut late = browse(&pair.mesh, &scratch, "shop.test", None).await.expect("a handshake");
    late.try_send(GET).await.unwrap_or_default();
    assert!(late.message().await.is_none());
    assert_eq!(guests[0].ask(GET).await.status(), Some(200), "an admitted client stays");
    guests.truncate(3);
    settle().await;
    let mut next = browse(&pair.mesh, &scratch, "shop.test", None).await.expect("a handshake");
    assert_eq!(next.ask(GET).await.status(), Some(200));
}

#[tokio::test(start_paused = true)]
async fn a_port_chooses_its_certificate_by_sni_and_rotates_it_under_its_connections() {
    let (pair, scratch) = (Pair::new(), Scratch::new());
    let _app = pair.mesh.answering(A, OK);
    let ca = public(&scratch);
    site(&scratch, "other", &ca, &["other.test"]);
    let tls = format!("[{SITE}, {{ certificate: other.crt, key: other.key }}]");
    let mut sidecar = pair.mesh.start(&front(&scratch, &tls, ""), Some(host(&pair.ca))).expect("a sidecar");
    let hosts = ["shop.test", "a.shop.test", "OTHER.test", "a.b.shop.test", "new.test"];
    let answers = async |mesh: &Mesh| {
        let mut shown = Vec::new();
        for host in hosts {
            shown.push(browse(mesh, &scratch, host, None).await.is_ok());
        }
        shown
    };
    assert_eq!(
        answers(&pair.mesh).await,
        [true, true, true, false, false],
        "else the first, which has other names"
    );
    let mut kept = browse(&pair.mesh, &scratch, "other.test", None).await.expect("a handshake");

    scratch.write("other.key", "half writ");
    assert_eq!(sidecar.look_at_material(), (false, vec!["inbound.ports.80.tls".to_owned()]));
    assert_eq!(answers(&pair.mesh).await, [true, true, true, false, false]);
    site(&scratch, "other", &ca, &["new.test"]);
    assert_eq!(sidecar.look_at_material(), (true, vec![]));
    assert_eq!(answers(&pair.mesh).await, [true, true, false, false, true]);
    let answer = kept.get("/").await;
    assert_eq!((answer.status_and_reason(), answer.header("connection")), ((200, None), None));

    let required = "{ certificate: site.crt, key: site.key, client: require, trust_bundle: web-ca.crt }";
    let config = front(&scratch, required, "");
    sidecar.controller.apply(&std::sync::Arc::new(config)).expect("a good file");
    assert_eq!(
        kept.get("/").await.status_and_reason(),
        (403, Some("mtls_required")),
        "it showed no certificate"
    );
}

#[tokio::test(start_paused = true)]
async fn a_plaintext_connection_is_refused_once_its_listener_speaks_tls() {
    let (pair, scratch) = (Pair::new(), Scratch::new());
    let app = pair.mesh.answering(A, OK);
    public(&scratch);
    let plain =
        mesh::application_at(AT, &format!("app: {A}, mtls: off, ports: {{ 80: {{ listen: {FRONT} }} }}"));
    let (config, _) =
        pillion_config::parse(&(plain + mesh::IDENTITY), &scratch.path("")).expect("a good file");
    let mut sidecar = pair.mesh.start(&config, Some(host(&pair.ca))).expect("a sidecar");
    let mut client = Peer::new(pair.mesh.memory.connect(mesh::at(FRONT)).await.expect("the sidecar listens"));
    assert_eq!(client.get("/").await.status_and_reason(), (200, None));
    let config = front(&scratch, SITE, ", mtls: off");
    sidecar.controller.apply(&std::sync::Arc::new(config)).expect("a good file");
    assert_eq!(client.get("/").await.status_and_reason(), (403, Some("mtls_required")));
    assert_eq!(app.hits(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_outside_the_mesh_that_begins_no_handshake_is_closed_in_time() {
    let (pair, scratch, watch) = (Pair::new(), Scratch::new(), mesh::Watch::start());
    public(&scratch);
    let sidecar = pair.mesh.start(&front(&scratch, SITE, ""), Some(host(&pair.ca))).expect("a sidecar");
    for begun in [&b""[..], b"\x16\x03\x01\x02\x00\x01\x00"] {
        let before = watch.seconds();
        let mut slow =
            Peer::new(pair.mesh.memory.connect(mesh::at(FRONT)).await.expect("the sidecar listens"));
        slow.send(begun).await;
        assert!(slow.message().await.is_none());
        assert_eq!(watch.seconds() - before, 10);
    }
    assert_eq!(sidecar.sum("pillion_connections_total outcome=timeout"), 2);
}

#[tokio::test(start_paused = true)]
async fn opaque_bytes_pass_through_the_tls_of_a_port() {
    let (pair, scratch) = (Pair::new(), Scratch::new());
    let _app = pair.mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.send("ready\n").await;
    });
    public(&scratch);
    let config = front(&scratch, SITE, ", protocol: tcp");
    let _sidecar = pair.mesh.start(&config, Some(host(&pair.ca))).expect("a sidecar");
    let tls = UpstreamTls::Simple { sni: None, trust_bundle: Some(scratch.path("web-ca.crt")), own: None };
    let tls = ClientTls::new(None, &tls, &TlsPolicy::default(), Some("shop.test"), AlpnOffer::Auto);
    let io = pair.mesh.memory.connect(mesh::at(FRONT)).await.expect("the sidecar listens");
    let connected = tls.expect("a client config").expect("TLS").connect(io, Purpose::Tcp).await;
    let (mut io, alpn) = connected.expect("a handshake");
    let mut said = [0; 6];
    tokio::io::AsyncReadExt::read_exact(&mut io, &mut said).await.expect("bytes of the application");
    assert_eq!((alpn, &said), (None, b"ready\n"));
}
