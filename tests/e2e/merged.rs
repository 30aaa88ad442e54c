//! `metrics.merge` with what the usual libraries expose: Python's prometheus_client as it runs, and prom-client of npm as it
//! was recorded (version 15.1.3, in both formats).

use std::process::Command;

use crate::support::backend::Backend;
use crate::support::eventually;
use crate::support::metrics::Scrape;
use crate::support::program::Program;
use crate::support::sidecar::{Plan, Sidecar};
use crate::support::tools::{require, require_python, run};

async fn merging(source: &str) -> Sidecar {
    let yaml = format!(
        "inbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\nadmin: {{ listen: 127.0.0.1:0 }}\n\
         metrics: {{ listen: 127.0.0.1:0, merge: [{{ name: app, url: \"http://{source}/metrics\", timeout: 4s }}] }}\n"
    );
    Plan::exactly(&yaml).start().await
}

/// The exposition has the application's own series, and the sidecar's; promtool finds nothing that Prometheus would refuse.
async fn is_merged(sidecar: &Sidecar) -> Scrape {
    let scrape = eventually("the application answers within four seconds", async || {
        let scrape = sidecar.scrape().await;
        scrape.text.contains("pillion_merge_up{source=\"app\"} 1\n").then_some(scrape)
    })
    .await;
    for line in [
        "shop_orders_total{kind=\"a\\\"b\\\\c\\nd\"} 3",
        "shop_duration_seconds_bucket{le=\"1\"} 1",
        "shop_duration_seconds_count 1",
    ] {
        let is_there = scrape.text.lines().any(|one| one.replace(".0", "") == line);
        assert!(is_there, "{line}\n{}", scrape.text);
    }
    assert!(scrape.text.contains("\napp_process_cpu_seconds_total "), "{}", scrape.text);
    assert!(scrape.text.contains("\nprocess_cpu_seconds_total "), "{}", scrape.text);
    if require("promtool") && require("curl") {
        let check = format!("curl -sf http://{}/metrics | promtool check metrics", sidecar.metrics());
        let mut promtool = Command::new("sh");
        promtool.args(["-c", &check]);
        let output = run(promtool).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("error while linting") && !said.contains("parsing error"), "{said}");
    }
    scrape
}

#[tokio::test]
async fn an_application_with_pythons_client_is_merged() {
    if !require_python("prometheus_client") {
        return;
    }
    let mut app = Program::start(Program::script(Command::new("env"), "exposing.py", &[]));
    let port = app.line().await;
    let sidecar = merging(&format!("127.0.0.1:{port}")).await;
    let scrape = is_merged(&sidecar).await;
    assert!(scrape.text.contains("shop_build_info{version=\"1.2\"} 1"), "{}", scrape.text);
    assert!(scrape.text.contains("\npython_info{"), "{}", scrape.text);
}

#[tokio::test]
async fn an_application_with_the_client_of_npm_is_merged_in_both_of_its_formats() {
    for (kind, text) in [
        ("text/plain; version=0.0.4; charset=utf-8", include_str!("merged/prom_client.txt")),
        (
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            include_str!("merged/prom_client_open.txt"),
        ),
    ] {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            text.len()
        );
        let app = Backend::saying(format!("{head}{text}").into_bytes()).await;
        let sidecar = merging(&app.address.to_string()).await;
        let scrape = is_merged(&sidecar).await;
        assert!(scrape.text.contains("\nnodejs_eventloop_lag_seconds "), "{kind}\n{}", scrape.text);
        assert!(scrape.text.contains("\napp_up 1\n"), "`up` is never free: {}", scrape.text);
    }
}
