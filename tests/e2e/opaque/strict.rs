//! A strict port of a server that speaks first: a client that is not admitted must not cause a greeting.

use crate::support::backend::Backend;
use crate::support::certs::Authority;
use crate::support::sidecar::{Pair, Plan};
use crate::support::soon;
use crate::support::wire::Wire;

const BANNER: &str = "220 mail.example ESMTP\r\n";

/// A server that greets its client, and then reads until the client ends.
async fn greeter() -> Backend {
    Backend::serving(async |mut wire, _, _| {
        drop(wire.try_send(BANNER).await);
        wire.rest().await;
    })
    .await
}

async fn greeted(pair: &Pair) {
    let mut wire = Wire::connect(pair.caller.orders()).await;
    let (heard, _) = soon("the banner", wire.exactly(BANNER.len())).await;
    assert_eq!(String::from_utf8_lossy(&heard), BANNER);
}

/// Admitted callers connect meanwhile; each takes far longer than the wait before an early dial.
#[tokio::test]
async fn a_plaintext_client_gets_no_byte_and_the_application_sees_no_connection() {
    let app = greeter().await;
    let pair = Pair::start(app.address, "", "").await;
    let mut silent = Wire::connect(pair.application.inbound()).await;
    for number in 1..=20 {
        greeted(&pair).await;
        assert_eq!(app.connections(), number, "only those that were let in");
    }
    for first_words in ["HELO me\r\n", "*1\r\n$4\r\nPING\r\n", "\0\0\0\u{8}\u{4}", ""] {
        let mut client = Wire::connect(pair.application.inbound()).await;
        // The sidecar closes the connection because of these bytes, possibly before all are sent.
        drop(client.try_send(first_words).await);
        drop(client.half_close_if_open().await);
        assert!(soon("the end", client.rest()).await.is_empty(), "{first_words:?}");
    }
    drop(silent.half_close_if_open().await);
    assert!(soon("the end", silent.rest()).await.is_empty());
    assert_eq!(app.connections(), 20);
}

#[tokio::test]
async fn a_plaintext_http_client_gets_the_reason_from_the_sidecar_alone() {
    let app = greeter().await;
    let pair = Pair::start(app.address, "", "").await;
    let answer = Wire::connect(pair.application.inbound()).await.get("orders", "/").await;
    assert_eq!(answer.status(), 403);
    let reason = answer.header("proxy-status").expect("why");
    assert!(reason.contains("mtls_required"), "{reason}");
    assert_eq!(app.connections(), 0);
}

/// TLS 1.3 lets a client finish its handshake before the server has checked the client's certificate.
#[tokio::test]
async fn a_caller_with_an_untrusted_certificate_does_not_reach_the_application() {
    let app = greeter().await;
    let pair = Pair::start(app.address, "", "").await;
    let stranger = Plan::calling(pair.application.inbound(), "retry: off, connect_timeout: 20s");
    let stranger = stranger.identified(&Authority::new(), "web").start().await;
    let mut silent = Wire::connect(stranger.orders()).await;
    assert!(soon("the end", silent.rest()).await.is_empty());
    assert_eq!(app.connections(), 0);
    greeted(&pair).await;
    assert_eq!(app.connections(), 1);
}
