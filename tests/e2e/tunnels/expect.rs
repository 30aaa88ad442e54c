//! `Expect: 100-continue`: a client that asks before it sends its body.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use aws_lc_rs::digest::{SHA256, digest};

use crate::support::backend::Backend;
use crate::support::curl::curl;
use crate::support::sidecar::{Pair, Plan};
use crate::support::tools::{printed, require};
use crate::support::{Scratch, eventually};

const MIB: usize = 1024 * 1024;

fn body() -> Vec<u8> {
    let mut body = vec![0; 5 * MIB];
    fastrand::Rng::with_seed(7).fill(&mut body);
    body
}

/// Sends the expectation, and waits longer for the answer than the test does.
fn upload(to: SocketAddr, file: &Path, write_out: &str) -> Command {
    let mut put = curl();
    put.args(["--header", "Host: orders", "--header", "Expect: 100-continue", "--expect100-timeout", "60"]);
    put.args(["--output", "/dev/null", "--write-out", write_out, "--upload-file"]).arg(file);
    put.arg(format!("http://{to}/file"));
    put
}

#[tokio::test]
async fn a_body_that_waited_for_a_100_arrives_intact() {
    if !require("curl") {
        return;
    }
    let (app, body, scratch) = (Backend::echo().await, body(), Scratch::new());
    let file = scratch.write("body", &body);
    let pair = Pair::start(app.address, "", "").await;
    for (way, at) in [("through the proxy port", pair.caller.outbound()), ("directly", pair.caller.orders())]
    {
        assert_eq!(printed(upload(at, &file, "%{http_code} %{size_upload}")).await, "200 5242880", "{way}");
        let arrived = app.last();
        assert_eq!(arrived.body.len(), body.len(), "{way}");
        assert_eq!(digest(&SHA256, &arrived.body).as_ref(), digest(&SHA256, &body).as_ref(), "{way}");
    }
    let received = [("direction", "inbound"), ("service", "app"), ("flow", "received")];
    eventually("both bodies are counted", async || {
        let counted = pair.application.scrape().await.sum("pillion_bytes_total", &received);
        (counted == 2.0 * 5_242_880.0).then_some(())
    })
    .await;
}

/// The upload is refused, and no more bytes were sent than buffers hold.
async fn is_refused_in_time(to: SocketAddr, file: &Path, app: &Backend) {
    let output = printed(upload(to, file, "%{http_code} %{size_upload}")).await;
    let (status, sent) = output.split_once(' ').expect("two numbers");
    let sent: usize = sent.parse().expect("a number");
    assert!(status == "413" && sent < MIB, "{output}");
    assert!(app.requests().is_empty(), "nothing for the application");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_before_it_is_sent() {
    if !require("curl") {
        return;
    }
    let (app, scratch) = (Backend::echo().await, Scratch::new());
    let file = scratch.write("body", body());
    let application = Plan::application(app.address, "max_body: 1MiB").start().await;
    is_refused_in_time(application.inbound(), &file, &app).await;
    application
        .counted(1, &[("direction", "inbound"), ("status", "413"), ("reason", "body_too_large")])
        .await;
}

#[tokio::test]
async fn a_body_that_is_too_large_for_the_other_side_is_not_sent_through_both() {
    if !require("curl") {
        return;
    }
    let (app, scratch) = (Backend::echo().await, Scratch::new());
    let file = scratch.write("body", body());
    let pair = Pair::start(app.address, "", "max_body: 1MiB").await;
    is_refused_in_time(pair.caller.orders(), &file, &app).await;
    pair.application.counted(1, &[("direction", "inbound"), ("reason", "body_too_large")]).await;
}
