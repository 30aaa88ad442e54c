//! Configurations in ConfigMaps of the input: they count as those of `config-inline` do, and without them defaults are told.

use super::*;

/// A `ConfigMap` with this configuration.
fn map(name: &str, config: &str) -> String {
    let lines: String = config.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: {name} }}\ndata:\n  pillion.yaml: |\n{lines}---\n"
    )
}

const NAMED: &str = "    pillion.io/config: web\n";
const CONFIG: &str = "dns: { listen: 127.0.0.1:15153 }\nadmin: { listen: 127.0.0.1:15100 }\nmetrics: { listen: 0.0.0.0:9102 }\n\
                      inbound: { listen: 0.0.0.0:15106 }\noutbound: { listen: 0.0.0.0:15101 }\n";

fn outcomes(text: &str) -> Vec<Outcome> {
    let notes = inject("f", text, &options()).unwrap_or_else(|faults| unreachable!("{faults}")).notes;
    notes.into_iter().map(|note| note.outcome).collect()
}

#[test]
fn a_configuration_of_the_input_decides_the_same_as_one_in_the_annotation() {
    let whole = format!("{}{}", map("web", CONFIG), pod(NAMED));
    let text = injected(&whole);
    for expected in [
        "--outbound-port=15101",
        "--inbound-port=15106",
        "--admin-port=15100",
        "--metrics-port=9102",
        "--dns-port=15153",
        "--dns",
        "drain, --admin, http://127.0.0.1:15100",
        "--metrics, http://127.0.0.1:9102",
        "path: /ready, port: 9102",
        "/probe/app-liveness, port: 9102",
        "containerPort: 15106",
        "configMap: { name: web }",
    ] {
        assert!(text.replace(['\'', '"'], "").contains(expected), "{expected}: {text}");
    }
    assert_eq!(injected(&text), text);
    assert_eq!(outcomes(&whole), [Outcome::Injected]);
    let inline = format!("    pillion.io/config-inline: {:?}\n", CONFIG);
    let inline = injected(&pod(&inline));
    let added = |text: &str, list: &str| {
        let documents = reading::read(text).unwrap();
        let last = documents.value(documents.documents.last().unwrap(), &mut documents.room()).unwrap();
        last.at(&["spec", list]).unwrap().clone()
    };
    for list in ["initContainers", "containers"] {
        assert!(same(&added(&text, list), &added(&inline, list)), "{}", diff("f", &inline, &text));
    }
}

#[test]
fn the_map_may_come_later_in_a_list_and_in_another_file() {
    let later = format!("{}---\n{}", pod(NAMED), map("web", CONFIG).trim_end_matches("---\n"));
    assert!(injected(&later).contains("--metrics-port=9102"));
    let items = "apiVersion: v1\nkind: List\nitems:\n  - { apiVersion: v1, kind: ConfigMap, metadata: { name: web }, data: { \
                 pillion.yaml: \"dns: {}\" } }\n";
    assert!(injected(&format!("{items}---\n{}", pod(NAMED))).contains("--dns"));

    let files = [("pod".to_owned(), pod(NAMED)), ("map".to_owned(), map("web", CONFIG))];
    let all: Vec<_> = inject_all(&files, &options()).into_iter().map(Result::unwrap).collect();
    assert!(all[0].text.contains("--metrics-port=9102"), "{}", all[0].text);
    assert_eq!((&all[1].text, all[1].notes.len()), (&files[1].1, 0));
}

#[test]
fn namespaces_of_other_files_count_too() {
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: { name: shop, labels: { pillion.io/inject: \"false\" } }\n";
    let pod = changed(&pod(""), "  name: a\n", "  name: a\n  namespace: shop\n");
    let files = [("pod".to_owned(), pod.clone()), ("namespace".to_owned(), namespace.to_owned())];
    let all = inject_all(&files, &options());
    assert_eq!(all[0].as_ref().unwrap().notes[0].outcome, Outcome::Refused);
    assert_eq!(inject("f", &pod, &options()).unwrap().notes[0].outcome, Outcome::Injected);
}

#[test]
fn a_map_that_the_kubelet_or_the_sidecar_could_not_use_is_refused_at_the_annotation() {
    for (config, expected) in [
        ("metrics: off", "leaves the kubelet no metrics port"),
        ("admin: { token: abcdefghijklmnopqrstuvwxyz }", "`pillion drain` in the preStop hook"),
        ("dns: {}\nnothing: 1", "has faults:"),
    ] {
        let told = refused(&format!("{}{}", map("web", config), pod(NAMED)));
        let place = format!("f:{}:5: error: ", 13 + config.lines().count());
        assert!(told.starts_with(&place), "{told}");
        assert!(told.contains("the ConfigMap web (pillion.io/config)") && told.contains(expected), "{told}");
    }
    let other_key = map("web", CONFIG).replace("pillion.yaml:", "other.yaml:");
    let told = refused(&format!("{other_key}{}", pod(NAMED)));
    assert!(told.contains("has no key pillion.yaml, without which the sidecar does not start"), "{told}");
    let probe = sent(NAMED, 15020);
    let told = refused(&format!("{}{probe}", map("web", "dns: {}")));
    assert!(told.contains("neither its configuration nor an earlier run has a probe own"), "{told}");
    injected(&format!("{}{probe}", map("web", OWN_PROBE)));
}

fn unknown(why: Unknown, is_kept: bool) -> Outcome {
    Outcome::ConfigUnknown(UnknownConfig { name: "web".to_owned(), why, is_kept })
}

#[test]
fn defaults_that_are_assumed_for_an_unknown_map_are_told() {
    for text in [pod(NAMED), format!("{}{}", map("other", CONFIG), pod(NAMED))] {
        assert_eq!(outcomes(&text), [Outcome::Injected, unknown(Unknown::Missing, false)]);
        assert_eq!(outcomes(&injected(&text)), [Outcome::Unchanged, unknown(Unknown::Missing, true)]);
    }
    let note = unknown(Unknown::Missing, false).to_string();
    let expected = "assumed are the ports 15000, 15001, 15006, 15020 and 15053, both directions, no DNS proxy and no admin.token: \
                    not known here is the ConfigMap (pillion.io/config) web";
    assert_eq!(note, expected);
}

/// The text of the pod alone, as a run with the map leaves it.
fn alone(config: &str, annotations: &str) -> String {
    let files = [("map".to_owned(), map("web", config)), ("pod".to_owned(), pod(annotations))];
    inject_all(&files, &options()).pop().unwrap().unwrap().text
}

#[test]
fn a_run_without_the_map_keeps_what_a_run_with_it_wrote() {
    let one_way = "metrics: { listen: 0.0.0.0:9102 }\ninbound: off\n";
    let listener = "inbound: { ports: { 8080: { listen: 0.0.0.0:8081 } } }\n";
    let excluded = "    pillion.io/exclude-inbound-ports: \"25\"\n";
    let modes = ["", "    pillion.io/native-sidecar: \"false\"\n", "    pillion.io/mode: tproxy\n"];
    let mut annotations = modes.map(|mode| format!("{NAMED}{excluded}{mode}")).to_vec();
    annotations.push(format!("{NAMED}    pillion.io/mode: explicit\n"));
    for config in [CONFIG, "dns: {}", one_way, "outbound: off", listener] {
        for annotations in &annotations {
            let known = alone(config, annotations);
            assert_eq!(injected(&known), known, "{config}\n{annotations}");
            assert_eq!(outcomes(&known), [Outcome::Unchanged, unknown(Unknown::Missing, true)]);
            let image = "    pillion.io/image: r.example/pillion:2\n";
            let later = injected(&changed(&known, MARK, &format!("{MARK}{image}")));
            let at_once = alone(config, &format!("{image}{annotations}"));
            assert!(same(&read_one(&later), &read_one(&at_once)), "{}", diff("f", &at_once, &later));
        }
    }
}

#[test]
fn what_was_written_for_another_configuration_is_not_kept() {
    let known = alone(CONFIG, NAMED);
    let other = changed(&known, "pillion.io/config: web", "pillion.io/config: other");
    let text = injected(&other);
    assert!(!text.contains("9102") && !text.contains("--dns"), "{text}");
    assert!(matches!(
        &outcomes(&other)[..],
        [_, Outcome::ConfigUnknown(UnknownConfig { is_kept: false, .. })]
    ));
}

#[test]
fn different_maps_of_several_namespaces_are_told_for_a_workload_without_one() {
    let of = |namespace: &str, config| map(&format!("web, namespace: {namespace}"), config);
    let both = format!("{}{}{}", of("a", CONFIG), of("b", "dns: {}"), pod(NAMED));
    let told = unknown(Unknown::Ambiguous(vec!["b".to_owned(), "a".to_owned()]), false);
    assert!(told.to_string().ends_with("different ConfigMaps (pillion.io/config) web: b, a"), "{told}");
    assert_eq!(outcomes(&both), [Outcome::Injected, told]);
    let same = format!("{}{}{}", of("a", "dns: {}"), of("b", "dns: {}"), pod(NAMED));
    assert_eq!(outcomes(&same), [Outcome::Injected]);
}

/// A map whose aliases expand to too much.
fn bomb(name: &str) -> String {
    let bomb: String = (1..40).map(|n| format!("  a{n}: &a{n} [*a{p}, *a{p}, *a{p}]\n", p = n - 1)).collect();
    format!("kind: ConfigMap\nmetadata: {{ name: {name} }}\ndata:\n  a0: &a0 [x]\n{bomb}---\n")
}

#[test]
fn a_map_that_cannot_be_resolved_is_told_where_a_workload_needs_it() {
    let text = format!("{}{}", bomb("web"), pod(NAMED));
    assert_eq!(outcomes(&text), [Outcome::Injected, unknown(Unknown::Unreadable, false)]);
    assert_eq!(outcomes(&format!("{}{}", bomb("other"), pod(""))), [Outcome::Injected]);
}

#[test]
fn a_map_that_cannot_be_resolved_hides_no_other_object() {
    let namespace =
        "kind: Namespace\nmetadata: { name: shop, labels: { pillion.io/inject: \"false\" } }\n---\n";
    let of_shop = changed(&pod(""), "  name: a\n", "  name: a\n  namespace: shop\n");
    assert_eq!(outcomes(&format!("{}{}{namespace}{of_shop}", bomb("a"), bomb("b"))), [Outcome::Refused]);
    let text = format!("{}{}{}", bomb("other"), map("web", CONFIG), pod(NAMED));
    assert_eq!(outcomes(&text), [Outcome::Injected]);
}
