//! With TPROXY the application sees its clients' own addresses.

use super::{at, everywhere, get, hear, hosts, next, peer_at, say, serve};
use crate::support::certs::{Authority, spiffe};
use crate::support::launched::Launched;
use crate::support::namespace::{Hosts, families, in_both};

/// A second address of `world`, in both versions of IP.
const SECOND: [&str; 2] = ["10.97.0.3", "fd00:97::3"];

#[tokio::test]
async fn the_application_sees_the_clients_address() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    pod.init(&["--mode", "tproxy"]);
    let servers = [("http:web", 8080), ("banner:greeter", 3306), ("echo:raw", 7000)];
    let mut servers = serve(&pod, &everywhere(&servers, |family| family.pod)).await;
    let _sidecar = pod.sidecar_for_tproxy("").await;
    for family in families() {
        let peer = family.world.to_string();
        assert_eq!(get(world.enter(), at(family.pod, 8080), "x").await, (200, "web\n".to_owned()));
        assert_eq!(peer_at(&mut servers, at(family.pod, 8080)).await, peer);
        assert_eq!(hear(world.enter(), at(family.pod, 3306)).await, "greeter\n", "{family:?}");
        assert_eq!(peer_at(&mut servers, at(family.pod, 3306)).await, peer);
        assert_eq!(say(world.enter(), at(family.pod, 7000)).await, "raw:\0ping\n", "{family:?}");
        assert_eq!(peer_at(&mut servers, at(family.pod, 7000)).await, peer);
    }
}

/// A kept connection belongs to its client: the request of another client opens a connection of its own.
#[tokio::test]
async fn no_client_is_served_over_anothers_connection() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    pod.init(&["--mode", "tproxy"]);
    let mut servers = serve(&pod, &everywhere(&[("http:web", 8080)], |family| family.pod)).await;
    let _sidecar = pod.sidecar_for_tproxy("").await;
    for (family, second) in families().into_iter().zip(SECOND) {
        let prefix = if family.pod.is_ipv4() { "24" } else { "64" };
        world.ip(&["address", "add", &format!("{second}/{prefix}"), "dev", "cable", "nodad"]);
        let first = family.world.to_string();
        for client in [&*first, second, &*first, second] {
            let mut get = world.enter();
            get.args(["curl", "--silent", "--show-error", "--fail", "--interface", client]);
            get.arg(format!("http://{}/", at(family.pod, 8080)));
            assert_eq!(crate::support::tools::printed(get).await, "web\n");
        }
        let mut peers = Vec::new();
        let mut requests = 0;
        while requests < 4 {
            let event = servers.event().await;
            match event["event"].as_str() {
                Some("accepted") => peers.push(event["peer"].as_str().expect("text").to_owned()),
                _ => requests += 1,
            }
        }
        assert!(
            peers.len() >= 2 && peers.contains(&first) && peers.contains(&second.to_owned()),
            "{peers:?}"
        );
    }
}

/// mTLS ends in the sidecar, and the client's address is kept nevertheless.
#[tokio::test]
async fn the_application_behind_two_sidecars_sees_the_clients_address() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    let authority = Authority::new();
    pod.init(&["--mode", "tproxy"]);
    world.init(&[]);
    let servers = [("http:orders", 8080), ("banner:database", 3306)];
    let mut servers = serve(&pod, &everywhere(&servers, |family| family.pod)).await;
    let _theirs = pod.identified_sidecar_for_tproxy("", &authority, "orders").await;
    let ours = format!(
        "services:\n  orders: {{ addresses: [{}], endpoints: [{}], tls: \"{id}\" }}\n  \
         database: {{ addresses: [{}], endpoints: [{}], tls: \"{id}\" }}\n",
        in_both(|family| family.service, 80),
        in_both(|family| family.pod, 8080),
        in_both(|family| family.service, 3306),
        in_both(|family| family.pod, 3306),
        id = spiffe("orders"),
    );
    for gateway in families() {
        world.ip(&["route", "add", "default", "via", &gateway.pod.to_string()]);
    }
    let _ours = world.identified_sidecar(&ours, &authority, "web").await;
    let are_ours = families().map(|family| family.world.to_string());
    for family in families() {
        assert_eq!(get(world.enter(), at(family.service, 80), "x").await, (200, "orders\n".to_owned()));
        assert_eq!(hear(world.enter(), at(family.service, 3306)).await, "database\n", "{family:?}");
    }
    // The services have an endpoint in each version of IP, and either may be chosen.
    for _ in 0..4 {
        let peer = next(&mut servers, "accepted").await["peer"].as_str().expect("text").to_owned();
        assert!(are_ours.contains(&peer), "{peer}");
    }
}

/// If the client's port were kept, both connections would have the same ends, and the kernel would take them for one.
#[tokio::test]
async fn the_sidecar_does_not_dial_from_the_clients_port() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    pod.init(&["--mode", "tproxy"]);
    let _servers = serve(&pod, &everywhere(&[("banner:greeter", 3306)], |family| family.pod)).await;
    let _sidecar = pod.sidecar_for_tproxy("").await;
    for host in [&pod, &world] {
        let mut same_choice = host.enter();
        same_choice.args(["sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40001"]);
        crate::support::tools::printed(same_choice).await;
    }
    for family in families() {
        assert_eq!(hear(world.enter(), at(family.pod, 3306)).await, "greeter\n", "{family:?}");
    }
}

/// A sidecar without the capability says so at start. It still serves redirected connections, from its own address.
#[tokio::test]
async fn without_the_capability_redirected_connections_are_served() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    pod.init(&[]);
    let mut servers = serve(&pod, &everywhere(&[("http:web", 8080)], |family| family.pod)).await;
    for has_it in [false, true] {
        let mut enter = if has_it { pod.enter_as_sidecar_for_tproxy() } else { pod.enter_as_sidecar() };
        enter.env("PILLION_LOG", "info,pillion::app=debug");
        let sidecar = Launched::start(enter, "", None).await;
        sidecar
            .has_logged(if has_it { "also accepts TPROXY" } else { "not TPROXY, which needs CAP_NET_ADMIN" })
            .await;
        for (family, own) in families().into_iter().zip(["127.0.0.6", "::6"]) {
            assert_eq!(get(world.enter(), at(family.pod, 8080), "x").await, (200, "web\n".to_owned()));
            assert_eq!(peer_at(&mut servers, at(family.pod, 8080)).await, own);
        }
    }
}
