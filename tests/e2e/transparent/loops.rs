//! Wrong rules lead to a refusal with the reason, and to no loop. An address that belongs to no host is refused too.

use std::net::SocketAddr;
use std::process::Command;

use super::{at, dial, everywhere, get, hosts, serve};
use crate::support::namespace::{Family, Hosts, Namespace, families, in_both};

/// A dozen clients, each with one or two legs that come back, all counted on both sides.
const FEW: f64 = 80.0;

const REQUEST: &str = "GET / HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n";
const WHY: &str = "the sidecar's own connection was redirected to it";

/// The connection is refused, with the reason where HTTP is spoken. A slow client is closed without an answer: its
/// server
/// was dialled already, in case it speaks first, and there is no such server.
async fn is_refused(host: Command, to: SocketAddr, said: &str) {
    let result = dial(host, to, &["--send", said]).await;
    let has_reason = said == REQUEST && result.received.starts_with("HTTP/1.1 508 ");
    assert!(result.is_closed() && (result.received.is_empty() || has_reason), "{to}: {result:?}");
    assert!(!has_reason || result.received.contains("loop_detected"), "{result:?}");
}

async fn made_few_connections(host: &Namespace) {
    let made = host.metric("pillion_connections_total", &[]).await;
    assert!(made < FEW, "{made} connections");
}

/// Dials an address that belongs to no host, and one of a service whose endpoint is that address itself: the guard for
/// unknown destinations does not see the second.
#[tokio::test]
async fn without_an_exception_for_the_sidecar_nothing_goes_out() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    pod.redirect_everything();
    let _servers =
        serve(&world, &everywhere(&[("http:web", 8080), ("echo:raw", 7000)], |family| family.world)).await;
    let yaml = format!(
        "inbound: off\nservices:\n  web: {{ addresses: [{at}], endpoints: [{at}] }}\n  raw: {{ addresses: [{raw}], \
         endpoints: [{raw}], protocol: tcp }}\n",
        at = in_both(|family| family.world, 8080),
        raw = in_both(|family| family.world, 7000),
    );
    let sidecar = pod.sidecar(&yaml).await;
    for family in families() {
        for port in [8080, 8081] {
            is_refused(pod.enter(), at(family.world, port), REQUEST).await;
        }
        for port in [7000, 7001] {
            is_refused(pod.enter(), at(family.world, port), "\\x00ping\\n").await;
            is_refused(pod.enter(), at(family.world, port), "").await;
        }
    }
    sidecar.has_logged(WHY).await;
    made_few_connections(&pod).await;
}

/// The sidecar's connections to its own pod look like the pod calling itself.
#[tokio::test]
async fn without_an_exception_for_its_own_address_nothing_comes_in() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    pod.redirect_incoming();
    pod.redirect_own_legs();
    refuses_to_come_in(&pod, &world, &families()).await;
}

/// The rules are right, but the sidecar's own address, on which they rely, was removed.
#[tokio::test]
async fn without_the_own_address_nothing_comes_in() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    pod.init(&[]);
    pod.ip(&["address", "delete", "::6/128", "dev", "lo"]);
    let [_, v6] = families();
    refuses_to_come_in(&pod, &world, &[v6]).await;
}

async fn refuses_to_come_in(pod: &Namespace, world: &Namespace, in_: &[Family]) {
    let _servers =
        serve(pod, &everywhere(&[("http:web", 8080), ("echo:raw", 7000)], |family| family.pod)).await;
    let sidecar = pod.sidecar("outbound: off").await;
    for family in in_ {
        is_refused(world.enter(), at(family.pod, 8080), REQUEST).await;
        is_refused(world.enter(), at(family.pod, 7000), "\\x00ping\\n").await;
        is_refused(world.enter(), at(family.pod, 7000), "").await;
    }
    sidecar.has_logged(WHY).await;
    made_few_connections(pod).await;
}

#[tokio::test]
async fn a_virtual_address_that_no_service_has_is_refused_at_once() {
    let Some(Hosts { pod, world: _cable }) = hosts() else { return };
    pod.init(&[]);
    let _sidecar = pod.sidecar("").await;
    for ip in ["240.240.7.7", "fd9f:240::7"].map(|ip| ip.parse().expect("an address")) {
        let (status, body) = get(pod.enter(), at(ip, 80), "gone.example").await;
        assert!(status == 404 && body.contains("no_route"), "{status}: {body}");
        for words in [&[][..], &["--send", "\\x00ping\\n"]] {
            let result = dial(pod.enter(), at(ip, 3306), words).await;
            assert!(result.received.is_empty() && result.is_closed(), "{result:?}");
        }
    }
    let passthrough = [("direction", "outbound"), ("service", "passthrough")];
    pod.counted(0, "pillion_connections_total", &passthrough).await;
}
