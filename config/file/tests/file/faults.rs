//! The texts of faults and their places.

use std::path::Path;

use pillion_config::{Severity, load, parse};
use pillion_model::cluster::UpstreamTls;

use crate::{bad, good, messages, warnings};

#[test]
fn a_fault_is_shown_with_its_place_its_help_and_its_line() {
    let errors = bad("services:\n  orders:\n    endpoints: [10.0.1.10:15006]\n    tmeout: 5s\n");
    assert_eq!(
        errors.to_string(),
        "configuration:4:5: error: services.orders has no key `tmeout`. help: did you mean `timeout`?\n \
         4 |     tmeout: 5s\n   |     ^"
    );
    assert_eq!(errors.faults[0].path, "services.orders.tmeout");
}

/// The help of the only fault.
fn help(source: &str) -> String {
    let errors = bad(source);
    assert_eq!(errors.faults.len(), 1, "{errors}");
    errors.faults[0].help.clone().unwrap_or_default()
}

/// Advice must not lead to another refusal.
#[test]
fn c13_no_key_is_suggested_that_would_be_refused_next() {
    assert_eq!(help("services: { a: { endpoints: { kubernete: a } } }"), "did you mean `kubernetes`?");
    assert_eq!(help("inbound: { protocl: http1 }"), "did you mean `protocol`?");
}

#[test]
fn c13_the_fault_of_a_known_key_at_a_wrong_place_names_the_right_place() {
    for (source, place) in [
        ("retry: off", "`retry` is a key of routes[], services.NAME"),
        ("mtls: strict", "`mtls` is a key of inbound, inbound.ports.NAME"),
        ("inbound: { workers: 2 }", "`workers` is a key of the file itself"),
        ("app: 127.0.0.1:8080", "`app` is a key of inbound"),
        ("outbound: { hosts: [a] }", "`hosts` is a key of routes[], services.NAME"),
        (
            "services: { a: { endpoints: [10.0.0.1:80], max_ejected: 10% } }",
            "`max_ejected` is a key of services.NAME.outlier_detection",
        ),
        ("identity: { directory: certs, path: x }", "`path` is a key of "),
    ] {
        let help = help(source);
        assert!(help.contains(place), "{source}: {help}");
    }
}

#[test]
fn three_faults_in_three_blocks_are_reported_at_once_in_block_style() {
    let source = "inbound:\n  timout: 5s\nservices:\n  a:\n    endpoints: [10.0.0.1:80]\n    timeout: 5\nworkers: many\n";
    assert_eq!(
        messages(source),
        [
            "2:3 inbound has no key `timout`",
            "6:14 services.a.timeout is `5`, which is not a duration",
            "7:10 workers is `many`, which is not a whole number",
        ]
    );
}

#[test]
fn three_faults_in_three_blocks_are_reported_at_once_in_flow_style() {
    let source = "{ inbound: { timout: 5s }, services: { a: { endpoints: [10.0.0.1:80], timeout: 5 } }, workers: many }";
    assert_eq!(
        messages(source),
        [
            "1:14 inbound has no key `timout`",
            "1:80 services.a.timeout is `5`, which is not a duration",
            "1:96 workers is `many`, which is not a whole number",
        ]
    );
}

#[test]
fn the_authorities_of_the_system_vouch_for_hosts_and_not_for_workloads() {
    let tls = |mode: &str| {
        let tls = format!("{{ mode: {mode}, trust_bundle: system }}");
        format!("identity: {{ directory: a }}\nservices:\n  a: {{ endpoints: [10.0.0.1:80], tls: {tls} }}\n")
    };
    assert!(matches!(&good(&tls("simple")).clusters[0].tls, UpstreamTls::Simple { trust_bundle: None, .. }));
    assert_eq!(
        messages(&tls("mutual"))[1],
        "3:69 services.a.tls.trust_bundle is `system`, which is possible with mode: simple only"
    );
}

#[test]
fn a_fault_inside_a_union_is_placed_at_the_key_in_it() {
    let service = |keys: &str| format!("services:\n  a:\n    endpoints: [10.0.0.1:80]\n    {keys}\n");
    let cases = [
        (service("tls: { mod: simple }"), "4:12 services.a.tls has no key `mod`"),
        (service("tls: mutal"), "4:10 services.a.tls is `mutal`, which is not one of mutual, simple, off"),
        (
            service("tls: [mutual]"),
            "4:10 services.a.tls must be mutual, simple, off, a SPIFFE ID, or { mode: … }, not a list",
        ),
        (service("load_balancer: { rign_hash: {} }"), "4:22 services.a.load_balancer has no key `rign_hash`"),
        (
            service("retry: { attempts: two }"),
            "4:24 services.a.retry.attempts is `two`, which is not a whole number",
        ),
        (service("retry: { backoff: { bass: 1s } }"), "4:25 services.a.retry.backoff has no key `bass`"),
        (
            service("retry: { conditions: [reset, 4xx] }"),
            "4:34 services.a.retry.conditions[1] is `4xx`, which is not one of connect_failure",
        ),
        (
            service("listen: [127.0.0.1:1, localhost:2]"),
            "4:27 services.a.listen[1] is `localhost:2`, which is not an address",
        ),
        (
            "services:\n  a:\n    endpoints:\n      - 10.0.0.1:80\n      - { addres: 10.0.0.1:80 }\n".into(),
            "5:11 services.a.endpoints[1] has no key `addres`",
        ),
        (
            "services:\n  a:\n    endpoints:\n      - 10.0.0.1:80\n      - orders.shop:80\n".into(),
            "5:9 services.a.endpoints[1] is `orders.shop:80`, which is not an address",
        ),
        (
            "services:\n  a: { endpoints: 10.0.0.1:80 }\n".into(),
            "2:19 services.a.endpoints must be a list of endpoints",
        ),
    ];
    for (source, expected) in cases {
        let messages = messages(&source);
        assert!(
            messages.len() == 1 && messages[0].starts_with(expected),
            "{source}{messages:#?}\nexpected {expected}"
        );
    }
}

#[test]
fn duplicate_keys_are_faults_in_blocks_and_in_maps() {
    assert_eq!(
        messages("services:\n  a: { endpoints: [10.0.0.1:80] }\n  a: { endpoints: [10.0.0.2:80] }\n"),
        ["3:3 services has the key `a` twice"]
    );
    assert_eq!(
        messages("inbound:\n  ports:\n    3306: { protocol: http1 }\n    \"3306\": { protocol: http2 }\n"),
        ["4:5 inbound.ports has the key `3306` twice"]
    );
    assert_eq!(messages("workers: 1\nworkers: 2\n"), ["2:1 the file has the key `workers` twice"]);
    let both = "services: { a: { endpoints: [10.0.0.1:80], retry: { on: [reset], conditions: [5xx] } } }";
    assert_eq!(messages(both).len(), 1);
}

#[test]
fn a_merge_key_is_refused_with_a_hint() {
    for source in [
        "services:\n  a: &a { endpoints: [10.0.0.1:80] }\n  b: { <<: *a, hosts: [x] }\n",
        "services:\n  <<: { a: { endpoints: [10.0.0.1:80] } }\n",
    ] {
        let errors = bad(source);
        let fault = &errors.faults[0];
        assert!(
            fault.message.ends_with("has no key `<<`")
                && fault.help.as_deref().unwrap().contains("merge keys"),
            "{errors}"
        );
    }
}

#[test]
fn the_change_of_on_and_off_by_yaml_1_1_tools_is_named() {
    let key = bad("services: { a: { endpoints: [10.0.0.1:80], retry: { true: [reset] } } }");
    assert!(key.faults[0].help.as_deref().unwrap().contains("turned `on:` into `true:`"), "{key}");
    for source in [
        "inbound: true",
        "services: { a: { endpoints: [10.0.0.1:80], timeout: true } }",
        "inbound: { mtls: true }",
    ] {
        let errors = bad(source);
        assert!(errors.faults[0].help.as_deref().unwrap().contains("YAML 1.1"), "{errors}");
    }
}

#[test]
fn unquoted_characters_that_yaml_treats_as_syntax_get_help() {
    for (source, sign) in [
        ("inbound: { listen: [::]:15006 }", "[::]"),
        ("inbound:\n  listen: [::]:15006\n", "[::]"),
        ("services: { a: { hosts: [*.shop] } }", "*.shop"),
        ("services: { a: { hosts: [@a] } }", "%"),
    ] {
        let errors = bad(source);
        assert!(errors.faults[0].help.as_deref().unwrap_or_default().contains(sign), "{errors}");
    }
}

#[test]
fn cross_references_are_checked_all_at_once() {
    let source = "\
inbound: { listen: 127.0.0.1:15000, mtls: strict }
services:
  a: { endpoints: [], hosts: [x] }
  b: { endpoints: [10.0.0.1:80], hosts: [X.], tls: mutual, listen: 127.0.0.1:15001 }
  c: { endpoints: [10.0.0.1:80], tls: simple, retry: { attempts: 0, backoff: { base: 1s, max: 1ms } } }
  d: { hosts: [\"*.x\", c] }
";
    assert_eq!(
        messages(source),
        [
            "1:20 inbound.listen has 127.0.0.1:15000, where admin listens already (127.0.0.1:15000)",
            "1:43 inbound.mtls is strict, but there is no `identity` to prove",
            "3:19 services.a.endpoints is empty",
            "4:41 services.b.hosts has `x`, which means service a already",
            "4:52 services.b.tls is mutual, but there is no `identity` to prove",
            "4:68 services.b.listen has 127.0.0.1:15001, where outbound listens already (127.0.0.1:15001)",
            "5:66 services.c.retry.attempts is 0, which is no retry",
            "5:95 services.c.retry.backoff.max is 1ms, below `base` (1s)",
            "6:3 services.d needs endpoints",
            "6:15 services.d.hosts has `c`, which means service c already",
        ]
    );
}

#[test]
fn an_identity_names_all_three_files_either_singly_or_by_a_directory() {
    assert_eq!(messages("identity: { certificate: a }"), ["1:1 identity lacks `key` and `trust_bundle`"]);
    assert_eq!(
        messages("identity: { directory: a, key: b }"),
        ["1:1 identity has `directory` and single files"]
    );
    assert_eq!(
        messages("identity: { trust_domain: x }"),
        ["1:1 identity does not say where the certificates are"]
    );
    assert_eq!(messages("identity: { directory: a, trust_domain: X }").len(), 1);
}

#[test]
fn an_identity_of_another_trust_domain_needs_a_trust_bundle() {
    let file = |federation: &str, tls: &str| {
        let identity =
            format!("identity: {{ directory: a, trust_domain: x.test, federation: {{ {federation} }} }}");
        format!("{identity}\nservices: {{ a: {{ endpoints: [10.0.0.1:80], tls: {tls} }} }}\n")
    };
    let theirs = "\"spiffe://partner.example/a\"";
    let words = "services.a.tls names spiffe://partner.example/a, but the trust domain partner.example has no trust bundle";
    let refused = messages(&file("other.example: b", theirs));
    assert!(matches!(&refused[..], [one] if one.ends_with(words)), "{refused:?}");
    let own_bundle = format!("{{ mode: mutual, identities: [{theirs}], trust_bundle: c }}");
    for good in [
        file("partner.example: b", theirs),
        file("other.example: b", &own_bundle),
        file("other.example: b", "\"spiffe://x.test/a\""),
        file("other.example: b", theirs).replace("trust_domain: x.test, ", ""),
    ] {
        super::good(&good);
    }
    let refused = messages(&file("x.test: b", "\"spiffe://x.test/a\""));
    assert!(matches!(&refused[..], [one] if one.contains("own trust domain x.test")), "{refused:?}");
    let refused = messages(&file("X: b", "\"spiffe://x.test/a\""));
    assert!(matches!(&refused[..], [one] if one.contains("a trust domain has only")), "{refused:?}");
}

#[test]
fn a_fault_does_not_cause_further_messages() {
    // the identity is misspelt, so no message may say that it is missing
    assert_eq!(messages("identity: { direktory: a }\ninbound: { mtls: strict }").len(), 1);
    // the list is not empty: its only item is faulty
    assert_eq!(messages("services: { a: { endpoints: [nowhere] } }").len(), 1);
    assert_eq!(messages("services: { a: { endpoint: [10.0.0.1:80] } }").len(), 1);
}

#[test]
fn port_0_never_collides_and_ip_versions_are_separate() {
    crate::good(
        "inbound: { listen: [\"0.0.0.0:1\", \"[::]:1\"] }\nadmin: { listen: 127.0.0.1:0 }\nmetrics: { listen: 127.0.0.1:0 }",
    );
    assert_eq!(messages("inbound: { listen: [\"0.0.0.0:1\", 127.0.0.1:1] }").len(), 1);
    assert_eq!(messages("inbound: { listen: 127.0.0.1:1, app: 127.0.0.1:1 }").len(), 1);
}

#[test]
fn an_endpoint_that_is_a_listener_of_the_sidecar_is_a_warning() {
    let source = "\
inbound: { app: 127.0.0.1:8080 }
services:
  a: { endpoints: [127.0.0.1:15001, 10.0.0.1:15001, 127.0.0.1:15006, 10.0.0.1:15006] }
  b: { listen: 127.0.0.1:20001, endpoints: [127.0.0.1:20001, 127.0.0.1:15020, \"[::1]:20001\", 127.0.0.1:15000] }
";
    let told: Vec<_> = warnings(source).iter().map(|w| format!("{} {}", w.path, w.message)).collect();
    assert_eq!(told.len(), 5, "{told:#?}");
    let first = "services.a.endpoints[0] is 127.0.0.1:15001, where outbound of this sidecar listens (127.0.0.1:15001)";
    assert!(told[0].ends_with(first), "{}", told[0]);
    assert!(told[2].contains("service b of this sidecar listens"), "{}", told[2]);
}

#[test]
fn valid_but_odd_settings_give_warnings() {
    let source = "\
identity: { directory: c }
services:
  a: { endpoints: [10.0.0.1:80, 10.0.0.1:80], tls: mutual, timeout: 1s, retry: { per_try_timeout: 1s, methods: all } }
";
    let messages: Vec<_> =
        warnings(source).iter().map(|w| format!("{}:{} {}", w.line, w.column, w.path)).collect();
    assert_eq!(
        messages,
        [
            "3:33 services.a.endpoints[1]",
            "3:52 services.a.tls",
            "3:99 services.a.retry.per_try_timeout",
            "3:112 services.a.retry.methods"
        ]
    );
    assert!(warnings(source).iter().all(|w| w.severity == Severity::Warning));
    assert_eq!(warnings("inbound: off\noutbound: off").len(), 1);
}

#[test]
fn warnings_are_reported_beside_errors() {
    let errors = bad("inbound: off\noutbound: off\nworkers: many");
    let severities: Vec<_> = errors.faults.iter().map(|fault| fault.severity).collect();
    assert_eq!(severities, [Severity::Warning, Severity::Error]);
}

#[test]
fn another_version_number_is_refused() {
    assert_eq!(messages("version: 2"), ["1:10 version is 2, which this release does not support"]);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let errors = load(Path::new("no-such-folder/pillion.yaml")).unwrap_err();
    assert!(
        errors.to_string().starts_with("no-such-folder/pillion.yaml:1:1: error: the file cannot be read: "),
        "{errors}"
    );
}

#[test]
fn at_most_a_hundred_faults_of_a_kind_are_reported() {
    let services: String = (0..1000).map(|n| format!("  s{n}: {{ timeout: 1s }}\n")).collect();
    assert_eq!(bad(&format!("services:\n{services}")).faults.len(), 100);
    let source: String = (0..1000).map(|n| format!("k{n}: 1\n")).collect();
    assert_eq!(parse(&source, Path::new("")).unwrap_err().faults.len(), 100);
}
