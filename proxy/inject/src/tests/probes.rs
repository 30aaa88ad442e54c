//! Probes that the sidecar answers in place of the application, and hooks that it must not answer.

use super::*;

#[test]
fn a_rewritten_probe_is_not_made_up_again() {
    let first = injected(&pod(""));
    let text = refused(&changed(&first, MARK, &format!("{MARK}    pillion.io/probes: keep\n")));
    assert!(
        text.starts_with("f:") && text.contains("run `pillion inject` over the manifest as it was before"),
        "{text}"
    );
}

#[test]
fn a_probe_that_a_person_sent_to_the_sidecar_is_left_alone_if_the_configuration_may_have_it() {
    let inline = format!("    pillion.io/config-inline: \"{OWN_PROBE}\"\n");
    for annotations in ["    pillion.io/config: web\n", &inline] {
        let text = injected(&sent(annotations, 15020));
        assert!(text.contains("path: /probe/own, port: 15020") && !text.contains("--probe"), "{text}");
    }
    for annotations in ["", "    pillion.io/config-inline: \"dns: {}\"\n"] {
        let told = refused(&sent(annotations, 15020));
        assert!(told.contains("neither its configuration nor an earlier run has a probe own"), "{told}");
    }
}

#[test]
fn a_dollar_in_a_probe_is_no_variable_for_kubernetes() {
    let asks = "{ httpGet: { path: /$(POD)/$$/a$, port: 80 } }";
    let first = injected(&changed(&pod(""), "{ tcpSocket: { port: 80 } }", asks));
    let word = "--probe=app-liveness=http:80/$$(POD)/$$$$/a$$";
    assert!(first.contains(word), "{first}");
    assert_eq!(injected(&first), first);
    let metrics = "    pillion.io/config-inline: \"metrics: { listen: '0.0.0.0:9102' }\"\n";
    let later = injected(&changed(&first, MARK, &format!("{MARK}{metrics}")));
    assert!(later.contains(word) && later.contains("/probe/app-liveness, port: 9102"), "{later}");
}

#[test]
fn rewritten_probes_follow_the_metrics_port() {
    let metrics =
        |port: u16| format!("    pillion.io/config-inline: \"metrics: {{ listen: '0.0.0.0:{port}' }}\"\n");
    let first = injected(&pod(""));
    let later = injected(&changed(&first, MARK, &format!("{MARK}{}", metrics(9102))));
    for expected in ["path: /probe/app-liveness, port: 9102", "--probe=app-liveness=tcp:80"] {
        assert!(later.contains(expected), "{expected}: {later}");
    }
    assert_eq!(injected(&later), later);
    let third = injected(&changed(&later, &metrics(9102), &metrics(9103)));
    assert!(same(&read_one(&third), &read_one(&injected(&pod(&metrics(9103))))), "{third}");
    let back = injected(&changed(&later, &metrics(9102), ""));
    assert!(same(&read_one(&back), &read_one(&first)), "{}", diff("f", &first, &back));

    let both = |port: u16| {
        format!("    pillion.io/config-inline: \"{OWN_PROBE}\\nmetrics: {{ listen: '0.0.0.0:{port}' }}\"\n")
    };
    let own = injected(&sent(&both(9102), 9102));
    let moved = injected(&changed(&own, &both(9102), &both(9103)));
    assert!(moved.contains("path: /probe/own, port: 9103") && !moved.contains("--probe"), "{moved}");
}

#[test]
fn a_hook_by_http_never_becomes_a_page_of_the_metrics_port() {
    let hook = |annotations: &str, asks: &str| {
        format!("{}      lifecycle: {{ preStop: {{ httpGet: {{ {asks} }} }} }}\n", pod(annotations))
    };
    for (asks, expected) in [
        ("path: /bye, port: 8080", "the hook asks the port 8080, which is redirected"),
        ("path: /bye, port: 8080, scheme: HTTPS", "write the hook as a command of the container (`exec`)"),
        ("path: /bye, port: web", "names a port that its container does not have"),
        ("path: /probe/app-prestop, port: 15020", "every client could call it"),
    ] {
        let told = refused(&hook("", asks));
        assert!(told.contains(expected) && told.contains("pillion.io/exclude-inbound-ports"), "{told}");
    }
    for (annotations, asks) in [
        ("    pillion.io/exclude-inbound-ports: \"8080\"\n", "path: /bye, port: 8080"),
        ("    pillion.io/mode: explicit\n    pillion.io/app-port: \"80\"\n", "path: /bye, port: 8080"),
        ("    pillion.io/probes: keep\n", "path: /bye, port: 8080"),
        ("", "path: /bye, port: 8080, host: other.example"),
    ] {
        let text = injected(&hook(annotations, asks));
        assert!(text.contains(asks) && !text.contains("prestop"), "{text}");
    }
}

#[test]
fn an_excluded_port_leaves_its_probe_and_a_name_finds_its_port() {
    let text = pod("    pillion.io/exclude-inbound-ports: \"80\"\n");
    assert!(injected(&text).contains("tcpSocket"));
    let named = pod("").replace("{ port: 80 }", "{ port: web }");
    assert!(refused(&named).contains("names a port that its container does not have"));
    let named = named.replace("image:", "ports: [{ name: web, containerPort: 81 }]\n      image:");
    assert!(injected(&named).contains("--probe=app-liveness=tcp:81"));
}
