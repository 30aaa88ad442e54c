//! A real Prometheus scrapes a pair under load, in OpenMetrics, and counts what the load generator counted.

use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;

use crate::support::application::application;
use crate::support::backend::Backend;
use crate::support::eventually;
use crate::support::load::{Load, Size};
use crate::support::servers::Server;
use crate::support::sidecar::{Pair, Plan};
use crate::support::tools::{require, run};
use crate::support::wire::Wire;

/// The value of a query that has one result; `None` while it has none, and while Prometheus is still starting.
async fn value(prometheus: &Server, query: &str) -> Option<f64> {
    let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let path = format!("/api/v1/query?query={encoded}");
    let answer = Wire::connect(prometheus.address).await.get("prometheus", &path).await;
    let answer: serde_json::Value = serde_json::from_str(&answer.text()).ok()?;
    answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
}

#[tokio::test]
async fn prometheus_counts_to_the_request_what_the_load_generator_counted() {
    let (app, _task) = application().await;
    let pair = Pair::start(app, "", "").await;
    let targets = [&pair.caller, &pair.application].map(|sidecar| format!("\"{}\"", sidecar.metrics()));
    let Some(prometheus) = Server::prometheus(&targets.join(", ")).await else { return };
    let caller = |what: &str| {
        format!(
            "sum({what}(pillion_requests_total{{direction=\"outbound\",service=\"orders\",status=\"200\"}}))"
        )
    };
    // the first sample of a counter is no increase, so its series must be known before
    let size = Size { rate: 200, clients: 2, streams: 0 };
    let ports = [pair.caller.outbound(), pair.caller.orders()];
    let warm = Load::start(ports, size).await;
    warm.goes_on(10).await;
    let warm = warm.stop().await.answers.load(Relaxed);
    let counted = async |answers: usize| {
        let both = [caller(""), caller("").replace("outbound", "inbound").replace("orders", "app")];
        eventually("Prometheus has the last count", async || {
            for query in &both {
                let known = value(&prometheus, query).await?;
                assert!(known <= answers as f64, "{query}: {known} of {answers}");
                if known < answers as f64 {
                    return None;
                }
            }
            Some(())
        })
        .await;
    };
    counted(warm).await;
    let load = Load::start(ports, Size { rate: 1000, clients: 8, streams: 0 }).await;
    load.goes_on(1500).await;
    let tally = load.stop().await;
    assert!(tally.failures.lock().is_empty(), "{:?}", tally.failures.lock());
    let answers = tally.answers.load(Relaxed);
    counted(warm + answers).await;
    let scrapes = value(&prometheus, "min(count_over_time(up[1h]))").await;
    assert!(scrapes > Some(2.0), "{scrapes:?}");
    let growth = caller("max_over_time").replace("\"}", "\"}[1h]");
    let start = caller("min_over_time").replace("\"}", "\"}[1h]");
    let grown = value(&prometheus, &format!("{growth} - {start}")).await;
    assert!(grown >= Some(answers as f64), "{grown:?} of {answers}");
    let observed = "sum(pillion_request_duration_seconds_count{direction=\"outbound\",service=\"orders\"})";
    assert_eq!(value(&prometheus, observed).await, Some((warm + answers) as f64));
}

#[tokio::test]
async fn prometheus_and_promtool_read_the_merged_exposition() {
    const BODY: &str = "# HELP jobs_total Jobs.\n# TYPE jobs_total counter\njobs_total{queue=\"a\"} 3\n";
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\nconnection: close";
    let answer = format!("{head}\r\ncontent-length: {}\r\n\r\n{BODY}", BODY.len());
    let source = Backend::saying(answer.into_bytes()).await;
    let metrics =
        format!("metrics: {{ listen: 127.0.0.1:0, merge: [\"http://{}/metrics\"] }}\n", source.address);
    let yaml = format!(
        "inbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\nadmin: {{ listen: 127.0.0.1:0 }}\n{metrics}"
    );
    let sidecar = Plan::exactly(&yaml).start().await;
    if require("promtool") && require("curl") {
        let check = format!("curl -sf http://{}/metrics | promtool check metrics", sidecar.metrics());
        let mut promtool = Command::new("sh");
        promtool.args(["-c", &check]);
        let checked = run(promtool).await;
        let said = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success() && said.is_empty(), "{said}");
    }
    let Some(prometheus) = Server::prometheus(&format!("\"{}\"", sidecar.metrics())).await else { return };
    for (query, expected) in [("jobs_total{queue=\"a\"}", 3.0), ("pillion_merge_up{source=\"app\"}", 1.0)] {
        let found = eventually(query, async || value(&prometheus, query).await).await;
        assert!((found - expected).abs() < f64::EPSILON, "{query}: {found}");
    }
}
