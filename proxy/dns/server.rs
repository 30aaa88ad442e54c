//! The sockets of the DNS proxy: UDP, and TCP with several queries on a connection (RFC 7766).

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;

use super::forward::{read_message, write_message};
use super::query::{MOST_OVER_UDP, Over};
use super::{Dns, Look};
use crate::listening;
use pillion_base::accept::{Acceptor, Hold, accept_held};
use pillion_base::net::own::is_from_this_host;
use pillion_base::net::{Bound, Stream};

/// Open connections at once. A client needs one, and none for answers that fit into a datagram. A connection beyond
/// this number waits.
pub(super) const CONNECTIONS: usize = 64;

/// How long a connection may be idle. RFC 7766, section 6.2.3, recommends a few seconds.
const IDLE: Duration = Duration::from_secs(10);

/// The pause after an error of the socket, which no client causes.
const PAUSE: Duration = Duration::from_millis(100);

/// A bound address that is sent to the DNS thread.
pub(crate) struct DnsPort {
    pub(crate) id: u64,
    /// `None`: the network has no datagrams.
    pub(crate) udp: Option<std::net::UdpSocket>,
    pub(crate) tcp: Bound,
}

pub(crate) type Command = listening::Command<DnsPort>;

/// Serves until the process ends.
pub(crate) async fn run(dns: Arc<Dns>, commands: mpsc::Receiver<Command>) {
    listening::obey(commands, |port| port.id, |port, held| serve(port, &dns, held)).await;
}

fn serve(port: DnsPort, dns: &Arc<Dns>, mut held: Hold) {
    let udp = port.udp.map(UdpSocket::from_std).transpose();
    let (udp, tcp) = match (udp, port.tcp.listen()) {
        (Ok(udp), Ok(tcp)) => (udp, tcp),
        (Err(error), _) | (_, Err(error)) => {
            return tracing::error!(%error, "a bound address of the DNS proxy could not be used");
        }
    };
    let mut clients = Clients { dns: dns.clone(), permit: None };
    let (dns, udp) = (dns.clone(), udp.map(Arc::new));
    tokio::spawn(async move {
        let beside = udp.as_ref().map(|udp| udp.as_fd());
        // queries in progress have their own tasks; a query that was not read yet is sent again by its client
        let listener = tokio::select! {
            listener = accept_held(tcp, &mut held, std::future::pending(), beside, &mut clients) => listener,
            () = datagrams(udp.as_ref(), &dns) => return, // UDP does not wait if TCP is short of descriptors
        };
        listener.close().into_iter().for_each(|(stream, from)| clients.admit(stream, from));
    });
}

async fn datagrams(socket: Option<&Arc<UdpSocket>>, dns: &Arc<Dns>) {
    let Some(socket) = socket else { return std::future::pending().await };
    let mut message = Vec::with_capacity(MOST_OVER_UDP.into());
    loop {
        message.clear();
        match socket.recv_buf_from(&mut message).await {
            Ok((_, from)) if is_from_this_host(from.ip(), None) => {
                datagram(socket, dns, &message, from).await
            }
            Ok((_, from)) => tracing::debug!(%from, "a query from another host is not answered"),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn datagram(socket: &Arc<UdpSocket>, dns: &Arc<Dns>, message: &[u8], from: SocketAddr) {
    match dns.look(message, Over::Udp) {
        Look::Nothing => {}
        Look::Answer(answer) => drop(socket.send_to(&answer, from).await), // a client without an answer asks again
        Look::Ask(asked, permit) => {
            let (socket, dns, message) = (socket.clone(), dns.clone(), message.to_vec());
            tokio::spawn(async move {
                let answer = dns.ask(&asked, &message).await;
                drop(socket.send_to(&answer, from).await);
                drop(permit);
            });
        }
    }
}

/// Accepts the connections of a port.
struct Clients {
    dns: Arc<Dns>,
    /// The permit of the next connection.
    permit: Option<OwnedSemaphorePermit>,
}

impl Acceptor for Clients {
    async fn ready(&mut self) {
        if self.permit.is_none() {
            self.permit = self.dns.connections.clone().acquire_owned().await.ok();
        }
    }

    fn admit(&mut self, stream: Stream, from: SocketAddr) {
        if !is_from_this_host(from.ip(), stream.own_ip()) {
            return tracing::debug!(%from, "a connection from another host is closed");
        }
        let (dns, permit) = (self.dns.clone(), self.permit.take());
        tokio::spawn(async move {
            connection(stream, &dns).await;
            drop(permit);
        });
    }
}

/// Answers one query after another, until the connection is idle for too long or a message is not a query.
async fn connection(mut stream: Stream, dns: &Dns) {
    while let Ok(Ok(message)) = timeout(IDLE, read_message(&mut stream)).await {
        let Some(answer) = Box::pin(dns.answer(&message, Over::Tcp)).await else { return };
        if !matches!(timeout(IDLE, write_message(&mut stream, &answer)).await, Ok(Ok(()))) {
            return;
        }
    }
}
