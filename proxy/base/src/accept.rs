//! The accept loop of every listener: it accepts a connection, hands it over, and stops when it is asked to.
//!
//! A listener is open while its [`Holder`] lives, which may also ask for a copy of its descriptor.
//!
//! Deliberately absent: limits. The [`Acceptor`] admits the connections and decides which of them must be closed.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use crate::net::descriptors::{is_short_of_descriptors, is_short_of_memory};
use crate::net::{Listener, Stream};
use pillion_telemetry::Seldom;

/// The pause after an error that does not go away: so long that the loop costs nearly nothing, and so short that a
/// waiting client hardly notices it.
const PAUSE: Duration = Duration::from_millis(100);

/// The code that takes over the connections of a listener.
pub trait Acceptor {
    /// Returns when the loop may accept one more connection. Until then clients wait in the kernel's queue.
    fn ready(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    fn admit(&mut self, stream: Stream, from: SocketAddr);

    /// Frees the resource that this error reports as missing. Returns `false` when nothing can be freed: the loop then
    /// pauses.
    fn make_room(&mut self, _shortage: &io::Error) -> impl Future<Output = bool> + Send {
        std::future::ready(false)
    }
}

/// Holds a listener open. The listener is closed when this is dropped.
#[derive(Debug)]
pub struct Holder(oneshot::Sender<Order>);

/// The other half of a [`Holder`], for the accept loop. Its owner drops it when it has served the listener's queue.
#[derive(Debug)]
pub struct Hold {
    orders: oneshot::Receiver<Order>,
    /// Dropped with this: the waiting code then knows that the listener is closed.
    _closed: Option<mpsc::Sender<Closed>>,
}

/// A descriptor that was lent, with the id of its listener.
pub type Lent = (u64, OwnedFd);

/// No value of it exists: the end of its channel says that listeners are closed.
pub type Closed = std::convert::Infallible;

#[derive(Debug)]
enum Order {
    /// Asks for copies of the listener's descriptors. `then` holds the listener open from now on: a channel for many
    /// questions would take memory in every listener.
    Lend {
        id: u64,
        to: mpsc::Sender<Lent>,
        then: Hold,
    },
    Close(mpsc::Sender<Closed>),
}

/// The two halves of what holds a listener open.
pub fn hold() -> (Holder, Hold) {
    let (sender, orders) = oneshot::channel();
    (Holder(sender), Hold { orders, _closed: None })
}

impl Holder {
    /// Asks the listener for copies of its descriptors, which arrive with this id. Returns what holds it open from now
    /// on.
    pub fn lend(self, id: u64, to: mpsc::Sender<Lent>) -> Self {
        let (holder, then) = hold();
        drop(self.0.send(Order::Lend { id, to, then })); // a listener that is closed already has nothing to lend
        holder
    }

    /// Closes the listener. `closed` is dropped when the connections of its queue are served.
    pub fn close(self, closed: mpsc::Sender<Closed>) {
        drop(self.0.send(Order::Close(closed))); // a listener that is closed already drops it at once
    }
}

impl Hold {
    /// The next order. `None`: the holder was dropped. Dropping the future before it is ready loses nothing.
    async fn asked(&mut self) -> Option<Order> {
        (&mut self.orders).await.ok()
    }

    /// Carries the order out. Returns whether the listener stays open.
    async fn obey(
        &mut self,
        order: Option<Order>,
        copies: impl Iterator<Item = io::Result<OwnedFd>>,
    ) -> bool {
        match order {
            None => return false,
            Some(Order::Close(closed)) => {
                self._closed = Some(closed);
                return false;
            }
            Some(Order::Lend { id, to, then }) => {
                *self = then;
                for copy in copies {
                    match copy {
                        Ok(copy) => drop(to.send((id, copy)).await), // the reader may have given up
                        Err(error) => tracing::warn!(%error, "a listener cannot be handed over"),
                    }
                }
            }
        }
        true
    }
}

/// Accepts connections as [`accept`] does, until the listener's holder closes it as well. `beside` is a descriptor that is
/// lent together with the listener's.
pub async fn accept_held(
    mut listener: Listener,
    held: &mut Hold,
    ended: impl Future<Output = ()>,
    beside: Option<BorrowedFd<'_>>,
    acceptor: &mut impl Acceptor,
) -> Listener {
    let mut ended = std::pin::pin!(ended);
    loop {
        let (mut order, mut has_ended) = (None, false);
        let stop = async {
            tokio::select! { // dropping a branch loses nothing: both wait for an event that stays
                biased;
                () = &mut ended => has_ended = true,
                asked = held.asked() => order = asked,
            }
        };
        listener = accept(listener, stop, acceptor).await;
        let also = beside.iter().map(|descriptor| descriptor.try_clone_to_owned());
        let copies = std::iter::once_with(|| listener.descriptor()).chain(also);
        if has_ended || !held.obey(order, copies).await {
            return listener;
        }
    }
}

/// Accepts connections until `ended` returns. Returns the listener, because its queue may still hold connections.
pub async fn accept(
    mut listener: Listener,
    ended: impl Future<Output = ()>,
    acceptor: &mut impl Acceptor,
) -> Listener {
    let mut ended = std::pin::pin!(ended);
    loop {
        let accepted = tokio::select! { // dropping `next` loses nothing: the connection stays in the kernel's queue
            biased;
            () = &mut ended => return listener,
            accepted = next(&mut listener, acceptor) => accepted,
        };
        match accepted {
            Ok((stream, from)) => acceptor.admit(stream, from),
            Err(error) if is_of_one_connection(&error) => {} // the next connection may be intact
            Err(error) => {
                tokio::select! { // dropping `relieve` loses nothing: resources that it freed stay free
                    biased;
                    () = &mut ended => return listener,
                    () = relieve(&error, acceptor) => {}
                }
            }
        }
    }
}

async fn next(listener: &mut Listener, acceptor: &mut impl Acceptor) -> io::Result<(Stream, SocketAddr)> {
    acceptor.ready().await;
    listener.accept().await
}

fn is_shortage(error: &io::Error) -> bool {
    is_short_of_descriptors(error) || is_short_of_memory(error)
}

/// Whether the error belongs to one connection that broke before it was accepted. accept(2) lists these errors.
fn is_of_one_connection(error: &io::Error) -> bool {
    use Errno::*;
    let Some(code) = error.raw_os_error() else { return false };
    matches!(
        Errno::from_raw(code),
        ECONNABORTED
            | ECONNRESET
            | EPROTO
            | EINTR
            | ENETDOWN
            | ENOPROTOOPT
            | EHOSTDOWN
            | ENONET
            | EHOSTUNREACH
            | EOPNOTSUPP
            | ENETUNREACH
            | ETIMEDOUT
    )
}

/// Waits until accepting again makes sense. Without a pause or freed resources the loop would meet this error at once
/// again, and spin.
async fn relieve(error: &io::Error, acceptor: &mut impl Acceptor) {
    static LINE: Seldom = Seldom::new();
    if let Some(left_out) = LINE.due(Instant::now().into_std()) {
        tracing::warn!(%error, left_out, "cannot accept a connection; trying again every 100 ms");
    }
    if !is_shortage(error) || !acceptor.make_room(error).await {
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::memory::MemoryNetwork;
    use crate::net::{Bound, Network, Sharing};
    use tokio::sync::{mpsc, oneshot};

    /// An acceptor that takes one connection for each place that the test gives it.
    struct Places {
        given: mpsc::Receiver<()>,
        admitted: mpsc::UnboundedSender<SocketAddr>,
        can_free: bool,
    }

    impl Acceptor for Places {
        async fn ready(&mut self) {
            if self.given.recv().await.is_none() {
                std::future::pending().await
            }
        }

        fn admit(&mut self, _stream: Stream, from: SocketAddr) {
            self.admitted.send(from).expect("the test listens");
        }

        async fn make_room(&mut self, _shortage: &io::Error) -> bool {
            self.can_free
        }
    }

    fn places(can_free: bool) -> (Places, mpsc::Sender<()>, mpsc::UnboundedReceiver<SocketAddr>) {
        let ((give, given), (admitted, seen)) = (mpsc::channel(8), mpsc::unbounded_channel());
        (Places { given, admitted, can_free }, give, seen)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_accepted_when_there_is_a_place_and_connections_left_in_the_queue_are_given_back()
    {
        let memory = MemoryNetwork::default();
        let bound = Network::Memory(memory.clone()).bind("10.0.0.1:80".parse().unwrap(), Sharing::Alone);
        let (mut acceptor, give, mut seen) = places(false);
        let (end, ended) = oneshot::channel::<()>();
        let listener = bound.and_then(Bound::listen).unwrap();
        let accepting = tokio::spawn(async move {
            let ended = async { drop(ended.await) };
            accept(listener, ended, &mut acceptor).await.close().len()
        });
        let _clients = [
            memory.connect("10.0.0.1:80".parse().unwrap()).await.unwrap(),
            memory.connect("10.0.0.1:80".parse().unwrap()).await.unwrap(),
        ];
        sleep(PAUSE).await;
        assert!(seen.try_recv().is_err(), "there is no place yet");
        give.send(()).await.unwrap();
        seen.recv().await.expect("a place was given");
        end.send(()).unwrap();
        assert_eq!(accepting.await.unwrap(), 1, "the second one waits in the queue");
    }

    #[tokio::test]
    async fn a_listener_lends_copies_of_its_descriptor_and_accepts_until_its_holder_closes_it() {
        let bound = Network::Os.bind("127.0.0.1:0".parse().unwrap(), Sharing::Alone).unwrap();
        let address = bound.address().unwrap();
        let (mut acceptor, give, mut seen) = places(false);
        let (holder, held) = hold();
        let listener = bound.listen().unwrap();
        let accepting = tokio::spawn(async move {
            let mut held = held;
            accept_held(listener, &mut held, std::future::pending(), None, &mut acceptor).await;
        });
        let (to, mut lent) = mpsc::channel(1);
        let holder = holder.lend(7, to);
        let (id, copy) = lent.recv().await.expect("a copy");
        let copy = std::net::TcpListener::from(copy);
        assert_eq!((id, copy.local_addr().unwrap()), (7, address));
        give.send(()).await.unwrap();
        let _client = tokio::net::TcpStream::connect(address).await.unwrap();
        seen.recv().await.expect("it still accepts");
        let (closed, mut all_closed) = mpsc::channel(1);
        holder.close(closed);
        assert!(all_closed.recv().await.is_none(), "it is closed");
        accepting.await.unwrap();
        let _late = std::net::TcpStream::connect(address).expect("the copy keeps the address open");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lasting_error_pauses_the_accept_loop_unless_a_resource_can_be_freed() {
        const EMFILE: i32 = 24;
        const EPERM: i32 = 1;
        for (code, can_free, pause) in
            [(EMFILE, false, PAUSE), (EMFILE, true, Duration::ZERO), (EPERM, true, PAUSE)]
        {
            let (mut acceptor, _give, _seen) = places(can_free);
            let began = Instant::now();
            relieve(&io::Error::from_raw_os_error(code), &mut acceptor).await;
            assert_eq!(began.elapsed(), pause);
        }
    }

    #[test]
    fn missing_descriptors_or_memory_are_a_shortage_and_a_broken_connection_is_not() {
        let (enfile, emfile, enobufs, enomem, econnaborted) = (23, 24, 105, 12, 103);
        for (code, expected) in
            [(enfile, true), (emfile, true), (enobufs, true), (enomem, true), (econnaborted, false)]
        {
            assert_eq!(is_shortage(&io::Error::from_raw_os_error(code)), expected, "{code}");
        }
    }

    #[test]
    fn only_an_error_of_one_connection_is_skipped_without_a_pause() {
        let (econnaborted, enetunreach, eperm, einval, emfile) = (103, 101, 1, 22, 24);
        for (code, expected) in
            [(econnaborted, true), (enetunreach, true), (eperm, false), (einval, false), (emfile, false)]
        {
            assert_eq!(is_of_one_connection(&io::Error::from_raw_os_error(code)), expected, "{code}");
        }
    }
}
