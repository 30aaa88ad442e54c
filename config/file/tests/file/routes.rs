//! `routes`: how they are read, and which are refused or give warnings.

use std::path::Path;
use std::time::Duration;

use pillion_config::parse_with;
use pillion_model::cluster::HostPattern;
use pillion_model::policy::Timeout;
use pillion_model::route::{HeaderMatch, PathMatch, Route, RouteHost, ValueMatch};

use crate::{bad, good, messages, warnings};

const SERVICES: &str = "\
services:
  a: { endpoints: [10.0.0.1:80], hosts: [a, \"*.a\"] }
  b: { endpoints: [10.0.0.2:80], timeout: 3s, retry: { attempts: 7, backoff: { max: 100ms } } }
  off: { endpoints: [10.0.0.3:80], retry: off }
  db: { endpoints: [10.0.0.4:80], protocol: tcp }
";

/// A file with a list of routes, one on each line from line 7 on.
fn with(routes: &[&str]) -> String {
    let routes: String = routes.iter().map(|route| format!("  - {{ {route} }}\n")).collect();
    format!("{SERVICES}routes:\n{routes}")
}

fn one(route: &str) -> Route {
    good(&with(&[route])).routes.remove(0)
}

fn host(name: &str, wildcard: bool, port: Option<u16>) -> RouteHost {
    RouteHost::One(HostPattern { name: name.into(), wildcard, port })
}

#[test]
fn a_missing_or_wrong_key_of_a_route_is_a_fault_at_its_place() {
    for (route, expected) in [
        ("to: a", "7:5 routes[0] needs `hosts`"),
        ("hosts: [], to: a", "7:14 routes[0].hosts is empty"),
        ("hosts: [a]", "7:5 routes[0] needs `to`"),
        ("hosts: [a], to: []", "7:23 routes[0].to is empty"),
        ("hosts: [a], to: [{ weight: 1 }]", "7:24 routes[0].to[0] needs `service`"),
        (
            "hosts: [a], to: [{ service: a, weight: 0 }, { service: b, weight: 0 }]",
            "7:23 routes[0].to gives no service any weight",
        ),
        ("hosts: [a], to: { service: a, weight: 0 }", "7:19 routes[0].to gives no service any weight"),
        (
            "hosts: [a], to: [a, db]",
            "7:27 routes[0].to[1] is db, whose protocol is tcp: it has no requests to route",
        ),
        ("hosts: [\"*.*\"], to: a", "7:15 routes[0].hosts[0] is `*.*`, which is not a host"),
        ("hosts: [a], to: a, name: a b", "7:32 routes[0].name is `a b`, which is not a route's name"),
        ("hosts: [a], to: a, timeout: 1", "7:35 routes[0].timeout is `1`, which is not a duration"),
        (
            "hosts: [a], to: a, retry: { attempts: 0 }",
            "7:45 routes[0].retry.attempts is 0, which is no retry",
        ),
        ("hosts: [a], to: a, retry: { atempts: 1 }", "7:35 routes[0].retry has no key `atempts`"),
        (
            "hosts: [a], to: a, match: { path: /v2 }",
            "7:41 routes[0].match.path must be { prefix: … }, { exact: … } or { regex: … }",
        ),
        (
            "hosts: [a], to: a, match: { path: { prefix: v2 } }",
            "7:51 routes[0].match.path.prefix is `v2`, which is not a path",
        ),
        ("hosts: [a], to: a, match: { path: {} }", "7:35 routes[0].match.path is an empty block"),
        (
            "hosts: [a], to: a, match: { path: { prefix: /a, exact: /a } }",
            "7:35 routes[0].match.path has more than one of `exact`, `prefix` and `regex`",
        ),
        ("hosts: [a], to: a, match: { methods: [] }", "7:44 routes[0].match.methods is empty"),
        (
            "hosts: [a], to: a, match: { methods: get }",
            "7:44 routes[0].match.methods is `get`, which is not a method",
        ),
        (
            "hosts: [a], to: a, match: { headers: { \"x a\": 1 } }",
            "7:46 routes[0].match.headers has a key that is `x a`, which is not a header's name",
        ),
        (
            "hosts: [a], to: a, match: { headers: { Host: b } }",
            "7:46 routes[0].match.headers has a key that is `Host`, which is not a header's name",
        ),
        ("hosts: [a], to: a, match: { headers: { x-a: {} } }", "7:46 routes[0].match.headers.x-a is empty"),
        ("hosts: [a], to: a, match: { headers: { x-a: } }", "7:49 routes[0].match.headers.x-a is empty"),
        (
            "hosts: [a], to: a, match: { headers: { x-a: { exact: a, present: true } } }",
            "7:46 routes[0].match.headers.x-a has more than one of `exact`, `prefix`, `regex` and `present`",
        ),
        (
            "hosts: [a], to: a, match: { headers: { x-a: { present: yes } } }",
            "7:62 routes[0].match.headers.x-a.present is `yes`, which is not on or off",
        ),
        (
            "hosts: [a], to: a, match: { headers: { x-a: [a] } }",
            "7:51 routes[0].match.headers.x-a must be a value, or { exact, prefix, regex or present: … }, not a list",
        ),
        (
            "hosts: [a], to: a, match: { path: { regex: \"(\" } }",
            "7:50 routes[0].match.path.regex is no regular expression: unclosed group",
        ),
        (
            "hosts: [a], to: a, match: { path: { regex: \"[a-z]{1,999}{1,999}\" } }",
            "7:50 routes[0].match.path.regex is a regular expression that compiles to more than 64 KiB",
        ),
        (
            "hosts: [a], to: a, match: { query: { \"a=1\": 1 } }",
            "7:44 routes[0].match.query has a key that is `a=1`, which is not a parameter's name",
        ),
        (
            "hosts: [a], to: a, match: { query: { a: b&c } }",
            "7:47 routes[0].match.query.a is `b&c`, which is not a parameter's value",
        ),
        ("hosts: [a], to: a, match: { query: { a: {} } }", "7:44 routes[0].match.query.a is empty"),
        (
            "hosts: [a], to: a, match: { query: { a: { regex: a, exact: a } } }",
            "7:44 routes[0].match.query.a has more than one of `exact`, `prefix`, `regex` and `present`",
        ),
        (
            "hosts: [a], redirect: { path: /b }, to: a",
            "7:43 routes[0].to makes no sense in a route that answers by itself",
        ),
        (
            "hosts: [a], respond: { status: 200 }, rewrite: { host: b }",
            "7:45 routes[0].rewrite makes no sense in a route that answers by itself",
        ),
        (
            "hosts: [a], respond: { status: 200 }, redirect: { path: /b }",
            "7:5 routes[0] has `redirect` and `respond`",
        ),
        ("hosts: [a], redirect: {}", "7:19 routes[0].redirect leads to where the request was"),
        (
            "hosts: [a], redirect: { path: /b, status: 304 }",
            "7:49 routes[0].redirect.status is 304, which is not a redirect",
        ),
        ("hosts: [a], redirect: { path: //b }", "7:37 routes[0].redirect.path is `//b`, which is not a path"),
        ("hosts: [a], respond: {}", "7:19 routes[0].respond needs `status`"),
        (
            "hosts: [a], respond: { status: 204, body: x }",
            "7:49 routes[0].respond.body stands there, and an answer of 204 has none",
        ),
        ("hosts: [a], respond: { status: 199 }", "7:38 routes[0].respond.status is 199, out of range"),
        (
            "hosts: [a], to: a, rewrite: { host: \"*.b\" }",
            "7:43 routes[0].rewrite.host is `*.b`, which is not a single host",
        ),
        (
            "hosts: [a], to: a, request_headers: { set: { Host: b } }",
            "7:45 routes[0].request_headers.set.host is host, which names the destination of the request",
        ),
        (
            "hosts: [a], to: a, request_headers: { remove: [x_pillion_attempt] }",
            "7:54 routes[0].request_headers.remove[0] is x_pillion_attempt, which only sidecars may send",
        ),
        (
            "hosts: [a], to: a, request_headers: { remove: [content.length] }",
            "7:54 routes[0].request_headers.remove[0] is content.length, which frames the body",
        ),
        (
            "hosts: [a], to: a, response_headers: { add: { transfer-encoding: chunked } }",
            "7:72 routes[0].response_headers.add.transfer-encoding is transfer-encoding, which concerns a single connection",
        ),
        (
            "hosts: [a], to: a, response_headers: { set: { content-length: 1 } }",
            "7:69 routes[0].response_headers.set.content-length is content-length, which frames the body",
        ),
        ("hosts: [a], to: a, fault: { delay: { share: 1% } }", "7:35 routes[0].fault.delay needs `time`"),
        (
            "hosts: [a], to: a, fault: { abort: { share: 1% } }",
            "7:35 routes[0].fault.abort needs `status` or `grpc`",
        ),
        (
            "hosts: [a], to: a, fault: { abort: { grpc: OK } }",
            "7:50 routes[0].fault.abort.grpc is `ok`, which is not one of cancelled, unknown, invalid_argument, \
             deadline_exceeded, not_found, already_exists, permission_denied, resource_exhausted, failed_precondition, \
             aborted, out_of_range, unimplemented, internal, unavailable, data_loss, unauthenticated",
        ),
        ("hosts: [a], to: a, mirror: { share: 1% }", "7:26 routes[0].mirror needs `service`"),
        (
            "hosts: [a], to: a, mirror: { service: bb }",
            "7:45 routes[0].mirror.service is bb, which is not in `services`",
        ),
        ("hosts: [a], to: a, rate_limit: { per: 1s }", "7:26 routes[0].rate_limit needs `requests`"),
        (
            "hosts: [a], to: a, rate_limit: { requests: 0 }",
            "7:50 routes[0].rate_limit.requests is 0, out of range",
        ),
        (
            "hosts: [a], to: a, rate_limit: { requests: 1, by: peer }",
            "7:53 routes[0].rate_limit has no key `by`",
        ),
    ] {
        assert_eq!(messages(&with(&[route])), [expected], "{route}");
    }
    assert_eq!(messages("routes: orders"), ["1:9 routes is `orders`, which is not a list of routes"]);
    assert_eq!(messages("routes: { a: {} }"), ["1:9 routes must be a list of routes, not a block of keys"]);
    assert_eq!(messages("routes: [a]"), ["1:10 routes[0] must be a block of keys, not `a`"]);
}

#[test]
fn two_routes_of_one_name_are_a_fault() {
    let source = with(&["hosts: [a], to: b, name: x, match: { methods: GET }", "hosts: [a], to: b, name: x"]);
    assert_eq!(messages(&source), ["8:32 routes[1].name is `x`, as an earlier route is called"]);
}

#[test]
fn three_faults_in_three_routes_are_reported_at_once() {
    let source = with(&["hosts: [a], to: bb", "hosts: [a], too: b", "hosts: [a], to: b, match: { pth: 1 }"]);
    assert_eq!(
        messages(&source),
        [
            "7:23 routes[0].to is bb, which is not in `services`",
            "8:19 routes[1] has no key `too`",
            "9:35 routes[2].match has no key `pth`",
        ]
    );
}

/// Faults of a route alone, and faults of a route together with a service.
#[test]
fn a_fault_of_a_route_and_its_service_together_names_the_service() {
    let source = with(&["hosts: [a], to: [a, b], retry: { backoff: { base: 1s } }"]);
    assert_eq!(
        messages(&source),
        [
            "7:31 routes[0].retry conflicts with service b, whose `retry.backoff.max` is 100ms, below `base` (1s)"
        ]
    );
    let twice = with(&["hosts: [a], to: [a, b], retry: { attempts: 0 }"]);
    assert_eq!(messages(&twice), ["7:50 routes[0].retry.attempts is 0, which is no retry"]);
}

#[test]
fn a_service_that_was_faulty_as_a_whole_is_not_unknown() {
    let source = "services: { a: 5, b: { endpoints: [nowhere] } }\nroutes: [{ hosts: [a], to: [a, b] }]";
    assert_eq!(messages(source).len(), 2, "{}", bad(source));
}

#[test]
fn a_route_after_one_that_matches_everything_gives_a_warning() {
    let (all, get) = ("hosts: [a], to: b", "hosts: [a], to: b, match: { methods: GET }");
    let cases: [(&[&str], &[&str]); 9] = [
        (&[all, get], &["8:5 routes[1] is never reached: routes[0] takes all requests to its hosts"]),
        (&[all, all], &["8:5 routes[1] is never reached: routes[0] takes all requests to its hosts"]),
        (&[get, all], &[]),
        (&[all, "hosts: [a, b], to: b"], &[]),
        (
            &["hosts: [\"*\"], to: b", get],
            &["8:5 routes[1] is never reached: routes[0] takes all requests to its hosts"],
        ),
        (&["hosts: [\"*\"], to: b", "hosts: [elsewhere], to: b"], &[]),
        (
            &["hosts: [\"*.a\"], to: b", "hosts: [x.a, \"*.y.a:80\"], to: a"],
            &["8:5 routes[1] is never reached: routes[0] takes all requests to its hosts"],
        ),
        (&["hosts: [\"a:80\"], to: b", all], &[]),
        (
            &[all, "hosts: [b], to: a", "hosts: [a, b], to: a"],
            &["9:5 routes[2] is never reached: routes[1] takes all requests to its hosts"],
        ),
    ];
    for (routes, expected) in cases {
        let messages: Vec<_> = warnings(&with(routes))
            .iter()
            .map(|w| format!("{}:{} {}", w.line, w.column, w.message))
            .collect();
        assert_eq!(messages, expected, "{routes:?}");
    }
}

#[test]
fn a_service_that_occurs_twice_in_a_route_gives_a_warning() {
    let warnings = warnings(&with(&["hosts: [a], to: [b, b]"]));
    assert_eq!(warnings[0].message, "routes[0].to has b more than once");
}

#[test]
fn a_route_is_read_as_written() {
    let route = one(
        "name: canary, hosts: [A., \"*.a:80\", \"*\", elsewhere], to: [{ service: a, weight: 10 }, b], timeout: 1s, \
         match: { path: { prefix: /v2/ }, methods: [GET, PROPFIND], \
         headers: { X-Canary: \"1\", x-a: { prefix: p }, x-b: { present: off }, x-c: { exact: \" \" } } }"
            .replace("\" \"", "\"\"")
            .as_str(),
    );
    assert_eq!(route.name.as_deref(), Some("canary"));
    assert_eq!(
        route.hosts,
        [host("a", false, None), host("a", true, Some(80)), RouteHost::Any, host("elsewhere", false, None)]
    );
    assert_eq!(route.matches.path, Some(PathMatch::Prefix("/v2/".into())));
    assert_eq!(route.matches.methods, ["GET", "PROPFIND"]);
    let header = |name: &str, value| HeaderMatch { name: name.into(), value };
    assert_eq!(
        route.matches.headers,
        [
            header("x-canary", ValueMatch::Exact("1".into())),
            header("x-a", ValueMatch::Prefix("p".into())),
            header("x-b", ValueMatch::Present(false)),
            header("x-c", ValueMatch::Exact(String::new())),
        ]
    );
    let to: Vec<_> = route.to.iter().map(|one| (one.service.as_str(), one.weight)).collect();
    assert_eq!(to, [("a", 10), ("b", 1)]);
    assert_eq!(
        one("hosts: a, to: a, match: { path: { exact: / } }").matches.path,
        Some(PathMatch::Exact("/".into()))
    );
}

/// The value is the text in the file, and not what YAML makes of it.
#[test]
fn the_value_of_a_header_is_text_even_if_it_looks_like_a_number() {
    for text in ["1", "1.10", "0x10", "007", "1e3", "true", "True", "no", "1_000"] {
        let route = one(&format!("hosts: a, to: a, match: {{ headers: {{ x-a: {text} }} }}"));
        assert_eq!(route.matches.headers[0].value, ValueMatch::Exact(text.into()));
    }
}

#[test]
fn a_single_service_needs_no_list() {
    let expected = one("hosts: a, to: [{ service: b, weight: 1 }]");
    for to in ["b", "[b]", "{ service: b }", "[{ service: b }]"] {
        assert_eq!(one(&format!("hosts: a, to: {to}")), expected, "{to}");
    }
}

#[test]
fn timeout_and_retry_of_a_route_replace_those_of_the_service() {
    let config = good(&with(&["hosts: a, to: [a, b, off]"]));
    for weighted in &config.routes[0].to {
        let cluster = config.clusters.iter().find(|cluster| cluster.name == weighted.service).unwrap();
        assert_eq!((&weighted.timeouts, &weighted.retry), (&cluster.timeouts, &cluster.retry));
    }
    let route = one("hosts: a, to: [a, b, off], timeout: 9s, retry: { methods: GET }"
        .replace("GET", "[GET]")
        .as_str());
    let attempts: Vec<_> = route.to.iter().map(|one| one.retry.as_ref().unwrap().attempts).collect();
    assert_eq!(attempts, [2, 7, 2], "key by key");
    let b = &route.to[1];
    assert_eq!(b.timeouts.request, Timeout::Set(Duration::from_secs(9)));
    assert_eq!(b.retry.as_ref().unwrap().backoff.cap(), Duration::from_millis(100));
    let off = one("hosts: a, to: [a, b, off], timeout: off, retry: off");
    assert!(off.to.iter().all(|one| one.retry.is_none() && one.timeouts.request == Timeout::Off));
}

#[test]
fn a_route_inherits_from_its_services_and_their_defaults() {
    let config = good(
        "defaults: { timeout: 4s, retry: { attempts: 9 } }\nservices: { a: { endpoints: [10.0.0.1:80] } }\n\
         routes: [{ hosts: a, to: a, retry: { max_body: 1KiB } }]",
    );
    let a = &config.routes[0].to[0];
    let retry = a.retry.as_ref().unwrap();
    assert_eq!(
        (retry.attempts, retry.max_body, a.timeouts.request),
        (9, 1024, Timeout::Set(Duration::from_secs(4)))
    );
}

#[test]
fn variables_may_be_any_value_of_a_route() {
    let environment = |name: &str| match name {
        "B" => Some("b".to_owned()),
        "N" => Some("7".to_owned()),
        "OFF" => Some("off".to_owned()),
        "V" => Some("1.10".to_owned()),
        _ => None,
    };
    let source = with(&[
        "name: \"r-${B}\", hosts: \"${B}\", to: [\"${B}\", { service: \"${B}\", weight: \"${N}\" }], timeout: \"${OFF}\", \
         retry: \"${OFF}\", match: { path: { prefix: \"/${V}\" }, headers: { x-a: \"${V}\", x-b: { present: \"${OFF}\" } } }",
    ]);
    let route = parse_with(&source, Path::new(""), &environment).unwrap().0.routes.remove(0);
    assert_eq!((route.name.as_deref(), &route.hosts[0]), (Some("r-b"), &host("b", false, None)));
    assert_eq!((route.to[0].weight, route.to[1].weight, &route.to[1].retry), (1, 7, &None));
    assert_eq!(route.matches.path, Some(PathMatch::Prefix("/1.10".into())));
    let values: Vec<_> = route.matches.headers.into_iter().map(|header| header.value).collect();
    assert_eq!(values, [ValueMatch::Exact("1.10".into()), ValueMatch::Present(false)]);
    let stranger = parse_with(&with(&["hosts: b, to: \"${N}\""]), Path::new(""), &environment).unwrap_err();
    assert_eq!(stranger.faults[0].message, "routes[0].to is 7, which is not in `services`");
}

#[test]
fn routes_that_are_absent_or_off_are_an_empty_list() {
    for routes in ["[]", "off", "", "\"${PILLION_ABSENT:-}\""] {
        assert_eq!(good(&format!("routes: {routes}")), good("{}"), "{routes}");
    }
}
