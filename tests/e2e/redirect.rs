//! Original destinations of redirected connections: real rules of the kernel, over IPv4 and IPv6.
//!
//! Needs root, `ip` and iptables. Every test has two hosts of its own: a pod, whose rules redirect its connections to
//! the
//! sidecar in it, and `world`, which has the servers and the callers outside.

mod inbound;
mod outbound;
mod tls;

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use serde_json::Value;

use crate::support::certs::{Authority, spiffe};
use crate::support::namespace::{Hosts, Namespace, families, in_both};
use crate::support::program::Program;
use crate::support::tools::{printed, require};

/// The two hosts; `None` if this machine cannot have them or lacks the clients.
pub(crate) fn hosts() -> Option<Hosts> {
    if !(require("ip") && require("iptables") && require("setpriv") && require("curl") && require("python3"))
    {
        return None;
    }
    Hosts::new()
}

/// Servers on a host. They report what they see as events.
pub(crate) async fn serve(host: &Namespace, servers: &[String]) -> Program {
    let words: Vec<&str> = servers.iter().map(String::as_str).collect();
    let mut servers = Program::start(Program::script(host.enter(), "servers.py", &words));
    assert_eq!(servers.line().await, "ready");
    servers
}

/// The result of one connection, as the client saw it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Dialled {
    pub(crate) received: String,
    pub(crate) end: String,
}

impl Dialled {
    /// Whether the other side closed the connection.
    pub(crate) fn is_closed(&self) -> bool {
        ["eof", "reset"].contains(&&*self.end)
    }
}

/// One connection until its end, or until its first line if `words` contain `--line`.
pub(crate) async fn dial(host: Command, to: SocketAddr, words: &[&str]) -> Dialled {
    let (ip, port) = (to.ip().to_string(), to.port().to_string());
    let printed = printed(Program::script(host, "dial.py", &[&[&*ip, &*port], words].concat())).await;
    let result: Value = serde_json::from_str(&printed).expect("JSON");
    let text = |key: &str| result[key].as_str().expect("text").to_owned();
    Dialled { received: text("received"), end: text("end") }
}

/// Opens a connection, sends nothing, and returns the first line of the server.
pub(crate) async fn hear(host: Command, to: SocketAddr) -> String {
    let result = dial(host, to, &["--line"]).await;
    assert_eq!(result.end, "line", "{result:?} from {to}");
    result.received
}

/// Sends bytes of no known protocol, and returns the line of the reply.
pub(crate) async fn say(host: Command, to: SocketAddr) -> String {
    let result = dial(host, to, &["--line", "--send", "\\x00ping\\n"]).await;
    assert_eq!(result.end, "line", "{result:?} from {to}");
    result.received
}

/// A GET with this Host: status and body.
pub(crate) async fn get(mut host: Command, to: SocketAddr, name: &str) -> (u16, String) {
    host.args(["curl", "--silent", "--show-error", "--max-time", "20", "--noproxy", "*"]);
    host.args(["-w", "\n%{http_code}", "-H", &format!("Host: {name}"), &format!("http://{to}/path")]);
    let printed = printed(host).await;
    let (body, status) = printed.rsplit_once('\n').expect("a body and a status");
    (status.parse().expect("a status"), body.to_owned())
}

/// The next event of this kind. Other events before it are skipped.
pub(crate) async fn next(servers: &mut Program, kind: &str) -> Value {
    loop {
        let event = servers.event().await;
        if event["event"] == kind {
            return event;
        }
    }
}

pub(crate) fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// Both sidecars, without declared protocols: an address of a service on the way out, the application's own port on the
/// way in.
#[tokio::test]
async fn redirected_on_both_sides_with_mtls_between() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    let authority = Authority::new();
    pod.redirect_outgoing();
    world.redirect_incoming();
    let mut apps = Vec::new();
    for family in families() {
        apps.push(format!("http:orders@{}", at(family.world, 8080)));
        apps.push(format!("banner:database@{}", at(family.world, 3306)));
    }
    let mut apps = serve(&world, &apps).await;
    let _theirs = world.identified_sidecar("outbound: off", &authority, "orders").await;
    let ours = format!(
        "inbound: off\nservices:\n  orders:\n    addresses: [{}]\n    endpoints: [{}]\n    tls: {id}\n  \
         database:\n    addresses: [{}]\n    endpoints: [{}]\n    tls: {id}\n",
        in_both(|family| family.service, 80),
        in_both(|family| family.world, 8080),
        in_both(|family| family.service, 3306),
        in_both(|family| family.world, 3306),
        id = spiffe("orders"),
    );
    let _ours = pod.identified_sidecar(&ours, &authority, "web").await;
    for family in families() {
        let answer = get(pod.enter(), at(family.service, 80), "whatever").await;
        assert_eq!(answer, (200, "orders\n".to_owned()), "{family:?}");
        let request = next(&mut apps, "request").await;
        let head = request["head"].as_str().expect("text");
        assert!(head.contains(&format!("URI={}", spiffe("web"))), "over mTLS: {head}");
        assert_eq!(hear(pod.enter(), at(family.service, 3306)).await, "database\n", "{family:?}");
    }
}
