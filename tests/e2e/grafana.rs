//! The dashboard of `deploy/grafana`: a real Prometheus answers every query of it with the series of a pair under load.

use std::path::Path;

use serde_json::Value;

use crate::prometheus::{asked, encoded};
use crate::support::application::application;
use crate::support::backend::{Backend, nobody};
use crate::support::eventually;
use crate::support::load::{Load, Size};
use crate::support::servers::Server;
use crate::support::sidecar::{Pair, Sidecar};
use crate::support::wire::Wire;

/// Longer than the test takes, so that a busy machine changes no answer.
const INTERVAL: &str = "1h";
/// A range has at least two scrapes, also where these come once a minute or are late.
const SHORTEST_RANGE_MIN: u32 = 5;

fn dashboard() -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/grafana/pillion.json");
    serde_json::from_str(&std::fs::read_to_string(file).expect("the dashboard")).expect("JSON")
}

/// Each query with the title of its panel or annotation.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let list = |of: &Value| of.as_array().cloned().unwrap_or_default();
    let text = |of: &Value| of.as_str().expect("a text").to_owned();
    let mut all = Vec::new();
    for panel in list(&dashboard["panels"]) {
        for target in list(&panel["targets"]) {
            all.push((text(&panel["title"]), text(&target["expr"])));
        }
    }
    for annotation in list(&dashboard["annotations"]["list"]) {
        all.push((text(&annotation["name"]), text(&annotation["expr"])));
    }
    all
}

/// The query as Grafana sends it. `$__interval` is no known variable: it may be shorter than the time between two scrapes.
fn filled(query: &str, instances: &str) -> String {
    let mut filled = query.replace("$__rate_interval", INTERVAL).replace("$instance", instances);
    assert!(!filled.contains('$'), "an unknown variable: {filled}");
    for range in ranges(query) {
        let minutes = range.strip_suffix('m').and_then(|minutes| minutes.parse::<u32>().ok());
        assert!(minutes.is_some_and(|minutes| minutes >= SHORTEST_RANGE_MIN), "[{range}] is short: {query}");
        filled = filled.replace(&format!("[{range}]"), &format!("[{INTERVAL}]"));
    }
    filled
}

/// The ranges of a query that are no variables.
fn ranges(query: &str) -> Vec<&str> {
    let after = query.split('[').skip(1).filter_map(|rest| rest.split_once(']'));
    after.map(|(range, _)| range).filter(|range| !range.contains('$')).collect()
}

/// What the variable `instance` stands for when a reader has chosen these sidecars.
fn chosen(instances: &[String]) -> String {
    let escaped: Vec<_> = instances.iter().map(|instance| instance.replace('.', "\\\\.")).collect();
    format!("({})", escaped.join("|"))
}

/// The series that a query has now, and their values.
async fn series(prometheus: &Server, query: &str) -> Option<Vec<(Value, f64)>> {
    let answer = asked(prometheus, &format!("/api/v1/query?query={}", encoded(query))).await?;
    assert_eq!(answer["status"], "success", "{query}: {answer}");
    let value = |of: &Value| of["value"][1].as_str().and_then(|text| text.parse().ok()).expect("a number");
    Some(answer["data"]["result"].as_array()?.iter().map(|of| (of["metric"].clone(), value(of))).collect())
}

/// Fails on a query that Prometheus refuses, and waits until it has data.
async fn has_data(prometheus: &Server, title: &str, query: &str) -> Vec<(Value, f64)> {
    eventually(&format!("data for {title:?}: {query}"), async || {
        let all = series(prometheus, query).await?;
        (!all.is_empty() && all.iter().all(|(_, value)| !value.is_nan())).then_some(all)
    })
    .await
}

/// The values that the dashboard offers for its variable.
async fn offered(prometheus: &Server, dashboard: &Value, count: usize) -> Vec<String> {
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let of_type = |kind| variables.iter().filter(move |variable| variable["type"] == kind);
    assert_eq!((of_type("query").count(), of_type("datasource").count(), variables.len()), (1, 1, 2));
    let query = of_type("query").next().and_then(|variable| variable["query"]["query"].as_str());
    let values = query.and_then(|query| query.strip_prefix("label_values(")?.strip_suffix(')'));
    let (series, label) = values.and_then(|values| values.split_once(", ")).expect("label_values(A, B)");
    let path = format!("/api/v1/label/{label}/values?match[]={}", encoded(series));
    eventually("the values of the variable", async || {
        let answer = asked(prometheus, &path).await?;
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        let known: Vec<String> = serde_json::from_value(answer["data"].clone()).expect("texts");
        (known.len() == count).then_some(known)
    })
    .await
}

/// Puts another configuration to use.
async fn reconfigure(sidecar: &Sidecar) {
    let before = sidecar.reloads("applied").await;
    sidecar.configure(&sidecar.configuration().replace("retry: off", "retry: off, timeout: 9s"));
    sidecar.signal("HUP");
    sidecar.reloaded("applied", before).await;
}

#[tokio::test]
async fn prometheus_answers_every_query_of_the_dashboard() {
    let (app, _task) = application().await;
    let authorization = "authorization: { rules: [{ name: all }] }";
    let grpc = Backend::grpc_failing(14).await;
    // `services` is the last block of the caller
    let gone = format!(
        "}}\n  calls: {{ endpoints: [\"{}\"], retry: off }}\n  gone: {{ endpoints: [\"{}\"], retry: off",
        grpc.address,
        nobody()
    );
    let pair = Pair::start(app, &format!("retry: {{ attempts: 1 }} {gone}"), authorization).await;
    let targets = [&pair.caller, &pair.application].map(|sidecar| format!("\"{}\"", sidecar.metrics()));
    let Some(prometheus) = Server::prometheus(&targets.join(", ")).await else { return };
    let dashboard = dashboard();
    let instances = offered(&prometheus, &dashboard, targets.len()).await;
    let load = Load::start(
        [pair.caller.outbound(), pair.caller.orders()],
        Size { rate: 200, clients: 4, streams: 0 },
    )
    .await;
    let ask_gone = async || {
        assert_eq!(Wire::connect(pair.caller.outbound()).await.get("gone", "/").await.status(), 502);
        assert_eq!(Wire::connect(pair.caller.outbound()).await.call("calls").await.status(), 200);
    };
    ask_gone().await;
    // the first sample of a counter is no increase, so the series must be known before they grow
    for service in ["gone", "calls"] {
        let known = format!("pillion_requests_total{{service=\"{service}\"}}");
        has_data(&prometheus, "a service that fails", &known).await;
    }
    ask_gone().await;
    reconfigure(&pair.caller).await;
    load.goes_on(200).await;

    for (title, query) in queries(&dashboard) {
        // a scrape that took too long leaves series out for a moment
        eventually(&format!("{title}: {query}"), async || {
            let all = has_data(&prometheus, &title, &filled(&query, ".*")).await;
            let both = has_data(&prometheus, &title, &filled(&query, &chosen(&instances))).await;
            let is_share = title == "Share of requests that fail" && query.contains("outbound");
            let share = |service: &str| all.iter().find(|(labels, _)| labels["service"] == service);
            let shares = ["orders", "gone", "calls"].map(|service| share(service).map(|(_, share)| *share));
            let are_right = !is_share || shares == [Some(0.0), Some(1.0), Some(1.0)];
            (all.len() == both.len() && are_right).then_some(())
        })
        .await;
    }
    let tally = load.stop().await;
    assert!(tally.failures.lock().is_empty(), "{:?}", tally.failures.lock());
}
