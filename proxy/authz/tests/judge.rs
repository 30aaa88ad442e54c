//! What the engine decides: single stories, and the reference engine over random rules and requests.

#[path = "support/reference.rs"]
mod reference;

use pillion_authz::{Asked, Claims, Engine, Facts, Headers, MOST_MEMBERS};
use pillion_model::authorization::path::JudgedPath;
use pillion_model::authorization::{
    Action, Authorization, ClaimMatch, ClaimPattern, Conditions, EncodedSlash, PathPattern, PeerPattern, Rule,
};
use pillion_model::cluster::{AddressPattern, HostPattern};
use pillion_model::route::{HeaderMatch, ValueMatch};
use proptest::prelude::*;
use reference::{Case, Http};
use serde_json::{Value, json};

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const BATCH: &str = "spiffe://cluster.local/ns/batch/sa/nightly";

struct Sent<'a>(&'a [(String, String)]);

impl Headers for Sent<'_> {
    fn values(&self, name: &str, each: &mut dyn FnMut(&[u8], bool)) {
        let alike = self.0.iter().filter(|(sent, _)| sent.replace('_', "-") == name);
        alike.for_each(|(sent, value)| each(value.as_bytes(), sent == name));
    }
}

/// What the engine decides, and whether each rule fits by what it says of their misfits.
fn explained(by: &Authorization, case: &Case) -> ((Action, Option<usize>), Vec<bool>) {
    let http = case.http.as_ref();
    let path = http.and_then(|http| http.path.as_deref());
    let path = path.map(|path| JudgedPath::of(path, EncodedSlash::Reject).expect("a clear path"));
    let sent = Sent(http.map_or(&[], |http| &http.headers));
    let claims = http.and_then(|http| http.claims.as_ref());
    let claims = claims.map(|all| Claims::of(all, &Claims::wanted(&by.rules)).expect("short lists"));
    let request = http.map(|http| Asked {
        method: &http.method,
        path: path.as_ref(),
        host: http.host.as_deref().map(|host| match host.split_once(':') {
            Some((name, port)) => (name, port.parse().ok()),
            None => (host, None),
        }),
        headers: &sent,
        claims: claims.as_ref(),
    });
    let facts = Facts { peer: case.peer.as_ref(), source: case.source, port: case.port, request };
    let engine = Engine::new(by);
    let verdict = engine.judge(&facts);
    let fits = engine.misfits(&facts).map(|misfit| misfit.is_none()).collect();
    ((verdict.action, verdict.rule), fits)
}

fn judged(by: &Authorization, case: &Case) -> (Action, Option<usize>) {
    explained(by, case).0
}

fn authorization(rules: Vec<Rule>) -> Authorization {
    Authorization { rules, ..Authorization::default() }
}

fn rule(action: Action, when: Conditions) -> Rule {
    Rule { name: "a".to_owned(), action, when, not: None }
}

fn from(peers: &[&str]) -> Vec<PeerPattern> {
    peers.iter().map(|peer| PeerPattern::new(peer).expect("a pattern")).collect()
}

fn paths(paths: &[&str]) -> Vec<PathPattern> {
    paths.iter().map(|path| PathPattern::new(path).expect("a pattern")).collect()
}

fn asked(peer: Option<&str>, method: &str, path: &str) -> Case {
    let http = Http {
        method: method.to_owned(),
        path: Some(path.to_owned()),
        host: None,
        headers: Vec::new(),
        claims: None,
    };
    Case {
        peer: peer.map(|peer| peer.parse().expect("an ID")),
        source: "10.0.0.7".parse().expect("an address"),
        port: 8080,
        http: Some(http),
    }
}

fn opaque(peer: Option<&str>, port: u16) -> Case {
    Case { port, http: None, ..asked(peer, "GET", "/") }
}

const ALLOWED: Action = Action::Allow;
const DENIED: Action = Action::Deny;

#[test]
fn the_example_of_the_public_interface() {
    let reads = Conditions {
        from: from(&[WEB, "spiffe://cluster.local/ns/batch/*"]),
        methods: vec!["GET".to_owned(), "HEAD".to_owned()],
        paths: paths(&["/api/*"]),
        ports: vec![8080],
        ..Conditions::default()
    };
    let rules = authorization(vec![rule(ALLOWED, reads)]);
    for (case, expected) in [
        (asked(Some(WEB), "GET", "/api/orders"), (ALLOWED, Some(0))),
        (asked(Some(BATCH), "HEAD", "/api/"), (ALLOWED, Some(0))),
        (asked(Some(WEB), "POST", "/api/orders"), (DENIED, None)),
        (asked(Some(WEB), "get", "/api/orders"), (DENIED, None)),
        (asked(Some(WEB), "GET", "/apis"), (DENIED, None)),
        (asked(Some(WEB), "GET", "/api"), (DENIED, None)),
        (asked(Some("spiffe://cluster.local/ns/batch"), "GET", "/api/a"), (DENIED, None)),
        (asked(Some("spiffe://other.local/ns/shop/sa/web"), "GET", "/api/a"), (DENIED, None)),
        (asked(None, "GET", "/api/a"), (DENIED, None)),
        (Case { port: 9090, ..asked(Some(WEB), "GET", "/api/orders") }, (DENIED, None)),
        (opaque(Some(WEB), 8080), (DENIED, None)),
    ] {
        assert_eq!(judged(&rules, &case), expected, "{case:?}");
    }
}

#[test]
fn a_matching_deny_rule_wins_wherever_it_stands_and_the_first_one_is_named() {
    let all = || Conditions { from: from(&["spiffe://cluster.local/*"]), ..Conditions::default() };
    let admin = Conditions { paths: paths(&["/admin/*", "/admin"]), ..Conditions::default() };
    let rules = authorization(vec![
        rule(ALLOWED, all()),
        rule(ALLOWED, Conditions { from: from(&[WEB]), ..Conditions::default() }),
        rule(DENIED, admin.clone()),
        rule(DENIED, Conditions { from: from(&[WEB]), ..admin }),
    ]);
    assert_eq!(judged(&rules, &asked(Some(WEB), "GET", "/x")), (ALLOWED, Some(0)));
    for path in ["/admin", "/admin/x", "/admin;x", "/admin;x/y", "/;x/admin", "/admin%3Fx", "/admin;x%23/y"] {
        assert_eq!(judged(&rules, &asked(Some(WEB), "GET", path)), (DENIED, Some(2)), "{path}");
    }
    assert_eq!(judged(&rules, &opaque(Some(WEB), 1)), (DENIED, Some(2)), "it matches by its other fields");
}

/// The work for one value has a bound, and what is beyond it cannot slip past a deny rule.
#[test]
fn a_deny_rule_matches_a_list_that_is_too_long_to_be_read() {
    let admin = HeaderMatch { name: "x-role".to_owned(), value: ValueMatch::Exact("admin".to_owned()) };
    let conditions = Conditions { headers: vec![admin], ..Conditions::default() };
    let rules = authorization(vec![rule(ALLOWED, Conditions::default()), rule(DENIED, conditions)]);
    for (value, expected) in [
        ("user, admin".to_owned(), DENIED),
        ("user,".repeat(MOST_MEMBERS), ALLOWED),
        (format!("{}admin", "user,".repeat(MOST_MEMBERS - 1)), DENIED),
        ("user,".repeat(MOST_MEMBERS + 1), DENIED),
        (",".repeat(64 * 1024), ALLOWED),
    ] {
        let mut case = asked(Some(WEB), "GET", "/");
        let http = case.http.as_mut().expect("a request");
        http.headers = vec![("x-role".to_owned(), value.clone())];
        assert_eq!(judged(&rules, &case).0, expected, "{} members", value.matches(',').count());
    }
}

/// An application that knows parameters sees `/public/x`, another one a path that the rule does not name.
#[test]
fn an_allow_rule_needs_every_reading_of_a_path() {
    let rules = authorization(vec![rule(
        ALLOWED,
        Conditions { paths: paths(&["/public/*", "/a!b", "/c;d"]), ..Conditions::default() },
    )]);
    for (path, expected) in [
        ("/public/x;y", ALLOWED),
        ("/public/;y", ALLOWED),
        ("/public;y/x", DENIED),
        ("/a!b", ALLOWED),
        ("/a%21b", DENIED),
        ("/c;d", ALLOWED),
        ("/c;e", DENIED),
        ("/c", DENIED),
        ("/public/x%3Fy", ALLOWED),
        ("/public%3F/x", DENIED),
    ] {
        assert_eq!(judged(&rules, &asked(None, "GET", path)).0, expected, "{path}");
    }
}

#[test]
fn an_allow_rule_needs_every_reading_of_a_header_and_a_deny_rule_one() {
    let judge = |action, name: &str, value: ValueMatch, sent: &[(&str, &str)]| {
        let headers = vec![HeaderMatch { name: name.to_owned(), value }];
        let default = if action == DENIED { ALLOWED } else { DENIED };
        let rules = vec![rule(action, Conditions { headers, ..Conditions::default() })];
        let mut case = asked(None, "GET", "/");
        case.http.as_mut().expect("a request").headers =
            sent.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        judged(&Authorization { default, ..authorization(rules) }, &case).0
    };
    let exact = |text: &str| ValueMatch::Exact(text.to_owned());
    for (value, sent, allowed, denied) in [
        (exact("a"), &[("x-role", "a")][..], ALLOWED, DENIED),
        (exact("a"), &[("x-role", "b, a")], DENIED, DENIED),
        (exact("a"), &[("x-role", "b"), ("x-role", "c ,a")], DENIED, DENIED),
        (exact("a, b"), &[("x-role", "a"), ("x-role", "b")], DENIED, DENIED),
        (exact("a"), &[("x-role", "ba")], DENIED, ALLOWED),
        (exact("a"), &[("x_role", "a")], DENIED, DENIED),
        (exact("a"), &[("x-role", "a"), ("x_role", "b")], DENIED, DENIED),
        (ValueMatch::Present(true), &[("x_role", "a")], DENIED, DENIED),
        (ValueMatch::Present(false), &[("x_role", "a")], DENIED, DENIED),
        (ValueMatch::Present(false), &[("x-other", "a")], ALLOWED, DENIED),
    ] {
        assert_eq!(judge(ALLOWED, "x-role", value.clone(), sent), allowed, "allow {value:?} {sent:?}");
        assert_eq!(judge(DENIED, "x-role", value.clone(), sent), denied, "deny {value:?} {sent:?}");
    }
    assert_eq!(judge(DENIED, "cookie", exact("a=1"), &[("cookie", "b=2; a=1")]), DENIED);
}

#[test]
fn a_peer_without_an_identity_profits_from_no_rule_about_identities() {
    let not = |action, not| Rule { not: Some(not), ..rule(action, Conditions::default()) };
    let batch = || Conditions { from: from(&[BATCH]), ..Conditions::default() };
    let mut rules = authorization(vec![not(ALLOWED, batch())]);
    assert_eq!(judged(&rules, &asked(Some(WEB), "GET", "/")).0, ALLOWED);
    assert_eq!(judged(&rules, &asked(Some(BATCH), "GET", "/")).0, DENIED);
    assert_eq!(judged(&rules, &asked(None, "GET", "/")).0, DENIED, "it may be the peer that is excepted");
    rules.rules = vec![not(DENIED, batch())];
    rules.default = ALLOWED;
    assert_eq!(judged(&rules, &asked(Some(BATCH), "GET", "/")).0, ALLOWED);
    assert_eq!(judged(&rules, &asked(None, "GET", "/")).0, DENIED);
}

#[test]
fn a_request_without_a_token_profits_from_no_rule_about_claims() {
    let admin = || Conditions {
        claims: vec![ClaimMatch {
            name: "groups".to_owned(),
            values: vec![ClaimPattern::new("admin").expect("a pattern")],
        }],
        ..Conditions::default()
    };
    let not = |action| Rule { not: Some(admin()), ..rule(action, Conditions::default()) };
    let with = |claims: Option<Value>| {
        let mut case = asked(None, "GET", "/");
        case.http.as_mut().expect("a request").claims = claims;
        case
    };
    let (admins, users) = (Some(json!({ "groups": ["admin"] })), Some(json!({ "groups": ["user"] })));
    for (rule, default, admin, user, nobody) in [
        (rule(ALLOWED, admin()), DENIED, ALLOWED, DENIED, DENIED),
        (rule(DENIED, admin()), ALLOWED, DENIED, ALLOWED, ALLOWED),
        (not(ALLOWED), DENIED, DENIED, ALLOWED, DENIED),
        (not(DENIED), ALLOWED, ALLOWED, DENIED, DENIED),
    ] {
        let rules = Authorization { default, ..authorization(vec![rule]) };
        let decided = [&admins, &users, &None].map(|claims| judged(&rules, &with(claims.clone())).0);
        assert_eq!(decided, [admin, user, nobody], "{rules:?}");
        let is_by_allow_rule = default == DENIED;
        assert_eq!(judged(&rules, &opaque(None, 1)).0 == ALLOWED, !is_by_allow_rule && nobody == ALLOWED);
    }
}

#[test]
fn on_opaque_connections_rules_for_requests_allow_nothing_and_deny_by_their_other_fields() {
    let by_port = |port| Conditions { ports: vec![port], ..Conditions::default() };
    let with_method = |port| Conditions { methods: vec!["GET".to_owned()], ..by_port(port) };
    let rules = authorization(vec![
        rule(ALLOWED, by_port(1)),
        rule(ALLOWED, with_method(2)),
        rule(DENIED, with_method(3)),
        rule(ALLOWED, by_port(3)),
        Rule { not: Some(with_method(4)), ..rule(ALLOWED, by_port(4)) },
        Rule { not: Some(with_method(5)), ..rule(DENIED, by_port(5)) },
    ]);
    for (port, expected) in [(1, (ALLOWED, Some(0))), (2, (DENIED, None)), (3, (DENIED, Some(2)))] {
        assert_eq!(judged(&rules, &opaque(Some(WEB), port)), expected, "{port}");
    }
    assert_eq!(judged(&rules, &opaque(Some(WEB), 4)), (DENIED, None));
    assert_eq!(judged(&rules, &opaque(Some(WEB), 5)), (DENIED, Some(5)));
    let engine = Engine::new(&rules);
    assert_eq!([1, 2, 3, 4, 5].map(|port| engine.has_rules_for_http(port)), [false, true, true, true, true]);
}

#[test]
fn paths_are_judged_on_the_ports_alone_whose_rules_name_them() {
    let by_path =
        |ports: &[u16]| Conditions { paths: paths(&["/x"]), ports: ports.to_vec(), ..Conditions::default() };
    let excepted = Rule {
        not: Some(by_path(&[])),
        ..rule(ALLOWED, Conditions { ports: vec![2], ..Conditions::default() })
    };
    let mut rules =
        authorization(vec![rule(DENIED, by_path(&[1])), excepted, rule(ALLOWED, Conditions::default())]);
    let judged_on = |by: &Authorization| [1, 2, 3].map(|port| Engine::new(by).names_paths(port));
    assert_eq!(judged_on(&rules), [true, true, false]);
    rules.rules.push(rule(DENIED, by_path(&[])));
    assert_eq!(judged_on(&rules), [true, true, true]);
}

/// More than the index keeps by path.
#[test]
fn rules_with_very_many_peers_and_paths_are_found_all_the_same() {
    let texts = |of: &str| (0..100).map(|nth| format!("{of}/{nth}")).collect::<Vec<_>>();
    let (peers, all) = (texts("spiffe://cluster.local/sa"), texts("/p"));
    let peers: Vec<&str> = peers.iter().map(String::as_str).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let when = Conditions { from: from(&peers), paths: paths(&all), ..Conditions::default() };
    let rules = authorization((0..4).map(|_| rule(ALLOWED, when.clone())).collect());
    let last = Conditions { paths: paths(&["/q"]), ..when };
    let rules = authorization(rules.rules.into_iter().chain([rule(ALLOWED, last)]).collect());
    let peer = Some("spiffe://cluster.local/sa/99");
    assert_eq!(judged(&rules, &asked(peer, "GET", "/p/99")), (ALLOWED, Some(0)));
    assert_eq!(judged(&rules, &asked(peer, "GET", "/p/100")), (DENIED, None));
    assert_eq!(judged(&rules, &asked(peer, "GET", "/q")), (ALLOWED, Some(4)));
}

fn some<T: Clone + std::fmt::Debug + 'static>(of: Vec<T>) -> impl Strategy<Value = Vec<T>> {
    let most = of.len().min(3);
    prop_oneof![2 => Just(Vec::new()), 1 => prop::sample::subsequence(of, 1..=most)]
}

fn conditions() -> impl Strategy<Value = Conditions> {
    let peers = from(&[
        "spiffe://a/x",
        "spiffe://a/x/y",
        "spiffe://a/*",
        "spiffe://a/x/*",
        "spiffe://a/x/y/*",
        "spiffe://b/*",
        "spiffe://b",
    ]);
    let patterns = paths(&[
        "/", "/*", "/a", "/a/*", "/a/b", "/a/b/*", "/a/", "/a;x", "/a;x/*", "/a!", "/a%21/*", "/a%3Fb",
    ]);
    let host = |name: &str, wildcard, port| HostPattern { name: name.to_owned(), wildcard, port };
    let hosts = vec![
        host("a", false, None),
        host("a", true, None),
        host("a", false, Some(80)),
        host("b.a", false, None),
    ];
    let value = |value| HeaderMatch { name: "x-a".to_owned(), value };
    let headers = vec![
        value(ValueMatch::Exact("1".to_owned())),
        value(ValueMatch::Exact("1, 2".to_owned())),
        value(ValueMatch::Prefix("2".to_owned())),
        value(ValueMatch::Present(true)),
        value(ValueMatch::Present(false)),
        HeaderMatch { name: "x-b".to_owned(), value: ValueMatch::Exact("1".to_owned()) },
    ];
    let network = |text: &str, prefix| AddressPattern {
        network: text.parse().expect("an address"),
        prefix,
        port: None,
    };
    let sources = vec![network("10.0.0.0", 8), network("10.0.0.7", 32), network("fd00::", 16)];
    let methods = ["GET", "PUT"].map(str::to_owned).to_vec();
    let claim = |name: &str, values: &[&str]| ClaimMatch {
        name: name.to_owned(),
        values: values.iter().map(|text| ClaimPattern::new(text).expect("a pattern")).collect(),
    };
    let claims = vec![
        claim("sub", &["svc-*"]),
        claim("sub", &["svc-a", "b"]),
        claim("groups", &["b"]),
        claim("groups", &["*"]),
        claim("level", &["1", "true"]),
    ];
    let of_requests = (some(methods), some(patterns), some(hosts), some(headers), some(claims));
    (some(peers), some(vec![1, 2]), some(sources), of_requests).prop_map(
        |(from, ports, sources, (methods, paths, hosts, headers, claims))| Conditions {
            from,
            methods,
            paths,
            ports,
            hosts,
            headers,
            sources,
            claims,
        },
    )
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let not =
        prop_oneof![2 => Just(None), 1 => conditions().prop_map(|it| Some(it).filter(|it| !it.is_empty()))];
    let action = prop_oneof![Just(ALLOWED), Just(DENIED)];
    (action, conditions(), not).prop_map(|(action, when, not)| Rule {
        name: String::new(),
        action,
        when,
        not,
    })
}

fn case() -> impl Strategy<Value = Case> {
    let peer = prop::sample::select(vec![
        None,
        Some("spiffe://a"),
        Some("spiffe://a/x"),
        Some("spiffe://a/x/y"),
        Some("spiffe://a/x/y/z"),
        Some("spiffe://b"),
        Some("spiffe://b/x"),
        Some("spiffe://c/x"),
    ]);
    let path = prop_oneof![
        1 => Just(None),
        9 => "(/[ab](;x|!|%21|%3Fb|%23)?){1,3}/?|/|/;x/a|/%3F".prop_map(Some),
    ];
    let host = prop::sample::select(vec![
        None,
        Some("a"),
        Some("A."),
        Some("b.a:80"),
        Some("a:80"),
        Some("a:81"),
        Some("ba"),
    ]);
    let names = vec!["x-a", "x-a", "x_a", "x-b"];
    let header = (prop::sample::select(names), prop::sample::select(vec!["1", "2", "22", "3, 1", "2,1"]))
        .prop_map(|(name, value)| (name.to_owned(), value.to_owned()));
    let headers = prop::collection::vec(header, 0..3);
    let method = prop::sample::select(vec!["GET", "PUT", "put"]);
    let http = (method, path, host, headers, prop::option::of(claims_of_a_token())).prop_map(
        |(method, path, host, headers, claims)| Http {
            method: method.to_owned(),
            path,
            host: host.map(str::to_owned),
            headers,
            claims,
        },
    );
    let source = prop::sample::select(vec!["10.0.0.7", "10.1.0.0", "11.0.0.1", "fd00::1", "::ffff:10.0.0.7"]);
    let http = prop_oneof![1 => Just(None), 5 => http.prop_map(Some)];
    (peer, source, 1_u16..4, http).prop_map(|(peer, source, port, http)| Case {
        peer: peer.map(|peer| peer.parse().expect("an ID")),
        source: source.parse().expect("an address"),
        port,
        http,
    })
}

fn claims_of_a_token() -> impl Strategy<Value = Value> {
    let of = |values: Vec<Value>| prop::option::of(prop::sample::select(values));
    let subjects = of(vec![json!("svc-a"), json!("svc-b"), json!("b"), json!(["b"])]);
    let groups =
        of(vec![json!([]), json!(["a"]), json!(["a", "b"]), json!("b"), json!({ "b": "b" }), json!([["b"]])]);
    let levels = of(vec![json!(1), json!(2), json!(true), json!(null), json!("1"), json!([0, 1])]);
    (subjects, groups, levels).prop_map(|(sub, groups, level)| {
        let all = [("sub", sub), ("groups", groups), ("level", level)];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_decides_as_the_reference(
        rules in prop::collection::vec(any_rule(), 0..12),
        default in prop_oneof![Just(ALLOWED), Just(DENIED)],
        cases in prop::collection::vec(case(), 1..8),
    ) {
        let by = Authorization { default, ..authorization(rules) };
        for case in cases {
            prop_assert_eq!(judged(&by, &case), reference::judge(&by, &case), "{:?}", case);
        }
    }

    #[test]
    fn the_misfits_of_rules_agree_with_the_decision(
        rules in prop::collection::vec(any_rule(), 0..12),
        cases in prop::collection::vec(case(), 1..8),
    ) {
        let by = authorization(rules);
        for case in cases {
            let (decided, fits) = explained(&by, &case);
            let first = |action| by.rules.iter().zip(&fits).position(|(rule, fits)| *fits && rule.action == action);
            let expected = first(DENIED).map(|nth| (DENIED, Some(nth)));
            let expected = expected.or_else(|| first(ALLOWED).map(|nth| (ALLOWED, Some(nth))));
            prop_assert_eq!(decided, expected.unwrap_or((by.default, None)), "{:?}", case);
        }
    }

    #[test]
    fn a_judged_path_is_judged_as_itself(
        path in "(/{1,2}(a|\\.|%2e|%2E|%61|%41|%2f|%3b|%3f|%23|;|%25|%c3%a4|%|x=1|\\.\\.|%00|\\\\){0,4}){0,5}",
        keep in any::<bool>(),
    ) {
        let slash = if keep { EncodedSlash::Keep } else { EncodedSlash::Reject };
        if let Ok(once) = JudgedPath::of(&path, slash) {
            let again = JudgedPath::of(&once.forwarded, slash);
            prop_assert_eq!(again.as_ref().map(|again| &*again.forwarded), Ok(&*once.forwarded));
            let again = again.expect("a clear path");
            prop_assert_eq!((again.decoded(), again.plain()), (once.decoded(), once.plain()));
            prop_assert_eq!(again.before_query(), once.before_query());
            let before_query = once.before_query().unwrap_or(b"/");
            for reading in [once.forwarded.as_bytes(), once.decoded(), once.plain(), before_query] {
                let mut names = reading.split(|byte| *byte == b'/').skip(1).peekable();
                while let Some(name) = names.next() {
                    let is_last = names.peek().is_none();
                    prop_assert!(name != b"." && name != b".." && (is_last || !name.is_empty()), "{:?}", once);
                }
                prop_assert!(reading.starts_with(b"/") && !reading.iter().any(|it| matches!(it, b'\\' | 0)));
            }
        }
    }

    #[test]
    fn no_text_makes_a_path_panic(path in ".{0,20}|[/.%;0-9a-f\\\\ä]{0,20}") {
        drop(JudgedPath::of(&path, EncodedSlash::Reject));
        drop(JudgedPath::of(&path, EncodedSlash::Keep));
        drop(PathPattern::new(&path));
    }
}
