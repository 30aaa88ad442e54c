//! The keys of the schema whose effect only the kernel shows, so that the network in memory cannot test them.
//!
//! The other keys are in `proxy/testing/walk.rs`, which has an entry for every key.

use std::net::SocketAddr;

use crate::support::backend::Backend;
use crate::support::eventually;
use crate::support::sidecar::Plan;
use crate::support::wire::Wire;

const GET: &str = "GET / HTTP/1.1\r\nhost: orders\r\n\r\n";
/// The kernel's number for a keepalive timer (proc(5)).
const KEEPALIVE: &str = "02";

#[tokio::test]
async fn workers_are_threads() {
    for (wanted, expected) in [("1", 1), ("3", 3)] {
        let sidecar =
            Plan::new(&format!("workers: {wanted}\ninbound: off\noutbound: {{ listen: 127.0.0.1:0 }}"));
        let sidecar = sidecar.start().await;
        eventually("that many threads", async || (workers(sidecar.pid()) == expected).then_some(())).await;
    }
}

/// The number of threads of the data path.
fn workers(pid: u32) -> usize {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process at work");
    let name = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("comm")).ok();
    threads.filter_map(|thread| name(thread.ok()?)).filter(|name| name.starts_with("worker-")).count()
}

#[tokio::test]
async fn keepalive_is_the_kernels_timer_on_connections_to_endpoints() {
    for (keepalive, expected) in [("60s", true), ("off", false)] {
        let backend = Backend::echo().await;
        let sidecar = Plan::calling(backend.address, &format!("connection: {{ keepalive: {keepalive} }}"));
        let sidecar = sidecar.start().await;
        assert_eq!(Wire::connect(sidecar.outbound()).await.ask(GET).await.status(), 200);
        // While bytes wait for their acknowledgement, the kernel shows another timer.
        eventually("the timer of an idle connection", async || {
            let timer = timer_towards(backend.address)?;
            ((timer == KEEPALIVE) == expected && timer != "01").then_some(())
        })
        .await;
    }
}

/// The number of the timer that runs on the connection to `address` (proc(5)).
fn timer_towards(address: SocketAddr) -> Option<String> {
    const ESTABLISHED: &str = "01";
    let table = std::fs::read_to_string("/proc/net/tcp").expect("a table of connections");
    let port = format!(":{:04X}", address.port());
    table.lines().find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let is_it = columns.get(2)?.ends_with(&port) && *columns.get(3)? == ESTABLISHED;
        is_it.then(|| columns.get(5)?.split(':').next().map(str::to_owned))?
    })
}
