//! What is handed over, and what stays with the former process.

use std::net::SocketAddr;
use std::os::unix::net::UnixListener;

use crate::support::application::application;
use crate::support::backend::Backend;
use crate::support::certs::Authority;
use crate::support::eventually;
use crate::support::sidecar::{Plan, Sidecar};
use crate::support::wire::Wire;

const GET: &str = "GET / HTTP/1.1\r\nhost: orders\r\n\r\n";
const DRAIN: &str = "drain: { delay: 5s, timeout: 10m }";

fn calling(endpoint: SocketAddr) -> Plan {
    let dns = "dns: { listen: 127.0.0.1:0, upstream: [\"127.0.0.1:9\"] }";
    Plan::calling(endpoint, "protocol: http1").with(DRAIN).with(dns).with_takeover()
}

async fn ask(wire: &mut Wire) -> String {
    let answer = wire.ask(GET).await;
    assert_eq!(answer.status(), 200, "{}", answer.head);
    answer.header("connection").unwrap_or_default().to_owned()
}

/// Waits until the process has closed its listeners. Then only its successor accepts.
async fn has_handed_over(former: &Sidecar) {
    eventually("the former one to hand over", async || {
        former.errors().contains("a successor serves").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_successor_has_every_address_and_the_former_one_answers_its_connections_and_ends() {
    let app = Backend::echo().await;
    let mut former = calling(app.address).start().await;
    let (mut proxy, mut orders) =
        (Wire::connect(former.outbound()).await, Wire::connect(former.orders()).await);
    assert_eq!([ask(&mut proxy).await, ask(&mut orders).await], ["", ""]);
    let mut scraper = Wire::connect(former.metrics()).await;
    scraper.get("pillion", "/ready").await;

    let successor = former.successor().await;
    assert_eq!(successor.ready, former.ready, "all addresses, also those with port 0");
    has_handed_over(&former).await;
    assert_eq!(successor.page("/ready").await, (200, "ready\n".into()));
    let last = scraper.get("pillion", "/ready").await;
    assert_eq!(
        (last.status(), last.header("connection")),
        (200, Some("close")),
        "the next is the successor's"
    );
    assert!(former.exited().is_none(), "its connections are idle, and a request may come on them");
    assert_eq!([ask(&mut proxy).await, ask(&mut orders).await], ["close", "close"]);
    assert_eq!(former.exit().await.code(), Some(0));
    ask(&mut Wire::connect(successor.outbound()).await).await;
    assert_eq!(ask(&mut Wire::connect(successor.orders()).await).await, "");
    successor.counted(2, &[("service", "orders")]).await; // its counters began anew
}

#[tokio::test]
async fn successors_follow_each_other_while_the_first_still_has_a_connection() {
    let (app, _task) = application().await;
    let mut first = calling(app).start().await;
    let mut socket = Wire::connect(first.orders()).await;
    socket
        .send(
            "GET /socket HTTP/1.1\r\nhost: orders\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await;
    let head = socket.head().await.expect("an upgrade");
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let mut second = first.successor().await;
    let mut third = second.successor().await;
    assert_eq!(second.exit().await.code(), Some(0), "it has no connection");
    assert_eq!(third.ready, first.ready);

    first.signal("TERM"); // it ends after its connections already
    eventually("the signal", async || first.errors().contains("a second signal ends").then_some(())).await;
    let frame = [0x82, 0x84, 0, 0, 0, 0, 1, 2, 3, 4];
    socket.send(frame).await;
    assert_eq!(socket.exactly(6).await, (vec![0x82, 4, 1, 2, 3, 4], true), "the stream lives");
    drop(socket);
    assert_eq!(first.exit().await.code(), Some(0));
    third.signal("TERM");
    eventually("its socket to be removed", async || (!third.takeover().exists()).then_some(())).await;
    third.signal("TERM");
    third.exit().await;
}

/// It has closed its listeners, and binds none of them again with the new certificates.
#[tokio::test]
async fn a_former_process_takes_new_certificates_and_binds_no_address() {
    let (app, authority) = (Backend::echo().await, Authority::new());
    let plan = Plan::calling(app.address, "protocol: http1, tls: off").with(DRAIN).with_takeover();
    let mut former = plan.identified(&authority, "web").start().await;
    let mut kept = Wire::connect(former.orders()).await;
    ask(&mut kept).await;
    let successor = former.successor().await;
    has_handed_over(&former).await;
    authority.issue_into(&former.directory().join("certs"), "web");
    for sidecar in [&former, &successor] {
        sidecar.has_logged("certificates swapped").await;
        assert!(!sidecar.errors().contains("refused"), "{}", sidecar.errors());
    }
    assert_eq!(ask(&mut kept).await, "close");
    assert_eq!(former.exit().await.code(), Some(0));
    ask(&mut Wire::connect(successor.orders()).await).await;
}

/// Not at the moment in which the process ends: a request could come to it just before.
#[tokio::test]
async fn a_former_process_closes_the_connections_that_stay_idle_before_its_time_is_over() {
    let app = Backend::echo().await;
    let plan = Plan::calling(app.address, "protocol: http1").with("drain: { delay: 0s, timeout: 4s }");
    let mut former = plan.with_takeover().start().await;
    let mut idle = Wire::connect(former.orders()).await;
    ask(&mut idle).await;
    let _successor = former.successor().await;
    assert_eq!(former.exit().await.code(), Some(0));
    former.has_logged("all connections have ended").await;
}

#[tokio::test]
async fn a_second_signal_ends_a_former_process_at_once() {
    let app = Backend::echo().await;
    let mut former = calling(app.address).start().await;
    let mut idle = Wire::connect(former.orders()).await;
    ask(&mut idle).await;
    let _successor = former.successor().await;
    has_handed_over(&former).await;
    former.signal("TERM");
    eventually("the signal", async || former.errors().contains("a second signal ends").then_some(())).await;
    former.signal("TERM");
    assert_eq!(former.exit().await.code(), Some(0));
}

#[tokio::test]
async fn without_a_process_at_the_socket_it_just_starts() {
    let app = Backend::echo().await;
    let plan = calling(app.address);
    drop(UnixListener::bind(plan.takeover()).expect("a stale socket"));
    let mut sidecar = plan.start().await;
    ask(&mut Wire::connect(sidecar.orders()).await).await;
    sidecar.signal("KILL");
    sidecar.exit().await;
    assert!(sidecar.takeover().exists(), "nothing removed it");
    let again = sidecar.successor().await;
    ask(&mut Wire::connect(again.orders()).await).await;
}

/// Each worker has a queue of its own. All of them must be accepted from, and further workers join.
#[tokio::test]
async fn the_number_of_workers_may_change_from_one_to_the_next() {
    let app = Backend::echo().await;
    let start = calling(app.address).with("workers: 1").start().await;
    let yaml = start.configuration();
    let mut sidecar = start;
    for workers in [3, 1, 2, 5, 5, 1] {
        let before = yaml.replace("workers: 1", &format!("workers: {workers}"));
        sidecar.configure(&before);
        let next = sidecar.successor().await;
        assert_eq!(next.ready, sidecar.ready);
        has_handed_over(&sidecar).await;
        assert_eq!(sidecar.exit().await.code(), Some(0));
        let mut wires = Vec::new();
        for _ in 0..64 {
            wires.push(Wire::connect(next.orders()).await);
        }
        for wire in &mut wires {
            ask(wire).await;
        }
        sidecar = next;
    }
}

#[tokio::test]
async fn addresses_of_the_new_file_are_bound_and_those_that_are_gone_are_closed() {
    let app = Backend::echo().await;
    let mut former = calling(app.address).start().await;
    let (orders, outbound) = (former.orders(), former.outbound());
    let yaml = former.configuration();
    let added = yaml.replace(
        "services:\n",
        &format!("services:\n  web: {{ listen: 127.0.0.1:0, endpoints: [\"{}\"] }}\n", app.address),
    );
    former.configure(&added.replace("orders: { listen: 127.0.0.1:0, ", "orders: { "));
    let successor = former.successor().await;
    assert_eq!(successor.outbound(), outbound);
    assert!(successor.ready.contains(" service.web=") && !successor.ready.contains("service.orders"));
    assert_eq!(former.exit().await.code(), Some(0));
    let refused = tokio::net::TcpStream::connect(orders).await.expect_err("no process listens there");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}
