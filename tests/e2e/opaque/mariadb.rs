//! MariaDB: the server speaks first, and the client waits for it.

use std::net::SocketAddr;
use std::process::Command;

use super::Way;
use crate::support::servers::{PASSWORD, Server, USER};
use crate::support::tools::{printed, require};

/// Queries with a small answer, with many rows, and with a single large packet.
const QUERIES: [&str; 3] =
    ["SELECT 1 AS one", "SELECT seq, MD5(seq) FROM mysql.seq_1_to_25000", "SELECT REPEAT('x', 1048576)"];

async fn ask(at: SocketAddr, query: &str) -> String {
    let mut client = Command::new("mariadb");
    client.args(["--no-defaults", "--protocol=tcp", "--host", &at.ip().to_string()]);
    client.args(["--port", &at.port().to_string(), "--user", USER, "--connect-timeout=20"]);
    client.args([&*format!("--password={PASSWORD}"), "--batch", "--execute", query]);
    printed(client).await
}

#[tokio::test]
async fn the_client_of_mariadb_prints_what_it_prints_without_us() {
    if !require("mariadb") {
        return;
    }
    let Some(mariadb) = Server::mariadb().await else { return };
    assert_eq!(ask(mariadb.address, QUERIES[0]).await, "one\n1\n");
    for way in Way::ALL {
        let pair = way.pair(mariadb.address).await;
        for query in QUERIES {
            let direct = ask(mariadb.address, query).await;
            assert!(ask(pair.caller.orders(), query).await == direct, "{way:?}: {query}");
        }
        way.is_counted_by(&pair).await;
    }
}
