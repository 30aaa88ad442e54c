//! `inbound.authorization.ext_authz` over gRPC, with grpcio and Envoy's messages on the other side.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::backend::Backend;
use crate::support::certs::Authority;
use crate::support::program::Program;
use crate::support::sidecar::{Plan, Sidecar};
use crate::support::tools::require_python;
use crate::support::wire::Wire;

async fn start(ext_authz: &str) -> Option<(Program, Backend, Sidecar)> {
    if !require_python("grpc, envoy_data_plane") {
        return None;
    }
    let program = Program::script(Command::new("env"), "grpc_authorizer.py", &[]);
    let mut authorizer = Program::start(program);
    let port = authorizer.event().await["port"].clone();
    let app = Backend::echo().await;
    let ext_authz = format!("ext_authz: {{ grpc: \"127.0.0.1:{port}\", {ext_authz} }}");
    let rules = format!("mtls: off, authorization: {{ default: allow, {ext_authz} }}");
    let plan = Plan::application(app.address, &rules).identified(&Authority::new(), "orders");
    Some((authorizer, app, plan.start().await))
}

async fn ask(sidecar: &Sidecar, path: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
    let mut wire = Wire::connect(sidecar.inbound()).await;
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: orders\r\nx-request-id: r1\r\nauthorization: Bearer t\r\nX-User: admin\r\n\
         x-team: shop\r\nx-role: owner\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let answer = wire.ask([head.as_bytes(), body].concat()).await;
    (answer.status(), answer.head.to_lowercase(), answer.body)
}

#[tokio::test]
async fn grpcio_reads_the_question_and_its_verdict_is_obeyed() {
    let Some((mut authorizer, app, sidecar)) = start("timeout: 20s, with_body: 64").await else { return };
    let (status, head, _) = ask(&sidecar, "/a?b=c", b"hello").await;
    assert_eq!(status, 200);
    assert!(head.contains("x-authorized: yes"), "{head}");
    let told = authorizer.event().await;
    let http = json!({
        "id": "r1", "method": "POST", "path": "/a?b=c", "host": "orders", "scheme": "http", "size": 5,
        "protocol": "HTTP/1.1", "body": "hello",
    });
    assert_eq!(told["http"], http);
    assert_eq!(
        (&told["headers"]["authorization"], &told["headers"]["x-request-id"]),
        (&json!("Bearer t"), &json!("r1"))
    );
    assert_eq!(told["headers"]["x-user"], Value::Null, "only what send_headers names");
    assert_eq!(told["source"], json!({ "address": "127.0.0.1", "principal": "" }));
    assert_eq!(told["destination"]["principal"], "spiffe://cluster.local/ns/default/sa/orders");
    assert_eq!(told["port"], app.address.port());
    assert!(told["left"].as_f64().is_some_and(|left| left > 0.0 && left <= 20.0), "{told}");
    let got = app.last();
    let head = got.head.to_lowercase();
    assert!(head.contains("x-user: jo") && !head.contains("admin") && !head.contains("bearer"), "{head}");
    assert!(head.contains("x-team: shop") && head.contains("x-team: bank"), "append: {head}");
    assert!(head.contains("x-role: reader") && !head.contains("owner"), "{head}");
    assert_eq!(got.body, b"hello");
    assert_eq!(ask(&sidecar, "/a", b"\xff\x00").await.0, 200);
    let told = authorizer.event().await;
    assert_eq!((&told["http"]["body"], &told["raw_body"]), (&json!(""), &json!([255, 0])));
    let (status, head, body) = ask(&sidecar, "/deny", b"").await;
    assert_eq!((status, body.as_slice()), (402, &br#"{"error": "pay first"}"#[..]));
    assert!(head.contains("x-why: unpaid") && head.contains("authz_denied"), "{head}");
    assert!(head.contains("set-cookie: a=1") && head.contains("set-cookie: b=2"), "{head}");
    assert_eq!(ask(&sidecar, "/a", &[b'x'; 65]).await.0, 413);
    assert_eq!(app.requests().len(), 2);
}

#[tokio::test]
async fn an_authorizer_of_grpcio_that_fails_denies() {
    let Some((authorizer, app, sidecar)) = start("timeout: 5s").await else { return };
    for path in ["/slow", "/garbage", "/empty", "/abort", "/raise", "/error"] {
        let (status, head, _) = ask(&sidecar, path, b"").await;
        assert_eq!(status, 503, "{path}");
        assert!(head.contains("authz_unavailable"), "{path} {head}");
    }
    assert_eq!(
        (ask(&sidecar, "/a", b"").await.0, app.requests().len()),
        (200, 1),
        "it is asked again each time"
    );
    drop(authorizer);
    assert_eq!(ask(&sidecar, "/a", b"").await.0, 503, "it is gone");
    assert_eq!(app.requests().len(), 1);
}
