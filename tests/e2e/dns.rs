//! The DNS proxy in a pod: common resolvers, redirected queries, and curl with a service's name.
//!
//! Needs root, `ip`, iptables and dig. The name server runs on the host `world`, outside the pod.

mod refusals;
mod sockets;
mod srv;

use std::process::Command;

use crate::support::launched::Launched;
use crate::support::namespace::{Hosts, Namespace, families, in_both};
use crate::support::program::Program;
use crate::support::tools::{printed, require};

/// The virtual addresses of `orders`, which follow from its name alone.
const ORDERS: [&str; 2] = ["240.240.134.115", "fd9f:240::12:5d92:50be:8b4c"];

fn hosts() -> Option<Hosts> {
    let tools = ["ip", "iptables", "setpriv", "curl", "python3", "dig"];
    if tools.into_iter().any(|tool| !require(tool)) {
        return None;
    }
    Hosts::new()
}

/// `orders` has only names, and `database` has an IPv4 address. The name server outside would give other addresses.
fn yaml(dns: &str) -> String {
    format!(
        "inbound: off\ndns: {dns}\nservices:\n  orders:\n    hosts: [orders, orders.shop.test, \"*.orders.test\"]\n    \
         endpoints: [{}]\n  database:\n    addresses: [\"10.96.0.10:3306\"]\n    endpoints: [{}]\n",
        in_both(|family| family.world, 9001),
        in_both(|family| family.world, 9002),
    )
}

fn large() -> String {
    let all: Vec<String> = (1..=100).map(|last| format!("192.0.2.{last}")).collect();
    format!("large.test.={}", all.join(","))
}

/// Starts the name server on the host `world`, and the servers behind the services.
async fn serve(world: &Namespace) -> [Program; 2] {
    let at = |port: u16| families().map(|family| std::net::SocketAddr::new(family.world, port).to_string());
    let [large, zone] = [large(), "news.test.=192.0.2.1,2001:db8::1".to_owned()];
    let orders = "orders.shop.test.=192.0.2.66".to_owned();
    let words = [&at(53)[..], &["--".to_owned(), large, zone, orders]].concat();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut names = Program::start(Program::script(world.enter(), "name_server.py", &words));
    assert_eq!(names.line().await, "ready");
    let http = at(9001).map(|at| format!("http:orders@{at}"));
    let banner = at(9002).map(|at| format!("banner:database@{at}"));
    let words: Vec<&str> = http.iter().chain(&banner).map(String::as_str).collect();
    let mut servers = Program::start(Program::script(world.enter(), "servers.py", &words));
    assert_eq!(servers.line().await, "ready");
    [names, servers]
}

/// A pod with the rules of `pillion init --dns`, and its sidecar.
async fn sidecar(pod: &Namespace, dns: &str) -> Launched {
    pod.init(&["--dns"]);
    let [v4, v6] = families();
    pod.resolve_by(&format!("nameserver {}\nnameserver {}\n", v4.world, v6.world));
    pod.sidecar(&yaml(dns)).await
}

async fn dig(mut host: Command, words: &[&str]) -> String {
    host.args(["dig", "+time=10", "+tries=1"]).args(words);
    printed(host).await
}

async fn dig_short(host: Command, words: &[&str]) -> Vec<String> {
    dig(host, &[&["+short"], words].concat()).await.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn dig_gets_services_from_the_sidecar_and_other_names_from_the_name_server() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    let [mut names, _servers] = serve(&world).await;
    let _sidecar = sidecar(&pod, "{}").await;
    for family in families() {
        let server = format!("@{}", family.world);
        for transport in ["+notcp", "+tcp"] {
            let ask = async |name: &str, kind: &str| {
                dig_short(pod.enter(), &[&server, transport, name, kind]).await
            };
            assert_eq!(ask("orders", "A").await, [ORDERS[0]], "{server} {transport}");
            assert_eq!(ask("orders.SHOP.test", "AAAA").await, [ORDERS[1]], "whatever the world says");
            assert_eq!(ask("database", "A").await, ["10.96.0.10"]);
            assert_eq!(ask("news.test", "A").await, ["192.0.2.1"]);
            assert_eq!(ask("news.test", "AAAA").await, ["2001:db8::1"]);
            assert_eq!(ask("large.test", "A").await.len(), 100, "cut over UDP, whole over TCP");
            for (name, kind, status) in [
                ("orders", "TXT", "NOERROR"),
                ("orders", "HTTPS", "NOERROR"),
                ("database", "AAAA", "NOERROR"),
                ("a.orders.test", "A", "NXDOMAIN"),
                ("nowhere.test", "A", "NXDOMAIN"),
            ] {
                let output = dig(pod.enter(), &[&server, transport, name, kind]).await;
                assert!(
                    output.contains(&format!("status: {status},")) && output.contains("ANSWER: 0,"),
                    "{output}"
                );
                assert!(output.contains("\tSOA\t") && !output.contains("WARNING"), "{output}");
            }
        }
    }
    let mut asked: Vec<String> = Vec::new();
    while asked.len() < 6 {
        asked.push(names.line().await);
        asked.dedup(); // a server that does not answer for three seconds is asked at its other address
    }
    while !names.is_silent() {
        assert_eq!(Some(names.line().await), asked.last().cloned(), "nothing else is asked");
    }
    let expected = ["udp A news.test.", "udp AAAA news.test.", "udp A large.test.", "tcp A large.test."];
    let expected = [&expected[..], &["udp A a.orders.test.", "udp A nowhere.test."]].concat();
    assert_eq!(asked, expected, "each question is forwarded once; later answers come from the cache");
    for outcome in ["own", "virtual", "forwarded", "cached"] {
        let counted = pod.metric("pillion_dns_queries_total", &[("outcome", outcome)]).await;
        assert!(counted > 0.0, "{outcome}");
    }
    assert_eq!(pod.metric("pillion_dns_queries_total", &[("outcome", "failed")]).await, 0.0);
}

#[tokio::test]
async fn the_c_library_resolves_services_and_other_names() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    let _servers = serve(&world).await;
    let _sidecar = sidecar(&pod, "{}").await;
    let find = async |name: &str| {
        let found = printed(Program::script(pod.enter(), "addresses.py", &[name])).await;
        found.trim().to_owned()
    };
    assert_eq!(find("orders").await, ORDERS.join(" "));
    assert_eq!(find("database").await, "10.96.0.10");
    assert_eq!(find("news.test").await, "192.0.2.1 2001:db8::1");
    assert_eq!(find("nowhere.test").await, "Name or service not known");
}

#[tokio::test]
async fn curl_by_name_reaches_a_service_that_has_no_address() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    let _servers = serve(&world).await;
    let _sidecar = sidecar(&pod, "{}").await;
    for (family, address) in ["-4", "-6"].into_iter().zip(ORDERS) {
        for url in ["http://orders/", "http://orders.shop.test:8080/"] {
            let mut curl = pod.enter();
            curl.args(["curl", "--silent", "--show-error", "--max-time", "20", "--noproxy", "*", family]);
            let output = printed({
                curl.args(["-w", "%{http_code} %{remote_ip}", url]);
                curl
            });
            assert_eq!(output.await, format!("orders\n200 {address}"), "{url}");
        }
    }
    pod.counted(4, "pillion_requests_total", &[("service", "orders"), ("status", "200")]).await;
}

/// The DNS proxy has local ports and no redirect: a client sends its query to one of these.
#[tokio::test]
async fn the_dns_proxy_answers_at_its_local_ports() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    let _servers = serve(&world).await;
    let [v4, _] = families();
    let dns = format!(
        "{{ listen: [\"127.0.0.1:5300\", \"[::1]:5300\"], upstream: {}, virtual_addresses: off }}",
        v4.world
    );
    let _sidecar = pod.sidecar(&yaml(&dns)).await;
    for server in ["@127.0.0.1", "@::1"] {
        let ask = async |name: &str| dig_short(pod.enter(), &["-p", "5300", server, name, "A"]).await;
        assert_eq!(ask("database").await, ["10.96.0.10"]);
        assert_eq!(ask("orders.shop.test").await, ["192.0.2.66"], "the answer of the name server");
    }
}
