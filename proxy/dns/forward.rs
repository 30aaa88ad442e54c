//! Sends queries to name servers: the query as it came, with a new id, over the transport on which it came.
//!
//! Each query has its own socket, so that neither id nor port can be guessed. Deliberately absent: a change of
//! transport. An answer that is truncated over UDP is passed on truncated, and the client asks again over TCP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_resolver::proto::op::{Header, Message, MessageType, ResponseCode};
use hickory_resolver::proto::serialize::binary::{BinDecodable, BinDecoder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::answer::with_id;
use super::query::{MOST_OVER_UDP, Over, ReceivedQuery};
use super::upstream::Servers;
use pillion_base::net::{Leg, Network};

/// The time for all servers and rounds together. Clients have given up by then.
const PATIENCE: Duration = Duration::from_secs(10);

/// The answer of the first server that knows one; if no server does, that of the first server that responded.
///
/// # Errors
/// No server has responded in time.
pub(super) async fn ask(
    network: &Network,
    servers: &Servers,
    asked: &ReceivedQuery,
    message: &[u8],
) -> Result<Vec<u8>, String> {
    let asking = timeout(PATIENCE, Box::pin(ask_all(network, servers, asked, message)));
    asking.await.unwrap_or_else(|_elapsed| Err(format!("no answer within {PATIENCE:?}")))
}

async fn ask_all(
    network: &Network,
    servers: &Servers,
    asked: &ReceivedQuery,
    message: &[u8],
) -> Result<Vec<u8>, String> {
    let mut why = "no name server is known".to_owned();
    for _ in 0..servers.attempts {
        let mut unknowing = None;
        for server in &servers.all {
            let id = Message::query().metadata.id; // at random, from hickory's own generator
            let query = with_id(message, id);
            let sent = Sent { network, server: *server, asked, query: &query, id };
            match timeout(servers.timeout, sent.answer()).await {
                Ok(Ok((answer, true))) => return Ok(answer),
                Ok(Ok((answer, false))) => drop(unknowing.get_or_insert(answer)),
                Ok(Err(error)) => why = format!("{server}: {error}"),
                Err(_elapsed) => why = format!("{server}: no answer within {:?}", servers.timeout),
            }
        }
        if let Some(answer) = unknowing {
            return Ok(answer);
        }
    }
    Err(why)
}

/// A query as it goes to one server.
struct Sent<'q> {
    network: &'q Network,
    server: SocketAddr,
    asked: &'q ReceivedQuery,
    query: &'q [u8],
    id: u16,
}

impl Sent<'_> {
    /// The answer, and whether the server knows one.
    async fn answer(&self) -> io::Result<(Vec<u8>, bool)> {
        match self.asked.over {
            Over::Udp => self.over_udp().await,
            Over::Tcp => self.over_tcp().await,
        }
    }

    async fn over_udp(&self) -> io::Result<(Vec<u8>, bool)> {
        let any: IpAddr =
            if self.server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let Some(socket) = self.network.bind_udp(SocketAddr::new(any, 0))? else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        socket.connect(self.server).await?; // the kernel drops datagrams from other addresses
        socket.send(self.query).await?;
        // one byte more shows that an answer is too long
        let mut answer = Vec::with_capacity(usize::from(MOST_OVER_UDP) + 1);
        loop {
            answer.clear();
            socket.recv_buf(&mut answer).await?;
            if let Some(knows) = self.is_answered_by(&answer) {
                return Ok((answer, knows));
            }
        }
    }

    async fn over_tcp(&self) -> io::Result<(Vec<u8>, bool)> {
        let mut stream = self.network.connect(self.server, Leg::Outbound, None).await?;
        write_message(&mut stream, self.query).await?;
        let answer = read_message(&mut stream).await?;
        let knows = self.is_answered_by(&answer);
        let knows =
            knows.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an answer to another query"))?;
        Ok((answer, knows))
    }

    /// Whether a message answers this query, and if so, whether the server knows an answer. A refusal may lack the
    /// question section.
    fn is_answered_by(&self, message: &[u8]) -> Option<bool> {
        let mut decoder = BinDecoder::new(message);
        let Header { metadata, counts } = Header::read(&mut decoder).ok()?;
        if metadata.id != self.id || metadata.message_type != MessageType::Response {
            return None;
        }
        let knows = matches!(metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain);
        let repeats = match counts.queries {
            0 => !knows,
            1 => Message::read_queries(&mut decoder, 1).ok()?.first() == Some(&self.asked.question),
            _ => false,
        };
        repeats.then_some(knows)
    }
}

/// Reads a message after its length (RFC 1035, section 4.2.2).
pub(super) async fn read_message(stream: &mut pillion_base::net::Stream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes length and message in one piece: some servers read only the length and wait.
pub(super) async fn write_message(stream: &mut pillion_base::net::Stream, message: &[u8]) -> io::Result<()> {
    let length =
        u16::try_from(message.len()).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    stream.write_all(&[&length.to_be_bytes()[..], message].concat()).await?;
    stream.flush().await
}
