//! The old process's side of a takeover: it waits at the socket, and hands over to the successor that proves itself.

use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use tokio::net::UnixListener;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use super::inherited::Socket;
use super::message::{Described, Message, Program, VERSION};
use super::place::{self, Place};
use super::steps::{Event, Giving, GivingStep};
use super::wire::{AT_ONCE, Wire};

/// Processes that may talk at once. Only one of them can be a successor; further ones wait to be accepted.
const AT_THE_SOCKET: usize = 8;

/// What a successor needs of this sidecar.
#[derive(Debug)]
pub(crate) enum Wish {
    /// Copies of all listeners, or why there are none.
    Sockets(oneshot::Sender<Result<Vec<Socket>, String>>),
    /// It accepts connections: all listeners of this process must be closed, and then this is answered.
    Serves {
        /// Its number, if it is in the same namespace of processes.
        pid: Option<u32>,
        closed: oneshot::Sender<()>,
    },
}

/// The socket at which successors ask. When this is dropped, no successor is admitted any more.
pub(crate) struct Successors {
    wishes: mpsc::Receiver<Wish>,
    /// Whether a successor has a copy of the socket at the path.
    is_lent: Arc<AtomicBool>,
    place: Place,
    task: JoinHandle<()>,
}

struct Shared {
    listener: UnixListener,
    wishes: mpsc::Sender<Wish>,
    /// The permit of the one successor that may get ready.
    turn: Semaphore,
    is_lent: Arc<AtomicBool>,
    has_given: AtomicBool,
    given: Notify,
}

impl Successors {
    /// Waits for successors at `path`, on the socket of a process that was taken over or on a new one.
    ///
    /// # Errors
    /// There can be no socket at `path`.
    pub(crate) fn listen(path: &Path, taken: Option<std::os::unix::net::UnixListener>) -> io::Result<Self> {
        let (listener, place) = match taken {
            Some(listener) => (listener, Place::at(path)),
            None => place::serve(path)?,
        };
        listener.set_nonblocking(true)?;
        let (sender, wishes) = mpsc::channel(1);
        let is_lent = Arc::new(AtomicBool::new(false));
        let shared = Arc::new(Shared {
            listener: UnixListener::from_std(listener)?,
            wishes: sender,
            turn: Semaphore::new(1),
            is_lent: is_lent.clone(),
            has_given: AtomicBool::new(false),
            given: Notify::new(),
        });
        let task = tokio::spawn(admit(shared));
        Ok(Self { wishes, is_lent, place, task })
    }

    /// The next wish of a successor. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Wish {
        match self.wishes.recv().await {
            Some(wish) => wish,
            None => std::future::pending().await, // the task has handed over
        }
    }
}

impl Drop for Successors {
    fn drop(&mut self) {
        self.task.abort();
        if !self.is_lent.load(SeqCst) {
            self.place.remove();
        }
    }
}

/// Talks to each process that connects, until one of them has taken over. Conversations in progress are completed.
async fn admit(shared: Arc<Shared>) {
    let mut talks = JoinSet::new();
    while !shared.has_given.load(SeqCst) {
        tokio::select! { // dropping a branch loses nothing: a process that connects waits, and talks go on
            () = shared.given.notified() => {}
            accepted = shared.listener.accept(), if talks.len() < AT_THE_SOCKET => match accepted {
                Ok((stream, _)) => drop(talks.spawn(talk(Wire::new(stream), shared.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "a successor cannot be accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_ended) = talks.join_next() => {}
        }
    }
    drop(shared); // with the last talk, the socket is closed in this process
    while talks.join_next().await.is_some() {}
}

/// The pause after an error of the socket, which no successor causes.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

async fn talk(mut wire: Wire, shared: Arc<Shared>) {
    if let Err(error) = wire.is_of_this_user() {
        return tracing::warn!(%error, "a takeover by another user is refused");
    }
    match hand_over(&mut wire, &shared).await {
        Ok(()) => {}
        Err(Broken::Keeps(why)) => {
            tracing::warn!("no takeover, this sidecar serves on: {why}");
            drop(wire.send(&Message::Kept(why), &[]).await); // a process that has gone need not know
        }
        // it must not say that it serves on; the successor sees the end of the connection, and serves in its place
        Err(Broken::Ends) => tracing::info!("this sidecar was told to end during a takeover"),
    }
}

/// Why a conversation came to nothing.
enum Broken {
    /// This sidecar serves on, for this reason.
    Keeps(String),
    /// This sidecar is about to end.
    Ends,
}

impl From<String> for Broken {
    fn from(why: String) -> Self {
        Self::Keeps(why)
    }
}

/// Hands over, unless a step fails.
async fn hand_over(wire: &mut Wire, shared: &Shared) -> Result<(), Broken> {
    let mut state = Giving::Connected;
    let mut _turn = None;
    loop {
        let (event, _) = wire.event(state.patience()).await;
        if let Event::Said(Message::Hello { of, .. }) = &event {
            tracing::info!(pid = of.pid, version = of.version, "a successor asks for the listeners");
        }
        state = match state.next(event) {
            GivingStep::Offer(_) if shared.has_given.load(SeqCst) => return Ok(()), // it finds the successor
            GivingStep::Offer(next) => {
                let only =
                    shared.turn.try_acquire().map_err(|_taken| "another takeover is under way".to_owned())?;
                _turn = Some(Turn { _only: only, shared });
                offer(wire, shared).await?;
                next
            }
            GivingStep::Go(next) => {
                say(wire, &Message::Go).await?;
                next
            }
            GivingStep::HandOver => {
                give(shared, wire.pid()).await?;
                drop(wire.send(&Message::Done, &[]).await); // the successor serves, whether it knows this or not
                return Ok(());
            }
            GivingStep::Keep(why) => return Err(Broken::Keeps(why)),
        };
    }
}

/// The turn of one successor. After a turn that came to nothing, the socket is this process's alone.
struct Turn<'a> {
    _only: tokio::sync::SemaphorePermit<'a>,
    shared: &'a Shared,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.shared.is_lent.store(self.shared.has_given.load(SeqCst), SeqCst);
    }
}

async fn offer(wire: &mut Wire, shared: &Shared) -> Result<(), Broken> {
    let (answer, answered) = oneshot::channel();
    shared.wishes.send(Wish::Sockets(answer)).await.map_err(|_ended| Broken::Ends)?;
    let sockets = answered.await.map_err(|_ended| Broken::Ends)??;
    let count = u64::try_from(sockets.len()).map_err(|error| error.to_string())?;
    let message = Message::Offer { version: VERSION, sockets: count, of: Program::this() };
    shared.is_lent.store(true, SeqCst);
    let failed = |error: io::Error| format!("the sockets cannot be sent: {error}");
    wire.send(&message, &[shared.listener.as_fd()]).await.map_err(failed)?;
    for some in sockets.chunks(AT_ONCE) {
        let described =
            |socket: &Socket| Described { role: Some(socket.role.clone()), wanted: socket.wanted };
        let message = Message::Sockets(some.iter().map(described).collect());
        let all: Vec<_> = some.iter().map(|socket| socket.descriptor.as_fd()).collect();
        wire.send(&message, &all).await.map_err(failed)?;
    }
    Ok(())
}

async fn say(wire: &mut Wire, message: &Message) -> Result<(), String> {
    wire.send(message, &[]).await.map_err(|error| format!("the successor has gone: {error}"))
}

/// Lets this sidecar close its listeners.
async fn give(shared: &Shared, pid: Option<u32>) -> Result<(), Broken> {
    let (closed, all_closed) = oneshot::channel();
    shared.wishes.send(Wish::Serves { pid, closed }).await.map_err(|_ended| Broken::Ends)?;
    shared.has_given.store(true, SeqCst);
    shared.given.notify_one();
    all_closed.await.map_err(|_ended| Broken::Ends)
}
