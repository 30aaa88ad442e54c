//! `inbound.authorization.jwt`: tokens of requests, and where the keys for them come from.

use std::sync::Arc;
use std::time::SystemTime;

use http::Request;
use parking_lot::Mutex;
use pillion_testkit::Scratch;
use pillion_testkit::jwt::Issuer;
use serde_json::{Value, json};

use super::backend::{Backend, OK};
use super::logged;
use super::mesh::{A, Mesh, Sidecar, application, pass, secs, settle};
use super::peer::Message;

const HEAD: &str = "issuer: \"https://id.example\", audiences: [orders]";

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time after 1970").as_secs()
}

fn claims(more: Value) -> Value {
    let mut claims =
        json!({ "iss": "https://id.example", "aud": "orders", "sub": "svc-a", "exp": now() + 3600 });
    for (name, value) in more.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    claims
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}\r\n")
}

/// An application whose sidecar accepts the tokens of an issuer by a file of keys.
struct Shop {
    mesh: Mesh,
    app: Backend,
    issuer: Issuer,
    scratch: Scratch,
}

impl Shop {
    fn new() -> Self {
        let (mesh, issuer, scratch) = (Mesh::default(), Issuer::es256(), Scratch::new());
        let app = mesh.answering(A, OK);
        scratch.write("jwks.json", issuer.jwks());
        Self { mesh, app, issuer, scratch }
    }

    fn file(&self, jwt: &str, rest: &str) -> String {
        let keys = self.scratch.path("jwks.json");
        let jwt = format!("jwt: {{ {HEAD}, jwks: {{ file: \"{}\" }}, {jwt} }}", keys.display());
        application(&format!("app: {A}, mtls: off, authorization: {{ {jwt}, {rest} }}"))
    }

    fn sidecar(&self, jwt: &str, rest: &str) -> Sidecar {
        self.mesh.sidecar(&self.file(jwt, rest), None)
    }

    fn token(&self, more: Value) -> String {
        self.issuer.token(&claims(more))
    }

    /// The head of the last request that the application got.
    fn received(&self) -> String {
        self.app.requests().last().map(|asked| asked.head.to_lowercase()).unwrap_or_default()
    }
}

async fn ask(sidecar: &Sidecar, fields: &str) -> Message {
    sidecar.client().await.ask(&format!("GET /a HTTP/1.1\r\nhost: orders\r\n{fields}\r\n")).await
}

const ALL: &str = "default: allow";

#[tokio::test(start_paused = true)]
async fn a_request_needs_a_good_token_which_the_application_does_not_get() {
    let shop = Shop::new();
    let sidecar = shop.sidecar("", ALL);
    let good = bearer(&shop.token(json!({})));
    for nth in 1..=2 {
        let answer = ask(&sidecar, &good).await;
        assert_eq!((answer.status_and_reason(), shop.app.hits()), ((200, None), nth));
        assert!(!shop.received().contains("authorization"), "{}", shop.received());
    }
    assert_eq!(ask(&sidecar, &good.replace("Bearer", "bearer")).await.status(), Some(200));
    let missing = ask(&sidecar, "").await;
    assert_eq!(missing.status_and_reason(), (401, Some("jwt_invalid")));
    assert_eq!(missing.header("www-authenticate"), Some("Bearer realm=\"pillion\""));
    let basic = ask(&sidecar, "authorization: Basic YTpi\r\n").await;
    assert_eq!(basic.header("www-authenticate"), Some("Bearer realm=\"pillion\""));
    let thief = Issuer::es256().token(&claims(json!({})));
    for bad in [
        bearer(&thief),
        bearer(&shop.token(json!({ "exp": now() - 3600 }))),
        bearer(&shop.token(json!({ "aud": "billing" }))),
        bearer(""),
        format!("{good}{good}"),
        format!("{good}authorization: Basic YTpi\r\n"),
    ] {
        let answer = ask(&sidecar, &bad).await;
        assert_eq!(answer.status_and_reason(), (401, Some("jwt_invalid")), "{bad}");
        assert_eq!(
            answer.header("www-authenticate"),
            Some("Bearer realm=\"pillion\", error=\"invalid_token\"")
        );
    }
    assert_eq!(shop.app.hits(), 3);
    let sum = |series: &str| sidecar.sum(series);
    assert_eq!(sum("pillion_authorization_total decision=denied rule=jwt mode=enforce"), 8);
    assert_eq!(sum("pillion_authorization_total decision=allowed rule=default mode=enforce"), 3);
    assert_eq!(sum("pillion_jwt_tokens_total outcome=verified"), 3);
    assert_eq!(sum("pillion_jwt_tokens_total outcome=absent"), 2);
    assert_eq!(sum("pillion_jwt_tokens_total outcome=invalid"), 6);
    assert_eq!(sum("pillion_requests_total reason=jwt_invalid status=401"), 8);
}

#[tokio::test(start_paused = true)]
async fn rules_name_what_a_verified_token_says() {
    let shop = Shop::new();
    let rules = "rules: [{ name: admins, claims: { groups: admin, sub: \"svc-*\" } }, \
                 { name: open, paths: [/open] }, { name: banned, action: deny, claims: { sub: svc-evil } }]";
    let sidecar = shop.sidecar("required: off, ", rules);
    for (more, status) in [
        (json!({ "groups": ["user", "admin"] }), 200),
        (json!({ "groups": "admin" }), 200),
        (json!({ "groups": ["user"] }), 403),
        (json!({ "groups": ["admin"], "sub": "alice" }), 403),
        (json!({ "groups": ["admin"], "sub": "svc-evil" }), 403),
    ] {
        assert_eq!(ask(&sidecar, &bearer(&shop.token(more.clone()))).await.status(), Some(status), "{more}");
    }
    assert_eq!(ask(&sidecar, "").await.status_and_reason(), (403, Some("authz_denied")), "without a token");
    let basic = ask(&sidecar, "authorization: Basic YTpi\r\n").await;
    assert_eq!(basic.status_and_reason(), (403, Some("authz_denied")), "it is no token");
    let bad = bearer(&Issuer::es256().token(&claims(json!({ "groups": "admin" }))));
    assert_eq!(ask(&sidecar, &bad).await.status_and_reason(), (401, Some("jwt_invalid")));
    let mut client = sidecar.client().await;
    assert_eq!(client.get("/open").await.status(), Some(200));
    let opened = format!("GET /open HTTP/1.1\r\nhost: orders\r\n{bad}\r\n");
    assert_eq!(client.ask(&opened).await.status(), Some(401), "a bad token is refused where none is needed");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_only_the_application_might_find_is_refused_where_none_is_needed() {
    let shop = Shop::new();
    let sidecar = shop.sidecar("required: off, ", ALL);
    let forged = Issuer::es256().token(&claims(json!({})));
    for value in [
        format!("Bearer\t{forged}"),
        format!("\tBearer {forged}"),
        format!("Bearer \t{forged}"),
        format!("Bearer\u{a0}{forged}"),
        format!("\u{a0}Bearer {forged}"),
        format!("Basic YTpi\tBearer {forged}"),
        format!("Bearer:{forged}"),
        format!("bearer=\"{forged}\""),
        format!("Bearer,{forged}"),
        "Bearer".to_owned(),
    ] {
        let answer = ask(&sidecar, &format!("authorization: {value}\r\n")).await;
        assert_eq!(answer.status_and_reason(), (401, Some("jwt_invalid")), "{value:?}");
    }
    assert_eq!(shop.app.hits(), 0);
    let good = shop.token(json!({}));
    for value in [format!("\tBearer  {good} \t"), format!("JWT {forged}"), forged] {
        let answer = ask(&sidecar, &format!("authorization: {value}\r\n")).await;
        assert_eq!(answer.status(), Some(200), "{value:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_header_that_carries_no_token_stays_and_one_is_forwarded_on_request() {
    let shop = Shop::new();
    let sidecar = shop.sidecar("required: off, ", ALL);
    assert_eq!(ask(&sidecar, "authorization: Basic YTpi\r\n").await.status(), Some(200));
    assert!(shop.received().contains("authorization: basic ytpi"), "{}", shop.received());
    let forwarding = shop.sidecar("forward: on, ", ALL);
    let token = shop.token(json!({}));
    assert_eq!(ask(&forwarding, &bearer(&token)).await.status(), Some(200));
    assert!(shop.received().contains(&token.to_lowercase()), "{}", shop.received());
}

#[tokio::test(start_paused = true)]
async fn a_token_may_come_in_another_header_in_one_spelling() {
    let shop = Shop::new();
    let sidecar = shop.sidecar("from: { header: X-Id-Token }, ", ALL);
    let token = shop.token(json!({}));
    let field = format!("x-id-token: {token}\r\n");
    let basic = "authorization: Basic YTpi\r\n";
    assert_eq!(ask(&sidecar, &format!("{field}{basic}")).await.status(), Some(200));
    let received = shop.received();
    assert!(received.contains("authorization: basic") && !received.contains("x-id-token"), "{received}");
    assert_eq!(ask(&sidecar, &format!("X-ID-TOKEN: Bearer {token}\r\n")).await.status(), Some(200));
    for bad in [bearer(&token), format!("X_Id_Token: {token}\r\n"), format!("{field}x_id_token: {token}\r\n")]
    {
        assert_eq!(ask(&sidecar, &bad).await.status_and_reason(), (401, Some("jwt_invalid")), "{bad}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_of_grpc_with_a_bad_token_is_unauthenticated() {
    let shop = Shop::new();
    let sidecar = shop.sidecar("", ALL);
    let answer = sidecar.http2_client().await.grpc(None).await;
    assert_eq!((answer.head.status().as_u16(), answer.grpc_status()), (200, Some("16")));
    let token = format!("Bearer {}", shop.token(json!({})));
    let asked = Request::get("http://orders/").header("authorization", token).body(()).expect("a request");
    let answer = sidecar.http2_client().await.ask(asked, "").await.expect("an answer");
    assert_eq!(answer.head.status().as_u16(), 200);
    assert!(!shop.received().contains("authorization"), "{}", shop.received());
}

#[tokio::test(start_paused = true)]
async fn in_audit_mode_bad_tokens_pass_unchanged_and_are_counted() {
    let shop = Shop::new();
    let sidecar = shop.sidecar("", "mode: audit, default: allow");
    let thief = Issuer::es256().token(&claims(json!({})));
    for fields in ["".to_owned(), bearer(&thief), bearer(&shop.token(json!({})))] {
        assert_eq!(ask(&sidecar, &fields).await.status(), Some(200), "{fields}");
        assert_eq!(shop.received().contains("authorization"), !fields.is_empty(), "{fields}");
    }
    let sum = |series: &str| sidecar.sum(&format!("pillion_authorization_total mode=audit {series}"));
    assert_eq!((sum("decision=would_deny rule=jwt"), sum("decision=allowed rule=default")), (2, 1));
}

/// What no token comes with is not taken for what needs none.
#[tokio::test(start_paused = true)]
async fn detected_opaque_bytes_are_denied_where_a_token_is_required() {
    for (required, expected) in [("on", 1), ("off", 0)] {
        let shop = Shop::new();
        let sidecar = shop.sidecar(&format!("required: {required}, "), ALL);
        let mut client = sidecar.client().await;
        client.send("\0\x01\x02\x03").await;
        settle().await;
        drop(client);
        settle().await;
        let denied = sidecar.sum("pillion_authorization_total decision=denied rule=opaque");
        assert_eq!(denied, expected, "{required}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_file_of_keys_is_put_to_use_and_a_bad_one_leaves_the_old_keys() {
    let shop = Shop::new();
    let mut sidecar = shop.sidecar("", ALL);
    let old = bearer(&shop.token(json!({})));
    assert_eq!(ask(&sidecar, &old).await.status(), Some(200));
    pass(3).await;
    for bad in ["", "{}", "{\"keys\":[]}", "{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"}]}", "<html>"] {
        shop.scratch.write("jwks.json", bad);
        pass(3).await;
        assert_eq!(ask(&sidecar, &old).await.status(), Some(200), "{bad}");
    }
    assert_eq!(sidecar.sum("pillion_jwks_loads_total outcome=failed"), 5);
    let issuer = Issuer::rsa();
    let new = bearer(&issuer.token(&claims(json!({}))));
    assert_eq!(ask(&sidecar, &new).await.status(), Some(401));
    shop.scratch.write("jwks.json", issuer.jwks());
    pass(3).await;
    assert_eq!(ask(&sidecar, &new).await.status(), Some(200));
    assert_eq!(ask(&sidecar, &old).await.status(), Some(401), "a remembered token is not believed any more");
    assert_eq!(sidecar.sum("pillion_jwks_loads_total outcome=applied"), 2);
    sidecar.reload(&shop.file("forward: on, ", ALL)).expect("a good file");
    assert_eq!(ask(&sidecar, &new).await.status(), Some(200), "the keys outlive a reload");
    shop.scratch.write("other.json", "{}");
    let other = shop.file("", ALL).replace("jwks.json", "other.json");
    let why = sidecar.reload(&other).expect_err("a bad file of keys");
    assert!(format!("{why:#}").contains("other.json: it is not a JWK set"), "{why:#}");
    assert_eq!(ask(&sidecar, &new).await.status(), Some(200));
}

/// An issuer that publishes its keys at an address.
struct Published {
    mesh: Mesh,
    answer: Arc<Mutex<&'static str>>,
    issuer: Backend,
}

const URL: &str = "http://127.0.0.1:9300/keys?v=1";

fn answered(status: &str, body: &str) -> &'static str {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).leak()
}

impl Published {
    fn new(answer: &'static str) -> Self {
        let (mesh, answer) = (Mesh::default(), Arc::new(Mutex::new(answer)));
        let now = answer.clone();
        let issuer = mesh.http1("127.0.0.1:9300", move |_, _| *now.lock());
        Self { mesh, answer, issuer }
    }

    fn publish(&self, keys: &str) {
        *self.answer.lock() = answered("200 OK", keys);
    }

    fn file(refresh: &str) -> String {
        let jwt = format!("jwt: {{ {HEAD}, jwks: {{ url: \"{URL}\", refresh: {refresh} }} }}");
        application(&format!("app: {A}, mtls: off, authorization: {{ {jwt}, {ALL} }}"))
    }

    fn sidecar(&self) -> (Backend, Sidecar) {
        let app = self.mesh.answering(A, OK);
        (app, self.mesh.sidecar(&Self::file("5m"), None))
    }
}

fn named(issuer: &Issuer, kid: &str) -> String {
    issuer
        .signed(&json!({ "alg": issuer.algorithm(), "kid": kid }).to_string(), &claims(json!({})).to_string())
}

#[tokio::test(start_paused = true)]
async fn keys_are_fetched_beside_the_requests_and_again_at_every_refresh() {
    let (first, second) = (Issuer::es256(), Issuer::ed25519());
    let published = Published::new(answered("503 Service Unavailable", ""));
    let (app, sidecar) = published.sidecar();
    let token = bearer(&first.token(&claims(json!({}))));
    settle().await;
    let early = ask(&sidecar, &token).await;
    assert_eq!(early.status_and_reason(), (503, Some("authz_unavailable")));
    assert_eq!(ask(&sidecar, "").await.status(), Some(401), "no key is needed to see that there is no token");
    assert_eq!((app.hits(), sidecar.sum("pillion_jwt_tokens_total outcome=no_keys")), (0, 1));
    published.publish(&first.jwks());
    pass(10).await;
    assert_eq!(ask(&sidecar, &token).await.status(), Some(200));
    let head = published.issuer.requests()[0].head.clone();
    assert!(head.starts_with("GET /keys?v=1 HTTP/1.1\r\n") && head.contains("127.0.0.1:9300"), "{head}");
    published.publish(&second.jwks());
    pass(200).await;
    assert_eq!(ask(&sidecar, &token).await.status(), Some(200));
    pass(200).await;
    assert_eq!(ask(&sidecar, &token).await.status(), Some(401));
    let token = bearer(&second.token(&claims(json!({}))));
    assert_eq!(ask(&sidecar, &token).await.status(), Some(200));
    *published.answer.lock() = "";
    let asked = published.issuer.hits();
    pass(3600).await;
    assert_eq!(ask(&sidecar, &token).await.status(), Some(200), "failures leave the keys");
    assert!(published.issuer.hits() > asked + 10);
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_changes_only_how_often_keys_are_fetched_keeps_them() {
    let issuer = Issuer::es256();
    let published = Published::new(answered("200 OK", &issuer.jwks()));
    let (_app, mut sidecar) = published.sidecar();
    let token = bearer(&issuer.token(&claims(json!({}))));
    pass(5).await;
    assert_eq!(ask(&sidecar, &token).await.status(), Some(200));
    *published.answer.lock() = answered("503 Service Unavailable", "");
    sidecar.reload(&Published::file("10s")).expect("a good file");
    assert_eq!(ask(&sidecar, &token).await.status(), Some(200));
    let before = published.issuer.hits();
    pass(60).await;
    assert_eq!(ask(&sidecar, &token).await.status(), Some(200), "failures leave the keys");
    assert!(published.issuer.hits() >= before + 3, "the new time holds");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_key_brings_a_fetch_forward_at_most_once_a_minute() {
    let (first, second) = (Issuer::es256(), Issuer::es256());
    let set = |keys: &[Value]| json!({ "keys": keys }).to_string();
    let published = Published::new(answered("200 OK", &set(&[first.jwk(Some("a"))])));
    let (_app, sidecar) = published.sidecar();
    pass(10).await;
    assert_eq!(ask(&sidecar, &bearer(&named(&first, "a"))).await.status(), Some(200));
    assert_eq!(published.issuer.hits(), 1);
    published.publish(&set(&[first.jwk(Some("a")), second.jwk(Some("b"))]));
    let new = bearer(&named(&second, "b"));
    assert_eq!(ask(&sidecar, &new).await.status(), Some(401), "the request does not wait");
    pass(61).await;
    assert_eq!(ask(&sidecar, &new).await.status(), Some(200));
    let before = published.issuer.hits();
    for _ in 0..120 {
        ask(&sidecar, &bearer(&named(&second, "c"))).await;
        pass(1).await;
    }
    let more = published.issuer.hits() - before;
    assert!((1..=3).contains(&more), "{more} fetches in two minutes");
}

#[tokio::test(start_paused = true)]
async fn a_new_key_without_a_name_is_fetched_early_too_and_at_most_once_a_minute() {
    let (first, second, forger) = (Issuer::es256(), Issuer::es256(), Issuer::es256());
    let published = Published::new(answered("200 OK", &first.jwks()));
    let (_app, sidecar) = published.sidecar();
    pass(10).await;
    published.publish(&second.jwks());
    let new = bearer(&second.token(&claims(json!({}))));
    assert_eq!(ask(&sidecar, &new).await.status(), Some(401));
    pass(61).await;
    assert_eq!(ask(&sidecar, &new).await.status(), Some(200));
    let before = published.issuer.hits();
    for _ in 0..120 {
        assert_eq!(ask(&sidecar, &bearer(&forger.token(&claims(json!({}))))).await.status(), Some(401));
        pass(1).await;
    }
    let more = published.issuer.hits() - before;
    assert!((1..=3).contains(&more), "{more} fetches in two minutes");
}

#[tokio::test(start_paused = true)]
async fn hostile_answers_of_an_issuer_are_bounded_and_leave_the_keys() {
    let issuer = Issuer::es256();
    let endless: &'static str = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{}",
        "ffff\r\n".to_owned() + &"x".repeat(0xffff) + "\r\n"
    )
    .leak();
    for bad in [
        answered("200 OK", "<html>not json</html>"),
        answered("200 OK", &"x".repeat(300 * 1024)),
        answered("302 Found\r\nlocation: http://127.0.0.1:9300/other", ""),
        answered("200 OK", "{\"keys\":[]}"),
        "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{",
        endless,
        "garbage\r\n\r\n",
        "",
    ] {
        let published = Published::new(answered("200 OK", &issuer.jwks()));
        let (_app, sidecar) = published.sidecar();
        pass(5).await;
        *published.answer.lock() = bad;
        pass(400).await;
        assert!(sidecar.sum("pillion_jwks_loads_total outcome=failed") > 0, "{bad:.60}");
        let token = bearer(&issuer.token(&claims(json!({}))));
        assert_eq!(ask(&sidecar, &token).await.status(), Some(200), "{bad:.60}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_does_not_answer_delays_no_request_and_no_start() {
    let mesh = Mesh::default();
    let (_silent, _app) = (mesh.silent("127.0.0.1:9300"), mesh.answering(A, OK));
    let jwt = format!("jwt: {{ {HEAD}, jwks: {{ url: \"{URL}\" }}, required: off }}");
    let file = application(&format!("app: {A}, mtls: off, authorization: {{ {jwt}, {ALL} }}"));
    let sidecar = mesh.sidecar(&file, None);
    let asked = tokio::time::Instant::now();
    assert_eq!(ask(&sidecar, "").await.status(), Some(200));
    let token = bearer(&Issuer::es256().token(&claims(json!({}))));
    assert_eq!(ask(&sidecar, &token).await.status_and_reason(), (503, Some("authz_unavailable")));
    assert!(asked.elapsed() < secs(1));
    pass(60).await;
    assert!(sidecar.sum("pillion_jwks_loads_total outcome=failed") >= 3);
}

#[test]
fn the_access_log_says_why_a_token_was_refused_and_never_the_token() {
    let lines = logged::lines(|log| async move {
        let shop = Shop::new();
        let sidecar = shop.mesh.sidecar(&(shop.file("", ALL) + &log), None);
        ask(&sidecar, "").await;
        ask(&sidecar, &bearer(&shop.token(json!({ "exp": 1 })))).await;
        settle().await;
        drop(sidecar);
    });
    let told = |nth: usize, key: &str| lines[nth][key].as_str().unwrap_or_default().to_owned();
    for (nth, detail) in [(0, "no token in its header `authorization`"), (1, "the token has expired (`exp`)")]
    {
        assert_eq!([told(nth, "authorization"), told(nth, "rule")], ["denied", "jwt"]);
        assert_eq!(told(nth, "reason"), "jwt_invalid");
        assert!(told(nth, "detail").contains(detail), "{lines:?}");
        assert!(!lines[nth].to_string().contains("eyJ"), "{lines:?}");
    }
}
