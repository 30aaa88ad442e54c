//! One replica of the application: it answers in plain HTTP/1.1, or fails.
//!
//! It fails for as long as its schedule says, whatever requests it gets.

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

use super::schedule::{Period, ReplicaState};

/// Connections that wait to be accepted. The sidecar opens only a few.
const BACKLOG: u32 = 128;

pub(crate) struct Replica {
    name: Arc<str>,
    address: SocketAddr,
    /// Keeps the port while the listener is closed. This socket is bound and never listens, so that connections are
    /// refused and no other program can take the port.
    _reserved: TcpSocket,
    state: watch::Sender<ReplicaState>,
    listener: Option<TcpListener>,
    /// The open connections. They are closed when the port is closed.
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
            state: watch::Sender::new(ReplicaState::Well),
            listener: Some(listen(address)?),
            connections: JoinSet::new(),
        })
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Reports the replica's state.
    pub(crate) fn state(&self) -> watch::Receiver<ReplicaState> {
        self.state.subscribe()
    }

    /// Goes through `periods`, then stays well.
    ///
    /// # Errors
    /// The port could not be opened again.
    pub(crate) async fn live(mut self, periods: impl Iterator<Item = Period>) -> io::Result<Infallible> {
        let mut ends = Instant::now();
        for period in periods {
            ends += period.lasts;
            self.enter(period.state)?;
            drop(timeout_at(ends, self.serve()).await); // serving ends with the period
        }
        self.enter(ReplicaState::Well)?;
        Ok(self.serve().await)
    }

    fn enter(&mut self, state: ReplicaState) -> io::Result<()> {
        self.state.send_replace(state);
        if state == ReplicaState::Refusing {
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
                    drop(self.connections.spawn(answer(stream, self.name.clone(), self.state.subscribe())));
                }
                // there are no descriptors left; an immediate attempt would use all CPU time
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
            while self.connections.try_join_next().is_some() {} // removes connections that have ended
        }
    }
}

/// Reservation and listener both set SO_REUSEADDR, because otherwise they could not share the port.
fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    bind(address)?.listen(BACKLOG)
}

async fn answer(stream: TcpStream, name: Arc<str>, state: watch::Receiver<ReplicaState>) {
    let service = service_fn(move |_request| {
        let answer = words(&name, *state.borrow());
        async move { Ok::<_, Infallible>(answer) }
    });
    drop(stream.set_nodelay(true)); // without it responses are slower, but correct
    // an error concerns only this connection
    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
}

fn words(name: &str, state: ReplicaState) -> Response<Full<Bytes>> {
    let (status, words) = match state {
        ReplicaState::Well => (StatusCode::OK, format!("{name} has accepted your order\n")),
        ReplicaState::Failing | ReplicaState::Refusing => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{name} is failing\n"))
        }
    };
    let mut answer = Response::new(Full::from(words));
    *answer.status_mut() = status;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::client::Client;

    fn replica() -> Replica {
        Replica::open("orders-3").expect("loopback has a free port")
    }

    async fn status(client: Option<&mut Client>) -> Option<u16> {
        client?.get("orders", "/").await.ok().map(|answer| answer.status().as_u16())
    }

    /// The status that a client gets on a new connection while the replica is in `state`.
    async fn asked_when(replica: &mut Replica, state: ReplicaState) -> Option<u16> {
        replica.enter(state).expect("the port is reserved");
        let address = replica.address();
        let asking = async { status(Client::connect(address).await.ok().as_mut()).await };
        tokio::select! { // serving continues with the next request
            never = replica.serve() => match never {},
            status = asking => status,
        }
    }

    #[tokio::test]
    async fn a_replica_fails_refuses_and_recovers_at_the_same_address() {
        let mut replica = replica();
        let story = [
            (ReplicaState::Well, Some(200)),
            (ReplicaState::Failing, Some(503)),
            (ReplicaState::Refusing, None),
            (ReplicaState::Failing, Some(503)),
            (ReplicaState::Well, Some(200)),
        ];
        for (state, expected) in story {
            assert_eq!(asked_when(&mut replica, state).await, expected, "{state:?}");
        }
    }

    #[tokio::test]
    async fn open_connections_are_closed_together_with_the_port() {
        let mut replica = replica();
        let mut client = Client::connect(replica.address()).await.expect("it listens");
        let first = tokio::select! {
            never = replica.serve() => match never {},
            status = status(Some(&mut client)) => status,
        };
        replica.enter(ReplicaState::Refusing).expect("closing cannot fail");
        assert_eq!((first, status(Some(&mut client)).await), (Some(200), None));
    }

    #[tokio::test(start_paused = true)]
    async fn the_states_of_a_replica_follow_the_schedule() {
        let replica = replica();
        let (mut seen, began) = (replica.state(), Instant::now());
        let periods = [
            (ReplicaState::Failing, 3),
            (ReplicaState::Refusing, 2),
            (ReplicaState::Well, 5),
            (ReplicaState::Failing, 1),
        ]
        .map(|(state, seconds)| Period { state, lasts: Duration::from_secs(seconds) });
        let _life = JoinSet::from_iter([replica.live(periods.into_iter())]);
        let mut story = Vec::new();
        for _ in 0..5 {
            seen.changed().await.expect("the replica lives");
            story.push((began.elapsed().as_secs(), *seen.borrow_and_update()));
        }
        let expected = [
            (0, ReplicaState::Failing),
            (3, ReplicaState::Refusing),
            (5, ReplicaState::Well),
            (10, ReplicaState::Failing),
            (11, ReplicaState::Well),
        ];
        assert_eq!(story, expected);
    }
}
