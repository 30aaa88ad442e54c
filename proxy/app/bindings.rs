//! The addresses on which one kind of thread listens: which of them a new configuration keeps, binds and closes.
//!
//! Addresses are bound before anything else of a new configuration takes effect, so that an address that cannot be
//! bound changes nothing.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use pillion_base::accept::{Closed, Lent};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::listening::{Command, Role, bound};
use pillion_base::net::Sharing;

/// The capacity of a thread's command queue. A reload sends two commands at most.
const COMMANDS: usize = 64;

/// What an address is used for. A reload may change it.
type InUse<U> = Arc<ArcSwap<U>>;

/// The kind of thread whose addresses these are.
pub(super) trait Serves {
    /// What an address is used for.
    type Use: Clone + PartialEq;
    /// A bound address that is sent to a thread.
    type Port;

    /// Whether an open address can change its use without being bound again.
    fn may_become(from: &Self::Use, to: &Self::Use) -> bool;

    /// The id of the request for which a port was bound.
    fn id(port: &Self::Port) -> u64;

    /// What an address with this use is for.
    fn role(use_: &Self::Use) -> Role;

    /// Returns the address, with the real port if port 0 was requested, and at least one port for each thread. There are
    /// more if a sidecar that was taken over had more threads.
    fn bind(&self, request: &BindRequest<Self::Use>) -> io::Result<(SocketAddr, Vec<Self::Port>)>;
}

/// An address that the configuration asks for.
pub(super) struct Wanted<U> {
    /// The key of the configuration that asks for it.
    pub(super) key: String,
    pub(super) use_: U,
    pub(super) address: SocketAddr,
}

/// An address that must be bound.
pub(super) struct BindRequest<U> {
    pub(super) id: u64,
    pub(super) address: SocketAddr,
    /// How the first thread shares the address. The other threads join it.
    pub(super) sharing: Sharing,
    pub(super) threads: usize,
    pub(super) use_: InUse<U>,
}

struct Open<U> {
    id: u64,
    /// A reload may change the use, if the old one [may become](Serves::may_become) the new one.
    use_: InUse<U>,
    wanted: SocketAddr,
    /// `None`: the address is left out, because this kernel has no IPv6.
    bound: Option<SocketAddr>,
}

pub(super) struct Bindings<S: Serves> {
    of: S,
    threads: Vec<mpsc::Sender<Command<S::Port>>>,
    open: Vec<Open<S::Use>>,
    /// Addresses that are no longer wanted, and that some thread may not have closed yet.
    closing: Vec<(SocketAddr, Weak<ArcSwap<S::Use>>)>,
    last_id: u64,
    /// The ports of each thread that are not sent to it yet. `None`: they are sent at once.
    held: Option<Vec<Vec<S::Port>>>,
    /// Whether a successor accepts on these addresses, and this process on none any more.
    is_closed: bool,
}

/// The step from one configuration's addresses to those of the next: bound, and not used yet.
pub(super) struct Change<S: Serves> {
    open: Vec<Open<S::Use>>,
    /// The new uses of open addresses.
    uses: Vec<(InUse<S::Use>, S::Use)>,
    last_id: u64,
    /// The new ports of each thread.
    opened: Vec<Vec<S::Port>>,
    closed: Vec<u64>,
}

impl<U: Clone> Clone for Open<U> {
    fn clone(&self) -> Self {
        Self { id: self.id, use_: self.use_.clone(), wanted: self.wanted, bound: self.bound }
    }
}

impl<U> Open<U> {
    /// Whether this address serves `wanted`: exactly the same line, or the same address for another use.
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
    /// No address is bound yet. Nothing is accepted before [`Self::open`].
    pub(super) fn new(of: S, threads: Vec<mpsc::Sender<Command<S::Port>>>) -> Self {
        let held = Some(threads.iter().map(|_| Vec::new()).collect());
        Self { of, threads, open: Vec::new(), closing: Vec::new(), last_id: 0, held, is_closed: false }
    }

    /// Lets the threads accept connections from now on.
    pub(super) fn open(&mut self) {
        let held = self.held.take().unwrap_or_default();
        self.send_all(held, &[]);
    }

    pub(super) const fn is_open(&self) -> bool {
        self.held.is_none()
    }

    /// Tells the threads to close all addresses for good. Each thread drops its clone of `closed` when that is done.
    /// Accepted connections stay open, and the addresses stay known as this sidecar's.
    pub(super) fn close(&mut self, closed: &mpsc::Sender<Closed>) {
        self.is_closed = true;
        for thread in &self.threads {
            // a thread that has ended has no listeners
            if let Err(TrySendError::Full(_)) = thread.try_send(Command::CloseAll(closed.clone())) {
                tracing::error!("a thread does not take the command to close its listeners");
            }
        }
    }

    /// Copies of the descriptors of all listeners, each with the role and the address that the configuration gives it.
    /// The caller bounds the wait.
    pub(super) async fn lend(&self) -> Vec<(Role, SocketAddr, OwnedFd)> {
        let (to, mut lent) = mpsc::channel::<Lent>(COMMANDS);
        for thread in &self.threads {
            drop(thread.send(Command::Lend(to.clone())).await); // a thread that has ended has no listeners
        }
        drop(to);
        let mut all = Vec::new();
        while let Some((id, descriptor)) = lent.recv().await {
            let open = self.open.iter().find(|open| open.id == id);
            all.extend(open.map(|open| (S::role(&open.use_.load()), open.wanted, descriptor)));
        }
        all
    }

    /// Binds the wanted addresses that are not bound yet. Binds nothing after [`Self::close`], where new certificates are
    /// applied although the addresses are a successor's.
    ///
    /// # Errors
    /// An address cannot be bound. In that case nothing has changed.
    pub(super) fn plan(&self, wanted: &[Wanted<S::Use>]) -> anyhow::Result<Change<S>> {
        if self.is_closed {
            return Ok(self.unchanged(self.open.clone(), &[]));
        }
        let mut left = self.open.clone();
        let mut take = |wanted: &Wanted<S::Use>, exactly| {
            let at = left.iter().position(|open| open.serves::<S>(wanted, exactly))?;
            Some(left.swap_remove(at))
        };
        let mut kept: Vec<_> = wanted.iter().map(|wanted| take(wanted, true)).collect();
        for (kept, wanted) in kept.iter_mut().zip(wanted).filter(|(kept, _)| kept.is_none()) {
            *kept = take(wanted, false);
        }
        let mut change = self.unchanged(Vec::new(), &left);
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

    /// A change that opens nothing, and closes these addresses.
    fn unchanged(&self, open: Vec<Open<S::Use>>, closed: &[Open<S::Use>]) -> Change<S> {
        Change {
            open,
            uses: Vec::new(),
            last_id: self.last_id,
            opened: self.threads.iter().map(|_| Vec::new()).collect(),
            closed: closed.iter().map(|open| open.id).collect(),
        }
    }

    /// Makes the change permanent. [`Change::use_now`] changes the uses, and [`Self::send`] sends the change to the
    /// threads.
    pub(super) fn commit(&mut self, change: &mut Change<S>) {
        let before = std::mem::replace(&mut self.open, std::mem::take(&mut change.open));
        let closed = before.iter().filter(|open| change.closed.contains(&open.id));
        self.closing.retain(|(_, use_)| use_.strong_count() > 0);
        self.closing.extend(closed.filter_map(|open| Some((open.bound?, Arc::downgrade(&open.use_)))));
        self.last_id = change.last_id;
    }

    /// Sends the change to the threads. A thread that does not take a command has ended, which ends the sidecar too, or
    /// is blocked and [`COMMANDS`] behind. Commands that were sent cannot be taken back.
    pub(super) fn send(&mut self, change: Change<S>) {
        let Some(held) = &mut self.held else { return self.send_all(change.opened, &change.closed) };
        for (held, opened) in held.iter_mut().zip(change.opened) {
            held.retain(|port| !change.closed.contains(&S::id(port)));
            held.extend(opened);
        }
    }

    fn send_all(&self, opened: Vec<Vec<S::Port>>, closed: &[u64]) {
        for (thread, ports) in self.threads.iter().zip(opened) {
            let opened = (!ports.is_empty()).then_some(Command::Open(ports));
            let closed = (!closed.is_empty()).then(|| Command::Close(closed.to_vec()));
            for command in opened.into_iter().chain(closed) {
                if thread.try_send(command).is_err() {
                    tracing::error!("a thread does not take the commands for its listeners");
                }
            }
        }
    }

    /// Open addresses, each with its use.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (Arc<S::Use>, SocketAddr)> {
        self.open.iter().filter_map(|open| Some((open.use_.load_full(), open.bound?)))
    }

    /// The addresses on which the threads listen now, with those that are about to close.
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

    /// The addresses that will be open.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.open.iter().filter_map(|open| open.bound).collect()
    }

    fn keep(&mut self, open: Open<S::Use>, use_: &S::Use) {
        if **open.use_.load() != *use_ {
            self.uses.push((open.use_.clone(), use_.clone()));
        }
        self.open.push(open);
    }

    /// `own` are the addresses on which the threads listen now.
    fn bind(&mut self, of: &S, wanted: &Wanted<S::Use>, own: &[SocketAddr]) -> anyhow::Result<()> {
        self.last_id += 1;
        let (id, threads) = (self.last_id, self.opened.len());
        let use_ = Arc::new(ArcSwap::from_pointee(wanted.use_.clone()));
        let sharing = sharing(wanted.address, threads, own);
        let request = BindRequest { id, address: wanted.address, sharing, threads, use_: use_.clone() };
        let bound = bound(&wanted.key, wanted.address, of.bind(&request))?;
        let bound = bound.map(|(address, ports)| {
            deal(ports, &mut self.opened);
            address
        });
        self.open.push(Open { id, use_, wanted: wanted.address, bound });
        Ok(())
    }
}

/// Deals the ports out to the threads, one after the other.
fn deal<P>(ports: Vec<P>, threads: &mut [Vec<P>]) {
    let count = threads.len().max(1);
    for (nth, port) in ports.into_iter().enumerate() {
        if let Some(thread) = threads.get_mut(nth % count) {
            thread.push(port);
        }
    }
}

/// The channel by which a thread gets its listeners.
pub(super) fn channel<P>() -> (mpsc::Sender<Command<P>>, mpsc::Receiver<Command<P>>) {
    mpsc::channel(COMMANDS)
}

/// An address that only this sidecar has bound may be shared even for another use.
fn sharing(wanted: SocketAddr, threads: usize, own: &[SocketAddr]) -> Sharing {
    match threads {
        0 | 1 => Sharing::Alone,
        _ if own.iter().any(|own| covers(*own, wanted)) => Sharing::Joining,
        _ => Sharing::First,
    }
}

/// Whether a listener on `own` receives connections to `wanted`.
fn covers(own: SocketAddr, wanted: SocketAddr) -> bool {
    let is_same = own.port() == wanted.port() && own.is_ipv4() == wanted.is_ipv4();
    is_same && wanted.port() != 0 && (own.ip() == wanted.ip() || own.ip().is_unspecified())
}

/// Refuses a key all of whose addresses are left out, because no listener would serve it.
fn refuse_deaf<U>(wanted: &[Wanted<U>], open: &[Open<U>]) -> anyhow::Result<()> {
    let hears =
        |key: &str| wanted.iter().zip(open).any(|(wanted, open)| wanted.key == key && open.bound.is_some());
    match wanted.iter().find(|wanted| !hears(&wanted.key)) {
        Some(deaf) => anyhow::bail!("{}: no address could be bound", deaf.key),
        None => Ok(()),
    }
}
