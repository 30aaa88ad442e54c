//! SSH: the server greets every client before the client sends a byte.

use std::net::SocketAddr;
use std::process::Command;

use super::Way;
use crate::support::servers::Server;
use crate::support::soon;
use crate::support::tools::{printed, require};
use crate::support::wire::Wire;

/// The first line of the server, read without sending anything.
async fn banner(at: SocketAddr) -> Vec<u8> {
    let mut wire = Wire::connect(at).await;
    let mut heard = Vec::new();
    while !heard.ends_with(b"\n") {
        let piece = soon("the server's greeting", wire.piece(1)).await;
        assert!(!piece.is_empty(), "hung up after {:?}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&piece);
    }
    heard
}

/// Runs the whole key exchange, and returns the key that the server has proven to hold.
async fn key(at: SocketAddr) -> String {
    let mut scan = Command::new("ssh-keyscan");
    scan.args(["-T", "20", "-t", "ed25519", "-p", &at.port().to_string(), &at.ip().to_string()]);
    let output = printed(scan).await;
    output.split_once(' ').expect("a host before its key").1.to_owned()
}

#[tokio::test]
async fn the_banner_of_sshd_and_its_key_come_through_both_sidecars() {
    let Some(sshd) = Server::sshd().await else { return };
    let direct = banner(sshd.address).await;
    assert!(direct.starts_with(b"SSH-2.0-"), "{}", String::from_utf8_lossy(&direct));
    for way in Way::ALL {
        let pair = way.pair(sshd.address).await;
        assert_eq!(banner(pair.caller.orders()).await, direct, "{way:?}");
        if require("ssh-keyscan") {
            assert_eq!(key(pair.caller.orders()).await, key(sshd.address).await, "{way:?}");
            way.is_counted_by(&pair).await;
        }
    }
}
