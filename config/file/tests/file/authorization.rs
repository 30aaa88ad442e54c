//! `inbound.authorization`: what is read, what is refused, and what is warned of.

use pillion_model::authorization::{Action, EncodedSlash, Jwks, Mode};
use pillion_model::route::ValueMatch;

use crate::{bad, good, warnings};

const HEAD: &str = "identity: { directory: certs }\n";

fn with_rules(rules: &str) -> String {
    format!("{HEAD}inbound: {{ app: 127.0.0.1:8080, authorization: {{ rules: [{rules}] }} }}\n")
}

#[test]
fn a_rule_is_read_with_all_its_conditions() {
    let source = format!(
        "{HEAD}inbound:\n  authorization:\n    default: allow\n    mode: audit\n    encoded_slash: keep\n    rules:\n\
         \x20     - name: a\n        action: deny\n        from: [\"spiffe://a.b/x\", \"spiffe://a.b/y/*\"]\n        methods: GET\n\
         \x20       paths: [/a, \"/b/*\"]\n        ports: [80, 81]\n        hosts: \"*.shop\"\n        headers: {{ X-A: {{ prefix: a }} }}\n\
         \x20       sources: [10.0.0.0/8, \"fd00::1\"]\n        not: {{ methods: [PUT], ports: [81] }}\n\
         \x20     - {{ name: b }}\n"
    );
    let found = good(&source).inbound.and_then(|inbound| inbound.authorization).expect("a block");
    assert_eq!(
        (found.default, found.mode, found.encoded_slash),
        (Action::Allow, Mode::Audit, EncodedSlash::Keep)
    );
    let [rule, all] = &found.rules[..] else { unreachable!("{found:?}") };
    assert_eq!((rule.name.as_str(), rule.action), ("a", Action::Deny));
    assert_eq!(
        rule.when.from.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["spiffe://a.b/x", "spiffe://a.b/y/*"]
    );
    assert_eq!(rule.when.paths.iter().map(ToString::to_string).collect::<Vec<_>>(), ["/a", "/b/*"]);
    assert_eq!((&rule.when.methods[..], &rule.when.ports[..]), (&["GET".to_owned()][..], &[80, 81][..]));
    assert!(rule.when.hosts[0].wildcard && rule.when.sources.len() == 2);
    assert_eq!(rule.when.headers[0].name, "x-a");
    assert_eq!(rule.when.headers[0].value, ValueMatch::Prefix("a".to_owned()));
    let not = rule.not.as_ref().expect("an exception");
    assert_eq!((&not.methods[..], &not.ports[..]), (&["PUT".to_owned()][..], &[81][..]));
    assert_eq!((all.action, all.when.is_empty(), &all.not), (Action::Allow, true, &None));
    let block = |text: &str| {
        good(&format!("{HEAD}inbound: {{ authorization: {text} }}\n")).inbound.unwrap().authorization
    };
    assert_eq!(block("off"), None);
    assert_eq!(block("{}").expect("a block").default, Action::Deny);
}

#[test]
fn what_would_match_too_much_by_mistake_is_refused() {
    for (rules, expected) in [
        ("{ from: [\"spiffe://a/b\"] }", "rules[0] needs `name`"),
        ("{ name: a, from: [] }", "rules[0].from is empty"),
        ("{ name: a, from: }", "rules[0].from is empty"),
        ("{ name: a, from: \"${NOBODY:-}\" }", "rules[0].from is empty"),
        ("{ name: a, paths: [] }", "rules[0].paths is empty"),
        ("{ name: a, headers: {} }", "rules[0].headers is empty"),
        ("{ name: a, not: {} }", "rules[0].not is empty"),
        ("{ name: a, not: { from: [] } }", "rules[0].not.from is empty"),
        ("{ name: a, from: [\"spiffe://*\"] }", "which is not a SPIFFE ID"),
        ("{ name: a, from: [\"*\"] }", "which is not a SPIFFE ID"),
        ("{ name: a, paths: [\"/a*\"] }", "has a * that is not its last segment"),
        ("{ name: a, paths: [\"/a/../b\"] }", "is not in its normal form"),
        ("{ name: default }", "under which decisions without a rule are counted"),
        ("{ name: other }", "under which decisions without a rule are counted"),
        (
            "{ name: a, headers: { X-Forwarded-Client-Cert: a } }",
            "which only sidecars may send. help: write `from`",
        ),
        (
            "{ name: a, not: { headers: { client_cert: a } } }",
            "which only sidecars may send. help: write `from`",
        ),
        ("{ name: a, headers: { connection: close } }", "which concerns a single connection"),
        (
            "{ name: a, headers: { x-forwarded-for: 10.0.0.9 } }",
            "to which the sidecar adds the peer's address. help: write `sources`",
        ),
        ("{ name: a }, { name: b }, { name: a }", "rules[2].name is `a`, as an earlier rule is called"),
        ("{ name: a, sources: [\"10.0.0.1:80\"] }", "with a port"),
        ("{ name: a, frm: [\"spiffe://a/b\"] }", "has no key `frm`"),
    ] {
        let errors = bad(&with_rules(rules)).to_string();
        assert!(errors.contains(expected), "{rules}: {errors}");
    }
}

#[test]
fn rules_that_can_never_match_are_warned_of() {
    let inbound = |rest: &str, rules: &str| {
        format!("{HEAD}inbound: {{ app: 127.0.0.1:8080, {rest} authorization: {{ rules: [{rules}] }} }}\n")
    };
    const WEB: &str = "from: [\"spiffe://a/b/web\"]";
    for (rest, rules, expected) in [
        ("mtls: off,", format!("{{ name: a, {WEB} }}"), "mTLS is off on its ports"),
        (
            "ports: { 80: { mtls: off } },",
            format!("{{ name: a, {WEB}, ports: [80] }}"),
            "mTLS is off on its ports",
        ),
        ("ports: { 80: { mtls: off } },", format!("{{ name: a, {WEB} }}"), ""),
        (
            "ports: { 3306: { protocol: tcp } },",
            "{ name: a, methods: [GET], ports: [3306] }".into(),
            "carry opaque bytes",
        ),
        ("ports: { 3306: { protocol: tcp } },", "{ name: a, methods: [GET], ports: [3306, 80] }".into(), ""),
        (
            "ports: { 3306: { protocol: tcp } },",
            "{ name: a, action: deny, methods: [GET], ports: [3306] }".into(),
            "",
        ),
        ("", format!("{{ name: a, {WEB}, not: {{ from: [\"spiffe://a/b/*\"] }} }}"), "excepts everything"),
        ("", format!("{{ name: a, {WEB}, not: {{ from: [\"spiffe://a/b/*\"], methods: [GET] }} }}"), ""),
        ("", "{ name: a, action: deny, methods: [GET], not: { methods: [GET] } }".into(), ""),
        ("", format!("{{ name: a, action: deny, {WEB}, not: {{ {WEB} }} }}"), "excepts everything"),
        ("", format!("{{ name: a, {WEB} }}, {{ name: b, action: deny }}"), "the deny rule `b` matches all"),
        (
            "",
            format!("{{ name: a, {WEB}, paths: [/x/y] }}, {{ name: b, action: deny, paths: [\"/x/*\"] }}"),
            "the deny rule `b`",
        ),
        (
            "",
            format!("{{ name: a, {WEB}, paths: [/x] }}, {{ name: b, action: deny, paths: [\"/x/*\"] }}"),
            "",
        ),
        ("", format!("{{ name: a, {WEB} }}, {{ name: b, action: deny, paths: [\"/x/*\"] }}"), ""),
    ] {
        let found = warnings(&inbound(rest, &rules));
        let found = found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        let is_expected = if expected.is_empty() { found.is_empty() } else { found.contains(expected) };
        assert!(is_expected, "{rest} {rules}: {found:?}");
    }
}

/// A condition that cannot be read would look like one that is left out, and a rule without one matches everything.
#[test]
fn a_rule_is_not_compared_with_one_that_has_a_faulty_condition() {
    const WEB: &str = "{ name: web, from: [\"spiffe://a/b/web\"], methods: [GET] }";
    for faulty in ["paths: [bad]", "paths: []", "methods: 3 4", "headers: {}"] {
        let errors = bad(&with_rules(&format!("{{ name: a, action: deny, {faulty} }}, {WEB}")));
        assert!(!errors.to_string().contains("can never"), "{faulty}: {errors}");
    }
    for faulty in ["{ methods: [] }", "{ methods: 3 4 }", "{}"] {
        let rule = format!("{{ name: a, not: {faulty} }}");
        assert!(!bad(&with_rules(&rule)).to_string().contains("can never"), "{faulty}");
    }
}

#[test]
fn a_deny_rule_by_identity_is_warned_of_where_peers_without_one_are_admitted() {
    const BATCH: &str = "{ name: batch, action: deny, from: [\"spiffe://a/b/batch\"]";
    const WEB: &str = "{ name: web, from: [\"spiffe://a/b/web\"] }";
    for (inbound, rules, is_warned) in [
        ("mtls: permissive", format!("default: allow, rules: [{BATCH} }}]"), true),
        ("mtls: strict", format!("default: allow, rules: [{BATCH} }}]"), false),
        ("ports: { 80: { mtls: permissive } }", format!("default: allow, rules: [{BATCH} }}]"), true),
        (
            "ports: { 80: { mtls: permissive } }",
            format!("default: allow, rules: [{BATCH}, ports: [81] }}]"),
            false,
        ),
        ("mtls: permissive", format!("rules: [{BATCH} }}, {{ name: all, methods: [GET] }}]"), true),
        ("mtls: permissive", format!("rules: [{BATCH} }}, {WEB}]"), false),
        ("mtls: permissive", format!("default: allow, rules: [{WEB}]"), false),
    ] {
        let file =
            format!("{HEAD}inbound: {{ app: 127.0.0.1:8080, {inbound}, authorization: {{ {rules} }} }}\n");
        let found = warnings(&file).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert_eq!(
            found.contains("does not hold for peers without an identity"),
            is_warned,
            "{file}: {found}"
        );
        assert!(is_warned || found.is_empty(), "{file}: {found}");
    }
}

fn with_jwt(jwt: &str, rules: &str) -> String {
    format!("inbound: {{ app: 127.0.0.1:8080, authorization: {{ jwt: {jwt}, rules: [{rules}] }} }}\n")
}

#[test]
fn the_block_for_tokens_is_read_with_its_defaults() {
    let read = |jwt: &str| {
        let found = good(&with_jwt(jwt, "")).inbound.and_then(|inbound| inbound.authorization);
        found.expect("a block").jwt
    };
    let whole = "{ issuer: \"https://id.example\", audiences: [orders, shop], \
                 jwks: { url: \"https://id.example:8443/keys\", refresh: 1h }, from: { header: X-Token }, required: off, forward: on }";
    let jwt = read(whole).expect("tokens are read");
    assert_eq!(
        (jwt.issuer.as_str(), &jwt.audiences[..]),
        ("https://id.example", &["orders".to_owned(), "shop".to_owned()][..])
    );
    let Jwks::Url { url, refresh } = &jwt.jwks else { unreachable!("{jwt:?}") };
    assert_eq!((url.to_string().as_str(), refresh.as_secs()), ("https://id.example:8443/keys", 3600));
    assert_eq!((jwt.header.as_str(), jwt.required, jwt.forward), ("x-token", false, true));
    let jwt = read("{ issuer: a, audiences: b, jwks: { file: jwks.json } }").expect("tokens are read");
    assert!(matches!(&jwt.jwks, Jwks::File(path) if path.ends_with("jwks.json")));
    assert_eq!((jwt.header.as_str(), jwt.required, jwt.forward), ("authorization", true, false));
    let jwt = read("{ issuer: a, audiences: b, jwks: { url: \"http://127.0.0.1:1/k\" } }")
        .expect("tokens are read");
    assert!(matches!(jwt.jwks, Jwks::Url { refresh, .. } if refresh == Jwks::REFRESH));
    assert_eq!(read("off"), None);
}

#[test]
fn mistakes_in_tokens_and_claims_are_told() {
    const GOOD: &str = "{ issuer: a, audiences: b, jwks: { file: c } }";
    for (jwt, rules, expected) in [
        ("{ audiences: b, jwks: { file: c } }", "", "jwt needs `issuer`"),
        ("{ issuer: a, jwks: { file: c } }", "", "needs `audiences`"),
        ("{ issuer: a, audiences: [], jwks: { file: c } }", "", "has no audience"),
        ("{ issuer: a, audiences: b }", "", "needs `jwks`"),
        ("{ issuer: a, audiences: b, jwks: {} }", "", "has neither `file` nor `url`"),
        ("{ issuer: a, audiences: b, jwks: { file: c, url: \"https://d\" } }", "", "has `file` and `url`"),
        ("{ issuer: a, audiences: b, jwks: { url: \"http://id.example/k\" } }", "", "write https://"),
        ("{ issuer: a, audiences: b, jwks: { url: id.example } }", "", "does not begin with https://"),
        (
            "{ issuer: a, audiences: b, jwks: { url: \"https://d\", refresh: 1s } }",
            "",
            "jwks.refresh is shorter than 10s",
        ),
        (
            "{ issuer: a, audiences: b, jwks: { file: c }, from: { header: te } }",
            "",
            "from.header is te, which",
        ),
        ("{ issuer: a, audiences: b, jwks: { file: c }, from: { cookie: x } }", "", "has no key `cookie`"),
        ("on", "", "only `off` or a block of keys makes sense"),
        ("off", "{ name: a, claims: { sub: b } }", "names claims, and no token is verified"),
        ("off", "{ name: a, not: { claims: { sub: b } } }", "names claims, and no token is verified"),
        (GOOD, "{ name: a, claims: { sub: \"a*b\" } }", "has a * that is not its last character"),
        (GOOD, "{ name: a, claims: { sub: [] } }", "claims.sub has no value"),
        (GOOD, "{ name: a, claims: {} }", "claims is empty"),
        (GOOD, "{ name: jwt }", "under which decisions without a rule are counted"),
    ] {
        let errors = bad(&with_jwt(jwt, rules)).to_string();
        assert!(errors.contains(expected), "{jwt} {rules}: {errors}");
    }
    let found = good(&with_jwt(GOOD, "{ name: a, claims: { /a/b: [\"c*\", 1, true], d: e } }"));
    let rules = found.inbound.and_then(|inbound| inbound.authorization).expect("a block").rules;
    let claims: Vec<String> = rules[0]
        .when
        .claims
        .iter()
        .map(|claim| {
            format!("{} {:?}", claim.name, claim.values.iter().map(ToString::to_string).collect::<Vec<_>>())
        })
        .collect();
    assert_eq!(claims, ["/a/b [\"c*\", \"1\", \"true\"]", "d [\"e\"]"]);
    let rules =
        "{ name: a, claims: { sub: \"svc-a\" } }, { name: b, action: deny, claims: { sub: \"svc-*\" } }";
    let told = warnings(&with_jwt(GOOD, rules)).iter().map(ToString::to_string).collect::<String>();
    assert!(told.contains("the deny rule `b` matches all that it matches"), "{told}");
}

#[test]
fn an_external_authorizer_is_read_and_its_mistakes_are_told() {
    let with = |ext_authz: &str| {
        format!("inbound: {{ app: 127.0.0.1:8080, authorization: {{ ext_authz: {ext_authz} }} }}\n")
    };
    let read = |ext_authz: &str| {
        let found = good(&with(ext_authz)).inbound.and_then(|inbound| inbound.authorization);
        found.expect("a block").ext_authz
    };
    let usual = read("{ http: \"http://127.0.0.1:9191/check\" }").expect("an authorizer");
    assert_eq!(
        (usual.service.to_string().as_str(), usual.timeout.as_millis()),
        ("http://127.0.0.1:9191/check", 200)
    );
    assert_eq!((usual.on_error, &usual.send_headers[..]), (Action::Deny, &["authorization".to_owned()][..]));
    let own = "{ http: \"http://[::1]:1/\", timeout: 1s, on_error: allow, send_headers: [X-A, cookie] }";
    let own = read(own).expect("an authorizer");
    assert_eq!(
        (own.on_error, &own.send_headers[..]),
        (Action::Allow, &["x-a".to_owned(), "cookie".to_owned()][..])
    );
    assert_eq!((usual.with_body, own.with_body), (None, None));
    let grpc = read("{ grpc: \"localhost:9191\", with_body: 8KiB }").expect("an authorizer");
    assert_eq!((grpc.service.to_string().as_str(), grpc.with_body), ("127.0.0.1:9191", Some(8192)));
    assert_eq!(read("off"), None);
    for (ext_authz, expected) in [
        ("{}", "ext_authz needs `http`"),
        ("{ http: \"http://authz.shop:9191/check\" }", "names are not resolved"),
        ("{ http: \"https://127.0.0.1:9191\" }", "does not begin with http://"),
        ("{ http: \"http://127.0.0.1:1\", timeout: 31s }", "ext_authz.timeout is not above 0 and up to 30s"),
        ("{ http: \"http://127.0.0.1:1\", timeout: 0s }", "ext_authz.timeout"),
        (
            "{ http: \"http://127.0.0.1:1\", send_headers: [x-forwarded-client-cert] }",
            "which only sidecars may send",
        ),
        ("{ http: \"http://127.0.0.1:1\", send_headers: [content-length] }", "which frames the body"),
        ("{ http: \"http://127.0.0.1:1\", on_error: maybe }", "which is not one of allow, deny"),
        ("on", "only `off` or a block of keys makes sense"),
        ("{ http: \"http://127.0.0.1:1\", grpc: \"127.0.0.1:1\" }", "has `http` and `grpc`"),
        ("{ grpc: \"authz:9191\" }", "names are not resolved"),
        ("{ grpc: \"127.0.0.1:1\", with_body: 2MiB }", "ext_authz.with_body is not above 0 and up to 1MiB"),
        ("{ grpc: \"127.0.0.1:1\", with_body: 0 }", "ext_authz.with_body"),
    ] {
        let errors = bad(&with(ext_authz)).to_string();
        assert!(errors.contains(expected), "{ext_authz}: {errors}");
    }
    let errors = bad("services: { ext_authz: { endpoints: [10.0.0.1:80] } }").to_string();
    assert!(errors.contains("reserved name: metrics use it for the external authorizer"), "{errors}");
}
