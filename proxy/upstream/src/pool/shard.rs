//! The connections of one worker to one endpoint: idle ones, shared ones, and the requests that wait for one.

use std::collections::VecDeque;
use std::ops::BitOr;
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

/// How long an upstream that has answered may take to read the rest of the request from our buffer. A server that wants
/// the rest reads it at once; one that does not must not hold the connection.
pub(super) const REST_OF_REQUEST: Duration = Duration::from_secs(5);

/// After this many sweeps the learnt number of streams is doubled.
const SWEEPS_BEFORE_RAISE: u32 = 10;

pub(crate) struct Shard {
    state: Mutex<State>,
    terms: Terms,
    /// The requests that wait for a place at this endpoint.
    waiting: Arc<Waiting>,
    /// The number of streams that the endpoint accepts on one connection, learnt when it refused more without
    /// announcing a limit. Zero when it never did.
    learnt_streams: AtomicU32,
}

#[derive(Default)]
struct State {
    /// The most recently used connection is the last. It is taken first, so that the others reach the idle timeout.
    #[allow(clippy::vec_box, reason = "they move from here to a lease and back with each request")]
    idle: Vec<Box<Http1>>,
    shared: Vec<Arc<Http2>>,
    wants_http1: VecDeque<Waiter>,
    /// Requests that wait for a stream, or for the first connection to show the endpoint's HTTP version.
    wants_stream: VecDeque<Waiter>,
    /// Whether a connection that many requests may share is being dialled.
    stream_dialled: bool,
    dials: Dials,
    sweeps: u32,
    /// Connections that were opened before this take no further request.
    retired_at: Option<Instant>,
}

/// The dials that have the place of their connection and have not ended.
#[derive(Default)]
struct Dials {
    under_way: u32,
    /// Since when there have been some of which none has connected.
    since: Option<Instant>,
}

/// One dial of [`Dials`], until this is dropped.
pub(crate) struct Dialling(Arc<Shard>);

/// `None` means that the state has changed and the waiting request must check again.
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
    /// `waiting` counts the requests that wait for a place at the endpoint.
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
            waiters.retain(|waiter| !waiter.is_closed()); // before the queue grows: remove requests that were given up
        }
        waiters.push_back(waiter);
        Turn(turn)
    }

    /// The right to dial. Every waiting HTTP/1 request gets one; requests that can share a connection get one together.
    pub(crate) fn ticket(self: &Arc<Self>, want: Want) -> Option<Ticket> {
        let taken = want.is_shared() && std::mem::replace(&mut self.state.lock().stream_dialled, true);
        (!taken).then(|| Ticket { shard: self.clone(), want })
    }

    /// Counts a dial that begins now.
    pub(crate) fn dialling(self: &Arc<Self>) -> Dialling {
        let mut state = self.state.lock();
        state.dials.under_way += 1;
        state.dials.since.get_or_insert_with(Instant::now);
        Dialling(self.clone())
    }

    /// Since when the endpoint is being dialled and has not connected.
    pub(crate) fn dialled_since(&self) -> Option<Instant> {
        self.state.lock().dials.since
    }

    /// The exchange on the connection has ended completely.
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

    /// The upstream has answered, but has not read the last bytes of the request yet.
    async fn take_back_written(self: Arc<Self>, conn: Box<Http1>) {
        if timeout(REST_OF_REQUEST, conn.written()).await == Ok(true) {
            self.offer_http1(conn);
        } else {
            drop(conn);
            self.wake_one_http1();
        }
    }

    /// Hands a free connection to the request that waits longest, or keeps it for later.
    pub(crate) fn offer_http1(self: &Arc<Self>, mut conn: Box<Http1>) {
        if conn.is_worn(&self.terms.policy) {
            return self.wake_one_http1();
        }
        // The code that dialled a new connection has checked it; its end counts as a failure of the dial.
        let may_have_ended = conn.about.uses > 0;
        let mut state = self.state.lock();
        if state.has_retired(conn.about.opened) {
            drop(state);
            drop(conn);
            return self.wake_one_http1();
        }
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
            drop(state); // if the request was given up meanwhile, the dropped lease calls this function again
            drop(waiter.send(Ok(Some(lease))));
            return;
        }
        if self.a_request_waits_for_a_slot() {
            return; // dropping the connection makes room
        }
        conn.rest();
        state.idle.push(conn);
    }

    /// Whether a request to this endpoint, or to another one of the cluster, waits for the place of a connection.
    fn a_request_waits_for_a_slot(&self) -> bool {
        self.waiting.has_waiter() || self.terms.waiting.has_waiter()
    }

    /// An expected connection did not come: the next waiting request checks again.
    fn wake_one_http1(&self) {
        let mut state = self.state.lock();
        while let Some(waiter) = state.wants_http1.pop_front() {
            if waiter.send(Ok(None)).is_ok() {
                return;
            }
        }
    }

    /// Adds a new shared connection, for all waiting requests and for later ones.
    pub(crate) fn offer_http2(self: &Arc<Self>, conn: Arc<Http2>) {
        let mut state = self.state.lock();
        state.stream_dialled = false;
        if !state.has_retired(conn.opened()) {
            state.shared.push(conn);
        }
        drop(state);
        self.serve_streams();
    }

    /// Gives free streams to waiting requests. When no stream is left, one of the other requests checks again, and
    /// dials.
    fn serve_streams(self: &Arc<Self>) {
        loop {
            let mut state = self.state.lock();
            if state.wants_stream.is_empty() {
                return;
            }
            let Some(conn) = state.take_stream(&self.terms.policy, self.most_streams()) else { break };
            let lease = Lease::http2(conn, self);
            let waiter = state.wants_stream.pop_front();
            drop(state); // if the request was given up meanwhile, the dropped lease calls this function again
            if let Some(waiter) = waiter {
                drop(waiter.send(Ok(Some(lease))));
            }
        }
        self.wake_one_stream_waiter();
    }

    /// One waiting request checks again, unless a dial is under way that will serve it.
    fn wake_one_stream_waiter(&self) {
        let mut state = self.state.lock();
        while !state.stream_dialled {
            let Some(waiter) = state.wants_stream.pop_front() else { return };
            if waiter.send(Ok(None)).is_ok() {
                return;
            }
        }
    }

    /// The endpoint turned out to speak HTTP/2: all requests that wait for a connection of their own check again.
    pub(crate) fn wake_http1_waiters(&self) {
        let waiters = std::mem::take(&mut self.state.lock().wants_http1);
        waiters.into_iter().for_each(|waiter| drop(waiter.send(Ok(None))));
    }

    /// The endpoint turned out to speak HTTP/1: all requests that wait for a stream check again.
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
        } else if is_idle && self.a_request_waits_for_a_slot() {
            self.retire(conn); // makes room for a connection to another endpoint
        }
    }

    /// The endpoint refused a stream of this connection. The refused stream is still counted.
    pub(super) fn was_refused(&self, conn: &Http2) {
        let accepted = conn.streams().saturating_sub(1).max(1);
        if accepted < self.most_streams() {
            self.learnt_streams.store(accepted, Relaxed);
        }
    }

    /// Doubles the learnt number of streams from time to time: the endpoint may accept more by now, and one refusal
    /// must not limit the connection for long. If it still accepts fewer, it refuses streams again, and they are
    /// replaced.
    fn raise_learnt_streams(&self, sweeps: u32) {
        let learnt = self.learnt_streams.load(Relaxed);
        if learnt > 0 && sweeps.is_multiple_of(SWEEPS_BEFORE_RAISE) {
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

    /// The connections that were opened before `now` take no further request.
    pub(super) fn retire_all(&self, now: Instant) {
        let mut state = self.state.lock();
        state.retired_at = Some(now);
        let (idle, shared) = (std::mem::take(&mut state.idle), std::mem::take(&mut state.shared));
        drop(state);
        drop(idle);
        shared.iter().for_each(|conn| conn.retire());
        self.wake_one_stream_waiter();
    }

    pub(super) fn idle(&self) -> usize {
        let state = self.state.lock();
        let unused = state.shared.iter().filter(|conn| conn.streams() == 0);
        state.idle.len() + unused.count()
    }

    pub(super) fn evict_idle(&self) -> bool {
        let mut state = self.state.lock();
        if !state.idle.is_empty() {
            drop(state.idle.remove(0)); // the connection that was unused for longest
            return true;
        }
        let unused = state.shared.iter().position(|conn| conn.streams() == 0);
        unused.map(|index| state.shared.swap_remove(index)).is_some()
    }

    /// Its cost counts: there may be thousands of endpoints.
    pub(super) fn sweep(&self, has_left: bool, now: Instant) {
        let idle_timeout = if has_left { Some(Duration::ZERO) } else { self.terms.policy.idle_timeout };
        let mut state = self.state.lock();
        state.sweeps = state.sweeps.wrapping_add(1);
        self.raise_learnt_streams(state.sweeps);
        state.idle.retain_mut(|conn| !conn.is_done(idle_timeout, now));
        state.shared.retain(|conn| !conn.is_done(idle_timeout, now));
        if !state.wants_stream.is_empty() {
            drop(state);
            // A request that was woken to dial may have been given up before it could. This bounds the wait of the others.
            self.wake_one_stream_waiter();
        }
    }
}

impl State {
    fn has_retired(&self, opened: Instant) -> bool {
        self.retired_at.is_some_and(|at| opened < at)
    }

    fn take_idle(&mut self, policy: &ConnectionPolicy) -> Option<Box<Http1>> {
        // From the end: the most recently used first. A connection that became too old or ended while idle is dropped.
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
        // A sender that was dropped without an answer means that the shard is gone: the caller checks again.
        (&mut self.0).await.unwrap_or(Ok(None))
    }
}

impl Dialling {
    /// The dial has connected: the others under way count from now.
    pub(crate) fn connected(self) {
        self.0.state.lock().dials.since = Some(Instant::now());
    }
}

impl Drop for Dialling {
    fn drop(&mut self) {
        let dials = &mut self.0.state.lock().dials;
        dials.under_way = dials.under_way.saturating_sub(1);
        if dials.under_way == 0 {
            dials.since = None;
        }
    }
}

impl Ticket {
    /// The dial failed: one waiting HTTP/1 request, or all that wanted to share the connection, get the error. Returns
    /// whether any request got it.
    pub(crate) fn fail(self, error: &Error) -> bool {
        let mut state = self.shard.state.lock();
        if self.want.is_shared() {
            let waiters = std::mem::take(&mut state.wants_stream).into_iter();
            return waiters.map(|waiter| waiter.send(Err(error.clone())).is_ok()).fold(false, BitOr::bitor);
        }
        while let Some(waiter) = state.wants_http1.pop_front() {
            if waiter.send(Err(error.clone())).is_ok() {
                return true;
            }
        }
        false
    }
}

/// The dial has ended, successful or not: the next request that wants to share a connection may dial again.
impl Drop for Ticket {
    fn drop(&mut self) {
        if self.want.is_shared() {
            // Requests that still wait were waiting for this dial.
            self.shard.state.lock().stream_dialled = false;
            self.shard.wake_one_stream_waiter();
        }
    }
}
