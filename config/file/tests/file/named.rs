//! The mistakes that operators make most, one test for each.

use crate::{bad, good, messages, warnings};

#[test]
fn a_key_that_occurs_twice_is_a_fault_also_where_keys_are_names() {
    let service = |keys: &str| format!("services:\n  a:\n    endpoints: [10.0.0.1:80]\n    {keys}\n");
    let cases = [
        (
            "services:\n  a: { endpoints: [10.0.0.1:80] }\n  a: { timeout: 1s }\n".to_owned(),
            "3:3 services has the key `a` twice",
        ),
        (
            "services: { a: { endpoints: [10.0.0.1:80] }, \"a\": {} }".into(),
            "1:46 services has the key `a` twice",
        ),
        ("inbound: { ports: { 3306: {}, 3306: {} } }".into(), "1:31 inbound.ports has the key `3306` twice"),
        ("inbound:\n  ports:\n    3306:\n    '3306':\n".into(), "4:5 inbound.ports has the key `3306` twice"),
        (service("timeout: 1s\n    timeout: 2s"), "5:5 services.a has the key `timeout` twice"),
        (
            service("retry: { attempts: 1, attempts: 1 }"),
            "4:27 services.a.retry has the key `attempts` twice",
        ),
        ("defaults: { timeout: 1s, timeout: 1s }".into(), "1:26 defaults has the key `timeout` twice"),
    ];
    for (source, expected) in cases {
        assert_eq!(messages(&source), [expected], "{source}");
    }
}

/// The faults are found even in keys whose feature does not exist yet, so that they do not appear only later.
#[test]
fn a_probe_or_a_header_that_occurs_twice_is_a_fault() {
    let route = |headers: &str| {
        format!(
            "services: {{ a: {{ endpoints: [10.0.0.1:80] }} }}\nroutes:\n  - hosts: [a]\n    to: a\n    {headers}\n"
        )
    };
    let cases = [
        (
            "inbound:\n  probes:\n    - { name: a, port: 1, name: b }\n".to_owned(),
            vec!["3:27 inbound.probes[0] has the key `name` twice"],
        ),
        (
            route("match: { headers: { x-canary: \"1\", x-canary: \"2\" } }"),
            vec!["5:40 routes[0].match.headers has the key `x-canary` twice"],
        ),
        (
            route("match:\n      headers:\n        x-canary: 1\n        x-canary: 1"),
            vec!["8:9 routes[0].match.headers has the key `x-canary` twice"],
        ),
        (
            route("match: { headers: { x-canary: \"1\", X-Canary: \"2\" } }"),
            vec!["5:40 routes[0].match.headers.X-Canary repeats `x-canary`"],
        ),
        (
            route("request_headers: { set: { x-a: 1, x-a: 2 } }"),
            vec!["5:39 routes[0].request_headers.set has the key `x-a` twice"],
        ),
        (
            route("response_headers: { add: { x-a: 1, X-A: 2 } }"),
            vec!["5:40 routes[0].response_headers.add.X-A repeats `x-a`"],
        ),
    ];
    for (source, expected) in cases {
        assert_eq!(messages(&source), expected, "{source}");
    }
}

#[test]
fn a_variable_in_a_probe_or_a_header_must_be_set() {
    let messages = messages(
        "inbound:\n  probes: [{ path: \"/live?pod=${PILLION_ABSENT}\" }]\n\
         services: { a: { endpoints: [10.0.0.1:80] } }\n\
         routes: [{ hosts: a, to: a, match: { headers: { x-a: \"b ${PILLION_ABSENT:-${}}\" } } }]\n",
    );
    assert_eq!(
        messages,
        [
            "2:20 inbound.probes[0].path uses `${PILLION_ABSENT}`, which is not set",
            "4:54 routes[0].match.headers.x-a has `${}`, which is no variable",
        ]
    );
}

#[test]
fn a_route_to_an_unknown_service_is_a_fault_with_a_did_you_mean() {
    let route = |to: &str| {
        format!(
            "services: {{ orders: {{ endpoints: [10.0.0.1:80] }} }}\nroutes:\n  - hosts: [orders]\n    to: {to}\n"
        )
    };
    for (to, place) in [
        ("ordrs", "4:9"),
        ("[orders, ordrs]", "4:18"),
        ("[{ service: orders }, { service: ordrs, weight: 2 }]", "4:42"),
        ("{ service: ordrs }", "4:20"),
        ("\n      - service: orders\n      - service: ordrs", "6:18"),
    ] {
        let errors = bad(&route(to));
        let [fault] = errors.faults.as_slice() else { unreachable!("{errors}") };
        assert_eq!(format!("{}:{}", fault.line, fault.column), place, "{errors}");
        assert!(fault.message.ends_with("is ordrs, which is not in `services`"), "{errors}");
        assert_eq!(fault.help.as_deref(), Some("did you mean orders?"), "{errors}");
    }
    let strange = bad(&route("bananas"));
    assert_eq!(strange.faults[0].help.as_deref(), Some("`services` has orders"));
}

#[test]
fn a_per_try_timeout_of_a_route_that_is_not_below_its_timeout_gives_a_warning() {
    let routes = |service: &str, route: &str| {
        format!(
            "services: {{ a: {{ endpoints: [10.0.0.1:80], {service} }} }}\nroutes:\n  - hosts: [a]\n    to: a\n{route}"
        )
    };
    let cases = [
        (
            "",
            "    timeout: 1s\n    retry: { per_try_timeout: 1s }\n",
            "6:31 routes[0].retry.per_try_timeout is 1s, not below `timeout` (1s): it never ends a try",
        ),
        (
            "timeout: 1s",
            "    retry: { per_try_timeout: 2s }\n",
            "5:31 routes[0].retry.per_try_timeout is 2s, not below `timeout` (1s): it never ends a try",
        ),
        (
            "retry: { per_try_timeout: 2s }",
            "    timeout: 1s\n",
            "5:14 routes[0].timeout conflicts with service a, whose `retry.per_try_timeout` is 2s, not below `timeout` (1s): it never ends a try",
        ),
        // a fault of the service alone is reported only there
        (
            "timeout: 1s, retry: { per_try_timeout: 2s }",
            "    retry: { attempts: 1 }\n",
            "1:83 services.a.retry.per_try_timeout is 2s, not below `timeout` (1s): it never ends a try",
        ),
    ];
    for (service, route, expected) in cases {
        let messages: Vec<_> = warnings(&routes(service, route))
            .iter()
            .map(|w| format!("{}:{} {}", w.line, w.column, w.message))
            .collect();
        assert_eq!(messages, [expected], "{service} {route}");
    }
    assert_eq!(warnings(&routes("timeout: 1s", "    timeout: 3s\n    retry: { per_try_timeout: 2s }\n")), []);
}

#[test]
fn three_faults_in_three_services_are_reported_at_once_in_both_styles() {
    let block = "services:\n  a:\n    endpoints: [10.0.0.1]\n  b:\n    endpoints:\n      - 10.0.0.1:80\n    tls:\n      mode: mutal\n  c:\n    endpoints:\n      - { address: 10.0.0.1:80, wieght: 2 }\n";
    let flow = "services: { a: { endpoints: [10.0.0.1] }, b: { endpoints: [10.0.0.1:80], tls: { mode: mutal } }, c: { endpoints: [{ address: 10.0.0.1:80, wieght: 2 }] } }";
    let faults = [
        "services.a.endpoints[0] is `10.0.0.1`, which is not an address",
        "services.b.tls.mode is `mutal`, which is not one of mutual, simple, off",
        "services.c.endpoints[0] has no key `wieght`",
    ];
    for (source, places) in [(block, ["3:17", "8:13", "11:33"]), (flow, ["1:30", "1:87", "1:139"])] {
        let expected: Vec<_> =
            places.iter().zip(faults).map(|(place, what)| format!("{place} {what}")).collect();
        assert_eq!(messages(source), expected);
    }
}

/// A fault inside a union must never be placed at 1:1, whatever kind of value the operator wrote.
#[test]
fn a_fault_deep_in_each_union_is_placed_at_its_key() {
    let cases = [
        ("endpoints:\n      - 10.0.0.1:80\n      - address: 10.0.0.2:80\n        weigth: 2", "6:9"),
        ("endpoints:\n      dns: a:80\n      refesh: 5s", "5:7"),
        ("endpoints:\n      refresh: 5s\n      dns: a", "5:12"),
        ("endpoints: { dns: \"a:80\", refresh: 5 }", "3:40"),
        ("endpoints: [10.0.0.1:80]\n    tls:\n      mode: simple\n      snj: a", "6:7"),
        (
            "endpoints: [10.0.0.1:80]\n    tls:\n      identities:\n        - spiffe://a/b\n        - spife://a/b",
            "7:11",
        ),
        ("endpoints: [10.0.0.1:80]\n    load_balancer:\n      ring_hahs: {}", "5:7"),
        ("endpoints: [10.0.0.1:80]\n    retry:\n      budget:\n        ratio: 20", "6:16"),
        ("endpoints: [10.0.0.1:80]\n    retry:\n      methods: [GET, get]", "5:22"),
        ("endpoints: [10.0.0.1:80]\n    outlier_detection:\n      max_ejcted: 5%", "5:7"),
    ];
    for (keys, place) in cases {
        let source = format!("services:\n  b:\n    {keys}\n");
        let messages: Vec<_> =
            messages(&source).into_iter().filter(|message| !message.contains("not supported yet")).collect();
        assert!(
            messages.len() == 1 && messages[0].starts_with(&format!("{place} ")),
            "{source}{messages:#?}\nexpected {place}"
        );
    }
}

#[test]
fn a_fault_deep_in_each_union_of_a_route_is_placed_at_its_key() {
    let cases = [
        ("to:\n      - service: a\n      - service: a\n        wieght: 2", "7:9"),
        ("to: [a, { servce: a }]", "4:15"),
        ("to: a\n    match:\n      path:\n        prefx: /a", "7:9"),
        ("to: a\n    match: { path: { exact: v2 } }", "5:29"),
        ("to: a\n    match:\n      headers:\n        x-a:\n          presnt: true", "8:11"),
        ("to: a\n    match: { headers: { x-a: { present: 1 } } }", "5:41"),
        ("to: a\n    retry:\n      budget: { ratio: 20 }", "6:24"),
        ("to: a\n    retry: { methods: [GET, get] }", "5:29"),
    ];
    for (keys, place) in cases {
        let source =
            format!("services: {{ a: {{ endpoints: [10.0.0.1:80] }} }}\nroutes:\n  - hosts: a\n    {keys}\n");
        let messages = messages(&source);
        assert!(
            messages.len() == 1 && messages[0].starts_with(&format!("{place} ")),
            "{source}{messages:#?}\nexpected {place}"
        );
    }
}

#[test]
fn a_port_is_the_same_key_quoted_or_not() {
    let bare = good("inbound: { ports: { 3306: { protocol: tcp } } }");
    for port in ["\"3306\"", "'3306'", "!!str 3306"] {
        assert_eq!(good(&format!("inbound: {{ ports: {{ {port}: {{ protocol: tcp }} }} }}")), bare, "{port}");
    }
    for port in ["03306", "3306.0", "0xcea", "+3306", "65536", "0"] {
        assert_eq!(messages(&format!("inbound: {{ ports: {{ {port}: {{}} }} }}")).len(), 1, "{port}");
    }
}

#[test]
fn a_merge_key_is_refused_with_a_hint_in_every_block() {
    let service = "endpoints: [10.0.0.1:80]";
    for source in [
        format!("services:\n  a: &a {{ {service} }}\n  b:\n    <<: *a\n    hosts: [x]\n"),
        format!("defaults: &d {{ timeout: 1s }}\nservices: {{ a: {{ <<: *d, {service} }} }}"),
        format!("services: {{ a: {{ {service}, retry: {{ <<: {{ attempts: 1 }} }} }} }}"),
        "inbound: { ports: { <<: { 1: {} } } }".into(),
        "<<: { version: 1 }".into(),
    ] {
        let errors = bad(&source);
        let [fault] = errors.faults.as_slice() else { unreachable!("{errors}") };
        assert!(fault.message.ends_with("has no key `<<`"), "{errors}");
        assert!(fault.help.as_deref().unwrap().contains("write the keys out"), "{errors}");
    }
}

#[test]
fn an_on_that_another_tool_has_turned_into_true_is_recognised() {
    for key in ["true", "True", "\"true\""] {
        let errors = bad(&format!(
            "services:\n  a:\n    endpoints: [10.0.0.1:80]\n    retry:\n      {key}: [reset]\n"
        ));
        let [fault] = errors.faults.as_slice() else { unreachable!("{errors}") };
        assert_eq!((fault.line, fault.column), (5, 7));
        assert!(fault.help.as_deref().unwrap().contains("turned `on:` into `true:`"), "{errors}");
    }
    good("services: { a: { endpoints: [10.0.0.1:80], retry: { on: [reset] } } }");
}

#[test]
fn a_per_try_timeout_that_is_not_below_the_timeout_gives_a_warning() {
    let service = |timeouts: &str| format!("services:\n  a:\n    endpoints: [10.0.0.1:80]\n    {timeouts}\n");
    for (timeouts, place) in [
        ("timeout: 1s\n    retry: { per_try_timeout: 2s }", (5, 31)),
        ("timeout: 1s\n    retry: { per_try_timeout: 1s }", (5, 31)),
        ("retry: { per_try_timeout: 15s }", (4, 31)),
    ] {
        let warnings = warnings(&service(timeouts));
        assert_eq!(warnings.len(), 1, "{timeouts}");
        assert_eq!((warnings[0].line, warnings[0].column), place);
        assert!(warnings[0].message.contains("per_try_timeout is "), "{}", warnings[0]);
    }
    for timeouts in [
        "timeout: 2s\n    retry: { per_try_timeout: 1s }",
        "timeout: off\n    retry: { per_try_timeout: 60s }",
        "timeout: 1s\n    retry: { per_try_timeout: off }",
    ] {
        assert_eq!(warnings(&service(timeouts)), [], "{timeouts}");
    }
}

#[test]
fn a_carriage_return_alone_ends_a_line_as_it_does_for_yaml() {
    for source in ["workers: 1\rinbund: off\n", "workers: 1\r\ninbund: off\r\n", "workers: 1\ninbund: off"] {
        let shown = pillion_config::parse(source, std::path::Path::new("")).expect_err(source).to_string();
        assert!(shown.contains("2:1") && shown.contains(" 2 | inbund: off\n"), "{shown}");
    }
}

/// An earlier release chose between two parsers by this word, and one of them read numbers as YAML does.
#[test]
fn the_text_of_a_comment_does_not_change_how_the_file_is_read() {
    for comment in ["", " # routes", " # costs $5"] {
        let source = format!("inbound: 1.10{comment}");
        assert_eq!(
            messages(&source),
            ["1:10 inbound is `1.10`, which is not `off` or a block of keys"],
            "{source}"
        );
    }
}
