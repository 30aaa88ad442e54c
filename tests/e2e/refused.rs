//! A certificate that the other sidecar refuses, over real sockets, where the refusal and the sent bytes race.

use pillion_tls::identity::issue::IssuedPem;

use crate::support::Scratch;
use crate::support::backend::Backend;
use crate::support::certs::{Authority, spiffe};
use crate::support::eventually;
use crate::support::sidecar::{Plan, Sidecar};
use crate::support::wire::Wire;

const REFUSED: &str = "the peer refused our certificate: unknown CA";
/// Enough tries to see a refusal that sometimes loses the race.
const TRIES: usize = 20;

/// A caller whose CA the application's sidecar does not trust. The caller trusts the CA of the application.
async fn stranger(application: &Sidecar, own: &IssuedPem, orders: &str) -> (Sidecar, Scratch) {
    let scratch = Scratch::new();
    let trusted = scratch.write("trusted.pem", &own.bundle);
    let tls = format!(
        "tls: {{ mode: mutual, identities: [\"{}\"], trust_bundle: \"{}\" }}",
        spiffe("orders"),
        trusted.display()
    );
    let plan =
        Plan::calling(application.inbound(), &format!("{tls}, retry: off, connect_timeout: 20s, {orders}"));
    (plan.identified(&Authority::new(), "web").start().await, scratch)
}

#[tokio::test]
async fn c3_the_refusal_is_reported_and_not_the_errors_that_follow_it() {
    let app = Backend::echo().await;
    let authority = Authority::new();
    let application = Plan::application(app.address, "").identified(&authority, "orders").start().await;
    let body = "x".repeat(1024 * 1024);
    for protocol in ["http1", "http2"] {
        let protocol = format!("protocol: {protocol}");
        let (caller, _trusted) = stranger(&application, &authority.issue("any"), &protocol).await;
        for nth in 0..TRIES {
            let request = match nth % 2 {
                0 => "GET / HTTP/1.1\r\nhost: orders\r\n\r\n".to_owned(),
                _ => {
                    format!("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: {}\r\n\r\n{body}", body.len())
                }
            };
            let mut client = Wire::connect(caller.outbound()).await;
            drop(client.try_send(&request).await); // the connection may be closed before the rest of a body
            let answer = client.answer().await;
            assert_eq!(answer.status(), 502, "{protocol} {nth}: {}", answer.text());
            assert!(answer.text().contains("tls_error"), "{protocol} {nth}: {}", answer.text());
            assert!(answer.text().contains(REFUSED), "{protocol} {nth}: {}", answer.text());
        }
        let scrape = caller.scrape().await;
        let handshakes = |outcome| scrape.sum("pillion_tls_handshakes_total", &[("outcome", outcome)]);
        assert_eq!((handshakes("failed"), handshakes("ok")), (20.0, 0.0), "{protocol}");
    }
    assert_eq!(application.page("/ready").await.0, 200);
    let log = application.errors();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("inbound TLS failed")).collect();
    assert_eq!(lines.len(), 1, "one cause, one line: {log}");
    for words in ["WARN", "127.0.0.1:", &spiffe("web"), "unknown CA"] {
        assert!(lines[0].contains(words), "{words}: {}", lines[0]);
    }
}

#[tokio::test]
async fn c3_a_refusal_is_reported_for_opaque_bytes_too() {
    let app = Backend::echo().await;
    let authority = Authority::new();
    let application =
        Plan::application(app.address, "protocol: tcp").identified(&authority, "orders").start().await;
    let (mut caller, _trusted) = stranger(&application, &authority.issue("any"), "protocol: tcp").await;
    for nth in 0..TRIES {
        let mut client = Wire::try_connect(caller.orders()).await;
        if let (Ok(client), 0) = (&mut client, nth % 2) {
            drop(client.try_send(b"\0\x01 not HTTP").await);
        }
        let line = caller.log_line().await;
        assert_eq!(line["reason"], "tls_error", "{nth}: {line}");
        assert!(line["detail"].as_str().is_some_and(|detail| detail.contains(REFUSED)), "{nth}: {line}");
    }
    eventually("every handshake counted as failed", async || {
        let scrape = caller.scrape().await;
        let failed = scrape.sum("pillion_tls_handshakes_total", &[("outcome", "failed")]);
        (failed == 20.0).then_some(())
    })
    .await;
}
