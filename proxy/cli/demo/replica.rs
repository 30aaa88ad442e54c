//! One replica of the app: answers in plain HTTP/1.1, or is in a mood.
//!
//! It stays ill as long as its schedule says, whatever is asked of it.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::schedule::{Mood, Spell};

/// Connections that wait to be accepted; its sidecar makes only a few.
const BACKLOG: u32 = 128;

pub(crate) struct Replica {
    name: Arc<str>,
    address: SocketAddr,
    /// Keeps the port while the listener is closed: bound, never listening, so that connections are refused and
    /// nobody else on the machine can take it.
    _reserved: TcpSocket,
    mood: watch::Sender<Mood>,
    listener: Option<TcpListener>,
    /// Open connections; all are cut when the door is closed.
    connections: JoinSet<()>,
}

impl Replica {
    /// Takes a free port on loopback and listens there.
    pub(crate) fn open(name: &str) -> io::Result<Self> {
        let reserved = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = reserved.local_addr()?;
        Ok(Self {
            name: name.into(),
            address,
            _reserved: reserved,
            mood: watch::Sender::new(Mood::Well),
            listener: Some(listen(address)?),
            connections: JoinSet::new(),
        })
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// How it is, for those who want to tell.
    pub(crate) fn mood(&self) -> watch::Receiver<Mood> {
        self.mood.subscribe()
    }

    /// Lives through `spells`, then stays well.
    ///
    /// # Errors
    /// Its port could not be opened again.
    pub(crate) async fn live(mut self, spells: impl Iterator<Item = Spell>) -> io::Result<Infallible> {
        let mut ends = Instant::now();
        for spell in spells {
            ends += spell.lasts;
            self.enter(spell.mood)?;
            drop(timeout_at(ends, self.serve()).await); // serving ends only with the spell
        }
        self.enter(Mood::Well)?;
        Ok(self.serve().await)
    }

    fn enter(&mut self, mood: Mood) -> io::Result<()> {
        self.mood.send_replace(mood);
        if mood == Mood::Refusing {
            self.listener = None;
            self.connections.abort_all();
        } else if self.listener.is_none() {
            self.listener = Some(listen(self.address)?);
        }
        Ok(())
    }

    async fn serve(&mut self) -> Infallible {
        let Some(listener) = &self.listener else { return std::future::pending().await };
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    drop(self.connections.spawn(answer(stream, self.name.clone(), self.mood.subscribe())));
                }
                Err(_) => sleep(Duration::from_millis(100)).await, // out of descriptors: trying at once would spin
            }
            while self.connections.try_join_next().is_some() {} // those that have ended
        }
    }
}

/// Both the reservation and the listener have SO_REUSEADDR: only so may they share the port.
fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    bind(address)?.listen(BACKLOG)
}

async fn answer(stream: TcpStream, name: Arc<str>, mood: watch::Receiver<Mood>) {
    let service = service_fn(move |_request| {
        let answer = words(&name, *mood.borrow());
        async move { Ok::<_, Infallible>(answer) }
    });
    drop(stream.set_nodelay(true)); // slower without, not wrong
    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await); // its peer's loss
}

fn words(name: &str, mood: Mood) -> Response<Full<Bytes>> {
    let (status, words) = match mood {
        Mood::Well => (StatusCode::OK, format!("your order is in good hands with {name}\n")),
        Mood::Failing | Mood::Refusing => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{name} is not feeling well\n"))
        }
    };
    let mut answer = Response::new(Full::from(words));
    *answer.status_mut() = status;
    answer
}

#[cfg(test)]
mod tests {
    use super::super::client::Client;
    use super::*;

    async fn status(replica: SocketAddr) -> Option<u16> {
        let mut client = Client::connect(replica).await.ok()?;
        client.get("orders", "/").await.ok().map(|answer| answer.status().as_u16())
    }

    /// Waits for a mood, so that no clock is needed.
    async fn until(seen: &mut watch::Receiver<Mood>, mood: Mood) {
        seen.wait_for(|now| *now == mood).await.expect("the replica lives");
    }

    #[tokio::test]
    async fn it_is_well_fails_refuses_and_is_well_again_at_the_same_address() {
        let replica = Replica::open("orders-3").expect("a free port");
        let (address, mut seen) = (replica.address(), replica.mood());
        let lasts = Duration::from_millis(200);
        let spells = [Mood::Failing, Mood::Refusing].map(|mood| Spell { mood, lasts });
        assert_eq!(*seen.borrow(), Mood::Well);
        let _life = JoinSet::from_iter([replica.live(spells.into_iter())]);
        until(&mut seen, Mood::Failing).await;
        assert_eq!(status(address).await, Some(503));
        until(&mut seen, Mood::Refusing).await;
        assert_eq!(status(address).await, None);
        until(&mut seen, Mood::Well).await;
        assert_eq!(status(address).await, Some(200));
    }

    #[tokio::test]
    async fn a_connection_it_had_does_not_outlive_the_door() {
        let replica = Replica::open("orders-3").expect("a free port");
        let (address, mut seen) = (replica.address(), replica.mood());
        let moods = [(Mood::Well, 100), (Mood::Refusing, 1000)];
        let spells = moods.map(|(mood, lasts)| Spell { mood, lasts: Duration::from_millis(lasts) });
        let _life = JoinSet::from_iter([replica.live(spells.into_iter())]);
        let mut client = Client::connect(address).await.expect("it listens");
        assert!(client.get("orders", "/").await.is_ok());
        until(&mut seen, Mood::Refusing).await;
        assert!(client.get("orders", "/").await.is_err());
    }
}
