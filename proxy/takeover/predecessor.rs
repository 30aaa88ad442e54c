//! The new process's side of a takeover.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt::socket_acceptconn;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::sleep;

use super::inherited::{Inherited, Socket};
use super::message::{Described, Message, Program};
use super::steps::{Event, Taking, TakingStep};
use super::wire::Wire;
use pillion_base::net::descriptors::raise_limit;

/// How often a connection is tried again that ended without a word, and the time between two tries: an old process that
/// ends, or that has just handed over to another one, takes less than that.
const TRIES: usize = 20;
const TRY_EVERY: Duration = Duration::from_millis(100);

/// Why the sidecar that serves at the socket was not replaced.
#[derive(Debug, Error)]
pub(crate) enum TakeoverError {
    #[error("cannot ask the sidecar at {}; is it another user's, or is the folder not readable?", path.display())]
    Unreachable { path: PathBuf, source: io::Error },
    #[error("the program at {} closes every connection", path.display())]
    Mute { path: PathBuf },
    #[error("the sidecar at {} serves on: {why}", path.display())]
    Kept { path: PathBuf, why: String },
}

/// What was found at the path.
pub(crate) enum Found {
    /// No process serves there.
    Nothing,
    Sidecar(Box<Predecessor>),
}

/// The sidecar that is to be replaced. It serves until [`Self::replace`], and goes on if this is dropped before.
pub(crate) struct Predecessor {
    path: PathBuf,
    wire: Wire,
    /// The socket at the path, at which this process waits for its own successor.
    listener: UnixListener,
    sockets: Inherited,
    /// Whether the old process has ended, so that this one serves in its place.
    has_ended: bool,
}

/// Asks the sidecar at `path` for its sockets, if there is one.
///
/// # Errors
/// A process serves there which is not a sidecar of this user, or does not hand over.
pub(crate) async fn find(path: &Path) -> Result<Found, TakeoverError> {
    let unreachable = |source| TakeoverError::Unreachable { path: path.to_owned(), source };
    drop(raise_limit()); // for the descriptors of all sockets; the start warns of a low limit
    for _ in 0..TRIES {
        let stream = match UnixStream::connect(path).await {
            Ok(stream) => stream,
            Err(error) if is_nothing(&error) => return Ok(Found::Nothing),
            Err(error) => return Err(unreachable(error)),
        };
        let mut wire = Wire::new(stream);
        wire.is_of_this_user().map_err(unreachable)?;
        drop(wire.send(&Message::hello(), &[]).await); // the answer, or its absence, says more than this error
        let (event, descriptors) = wire.event(Taking::AwaitsOffer.patience()).await;
        let of = offering(&event);
        match Taking::AwaitsOffer.next(event) {
            TakingStep::Receive { sockets } => {
                let received = receive(&mut wire, sockets, descriptors).await;
                let kept =
                    |error: io::Error| TakeoverError::Kept { path: path.to_owned(), why: error.to_string() };
                let (listener, sockets) = received.map_err(kept)?;
                tracing::info!(pid = of.pid, version = of.version, path = %path.display(), "taking over from a running sidecar");
                let (path, has_ended) = (path.to_owned(), false);
                return Ok(Found::Sidecar(Box::new(Predecessor {
                    path,
                    wire,
                    listener,
                    sockets,
                    has_ended,
                })));
            }
            TakingStep::GiveUp(why) => return Err(TakeoverError::Kept { path: path.to_owned(), why }),
            _ => sleep(TRY_EVERY).await,
        }
    }
    Err(TakeoverError::Mute { path: path.to_owned() })
}

/// Whether there is no socket, or no process that serves it.
fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn offering(event: &Event) -> Program {
    match event {
        Event::Said(Message::Offer { of, .. }) => of.clone(),
        _ => Program { pid: 0, version: String::new() },
    }
}

/// Receives the sockets after an offer. Those of a role that this version does not know are closed; the old process
/// closes its own copies when it hands over.
async fn receive(
    wire: &mut Wire,
    mut left: u64,
    of_offer: Vec<OwnedFd>,
) -> io::Result<(UnixListener, Inherited)> {
    let listener = of_offer.into_iter().next().filter(|socket| socket_acceptconn(socket).unwrap_or(false));
    let listener = listener.ok_or_else(|| io::Error::other("the offer came without its socket"))?;
    let mut all = Vec::new();
    while left > 0 {
        let (described, descriptors) = match wire.event(Taking::AwaitsOffer.patience()).await {
            (Event::Said(Message::Sockets(described)), descriptors) if !described.is_empty() => {
                (described, descriptors)
            }
            (Event::Said(Message::Kept(why)) | Event::Gone(why) | Event::Garbled(why), _) => {
                return Err(io::Error::other(why));
            }
            (Event::Silent | Event::Said(_), _) => {
                return Err(io::Error::other("the sockets did not arrive"));
            }
        };
        left = left.saturating_sub(u64::try_from(described.len()).unwrap_or(u64::MAX));
        let socket =
            |(Described { role, wanted }, descriptor)| Some(Socket { role: role?, wanted, descriptor });
        all.extend(described.into_iter().zip(descriptors).filter_map(socket));
    }
    Ok((listener.into(), Inherited::new(all)))
}

impl Predecessor {
    /// The sockets from which this process makes its listeners.
    pub(crate) const fn sockets(&self) -> &Inherited {
        &self.sockets
    }

    /// Waits for `ready`, by which this process gets ready.
    ///
    /// # Errors
    /// It took too long, or the old process does not hand over any more.
    pub(crate) async fn prepare<T>(&mut self, ready: impl Future<Output = T>) -> Result<T, TakeoverError> {
        let mut ready = std::pin::pin!(ready);
        loop {
            let event = tokio::select! { // nothing is lost: `ready` goes on in the next turn
                biased;
                done = &mut ready => return Ok(done),
                (event, _) = self.wire.event(Taking::GetsReady.patience()), if !self.has_ended => event,
            };
            self.follow(Taking::GetsReady.next(event))?;
        }
    }

    /// Lets this process accept connections by `open`, and the old one stop. Returns the socket at which this process
    /// waits for its successor.
    ///
    /// # Errors
    /// The old process serves on. In that case it may have come after `open` was called.
    pub(crate) async fn replace(mut self, open: impl FnOnce()) -> Result<UnixListener, TakeoverError> {
        self.sockets.close(); // so that the old process alone serves the queues of those
        if !self.has_ended {
            let step = self.say(&Message::Ready, Taking::AwaitsGo).await;
            self.follow(step)?;
        }
        open();
        if !self.has_ended {
            let step = self.say(&Message::Serving, Taking::AwaitsDone).await;
            self.follow(step)?;
        }
        Ok(self.listener)
    }

    /// Tells the old process why this one ends.
    pub(crate) async fn fail(mut self, why: String) {
        drop(self.wire.send(&Message::Failed(why), &[]).await); // without it, the old process sees the end alone
    }

    async fn say(&mut self, message: &Message, then: Taking) -> TakingStep {
        drop(self.wire.send(message, &[]).await); // an old process that has ended is seen as the next event
        let (event, _) = self.wire.event(then.patience()).await;
        then.next(event)
    }

    fn follow(&mut self, step: TakingStep) -> Result<(), TakeoverError> {
        match step {
            TakingStep::GiveUp(why) => Err(TakeoverError::Kept { path: self.path.clone(), why }),
            TakingStep::ServeAlone => {
                tracing::warn!(
                    "the sidecar that is taken over has ended without a word; serving in its place"
                );
                self.has_ended = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
