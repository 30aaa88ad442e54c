//! Both sides of a takeover over a real Unix socket, with a peer that breaks off or lies at each step.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use pillion_testkit::Scratch;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use super::message::{Message, Program, VERSION};
use super::wire::Wire;
use super::{Found, Predecessor, Socket, Successors, Wish, find};
use crate::listening::Role;

/// A sidecar with one listener, which waits for successors.
struct Former {
    scratch: Scratch,
    address: SocketAddr,
    /// Whether it has closed its listener.
    has_closed: Arc<AtomicBool>,
    keeping: JoinHandle<Successors>,
}

impl Former {
    fn start() -> Self {
        let scratch = Scratch::new();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let mut successors = Successors::listen(&scratch.path("socket"), None).expect("a socket");
        let has_closed = Arc::new(AtomicBool::new(false));
        let closes = has_closed.clone();
        let keeping = tokio::spawn(async move {
            loop {
                match successors.next().await {
                    Wish::Sockets(answer) => {
                        let descriptor = listener.as_fd().try_clone_to_owned().expect("a descriptor");
                        let socket = Socket { role: Role::Outbound, wanted: address, descriptor };
                        drop(answer.send(Ok(vec![socket])));
                    }
                    Wish::Serves { pid, closed } => {
                        assert_eq!(pid, Some(std::process::id()), "as the kernel knows it");
                        closes.store(true, Relaxed);
                        closed.send(()).expect("the conversation waits");
                        return successors;
                    }
                }
            }
        });
        Self { scratch, address, has_closed, keeping }
    }

    fn path(&self) -> PathBuf {
        self.scratch.path("socket")
    }

    async fn dialled(&self) -> Wire {
        Wire::new(UnixStream::connect(self.path()).await.expect("a socket"))
    }

    /// A successor that has got all sockets.
    async fn asked(&self) -> Box<Predecessor> {
        loop {
            match find(&self.path()).await {
                Ok(Found::Sidecar(predecessor)) => return predecessor,
                Ok(Found::Nothing) => unreachable!("it serves"),
                // the end of the conversation before was not seen yet
                Err(error) => assert!(error.to_string().contains("under way"), "{error}"),
            }
        }
    }

    /// Hands over to a further successor, which shows that nothing before has changed anything.
    async fn still_hands_over(self) {
        assert!(!self.has_closed.load(Relaxed));
        let mut next = self.asked().await;
        next.prepare(std::future::ready(())).await.expect("it waits");
        let taken = next.sockets().listeners(&Role::Outbound, self.address).expect("a listener");
        assert_eq!(taken.len(), 1);
        let mut has_opened = false;
        let listener = next.replace(|| has_opened = true).await.expect("a takeover");
        assert!(has_opened && self.has_closed.load(Relaxed));
        drop(self.keeping.await.expect("it has handed over"));
        let path = self.scratch.path("socket");
        assert!(path.exists(), "the socket belongs to the successor now");
        let own = Successors::listen(&path, Some(listener)).expect("the same socket");
        UnixStream::connect(&path).await.expect("the successor waits there");
        drop(own);
        assert!(!path.exists());
    }
}

async fn next(wire: &mut Wire) -> Message {
    wire.receive().await.expect("a message").0
}

#[tokio::test]
async fn a_successor_gets_the_listeners_and_the_socket() {
    Former::start().still_hands_over().await;
}

#[tokio::test]
async fn a_successor_that_breaks_off_at_any_step_changes_nothing() {
    for steps in 0..=4 {
        let former = Former::start();
        let mut wire = former.dialled().await;
        if steps > 0 {
            wire.send(&Message::hello(), &[]).await.expect("an open wire");
        }
        if steps > 1 {
            assert!(matches!(next(&mut wire).await, Message::Offer { sockets: 1, .. }));
            assert!(matches!(next(&mut wire).await, Message::Sockets(_)));
        }
        if steps > 2 {
            wire.send(&Message::Ready, &[]).await.expect("an open wire");
        }
        if steps > 3 {
            assert_eq!(next(&mut wire).await, Message::Go);
        }
        drop(wire);
        former.still_hands_over().await;
    }
}

#[tokio::test]
async fn a_successor_that_skips_a_step_is_told_that_the_sidecar_serves_on() {
    for out_of_turn in [Message::Ready, Message::Serving, Message::Done, Message::Failed("a bad file".into())]
    {
        let former = Former::start();
        let mut wire = former.dialled().await;
        wire.send(&out_of_turn, &[]).await.expect("an open wire");
        assert!(matches!(next(&mut wire).await, Message::Kept(_)), "{out_of_turn:?}");
        former.still_hands_over().await;
    }
}

#[tokio::test]
async fn a_process_that_says_nothing_or_something_else_delays_no_successor() {
    let former = Former::start();
    let _silent = former.dialled().await;
    let mut loud = UnixStream::connect(former.path()).await.expect("a socket");
    loud.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("an open socket");
    former.still_hands_over().await;
}

#[tokio::test]
async fn only_one_successor_may_get_ready() {
    let former = Former::start();
    let first = former.asked().await;
    let refused = find(&former.path()).await.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(refused.contains("another takeover is under way"), "{refused}");
    first.fail("a port is in use".into()).await;
    former.still_hands_over().await;
}

#[tokio::test]
async fn another_version_is_refused_in_words() {
    let former = Former::start();
    let mut wire = former.dialled().await;
    let hello = Message::Hello { versions: vec![VERSION + 1], of: Program::this() };
    wire.send(&hello, &[]).await.expect("an open wire");
    let Message::Kept(why) = next(&mut wire).await else { unreachable!("refused") };
    assert!(why.contains("speaks version 1"), "{why}");
    former.still_hands_over().await;
}

#[tokio::test]
async fn a_sidecar_that_ends_while_a_successor_gets_ready_leaves_everything_to_it() {
    let former = Former::start();
    let mut next = former.asked().await;
    let Former { scratch, keeping, .. } = former;
    keeping.abort();
    drop(keeping.await); // its end of the conversation is closed
    let path = scratch.path("socket");
    assert!(path.exists(), "the successor has the socket");
    next.prepare(tokio::time::sleep(Duration::from_millis(1))).await.expect("it goes on alone");
    let mut has_opened = false;
    next.replace(|| has_opened = true).await.expect("it serves alone");
    assert!(has_opened);
}

/// The sidecar must not say that it serves on, however its end and the conversation follow each other.
#[tokio::test]
async fn a_sidecar_that_is_told_to_end_when_its_successor_serves_leaves_everything_to_it() {
    let scratch = Scratch::new();
    let path = scratch.path("socket");
    let mut successors = Successors::listen(&path, None).expect("a socket");
    let ending = tokio::spawn(async move {
        loop {
            match successors.next().await {
                Wish::Sockets(answer) => drop(answer.send(Ok(Vec::new()))),
                Wish::Serves { closed, .. } => {
                    drop(closed);
                    for _ in 0..10 {
                        tokio::task::yield_now().await; // the conversation goes on before its end
                    }
                    return drop(successors);
                }
            }
        }
    });
    let Ok(Found::Sidecar(predecessor)) = find(&path).await else { unreachable!("it serves") };
    let mut has_opened = false;
    predecessor.replace(|| has_opened = true).await.expect("it serves alone");
    assert!(has_opened && path.exists());
    ending.await.expect("no panic");
}

/// A program at the socket that is no sidecar, or that breaks the rules. `says` is what it does with each connection.
async fn liar<F: Future<Output = ()>>(says: impl Fn(Wire) -> F) -> String {
    let scratch = Scratch::new();
    let path = scratch.path("socket");
    let listener = UnixListener::bind(&path).expect("a socket");
    let serving = async {
        while let Ok((stream, _)) = listener.accept().await {
            says(Wire::new(stream)).await;
        }
    };
    tokio::select! {
        () = serving => unreachable!("it serves until the end"),
        found = find(&path) => match found {
            Ok(_) => unreachable!("it is no sidecar"),
            Err(error) => error.to_string(),
        },
    }
}

#[tokio::test]
async fn a_program_at_the_socket_that_is_no_sidecar_is_told_from_one() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let offer = |version, sockets| Message::Offer { version, sockets, of: Program::this() };
    let says = async |message: Message| {
        liar(|mut wire| {
            let (message, listener) = (message.clone(), &listener);
            async move {
                wire.receive().await.expect("hello");
                let descriptors = vec![listener.as_fd(); message.descriptors()];
                wire.send(&message, &descriptors).await.expect("an open wire");
            }
        })
        .await
    };
    assert!(says(Message::Go).await.contains("it said go out of turn"));
    assert!(says(offer(7, 0)).await.contains("it said offer out of turn"));
    let with_another = liar(|mut wire| {
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let offer = offer(1, 0);
        async move {
            wire.receive().await.expect("hello");
            wire.send(&offer, &[udp.as_fd()]).await.expect("an open wire");
        }
    });
    assert!(with_another.await.contains("the offer came without its socket"));
    let with_fewer = liar(|mut wire| {
        let (offer, listener) = (offer(1, 5), &listener);
        async move {
            wire.receive().await.expect("hello");
            wire.send(&offer, &[listener.as_fd()]).await.expect("an open wire");
        }
    });
    assert!(with_fewer.await.contains("it closed the connection"));
}

#[tokio::test(start_paused = true)]
async fn a_program_that_stays_silent_or_closes_every_connection_is_given_up() {
    let silent = liar(|wire| async move {
        let _open = wire;
        std::future::pending().await
    });
    assert!(silent.await.contains("it did not answer for 10 s"));
    assert!(liar(|wire| async { drop(wire) }).await.contains("closes every connection"));
}

#[tokio::test(start_paused = true)]
async fn a_successor_that_does_not_get_ready_in_time_gives_up() {
    let former = Former::start();
    let mut late = former.asked().await;
    let error = late.prepare(std::future::pending::<()>()).await.expect_err("it takes too long");
    assert!(error.to_string().contains("was not ready within 60 s"), "{error}");
}

#[tokio::test]
async fn where_no_process_serves_there_is_nothing_to_take_over() {
    let scratch = Scratch::new();
    let path = scratch.path("socket");
    assert!(matches!(find(&path).await, Ok(Found::Nothing)));
    drop(UnixListener::bind(&path).expect("a socket"));
    assert!(matches!(find(&path).await, Ok(Found::Nothing)), "it is stale");
}
