//! The cache of a service as a process: in front of nginx, asked by curl over both versions of HTTP, and under load.

use std::net::SocketAddr;

use crate::support::backend::{Backend, free};
use crate::support::curl::curl;
use crate::support::nginx::Nginx;
use crate::support::sidecar::{Plan, Sidecar};
use crate::support::tools::{printed, require};
use crate::support::wire::Wire;
use crate::support::{Scratch, eventually};

const MIB: u64 = 1024 * 1024;

/// An nginx whose answers are all different: each says the ID of its request. Those below `/short/` are fresh for a
/// second.
async fn nginx(address: SocketAddr) -> Nginx {
    let http = format!(
        "server {{ listen {address};\n\
         location / {{ add_header Cache-Control max-age=600; return 200 $request_id; }}\n\
         location /short/ {{ add_header Cache-Control max-age=1; return 200 $request_id; }} }}"
    );
    Nginx::start(Scratch::new(), &http, address).await
}

/// What curl prints for a path of the service: the body, with a line for `Cache-Status` behind it.
async fn get(sidecar: &Sidecar, path: &str, options: &[&str]) -> (String, String) {
    let mut command = curl();
    command.args(options).args(["--header", "host: orders", "--write-out", "\n%header{cache-status}"]);
    command.arg(format!("http://{}{path}", sidecar.outbound()));
    let out = printed(command).await;
    let (body, status) = out.split_once('\n').expect("two lines");
    (body.to_owned(), status.to_owned())
}

#[tokio::test]
async fn answers_of_nginx_are_used_again_over_both_versions_until_they_are_purged() {
    if !require("nginx") || !require("curl") {
        return;
    }
    let address = free();
    let _nginx = nginx(address).await;
    let sidecar = Plan::calling(address, "cache: { max: 1MiB }").start().await;
    let (first, told) = get(&sidecar, "/a", &["--http1.1"]).await;
    assert_eq!((first.len(), &*told), (32, "pillion; fwd=uri-miss; stored"));
    for options in [["--http1.1"], ["--http2-prior-knowledge"]] {
        let (body, told) = get(&sidecar, "/a", &options).await;
        assert_eq!(body, first, "{options:?}");
        assert!(told.starts_with("pillion; hit; ttl="), "{told}");
    }
    let (other, _) = get(&sidecar, "/b", &["--http1.1"]).await;
    assert_ne!(other, first);
    let mut purge = curl();
    purge.args(["--request", "POST"]);
    purge.arg(format!("http://{}/cache/purge?service=orders&path=/a", sidecar.admin()));
    let purged: serde_json::Value = serde_json::from_str(&printed(purge).await).expect("JSON");
    assert_eq!(purged, serde_json::json!({ "service": "orders", "purged": 1 }));
    assert_ne!(get(&sidecar, "/a", &["--http1.1"]).await.0, first);
    assert_eq!(get(&sidecar, "/b", &["--http1.1"]).await.0, other, "it was not named");
    let metrics = sidecar.scrape().await;
    for (outcome, expected) in [("hit", 3.0), ("miss", 3.0)] {
        assert_eq!(
            metrics.sum("pillion_cache_requests_total", &[("outcome", outcome)]),
            expected,
            "{outcome}"
        );
    }
}

#[tokio::test]
async fn a_stale_answer_stands_in_while_nginx_is_away_and_is_replaced_when_it_is_back() {
    if !require("nginx") || !require("curl") {
        return;
    }
    let address = free();
    let first_nginx = nginx(address).await;
    let orders = "cache: { stale_if_error: 1h }, outlier_detection: off, retry: off";
    let sidecar = Plan::calling(address, orders).start().await;
    let (first, _) = get(&sidecar, "/short/a", &["--http1.1"]).await;
    drop(first_nginx);
    let told = eventually("a stale answer", async || {
        let (body, told) = get(&sidecar, "/short/a", &["--http1.1"]).await;
        assert_eq!(body, first);
        told.contains("detail=no-answer").then_some(told)
    })
    .await;
    assert!(told.starts_with("pillion; fwd=stale; ttl="), "{told}");
    let _nginx = nginx(address).await;
    assert_ne!(get(&sidecar, "/short/a", &["--http1.1"]).await.0, first);
}

#[tokio::test]
async fn a_herd_of_a_hundred_sends_one_request() {
    let app = Backend::serving(|mut wire, _, seen| async move {
        while let Some(request) = wire.message().await {
            seen.request(request);
            seen.hold().await;
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncache-control: max-age=60\r\n\r\nbody").await;
        }
    })
    .await;
    let sidecar = Plan::calling(app.address, "cache: {}").start().await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(Wire::connect(sidecar.outbound()).await);
    }
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
    }
    eventually("all of them are under way", async || {
        (sidecar.scrape().await.sum("pillion_requests_active", &[("service", "orders")]) == 100.0)
            .then_some(())
    })
    .await;
    app.release();
    for mut client in clients {
        let answer = client.answer().await;
        assert_eq!((answer.status(), answer.text().as_str()), (200, "body"));
    }
    assert_eq!(app.requests().len(), 1);
}

#[tokio::test]
async fn a_scan_of_many_answers_stays_within_the_bound() {
    let body = "x".repeat(16 * 1024);
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\ncache-control: max-age=60\r\n\r\n{body}",
        body.len()
    );
    let app = Backend::serving(move |mut wire, _, _| {
        let answer = answer.clone();
        async move {
            while wire.message().await.is_some() {
                wire.send(&answer).await;
            }
        }
    })
    .await;
    let sidecar = Plan::calling(app.address, "cache: { max: 2MiB }").start().await;
    let mut client = Wire::connect(sidecar.outbound()).await;
    client.get("orders", "/").await;
    let before = sidecar.rss_kib();
    for nth in 0..3_000 {
        assert_eq!(client.get("orders", &format!("/{nth}")).await.status(), 200);
    }
    let kept = sidecar.scrape().await.sum("pillion_cache_bytes", &[("service", "orders")]);
    assert!(kept > MIB as f64 && kept <= 2.0 * MIB as f64, "{kept} bytes");
    let grown = sidecar.rss_kib().saturating_sub(before);
    assert!(grown < 24 * 1024, "48 MB went through a cache of 2 MiB, and {grown} KiB stayed");
}
