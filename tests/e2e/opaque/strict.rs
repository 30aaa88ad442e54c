//! A strict port before a server that speaks first: who was not let in must not make it speak.

use crate::support::backend::Backend;
use crate::support::certs::Authority;
use crate::support::sidecar::{Pair, Plan};
use crate::support::soon;
use crate::support::wire::Wire;

const BANNER: &str = "220 mail.example ESMTP\r\n";

/// Greets, and hears its client out.
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

/// Callers that are let in come and go meanwhile, each of which takes far longer than an early dial waits.
#[tokio::test]
async fn a_plaintext_client_hears_no_byte_and_the_application_sees_no_connection() {
    let app = greeter().await;
    let pair = Pair::start(app.address, "", "").await;
    let mut silent = Wire::connect(pair.application.inbound()).await;
    for number in 1..=20 {
        greeted(&pair).await;
        assert_eq!(app.connections(), number, "only those that were let in");
    }
    for first_words in ["HELO me\r\n", "*1\r\n$4\r\nPING\r\n", "\0\0\0\u{8}\u{4}", ""] {
        let mut client = Wire::connect(pair.application.inbound()).await;
        // The end of what they say is the end of their being heard, and may come first.
        drop(client.try_send(first_words).await);
        drop(client.half_close_if_open().await);
        assert!(soon("the end", client.rest()).await.is_empty(), "{first_words:?}");
    }
    drop(silent.half_close_if_open().await);
    assert!(soon("the end", silent.rest()).await.is_empty());
    assert_eq!(app.connections(), 20);
}

#[tokio::test]
async fn a_plaintext_http_client_is_told_what_is_missing_by_the_sidecar_alone() {
    let app = greeter().await;
    let pair = Pair::start(app.address, "", "").await;
    let answer = Wire::connect(pair.application.inbound()).await.get("orders", "/").await;
    assert_eq!(answer.status(), 403);
    let told = answer.header("proxy-status").expect("why");
    assert!(told.contains("mtls_required"), "{told}");
    assert_eq!(app.connections(), 0);
}

/// TLS 1.3 lets a client think that it is in before its certificate was looked at.
#[tokio::test]
async fn a_caller_with_a_certificate_of_strangers_is_not_let_near_the_application() {
    let app = greeter().await;
    let pair = Pair::start(app.address, "", "").await;
    let stranger = Plan::calling(pair.application.inbound(), "retry: off");
    let stranger = stranger.identified(&Authority::new(), "web").start().await;
    let mut silent = Wire::connect(stranger.orders()).await;
    assert!(soon("the end", silent.rest()).await.is_empty());
    assert_eq!(app.connections(), 0);
    greeted(&pair).await;
    assert_eq!(app.connections(), 1);
}
