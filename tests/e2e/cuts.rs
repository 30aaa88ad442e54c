//! Connections that break off in the middle, on real sockets: what came before is passed on, and no cut looks whole.

use std::net::SocketAddr;

use crate::support::backend::Backend;
use crate::support::sidecar::{Pair, Plan};
use crate::support::soon;
use crate::support::wire::Wire;

/// Says `said` to every request, and closes.
async fn breaking(said: String) -> Backend {
    Backend::serving(move |mut wire: Wire, _, seen| {
        let said = said.clone();
        async move {
            let Some(request) = wire.message().await else { return };
            seen.request(request);
            drop(wire.try_send(said).await);
        }
    })
    .await
}

/// The status of the answer, and whether its part came that must come.
async fn posts(to: SocketAddr, part: usize) -> Result<(), String> {
    let mut wire = Wire::connect(to).await;
    wire.send("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 2\r\n\r\nhi").await;
    let answer = soon("an answer", wire.message()).await.ok_or("no answer")?;
    match (answer.status(), answer.is_whole, answer.body.len()) {
        (200, false, length) if length == part => Ok(()),
        told => Err(format!("{told:?}")),
    }
}

#[tokio::test]
async fn b16_a_part_of_an_answer_is_passed_on_and_then_cut() {
    for part in [10, 100_000] {
        let body = "x".repeat(part);
        for said in [
            format!("HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n{body}"),
            format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{part:x}\r\n{body}\r\n"),
        ] {
            let app = breaking(said).await;
            let alone = Plan::calling(app.address, "").start().await;
            let pair = Pair::start(app.address, "protocol: http1", "").await;
            for (way, to) in [("one sidecar", alone.orders()), ("a pair", pair.caller.orders())] {
                for round in 0..30 {
                    assert_eq!(posts(to, part).await, Ok(()), "{way}, {part}, {round}");
                }
            }
            assert_eq!(app.requests().len(), 60, "each request was sent once");
        }
    }
}
