//! Short connections, one after the other: when they have ended, they hold no memory and no descriptor.

use super::{everywhere, hosts, serve};
use crate::support::certs::{Authority, spiffe};
use crate::support::eventually;
use crate::support::launched::Launched;
use crate::support::namespace::{Hosts, Namespace, families, in_both};
use crate::support::program::Program;
use crate::support::sidecar::{open_descriptors, own_kib};
use crate::support::tools::printed;

/// A multiple of the number that `short.py` has open at once, over four kinds of connections.
const WARM_UP: usize = 1024;
const COUNT: usize = 10_240;
/// The growth of memory that each of the two sidecars may have.
const MOST_GROWTH_KIB: u64 = 4 * 1024;

/// Half of the connections are HTTP and half are opaque. All are redirected on both sides, over both versions of IP.
async fn come_and_go(pod: &Namespace, count: usize) {
    for _quarter in 0..4 {
        for (kind, port) in [("http", 80), ("raw", 7000)] {
            for family in families() {
                let (each, ip, port) =
                    ((count / 16).to_string(), family.service.to_string(), port.to_string());
                let short = Program::script(pod.enter(), "short.py", &[&each, kind, &ip, &port]);
                assert_eq!(printed(short).await.trim(), each, "{kind} at {ip}");
            }
        }
    }
}

/// The number of open descriptors: only listeners and those of the runtime when all connections have ended.
async fn settled(host: &Namespace, sidecar: &Launched) -> usize {
    eventually("no connection is open", async || {
        let active = host.metric("pillion_connections_active", &[]).await;
        (active == 0.0).then_some(())
    })
    .await;
    open_descriptors(sidecar.pid())
}

#[tokio::test]
async fn ten_thousand_short_connections_leave_nothing_behind() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    let authority = Authority::new();
    pod.init(&[]);
    world.init(&[]);
    let mut servers = everywhere(&[("http:web", 8080), ("echo:raw", 7000)], |family| family.world);
    servers.push("--quiet".to_owned());
    let _servers = serve(&world, &servers).await;
    let theirs = world.identified_sidecar("", &authority, "orders").await;
    let service = |name: &str, port: u16, to: u16| {
        format!(
            "  {name}:\n    addresses: [{}]\n    endpoints: [{}]\n    tls: \"{}\"\n    \
             connection: {{ idle_timeout: 1s }}\n",
            in_both(|family| family.service, port),
            in_both(|family| family.world, to),
            spiffe("orders"),
        )
    };
    let yaml = format!("services:\n{}{}", service("web", 80, 8080), service("raw", 7000, 7000));
    let ours = pod.identified_sidecar(&yaml, &authority, "web").await;
    let both = [(&pod, &ours), (&world, &theirs)];

    come_and_go(&pod, WARM_UP).await;
    let mut before = Vec::new();
    for (host, sidecar) in both {
        before.push((settled(host, sidecar).await, own_kib(sidecar.pid())));
    }
    come_and_go(&pod, COUNT).await;
    for ((host, sidecar), (descriptors, rss)) in both.into_iter().zip(before) {
        settled(host, sidecar).await;
        eventually("as many descriptors as before", async || {
            (open_descriptors(sidecar.pid()) <= descriptors).then_some(())
        })
        .await;
        let now = own_kib(sidecar.pid());
        println!(
            "after {COUNT} connections more: {descriptors} descriptors, memory {rss} KiB before, {now} KiB now"
        );
        assert!(now <= rss + MOST_GROWTH_KIB, "memory {rss} KiB before, {now} KiB now");
    }
}
