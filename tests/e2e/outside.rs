//! TLS with programs outside the mesh, which prove names of hosts and not SPIFFE identities.

use std::fs;
use std::path::Path;
use std::process::Command;

use pillion_tls::identity::issue::Ca;

use crate::support::backend::Backend;
use crate::support::certs::{Authority, DAY};
use crate::support::curl::curl;
use crate::support::eventually;
use crate::support::launched::Launched;
use crate::support::servers::{SHOP, Server};
use crate::support::tools::{printed, require, run};
use crate::support::{Scratch, launched};

const OUTBOUND: &str =
    "inbound: off\noutbound: { listen: 127.0.0.1:0 }\nadmin: { listen: 127.0.0.1:0 }\nmetrics: off\n";

/// A sidecar of the mesh, for which this file has the authorities of the system.
async fn sidecar(roots: &Path, yaml: &str) -> Launched {
    let mut prefix = Command::new("env");
    prefix.arg(format!("SSL_CERT_FILE={}", roots.display())).arg("SSL_CERT_DIR=");
    Launched::start(prefix, yaml, Some((&Authority::new(), "web"))).await
}

/// Status and body of a request to the shop through the sidecar.
async fn get(sidecar: &Launched) -> String {
    let mut get = curl();
    get.args(["--write-out", " %{http_code}", "--header", &format!("host: {SHOP}")]);
    get.arg(format!("http://{}/", sidecar.address("outbound")));
    printed(get).await
}

#[tokio::test]
async fn c16_a_service_outside_the_mesh_is_verified_with_the_authorities_of_the_system() {
    if !require("curl") {
        return;
    }
    let Some(nginx) = Server::nginx(b"").await else { return };
    let scratch = Scratch::new();
    let stranger = Authority::new().issue("nobody").bundle;
    let roots = scratch.write("roots.pem", &stranger);
    let shop = format!("  shop: {{ hosts: [{SHOP}], endpoints: [\"{}\"], tls: simple }}\n", nginx.address);
    let sidecar = sidecar(&roots, &format!("{OUTBOUND}services:\n{shop}")).await;
    let refused = get(&sidecar).await;
    assert!(refused.contains("unknown issuer") && refused.ends_with(" 502"), "{refused}");

    // the file changes while the sidecar runs, as an update of the system's package changes it
    scratch.write("roots.pem", [&*stranger, &fs::read_to_string(nginx.authority()).expect("a CA")].concat());
    eventually("the new authority is in use", async || get(&sidecar).await.ends_with(" 200").then_some(()))
        .await;
    assert_eq!(get(&sidecar).await, format!("HTTP/2.0 {SHOP} {SHOP} 200"), "protocol, SNI and host");

    scratch.write("roots.pem", "");
    sidecar
        .has_logged("certificates of a service refused, the old ones stay in use: services.shop.tls")
        .await;
    assert!(get(&sidecar).await.ends_with(" 200"));
}

#[tokio::test]
async fn without_authorities_of_the_system_the_start_fails_with_what_to_do() {
    let scratch = Scratch::new();
    let roots = scratch.write("roots.pem", "");
    let shop = "services: { shop: { endpoints: [10.0.0.1:443], tls: simple } }\n";
    let config = scratch.write("pillion.yaml", format!("{OUTBOUND}{shop}"));
    let mut command = Command::new(launched::binary());
    command.args(["run", "-c"]).arg(config).env("SSL_CERT_FILE", &roots).env_remove("SSL_CERT_DIR");
    let ended = run(command).await;
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("services.shop.tls: the system has no certificate authorities"), "{said}");
    assert!(said.contains("install the package ca-certificates"), "{said}");
}

/// curl and openssl as clients outside the mesh, before the sidecar of a plain application.
#[tokio::test]
async fn common_clients_speak_tls_to_a_port_in_nginx_s_place() {
    if !(require("curl") && require("openssl")) {
        return;
    }
    let (app, scratch, public) =
        (Backend::echo().await, Scratch::new(), Ca::generate("web.test").expect("a CA"));
    let roots = scratch.write("ca.crt", public.certificate_pem());
    for (name, host) in [("site", SHOP), ("other", "other.test")] {
        let id = format!("spiffe://web.test/{name}").parse().expect("an identity");
        let issued = public.issue(&id, &[host.to_owned()], DAY).expect("a certificate");
        scratch.write(&format!("{name}.crt"), issued.certificate);
        scratch.write(&format!("{name}.key"), issued.key);
    }
    let file = |name: &str| scratch.path().join(name).display().to_string();
    let item = |name: &str, more: &str| {
        format!(
            "{{ certificate: \"{}\", key: \"{}\"{more} }}",
            file(&format!("{name}.crt")),
            file(&format!("{name}.key"))
        )
    };
    let asks = format!(", client: request, trust_bundle: \"{}\"", roots.display());
    let tls = format!("[{}, {}]", item("site", &asks), item("other", ""));
    let port = app.address.port();
    let yaml = format!(
        "outbound: off\nadmin: {{ listen: 127.0.0.1:0 }}\nmetrics: off\n\
         inbound: {{ listen: 127.0.0.1:0, app: {}, ports: {{ {port}: {{ listen: 127.0.0.1:0, tls: {tls} }} }} }}\n",
        app.address,
    );
    let sidecar = Launched::start(Command::new("env"), &yaml, Some((&Authority::new(), "web"))).await;
    let front = sidecar.address(&format!("port.{port}"));
    for (version, host, own) in
        [("--http1.1", SHOP, false), ("--http2", SHOP, true), ("--http2", "other.test", false)]
    {
        let mut get = curl();
        get.arg(version).arg("--cacert").arg(&roots).args(["--write-out", " %{http_code}"]);
        get.arg("--connect-to").arg(format!("{host}:443:{front}"));
        if own {
            get.args(["--cert", &file("other.crt"), "--key", &file("other.key")]);
        }
        let answer = printed({
            get.arg(format!("https://{host}/"));
            get
        })
        .await;
        assert!(answer.ends_with(" 200"), "{answer}");
        let request = app.last();
        assert_eq!(request.header("x-forwarded-proto"), Some("https"));
        assert_eq!(request.header("x-forwarded-client-cert").is_some(), own, "{version} {host}");
    }
    let mut plain = curl();
    plain.args(["--write-out", "%{http_code}", "--output", "/dev/null"]).arg(format!("http://{front}/"));
    assert_eq!(printed(plain).await, "400");
    let mut openssl = Command::new("sh");
    let client = format!(
        "openssl s_client -connect {front} -servername other.test -alpn h2 -brief </dev/null 2>&1 | cat"
    );
    openssl.args(["-c", &client]);
    let said = printed(openssl).await;
    assert!(said.contains("TLSv1.3") && said.contains("Requested Signature Algorithms"), "{said}");
}
