//! The sockets of the DNS proxy without a redirect: the ready line names them, and a reload changes them.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::support::sidecar::Plan;
use crate::support::{eventually, soon};

/// A query for the IPv4 address of `orders`: ID 0x1234, recursion desired, one question.
const QUESTION: &[u8] = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x06orders\0\0\x01\0\x01";

async fn over_udp(to: SocketAddr) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    socket.connect(to).await.expect("an address");
    socket.send(QUESTION).await.expect("an open socket");
    let mut answer = Vec::with_capacity(512);
    soon("an answer", socket.recv_buf(&mut answer)).await.expect("an open socket");
    answer
}

async fn over_tcp(to: SocketAddr) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).await.expect("a listener");
    let mut answer = Vec::new();
    for _ in 0..2 {
        stream.write_all(&[&[0, QUESTION.len() as u8], QUESTION].concat()).await.expect("a reader");
        let length = soon("an answer", stream.read_u16()).await.expect("an answer");
        answer = vec![0; length.into()];
        stream.read_exact(&mut answer).await.expect("an answer");
    }
    answer
}

#[tokio::test]
async fn both_transports_are_on_one_port_and_a_reload_takes_both_away() {
    let quiet = "inbound: off\noutbound: { listen: 127.0.0.1:0 }\nservices:\n  orders: { endpoints: [127.0.0.1:1] }\n";
    let plan = Plan::new(&format!("{quiet}dns: {{ listen: 127.0.0.1:0, upstream: 192.0.2.1 }}"));
    let sidecar = plan.start().await;
    let address = sidecar.dns();
    for answer in [over_udp(address).await, over_tcp(address).await] {
        assert!(answer.ends_with(&[240, 240, 134, 115]), "{answer:?}");
    }
    let before = sidecar.reloads("applied").await;
    let next = sidecar.configuration().replace("dns: {", "dns: off # {");
    sidecar.configure(&next);
    sidecar.reloaded("applied", before).await;
    eventually("a free port, twice", async || {
        let udp = UdpSocket::bind(address).await.ok()?;
        TcpListener::bind(address).await.ok().map(|tcp| (udp, tcp))
    })
    .await;
}
