//! Answers that come before the whole request was sent, on real sockets: the kernel sends resets, and clients read only
//! after they have sent everything.

use std::net::SocketAddr;

use crate::support::backend::Backend;
use crate::support::sidecar::{Pair, Plan};
use crate::support::soon;
use crate::support::wire::Wire;

const UNAUTHORIZED: &str = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 3\r\n\r\nwho";
const SIZE: usize = 8 * 1024 * 1024;

/// What an upstream does with the rest of an upload that it has refused.
#[derive(Debug, Clone, Copy)]
enum Then {
    /// Closes at once, with unread bytes: the kernel sends a reset.
    Closes,
    /// Ends its own direction, reads for a while, and closes.
    Drains,
}

async fn refusing(then: Then) -> Backend {
    Backend::serving(move |mut wire: Wire, _, _| async move {
        if wire.head().await.is_none() {
            return;
        }
        drop(wire.try_send(UNAUTHORIZED).await);
        if matches!(then, Then::Drains) && wire.half_close_if_open().await.is_ok() {
            drop(wire.exactly(SIZE / 4).await);
        }
    })
    .await
}

/// Sends the whole request, as Python's `http.client` does, and then reads.
async fn uploads(to: SocketAddr, expect: &str) -> String {
    let mut wire = Wire::connect(to).await;
    let head = format!("POST / HTTP/1.1\r\nhost: orders\r\n{expect}content-length: {SIZE}\r\n\r\n");
    wire.send(head).await;
    if let Err(error) = soon("an upload", wire.try_send(vec![b'x'; SIZE])).await {
        return format!("the upload was cut: {error}");
    }
    let mut head = soon("an answer", wire.head()).await.unwrap_or_default();
    while head.starts_with("HTTP/1.1 100") {
        head = soon("an answer", wire.head()).await.unwrap_or_default();
    }
    let (body, _) = wire.exactly(3).await;
    format!("{} {}", head.lines().next().unwrap_or_default(), String::from_utf8_lossy(&body))
}

#[tokio::test]
async fn b4_an_early_answer_arrives_whatever_the_upstream_does_with_the_rest() {
    for then in [Then::Closes, Then::Drains] {
        let app = refusing(then).await;
        let (alone, pair) =
            (Plan::calling(app.address, "").start().await, Pair::start(app.address, "", "").await);
        let over_http1 = Pair::start(app.address, "protocol: http1", "").await;
        for (way, to) in [
            ("one sidecar", alone.orders()),
            ("a pair", pair.caller.orders()),
            ("a pair over HTTP/1", over_http1.caller.orders()),
        ] {
            for expect in ["", "expect: 100-continue\r\n"] {
                for round in 0..20 {
                    let result = uploads(to, expect).await;
                    assert_eq!(
                        result, "HTTP/1.1 401 Unauthorized who",
                        "{then:?}, {way}, {expect:?}, {round}"
                    );
                }
            }
        }
    }
}
