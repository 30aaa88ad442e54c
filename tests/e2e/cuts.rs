//! Connections that break off in the middle of a message, on real sockets. The part that came before is passed on, and
//! the other side can tell that the rest is missing.

use std::net::SocketAddr;

use crate::support::backend::Backend;
use crate::support::sidecar::{Pair, Plan, Sidecar};
use crate::support::soon;
use crate::support::wire::Wire;

/// A server that answers every request with `said` and closes the connection.
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

/// Sends a request. The answer must be cut after `part` bytes.
async fn posts(to: SocketAddr, part: usize) -> Result<(), String> {
    let mut wire = Wire::connect(to).await;
    wire.send("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 2\r\n\r\nhi").await;
    let answer = soon("an answer", wire.message()).await.ok_or("no answer")?;
    match (answer.status(), answer.is_whole, answer.body.len()) {
        (200, false, length) if length == part => Ok(()),
        result => Err(format!("{result:?}")),
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

/// Content without framing: only a reset shows that a part of it is missing.
#[derive(Debug, Clone, Copy)]
enum Unframed {
    Opaque,
    Http10,
    Tunnel,
}

/// How a sidecar ends while bytes are being carried.
#[derive(Debug, Clone, Copy)]
enum End {
    DrainTimeout,
    SecondSignal,
    Killed,
}

impl Unframed {
    /// A server that sends the first half of its content and then nothing.
    async fn half(self) -> Backend {
        Backend::serving(move |mut wire: Wire, _, _| async move {
            if !matches!(self, Self::Opaque) {
                drop(wire.head().await);
            }
            let head = match self {
                Self::Opaque => "",
                Self::Http10 => "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\n",
                Self::Tunnel => {
                    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: words\r\n\r\n"
                }
            };
            drop(wire.try_send(format!("{head}half")).await);
            std::future::pending::<()>().await;
        })
        .await
    }

    /// A client that has received the first half.
    async fn client(self, to: SocketAddr) -> Wire {
        let mut wire = Wire::connect(to).await;
        match self {
            Self::Opaque => {}
            Self::Http10 => wire.send("GET / HTTP/1.0\r\nhost: orders\r\n\r\n").await,
            Self::Tunnel => {
                wire.send("GET / HTTP/1.1\r\nhost: orders\r\nconnection: upgrade\r\nupgrade: words\r\n\r\n")
                    .await;
            }
        }
        if !matches!(self, Self::Opaque) {
            soon("an answer", wire.head()).await.expect("an answer");
        }
        assert_eq!(soon("the half", wire.exactly(4)).await.0, b"half");
        wire
    }
}

impl End {
    fn befall(self, sidecar: &Sidecar) {
        match self {
            Self::DrainTimeout => sidecar.signal("TERM"),
            Self::SecondSignal => {
                sidecar.signal("TERM");
                sidecar.signal("INT"); // two signals of one kind may be delivered as one
            }
            Self::Killed => sidecar.signal("KILL"),
        }
    }

    const fn drain(self) -> &'static str {
        match self {
            Self::DrainTimeout => "drain: { delay: 0s, timeout: 100ms }",
            Self::SecondSignal | Self::Killed => "drain: { delay: 0s, timeout: 60s }",
        }
    }
}

#[tokio::test]
async fn b7_connections_that_the_end_of_the_process_cuts_are_reset() {
    for unframed in [Unframed::Opaque, Unframed::Http10, Unframed::Tunnel] {
        for end in [End::DrainTimeout, End::SecondSignal, End::Killed] {
            let app = unframed.half().await;
            let orders = if matches!(unframed, Unframed::Opaque) { "protocol: tcp" } else { "" };
            for nearer in [true, false] {
                let pair = Pair::ending(app.address, orders, end.drain()).await;
                let mut client = unframed.client(pair.caller.orders()).await;
                end.befall(if nearer { &pair.caller } else { &pair.application });
                let result = format!("{unframed:?}, {end:?}, nearer to the client: {nearer}");
                assert_eq!(soon(&result, client.ends()).await, (Vec::new(), true), "{result}");
            }
        }
    }
}
