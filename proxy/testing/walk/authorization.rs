//! Keys of `inbound.authorization`.

use pillion_testkit::Scratch;
use pillion_testkit::jwt::Issuer;
use serde_json::{Value, json};

use super::super::backend::{Backend, OK};
use super::super::http2;
use super::super::mesh::{A, B, IDENTITY, Mesh, Pair, Sidecar, identity, pass, settle};
use super::super::peer::Peer;
use super::{Key, Row, key, shows};
use pillion_tls::client::Purpose;

const AT: &str = "10.0.9.1:15006";

pub(super) fn rows() -> Vec<Row> {
    let path = |key: &str| format!("inbound.authorization{key}");
    let mut rows = vec![
        shows(path(""), ["off", "{}"], judged),
        shows(path(".default"), ["deny", "allow"], judged),
        shows(path(".mode"), ["enforce", "audit"], judged),
        shows(path(".encoded_slash"), ["reject", "keep"], judged),
        shows(path(".rules"), ["off", "[{ \"name\": \"a\" }]"], judged),
        shows(path(".rules[].name"), ["one", "two"], judged),
        shows(path(".rules[].action"), ["allow", "deny"], judged),
    ];
    rows.extend(conditions(&path(".rules[]")));
    rows.extend(conditions(&path(".rules[].not")));
    rows.extend(tokens(&path(".jwt")));
    rows.extend(checks(&path(".ext_authz")));
    rows
}

fn tokens(block: &str) -> Vec<Row> {
    let path = |key: &str| format!("{block}{key}");
    vec![
        shows(
            path(""),
            [
                "off",
                "{ \"issuer\": \"me\", \"audiences\": \"orders\", \"jwks\": { \"file\": \"jwks.json\" } }",
            ],
            answers_to_tokens,
        ),
        shows(path(".issuer"), ["me", "you"], answers_to_tokens),
        shows(path(".audiences"), ["orders", "[\"shop\", \"bank\"]"], answers_to_tokens),
        shows(path(".jwks.file"), ["jwks.json", "other.json"], answers_to_tokens),
        shows(path(".jwks.url"), ["http://127.0.0.1:9300/", "http://127.0.0.1:9301/"], answers_to_tokens),
        shows(path(".jwks.refresh"), ["10s", "5m"], fetches_in_a_minute),
        shows(path(".from.header"), ["authorization", "x-token"], answers_to_tokens),
        shows(path(".required"), ["on", "off"], answers_to_tokens),
        shows(path(".forward"), ["on", "off"], answers_to_tokens),
    ]
}

fn checks(block: &str) -> Vec<Row> {
    let path = |key: &str| format!("{block}{key}");
    vec![
        shows(path(""), ["off", "{ \"http\": \"http://10.0.0.2:80/check\" }"], answers_after_a_check),
        shows(path(".http"), ["http://10.0.0.2:80/one", "http://10.0.0.2:80/two"], answers_after_a_check),
        shows(path(".grpc"), ["10.0.0.2:80", "10.0.0.3:80"], answers_over_grpc),
        shows(path(".with_body"), ["off", "8KiB"], answers_after_a_check),
        shows(path(".timeout"), ["1s", "20s"], answers_after_a_check),
        shows(path(".on_error"), ["deny", "allow"], answers_after_a_check),
        shows(path(".send_headers"), ["x-test", "[\"authorization\", \"x-other\"]"], answers_after_a_check),
    ]
}

/// The answer to a request, what the authorizer was asked, and how long it took. The authorizer answers some questions
/// after ten seconds.
async fn answers_after_a_check(key: Key) -> String {
    let mesh = Mesh::default();
    let _app = mesh.answering(A, OK);
    let is_slow = key.path.ends_with("timeout") || key.path.ends_with("on_error");
    let authorizer = mesh.scripted(B, move |mut peer: Peer, _| async move {
        while peer.message().await.is_some() {
            pass(if is_slow { 10 } else { 0 }).await;
            drop(peer.try_send("HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n").await);
        }
    });
    let ext_authz = json!({ "http": "http://10.0.0.2:80/check" });
    let file = key::application(
        json!({ "app": A, "authorization": { "default": "allow", "ext_authz": ext_authz } }),
    );
    let sidecar = key.start(&mesh, file, None);
    let asked = "POST / HTTP/1.1\r\nhost: orders\r\nx-test: one\r\nauthorization: Basic YTpi\r\ncontent-length: 2\r\n\r\nhi";
    let answer = sidecar.client().await.ask(asked).await;
    let question = authorizer.requests().first().map(|asked| format!("{}{}", asked.head, asked.body));
    let question = question.unwrap_or_default();
    let told = |text: &str| question.contains(text);
    format!(
        "{:?} {:?}",
        answer.status_and_reason(),
        [told("/one"), told("/two"), told("x-test"), told("Basic"), told("hi")]
    )
}

/// The answer to a request that an authorizer denies by gRPC, if it is asked.
async fn answers_over_grpc(key: Key) -> String {
    let mesh = Mesh::default();
    let _app = mesh.answering(A, OK);
    drop(mesh.http2(B, 100, |_, _question, respond| async move { http2::answer_grpc(respond, "7") }));
    let file = key::application(json!({ "app": A, "authorization": { "default": "allow" } }));
    let sidecar = key.start(&mesh, file, None);
    format!("{:?}", sidecar.client().await.get("/").await.status_and_reason())
}

/// The sidecar of an application that accepts tokens, with two sets of keys.
struct Issuing {
    mesh: Mesh,
    app: Backend,
    published: Backend,
    sidecar: Sidecar,
    token: String,
    _files: Scratch,
}

fn issuing(key: &Key, jwks: Value) -> Issuing {
    let (mesh, issuer, files) = (Mesh::default(), Issuer::es256(), Scratch::new());
    let app = mesh.answering(A, OK);
    let keys: &'static str = issuer.jwks().leak();
    let answer: &'static str =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{keys}", keys.len()).leak();
    let published = mesh.answering("127.0.0.1:9300", answer);
    files.write("jwks.json", keys);
    files.write("other.json", Issuer::es256().jwks());
    let jwt = json!({ "issuer": "me", "audiences": ["orders"], "jwks": jwks });
    let file = key::application(json!({ "app": A, "authorization": { "default": "allow", "jwt": jwt } }));
    let config = key.load(file, &files.path("")).expect("a good file");
    let sidecar = mesh.start(&config, None).expect("a sidecar that can start");
    let token = issuer.token(&json!({ "iss": "me", "aud": "orders", "sub": "one", "exp": 1_u64 << 40 }));
    Issuing { mesh, app, published, sidecar, token, _files: files }
}

async fn answers_to_tokens(key: Key) -> String {
    let jwks = if key.path.ends_with(".url") { json!({}) } else { json!({ "file": "jwks.json" }) };
    let Issuing { mesh: _mesh, app, sidecar, token, .. } = issuing(&key, jwks);
    pass(2).await;
    let mut seen = Vec::new();
    for field in ["x-a: b".to_owned(), format!("authorization: Bearer {token}"), format!("x-token: {token}")]
    {
        let asked = format!("GET / HTTP/1.1\r\nhost: orders\r\n{field}\r\n\r\n");
        let answer = sidecar.client().await.ask(&asked).await;
        seen.push(format!("{:?}", answer.status_and_reason()));
    }
    let got_token = app.requests().iter().any(|asked| asked.head.contains(&token));
    format!("{seen:?} {got_token}")
}

async fn fetches_in_a_minute(key: Key) -> String {
    let Issuing { published, sidecar: _sidecar, .. } =
        issuing(&key, json!({ "url": "http://127.0.0.1:9300/" }));
    pass(60).await;
    if published.hits() > 3 { "many" } else { "few" }.to_owned()
}

fn conditions(block: &str) -> Vec<Row> {
    let path = |key: &str| format!("{block}.{key}");
    let (web, batch) = ("spiffe://cluster.local/ns/default/sa/web", "spiffe://cluster.local/ns/batch/*");
    vec![
        shows(path("from"), [web, batch], judged),
        shows(path("methods"), ["GET", "[\"POST\"]"], judged),
        shows(path("paths"), ["/a", "/b/*"], judged),
        shows(path("ports"), ["80", "81"], judged),
        shows(path("hosts"), ["orders", "*.shop"], judged),
        shows(path("headers.*"), ["one", "two"], judged),
        shows(path("headers.*.exact"), ["one", "two"], judged),
        shows(path("headers.*.prefix"), ["o", "t"], judged),
        shows(path("headers.*.regex"), ["o.e", "t.*"], judged),
        shows(path("headers.*.present"), ["on", "off"], judged),
        shows(path("sources"), ["0.0.0.0/0", "203.0.113.1"], judged),
        shows(path("claims.*"), ["one", "[\"two\", \"three\"]"], judged_by_claims),
    ]
}

/// The answer to a request whose token has a claim.
async fn judged_by_claims(key: Key) -> String {
    let (mesh, issuer, files) = (Mesh::default(), Issuer::es256(), Scratch::new());
    let _app = mesh.answering(A, OK);
    files.write("jwks.json", issuer.jwks());
    let jwt = json!({ "issuer": "me", "audiences": ["orders"], "jwks": { "file": "jwks.json" } });
    let rules = json!([{ "name": "a", "methods": ["GET"] }]);
    let file = key::application(json!({ "app": A, "authorization": { "rules": rules, "jwt": jwt } }));
    let config = key.load(file, &files.path("")).expect("a good file");
    let sidecar = mesh.start(&config, None).expect("a sidecar that can start");
    let claims = json!({ "iss": "me", "aud": "orders", "x-test": "one", "exp": 1_u64 << 40 });
    let asked =
        format!("GET / HTTP/1.1\r\nhost: orders\r\nauthorization: Bearer {}\r\n\r\n", issuer.token(&claims));
    format!("{:?}", sidecar.client().await.ask(&asked).await.status_and_reason())
}

/// The answers to three requests of `web`, and the decisions.
async fn judged(key: Key) -> String {
    let pair = Pair::new();
    let _app = pair.mesh.answering(A, OK);
    let rules = match key.path.as_str() {
        "inbound.authorization.default" => json!([]),
        _ => json!([{ "name": "a", "paths": ["/*"] }]),
    };
    let mut file = key::application(json!({ "listen": AT, "app": A, "authorization": { "rules": rules } }));
    file["identity"] = json!({ "directory": IDENTITY.trim_end() });
    let sidecar = key.start(&pair.mesh, file, Some(identity(&pair.ca, "orders")));
    let mut web = pair.peer_as("web", AT, Purpose::Http1).await;
    let mut seen = Vec::new();
    for asked in [
        "GET /a HTTP/1.1\r\nhost: orders\r\nx-test: one\r\n\r\n",
        "POST /b/c HTTP/1.1\r\nhost: a.shop\r\nx-test: two\r\ncontent-length: 0\r\n\r\n",
        "GET /a%2Fb HTTP/1.1\r\nhost: orders\r\n\r\n",
    ] {
        let answer = web.ask(asked).await;
        seen.push(format!("{:?}", answer.status_and_reason()));
    }
    settle().await;
    let metrics = sidecar.metrics.encode();
    let mut decisions: Vec<&str> =
        metrics.lines().filter(|line| line.starts_with("pillion_authorization_total{")).collect();
    decisions.sort_unstable();
    format!("{seen:?} {decisions:?}")
}
