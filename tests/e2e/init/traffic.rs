//! Where connections arrive, for each backend and mode, over IPv4 and IPv6.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use super::{BACKENDS, everywhere, hear, hosts, init, listen, reach};
use crate::support::namespace::{Family, Hosts, families};
use crate::support::program::Program;

const APP: u16 = 8080;

/// Starts the servers of the sidecar, of the application and of `world`.
async fn populate(Hosts { pod, world }: &Hosts, mode: &str) -> [Program; 3] {
    let mut sidecar = pod.enter_as_sidecar();
    let mut own = vec!["udp:dns@127.0.0.1:15053".to_owned(), "udp:dns@[::1]:15053".to_owned()];
    for (name, port) in [("outbound", 15001), ("inbound", 15006), ("metrics", 15020), ("dns", 15053)] {
        own.extend(everywhere(name, port));
    }
    if mode == "tproxy" {
        sidecar.args(["--inh-caps=+net_admin", "--ambient-caps=+net_admin"]);
        own.extend(["--transparent".to_owned(), APP.to_string()]);
    }
    let mut theirs: Vec<String> =
        [22, 53, 80, 8080].into_iter().flat_map(|port| everywhere("world", port)).collect();
    theirs.extend(families().map(|family| format!("udp:world@{}", at(family.world, 53))));
    let apps = [everywhere("app", APP), everywhere("app", 9090)].concat();
    [listen(sidecar, &own).await, listen(pod.enter(), &apps).await, listen(world.enter(), &theirs).await]
}

fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

fn virtual_address(family: Family) -> IpAddr {
    let text = if family.pod.is_ipv4() { "240.240.0.5" } else { "fd9f:240::5" };
    text.parse().expect("an IP address")
}

/// One caller, and the expected reply at each address.
async fn expect(who: Command, words: &[&str], table: &[(String, String)]) {
    let caller = format!("{who:?}");
    let (targets, expected): (Vec<String>, Vec<String>) = table.iter().cloned().unzip();
    let heard = reach(who, words, &targets).await;
    assert_eq!(heard, expected, "{targets:?} by {caller}");
}

async fn connections(backend: &str, mode: &str) {
    let Some(hosts) = hosts() else { return };
    let Hosts { pod, world } = &hosts;
    init(pod, &["--backend", backend, "--mode", mode, "--exclude-outbound-ports", "22"]).await;
    let _servers = populate(&hosts, mode).await;
    for family in families() {
        let Family { pod: own, world: other, loopback, service, .. } = family;
        let row =
            |name: &str, to: SocketAddr, from: IpAddr| (to.to_string(), format!("{name} {to} from {from}"));
        let application = [
            row("outbound", at(service, 80), own),
            row("outbound", at(other, 8080), own),
            row("world", at(other, 22), own),
            row("outbound", at(virtual_address(family), 22), own),
            row("app", at(own, APP), own),
            row("app", at(loopback, APP), loopback),
            row("metrics", at(own, 15020), own),
        ];
        expect(pod.enter(), &[], &application).await;
        let sidecar = [
            row("world", at(other, 8080), own),
            row("metrics", at(own, 15020), own),
            row("app", at(loopback, APP), loopback),
        ];
        expect(pod.enter_as_sidecar(), &[], &sidecar).await;
        let leg = if own.is_ipv4() { "127.0.0.6" } else { "::6" };
        let leg: IpAddr = leg.parse().expect("an IP address");
        expect(pod.enter_as_sidecar(), &["--from", &leg.to_string()], &[row("app", at(own, APP), leg)]).await;
        if leg.is_ipv6() {
            // The IPv4 connection never leaves the host; the IPv6 one could, past the sidecar.
            let expected = [row("outbound", at(service, 80), leg)];
            expect(pod.enter(), &["--from", &leg.to_string()], &expected).await;
        }
        let by_itself = hear(pod.enter_as_sidecar(), at(own, APP)).await;
        assert!(by_itself.starts_with(&format!("inbound {} from {own}", at(own, APP))), "{by_itself}");

        let (to, metrics) = (at(own, APP), row("metrics", at(own, 15020), other));
        let captured = match mode {
            "tproxy" => format!("inbound {to} from {other}, app {to} from {other}"),
            _ => format!("inbound {to} from {other}"),
        };
        expect(world.enter(), &[], &[(to.to_string(), captured), metrics]).await;
    }
}

#[tokio::test]
async fn nft_redirects() {
    connections("nft", "redirect").await;
}

#[tokio::test]
async fn iptables_nft_redirects() {
    connections("iptables-nft", "redirect").await;
}

#[tokio::test]
async fn iptables_legacy_redirects() {
    connections("iptables-legacy", "redirect").await;
}

/// The application sees the client's address.
#[tokio::test]
async fn nft_hands_over_transparently() {
    connections("nft", "tproxy").await;
}

#[tokio::test]
async fn iptables_nft_hands_over_transparently() {
    connections("iptables-nft", "tproxy").await;
}

#[tokio::test]
async fn iptables_legacy_hands_over_transparently() {
    connections("iptables-legacy", "tproxy").await;
}

/// Virtual addresses are captured although their network, port or interface is excluded.
#[tokio::test]
async fn virtual_networks_are_captured_in_spite_of_every_exclusion() {
    for backend in BACKENDS {
        let Some(hosts) = hosts() else { return };
        let Hosts { pod, world } = &hosts;
        let left_out = ["--exclude-outbound-cidrs", "0.0.0.0/0,::/0", "--exclude-outbound-ports", "80"];
        let words = [&["--backend", backend, "--exclude-interfaces", "cable,no*"], &left_out[..]].concat();
        init(pod, &words).await;
        let _servers = populate(&hosts, "redirect").await;
        for family in families() {
            let Family { pod: own, world: other, .. } = family;
            let called = at(virtual_address(family), 80);
            assert_eq!(hear(pod.enter(), called).await, format!("outbound {called} from {own}"));
            let left = at(other, 80);
            assert_eq!(hear(pod.enter(), left).await, format!("world {left} from {own}"), "{backend}");
            let inbound = at(own, APP);
            assert_eq!(
                hear(world.enter(), inbound).await,
                format!("app {inbound} from {other}"),
                "{backend}"
            );
        }
    }
}

#[tokio::test]
async fn only_what_is_listed_is_captured() {
    for backend in BACKENDS {
        let Some(hosts) = hosts() else { return };
        let Hosts { pod, world } = &hosts;
        let networks = "10.96.0.0/16,fd00:96::/32";
        let words = ["--backend", backend, "--include-outbound-cidrs", networks, "--inbound-ports", "1,8080"];
        init(pod, &words).await;
        let _servers = populate(&hosts, "redirect").await;
        for family in families() {
            let Family { pod: own, world: other, service, .. } = family;
            let (called, other_port) = (at(service, 80), at(other, 80));
            assert_eq!(hear(pod.enter(), called).await, format!("outbound {called} from {own}"));
            assert_eq!(hear(pod.enter(), other_port).await, format!("world {other_port} from {own}"));
            let (listed, unlisted) = (at(own, APP), at(own, 9090));
            assert_eq!(hear(world.enter(), listed).await, format!("inbound {listed} from {other}"));
            assert_eq!(hear(world.enter(), unlisted).await, format!("app {unlisted} from {other}"));
        }
    }
}

/// The sidecar's own queries go to the resolver, even from a port that the application has just used for a query.
#[tokio::test]
async fn questions_go_to_the_dns_proxy() {
    const FROM: &[&str] = &["--from-port", "5000"];
    for backend in BACKENDS {
        let Some(hosts) = hosts() else { return };
        let pod = &hosts.pod;
        init(pod, &["--backend", backend, "--dns"]).await;
        let _servers = populate(&hosts, "redirect").await;
        for Family { pod: own, world: other, loopback, .. } in families() {
            let resolver = at(other, 53);
            let udp = [format!("udp:{resolver}")];
            let (proxy, over_udp) = (at(loopback, 15053), format!("world {resolver} from {own}"));
            assert_eq!(
                reach(pod.enter(), FROM, &udp).await,
                [format!("dns {proxy} from {own}")],
                "{backend}"
            );
            assert_eq!(
                reach(pod.enter_as_sidecar(), FROM, &udp).await,
                std::slice::from_ref(&over_udp),
                "{backend}"
            );
            assert_eq!(hear(pod.enter(), resolver).await, format!("dns {resolver} from {own}"));
            assert_eq!(hear(pod.enter_as_sidecar(), resolver).await, over_udp);
        }
        let docker = ["127.0.0.11:53", "udp:127.0.0.11:53"].map(str::to_owned);
        let expected = ["dns 127.0.0.11:53 from 127.0.0.1", "dns 127.0.0.1:15053 from 127.0.0.1"];
        assert_eq!(reach(pod.enter(), &[], &docker).await, expected, "{backend}: a resolver on loopback");
    }
}
