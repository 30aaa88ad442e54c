//! Endpoints from Kubernetes with the real binary: an API server with TLS and a token, whose slices change under load.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pillion_testkit::api_server::{ApiServer, Ending, Faults, service, slice, slice_of};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::application::application;
use crate::support::backend::{Backend, Task};
use crate::support::load::{Load, Size};
use crate::support::sidecar::{Plan, Sidecar};
use crate::support::wire::Wire;
use crate::support::{Scratch, eventually};

/// An API server on a socket, and the kubeconfig that leads to it.
struct Kube {
    server: ApiServer,
    scratch: Scratch,
    _listening: Task,
}

impl Kube {
    async fn start() -> Self {
        let issued = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::try_from(issued.signing_key.serialize_der()).expect("a key");
        let chain = vec![issued.cert.der().clone()];
        let tls =
            ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).expect("a server");
        let (tls, server) = (TlsAcceptor::from(Arc::new(tls)), ApiServer::default());
        server.set_faults(Faults { token: Some("secret".into()), piece: 100, ..Faults::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let serving = server.clone();
        let listening = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, server) = (tls.clone(), serving.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = tls.accept(stream).await {
                        drop(server.serve(stream).await);
                    }
                });
            }
        });
        let scratch = Scratch::new();
        scratch.write("token", "secret\n");
        let authority = STANDARD.encode(issued.cert.pem());
        scratch.write(
            "config",
            format!(
                "current-context: test\ncontexts: [{{ name: test, context: {{ cluster: test, user: web }} }}]\n\
                 clusters:\n- name: test\n  cluster:\n    server: https://{address}\n    certificate-authority-data: {authority}\n\
                 users:\n- name: web\n  user: {{ tokenFile: token }}\n"
            ),
        );
        Self { server, scratch, _listening: Task(listening) }
    }

    fn planned(&self, orders: &str) -> Plan {
        let orders = format!("endpoints: {{ kubernetes: \"orders.shop:80\" }}, {orders}");
        let caller = Plan::caller(&orders).env("KUBECONFIG", &self.scratch.path().join("config"));
        caller.env("KUBERNETES_SERVICE_HOST", Path::new("")) // as it may be set where the tests run
    }

    async fn caller(&self, orders: &str) -> Sidecar {
        self.planned(orders).start().await
    }

    /// A command that runs the command in its arguments with the same environment.
    fn environment(&self) -> Command {
        let mut env = Command::new("env");
        env.arg(format!("KUBECONFIG={}", self.scratch.path().join("config").display()));
        env.arg("KUBERNETES_SERVICE_HOST=");
        env
    }
}

/// What `/clusters` shows of `orders`: the addresses of its endpoints, and where they come from.
async fn shown(sidecar: &Sidecar) -> (Vec<String>, Value) {
    let page = Wire::connect(sidecar.admin()).await.get("localhost", "/clusters?service=orders").await;
    let page: Value = serde_json::from_str(&page.text()).expect("JSON");
    let cluster = &page["clusters"][0];
    let endpoints = cluster["endpoints"].as_array().into_iter().flatten();
    let addresses =
        endpoints.filter_map(|endpoint| endpoint["address"].as_str()).map(str::to_owned).collect();
    (addresses, cluster["endpoints_from"].clone())
}

async fn has_endpoints(sidecar: &Sidecar, mut expected: Vec<SocketAddr>) {
    expected.sort();
    let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
    eventually("the endpoints", async || (shown(sidecar).await.0 == expected).then_some(())).await;
}

fn one(nth: usize, at: SocketAddr) -> Value {
    slice(&format!("orders-{nth}"), "orders", at.port(), &["127.0.0.1"])
}

fn terminating(nth: usize, at: SocketAddr) -> Value {
    let conditions = json!({ "ready": false, "serving": true, "terminating": true });
    let endpoints = json!([{ "addresses": ["127.0.0.1"], "conditions": conditions }]);
    let ports = json!([{ "name": "http", "port": at.port() }]);
    slice_of(&format!("orders-{nth}"), "orders", ports, endpoints)
}

/// In each round a pod comes, and the oldest one terminates and goes, while watches end in all ways.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_come_and_go_under_load_and_no_request_fails() {
    let kube = Kube::start().await;
    let apps = [application().await, application().await, application().await];
    let at = |round: usize| apps[round % apps.len()].0;
    kube.server.apply(service("orders", 80));
    kube.server.apply(one(0, at(0)));
    let caller = kube.caller("retry: off, connect_timeout: 20s").await;
    has_endpoints(&caller, vec![at(0)]).await;
    let load =
        Load::start([caller.outbound(), caller.orders()], Size { rate: 200, clients: 10, streams: 2 }).await;
    load.goes_on(20).await;
    let rounds = if std::env::var_os("PILLION_TEST_FULL").is_some() { 200 } else { 12 };
    for round in 1..=rounds {
        kube.server.apply(one(round, at(round)));
        has_endpoints(&caller, vec![at(round - 1), at(round)]).await;
        load.goes_on(4).await;
        match round % 4 {
            0 => kube.server.end_watches(Ending::Closed),
            1 => kube.server.end_watches(Ending::Cut),
            2 => kube.server.end_watches(Ending::Failed(410)),
            _ => kube.server.bookmark(),
        }
        kube.server.apply(terminating(round - 1, at(round - 1)));
        has_endpoints(&caller, vec![at(round)]).await;
        load.goes_on(4).await;
        kube.server.delete("endpointslices", &format!("orders-{}", round - 1));
    }
    let tally = load.stop().await;
    let (answers, failures) = (tally.answers.load(Relaxed), tally.failures.lock().clone());
    println!("{rounds} rounds of pods: {answers} answers, {} failures", failures.len());
    assert!(failures.is_empty(), "{failures:#?}");
    let (_, from) = shown(&caller).await;
    assert_eq!((&from["kubernetes"], &from["problem"]), (&json!("orders.shop:80"), &Value::Null));
    assert_eq!(caller.scrape().await.sum("pillion_kubernetes_watches", &[]), 2.0);
}

/// The next request of a kept connection goes to the pod that exists now, also in the process that was taken over.
#[tokio::test]
async fn a_former_process_follows_endpoints_until_its_last_connection_ends() {
    let kube = Kube::start().await;
    let (before, after) = (Backend::echo().await, Backend::echo().await);
    kube.server.apply(service("orders", 80));
    kube.server.apply(one(0, before.address));
    let mut former = kube.planned("").with_takeover().start().await;
    has_endpoints(&former, vec![before.address]).await;
    let mut kept = Wire::connect(former.orders()).await;
    assert_eq!(kept.get("orders", "/").await.status(), 200);
    let successor = former.succeed_by(Some(kube.environment())).ready().await;
    former.has_logged("a successor serves").await;

    let changes = |of: &Sidecar| of.errors().matches("endpoints changed").count();
    let known = changes(&former);
    kube.server.apply(slice("orders-0", "orders", after.address.port(), &["127.0.0.1"]));
    eventually("the former process learns", async || (changes(&former) > known).then_some(())).await;
    let answer = kept.get("orders", "/").await;
    assert_eq!((answer.status(), answer.header("connection")), (200, Some("close")));
    assert_eq!((before.requests().len(), after.requests().len()), (1, 1));
    assert_eq!(former.exit().await.code(), Some(0));
    has_endpoints(&successor, vec![after.address]).await;
}

#[tokio::test]
async fn a_sidecar_whose_token_is_refused_is_ready_says_so_and_recovers() {
    let kube = Kube::start().await;
    let app = application().await;
    kube.server.apply(service("orders", 80));
    kube.server.apply(one(0, app.0));
    kube.scratch.write("token", "old\n");
    let caller = kube.caller("").await;
    eventually("the reason", async || {
        let (_, from) = shown(&caller).await;
        let why = from["watches"]["endpointslices"]["why"].as_str().unwrap_or_default().to_owned();
        why.contains("is the token of this cluster, and valid?").then_some(())
    })
    .await;
    kube.scratch.write("token", "secret\n");
    has_endpoints(&caller, vec![app.0]).await;
}
