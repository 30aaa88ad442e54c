//! Connections of the application: to an address of a service, to a Host of a service, and to unknown destinations.

use super::{Dialled, at, dial, get, hear, hosts, next, say, serve};
use crate::support::namespace::{Hosts, families, in_both};

/// A caller's configuration: one service has an address, the other has only a name.
fn yaml(rest: &str) -> String {
    format!(
        "inbound: off\n{rest}\nservices:\n  orders:\n    addresses: [{}]\n    endpoints: [{}]\n  \
         database:\n    addresses: [{}]\n    endpoints: [{}]\n  \
         named:\n    hosts: [named, named.shop]\n    endpoints: [{}]\n  \
         ported:\n    hosts: [\"named:8081\"]\n    endpoints: [{}]\n",
        in_both(|family| family.service, 80),
        in_both(|family| family.world, 9001),
        in_both(|family| family.service, 3306),
        in_both(|family| family.world, 9002),
        in_both(|family| family.world, 9003),
        in_both(|family| family.world, 9004),
    )
}

/// The servers behind the services, and servers that no service names.
fn servers() -> Vec<String> {
    let all = ["http:orders@9001", "banner:database@9002", "http:named@9003", "http:ported@9004"];
    let unknown = ["http:web@8080", "echo:raw@7000", "banner:greeter@7001"];
    let bound = |server: &str| {
        let (what, port) = server.split_once('@').expect("a port");
        families().map(|family| format!("{what}@{}", at(family.world, port.parse().expect("a port"))))
    };
    all.into_iter().chain(unknown).flat_map(bound).collect()
}

#[tokio::test]
async fn an_address_of_a_service_decides() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    pod.redirect_outgoing();
    let _servers = serve(&world, &servers()).await;
    let _sidecar = pod.sidecar(&yaml("")).await;
    for family in families() {
        for host in ["orders", "nowhere.example", "named"] {
            let answer = get(pod.enter(), at(family.service, 80), host).await;
            assert_eq!(answer, (200, "orders\n".to_owned()), "Host {host} at {family:?}");
        }
        assert_eq!(
            hear(pod.enter(), at(family.service, 3306)).await,
            "database\n",
            "the server speaks first"
        );
    }
    let requests = [("direction", "outbound"), ("service", "orders")];
    pod.counted(6, "pillion_requests_total", &requests).await;
    let sent = [("service", "database"), ("flow", "sent")];
    pod.counted(2 * "database\n".len() as u32, "pillion_bytes_total", &sent).await;
}

#[tokio::test]
async fn host_decides_where_the_address_is_unknown() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    pod.redirect_outgoing();
    let _servers = serve(&world, &servers()).await;
    let _sidecar = pod.sidecar(&yaml("")).await;
    for family in families() {
        for (host, port, server) in [
            ("named", 80, "named\n"),
            ("NAMED.shop", 80, "named\n"),
            ("named.shop:8081", 8081, "named\n"), // matched without the port, since the service names none
            ("named:8081", 8081, "ported\n"),
            ("orders", 8080, "orders\n"),
        ] {
            let answer = get(pod.enter(), at(family.nobody, port), host).await;
            assert_eq!(answer, (200, server.to_owned()), "Host {host} at {family:?}");
        }
    }
}

/// The request is passed on unchanged, and its host does not become a metric label.
#[tokio::test]
async fn an_unknown_destination_is_passed_through() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    pod.redirect_outgoing();
    let mut servers = serve(&world, &servers()).await;
    let _sidecar = pod.sidecar(&yaml("")).await;
    for family in families() {
        let answer = get(pod.enter(), at(family.world, 8080), "news.example").await;
        assert_eq!(answer, (200, "web\n".to_owned()), "{family:?}");
        let request = next(&mut servers, "request").await;
        let lines: Vec<_> = request["head"].as_str().expect("text").trim_end().split("\r\n").collect();
        let names =
            lines.iter().skip(1).map(|line| line.split(':').next().unwrap_or_default().to_lowercase());
        let mut names: Vec<_> = names.collect();
        names.sort();
        assert_eq!(names, ["accept", "host", "user-agent"], "what curl sent: {lines:?}");
        assert!(lines[0] == "GET /path HTTP/1.1", "{lines:?}");
        assert!(lines.iter().any(|line| line.eq_ignore_ascii_case("host: news.example")), "{lines:?}");

        assert_eq!(say(pod.enter(), at(family.world, 7000)).await, "raw:\0ping\n", "{family:?}");
        assert_eq!(hear(pod.enter(), at(family.world, 7001)).await, "greeter\n", "{family:?}");
    }
    let labels = [("direction", "outbound"), ("service", "passthrough")];
    pod.counted(2, "pillion_requests_total", &labels).await;
    assert!(pod.metric("pillion_connections_total", &labels).await >= 4.0);
    assert_eq!(pod.metric("pillion_requests_total", &[("service", "news.example")]).await, 0.0);
}

/// One connection with two requests. The second names a service's host, so it goes to that service.
#[tokio::test]
async fn an_unknown_destination_is_decided_per_request() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    pod.redirect_outgoing();
    let _servers = serve(&world, &servers()).await;
    let _sidecar = pod.sidecar(&yaml("")).await;
    let request = |host: &str, more: &str| format!("GET / HTTP/1.1\\r\\nhost: {host}\\r\\n{more}\\r\\n");
    let both = [request("news.example", ""), request("named", "connection: close\\r\\n")].concat();
    for family in families() {
        let result = dial(pod.enter(), at(family.world, 8080), &["--send", &both]).await;
        let bodies: Vec<_> = result.received.lines().filter(|line| ["web", "named"].contains(line)).collect();
        assert_eq!(bodies, ["web", "named"], "{result:?}");
    }
}

#[tokio::test]
async fn an_unknown_destination_is_denied() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    pod.redirect_outgoing();
    let mut servers = serve(&world, &servers()).await;
    let _sidecar = pod.sidecar(&yaml("outbound: { unknown: deny }")).await;
    for family in families() {
        let (status, body) = get(pod.enter(), at(family.world, 8080), "news.example").await;
        assert_eq!(status, 403, "{body}");
        assert!(body.contains("egress_denied"), "{body}");
        let result = dial(pod.enter(), at(family.world, 7000), &["--send", "\\x00ping\\n"]).await;
        assert!(result.is_closed() && result.received.is_empty(), "closed: {result:?}");
        assert_eq!(get(pod.enter(), at(family.world, 8080), "named").await, (200, "named\n".to_owned()));
        let seen = next(&mut servers, "accepted").await;
        assert_eq!(seen["server"], "named", "no connection reached what is unknown");
    }
    let denied = [("direction", "outbound"), ("reason", "egress_denied"), ("status", "403")];
    pod.counted(2, "pillion_requests_total", &denied).await;
}

/// Rules without an exception lead a connection here: there must be no loop, and no way to the admin port.
#[tokio::test]
async fn an_own_listener_as_original_destination_means_not_redirected() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    pod.redirect_outgoing();
    let _servers = serve(&world, &servers()).await;
    let _sidecar = pod.sidecar(&yaml("")).await;
    let [v4, v6] = families();
    let own = [(v4, 15001), (v6, 15001), (v4, 15000), (v4, 15020), (v6, 15020)];
    for own in own.map(|(family, port)| at(family.loopback, port)) {
        let (status, body) = get(pod.enter(), own, "news.example").await;
        assert_eq!(status, 404, "{own}: {body}");
        assert!(body.contains("no_route"), "{own}: {body}");
        assert_eq!(
            get(pod.enter(), own, "named").await,
            (200, "named\n".to_owned()),
            "{own}: as a proxy port"
        );
    }
}

/// Whatever `listen` says, a client on another host is not the sidecar's application.
#[tokio::test]
async fn another_host_is_closed_before_a_byte_is_read() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    let _servers = serve(&world, &servers()).await;
    let everywhere = "outbound: { listen: [\"0.0.0.0:15001\", \"[::]:15001\"] }";
    let _sidecar = pod.sidecar(&yaml(everywhere)).await;
    for family in families() {
        let port = at(family.pod, 15001);
        let silent = dial(world.enter(), port, &[]).await;
        assert_eq!(silent, Dialled { received: String::new(), end: silent.end.clone() });
        assert!(silent.is_closed(), "{silent:?}");
        let request = "GET / HTTP/1.1\\r\\nhost: named\\r\\n\\r\\n";
        let asking = dial(world.enter(), port, &["--send", request]).await;
        assert!(asking.received.is_empty() && asking.is_closed(), "{asking:?}");
        let own = get(pod.enter(), port, "named").await;
        assert_eq!(own, (200, "named\n".to_owned()), "the pod's own address is its own");
    }
    pod.counted(2, "pillion_requests_total", &[("direction", "outbound")]).await; // the requests of the pod
}
