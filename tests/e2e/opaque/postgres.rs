//! PostgreSQL: the client speaks first, asks for TLS on the open connection, and goes on with TLS or without.

use std::net::SocketAddr;
use std::process::Command;

use super::Way;
use crate::support::servers::{PASSWORD, Server, USER};
use crate::support::tools::{printed, require};

/// Queries with a small answer, with one of more than a mebibyte, and whether the server saw TLS.
const QUERIES: [&str; 3] = [
    "SELECT 1",
    "SELECT i, md5(i::text) FROM generate_series(1, 30000) AS i",
    "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
];

async fn ask(at: SocketAddr, mode: &str, query: &str) -> String {
    let mut psql = Command::new("psql");
    psql.env("PGPASSWORD", PASSWORD).env("PGSSLMODE", mode).env("PGCONNECT_TIMEOUT", "20");
    psql.args(["--no-psqlrc", "--tuples-only", "--no-align", "--dbname", "postgres", "--username", USER]);
    psql.args(["--host", &at.ip().to_string(), "--port", &at.port().to_string(), "--command", query]);
    printed(psql).await
}

#[tokio::test]
async fn psql_prints_what_it_prints_without_us() {
    if !require("psql") {
        return;
    }
    let Some(postgres) = Server::postgres().await else { return };
    for (mode, has_tls) in [("disable", "f\n"), ("prefer", "t\n"), ("require", "t\n")] {
        assert_eq!(ask(postgres.address, mode, QUERIES[2]).await, has_tls, "{mode}");
    }
    for way in Way::ALL {
        let pair = way.pair(postgres.address).await;
        for mode in ["disable", "prefer", "require"] {
            for query in QUERIES {
                let direct = ask(postgres.address, mode, query).await;
                assert!(ask(pair.caller.orders(), mode, query).await == direct, "{way:?} {mode}: {query}");
            }
        }
        way.is_counted_by(&pair).await;
    }
}
