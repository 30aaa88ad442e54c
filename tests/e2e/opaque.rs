//! Protocols other than HTTP: real servers and their own clients, whose output must be the same as without sidecars.
//!
//! No protocol is declared unless a test says so. The caller connects to the service's own port of `orders`.

mod greeting;
mod mariadb;
mod permissive;
mod postgres;
mod redis;
mod strict;
mod tls;

use std::net::SocketAddr;

use crate::support::eventually;
use crate::support::metrics::Scrape;
use crate::support::sidecar::{Pair, Plan};

/// How the two sidecars are configured for the connection between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Undeclared,
    Declared,
    /// No protocol is declared, and neither sidecar has an identity.
    Plaintext,
}

impl Way {
    const ALL: [Self; 3] = [Self::Undeclared, Self::Declared, Self::Plaintext];

    async fn pair(self, app: SocketAddr) -> Pair {
        match self {
            Self::Undeclared => Pair::start(app, "", "").await,
            Self::Declared => Pair::start(app, "protocol: tcp", "protocol: tcp").await,
            Self::Plaintext => {
                let application = Plan::application(app, "").start().await;
                let caller = Plan::calling(application.inbound(), "").start().await;
                Pair { caller, application }
            }
        }
    }

    /// The value of the label `tls` for a connection between the sidecars.
    const fn tls(self) -> &'static str {
        match self {
            Self::Undeclared | Self::Declared => "mtls",
            Self::Plaintext => "none",
        }
    }

    /// Both sidecars counted the same TCP connections, no others, and the same number of bytes in each direction.
    async fn is_counted_by(self, pair: &Pair) {
        eventually("the same bytes on both sides", async || {
            let (caller, application) = (pair.caller.scrape().await, pair.application.scrape().await);
            let (ours, theirs) =
                (bytes(&caller, "outbound", "orders"), bytes(&application, "inbound", "app"));
            (ours == theirs && ours.iter().all(|flow| *flow > 0.0)).then_some(())
        })
        .await;
        let (caller, application) = (pair.caller.scrape().await, pair.application.scrape().await);
        // Each connection is counted as accepted and as opened. The one between the sidecars has the label of this way.
        let of = |scrape, direction, service, tls| {
            let labels = [("direction", direction), ("service", service), ("tls", tls)];
            connections(scrape, &[&labels[..], &[("protocol", "tcp"), ("outcome", "ok")]].concat())
        };
        let arrived = of(&application, "inbound", "app", self.tls());
        let others = [
            of(&application, "inbound", "app", "none"),
            of(&caller, "outbound", "orders", self.tls()),
            of(&caller, "outbound", "orders", "none"),
        ];
        assert!(arrived > 0.0, "{self:?}\n{}", application.text);
        assert_eq!(others, [arrived; 3], "{self:?}\n{}\n{}", caller.text, application.text);
        let http = |scrape| ["http1", "http2"].map(|protocol| connections(scrape, &[("protocol", protocol)]));
        assert_eq!((http(&caller), http(&application)), ([0.0; 2], [0.0; 2]), "{self:?}");

        let arrived = if self == Self::Plaintext { arrived / 2.0 } else { arrived };
        let detected = |verdict| {
            caller.sum("pillion_detections_total", &[("direction", "outbound"), ("verdict", verdict)])
        };
        let undeclared = if self == Self::Declared { 0.0 } else { arrived };
        assert_eq!(detected("opaque"), undeclared, "{self:?}\n{}", caller.text);
        assert_eq!(detected("http1") + detected("http2"), 0.0, "{self:?}\n{}", caller.text);
    }
}

fn connections(scrape: &Scrape, labels: &[(&str, &str)]) -> f64 {
    scrape.sum("pillion_connections_total", labels)
}

/// The bytes that were received and sent.
fn bytes(scrape: &Scrape, direction: &str, service: &str) -> [f64; 2] {
    let of = |flow| [("direction", direction), ("service", service), ("flow", flow)];
    ["received", "sent"].map(|flow| scrape.sum("pillion_bytes_total", &of(flow)))
}
