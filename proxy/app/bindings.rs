//! The addresses that one kind of thread listens on, from one configuration to the next: what is kept, bound and closed.
//!
//! Addresses are bound before anything else of a new configuration takes effect, so one that cannot be bound changes
//! nothing.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use crate::listening::{Command, bound};
use pillion_base::net::Sharing;

/// Commands on their way to a thread; two are sent a reload at most.
const COMMANDS: usize = 64;

/// What an address is for, as a reload may change it.
type InUse<U> = Arc<ArcSwap<U>>;

/// Whose addresses they are.
pub(super) trait Serves {
    /// What an address is for.
    type Use: Clone + PartialEq;
    /// A bound address on its way to a thread.
    type Port;

    /// Whether an open address can be used for something else without being bound again.
    fn may_become(from: &Self::Use, to: &Self::Use) -> bool;

    /// Returns the address, with a real port where it asks for any, and a port for each thread.
    fn bind(&self, request: &BindRequest<Self::Use>) -> io::Result<(SocketAddr, Vec<Self::Port>)>;
}

/// A line of the configuration.
pub(super) struct Wanted<U> {
    /// The key that asks for it.
    pub(super) key: String,
    pub(super) use_: U,
    pub(super) address: SocketAddr,
}

/// An address to be bound.
pub(super) struct BindRequest<U> {
    pub(super) id: u64,
    pub(super) address: SocketAddr,
    /// How the first thread shares the address; the others join it.
    pub(super) sharing: Sharing,
    pub(super) threads: usize,
    pub(super) use_: InUse<U>,
}

struct Open<U> {
    id: u64,
    /// A reload may change it where the address [may become](Serves::may_become) another's.
    use_: InUse<U>,
    wanted: SocketAddr,
    /// `None`: left out, as this kernel has no IPv6.
    bound: Option<SocketAddr>,
}

pub(super) struct Bindings<S: Serves> {
    of: S,
    threads: Vec<mpsc::Sender<Command<S::Port>>>,
    open: Vec<Open<S::Use>>,
    /// No longer wanted, and perhaps not closed by every thread yet.
    closing: Vec<(SocketAddr, Weak<ArcSwap<S::Use>>)>,
    last_id: u64,
}

/// From one configuration's addresses to the next one's: bound, and not yet in use.
pub(super) struct Change<S: Serves> {
    open: Vec<Open<S::Use>>,
    /// What open ones will be used for.
    uses: Vec<(InUse<S::Use>, S::Use)>,
    last_id: u64,
    /// For each thread.
    opened: Vec<Vec<S::Port>>,
    closed: Vec<u64>,
}

impl<U: Clone> Clone for Open<U> {
    fn clone(&self) -> Self {
        Self { id: self.id, use_: self.use_.clone(), wanted: self.wanted, bound: self.bound }
    }
}

impl<U> Open<U> {
    /// The same line, or the same address for something else.
    fn serves<S: Serves<Use = U>>(&self, wanted: &Wanted<U>, exactly: bool) -> bool
    where
        U: PartialEq,
    {
        let use_ = self.use_.load();
        let same_use = match exactly {
            true => **use_ == wanted.use_,
            false => S::may_become(&use_, &wanted.use_) && wanted.address.port() != 0,
        };
        same_use && self.wanted == wanted.address
    }
}

impl<S: Serves> Bindings<S> {
    /// Nothing is bound yet.
    pub(super) const fn new(of: S, threads: Vec<mpsc::Sender<Command<S::Port>>>) -> Self {
        Self { of, threads, open: Vec::new(), closing: Vec::new(), last_id: 0 }
    }

    /// Binds what is wanted and not bound yet.
    ///
    /// # Errors
    /// An address that cannot be bound. Nothing has changed then.
    pub(super) fn plan(&self, wanted: &[Wanted<S::Use>]) -> anyhow::Result<Change<S>> {
        let mut left = self.open.clone();
        let mut take = |wanted: &Wanted<S::Use>, exactly| {
            let at = left.iter().position(|open| open.serves::<S>(wanted, exactly))?;
            Some(left.swap_remove(at))
        };
        let mut kept: Vec<_> = wanted.iter().map(|wanted| take(wanted, true)).collect();
        for (kept, wanted) in kept.iter_mut().zip(wanted).filter(|(kept, _)| kept.is_none()) {
            *kept = take(wanted, false);
        }
        let mut change = Change {
            open: Vec::new(),
            uses: Vec::new(),
            last_id: self.last_id,
            opened: self.threads.iter().map(|_| Vec::new()).collect(),
            closed: left.into_iter().map(|open| open.id).collect(),
        };
        let own = self.own();
        for (wanted, kept) in wanted.iter().zip(kept) {
            match kept {
                Some(open) => change.keep(open, &wanted.use_),
                None => change.bind(&self.of, wanted, &own)?,
            }
        }
        refuse_deaf(wanted, &change.open)?;
        Ok(change)
    }

    /// What they are used for changes with [`Change::use_now`], and the threads learn of it with [`Self::send`].
    pub(super) fn commit(&mut self, change: &mut Change<S>) {
        let before = std::mem::replace(&mut self.open, std::mem::take(&mut change.open));
        let closed = before.iter().filter(|open| change.closed.contains(&open.id));
        self.closing.retain(|(_, use_)| use_.strong_count() > 0);
        self.closing.extend(closed.filter_map(|open| Some((open.bound?, Arc::downgrade(&open.use_)))));
        self.last_id = change.last_id;
    }

    /// A thread that does not take a command has ended, and with it the sidecar, or it stands still, and is
    /// [`COMMANDS`] behind. What it was told cannot be taken back.
    pub(super) fn send(&self, change: Change<S>) {
        for (thread, ports) in self.threads.iter().zip(change.opened) {
            let opened = (!ports.is_empty()).then_some(Command::Open(ports));
            let closed = (!change.closed.is_empty()).then(|| Command::Close(change.closed.clone()));
            for command in opened.into_iter().chain(closed) {
                if thread.try_send(command).is_err() {
                    tracing::error!("a thread does not take its listeners from the controller");
                }
            }
        }
    }

    /// Open addresses, each with what it is for.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (Arc<S::Use>, SocketAddr)> {
        self.open.iter().filter_map(|open| Some((open.use_.load_full(), open.bound?)))
    }

    /// Where the threads listen now, or still do.
    fn own(&self) -> Vec<SocketAddr> {
        let closing = self.closing.iter().filter(|(_, use_)| use_.strong_count() > 0);
        let open = self.open.iter().filter_map(|open| open.bound);
        open.chain(closing.map(|(address, _)| *address)).collect()
    }
}

impl<S: Serves> Change<S> {
    pub(super) fn use_now(&mut self) {
        for (cell, use_) in self.uses.drain(..) {
            cell.store(Arc::new(use_));
        }
    }

    /// What will be open.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.open.iter().filter_map(|open| open.bound).collect()
    }

    fn keep(&mut self, open: Open<S::Use>, use_: &S::Use) {
        if **open.use_.load() != *use_ {
            self.uses.push((open.use_.clone(), use_.clone()));
        }
        self.open.push(open);
    }

    /// `own`: where the threads listen now.
    fn bind(&mut self, of: &S, wanted: &Wanted<S::Use>, own: &[SocketAddr]) -> anyhow::Result<()> {
        self.last_id += 1;
        let (id, threads) = (self.last_id, self.opened.len());
        let use_ = Arc::new(ArcSwap::from_pointee(wanted.use_.clone()));
        let sharing = sharing(wanted.address, threads, own);
        let request = BindRequest { id, address: wanted.address, sharing, threads, use_: use_.clone() };
        let bound = bound(&wanted.key, wanted.address, of.bind(&request))?;
        let bound = bound.map(|(address, ports)| {
            self.opened.iter_mut().zip(ports).for_each(|(opened, port)| opened.push(port));
            address
        });
        self.open.push(Open { id, use_, wanted: wanted.address, bound });
        Ok(())
    }
}

/// On which a thread gets its listeners.
pub(super) fn channel<P>() -> (mpsc::Sender<Command<P>>, mpsc::Receiver<Command<P>>) {
    mpsc::channel(COMMANDS)
}

/// What is only for somebody else now was bound by nobody but this sidecar.
fn sharing(wanted: SocketAddr, threads: usize, own: &[SocketAddr]) -> Sharing {
    match threads {
        0 | 1 => Sharing::Alone,
        _ if own.iter().any(|own| covers(*own, wanted)) => Sharing::Joining,
        _ => Sharing::First,
    }
}

/// Whether who listens on `own` hears what comes to `wanted`.
fn covers(own: SocketAddr, wanted: SocketAddr) -> bool {
    let is_same = own.port() == wanted.port() && own.is_ipv4() == wanted.is_ipv4();
    is_same && wanted.port() != 0 && (own.ip() == wanted.ip() || own.ip().is_unspecified())
}

/// A key whose addresses are all left out is no listener.
fn refuse_deaf<U>(wanted: &[Wanted<U>], open: &[Open<U>]) -> anyhow::Result<()> {
    let hears =
        |key: &str| wanted.iter().zip(open).any(|(wanted, open)| wanted.key == key && open.bound.is_some());
    match wanted.iter().find(|wanted| !hears(&wanted.key)) {
        Some(deaf) => anyhow::bail!("{}: no address could be bound", deaf.key),
        None => Ok(()),
    }
}
