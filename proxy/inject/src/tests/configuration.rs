//! Configurations in the annotation `config-inline`: what they change in the commands and ports that are written.

use super::*;

#[test]
fn a_configuration_with_which_the_kubelet_could_not_work_is_refused() {
    for (config, expected) in [
        ("metrics: off", "leaves the kubelet no metrics port"),
        ("metrics: { listen: 127.0.0.1:15020 }", "leaves the kubelet no metrics port"),
        ("admin: { token: abcdefghijklmnopqrstuvwxyz }", "`pillion drain` in the preStop hook"),
    ] {
        let told = refused(&pod(&format!("    pillion.io/config-inline: \"{config}\"\n")));
        assert!(told.contains(expected), "{told}");
    }
    let text = injected(&pod("    pillion.io/config-inline: \"metrics: { listen: 0.0.0.0:9102 }\"\n"));
    for expected in [
        "--metrics-port=9102",
        "--metrics, http://127.0.0.1:9102",
        "path: /ready, port: 9102",
        "/probe/app-liveness, port: 9102",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[test]
fn commands_ask_the_addresses_on_which_the_sidecar_listens() {
    let with = |config: &str| injected(&pod(&format!("    pillion.io/config-inline: \"{config}\"\n")));
    for (config, drain, wait) in [
        ("admin: { listen: '[::1]:15000' }", "drain, --admin, http://[::1]:15000]", "wait, --timeout, 30s]"),
        ("admin: { listen: ['127.0.0.1:15000', '[::1]:15000'] }", "drain]", "wait, --timeout, 30s]"),
        ("metrics: { listen: '[::]:15020' }", "drain]", "30s, --metrics, http://[::1]:15020]"),
        (
            "metrics: { listen: ['127.0.0.1:9101', '0.0.0.0:9102'] }",
            "drain]",
            "30s, --metrics, http://127.0.0.1:9102]",
        ),
    ] {
        let text = with(config);
        let text = text.replace(['\'', '"'], "");
        assert!(text.contains(drain) && text.contains(wait), "{config}: {text}");
    }
    let text = with("metrics: { listen: ['127.0.0.1:9101', '0.0.0.0:9102'] }");
    for expected in ["--metrics-port=9102", "/ready, port: 9102", "/probe/app-liveness, port: 9102"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}
