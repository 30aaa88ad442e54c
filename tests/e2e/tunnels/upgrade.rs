//! Upgrades to other protocols: either side may speak first after the 101, and no byte is lost or comes early.

use crate::support::backend::Backend;
use crate::support::sidecar::Pair;
use crate::support::soon;
use crate::support::wire::Wire;

const ASK: &str = "GET /other HTTP/1.1\r\nhost: orders\r\nconnection: upgrade\r\nupgrade: other/1\r\n\r\n";

/// A server that sends its first bytes together with its 101, and then echoes.
async fn switches() -> Backend {
    Backend::serving(async |mut wire, _, seen| {
        let Some(request) = wire.message().await else { return };
        seen.request(request);
        let accepted =
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: other/1\r\n\r\nhello:";
        wire.send(accepted).await;
        loop {
            let piece = wire.piece(usize::MAX).await;
            if piece.is_empty() || wire.try_send(piece).await.is_err() {
                break;
            }
        }
    })
    .await
}

#[tokio::test]
async fn another_protocol_is_spoken_after_the_101() {
    let app = switches().await;
    let pair = Pair::start(app.address, "", "").await;
    let mut wire = Wire::connect(pair.caller.orders()).await;
    wire.send(ASK).await;
    let head = soon("the 101", wire.head()).await.expect("an answer").to_lowercase();
    assert!(head.starts_with("http/1.1 101 ") && head.contains("upgrade: other/1\r\n"), "{head}");
    assert!(app.last().head.to_lowercase().contains("\r\nupgrade: other/1\r\n"), "{}", app.last().head);
    let (heard, _) = soon("what came with the 101", wire.exactly(6)).await;
    assert_eq!(heard, b"hello:");
    let said: Vec<u8> = (0..=255_u8).cycle().take(100_000).collect();
    wire.send(&said).await;
    wire.half_close().await;
    assert!(soon("the echo to its end", wire.rest()).await == said, "every byte, and the end after them");
}

/// A client may send before the answer. Its bytes count if the server switches.
#[tokio::test]
async fn bytes_that_a_client_sends_before_the_101_are_not_lost() {
    let app = switches().await;
    let pair = Pair::start(app.address, "", "").await;
    let mut wire = Wire::connect(pair.caller.orders()).await;
    wire.send([ASK, "in haste"].concat()).await;
    soon("the 101", wire.head()).await.expect("an answer");
    let (heard, _) = soon("the echo", wire.exactly(14)).await;
    assert_eq!(String::from_utf8_lossy(&heard), "hello:in haste");
}

/// If the server does not switch, the application must not read these bytes as a request.
#[tokio::test]
async fn bytes_that_a_client_sends_before_a_refusal_are_not_read_as_a_request() {
    let app = Backend::serving(async |mut wire, _, seen| {
        while let Some(request) = wire.message().await {
            seen.request(request);
            wire.send("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await;
        }
    })
    .await;
    let pair = Pair::start(app.address, "", "").await;
    let mut wire = Wire::connect(pair.caller.orders()).await;
    // Frames of another protocol, which are no line of HTTP.
    wire.send([ASK.as_bytes(), b"\x81\x85\0\0\0\0hello"].concat()).await;
    let answer = wire.answer().await;
    assert_eq!((answer.status(), answer.text().as_str()), (403, "no"));
    drop(wire.half_close_if_open().await);
    soon("the end", wire.rest()).await;
    let paths: Vec<_> = app.requests().iter().map(|request| request.head[..10].to_owned()).collect();
    assert_eq!(paths, ["GET /other"]);
}
