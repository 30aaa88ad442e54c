//! `inbound.authorization.jwt` with tokens of PyJWT, and its keys over http and https; `ext_authz` with a server of Python.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::Value;

use crate::support::backend::Backend;
use crate::support::program::Program;
use crate::support::sidecar::{Plan, Sidecar};
use crate::support::tools::{require, require_python};
use crate::support::wire::Wire;
use crate::support::{Scratch, eventually};

/// PyJWT with an issuer's keys, which it publishes.
struct Issuer {
    _program: Program,
    told: Value,
    scratch: Scratch,
}

impl Issuer {
    async fn start() -> Option<Self> {
        if !require_python("jwt, cryptography") {
            return None;
        }
        let scratch = Scratch::new();
        let folder = scratch.path().display().to_string();
        let mut program = Program::start(Program::script(Command::new("env"), "issuer.py", &[&folder]));
        let told = program.event().await;
        Some(Self { _program: program, told, scratch })
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://127.0.0.1:{}/.well-known/jwks.json", self.told[scheme])
    }

    fn tokens(&self, kind: &str) -> impl Iterator<Item = (&String, &str)> {
        let all = self.told[kind].as_object().expect("tokens by name");
        all.iter().map(|(name, token)| (name, token.as_str().expect("a token")))
    }
}

fn plan(app: SocketAddr, url: &str) -> Plan {
    let jwt = format!("issuer: \"https://id.example\", audiences: [orders], jwks: {{ url: \"{url}\" }}");
    let rules = "[{ name: admins, claims: { groups: admin, sub: \"svc-*\" } }]";
    Plan::application(app, &format!("authorization: {{ jwt: {{ {jwt} }}, rules: {rules} }}"))
}

async fn status(sidecar: &Sidecar, token: &str) -> u16 {
    let mut wire = Wire::connect(sidecar.inbound()).await;
    let asked = format!("GET /a HTTP/1.1\r\nhost: orders\r\nauthorization: Bearer {token}\r\n\r\n");
    wire.send(asked).await;
    wire.answer().await.status()
}

#[tokio::test]
async fn tokens_of_another_library_are_accepted_or_refused_as_they_should_be() {
    let Some(issuer) = Issuer::start().await else { return };
    let app = Backend::echo().await;
    let sidecar = plan(app.address, &issuer.url("http")).start().await; // ready when the keys are there
    for (name, token) in issuer.tokens("good") {
        assert_eq!(status(&sidecar, token).await, 200, "{name}");
    }
    let hits = app.requests().len();
    for (name, token) in issuer.tokens("bad") {
        assert_eq!(status(&sidecar, token).await, 401, "{name}");
    }
    let user = issuer.told["user"].as_str().expect("a token");
    assert_eq!(status(&sidecar, user).await, 403, "a good token of one who is no admin");
    assert_eq!(app.requests().len(), hits);
    let metrics = sidecar.scrape().await;
    let bad = issuer.tokens("bad").count() as f64;
    assert_eq!(metrics.sum("pillion_jwt_tokens_total", &[("outcome", "invalid")]), bad);
    assert_eq!(metrics.sum("pillion_jwks_loads_total", &[("outcome", "applied")]), 1.0);
}

#[tokio::test]
async fn keys_over_https_are_believed_by_the_cas_of_the_system_alone() {
    let Some(issuer) = Issuer::start().await else { return };
    let app = Backend::echo().await;
    let (_, token) = issuer.tokens("good").next().expect("a token");
    let ca = issuer.scratch.path().join("ca.pem");
    let sidecar = plan(app.address, &issuer.url("https")).env("SSL_CERT_FILE", &ca).start().await;
    assert_eq!(status(&sidecar, token).await, 200);
    let other = crate::support::certs::Authority::new();
    let files = Scratch::new();
    other.issue_into(files.path(), "other");
    let doubtful = plan(app.address, &issuer.url("https")).env("SSL_CERT_FILE", &files.path().join("ca.crt"));
    let doubtful = doubtful.start().await;
    assert_eq!(status(&doubtful, token).await, 503);
    eventually("the log says why", async || {
        doubtful.errors().contains("no keys for tokens yet").then_some(())
    })
    .await;
    assert_eq!(app.requests().len(), 1);
}

#[tokio::test]
async fn a_server_of_python_allows_and_denies_and_is_not_waited_for() {
    if !require("python3") {
        return;
    }
    let mut authorizer = Program::start(Program::script(Command::new("env"), "authorizer.py", &[]));
    let port = authorizer.event().await["port"].clone();
    let app = Backend::echo().await;
    let ext_authz = format!("ext_authz: {{ http: \"http://127.0.0.1:{port}/check\", timeout: 10s }}");
    let sidecar =
        Plan::application(app.address, &format!("authorization: {{ default: allow, {ext_authz} }}"))
            .start()
            .await;
    assert_eq!(status(&sidecar, "good").await, 200);
    let question = authorizer.event().await;
    assert_eq!((question["method"].as_str(), question["path"].as_str()), (Some("GET"), Some("/check/a")));
    assert_eq!(question["headers"]["host"], "orders");
    let mut wire = Wire::connect(sidecar.inbound()).await;
    let post = "POST /a HTTP/1.1\r\nhost: orders\r\nauthorization: Bearer bad\r\ncontent-length: 2\r\n\r\nhi";
    let denied = wire.ask(post).await;
    assert_eq!(denied.status(), 401);
    assert!(
        denied.head.contains("Bearer realm=\"shop\"") && denied.head.contains("authz_denied"),
        "{}",
        denied.head
    );
    assert_eq!(denied.body, b"{\"error\": \"who are you?\"}");
    let mut wire = Wire::connect(sidecar.inbound()).await;
    let slow = "GET /slow HTTP/1.1\r\nhost: orders\r\nauthorization: Bearer good\r\n\r\n";
    assert_eq!(wire.ask(slow).await.status(), 503);
    drop(authorizer);
    assert_eq!(status(&sidecar, "good").await, 503, "nobody listens any more");
    assert_eq!(app.requests().len(), 1);
}
