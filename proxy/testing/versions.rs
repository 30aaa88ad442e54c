//! Every HTTP version of a caller with every version of the application: what the application sees.

use super::backend::{Backend, OK};
use super::http2;
use super::mesh::{self, A, IDENTITY, Mesh, ORDERS, Pair, Sidecar, identity};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Caller {
    Http1,
    Http2,
    Grpc,
}

const CALLERS: [Caller; 3] = [Caller::Http1, Caller::Http2, Caller::Grpc];
/// The protocols as the configuration spells them.
const DECLARED: [&str; 3] = ["auto", "http1", "http2"];

/// The HTTP version that the application must be called in. `None` when gRPC is answered UNIMPLEMENTED.
fn expected(caller: Caller, inbound: &str) -> Option<&'static str> {
    match (caller, inbound) {
        (Caller::Grpc, "http1") => None,
        (Caller::Grpc, _) | (_, "http2") => Some("HTTP/2"),
        (Caller::Http1 | Caller::Http2, _) => Some("HTTP/1.1"),
    }
}

/// An application of each version, at its own address.
fn applications(mesh: &Mesh) -> (Backend, Backend) {
    let http1 = mesh.answering(A, OK);
    let http2 = mesh.http2("10.0.0.2:80", 100, |_, request, respond| async move {
        match request.headers().get("content-type").map(http::HeaderValue::as_bytes) {
            Some(b"application/grpc") => http2::answer_grpc(respond, "0"),
            _ => http2::answer(respond, 200, "ok"),
        }
    });
    (http1, http2)
}

/// The status, or the gRPC status.
async fn call(caller: Caller, sidecar: &Sidecar) -> String {
    match caller {
        Caller::Http1 => sidecar.client().await.get("/").await.status().expect("a status").to_string(),
        Caller::Http2 => sidecar.http2_client().await.get("/").await.head.status().as_u16().to_string(),
        Caller::Grpc => {
            let answer = sidecar.http2_client().await.grpc(None).await;
            format!("grpc {}", answer.grpc_status().unwrap_or("none"))
        }
    }
}

async fn check(caller: Caller, inbound: &str, entry: &Sidecar, cell: &str) {
    let outcome = call(caller, entry).await;
    let good = match (caller, expected(caller, inbound)) {
        (Caller::Grpc, None) => "grpc 12",
        (Caller::Grpc, Some(_)) => "grpc 0",
        _ => "200",
    };
    assert_eq!(outcome, good, "{cell}");
}

/// The address where the application speaks the expected version: any answer shows that the right version was used.
fn address(caller: Caller, inbound: &str) -> &'static str {
    if expected(caller, inbound) == Some("HTTP/2") { "10.0.0.2:80" } else { A }
}

#[tokio::test(start_paused = true)]
async fn the_application_s_declaration_decides_its_version() {
    for (inbound, service) in DECLARED.iter().flat_map(|inbound| DECLARED.map(|service| (*inbound, service)))
    {
        for (caller, mtls) in CALLERS.iter().flat_map(|caller| [(*caller, false), (*caller, true)]) {
            if (caller, service) == (Caller::Grpc, "http1") {
                continue; // refused by the caller's own sidecar, below
            }
            let cell = format!(
                "{caller:?} caller, services.protocol {service}, inbound.protocol {inbound}, mTLS {mtls}"
            );
            let pair = Pair::new();
            let _apps = applications(&pair.mesh);
            let block = format!("app: {}, protocol: {inbound}", address(caller, inbound));
            let orders = format!("endpoints: [10.1.0.1:15006], protocol: {service}");
            let (yaml, calls) = (mesh::application_at("10.1.0.1:15006", &block), mesh::caller(&orders));
            if mtls {
                let _app = pair.mesh.sidecar(&(yaml + IDENTITY), Some(identity(&pair.ca, "orders")));
                check(caller, inbound, &pair.caller(&format!("{orders}, {ORDERS}")), &cell).await;
            } else {
                let _app = pair.mesh.sidecar(&yaml, None);
                check(caller, inbound, &pair.mesh.sidecar(&calls, None), &cell).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn callers_without_a_sidecar_are_served_in_the_same_way() {
    for (inbound, caller) in DECLARED.iter().flat_map(|inbound| CALLERS.map(|caller| (*inbound, caller))) {
        let mesh = Mesh::default();
        let _apps = applications(&mesh);
        let app = mesh.application(&format!("app: {}, protocol: {inbound}", address(caller, inbound)));
        check(caller, inbound, &app, &format!("{caller:?} caller alone, inbound.protocol {inbound}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_service_s_protocol_decides_for_a_server_without_a_sidecar() {
    for (service, caller) in DECLARED.iter().flat_map(|service| CALLERS.map(|caller| (*service, caller))) {
        let mesh = Mesh::default();
        let _apps = applications(&mesh);
        let speaks_http2 = match service {
            "auto" => caller != Caller::Http1,
            declared => declared == "http2",
        };
        let endpoint = if speaks_http2 { "10.0.0.2:80" } else { A };
        let sidecar = mesh.caller(&format!("endpoints: [\"{endpoint}\"], protocol: {service}"));
        let good = match (caller, service) {
            (Caller::Grpc, "http1") => "grpc 12",
            (Caller::Grpc, _) => "grpc 0",
            _ => "200",
        };
        assert_eq!(call(caller, &sidecar).await, good, "{caller:?} caller, services.protocol {service}");
    }
}
