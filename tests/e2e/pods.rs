//! Pods as in production: `pillion init` runs once as root, a sidecar without privileges runs beside each application,
//! and clients and servers have no setting for the mesh.
//!
//! Needs root, `ip`, and the programs of each variant. The tests in `init` and `redirect` check the rules in detail.

mod clients;
mod endpoints;
mod outside;

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use crate::support::capture::{Capture, contains, flows};
use crate::support::certs::{Authority, spiffe};
use crate::support::launched::Launched;
use crate::support::pod::{Node, Pod, Variant, Version, service};
use crate::support::program::Program;
use crate::support::servers::Server;
use crate::support::tools::{require, require_python};
use clients::{Client, curl, grpc, mariadb, psql, redis};

/// A word in everything that clients and servers send here. It must not be readable on the network.
const PLAINLY: &str = "plainly";

/// The ports of HTTP: the service's, and the application's own.
const HTTP: [u16; 2] = [80, 8080];
const REDIS: [u16; 2] = [6379, 6380];
const MARIADB: [u16; 2] = [3306, 3307];
const POSTGRES: [u16; 2] = [5432, 5433];
const GRPC: [u16; 2] = [50051, 9090];

/// The pod of a caller and the pod of an application, with mTLS between their sidecars.
struct Pair {
    node: Node,
    caller: Pod,
    application: Pod,
    authority: Authority,
}

impl Pair {
    async fn new(variant: Variant) -> Option<Self> {
        let node = Node::new(variant)?;
        let (caller, application) = (node.pod(1).await, node.pod(2).await);
        Some(Self { node, caller, application, authority: Authority::new() })
    }

    /// Starts both sidecars. `inbound` is the configuration of the application's inbound side.
    async fn sidecars(&self, inbound: &str) -> [Launched; 2] {
        let services: String =
            [("http", HTTP), ("redis", REDIS), ("mariadb", MARIADB), ("postgres", POSTGRES), ("grpc", GRPC)]
                .map(|(name, [port, at])| service(name, port, &[&self.application], at, "orders"))
                .concat();
        let caller = format!("services:\n{services}");
        [
            self.caller.sidecar(&caller, &self.authority, "web").await,
            self.application.sidecar(&format!("inbound: {{ {inbound} }}\n"), &self.authority, "orders").await,
        ]
    }

    /// A client prints the same through the mesh as beside the server, over both versions of IP.
    async fn same(&self, client: Client, [port, at]: [u16; 2]) {
        for version in Version::BOTH {
            let direct = client(&self.application, version.loopback(at)).await;
            assert!(contains(direct.as_bytes(), PLAINLY), "{direct}");
            let meshed = client(&self.caller, version.service(port)).await;
            assert!(meshed == direct, "{version:?} {port}: {meshed:.200}\n{direct:.200}");
        }
    }
}

/// An application that reports its caller, on every address of its pod.
async fn http_app(pod: &Pod, name: &str) -> Program {
    let [_, at] = HTTP;
    let words = [format!("http:{name}@0.0.0.0:{at}"), format!("http:{name}@[::]:{at}")];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut app = Program::start(Program::script(pod.enter(), "servers.py", &words));
    assert_eq!(app.line().await, "ready");
    app
}

/// The head of the next request that the application got, and the addresses of the connections before it.
async fn next_head(app: &mut Program) -> (String, BTreeSet<IpAddr>) {
    let mut peers = BTreeSet::new();
    loop {
        let event: Value = app.event().await;
        if let Some(head) = event["head"].as_str() {
            return (head.to_ascii_lowercase(), peers);
        }
        let peer = event["peer"].as_str().expect("where a connection came from");
        peers.insert(peer.parse().expect("an IP address"));
    }
}

/// HTTP, which the sidecars read, and Redis, which they carry as opaque bytes.
async fn is_intercepted(variant: Variant) {
    let Some(pair) = Pair::new(variant).await else { return };
    if !(require("redis-cli") && require("tcpdump")) {
        return;
    }
    let capture = Capture::start(&pair.node.host, &pair.caller.port()).await;
    let mut app = http_app(&pair.application, "plainly-orders").await;
    let Some(_redis) = Server::redis_at(pair.application.place(REDIS[1])).await else { return };
    let _sidecars = pair.sidecars(PROBES).await;
    pair.same(curl, HTTP).await;
    pair.same(redis, REDIS).await;
    sees_who_asks(&pair, &mut app).await;
    is_tls_alone(&pair, capture, &[HTTP[1], REDIS[1]]).await;
    is_probed(&pair).await;
}

const PROBES: &str =
    "probes: [{ name: app, port: 8080, path: /healthz }, { name: redis, port: 6380, tcp: true }]";

/// The application learns the caller's identity from the certificate alone, and the caller's address where the mode
/// keeps it.
async fn sees_who_asks(pair: &Pair, app: &mut Program) {
    let forged = "x-forwarded-client-cert: By=forged;Hash=forged;URI=spiffe://cluster.local/forged";
    let mut peers = BTreeSet::new();
    for version in Version::BOTH {
        let words = ["--header", forged, "--header", "x-mark: asked"];
        let answer = clients::get(pair.caller.enter(), version.service(HTTP[0]), &words).await;
        assert_eq!(answer, (200, "plainly-orders\n".to_owned()));
        let head = loop {
            let (head, from) = next_head(app).await;
            peers.extend(from);
            if head.contains("x-mark: asked") {
                break head;
            }
        };
        let lines: Vec<&str> =
            head.lines().filter(|line| line.starts_with("x-forwarded-client-cert:")).collect();
        let [line] = lines[..] else { unreachable!("{head}") };
        let (by, uri) = (format!("by={};", spiffe("orders")), format!(";uri={}", spiffe("web")));
        assert!(line.contains(&by) && line.ends_with(&uri), "{line}");
        assert!(!head.contains("forged"), "{head}");
    }
    let direct = Version::BOTH.map(|version| version.loopback(0).ip());
    let meshed = Version::BOTH.map(|version| pair.application.sees(&pair.caller, version));
    assert_eq!(peers, BTreeSet::from_iter([direct, meshed].concat()));
}

/// Only TLS is visible on the link of the caller's pod.
async fn is_tls_alone(pair: &Pair, capture: Capture, ports: &[u16]) {
    let to = pair.caller.at(Version::V4, 0).ip();
    let packets = capture.end(pair.node.host.enter(), to).await;
    let flows = flows(&packets);
    for (version, port) in
        Version::BOTH.into_iter().flat_map(|version| ports.iter().map(move |port| (version, *port)))
    {
        let there = pair.application.at(version, port);
        // a dial that was given up may have no answer yet
        let has_spoken =
            |from, to| flows.iter().any(|flow| (flow.from, flow.to) == (from, to) && !flow.bytes.is_empty());
        assert!(
            flows.iter().any(|flow| has_spoken(flow.from, there) && has_spoken(there, flow.from)),
            "{there}"
        );
    }
    flows.iter().filter(|flow| !flow.bytes.is_empty()).for_each(|flow| flow.must_be_tls13());
    for plaintext in [PLAINLY, "HTTP/1.1", "PRI * HTTP/2.0"] {
        assert!(!contains(&packets, plaintext), "{plaintext} on the cable");
    }
}

/// A client outside the mesh can probe the application, and gets nothing else from it.
async fn is_probed(pair: &Pair) {
    for version in Version::BOTH {
        let metrics = pair.application.at(version, 15020);
        for (name, expected) in [("app", "plainly-orders\n"), ("redis", "open\n")] {
            let path = format!("/probe/{name}");
            let answer = clients::get_path(pair.node.host.enter(), metrics, &path, &[]).await;
            assert_eq!(answer, (200, expected.to_owned()), "{version:?} {name}");
        }
    }
}

#[tokio::test]
async fn redirect_by_nft() {
    is_intercepted(Variant::redirect("nft")).await;
}

#[tokio::test]
async fn redirect_by_iptables_nft() {
    is_intercepted(Variant::redirect("iptables-nft")).await;
}

#[tokio::test]
async fn redirect_by_iptables_legacy() {
    is_intercepted(Variant::redirect("iptables-legacy")).await;
}

#[tokio::test]
async fn tproxy_by_nft() {
    is_intercepted(Variant::tproxy("nft")).await;
}

#[tokio::test]
async fn tproxy_by_iptables_nft() {
    is_intercepted(Variant::tproxy("iptables-nft")).await;
}

#[tokio::test]
async fn tproxy_by_iptables_legacy() {
    is_intercepted(Variant::tproxy("iptables-legacy")).await;
}

/// The client or the server speaks first, and no protocol is declared.
#[tokio::test]
async fn databases_and_grpc_with_no_protocol_configured() {
    let Some(pair) = Pair::new(Variant::redirect("nft")).await else { return };
    if !(require("psql") && require("mariadb") && require("tcpdump") && require_python("grpc")) {
        return;
    }
    let Some(_mariadb) = Server::mariadb_at(pair.application.place(MARIADB[1])).await else { return };
    let Some(_postgres) = Server::postgres_at(pair.application.place(POSTGRES[1])).await else { return };
    let at = format!("[::]:{}", GRPC[1]);
    let mut server = Program::start(Program::script(pair.application.enter(), "grpc_server.py", &[&at]));
    assert_eq!(server.line().await, format!("port {}", GRPC[1]));
    let _sidecars = pair.sidecars("").await;
    let capture = Capture::start(&pair.node.host, &pair.caller.port()).await;
    pair.same(mariadb, MARIADB).await;
    pair.same(psql, POSTGRES).await;
    pair.same(grpc, GRPC).await;
    is_tls_alone(&pair, capture, &[MARIADB[1], POSTGRES[1], GRPC[1]]).await;
}
