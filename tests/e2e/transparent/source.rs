//! The source address of the sidecar's connections to the application, and the application ports that can be reached.

use super::{at, dial, everywhere, get, hear, hosts, next, peer_at, say, serve};
use crate::support::certs::{Authority, spiffe};
use crate::support::namespace::{Family, Hosts, families, in_both};
use crate::support::tools::printed;

/// The sidecar's own address.
fn own(family: Family) -> &'static str {
    if family.pod.is_ipv4() { "127.0.0.6" } else { "::6" }
}

#[tokio::test]
async fn an_application_at_the_pods_address_alone_is_dialled_from_the_sidecars_own() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    pod.init(&[]);
    let mut servers = serve(
        &pod,
        &everywhere(&[("http:web", 8080), ("banner:greeter", 3306), ("echo:raw", 7000)], |f| f.pod),
    )
    .await;
    let _sidecar = pod.sidecar("").await;
    for family in families() {
        assert_eq!(get(world.enter(), at(family.pod, 8080), "x").await, (200, "web\n".to_owned()));
        assert_eq!(peer_at(&mut servers, at(family.pod, 8080)).await, own(family));
        assert_eq!(hear(world.enter(), at(family.pod, 3306)).await, "greeter\n", "{family:?}");
        assert_eq!(peer_at(&mut servers, at(family.pod, 3306)).await, own(family));
        assert_eq!(say(world.enter(), at(family.pod, 7000)).await, "raw:\0ping\n", "{family:?}");
        assert_eq!(peer_at(&mut servers, at(family.pod, 7000)).await, own(family));
    }
}

/// `inbound.app` may name the pod's address, for callers that use the sidecar's port.
#[tokio::test]
async fn an_application_at_a_configured_address_of_the_pod_is_dialled_from_the_sidecars_own() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    pod.init(&[]);
    let mut servers = serve(&pod, &everywhere(&[("http:web", 8080)], |family| family.pod)).await;
    let [v4, _] = families();
    let _sidecar = pod.sidecar(&format!("inbound: {{ app: \"{}\" }}", at(v4.pod, 8080))).await;
    assert_eq!(get(world.enter(), at(v4.pod, 15006), "x").await, (200, "web\n".to_owned()));
    assert_eq!(peer_at(&mut servers, at(v4.pod, 8080)).await, own(v4));
}

#[tokio::test]
async fn a_port_on_loopback_alone_stays_private_unless_the_file_says_otherwise() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    pod.init(&[]);
    let servers = [("http:private", 6000), ("echo:whisper", 6001)];
    let mut servers = serve(&pod, &everywhere(&servers, |family| family.loopback)).await;
    let sidecar = pod.sidecar("").await;
    let request = "GET / HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n";
    for family in families() {
        let result = dial(world.enter(), at(family.pod, 6000), &["--send", request]).await;
        // A slow client is refused without an answer.
        assert!(result.received.is_empty() || result.received.contains("connect_refused"), "{result:?}");
        let result = dial(world.enter(), at(family.pod, 6001), &["--send", "\\x00ping\\n"]).await;
        assert!(result.is_closed() && result.received.is_empty(), "{result:?}");
    }
    assert_eq!(get(pod.enter(), at(families()[0].loopback, 6000), "x").await.0, 200);
    let first = next(&mut servers, "accepted").await;
    assert_eq!(first["peer"], "127.0.0.1", "no connection before the pod's own");
    drop(sidecar);
    let _sidecar = pod.sidecar("inbound: { redirect_to: loopback }").await;
    for family in families() {
        assert_eq!(get(world.enter(), at(family.pod, 6000), "x").await, (200, "private\n".to_owned()));
        let peer = peer_at(&mut servers, at(family.loopback, 6000)).await;
        assert_eq!(peer, family.loopback.to_string(), "{family:?}");
        assert_eq!(say(world.enter(), at(family.pod, 6001)).await, "whisper:\0ping\n");
        let peer = peer_at(&mut servers, at(family.loopback, 6001)).await;
        assert_eq!(peer, family.loopback.to_string(), "{family:?}");
    }
}

/// `::6` is missing on `lo`, as if the rules had been installed by another program; they leave the pod's own traffic
/// alone.
#[tokio::test]
async fn where_the_own_address_is_missing_the_application_is_dialled_without() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    pod.redirect_incoming();
    let mut servers = serve(&pod, &everywhere(&[("http:web", 8080)], |family| family.pod)).await;
    let _sidecar = pod.sidecar("").await;
    for (family, peer) in families().into_iter().zip(["127.0.0.6", "fd00:97::1"]) {
        assert_eq!(get(world.enter(), at(family.pod, 8080), "x").await, (200, "web\n".to_owned()));
        assert_eq!(peer_at(&mut servers, at(family.pod, 8080)).await, peer);
    }
}

/// Both directions with mTLS between them; the callee gets the caller's identity.
#[tokio::test]
async fn two_pods_talk_and_neither_application_knows() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    let authority = Authority::new();
    pod.init(&[]);
    world.init(&[]);
    let mut apps = serve(
        &world,
        &everywhere(&[("http:orders", 8080), ("banner:database", 3306)], |family| family.world),
    )
    .await;
    let _theirs = world.identified_sidecar("", &authority, "orders").await;
    let ours = format!(
        "services:\n  orders:\n    addresses: [{}]\n    endpoints: [{}]\n    tls: {id}\n  database:\n    \
         addresses: [{}]\n    endpoints: [{}]\n    tls: {id}\n",
        in_both(|family| family.service, 80),
        in_both(|family| family.world, 8080),
        in_both(|family| family.service, 3306),
        in_both(|family| family.world, 3306),
        id = spiffe("orders"),
    );
    let _ours = pod.identified_sidecar(&ours, &authority, "web").await;
    for family in families() {
        assert_eq!(get(pod.enter(), at(family.service, 80), "x").await, (200, "orders\n".to_owned()));
        let request = next(&mut apps, "request").await;
        let head = request["head"].as_str().expect("text");
        assert!(head.contains(&format!("URI={}", spiffe("web"))), "over mTLS: {head}");
        assert_eq!(hear(pod.enter(), at(family.service, 3306)).await, "database\n", "{family:?}");
    }
}

/// The admin and metrics ports belong to the sidecar, and answer on both sides as if there were no rules.
#[tokio::test]
async fn admin_and_metrics_are_never_captured() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    for mode in ["redirect", "tproxy"] {
        pod.init(&["--mode", mode]);
        let _sidecar = pod.sidecar("inbound: { app: 127.0.0.1:1 }").await;
        for family in families() {
            for (host, ip) in [(&world, family.pod), (&pod, family.pod), (&pod, family.loopback)] {
                let mut ready = host.enter();
                ready.args(["curl", "--silent", "--show-error", "--fail", "--noproxy", "*"]);
                ready.arg(format!("http://{}/ready", at(ip, 15020)));
                assert_eq!(printed(ready).await.trim(), "ready", "{mode}, {family:?}");
            }
        }
        let mut admin = pod.enter();
        admin.args(["curl", "--silent", "--show-error", "--fail", "http://127.0.0.1:15000/clusters"]);
        printed(admin).await;
    }
}
