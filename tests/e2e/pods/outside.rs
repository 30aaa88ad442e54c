//! Callers outside the mesh, without a sidecar and without a certificate.

use super::clients::get;
use super::{HTTP, PLAINLY, Pair, REDIS, http_app, next_head};
use crate::support::capture::{Capture, contains};
use crate::support::pod::{Variant, Version};
use crate::support::servers::{SHOP, Server};
use crate::support::tools::{require, run};

const HTTPS: u16 = 8443;

/// The exit code and the answer of a PING from outside.
async fn ping(pair: &Pair, version: Version) -> (bool, String) {
    let to = pair.application.at(version, REDIS[1]);
    let mut ping = pair.node.host.enter();
    ping.args(["redis-cli", "-h", &to.ip().to_string(), "-p", &to.port().to_string(), "PING"]);
    let output = run(ping).await;
    (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

async fn strict_and_permissive(variant: Variant) {
    let Some(pair) = Pair::new(variant).await else { return };
    if !(require("redis-cli") && require("nginx") && require("tcpdump")) {
        return;
    }
    let mut app = http_app(&pair.application, "plainly-orders").await;
    let Some(_redis) = Server::redis_at(pair.application.place(REDIS[1])).await else { return };
    let Some(nginx) = Server::nginx_at(pair.application.place(HTTPS), b"a file of nginx").await else {
        return;
    };

    let strict = pair.sidecars("").await;
    for version in Version::BOTH {
        let (status, _) = get(pair.node.host.enter(), pair.application.at(version, HTTP[1]), &[]).await;
        assert_eq!(status, 403, "{version:?}: a plaintext caller in strict");
        let (_, answer) = ping(&pair, version).await;
        assert_ne!(answer, "PONG", "{version:?}: a plaintext caller in strict");
        assert!(
            !https(&pair, &nginx, version).await.0,
            "{version:?}: a caller without a certificate in strict"
        );
    }
    drop(strict);

    let _permissive = pair.sidecars("mtls: permissive").await;
    let capture = Capture::start(&pair.node.host, &pair.application.port()).await;
    let forged = "x-forwarded-client-cert: URI=spiffe://cluster.local/forged";
    for version in Version::BOTH {
        let to = pair.application.at(version, HTTP[1]);
        let answer = get(pair.node.host.enter(), to, &["--header", forged]).await;
        assert_eq!(answer, (200, "plainly-orders\n".to_owned()), "{version:?}");
        let (head, _) = next_head(&mut app).await;
        assert!(!head.contains("client-cert"), "it has proved nothing: {head}");
        assert_eq!(ping(&pair, version).await, (true, "PONG".to_owned()), "{version:?}");
        assert_eq!(https(&pair, &nginx, version).await, (true, "a file of nginx".to_owned()), "{version:?}");
        let meshed = get(pair.caller.enter(), version.service(HTTP[0]), &[]).await;
        assert_eq!(meshed.0, 200, "{version:?}");
        assert!(next_head(&mut app).await.0.contains("x-forwarded-client-cert:"), "over mTLS beside it");
    }
    let to = pair.application.at(Version::V4, 0).ip();
    let packets = capture.end(pair.node.host.enter(), to).await;
    assert!(contains(&packets, PLAINLY), "what is said in plaintext is in such a record");
}

/// The output of curl over the application's own TLS, which curl verifies.
async fn https(pair: &Pair, nginx: &Server, version: Version) -> (bool, String) {
    let to = pair.application.at(version, HTTPS);
    let mut curl = pair.node.host.enter();
    curl.args(["curl", "--disable", "--silent", "--max-time", "25", "--noproxy", "*", "--cacert"]);
    curl.arg(nginx.authority()).args(["--connect-to", &format!("{SHOP}:443:{to}")]);
    curl.arg(format!("https://{SHOP}/file"));
    let output = run(curl).await;
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn strangers_are_refused_in_strict_and_served_in_permissive_mode() {
    strict_and_permissive(Variant::redirect("nft")).await;
}

#[tokio::test]
async fn strangers_that_come_by_tproxy_are_treated_the_same() {
    strict_and_permissive(Variant::tproxy("nft")).await;
}
