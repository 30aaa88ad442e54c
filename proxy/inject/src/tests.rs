//! Whole manifests: what a later run changes, what hostile texts cost, and random styles of writing.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

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

const MARK: &str = "    x: y\n";

#[test]
fn a_changed_annotation_changes_what_an_earlier_run_wrote() {
    let first = injected(&pod(""));
    for annotations in [
        "    pillion.io/image: r.example/pillion:2\n",
        "    pillion.io/mode: tproxy\n",
        "    pillion.io/mode: explicit\n    pillion.io/app-port: \"80\"\n",
        "    pillion.io/native-sidecar: \"false\"\n",
        "    pillion.io/identity-secret: certs\n",
        "    pillion.io/log-volume: /logs\n",
        "    pillion.io/exclude-outbound-ports: \"25\"\n",
        "    pillion.io/config-inline: \"dns: {}\"\n",
        "    pillion.io/memory-limit: 1Gi\n",
    ] {
        let later = injected(&changed(&first, MARK, &format!("{MARK}{annotations}")));
        let at_once = injected(&pod(annotations));
        assert!(
            same(&read_one(&later), &read_one(&at_once)),
            "{annotations}\n{}",
            diff("f", &at_once, &later)
        );
        let back = injected(&changed(&later, annotations, ""));
        let expected = match annotations.contains("native-sidecar") {
            true => {
                changed(&first, MARK, &format!("{MARK}    kubectl.kubernetes.io/default-container: app\n"))
            }
            false => first.clone(),
        };
        assert!(same(&read_one(&back), &read_one(&expected)), "{annotations}\n{}", diff("f", &first, &back));
    }
}

#[test]
fn what_others_added_to_the_sidecar_stays() {
    let first = injected(&pod(""));
    let added = "      volumeMounts: [{ name: kube-api-access-x7, mountPath: /var/run/secrets/kubernetes.io/serviceaccount }] # theirs\n";
    let with_mount = format!("{first}{added}");
    assert_eq!(injected(&with_mount), with_mount);
    let annotations = "    pillion.io/identity-secret: certs\n    pillion.io/cpu: 50m\n";
    let later = injected(&changed(&with_mount, MARK, &format!("{MARK}{annotations}")));
    for expected in
        ["name: kube-api-access-x7", "# theirs", "name: pillion-identity", "cpu: 50m", "memory: 128Mi"]
    {
        assert!(later.contains(expected), "{expected}: {later}");
    }
    let back = injected(&changed(&later, annotations, ""));
    assert!(same(&read_one(&back), &read_one(&with_mount)), "{}", diff("f", &with_mount, &back));
}

#[test]
fn a_sidecar_that_stays_in_a_refused_template_is_told() {
    let refusal = "    pillion.io/inject: \"false\"\n";
    for (text, expected) in [
        (pod(refusal), Outcome::Refused),
        (changed(&injected(&pod("")), MARK, &format!("{MARK}{refusal}")), Outcome::RefusedAndStays),
    ] {
        let injected = inject("f", &text, &options()).unwrap();
        assert_eq!((&injected.text, &injected.notes[0].outcome), (&text, &expected));
    }
    let note = Note { workload: "Pod a".to_owned(), outcome: Outcome::RefusedAndStays };
    assert!(note.to_string().contains("the sidecar of an earlier run stays"), "{note}");
}

fn read_one(text: &str) -> Value {
    let tree = reading::read(text).unwrap();
    tree.value(&tree.documents[0], &mut tree.room()).unwrap()
}

#[test]
fn a_rewritten_probe_is_not_made_up_again() {
    let first = injected(&pod(""));
    let text = refused(&changed(&first, MARK, &format!("{MARK}    pillion.io/probes: keep\n")));
    assert!(
        text.starts_with("f:") && text.contains("run `pillion inject` over the manifest as it was before"),
        "{text}"
    );
}

/// A pod whose probe a person sent to the sidecar.
fn sent(annotations: &str, port: u16) -> String {
    let asks = format!("{{ httpGet: {{ path: /probe/own, port: {port} }} }}");
    changed(&pod(annotations), "{ tcpSocket: { port: 80 } }", &asks)
}

const OWN_PROBE: &str = "inbound: { probes: [{ name: own, port: 80, tcp: true }] }";

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

#[test]
fn log_files_are_mounted_where_nothing_else_is() {
    let logs = |folder: &str| format!("    pillion.io/log-volume: {folder}\n");
    let mounted = |folder: &str| {
        format!("{}      volumeMounts: [{{ name: data, mountPath: /data/ }}]\n", pod(&logs(folder)))
    };
    for (folder, expected) in [
        ("/data", "where the container app has another volume"),
        ("//data/.", "where the container app has another volume"),
        ("/etc/pillion", "and the sidecar has /etc/pillion for itself"),
        ("/etc/pillion/logs", "and the sidecar has /etc/pillion for itself"),
        ("/var/run", "and the sidecar has /var/run/pillion/identity for itself"),
        ("/pillion", "and the sidecar has /pillion for itself"),
    ] {
        let told = refused(&mounted(folder));
        assert!(told.contains(expected) && told.contains("name another folder"), "{told}");
    }
    let text = injected(&mounted("/data/logs"));
    assert_eq!(injected(&text), text);

    let first = "  initContainers:\n    - { name: shipper, image: i, restartPolicy: Always }\n    - { name: setup, image: i }\n";
    let others = changed(&pod(&logs("/logs")), "  containers:\n", &format!("{first}  containers:\n"));
    let text = injected(&others);
    assert_eq!(injected(&text), text);
    let mounts = |text: &str, nth: usize| {
        read_one(text).at(&["spec", "initContainers"]).unwrap().items()[nth].get("volumeMounts").is_some()
    };
    assert_eq!([mounts(&text, 1), mounts(&text, 2), mounts(&text, 3)], [true, true, false], "{text}");
    let without = injected(&changed(&text, &logs("/logs"), ""));
    assert!(!without.contains("pillion-logs"), "{without}");
    let ending = text.replace("image: i, restartPolicy: Always", "image: i");
    assert!(!mounts(&injected(&ending), 2), "{ending}");
}

#[test]
fn faults_of_several_workloads_are_told_in_the_order_of_the_file() {
    let text = format!("{}---\n{}", pod("    pillion.io/mode: a\n"), pod("    pillion.io/mode: b\n"));
    let told = refused(&text);
    let places: Vec<&str> = told.lines().filter_map(|line| line.split(": error").next()).collect();
    assert_eq!(places, ["f:7:5", "f:20:5"], "{told}");
}

#[test]
fn a_pod_that_ends_by_itself_has_no_classic_sidecar() {
    let owner = |kind: &str| format!("  ownerReferences: [{{ kind: {kind}, name: import }}]\n");
    let classic = "    pillion.io/native-sidecar: \"false\"\n";
    let with =
        |metadata: &str, spec: &str| changed(&pod(classic), "spec:\n", &format!("{metadata}spec:\n{spec}"));
    for (text, expected) in [
        (with(&owner("Job"), ""), "the pod of a job would never end"),
        (with("", "  restartPolicy: Never\n"), "the pod with `restartPolicy: Never` would never end"),
        (with("", "  restartPolicy: OnFailure\n"), "the pod with `restartPolicy: OnFailure` would never end"),
    ] {
        let told = refused(&text);
        assert!(told.contains(expected) && told.contains("leave pillion.io/native-sidecar out"), "{told}");
        injected(&text.replace(classic, ""));
    }
    injected(&with(&owner("ReplicaSet"), "  restartPolicy: Always\n"));
}

#[test]
fn what_cannot_be_a_pod_is_refused_with_its_place() {
    for (text, expected) in [
        ("spec: {}", "the pod has no list of containers"),
        ("spec: { containers: [a] }", "`containers` is no list of maps with names"),
        ("spec: { containers: [{ name: a }], volumes: {} }", "`volumes` is no list of maps with names"),
        ("spec: { containers: [{ name: a, volumeMounts: 1 }] }", "`volumeMounts` of a container is no list"),
        ("metadata: []", "the metadata of the pod are no map"),
        ("spec: { containers: [{ name: a, [x]: y }] }", "a key of this map is not a text"),
    ] {
        let told = refused(&format!("apiVersion: v1\nkind: Pod\n{text}\n"));
        assert!(told.contains(expected) && told.starts_with("f:"), "{told}");
    }
}

#[test]
fn an_anchor_that_another_object_uses_is_not_changed_for_it() {
    let text = "apiVersion: v1\nkind: List\nitems:\n  - apiVersion: v1\n    kind: Pod\n    metadata: &meta { name: a, annotations: \
                { pillion.io/inject: \"true\" } }\n    spec: { containers: [{ name: a, image: b }] }\n  - apiVersion: v1\n    kind: \
                ConfigMap\n    metadata: *meta\n";
    assert!(refused(text).contains("write the parts of the pods that anchors and aliases share out"));
}

#[test]
fn hostile_texts_end_soon() {
    let bomb: String = (1..40).map(|n| format!("  a{n}: &a{n} [*a{p}, *a{p}, *a{p}]\n", p = n - 1)).collect();
    let bomb = format!(
        "apiVersion: v1\nkind: Pod\nx:\n  a0: &a0 [x]\n{bomb}spec: {{ containers: [{{ name: a }}] }}\n"
    );
    let merges: String =
        (1..40).map(|n| format!("  a{n}: &a{n} {{ <<: [*a{p}, *a{p}], k{n}: 1 }}\n", p = n - 1)).collect();
    let merges = format!("apiVersion: v1\nkind: Pod\nx:\n  a0: &a0 {{ k0: 1 }}\n{merges}");
    let texts = [
        "[".repeat(1_000_000),
        "{\"a\":".repeat(1_000_000),
        "- ".repeat(1_000_000),
        "? ".repeat(1_000_000),
        "a:\n".repeat(100_000),
        (0..5000).map(|n| format!("{}a:\n", " ".repeat(n))).collect(),
        bomb,
        merges,
        "x".repeat((32 << 20) + 1),
        "&a [*a]".to_owned(),
        "kind: Pod\napiVersion: v1\nspec: *nothing\n".to_owned(),
        "\"".to_owned(),
        "%YAML 9.9\n---\nkind: !!binary Pod\n".to_owned(),
    ];
    for text in texts {
        let began = Instant::now();
        let _either = inject("f", &text, &options());
        assert!(began.elapsed() < Duration::from_secs(60), "{}", &text[..text.len().min(40)]);
    }
}

#[test]
fn aliases_of_long_texts_expand_to_no_more_than_a_bound() {
    let long = "x".repeat(500_000);
    let many = |alias: &str, count: usize| vec![alias; count].join(", ");
    let document = |anchored: &str, count: usize| {
        let pod = "apiVersion: v1\nkind: Pod\nmetadata: { name: a }\nspec: { containers: [{ name: a }] }\n";
        format!("{pod}x: &long {anchored}\ny: [{}]\n", many("*long", count))
    };
    for anchored in [long.clone(), format!("{{ {long}: }}"), format!("{{ ? {long} : 1, b: 2 }}")] {
        let told = refused(&document(&anchored, 20_000));
        assert!(told.contains("the aliases of this document expand to too much"), "{told}");
        injected(&document(&anchored, 20));
    }
    let merges =
        format!("{}z: {{ <<: [{}] }}\n", document(&format!("{{ {long}: 1 }}"), 1), many("*long", 200));
    assert!(refused(&merges).contains("expand to too much"));
    let documents = vec![document(&long, 100); 2].join("---\n");
    assert!(refused(&documents).contains("expand to too much"), "documents share the bound");
}

#[test]
fn many_documents_with_many_containers_take_no_square_of_time() {
    let containers: String = (0..500).map(|n| format!("    - name: c{n}\n      image: i\n")).collect();
    let one = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: a }}\nspec:\n  containers:\n{containers}---\n"
    );
    let began = Instant::now();
    assert_eq!(injected(&one.repeat(20)).matches("name: pillion\n").count(), 20);
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[test]
fn one_pod_of_many_entries_takes_no_square_of_time() {
    let annotations: String = (0..20_000).map(|n| format!("    a{n}: b\n    pillion.io/a{n}: b\n")).collect();
    let containers: Vec<String> =
        (0..4_000).map(|n| format!("{{\"name\":\"c{n}\",\"volumeMounts\":[{{\"name\":\"x\"}}]}}")).collect();
    let json = format!(
        "{{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{{\"annotations\":{{\"pillion.io/log-volume\":\"/x\"}}}},\"spec\":{{\"containers\":[{}]}}}}",
        containers.join(",")
    );
    let began = Instant::now();
    let faults = inject("f", &pod(&annotations), &options()).expect_err("unknown annotations").faults;
    assert_eq!(faults.len(), 20);
    injected(&pod(&annotations.replace("    pillion.io/", "    other.io/")));
    assert_eq!(injected(&json).matches("pillion-logs").count(), 4_002);
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

// --- random styles

/// How a random manifest is written.
#[derive(Debug, Clone)]
struct Style {
    step: usize,
    /// Dashes stand below their key, and not to the right of it.
    is_outdented: bool,
    /// Every how many values one is written with brackets, has quotes, or has a comment. 0: none.
    flow: usize,
    quotes: usize,
    comments: usize,
    newline: &'static str,
}

struct Writer<'s> {
    style: &'s Style,
    count: usize,
}

impl Writer<'_> {
    fn is_next(&mut self, every: usize) -> bool {
        self.count += 1;
        every != 0 && self.count.is_multiple_of(every)
    }

    fn comment(&mut self) -> &'static str {
        if self.is_next(self.style.comments) { "   # ä comment: [with] \"signs\"" } else { "" }
    }

    fn text(&mut self, value: &Value) -> String {
        match value.as_text() {
            Some(text) if self.is_next(self.style.quotes) => format!("'{text}'"),
            _ => write::flow(value, write::Syntax::Yaml),
        }
    }

    /// The lines of a map or a list, from the first key or dash on.
    fn block(&mut self, value: &Value, column: usize) -> String {
        let indent = " ".repeat(column);
        let mut lines = Vec::new();
        match value {
            Value::Map(entries) => {
                for (key, value) in entries {
                    lines.push(format!("{key}:{}", self.behind(value, column)));
                }
            }
            value => {
                for item in value.items() {
                    let inner = column + self.style.step.max(2);
                    let gap = " ".repeat(inner - column - 1);
                    let is_map = !item.entries().is_empty() && !self.is_next(self.style.flow);
                    let item =
                        if is_map { self.block(item, inner) } else { self.text(item) + self.comment() };
                    lines.push(format!("-{gap}{item}"));
                }
            }
        }
        lines.join(&format!("\n{indent}"))
    }

    fn behind(&mut self, value: &Value, column: usize) -> String {
        let is_full = !value.entries().is_empty() || !value.items().is_empty();
        if !is_full || self.is_next(self.style.flow) {
            return format!(" {}{}", self.text(value), self.comment());
        }
        let is_outdented = self.style.is_outdented && !value.items().is_empty();
        let inner = if is_outdented { column } else { column + self.style.step };
        format!("{}\n{}{}", self.comment(), " ".repeat(inner), self.block(value, inner))
    }
}

fn style() -> impl Strategy<Value = Style> {
    let numbers = (1usize..6, any::<bool>(), 0usize..6, 0usize..4, 0usize..4);
    (numbers, prop::sample::select(vec!["\n", "\r\n"])).prop_map(
        |((step, is_outdented, flow, quotes, comments), newline)| Style {
            step,
            is_outdented,
            flow,
            quotes,
            comments,
            newline,
        },
    )
}

fn named(prefix: &'static str, most: usize) -> impl Strategy<Value = Vec<crate::value::Value>> {
    let item = (any::<bool>(), any::<bool>()).prop_map(move |(has_mounts, has_args)| {
        let mut item = Value::map([("name", Value::text(prefix)), ("image", Value::text("example/app:1"))]);
        if has_args {
            item.put("args", Value::texts(&["--a", "b c", "8080"]));
        }
        if has_mounts {
            let mount = Value::map([("name", Value::text("data")), ("mountPath", Value::text("/data"))]);
            item.put("volumeMounts", Value::List(vec![mount]));
        }
        item
    });
    prop::collection::vec(item, 0..=most).prop_map(move |mut items| {
        for (nth, item) in items.iter_mut().enumerate() {
            item.put("name", Value::text(format!("{prefix}{nth}")));
        }
        items
    })
}

/// A Deployment whose probes stay as they are, so that nothing of it is replaced.
fn manifest() -> impl Strategy<Value = Value> {
    let volume = Value::map([("name", Value::text("data")), ("emptyDir", Value::map([]))]);
    (named("app", 3), named("first", 2), any::<[bool; 4]>()).prop_map(move |(containers, first, flags)| {
        let [has_volumes, has_log, is_native, has_labels] = flags;
        let mut annotations = Value::map([("pillion.io/probes", Value::text("keep"))]);
        if has_log {
            annotations.put("pillion.io/log-volume", Value::text("/var/log"));
        }
        annotations.put("pillion.io/native-sidecar", Value::text(is_native.to_string()));
        let mut metadata = Value::map([("annotations", annotations)]);
        if has_labels {
            metadata.put("labels", Value::map([("app", Value::text("web"))]));
        }
        let mut spec = Value::map([]);
        if !first.is_empty() {
            spec.put("initContainers", Value::List(first));
        }
        let more = Value::map([("name", Value::text("last")), ("image", Value::text("example/last"))]);
        spec.put("containers", Value::List(containers.into_iter().chain([more]).collect()));
        if has_volumes {
            spec.put("volumes", Value::List(vec![volume.clone()]));
        }
        let template = Value::map([("metadata", metadata), ("spec", spec)]);
        Value::map([
            ("apiVersion", Value::text("apps/v1")),
            ("kind", Value::text("Deployment")),
            ("metadata", Value::map([("name", Value::text("web"))])),
            ("spec", Value::map([("replicas", Value::number(2)), ("template", template)])),
        ])
    })
}

/// Takes out what the sidecar added.
fn removed(value: &Value) -> Value {
    let is_ours =
        |item: &Value| item.name().is_some_and(|name| name == "pillion" || name.starts_with("pillion-"));
    match value {
        Value::Map(entries) => {
            let left = entries.iter().filter(|(key, value)| {
                let has_ours = value.items().iter().any(is_ours) && value.items().iter().all(is_ours);
                !has_ours && key != "pillion.io/injected" && key != "kubectl.kubernetes.io/default-container"
            });
            Value::Map(left.map(|(key, value)| (key.clone(), removed(value))).collect())
        }
        Value::List(items) => Value::List(items.iter().filter(|item| !is_ours(item)).map(removed).collect()),
        value => value.clone(),
    }
}

fn is_part(text: &str, of: &str) -> bool {
    let mut rest = of.bytes();
    text.bytes().all(|byte| rest.any(|other| other == byte))
}

proptest! {
    #[test]
    fn everything_outside_of_the_additions_stays(value in manifest(), style in style(), is_json in any::<bool>()) {
        let text = match is_json {
            true if style.step > 3 => write::flow(&value, write::Syntax::Compact),
            true => write::pretty(&value, write::Syntax::Json, "", &" ".repeat(style.step)),
            false => Writer { style: &style, count: 0 }.block(&value, 0) + "\n",
        };
        let text = text.replace('\n', style.newline);
        let new = injected(&text);
        prop_assert!(is_part(&text, &new), "{}", diff("f", &text, &new));
        prop_assert!(same(&removed(&read_one(&new)), &value), "{}", diff("f", &text, &new));
        prop_assert_eq!(&injected(&new), &new);
        let lone = new.split('\n').filter(|line| !line.ends_with('\r')).count();
        prop_assert!(style.newline == "\n" || lone <= 1, "{:?}", new);
    }

    /// A damaged manifest is refused, or is changed so that a second run changes nothing.
    #[test]
    fn a_damaged_text_causes_no_panic(
        nth in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        sign in prop::sample::select(vec!["", " ", "\n", "\t", "{", "]", ":", "- ", "\"", "#", "&a ", "*a", "|", "ä", "\r", "---\n", "0"]),
    ) {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/in");
        let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        let text = std::fs::read_to_string(nth.get(&files)).unwrap();
        let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        let at = *at.get(&places);
        let end = at + text[at..].chars().next().unwrap().len_utf8();
        let damaged = format!("{}{sign}{}", &text[..at], &text[end..]);
        if let Ok(new) = inject("f", &damaged, &options()) {
            prop_assert_eq!(&injected(&new.text), &new.text);
        }
    }
}

mod config_maps;
