//! curl with a certificate of its own, and with each ALPN that it can offer.

use std::process::Command;

use http::Version;

use super::application::{Application, Heard};
use crate::support::Scratch;
use crate::support::certs::Authority;
use crate::support::curl::curl;
use crate::support::sidecar::{Plan, Sidecar};
use crate::support::tools::{printed, require, run};

fn post(sidecar: &Sidecar) -> Command {
    let mut post = curl();
    post.args(["--insecure", "--data", "hello", "--write-out", " %{http_version}"]);
    post.args(["--header", "x-request-id: curl", &format!("https://{}/", sidecar.inbound())]);
    post
}

fn heard(version: Version, heard: &Heard) -> bool {
    heard.requests == [("curl".to_owned(), version)]
}

#[tokio::test]
async fn curl_brings_a_certificate_or_is_not_let_in() {
    if !require("curl") {
        return;
    }
    let (app, authority, scratch) =
        (Application::start(Version::HTTP_11).await, Authority::new(), Scratch::new());
    authority.issue_into(scratch.path(), "web");
    for mtls in ["strict", "permissive"] {
        let inbound = Plan::application(app.address, &format!("mtls: {mtls}"));
        let inbound = inbound.identified(&authority, "orders").start().await;
        // With --http2 curl offers both protocol IDs, and the sidecar takes `h2`.
        for (option, version) in [("--http1.1", "1.1"), ("--http2", "2"), ("--no-alpn", "1.1")] {
            let mut post = post(&inbound);
            for (option, file) in [("--cert", "tls.crt"), ("--key", "tls.key"), ("--cacert", "ca.crt")] {
                post.arg(option).arg(scratch.path().join(file));
            }
            post.arg(option);
            assert_eq!(printed(post).await, format!("hello {version}"), "{mtls} {option}");
            let found = app.heard();
            assert!(heard(Version::HTTP_11, &found), "{mtls} {option}: {found:?}");
        }
        let refused = run(post(&inbound)).await;
        assert!(!refused.status.success() && !refused.stdout.starts_with(b"hello"), "{mtls}: {refused:?}");
        assert!(app.heard().connections.is_empty(), "{mtls}: a client without a certificate is not admitted");
    }
}
