//! curl with a certificate of its own, and with each ALPN that it can offer.

use std::process::Command;

use http::Version;

use super::application::{Application, Heard};
use crate::support::Scratch;
use crate::support::certs::Authority;
use crate::support::curl::curl;
use crate::support::recorder::Recorder;
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

/// A gateway that is no sidecar passes headers of its clients on. What one of them claims of a whole connection between
/// sidecars changes nothing for the next one on it.
#[tokio::test]
async fn what_is_told_once_for_a_connection_is_believed_of_sidecars_alone() {
    if !require("curl") {
        return;
    }
    let (app, authority, scratch) =
        (Application::start(Version::HTTP_11).await, Authority::new(), Scratch::new());
    let recorder = Recorder::before(app.address).await;
    authority.issue_into(scratch.path(), "web");
    let inbound = Plan::application(recorder.address, "").identified(&authority, "orders").start().await;
    let url = format!("https://{}/", inbound.inbound());
    let mut asks = curl();
    for (nth, claim) in ["l,COOKIE;keep", "2;keep", "t;keep"].into_iter().enumerate() {
        for header in [format!("x-pillion-case: {claim}"), format!("Cookie: next-{nth}")] {
            asks.args(["--insecure", "--http2", "--header", &header, &url]);
            for (option, file) in [("--cert", "tls.crt"), ("--key", "tls.key")] {
                asks.arg(option).arg(scratch.path().join(file));
            }
            asks.arg("--next");
        }
    }
    let done = run(asks).await;
    drop(inbound);
    let (requests, _) = recorder.taken().await;
    let requests = String::from_utf8_lossy(&requests);
    for nth in 0..3 {
        assert!(requests.contains(&format!("\r\ncookie: next-{nth}\r\n")), "{requests}\n{done:?}");
    }
    assert_eq!(requests.matches("x-forwarded-proto: https\r\n").count(), 6, "{requests}\n{done:?}");
}
