//! One worker's connections to one endpoint: idle ones, shared ones, and who waits for one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use pillion_model::policy::ConnectionPolicy;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::http1::Http1;
use super::http2::Http2;
use super::lease::Lease;
use super::{Terms, Want};
use crate::slots::Waiting;
use pillion_base::error::Error;
use pillion_http::h1::client::Rest;

/// For an upstream that has answered, to read what is left of the request in our buffer. A server that means to read
/// it does so at once; one that does not must not keep the connection.
pub(super) const REST_OF_REQUEST: Duration = Duration::from_secs(5);

/// Sweeps after which twice the streams are tried that an endpoint has taken before.
const HOPE_EVERY: u32 = 10;

pub(crate) struct Shard {
    state: Mutex<State>,
    terms: Terms,
    /// Who waits for a place at this endpoint.
    waiting: Arc<Waiting>,
    /// Streams that the endpoint takes on one connection, where it refused more without having said a limit.
    /// Zero: it never did.
    learnt_streams: AtomicU32,
}

#[derive(Default)]
struct State {
    /// Last used last: it is taken first, so that the others grow old and are closed.
    #[allow(clippy::vec_box, reason = "they move from here to a lease and back with each request")]
    idle: Vec<Box<Http1>>,
    shared: Vec<Arc<Http2>>,
    wants_http1: VecDeque<Waiter>,
    /// Those who wait for a stream, or for the first connection to tell what is spoken.
    wants_stream: VecDeque<Waiter>,
    /// A connection that many may share is being dialled.
    stream_dialled: bool,
    sweeps: u32,
}

/// `None`: look again, things have changed.
type Served = Result<Option<Lease>, Error>;
type Waiter = oneshot::Sender<Served>;

/// A place in a queue.
pub(crate) struct Turn(oneshot::Receiver<Served>);

/// The right to dial for a queue.
pub(crate) struct Ticket {
    shard: Arc<Shard>,
    pub(crate) want: Want,
}

impl Shard {
    /// `waiting`: who waits for a place at the endpoint.
    pub(super) fn new(terms: Terms, waiting: Arc<Waiting>) -> Self {
        Self { state: Mutex::default(), terms, waiting, learnt_streams: AtomicU32::new(0) }
    }

    /// A connection that is free now.
    pub(crate) fn take(self: &Arc<Self>, want: Want) -> Option<Lease> {
        let mut state = self.state.lock();
        match want {
            Want::Http1 | Want::OnlyHttp1 => {
                state.take_idle(&self.terms.policy).map(|conn| Lease::http1(conn, self))
            }
            Want::Http2 => {
                let conn = state.take_stream(&self.terms.policy, self.most_streams());
                conn.map(|conn| Lease::http2(conn, self))
            }
            Want::Negotiated => None,
        }
    }

    pub(crate) fn queue(&self, want: Want) -> Turn {
        let (waiter, turn) = oneshot::channel();
        let mut state = self.state.lock();
        let waiters = match want {
            Want::Http1 | Want::OnlyHttp1 => &mut state.wants_http1,
            Want::Http2 | Want::Negotiated => &mut state.wants_stream,
        };
        if waiters.len() == waiters.capacity() {
            waiters.retain(|waiter| !waiter.is_closed()); // before it grows: who left must not pile up
        }
        waiters.push_back(waiter);
        Turn(turn)
    }

    /// Every HTTP/1 waiter has a dial of its own; those who can share wait for one.
    pub(crate) fn ticket(self: &Arc<Self>, want: Want) -> Option<Ticket> {
        let taken = want.is_shared() && std::mem::replace(&mut self.state.lock().stream_dialled, true);
        (!taken).then(|| Ticket { shard: self.clone(), want })
    }

    /// The exchange of a connection has ended whole.
    pub(super) fn take_back(self: &Arc<Self>, conn: Box<Http1>) {
        match conn.after() {
            Rest::Ready => return self.offer_http1(conn),
            Rest::Over => {}
            Rest::Writing => {
                if let Ok(runtime) = Handle::try_current() {
                    return drop(runtime.spawn(self.clone().take_back_written(conn)));
                }
            }
        }
        drop(conn);
        self.wake_one_http1();
    }

    /// Its upstream has answered, and is yet to take the last bytes of the request.
    async fn take_back_written(self: Arc<Self>, conn: Box<Http1>) {
        if timeout(REST_OF_REQUEST, conn.written()).await == Ok(true) {
            self.offer_http1(conn);
        } else {
            drop(conn);
            self.wake_one_http1();
        }
    }

    /// A connection is free: for the longest waiting, else for later.
    pub(crate) fn offer_http1(self: &Arc<Self>, mut conn: Box<Http1>) {
        if conn.is_worn(&self.terms.policy) {
            return self.wake_one_http1();
        }
        // One that has carried nothing yet was asked by who dialled it, and its end is that dial's failure.
        let may_have_ended = conn.about.uses > 0;
        let mut state = self.state.lock();
        if may_have_ended && !state.wants_http1.is_empty() && conn.is_closed() {
            drop(state);
            drop(conn);
            return self.wake_one_http1();
        }
        while let Some(waiter) = state.wants_http1.pop_front() {
            if waiter.is_closed() {
                continue;
            }
            let lease = Lease::http1(conn, self);
            drop(state); // should the waiter have left meanwhile, the lease comes back to this function
            drop(waiter.send(Ok(Some(lease))));
            return;
        }
        if self.somebody_waits_for_a_slot() {
            return; // dropping it makes room
        }
        conn.rest();
        state.idle.push(conn);
    }

    /// Whether a connection to this endpoint, or to any of the cluster, waits for one of these to end.
    fn somebody_waits_for_a_slot(&self) -> bool {
        self.waiting.is_somebody() || self.terms.waiting.is_somebody()
    }

    /// What was hoped for is gone: whoever waits for it looks again.
    fn wake_one_http1(&self) {
        let mut state = self.state.lock();
        while let Some(waiter) = state.wants_http1.pop_front() {
            if waiter.send(Ok(None)).is_ok() {
                return;
            }
        }
    }

    /// A new shared connection: for all who wait, and for later.
    pub(crate) fn offer_http2(self: &Arc<Self>, conn: Arc<Http2>) {
        let mut state = self.state.lock();
        state.stream_dialled = false;
        state.shared.push(conn);
        drop(state);
        self.serve_streams();
    }

    /// Gives free streams to those who wait. When none is left, one of the others looks again, and dials.
    fn serve_streams(self: &Arc<Self>) {
        loop {
            let mut state = self.state.lock();
            if state.wants_stream.is_empty() {
                return;
            }
            let Some(conn) = state.take_stream(&self.terms.policy, self.most_streams()) else { break };
            let lease = Lease::http2(conn, self);
            let waiter = state.wants_stream.pop_front();
            drop(state); // should the waiter have left meanwhile, the stream comes back to this function
            if let Some(waiter) = waiter {
                drop(waiter.send(Ok(Some(lease))));
            }
        }
        self.wake_one_stream_waiter();
    }

    /// One who is still there looks again, unless a dial is under way that will serve them.
    fn wake_one_stream_waiter(&self) {
        let mut state = self.state.lock();
        while !state.stream_dialled {
            let Some(waiter) = state.wants_stream.pop_front() else { return };
            if waiter.send(Ok(None)).is_ok() {
                return;
            }
        }
    }

    /// The endpoint turned out to speak HTTP/2: all who wait for a connection of their own look again.
    pub(crate) fn wake_http1_waiters(&self) {
        let waiters = std::mem::take(&mut self.state.lock().wants_http1);
        waiters.into_iter().for_each(|waiter| drop(waiter.send(Ok(None))));
    }

    /// The endpoint turned out to speak HTTP/1: all who hoped for a stream look again.
    pub(crate) fn wake_stream_waiters(&self) {
        let waiters = std::mem::take(&mut self.state.lock().wants_stream);
        waiters.into_iter().for_each(|waiter| drop(waiter.send(Ok(None))));
    }

    /// A stream has ended.
    pub(super) fn release_stream(self: &Arc<Self>, conn: &Arc<Http2>) {
        let is_idle = conn.end_stream();
        let somebody_waits = !self.state.lock().wants_stream.is_empty();
        if somebody_waits {
            self.serve_streams();
        } else if is_idle && self.somebody_waits_for_a_slot() {
            self.retire(conn); // makes room for a connection elsewhere
        }
    }

    /// The endpoint refused a stream of this connection, the caller's own, which still counts.
    pub(super) fn was_refused(&self, conn: &Http2) {
        let accepted = conn.streams().saturating_sub(1).max(1);
        if accepted < self.most_streams() {
            self.learnt_streams.store(accepted, Relaxed);
        }
    }

    /// Twice as many as it took before, now and then: what was short then may not be any more, and one refusal must not
    /// hold a connection back for long. If it is still short, streams are refused again, and replaced.
    fn hope(&self, sweeps: u32) {
        let learnt = self.learnt_streams.load(Relaxed);
        if learnt > 0 && sweeps.is_multiple_of(HOPE_EVERY) {
            self.learnt_streams.store(learnt.saturating_mul(2), Relaxed);
        }
    }

    fn most_streams(&self) -> u32 {
        match self.learnt_streams.load(Relaxed) {
            0 => u32::MAX,
            learnt => learnt,
        }
    }

    pub(super) fn retire(&self, conn: &Arc<Http2>) {
        conn.retire();
        self.state.lock().shared.retain(|other| !Arc::ptr_eq(other, conn));
    }

    pub(super) fn idle(&self) -> usize {
        let state = self.state.lock();
        let unused = state.shared.iter().filter(|conn| conn.streams() == 0);
        state.idle.len() + unused.count()
    }

    pub(super) fn evict_idle(&self) -> bool {
        let mut state = self.state.lock();
        if !state.idle.is_empty() {
            drop(state.idle.remove(0)); // the one unused for longest
            return true;
        }
        let unused = state.shared.iter().position(|conn| conn.streams() == 0);
        unused.map(|index| state.shared.swap_remove(index)).is_some()
    }

    pub(super) fn sweep(&self, has_left: bool) {
        let idle_timeout = if has_left { Some(Duration::ZERO) } else { self.terms.policy.idle_timeout };
        // Who was woken to dial may have left before it could: nobody waits longer than until here.
        self.wake_one_stream_waiter();
        let (now, mut state) = (Instant::now(), self.state.lock());
        state.sweeps = state.sweeps.wrapping_add(1);
        self.hope(state.sweeps);
        state.idle.retain_mut(|conn| !conn.is_done(idle_timeout, now));
        state.shared.retain(|conn| !conn.is_done(idle_timeout, now));
    }
}

impl State {
    fn take_idle(&mut self, policy: &ConnectionPolicy) -> Option<Box<Http1>> {
        // From the end: the most recently used. One that grew too old, or ended, while it waited is not used once more.
        while let Some(conn) = self.idle.pop() {
            if !conn.is_worn(policy) && !conn.is_closed() {
                return Some(conn);
            }
        }
        None
    }

    fn take_stream(&mut self, policy: &ConnectionPolicy, most: u32) -> Option<Arc<Http2>> {
        self.shared.retain(|conn| conn.is_open(policy));
        let conn = self.shared.iter().find(|conn| conn.has_room(most))?.clone();
        conn.add_stream();
        Some(conn)
    }
}

impl Turn {
    pub(crate) async fn served(&mut self) -> Served {
        // A waiter dropped unanswered means that the shard went away: look again, and find out.
        (&mut self.0).await.unwrap_or(Ok(None))
    }
}

impl Ticket {
    /// The dial failed: one HTTP/1 waiter, or all who shared it, learn why.
    pub(crate) fn fail(self, error: &Error) {
        let mut state = self.shard.state.lock();
        if !self.want.is_shared() {
            while let Some(waiter) = state.wants_http1.pop_front() {
                if waiter.send(Err(error.clone())).is_ok() {
                    return;
                }
            }
        } else {
            for waiter in std::mem::take(&mut state.wants_stream) {
                drop(waiter.send(Err(error.clone())));
            }
        }
    }
}

/// Done with, whether it was used or not: the next who wants to share a connection may dial again.
impl Drop for Ticket {
    fn drop(&mut self) {
        if self.want.is_shared() {
            // Who still waits had hoped for this dial.
            self.shard.state.lock().stream_dialled = false;
            self.shard.wake_one_stream_waiter();
        }
    }
}
