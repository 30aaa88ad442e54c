//! Rules that are wrong end in a refusal that says so, and in no loop; so does an address that is nobody's.

use super::{at, dial, everywhere, get, hosts, serve};
use crate::support::namespace::{Hosts, Namespace, families, in_both};

/// A dozen clients, each with a leg or two that come back, all counted on both sides.
const FEW: f64 = 80.0;

async fn made_few_connections(host: &Namespace) {
    let made = host.metric("pillion_connections_total", &[]).await;
    assert!(made < FEW, "{made} connections");
}

/// `unreachable`: so early that the client's connect(2) told it.
fn is_closed(end: &str) -> bool {
    ["eof", "reset", "unreachable"].contains(&end)
}

/// To nobody's address, and to one that is a service's with itself as the endpoint, which no guard for what is
/// unknown would see.
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
    let _sidecar = pod.sidecar(&yaml).await;
    for family in families() {
        for port in [8080, 8081] {
            let (status, body) = get(pod.enter_as_sidecar(), at(family.world, port), "x").await;
            assert_eq!(status, 508, "{port}, {family:?}: {body}");
            assert!(body.contains("loop_detected"), "{body}");
        }
        for port in [7000, 7001] {
            let told = dial(pod.enter(), at(family.world, port), &["--send", "\\x00ping\\n"]).await;
            assert!(told.received.is_empty() && is_closed(&told.end), "{port}: {told:?}");
            let silent = dial(pod.enter(), at(family.world, port), &[]).await;
            assert!(silent.received.is_empty() && is_closed(&silent.end), "{port}: {silent:?}");
        }
    }
    made_few_connections(&pod).await;
}

/// What the sidecar sends to its own pod is taken for the pod calling itself.
#[tokio::test]
async fn without_an_exception_for_its_own_address_nothing_comes_in() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    pod.redirect_incoming();
    pod.redirect_own_legs();
    refuses_to_come_in(&pod, &world, &families()).await;
}

/// The rules are right, and somebody has taken the address away that they go by.
#[tokio::test]
async fn without_the_own_address_nothing_comes_in() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    pod.init(&[]);
    pod.ip(&["address", "delete", "::6/128", "dev", "lo"]);
    let [_, v6] = families();
    refuses_to_come_in(&pod, &world, &[v6]).await;
}

async fn refuses_to_come_in(pod: &Namespace, world: &Namespace, in_: &[crate::support::namespace::Family]) {
    let _servers =
        serve(pod, &everywhere(&[("http:web", 8080), ("echo:raw", 7000)], |family| family.pod)).await;
    let _sidecar = pod.sidecar("outbound: off").await;
    for family in in_ {
        let (status, body) = get(world.enter(), at(family.pod, 8080), "x").await;
        assert_eq!(status, 508, "{family:?}: {body}");
        let told = dial(world.enter(), at(family.pod, 7000), &["--send", "\\x00ping\\n"]).await;
        assert!(told.received.is_empty() && is_closed(&told.end), "{told:?}");
        let silent = dial(world.enter(), at(family.pod, 7000), &[]).await;
        assert!(silent.received.is_empty() && is_closed(&silent.end), "{silent:?}");
    }
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
            let told = dial(pod.enter(), at(ip, 3306), words).await;
            assert!(told.received.is_empty() && is_closed(&told.end), "{told:?}");
        }
    }
    let nobodys = [("direction", "outbound"), ("service", "passthrough")];
    pod.counted(0, "pillion_connections_total", &nobodys).await;
}
