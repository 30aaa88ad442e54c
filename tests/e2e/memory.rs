//! `limits.max_memory` in a cgroup of the kernel: what it holds stays below the limit, and nothing is ended.

use tokio::net::TcpStream;

use crate::support::backend::Backend;
use crate::support::cgroup::Cgroup;
use crate::support::launched::Launched;
use crate::support::metrics::Scrape;
use crate::support::wire::Wire;
use crate::support::{eventually, soon};

const MIB: u64 = 1024 * 1024;
const CLIENTS: usize = 1500;
const OPEN: &str = "workers: 1\nadmin: { listen: 127.0.0.1:0 }\nmetrics: { listen: 127.0.0.1:0 }\nlimits: { header_timeout: 60s }\n";

/// Clients that have sent this, and wait. Those that are refused are left out.
async fn crowd(sidecar: &Launched, side: &str, head: &str) -> Vec<Wire> {
    let mut all = Vec::new();
    for _ in 0..CLIENTS {
        let connected = soon("a connection", TcpStream::connect(sidecar.address(side))).await;
        let Ok(mut client) = connected.map(Wire::new) else { continue };
        if soon("the sidecar reads, or refuses", client.try_send(head)).await.is_ok() {
            all.push(client);
        }
    }
    all
}

/// `memory` of 64 MiB, and clients whose legal heads of 60 KB are 90 MB.
async fn survives(side: &str, services: impl Fn(&Backend) -> String, is_whole: bool) {
    let Some(cgroup) = Cgroup::limited(64 * MIB) else { return };
    let app = Backend::stall().await;
    let sidecar = Launched::start(cgroup.prefix(), &(OPEN.to_owned() + &services(&app)), None).await;
    let end = if is_whole { "\r\n\r\n" } else { "" };
    let fields: String = (0..15).map(|nth| format!("x-{nth}: {}\r\n", "a".repeat(4000))).collect();
    let head = format!("GET / HTTP/1.1\r\nhost: orders\r\n{}{end}", fields.trim_end());
    let clients = crowd(&sidecar, side, &head).await;
    let scrape = async || Scrape::of(sidecar.address("metrics")).await;
    let metrics = eventually("most of them are refused", async || {
        let metrics = scrape().await;
        (metrics.sum("pillion_requests_total", &[("reason", "overloaded")]) >= 500.0).then_some(metrics)
    })
    .await;
    let held = cgroup.held();
    println!("{side}, whole heads: {is_whole}: the cgroup holds {:.1} MB", held as f64 / 1e6);
    assert_eq!(cgroup.kills(), 0, "the kernel has ended the sidecar");
    assert!(held <= 64 * MIB / 10 * 9, "{held} bytes");
    assert!(metrics.sum("pillion_memory_limit_bytes", &[]) as u64 <= 64 * MIB / 10 * 9);
    drop(clients);
    eventually("the memory of the crowd is given back", async || {
        let metrics = scrape().await;
        (metrics.sum("pillion_requests_active", &[]) == 0.0 && cgroup.held() < 32 * MIB).then_some(())
    })
    .await;
}

fn outbound(app: &Backend) -> String {
    format!(
        "inbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\nservices:\n  orders:\n    endpoints: [\"{}\"]\n    timeout: off\n    \
         circuit_breaker: {{ max_connections: 5000, max_pending_requests: 5000, max_requests: 5000 }}\n",
        app.address
    )
}

fn inbound(app: &Backend) -> String {
    format!("outbound: off\ninbound: {{ listen: 127.0.0.1:0, app: \"{}\" }}\n", app.address)
}

#[tokio::test]
async fn c9_whole_heads_of_the_application_do_not_exceed_the_memory_of_the_cgroup() {
    survives("outbound", outbound, true).await;
}

#[tokio::test]
async fn c9_heads_that_do_not_end_do_not_exceed_the_memory_of_the_cgroup() {
    survives("outbound", outbound, false).await;
    survives("inbound", inbound, false).await;
}
