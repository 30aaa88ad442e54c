//! The alert rules of `deploy/prometheus`: `promtool` accepts them, they fire for the series of a real sidecar whose service
//! fails, and are silent for those of one that is well.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use crate::support::Scratch;
use crate::support::backend::{Backend, nobody};
use crate::support::metrics::Scrape;
use crate::support::sidecar::Plan;
use crate::support::tools::{printed, require};
use crate::support::wire::Wire;

/// One scrape stands for one minute.
const SCRAPES: usize = 12;
const REQUESTS_EACH: usize = 5;

fn rules() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus/alerts.yaml").display().to_string()
}

/// The rules without their annotations, which promtool would compare to the letter.
fn without_annotations(rules: &str) -> String {
    const ANNOTATIONS: [&str; 3] = ["annotations:", "summary: ", "description: "];
    let is_other = |line: &&str| !ANNOTATIONS.iter().any(|key| line.trim_start().starts_with(key));
    rules.lines().filter(is_other).fold(String::new(), |text, line| text + line + "\n")
}

fn promtool(words: &[&str]) -> Command {
    let mut command = Command::new("promtool");
    command.args(words);
    command
}

/// What the application of a sidecar sends.
#[derive(Clone, Copy)]
enum Traffic {
    Http,
    Grpc,
}

/// The scrapes of a sidecar while it gets requests for this service of an application.
async fn recorded(endpoint: std::net::SocketAddr, traffic: Traffic, status: u16) -> Vec<Scrape> {
    let sidecar = Plan::calling(endpoint, "retry: off").start().await;
    let mut client = Wire::connect(sidecar.outbound()).await;
    let mut scrapes = Vec::new();
    for _ in 0..SCRAPES {
        for _ in 0..REQUESTS_EACH {
            let answer = match traffic {
                Traffic::Http => client.get("orders", "/").await,
                Traffic::Grpc => client.call("orders").await,
            };
            assert_eq!(answer.status(), status);
        }
        let counted = (REQUESTS_EACH * (scrapes.len() + 1)) as u32;
        sidecar.counted(counted, &[("service", "orders")]).await;
        scrapes.push(sidecar.scrape().await);
    }
    scrapes
}

/// A file for `promtool test rules`: the recorded series, and the alerts that must fire after ten minutes.
fn test_file(rules: &str, scrapes: &[Scrape], alerts: &[(&str, Option<&str>)]) -> String {
    let mut text = format!(
        "rule_files: [\"{}\"]\nevaluation_interval: 1m\ntests:\n  - interval: 1m\n    input_series:\n      \
         - {{ series: 'up{{job=\"pillion\", instance=\"orders:15020\"}}', values: '1x20' }}\n",
        rules
    );
    let last = scrapes.last().expect("a scrape");
    for series in last.series() {
        let values: Vec<String> = scrapes.iter().map(|scrape| scrape.value(&series)).collect();
        let labelled = with_instance(&series);
        // writing into a text cannot fail
        writeln!(text, "      - {{ series: '{labelled}', values: '{}' }}", values.join(" "))
            .unwrap_or_default();
    }
    text += "    alert_rule_test:\n";
    for (alert, summary) in alerts {
        let expected = match summary {
            None => "[]".to_owned(),
            Some(labels) => format!("[{{ exp_labels: {labels} }}]"),
        };
        writeln!(text, "      - {{ eval_time: 11m, alertname: {alert}, exp_alerts: {expected} }}")
            .unwrap_or_default();
    }
    text
}

/// What Prometheus adds to every series that it scrapes.
fn with_instance(series: &str) -> String {
    const INSTANCE: &str = "instance=\"orders:15020\", job=\"pillion\"";
    match series.split_once('{') {
        Some((name, "}")) => format!("{name}{{{INSTANCE}}}"),
        Some((name, labels)) => format!("{name}{{{INSTANCE}, {labels}"),
        None => format!("{series}{{{INSTANCE}}}"),
    }
}

#[tokio::test]
async fn the_rules_fire_for_a_pair_that_fails_and_are_silent_for_one_that_is_well() {
    if !require("promtool") {
        return;
    }
    printed(promtool(&["check", "rules", &rules()])).await;
    let scratch = Scratch::new();
    let bare = without_annotations(&std::fs::read_to_string(rules()).expect("the rules"));
    let bare = scratch.write("alerts.yaml", &bare).display().to_string();
    let app = Backend::echo().await;
    let well = test_file(
        &bare,
        &recorded(app.address, Traffic::Http, 200).await,
        &[
            ("PillionRequestsFail", None),
            ("PillionDown", None),
            ("PillionLimitRefuses", None),
            ("PillionReloadIsRefused", None),
        ],
    );
    let failing = "{ severity: critical, instance: \"orders:15020\", direction: outbound, service: orders }";
    let alerts = [("PillionRequestsFail", Some(failing)), ("PillionDown", None)];
    let fails = test_file(&bare, &recorded(nobody(), Traffic::Http, 502).await, &alerts);
    let grpc = Backend::grpc_failing(14).await;
    let grpc = test_file(&bare, &recorded(grpc.address, Traffic::Grpc, 200).await, &alerts);
    for (name, text) in [("well.yaml", well), ("fails.yaml", fails), ("grpc.yaml", grpc)] {
        let file = scratch.write(name, &text).display().to_string();
        printed(promtool(&["test", "rules", &file])).await;
    }
}

/// Series that no sidecar of the tests has in minutes: those of an API server that is silent, and of memory that is short.
#[tokio::test]
async fn the_rules_tell_of_a_discovery_without_its_server_and_of_short_memory() {
    if !require("promtool") {
        return;
    }
    let scratch = Scratch::new();
    let bare = without_annotations(&std::fs::read_to_string(rules()).expect("the rules"));
    let bare = scratch.write("alerts.yaml", &bare).display().to_string();
    // the tests of promtool begin in 1970, and one step is a minute: the second sidecar hears its server at every step
    let text = format!(
        "rule_files: [\"{bare}\"]\nevaluation_interval: 1m\ntests:\n  - interval: 1m\n    input_series:\n      \
         - {{ series: 'pillion_kubernetes_heard_timestamp_seconds{{instance=\"silent\"}}', values: '0x20' }}\n      \
         - {{ series: 'pillion_kubernetes_heard_timestamp_seconds{{instance=\"well\"}}', values: '0+60x20' }}\n      \
         - {{ series: 'pillion_memory_shed_total{{instance=\"short\", kind=\"refused\"}}', values: '0+5x20' }}\n      \
         - {{ series: 'pillion_memory_shed_total{{instance=\"well\", kind=\"refused\"}}', values: '7x20' }}\n    \
         alert_rule_test:\n      \
         - {{ eval_time: 9m, alertname: PillionDiscoveryIsCutOff, exp_alerts: [] }}\n      \
         - {{ eval_time: 17m, alertname: PillionDiscoveryIsCutOff, \
         exp_alerts: [{{ exp_labels: {{ severity: warning, instance: silent }} }}] }}\n      \
         - {{ eval_time: 17m, alertname: PillionShedsMemory, \
         exp_alerts: [{{ exp_labels: {{ severity: warning, instance: short, kind: refused }} }}] }}\n"
    );
    let file = scratch.write("states.yaml", &text).display().to_string();
    printed(promtool(&["test", "rules", &file])).await;
}
