//! TLS with programs outside the mesh, which prove names of hosts and not SPIFFE identities.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::certs::Authority;
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
