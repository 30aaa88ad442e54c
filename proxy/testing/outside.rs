//! Services outside the mesh, which know a host and a client by their certificates.

use std::time::Duration;

use pillion_testkit::Scratch;
use pillion_tls::identity::credentials::Credentials;
use pillion_tls::identity::issue::{Ca, IssuedPem};

use super::backend::OK;
use super::mesh::{self, A, Pair, Sidecar, settle};

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
