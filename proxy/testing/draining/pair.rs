//! A caller's sidecar while the other sidecar drains: no request is lost that could have gone elsewhere.

use super::super::backend::OK;
use super::super::mesh::{A, ORDERS, Pair, Sidecar, secs};
use super::{End, Plan};
use pillion_base::drain::DrainOutcome;

const POST: &str = "POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 1\r\n\r\n.";
const BOTH: &str = "endpoints: [10.1.0.1:15006, 10.1.0.2:15006], load_balancer: round_robin";

async fn all_is_well(caller: &Sidecar, rounds: usize) {
    for _ in 0..rounds {
        let mut clients = Vec::new();
        for _ in 0..4 {
            let mut client = caller.client().await;
            client.send([POST, POST].concat()).await;
            clients.push(client);
        }
        for mut client in clients {
            assert_eq!(client.answer().await.status_and_reason(), (200, None));
            assert_eq!(client.answer().await.status_and_reason(), (200, None));
        }
        tokio::time::sleep(secs(1) / 20).await;
    }
}

/// Uses POST, which is not sent again if it may have been acted on.
#[tokio::test(start_paused = true)]
async fn one_of_two_endpoints_ends_and_no_post_is_lost_in_either_version() {
    for protocol in ["http1", "http2"] {
        let pair = Pair::new();
        let _app = pair.mesh.answering(A, OK);
        let leaves = pair.application("10.1.0.1:15006", A);
        let _stays = pair.application("10.1.0.2:15006", A);
        let caller = pair.caller(&format!("{BOTH}, protocol: {protocol}, {ORDERS}"));
        all_is_well(&caller, 20).await;
        let end = End::begin(&leaves).await;
        all_is_well(&caller, 200).await;
        assert_eq!(end.outcome_and_seconds().await.0, DrainOutcome::Finished, "{protocol}");
    }
}

/// The caller has a connection that was in use a moment ago. It is told to close, and the request goes elsewhere.
#[tokio::test(start_paused = true)]
async fn a_request_that_comes_too_late_is_refused_and_replaced_for_any_method() {
    for (protocol, refused) in [("http1", 1), ("http2", 0)] {
        let pair = Pair::new();
        let app = pair.mesh.answering(A, OK);
        let leaves = pair.application("10.1.0.1:15006", A);
        let stays = pair.application("10.1.0.2:15006", A);
        let caller = pair.caller(&format!("{BOTH}, protocol: {protocol}, {ORDERS}"));
        all_is_well(&caller, 1).await;
        let end = End::planned(&leaves, Plan { delay: secs(0), timeout: secs(5) }).await;
        all_is_well(&caller, 1).await;
        assert_eq!(end.outcome_and_seconds().await.0, DrainOutcome::Finished, "{protocol}");
        let draining = leaves.sum("pillion_requests_total reason=draining");
        assert_eq!((draining > 0, app.hits()), (refused > 0, 16), "{protocol}: {draining}");
        assert!(caller.sum("pillion_retries_total outcome=replaced") >= draining, "{protocol}");
        assert_eq!(stays.sum("pillion_requests_total reason=draining"), 0);
    }
}
