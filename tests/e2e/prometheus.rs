//! A real Prometheus scrapes a pair under load, in OpenMetrics, and counts what the load generator counted.

use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;

use crate::support::application::application;
use crate::support::backend::Backend;
use crate::support::eventually;
use crate::support::load::{Load, Size};
use crate::support::servers::Server;
use crate::support::sidecar::{Pair, Plan, Sidecar};
use crate::support::tools::{require, run};
use crate::support::wire::Wire;

/// The text as a part of a URL.
pub(crate) fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// What the HTTP API answers; `None` while Prometheus is still starting.
pub(crate) async fn asked(prometheus: &Server, path: &str) -> Option<serde_json::Value> {
    let answer = Wire::connect(prometheus.address).await.get("prometheus", path).await;
    serde_json::from_str(&answer.text()).ok()
}

/// The value of a query that has one result; `None` while it has none.
async fn value(prometheus: &Server, query: &str) -> Option<f64> {
    let answer = asked(prometheus, &format!("/api/v1/query?query={}", encoded(query))).await?;
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
    eventually("three scrapes", async || {
        (value(&prometheus, "min(count_over_time(up[1h]))").await > Some(2.0)).then_some(())
    })
    .await;
    let growth = caller("max_over_time").replace("\"}", "\"}[1h]");
    let start = caller("min_over_time").replace("\"}", "\"}[1h]");
    let grown = value(&prometheus, &format!("{growth} - {start}")).await;
    assert!(grown >= Some(answers as f64), "{grown:?} of {answers}");
    let observed = "sum(pillion_request_duration_seconds_count{direction=\"outbound\",service=\"orders\"})";
    eventually("all requests are observed", async || {
        let known = value(&prometheus, observed).await?; // none after a scrape that took too long
        assert!(known <= (warm + answers) as f64, "{known} of {}", warm + answers);
        (known == (warm + answers) as f64).then_some(())
    })
    .await;
}

/// What `promtool check metrics` says of a sidecar's exposition. `None`: it is not installed.
async fn promtool(sidecar: &Sidecar) -> Option<String> {
    if !require("promtool") || !require("curl") {
        return None;
    }
    let check = format!("curl -sf http://{}/metrics | promtool check metrics", sidecar.metrics());
    let mut promtool = Command::new("sh");
    promtool.args(["-c", &check]);
    Some(String::from_utf8_lossy(&run(promtool).await.stderr).into_owned())
}

/// An answer with this exposition.
fn plain(text: &str) -> String {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\nconnection: close";
    format!("{head}\r\ncontent-length: {}\r\n\r\n{text}", text.len())
}

/// A sidecar that merges sources with these texts, which are called `s0`, `s1` and so on.
async fn merging(texts: &[&str]) -> (Sidecar, Vec<Backend>) {
    let (mut sources, mut backends) = (Vec::new(), Vec::new());
    for (nth, text) in texts.iter().enumerate() {
        let backend = Backend::saying(plain(text).into_bytes()).await;
        sources.push(format!("{{ name: s{nth}, url: \"http://{}/metrics\" }}", backend.address));
        backends.push(backend);
    }
    let yaml = format!(
        "inbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\nadmin: {{ listen: 127.0.0.1:0 }}\n\
         metrics: {{ listen: 127.0.0.1:0, merge: [{}] }}\n",
        sources.join(", ")
    );
    (Plan::exactly(&yaml).start().await, backends)
}

/// One line of a source must not take the whole scrape of the sidecar down: each is either refused with its source, or
/// exported so that Prometheus takes it, in both formats.
#[tokio::test]
async fn no_line_of_a_source_makes_prometheus_refuse_the_exposition() {
    const LINES: [&str; 32] = [
        "bad 1e999\nbad2 -1e400\nbad3 1e-999\nbad4 +.5e+3\nbad5 5.\nbad6 infinity\nbad7 -NAN\n",
        "x{__name__=\"y\"} 1\n",
        "a 1 -9223372036854775808\n",
        "a 1 9223372036854775807\n",
        "a 1 0\n",
        "a{b=\"\"} 1\na 1\na{c=\"\",b=\"\"} 1\n",
        "a{b=\"1\",c=\"2\"} 1\na{c=\"2\",b=\"1\"} 2\n",
        "a{b=\"\0\"} 1\n",
        "a{b=\"\r\"} 1\n",
        "a{b=\"\t\u{85}\u{2028}\u{7f}\"} 1\n",
        "# HELP a \0 \r \t \\ \" \\n \\\\ \u{2028}\n# TYPE a gauge\na 1\n",
        "# HELP a \\n\na 1\n",
        "a{__a__=\"1\",_=\"2\"} 1\n",
        "# TYPE h histogram\nh_bucket{le=\"x\"} 1\nh_sum NaN\nh_count -1\n",
        "# TYPE h histogram\nh_bucket 1\n",
        "# TYPE s summary\ns{quantile=\"x\"} 1\ns 2\n",
        "# TYPE h histogram\nh_count 1\n# TYPE h_count gauge\nh_count{x=\"1\"} 2\n",
        "# TYPE _total counter\n_total 1\n",
        "# TYPE a counter\na 1\n# TYPE a_total counter\na_total 1\n# TYPE a_total_total counter\na_total_total 1\n",
        "# TYPE a gauge\na 1\n# TYPE a_total counter\na_total 1\n",
        "# TYPE a_seconds counter\na_seconds -1\n# TYPE b_bytes_total counter\nb_bytes_total NaN\n",
        ":a:b 1\nNaN 1\nInf 1\n_ 1\n",
        "up 0\nscrape_samples_scraped 1\n",
        "a 0x1p-2\n",
        "a 1_000\n",
        "a 1 1_000\n",
        "{a=\"b\"} 1\n",
        "a\u{a0}1\n",
        "a{b=\"\u{feff}\"} 1\n",
        "\u{feff}a 1\n",
        "le{le=\"1\"} 1\nle{le=\"1.0\"} 1\n",
        "# EOF\na 1\n",
    ];
    let (mut sidecars, mut texts) = (Vec::new(), Vec::new());
    for lines in LINES.chunks(8) {
        sidecars.push(merging(lines).await);
    }
    for (sidecar, _) in &sidecars {
        let said = promtool(sidecar).await.unwrap_or_default();
        assert!(!said.contains("error"), "{said}");
        // Prometheus asks for OpenMetrics; it gets the text from here
        let text = Wire::connect(sidecar.metrics()).await.get("sidecar", "/metrics").await.text();
        texts.push(Backend::saying(plain(&text).into_bytes()).await);
    }
    let targets = sidecars.iter().map(|(sidecar, _)| sidecar.metrics());
    let targets = targets.chain(texts.iter().map(|text| text.address));
    let targets: Vec<_> = targets.map(|target| format!("\"{target}\"")).collect();
    let Some(prometheus) = Server::prometheus(&targets.join(", ")).await else { return };
    for target in &targets {
        let query = format!("max_over_time(up{{instance={target}}}[1h])");
        eventually(&query, async || value(&prometheus, &query).await.filter(|up| *up > 0.0)).await;
    }
    let up = value(&prometheus, "sum(pillion_merge_up{source=\"s0\"})").await;
    assert!(up > Some(0.0), "sources whose lines are sound are exported: {up:?}");
}

#[tokio::test]
async fn prometheus_and_promtool_read_the_merged_exposition() {
    const BODY: &str = "# HELP jobs_total Jobs.\n# TYPE jobs_total counter\njobs_total{queue=\"a\"} 3\n";
    let (sidecar, _source) = merging(&[BODY]).await;
    let said = promtool(&sidecar).await.unwrap_or_default();
    assert!(said.is_empty(), "{said}");
    let Some(prometheus) = Server::prometheus(&format!("\"{}\"", sidecar.metrics())).await else { return };
    for (query, expected) in [("jobs_total{queue=\"a\"}", 3.0), ("pillion_merge_up{source=\"s0\"}", 1.0)] {
        let found = eventually(query, async || value(&prometheus, query).await).await;
        assert!((found - expected).abs() < f64::EPSILON, "{query}: {found}");
    }
}
