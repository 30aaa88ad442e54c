//! Sinks that are not asked over HTTP: syslog over TCP, TLS and UDP, and MongoDB.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use pillion_base::net::Transport;
use pillion_companion::asking::addresses;
use pillion_companion::courtesy::Courtesy;
use pillion_upstream::discovery::Resolver;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Fate, Outcome};
use crate::encode::{Batch, MongodbAnswer, mongodb_answer, mongodb_length};

/// How long an address is used to which datagrams are sent: nothing says that they do not arrive.
const LONGEST_ADDRESS: Duration = Duration::from_secs(30);
/// How many datagrams are sent between two moments for the data path.
const SOME_DATAGRAMS: usize = 32;
/// How long the end of a connection is waited for.
const PATIENCE_TO_CLOSE: Duration = Duration::from_secs(2);

/// A connection for messages that no answer confirms.
pub(super) struct Messages(pub(super) Transport);

impl Messages {
    /// Whether the receiver has not closed the connection. It sends nothing, so that anything but waiting is an end.
    pub(super) async fn is_open(&mut self) -> bool {
        let mut byte = [0];
        poll_fn(|context| {
            let mut buffer = ReadBuf::new(&mut byte);
            let read = Pin::new(&mut self.0).poll_read(context, &mut buffer);
            Poll::Ready(read.is_pending())
        })
        .await
    }

    pub(super) async fn send(&mut self, body: &[u8], until: Instant) -> io::Result<()> {
        let sending = async {
            self.0.write_all(body).await?;
            self.0.flush().await
        };
        timeout_at(until, sending).await.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Ends the connection, with `close_notify` over TLS, and waits until the receiver has ended its side: what it had not read
    /// would be thrown away with a connection that is reset.
    pub(super) async fn close(mut self) {
        let closing = async {
            self.0.shutdown().await?;
            let mut unread = [0; 1024];
            while self.0.read(&mut unread).await? > 0 {}
            Ok::<_, io::Error>(())
        };
        drop(timeout(PATIENCE_TO_CLOSE, closing).await); // a receiver that keeps it open or has reset it changes nothing
    }
}

/// A socket for datagrams.
pub(super) struct Datagrams {
    socket: UdpSocket,
    opened: Instant,
    courtesy: Courtesy,
}

impl Datagrams {
    pub(super) async fn open(
        way: Option<SocketAddr>,
        host: &str,
        port: u16,
        resolver: &Resolver,
    ) -> Result<Self, String> {
        let to = match way {
            Some(way) => way,
            None => {
                let found = addresses(host, resolver).await.map_err(|error| error.to_string())?;
                let ip = found.first().ok_or("its host has no address")?;
                SocketAddr::new(*ip, port)
            }
        };
        let any: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let open = async {
            let socket = UdpSocket::bind((any, 0)).await?;
            socket.connect(to).await?;
            Ok::<_, io::Error>(Self { socket, opened: Instant::now(), courtesy: Courtesy::default() })
        };
        open.await.map_err(|error| format!("no datagram can be sent to {to}: {error}"))
    }

    /// Whether the address of the receiver is to be looked up again.
    pub(super) fn is_old(&self) -> bool {
        self.opened.elapsed() >= LONGEST_ADDRESS
    }

    /// Sends one datagram for each record. Nothing confirms that a datagram has arrived. The kernel only reports an error where the
    /// receiver's host has answered that no program listens at the port.
    pub(super) async fn send(&mut self, batch: &Batch) -> Outcome {
        let mut fates = Vec::with_capacity(batch.documents.len());
        for datagram in batch.texts() {
            if fates.len() % SOME_DATAGRAMS == 0 {
                self.courtesy.let_others_go_first();
            }
            match self.socket.send(datagram).await {
                Ok(_) => fates.push(Fate::Taken),
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) => {
                    fates.push(Fate::Refused("it is longer than a datagram may be".to_owned()));
                }
                Err(error) if fates.is_empty() => return Outcome::failed(error),
                Err(error) => {
                    fates.resize(batch.documents.len(), Fate::Busy(error.to_string()));
                    break;
                }
            }
        }
        if fates.iter().all(|fate| *fate == Fate::Taken) { Outcome::Taken } else { Outcome::Each(fates) }
    }
}

/// A connection to MongoDB.
pub(super) struct Mongodb(pub(super) Transport);

impl Mongodb {
    /// Sends a command, and reads the answer. `None`: it has more bytes than `most`, and the connection is of no use any more.
    pub(super) async fn ask(
        &mut self,
        command: &[u8],
        documents: usize,
        most: usize,
        until: Instant,
    ) -> io::Result<Option<MongodbAnswer>> {
        let asking = async {
            self.0.write_all(command).await?;
            self.0.flush().await?;
            let mut header = [0; 16];
            self.0.read_exact(&mut header).await?;
            let length = mongodb_length(&header).ok_or_else(not_mongodb)?;
            if length > most {
                return Ok(None);
            }
            let mut message = header.to_vec();
            message.resize(length, 0);
            self.0.read_exact(message.get_mut(header.len()..).unwrap_or_default()).await?;
            mongodb_answer(&message, documents).map(Some).ok_or_else(not_mongodb)
        };
        timeout_at(until, asking).await.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
    }
}

fn not_mongodb() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "its answer is not one of MongoDB's protocol")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_address_of_datagrams_is_looked_up_again_after_a_while() {
        let way = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9)));
        let open = Datagrams::open(way, "", 0, &Resolver::system()).await.unwrap();
        assert!(!open.is_old());
        tokio::time::advance(LONGEST_ADDRESS).await;
        assert!(open.is_old());
    }
}
