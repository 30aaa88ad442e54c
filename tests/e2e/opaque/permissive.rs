//! A permissive port: clients with and without mTLS, protocols where either side speaks first, one application.

use super::bytes;
use super::redis::session;
use crate::support::backend::Backend;
use crate::support::servers::Server;
use crate::support::sidecar::Pair;
use crate::support::tools::require;
use crate::support::wire::Wire;
use crate::support::{eventually, soon};

#[tokio::test]
async fn redis_cli_is_served_in_plaintext_and_through_the_pair() {
    if !require("redis-cli") {
        return;
    }
    let Some(redis) = Server::redis().await else { return };
    let pair = Pair::start(redis.address, "", "mtls: permissive").await;
    let direct = session(redis.address).await;
    assert!(session(pair.caller.orders()).await == direct, "over mTLS");
    let [received, sent] = bytes(&pair.caller.scrape().await, "outbound", "orders");
    assert!(received > 0.0 && sent > 1_048_576.0, "{received} {sent}");
    assert!(session(pair.application.inbound()).await == direct, "in plaintext");
    let detected = [("direction", "inbound"), ("verdict", "opaque")];
    eventually("both connections to be counted", async || {
        let scrape = pair.application.scrape().await;
        let plaintext = [("direction", "inbound"), ("protocol", "tcp"), ("tls", "none"), ("outcome", "ok")];
        // One connection accepted in plaintext, and two opened to the application. There are more if a client was so
        // slow
        // that the application was dialled in case it speaks first. Connections over mTLS are detected as well.
        let is_counted = scrape.sum("pillion_connections_total", &plaintext) >= 3.0
            && scrape.sum("pillion_detections_total", &detected) == 2.0;
        is_counted.then_some(())
    })
    .await;
    let [received, sent] = bytes(&pair.application.scrape().await, "inbound", "app");
    assert!(received > 0.0 && sent > 2.0 * 1_048_576.0, "{received} {sent}");
}

#[tokio::test]
async fn a_silent_client_is_greeted_in_plaintext_and_through_the_pair() {
    let app = Backend::serving(async |mut wire, _, _| {
        drop(wire.try_send("hello\r\n").await);
        wire.rest().await;
    })
    .await;
    let pair = Pair::start(app.address, "", "mtls: permissive").await;
    for at in [pair.application.inbound(), pair.caller.orders()] {
        let mut wire = Wire::connect(at).await;
        let (heard, _) = soon("a greeting", wire.exactly(7)).await;
        assert_eq!(String::from_utf8_lossy(&heard), "hello\r\n");
    }
}
