//! `pillion init` in namespaces: where connections arrive, what a run leaves behind, and its errors.
//!
//! Needs root, iproute2, nftables and both variants of iptables. There is no sidecar: servers in its place report where
//! a connection arrived.

mod namespace;
mod refusals;
mod traffic;

use std::net::SocketAddr;
use std::process::{Command, Output};

use crate::support::launched::binary;
use crate::support::namespace::{Hosts, Namespace};
use crate::support::program::Program;
use crate::support::tools::{printed, require, run};

const BACKENDS: [&str; 3] = ["nft", "iptables-nft", "iptables-legacy"];

/// The Python of Debian: one that only root may read would not start under the sidecar's user.
const PYTHON: &str = "/usr/bin/python3";

fn hosts() -> Option<Hosts> {
    let tools = ["ip", "nft", "iptables-nft", "iptables-legacy", "setpriv", "sysctl", PYTHON];
    if tools.into_iter().all(require) { Hosts::new() } else { None }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `pillion init` behind a command that runs the command in its arguments.
async fn init_behind(mut prefix: Command, words: &[&str]) -> Output {
    prefix.arg(binary()).arg("init").args(words);
    run(prefix).await
}

/// What `pillion init` prints. It must succeed.
async fn init(host: &Namespace, words: &[&str]) -> String {
    let output = init_behind(host.enter(), words).await;
    let said = text(&output.stderr);
    assert!(output.status.success(), "init {words:?}: {said}");
    said
}

/// What `pillion init` prints. It must fail with exit code 1.
async fn refused(prefix: Command, words: &[&str]) -> String {
    let output = init_behind(prefix, words).await;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "init {words:?}: {said}");
    said
}

async fn shell(host: &Namespace, script: &str) -> String {
    let mut shell = host.enter();
    shell.args(["sh", "-euc", script]);
    printed(shell).await
}

/// Everything that `init` may change, as the kernel reports it: rules of every kind, routing, and loopback's addresses.
async fn everything(host: &Namespace) -> String {
    let rules = "nft -s list ruleset 2>/dev/null";
    let older =
        "for v in iptables ip6tables; do $v-legacy-save | grep -e '^\\*' -e '^-A' -e '^:.* - ' || :; done";
    let routing = "for f in -4 -6; do ip $f rule list; ip $f route list table 133 2>/dev/null || :; done";
    shell(host, &format!("{rules}; {older}; {routing}; ip address show dev lo")).await
}

/// The rules of every rule set, sorted, without empty tables.
async fn rules(host: &Namespace) -> String {
    let ours = "nft list table inet pillion 2>/dev/null || :";
    let all = "for v in iptables-nft ip6tables-nft iptables-legacy ip6tables-legacy; do echo $v; \
               $v-save 2>/dev/null | grep '^-A' | sort; done";
    let routing = "ip rule list; ip -6 rule list; ip -6 address show dev lo";
    shell(host, &format!("{ours}; {all}; {routing}")).await
}

fn python(mut prefix: Command, script: &str, words: &[String]) -> Command {
    prefix
        .args([PYTHON, "-u", &format!("{}/tests/support/{script}", env!("CARGO_MANIFEST_DIR"))])
        .args(words);
    prefix
}

/// Servers that report where a connection arrived, and its original destination.
async fn listen(prefix: Command, servers: &[String]) -> Program {
    let mut servers = Program::start(python(prefix, "interceptor.py", servers));
    assert_eq!(servers.line().await, "ready");
    servers
}

/// `NAME@…` at this port of every address.
fn everywhere(name: &str, port: u16) -> [String; 2] {
    [format!("{name}@0.0.0.0:{port}"), format!("{name}@[::]:{port}")]
}

/// The reply of the server that a caller reaches at each address.
async fn reach(prefix: Command, words: &[&str], targets: &[String]) -> Vec<String> {
    let words = words.iter().map(|word| (*word).to_owned()).chain(targets.iter().cloned());
    let heard = printed(python(prefix, "reach.py", &words.collect::<Vec<_>>())).await;
    heard.lines().map(str::to_owned).collect()
}

/// The reply of the server that a caller reaches at one address over TCP.
async fn hear(prefix: Command, target: SocketAddr) -> String {
    reach(prefix, &[], &[target.to_string()]).await.concat()
}
