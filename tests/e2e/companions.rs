//! A cache on localhost: a port of the sidecar for Redis, with failover between two of them.
//!
//! `opaque/redis.rs` compares what clients of Redis see through two sidecars with mutual TLS.

use std::net::SocketAddr;
use std::process::Command;

use crate::support::eventually;
use crate::support::place::Place;
use crate::support::servers::Server;
use crate::support::sidecar::Plan;
use crate::support::tools::{require, run};

/// What `redis-cli` prints for a command, on a connection of its own.
async fn redis_cli(at: SocketAddr, words: &[&str]) -> String {
    let mut command = Command::new("redis-cli");
    command.args(["-h", &at.ip().to_string(), "-p", &at.port().to_string()]).args(words);
    String::from_utf8_lossy(&run(command).await.stdout).trim().to_owned()
}

/// Whether a new connection comes to the Redis at `to`.
async fn comes_to(at: SocketAddr, to: SocketAddr) -> bool {
    let port = format!("tcp_port:{}\r", to.port());
    redis_cli(at, &["INFO", "server"]).await.lines().any(|line| line.trim() == port.trim())
}

#[tokio::test]
async fn connections_go_to_the_second_redis_while_the_first_is_away() {
    if !require("redis-cli") {
        return;
    }
    let (Some(first), Some(second)) = (Server::redis().await, Server::redis().await) else { return };
    let [one, other] = [first.address, second.address];
    let sidecar = Plan::new(&format!(
        "inbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\nservices:\n  orders:\n    listen: 127.0.0.1:0\n    protocol: tcp\n    \
         tls: off\n    endpoints: [{{ address: \"{one}\" }}, {{ address: \"{other}\", priority: 1 }}]\n    \
         health_check: {{ tcp: true, interval: 100ms, timeout: 500ms, healthy: 2, unhealthy: 2 }}\n"
    ));
    let sidecar = sidecar.start().await;
    let port = sidecar.orders();
    assert!(comes_to(port, one).await);
    assert_eq!(redis_cli(port, &["SET", "a", "1"]).await, "OK");
    drop(first);
    // a connection that the first refuses is made to the second at once
    assert_eq!(redis_cli(port, &["PING"]).await, "PONG");
    assert!(comes_to(port, other).await);
    let mut place = Place::here();
    place.address = one;
    let Some(_first) = Server::redis_at(place).await else { return };
    eventually("the first is used again", async || comes_to(port, one).await.then_some(())).await;
}
