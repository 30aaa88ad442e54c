//! Scenes in which the sidecar itself refuses a request, or its client does not bring it to an end.

use std::time::Duration;

use pillion_model::listener::Drain;
use pillion_testkit::Scratch;
use pillion_testkit::jwt::Issuer;

use super::super::backend::OK;
use super::super::mesh::{self, A, IDENTITY, ORDERS_ID, Sidecar, identity, secs, settle};
use super::super::walk::sides::mirror;
use super::client::{Form, Heard, PLAIN, Question, call, connected, deaf, over_http1};
use super::upstream::{protocol, silent};
use super::{Shown, Stage};

const AUTHORIZER: &str = "10.0.0.9:9191";
const INBOUND: &str = "10.1.0.1:15006";

async fn ask(stage: Stage, form: Form, sidecar: Sidecar, question: Question<'_>) -> Shown {
    let heard = form.ask(sidecar.client().await.into_io(), question).await;
    stage.shown(sidecar, heard)
}

/// `orders` at A, and this route.
fn with_route(route: &str) -> String {
    format!("{}routes:\n  - {{ {route} }}\n", mesh::caller("endpoints: [10.0.0.1:80]"))
}

pub(super) async fn unknown_host(stage: Stage, form: Form) -> Shown {
    let sidecar = stage.caller("endpoints: [10.0.0.1:80]");
    ask(stage, form, sidecar, Question { host: "nobody.example", ..PLAIN }).await
}

pub(super) async fn no_application(stage: Stage, form: Form) -> Shown {
    let sidecar = stage.application("mtls: off");
    ask(stage, form, sidecar, PLAIN).await
}

pub(super) async fn unknown_denied(stage: Stage, form: Form) -> Shown {
    let yaml =
        mesh::caller("endpoints: [10.0.0.1:80]").replace("0 }\nservices", "0, unknown: deny }\nservices");
    let sidecar = stage.sidecar(&yaml, None);
    let client = sidecar.redirected("192.0.2.9:80").await.into_io();
    let heard = form.ask(client, Question { host: "example.org", ..PLAIN }).await;
    stage.shown(sidecar, heard)
}

/// A request in the absolute-form to a host that no service has.
async fn absolute(stage: Stage, form: Form, host: &str) -> Shown {
    let sidecar = stage.caller("endpoints: [10.0.0.1:80]");
    let target = format!("http://{host}{}", PLAIN.path);
    let question = Question { host, path: &target, ..PLAIN };
    let request = match form {
        Form::Http => question.head("GET", ""),
        Form::Grpc => {
            question.head("POST", "content-type: application/grpc\r\nte: trailers\r\ncontent-length: 5\r\n")
                + "\0\0\0\0\0"
        }
    };
    let heard = over_http1(sidecar.client().await.into_io(), &request).await;
    stage.shown(sidecar, heard)
}

pub(super) async fn unresolved_host(stage: Stage, form: Form) -> Shown {
    absolute(stage, form, "nobody.example").await
}

/// A bug of the sidecar, played by the network.
pub(super) async fn panics(stage: Stage, form: Form) -> Shown {
    stage.mesh.memory.panic_at_name("bug.example");
    absolute(stage, form, "bug.example").await
}

/// Other requests hold the memory that all clients without an identity may have.
pub(super) async fn full_memory(stage: Stage, form: Form) -> Shown {
    stage.mesh.memory.set_host_memory(1);
    drop(stage.mesh.silent(A));
    let sidecar = stage.application(&format!("app: {A}"));
    let mut held = Vec::new();
    for _ in 0..32 {
        let mut client = sidecar.client().await;
        client.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
        held.push(client);
    }
    settle().await;
    ask(stage, form, sidecar, PLAIN).await.keeping(held)
}

pub(super) async fn rate_limited_route(stage: Stage, form: Form) -> Shown {
    drop(stage.mesh.answering(A, OK));
    let route = "name: few, hosts: [orders], to: orders, rate_limit: { requests: 1, per: 1m }";
    let sidecar = stage.sidecar(&with_route(route), None);
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (200, None));
    ask(stage, form, sidecar, PLAIN).await
}

pub(super) async fn rate_limited_application(stage: Stage, form: Form) -> Shown {
    drop(stage.mesh.answering(A, OK));
    let sidecar = stage.application(&format!("app: {A}, rate_limit: {{ requests: 1, per: 1m }}"));
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (200, None));
    ask(stage, form, sidecar, PLAIN).await
}

pub(super) async fn injected(stage: Stage, form: Form) -> Shown {
    let route = "name: broken, hosts: [orders], to: orders, fault: { abort: { status: 418 } }";
    let sidecar = stage.sidecar(&with_route(route), None);
    ask(stage, form, sidecar, PLAIN).await
}

pub(super) async fn injected_not_found(stage: Stage, form: Form) -> Shown {
    let sidecar = stage
        .sidecar(&with_route("hosts: [orders], to: orders, fault: { abort: { grpc: NOT_FOUND } }"), None);
    ask(stage, form, sidecar, PLAIN).await
}

/// The application's sidecar with an identity.
fn inbound(mtls: &str) -> String {
    mesh::application_at(INBOUND, &format!("app: {A}, mtls: {mtls}")) + IDENTITY
}

pub(super) async fn plaintext(stage: Stage, form: Form) -> Shown {
    let own = identity(&stage.pair().ca, "orders");
    let sidecar = stage.sidecar(&inbound("strict"), Some(own));
    ask(stage, form, sidecar, PLAIN).await
}

/// A plaintext connection was accepted before mTLS was required.
pub(super) async fn plaintext_of_before(stage: Stage, form: Form) -> Shown {
    drop(stage.mesh.answering(A, OK));
    let own = identity(&stage.pair().ca, "orders");
    let mut sidecar = stage.sidecar(&inbound("permissive"), Some(own));
    let strict = inbound("strict") + &stage.log;
    let mut client = sidecar.client().await;
    let heard = match form {
        Form::Http => {
            assert_eq!(client.get("/").await.status_and_reason(), (200, None));
            sidecar.reload(&strict).expect("a good file");
            Heard::Answer(client.ask(&PLAIN.head("GET", "")).await.into())
        }
        Form::Grpc => {
            let client = sidecar.http2_client().await;
            assert_eq!(client.get("/").await.head.status(), 200);
            sidecar.reload(&strict).expect("a good file");
            call(&client.send, PLAIN, "\0\0\0\0\0").await
        }
    };
    stage.shown(sidecar, heard)
}

/// Asks an application whose sidecar has these `authorization`.
async fn authorized(stage: Stage, form: Form, rules: &str, question: Question<'_>) -> Shown {
    let sidecar = stage.application(&format!("app: {A}, mtls: off, authorization: {{ {rules} }}"));
    ask(stage, form, sidecar, question).await
}

pub(super) async fn denied_by_rule(stage: Stage, form: Form) -> Shown {
    let rule = "{ name: no-lists, action: deny, paths: [\"/*\"] }";
    authorized(stage, form, &format!("default: allow, rules: [{rule}]"), PLAIN).await
}

pub(super) async fn denied_by_default(stage: Stage, form: Form) -> Shown {
    authorized(stage, form, "rules: [{ name: writers, methods: [PUT] }]", PLAIN).await
}

fn external() -> String {
    format!("default: allow, ext_authz: {{ http: \"http://{AUTHORIZER}/check\" }}")
}

pub(super) async fn denied_outside(stage: Stage, form: Form) -> Shown {
    const DENIES: &str = "HTTP/1.1 451 No\r\ncontent-type: text/html\r\ncontent-length: 4\r\n\r\n<no>";
    drop(stage.mesh.answering(AUTHORIZER, DENIES));
    authorized(stage, form, &external(), PLAIN).await
}

pub(super) async fn no_authorizer(stage: Stage, form: Form) -> Shown {
    authorized(stage, form, &external(), PLAIN).await
}

pub(super) async fn no_token(stage: Stage, form: Form) -> Shown {
    with_token(stage, form, PLAIN).await
}

pub(super) async fn bad_token(stage: Stage, form: Form) -> Shown {
    with_token(stage, form, Question { fields: &[("authorization", "Bearer nonsense")], ..PLAIN }).await
}

async fn with_token(stage: Stage, form: Form, question: Question<'_>) -> Shown {
    let scratch = Scratch::new();
    scratch.write("jwks.json", Issuer::es256().jwks());
    let keys = scratch.path("jwks.json");
    let jwt = format!(
        "default: allow, jwt: {{ issuer: \"https://id.example\", audiences: [orders], jwks: {{ file: \"{}\" }} }}",
        keys.display()
    );
    authorized(stage, form, &jwt, question).await.keeping(scratch)
}

/// Authorization judges paths, and readers differ about this one.
pub(super) async fn ambiguous_path(stage: Stage, form: Form) -> Shown {
    let rule = "{ name: public, paths: [\"/public/*\"] }";
    authorized(stage, form, &format!("rules: [{rule}]"), Question { path: "/public/%252e", ..PLAIN }).await
}

/// Sends bytes of HTTP/1 that are no good request.
async fn malformed(stage: Stage, request: &str) -> Shown {
    let sidecar = stage.caller("endpoints: [10.0.0.1:80]");
    let heard = over_http1(sidecar.client().await.into_io(), request).await;
    stage.shown(sidecar, heard)
}

pub(super) async fn no_colon(stage: Stage, _form: Form) -> Shown {
    malformed(stage, &PLAIN.head("GET", "no colon\r\n")).await
}

pub(super) async fn unknown_coding(stage: Stage, _form: Form) -> Shown {
    malformed(stage, &PLAIN.head("POST", "transfer-encoding: gzip, chunked\r\n")).await
}

pub(super) async fn many_fields(stage: Stage, form: Form) -> Shown {
    let names: Vec<String> = (0..110).map(|nth| format!("x-{nth}")).collect();
    let fields: Vec<(&str, &str)> = names.iter().map(|name| (&**name, "1")).collect();
    let sidecar = stage.caller("endpoints: [10.0.0.1:80]");
    ask(stage, form, sidecar, Question { fields: &fields, ..PLAIN }).await
}

pub(super) async fn large_body(stage: Stage, form: Form) -> Shown {
    silent(&stage.mesh, form);
    let sidecar = stage.application(&format!("app: {A}, protocol: {}, max_body: 8B", protocol(form)));
    let client = sidecar.client().await.into_io();
    let heard = match form {
        Form::Http => over_http1(client, &(PLAIN.head("POST", "content-length: 9\r\n") + "123456789")).await,
        Form::Grpc => call(&connected(client).await, PLAIN, "\0\0\0\0\u{4}1234").await,
    };
    stage.shown(sidecar, heard)
}

pub(super) async fn stalled_body(stage: Stage, form: Form) -> Shown {
    silent(&stage.mesh, form);
    let sidecar = stage.caller("endpoints: [10.0.0.1:80], retry: off, stream_idle_timeout: 20s");
    let heard = form.ask_and_stall(sidecar.client().await.into_io()).await;
    stage.shown(sidecar, heard)
}

pub(super) async fn stalled_head(stage: Stage, _form: Form) -> Shown {
    let yaml = mesh::caller("endpoints: [10.0.0.1:80]") + "limits: { header_timeout: 7s }\n";
    let sidecar = stage.sidecar(&yaml, None);
    let begun = PLAIN.head("GET", "");
    let heard =
        over_http1(sidecar.client().await.into_io(), begun.strip_suffix("\r\n").expect("an end")).await;
    stage.shown(sidecar, heard)
}

/// The request says that it has come through this sidecar before.
pub(super) async fn looped(stage: Stage, form: Form) -> Shown {
    let pair = stage.pair();
    mirror(&pair.mesh.memory, &pair);
    let orders =
        mesh::caller(&format!("endpoints: [{A}], protocol: http1, retry: off, tls: \"{ORDERS_ID}\""));
    let yaml = orders + IDENTITY + "limits: { via_passes: 1 }\n";
    let sidecar = stage.sidecar(&yaml, Some(identity(&pair.ca, "web")));
    let via = sidecar.client().await.get("/").await.body;
    ask(stage, form, sidecar, Question { fields: &[("x-pillion-via", &via)], ..PLAIN }).await
}

/// A connection that came just before `delay` is over has a request after it.
pub(super) async fn draining(stage: Stage, form: Form) -> Shown {
    drop(stage.mesh.answering(A, OK));
    let sidecar = stage.application(&format!("app: {A}"));
    let (drain, tenth) = (sidecar.drain.clone(), Duration::from_millis(100));
    drain.begin();
    let ended = tokio::spawn(async move { drain.finished(Drain::default()).await });
    tokio::time::sleep(secs(5) - tenth).await;
    let mut client = sidecar.client().await;
    let deaf = deaf(sidecar.client().await.into_io()).await;
    if form == Form::Grpc {
        let before = call(&deaf, Question { id: "before", ..PLAIN }, "\0\0\0\0\0").await;
        assert!(matches!(before, Heard::Answer(_)), "{before:?}");
    }
    tokio::time::sleep(2 * tenth).await;
    let heard = match form {
        Form::Http => Heard::Answer(client.ask(&PLAIN.head("GET", "")).await.into()),
        Form::Grpc => call(&deaf, PLAIN, "\0\0\0\0\0").await,
    };
    stage.shown(sidecar, heard).keeping(ended)
}
