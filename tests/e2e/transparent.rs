//! Applications without any setting for a sidecar: `pillion init`, a sidecar without privileges, and the connections of
//! a pod.
//!
//! Needs root, `ip` and iptables. Every test has two hosts of its own, as in `redirect`.

mod first_byte;
mod loops;
mod many;
mod self_calls;
mod source;
mod tproxy;

use std::net::SocketAddr;

use crate::redirect::{at, dial, get, hear, hosts, next, say, serve};
use crate::support::namespace::{Family, families};
use crate::support::program::Program;

/// One server of each kind, at these ports of every address that `of` gives, in both versions of IP.
fn everywhere(servers: &[(&str, u16)], of: impl Fn(Family) -> std::net::IpAddr) -> Vec<String> {
    let in_family = |family: Family| {
        let ip = of(family);
        servers.iter().map(move |(server, port)| format!("{server}@{}", at(ip, *port)))
    };
    families().into_iter().flat_map(in_family).collect()
}

/// The address of the client that a server at this address saw. An HTTP server may see the same client twice: a
/// connection
/// that was opened in case the server speaks first stays unused.
async fn peer_at(servers: &mut Program, to: SocketAddr) -> String {
    loop {
        let accepted = next(servers, "accepted").await;
        if accepted["at"] == to.ip().to_string() && accepted["port"] == to.port() {
            return accepted["peer"].as_str().expect("text").to_owned();
        }
    }
}
