//! Whole manifests, by subject.

use super::*;

mod config_maps;
mod configuration;
mod hostile;
mod later_runs;
mod probes;
mod refusals;
mod styles;

/// Where [`pod`] has a place for annotations.
const MARK: &str = "    x: y\n";
/// A configuration that has a probe of its own.
const OWN_PROBE: &str = "inbound: { probes: [{ name: own, port: 80, tcp: true }] }";

fn options() -> Options {
    Options { all: true, image: "pillion:1".to_owned() }
}

fn injected(text: &str) -> String {
    inject("f", text, &options()).unwrap_or_else(|faults| unreachable!("{faults}\n{text}")).text
}

fn refused(text: &str) -> String {
    inject("f", text, &options()).expect_err("refused").to_string()
}

fn pod(annotations: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  annotations:\n    x: y\n{annotations}spec:\n  containers:\n    - name: app\n      \
         image: example/app\n      livenessProbe: {{ tcpSocket: {{ port: 80 }} }}\n"
    )
}

/// The text with another annotation in place of one, or with one more.
fn changed(text: &str, from: &str, to: &str) -> String {
    let changed = text.replacen(from, to, 1);
    assert_ne!(changed, text);
    changed
}

fn read_one(text: &str) -> Value {
    let tree = reading::read(text).unwrap();
    tree.value(&tree.documents[0], &mut tree.room()).unwrap()
}

/// A pod whose probe a person sent to the sidecar.
fn sent(annotations: &str, port: u16) -> String {
    let asks = format!("{{ httpGet: {{ path: /probe/own, port: {port} }} }}");
    changed(&pod(annotations), "{ tcpSocket: { port: 80 } }", &asks)
}
