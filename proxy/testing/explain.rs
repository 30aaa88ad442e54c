//! `pillion explain` about a running sidecar: the same decisions as its requests get, with reasons.

use serde_json::{Value, json};

use super::backend::OK;
use super::mesh::{A, B, C, Mesh, Sidecar, application_at, settle};
use crate::explained::{self, Query, Source};

fn asked(sidecar: &Sidecar, method: &str, url: &str, of: Query) -> Value {
    let query = Query { method: method.to_owned(), url: url.to_owned(), ..of };
    let (config, snapshot) = (sidecar.controller.config(), sidecar.controller.store().load_full());
    let source = Source { config, written: None, flags: &[], is_live: true };
    let now = tokio::time::Instant::now().into_std();
    explained::answer(&query, &snapshot, &source, now).expect("a question")
}

fn headers(all: &[&str]) -> Query {
    Query { headers: all.iter().map(ToString::to_string).collect(), ..Query::default() }
}

fn because(found: &Value) -> Vec<String> {
    let all = found["rejected"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = |of: &Value| if of["route"].is_null() { text(&of["rule"]) } else { text(&of["route"]) };
    all.map(|of| format!("{}: {}", name(of), text(&of["because"]))).collect()
}

#[tokio::test(start_paused = true)]
async fn the_cache_of_the_service_is_told_with_its_bounds() {
    let mesh = Mesh::default();
    let sidecar = mesh.caller(&format!("endpoints: [\"{A}\"], cache: {{ max: 8MiB }}"));
    let found = asked(&sidecar, "GET", "http://orders/", headers(&[]));
    let of = |key: &str| found["policies"][key]["value"].clone();
    assert_eq!((of("cache.max"), of("cache.max_object")), (json!("8MiB"), json!("1MiB")), "{found:#}");
    assert_eq!(of("cache.stale_if_error"), json!("off"));
}

#[tokio::test(start_paused = true)]
async fn the_route_is_named_with_the_reasons_against_earlier_ones() {
    let mesh = Mesh::default();
    let (_a, _b) = (mesh.answering(A, OK), mesh.answering(B, OK));
    let yaml = super::mesh::caller(&format!("endpoints: [\"{A}\"]"))
        + &format!("  billing: {{ endpoints: [\"{B}\"] }}\n  shadow: {{ endpoints: [\"{C}\"] }}\n")
        + "routes:\n\
           - { name: other, hosts: [billing], to: shadow }\n\
           - { name: v1, hosts: [orders], match: { path: { prefix: /v1 } }, to: shadow }\n\
           - { hosts: [orders], match: { methods: [PUT, POST] }, to: shadow }\n\
           - { hosts: [orders], match: { headers: { x-user: jo } }, to: shadow }\n\
           - { hosts: [orders], match: { query: { debug: { present: on } } }, to: shadow }\n\
           - { name: split, hosts: [orders], match: { path: { exact: /v2 } }, timeout: 3s, to: [{ service: shadow, weight: 1 }, { service: billing, weight: 3 }] }\n\
           - { name: gone, hosts: [legacy], match: { path: { exact: /a } }, respond: { status: 410 } }\n";
    let sidecar = mesh.sidecar(&yaml, None);
    let found = asked(&sidecar, "GET", "http://orders/v2?a=1", headers(&["x-user: ann"]));
    assert_eq!((&found["route"], &found["service"]), (&json!("split"), &json!("billing")));
    assert_eq!(
        found["split"],
        json!([{ "service": "billing", "weight": 3 }, { "service": "shadow", "weight": 1 }])
    );
    assert_eq!(found["endpoints"], json!([{ "address": B, "state": "eligible" }]));
    assert_eq!(found["policies"]["timeout"]["value"], "3s");
    assert_eq!(
        because(&found),
        [
            "other: hosts: orders is none of billing",
            "v1: path: /v2 is not below /v1",
            "routes[2]: methods: GET is none of PUT, POST",
            "routes[3]: header x-user: ann does not fit (exact jo)",
            "routes[4]: query debug: there is none, and it must be present",
        ]
    );
    let found = asked(&sidecar, "GET", "http://orders/", headers(&[]));
    assert_eq!((&found["route"], &found["service"]), (&Value::Null, &json!("orders")));
    assert_eq!(because(&found).len(), 7, "none matches");
    let found = asked(&sidecar, "POST", "http://orders/", headers(&[]));
    assert_eq!((&found["route"], &found["service"]), (&json!("routes[2]"), &json!("shadow")));
    let found = asked(&sidecar, "GET", "http://legacy/a", headers(&[]));
    assert_eq!(found["route"], "gone");
    let found = asked(&sidecar, "GET", "http://legacy/b", headers(&[]));
    assert!(
        found["refused"].as_str().is_some_and(|why| why.starts_with("no_route"))
            && found["service"].is_null()
    );
    let found = asked(&sidecar, "GET", "http://nobody/", headers(&[]));
    assert!(
        found["service"].is_null() && found["notes"][0].as_str().is_some_and(|it| it.contains("passthrough"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_connect_asks_no_routes_and_goes_to_the_service_with_its_host_and_port() {
    let mesh = Mesh::default();
    let yaml = super::mesh::caller(&format!("endpoints: [\"{A}\"]"))
        + &format!("  shadow: {{ endpoints: [\"{C}\"] }}\n")
        + "routes:\n\
           - { name: root, hosts: [orders], match: { path: { prefix: / } }, to: shadow }\n\
           - { name: gone, hosts: [legacy], to: shadow }\n";
    let sidecar = mesh.sidecar(&yaml, None);
    let connect = |url: &str| asked(&sidecar, "CONNECT", url, Query::default());
    let found = connect("http://orders:80");
    assert_eq!((&found["route"], &found["service"]), (&Value::Null, &json!("orders")));
    assert_eq!((because(&found), &found["refused"]), (Vec::new(), &Value::Null));
    assert_eq!(found["notes"], json!(["what runs inside a CONNECT is routed once more"]));
    for (url, code) in
        [("http://169.254.169.254:80", "egress_denied: "), ("http://240.240.7.7:80", "no_route: ")]
    {
        let refused = connect(url)["refused"].as_str().unwrap_or_default().to_owned();
        assert!(refused.starts_with(code), "{url}: {refused}");
    }
    let found = connect("http://legacy:80");
    assert!(found["service"].is_null(), "what only routes know is no service: {found}");
    let found = connect("http://orders");
    assert!(found["refused"].as_str().is_some_and(|why| why.starts_with("bad_request")), "{found}");
    assert_eq!(asked(&sidecar, "GET", "http://orders:80", Query::default())["route"], "root");
}

#[tokio::test(start_paused = true)]
async fn the_header_host_decides_where_the_address_belongs_to_no_service() {
    let mesh = Mesh::default();
    let yaml = super::mesh::caller(&format!("endpoints: [\"{A}\"]"))
        + &format!("  billing: {{ endpoints: [\"{B}\"], addresses: [\"10.96.0.20:80\"] }}\n");
    let sidecar = mesh.sidecar(&yaml, None);
    for (url, host, service) in [
        ("http://10.9.9.9/", "Host: orders", "orders"),
        ("http://billing/", "host: orders:80", "orders"),
        ("http://10.96.0.20/", "Host: orders", "billing"),
    ] {
        assert_eq!(asked(&sidecar, "GET", url, headers(&[host]))["service"], service, "{url} {host}");
    }
}

#[tokio::test(start_paused = true)]
async fn endpoints_have_the_state_in_which_requests_find_them() {
    let mesh = Mesh::default();
    let _well = mesh.answering(A, OK);
    let _ill = mesh.answering(B, "HTTP/1.1 503 Unavailable\r\ncontent-length: 0\r\n\r\n");
    let more = "retry: off, load_balancer: round_robin, outlier_detection: { consecutive_errors: 1, max_ejected: 50% }";
    let sidecar =
        mesh.caller(&format!("endpoints: [\"{A}\", \"{B}\"], addresses: [\"10.96.0.10:80\"], {more}"));
    let states = |sidecar: &Sidecar| {
        let found = asked(sidecar, "", "tcp://10.96.0.10:80", Query::default());
        assert_eq!(found["service"], "orders");
        let all = found["endpoints"].as_array().expect("a list").iter();
        all.map(|of| of["state"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(states(&sidecar), ["eligible", "eligible"]);
    let mut client = sidecar.client().await;
    for _ in 0..4 {
        client.get("/").await;
    }
    settle().await;
    assert_eq!(states(&sidecar), ["eligible", "ejected"]);
}

const WEB: &str = "spiffe://cluster.local/ns/default/sa/web";

#[tokio::test(start_paused = true)]
async fn the_deciding_authorization_rule_is_named_with_the_reasons_against_earlier_ones() {
    let mesh = Mesh::default();
    let rules = format!(
        "{{ name: batch, from: [\"spiffe://cluster.local/ns/batch/*\"] }}, \
         {{ name: writes, methods: [PUT] }}, \
         {{ name: near, sources: [\"10.0.0.0/8\"], paths: [/x] }}, \
         {{ name: reads, from: [\"{WEB}\"], methods: [GET], paths: [\"/api/*\"] }}, \
         {{ name: secrets, action: deny, ports: [80], paths: [/api/secrets] }}"
    );
    let inbound = format!(
        "app: {A}, mtls: off, ports: {{ 3306: {{ protocol: tcp }} }}, authorization: {{ rules: [{rules}] }}"
    );
    let sidecar = mesh.sidecar(&application_at("10.1.0.1:15006", &inbound), None);
    let of = |sources: &[&str]| Query {
        sources: sources.iter().map(ToString::to_string).collect(),
        inbound: Some(80),
        ..Query::default()
    };
    let found = asked(&sidecar, "GET", "http://orders/api/a", of(&[WEB]));
    let judged = &found["authorization"];
    assert_eq!((&judged["decision"], &judged["rule"]), (&json!("allowed"), &json!("reads")));
    assert_eq!((&found["service"], &found["refused"]), (&json!("app"), &Value::Null));
    assert_eq!(
        because(judged),
        [
            format!("batch: from: {WEB} is none of spiffe://cluster.local/ns/batch/*"),
            "writes: methods: GET is none of PUT".to_owned(),
            "near: paths: /api/a is none of /x".to_owned(),
        ]
    );
    let found = asked(&sidecar, "GET", "http://orders/api/./secrets", of(&[WEB]));
    assert_eq!(found["authorization"]["rule"], "secrets");
    assert!(
        because(&found["authorization"]).iter().any(|why| why.starts_with("reads: it fits, but")),
        "{found}"
    );
    assert_eq!(found["refused"], "authz_denied: decided by secrets");
    let found = asked(&sidecar, "GET", "http://orders/x", of(&["10.1.2.3"]));
    assert_eq!(found["authorization"]["rule"], "near");
    let found = asked(&sidecar, "GET", "http://orders/x", of(&[]));
    assert_eq!(
        (&found["authorization"]["rule"], &found["authorization"]["decision"]),
        (&json!("default"), &json!("denied"))
    );
    let found = asked(&sidecar, "GET", "http://orders/a/..;/b", of(&[WEB]));
    assert!(found["refused"].as_str().is_some_and(|why| why.starts_with("bad_request")), "{found}");
    let found = asked(
        &sidecar,
        "",
        "tcp://10.0.0.1:3306",
        Query { inbound: Some(3306), ..of(&["spiffe://cluster.local/ns/batch/sa/a"]) },
    );
    assert_eq!(found["authorization"]["rule"], "batch", "{found}");
    let found = asked(&sidecar, "", "tcp://10.0.0.1:80", of(&[WEB]));
    assert_eq!(found["authorization"]["rule"], "opaque", "{found}");
}

/// What a file says of opaque bytes and of a path with two readings, where an external authorizer is asked.
#[test]
fn a_file_is_explained_with_its_external_authorizer() {
    let text = "inbound: { app: 127.0.0.1:80, authorization: { default: allow, ext_authz: { http: \"http://127.0.0.1:9/\" } } }";
    let rule = |method: &str, url: &str| {
        let found = asked_of_file(text, method, url, Query { inbound: Some(80), ..Query::default() });
        found["authorization"]["rule"].clone()
    };
    assert_eq!(rule("", "tcp://10.0.0.1:80"), "opaque");
    assert_eq!(rule("GET", "http://a/..;/b"), "bad_path");
    assert_eq!(rule("GET", "http://a/b"), "default");
}

/// What cannot be asked about is denied in the explanation as in the sidecar, and what rules deny is not asked about.
#[test]
fn a_request_about_which_the_authorizer_cannot_be_asked_is_explained_as_denied() {
    let inbound = |rest: &str| {
        let ext_authz = "ext_authz: { http: \"http://127.0.0.1:9/\", send_headers: [x-user] }";
        format!(
            "inbound: {{ mtls: off, app: 127.0.0.1:80, authorization: {{ default: allow, {ext_authz}, {rest} }} }}"
        )
    };
    let of = |header: &str| Query { headers: vec![header.to_owned()], inbound: Some(80), ..Query::default() };
    let asked = |rest: &str, method: &str, header: &str| {
        asked_of_file(&inbound(rest), method, "http://orders:80", of(header))
    };
    for (method, header, why) in
        [("CONNECT", "x-a: b", "a CONNECT has no path"), ("GET", "X_User: admin", "in another spelling")]
    {
        let found = asked("", method, header);
        let refused = found["refused"].as_str().unwrap_or_default();
        assert!(refused.starts_with("authz_denied: decided by ext_authz: "), "{found}");
        assert!(refused.contains(why), "{found}");
        let authorization = &found["authorization"];
        assert_eq!(
            (&authorization["rule"], &authorization["decision"]),
            (&"ext_authz".into(), &"denied".into())
        );
        let audit = asked("mode: audit", method, header);
        assert_eq!(
            (&audit["authorization"]["decision"], &audit["refused"]),
            (&"would_deny".into(), &Value::Null)
        );
        assert_eq!(audit["notes"], serde_json::json!([]), "nobody is asked");
    }
    assert_eq!(
        asked("", "GET", "x-user: me")["notes"],
        serde_json::json!(["the external authorizer is asked last"])
    );
    let denied =
        asked("mode: audit, rules: [{ name: no, action: deny, methods: [GET] }]", "GET", "x-user: me");
    assert_eq!((&denied["authorization"]["rule"], &denied["notes"]), (&"no".into(), &serde_json::json!([])));
}

/// An inbound question to a file.
fn asked_of_file(text: &str, method: &str, url: &str, of: Query) -> Value {
    let (config, _) = pillion_config::parse(text, std::path::Path::new("/")).expect("a good file");
    let snapshot = crate::app::unserved_snapshot(&config);
    let source = Source { config: &config, written: None, flags: &[], is_live: false };
    let query = Query { method: method.to_owned(), url: url.to_owned(), ..of };
    explained::answer(&query, &snapshot, &source, std::time::Instant::now()).expect("a question")
}

#[test]
fn a_connect_to_the_application_has_no_path_and_host_is_that_of_the_header() {
    let text = "inbound: { mtls: off, app: 127.0.0.1:80, authorization: { rules: [{ name: root, paths: [/] }, \
                { name: near, methods: [GET], hosts: [\"orders:8080\"] }, { name: tunnels, methods: [CONNECT] }] } }";
    let of = |headers: &[&str]| Query {
        headers: headers.iter().map(ToString::to_string).collect(),
        inbound: Some(80),
        ..Query::default()
    };
    let found = asked_of_file(text, "CONNECT", "http://orders:80", of(&[]));
    assert_eq!(found["authorization"]["rule"], "tunnels", "{found}");
    assert_eq!(
        because(&found["authorization"]),
        ["root: paths: there is no path, and wanted is /", "near: methods: CONNECT is none of GET"]
    );
    let found = asked_of_file(text, "GET", "http://10.0.0.1/a", of(&["Host: orders:8080"]));
    assert_eq!(found["authorization"]["rule"], "near", "{found}");
    let found = asked_of_file(text, "GET", "http://orders:8080/a", of(&["Host: billing"]));
    assert_eq!(found["authorization"]["rule"], "default", "{found}");
}

#[test]
fn a_caller_without_an_identity_comes_to_a_port_with_tls_from_outside_the_mesh() {
    let text = |client: &str| {
        format!(
            "identity: {{ certificate: c.crt, key: c.key, trust_bundle: ca.crt }}\n\
             inbound: {{ mtls: strict, app: 127.0.0.1:80, ports: {{ 8443: {{ listen: 127.0.0.1:443, tls: {{ certificate: s.crt, \
             key: s.key{client} }} }} }}, authorization: {{ rules: [{{ name: over-tls, headers: {{ x-forwarded-proto: https }} }}] }} }}\n"
        )
    };
    let of = |port: u16| Query { inbound: Some(port), ..headers(&["x-forwarded-proto: http"]) };
    let found = asked_of_file(&text(""), "GET", "http://shop/", of(8443));
    assert_eq!(
        (&found["refused"], &found["authorization"]["rule"]),
        (&Value::Null, &json!("over-tls")),
        "{found}"
    );
    let note = |found: &Value| found["notes"][0].as_str().unwrap_or_default().to_owned();
    assert!(note(&found).contains("outside the mesh") && !note(&found).contains("require"), "{found}");
    let required = text(", client: require, trust_bundle: clients.crt");
    let found = asked_of_file(&required, "GET", "http://shop/", of(8443));
    assert!(note(&found).contains("client: require"), "{found}");
    let found = asked_of_file(&text(""), "GET", "http://shop/", of(80));
    assert!(found["refused"].as_str().is_some_and(|why| why.starts_with("mtls_required")), "{found}");
    let found =
        asked_of_file(&text(""), "GET", "http://shop/", Query { sources: vec![WEB.to_owned()], ..of(8443) });
    assert_eq!(
        (&found["notes"], &found["authorization"]["rule"]),
        (&json!([]), &json!("default")),
        "{found}"
    );
}
