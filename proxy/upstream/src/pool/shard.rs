//! One worker's connections to one endpoint: idle ones, shared ones, and who waits for one.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{Method, Request};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Want;
use super::departing::{Aftermath, Departing};
use super::dial::{HeldHttp1, open_http1, run_http1};
use super::fields::{Expected, TooMany};
use super::hold::Hold;
use super::lease::Lease;
use super::transport::AnswerFirst;
use crate::cluster::Cluster;
use crate::cluster::slots::Waiting;
use pillion_base::error::Error;
use pillion_http::Body;
use pillion_http::h2::client::Sender;
use pillion_http::head::HeadLimits;
use pillion_tls::admission::{Admission, Failure};

/// How often pools are looked through for connections that were idle too long.
pub const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// For an upstream that has answered, to read what is left of the request in our buffer. A server that means to read
/// it does so at once; one that does not must not keep the connection.
const REST_OF_REQUEST: Duration = Duration::from_secs(5);

/// Sweeps after which twice the streams are tried that an endpoint has taken before.
const HOPE_EVERY: u32 = 10;

/// All connections of one endpoint. Most endpoints of a large configuration are never used: what a pool needs is made
/// with its first connection.
pub struct Pool {
    used: OnceLock<Box<Used>>,
    workers: usize,
}

struct Used {
    /// One for each worker, never empty.
    shards: Box<[Arc<Shard>]>,
    open: Counted,
    /// Who waits for a place at this endpoint, whichever worker asked.
    waiting: Arc<Waiting>,
}

/// Held by every open connection of a pool, and by the pool: how many hold it is how many there are.
pub(super) type Counted = Arc<()>;

/// HTTP connections of a pool at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    /// Of the open ones.
    pub idle: usize,
    pub open: usize,
}

#[derive(Default)]
pub(crate) struct Shard {
    state: Mutex<State>,
    /// Who waits for a place at this endpoint.
    waiting: Arc<Waiting>,
    /// Streams that the endpoint takes on one connection, where it refused more without having said a limit.
    /// Zero: it never did.
    learnt_streams: AtomicU32,
}

#[derive(Default)]
struct State {
    /// Last used last: it is taken first, so that the others grow old and are closed.
    idle: Vec<Http1>,
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
pub(super) struct Turn(oneshot::Receiver<Served>);

/// The right to dial for a queue.
pub(super) struct Ticket {
    shard: Arc<Shard>,
    pub(super) want: Want,
}

/// Why a request has no answer, and the request where it was not sent.
type Unanswered = (hyper::Error, Option<Request<Body>>);

/// A connection that serves one request at a time.
pub(crate) struct Http1 {
    pub(super) send: http1::SendRequest<Body>,
    pub(super) about: About,
    admission: Option<Arc<Admission>>,
    pub(super) aftermath: Arc<Aftermath>,
    expected: Arc<Expected>,
    idle: Idle,
    hold: Hold,
    held: HeldHttp1,
    limits: HeadLimits,
    /// Its last request was written in part, and the rest of it is gone.
    pub(super) is_cut_short: bool,
}

/// A connection that serves many requests at once.
pub(crate) struct Http2 {
    pub(super) send: Sender,
    about: Mutex<About>,
    admission: Option<Arc<Admission>>,
    streams: AtomicU32,
    /// Takes no new request: it is old, said goodbye or broke.
    retired: AtomicBool,
    idle: Mutex<Idle>,
}

/// How long a connection has been idle, without reading the clock per request: the sweep notices when it finds it
/// idle for the first time, at most [`SWEEP_EVERY`] late.
#[derive(Debug, Clone, Copy, Default)]
struct Idle(Option<Instant>);

impl Idle {
    /// Whether it is to be closed at `now`, before it was idle for `most`.
    fn is_over(&mut self, most: Option<Duration>, now: Instant) -> bool {
        let noticed = *self.0.get_or_insert(now);
        most.is_some_and(|most| now.duration_since(noticed) + 2 * SWEEP_EVERY >= most)
    }
}

/// What a pool must know of a connection besides how to use it.
#[derive(Clone, Copy)]
pub(super) struct About {
    opened: Instant,
    pub(super) uses: u64,
    /// A sidecar of ours whose identity was verified: its word is trusted.
    pub(super) is_sidecar: bool,
}

impl About {
    pub(super) fn new(is_sidecar: bool) -> Self {
        Self { opened: Instant::now(), uses: 0, is_sidecar }
    }

    fn is_worn(&self, cluster: &Cluster) -> bool {
        let policy = &cluster.connection;
        policy.max_requests.is_some_and(|max| self.uses >= u64::from(max))
            || policy.max_age.is_some_and(|max| self.opened.elapsed() >= max)
    }
}

impl Pool {
    pub const fn new(workers: usize) -> Self {
        Self { used: OnceLock::new(), workers }
    }

    /// `None`: nobody has been here yet.
    pub(super) fn shard(&self, worker: usize) -> Option<&Arc<Shard>> {
        self.used.get().map(|used| used.shard(worker))
    }

    /// The same for whoever is about to connect. `at_first` is called once in the life of a pool.
    pub(super) fn shard_or_make(&self, worker: usize, at_first: impl FnOnce()) -> &Arc<Shard> {
        let used = self.used.get_or_init(|| {
            at_first();
            let waiting = Arc::<Waiting>::default();
            let shard = |_| Arc::new(Shard { waiting: waiting.clone(), ..Shard::default() });
            let shards = (0..self.workers.max(1)).map(shard).collect();
            Box::new(Used { shards, open: Counted::default(), waiting })
        });
        used.shard(worker)
    }

    /// Closes one idle connection, of whichever worker, to make room for another.
    pub fn evict_idle(&self) -> bool {
        self.shards().any(|shard| shard.evict_idle())
    }

    /// Closes what was idle for too long.
    pub fn sweep(&self, idle_timeout: Option<Duration>) {
        self.shards().for_each(|shard| shard.sweep(idle_timeout));
    }

    /// Who waits for a place at this endpoint. `None`: nobody has been here yet.
    pub fn waiting(&self) -> Option<&Waiting> {
        self.used.get().map(|used| &*used.waiting)
    }

    /// One more, for as long as it is held.
    pub(super) fn count(&self) -> Counted {
        self.used.get().map(|used| used.open.clone()).unwrap_or_default()
    }

    /// For people who ask.
    pub fn connections(&self) -> Connections {
        let idle = self.shards().map(|shard| shard.idle()).sum();
        let open = self.used.get().map_or(0, |used| Arc::strong_count(&used.open) - 1);
        Connections { idle, open }
    }

    fn shards(&self) -> impl Iterator<Item = &Arc<Shard>> {
        self.used.get().into_iter().flat_map(|used| &used.shards)
    }
}

impl Used {
    #[allow(clippy::indexing_slicing)] // the remainder is within, and there is at least one
    fn shard(&self, worker: usize) -> &Arc<Shard> {
        &self.shards[worker % self.shards.len()]
    }
}

impl Shard {
    /// A connection that is free now.
    pub(super) fn take(self: &Arc<Self>, cluster: &Arc<Cluster>, want: Want) -> Option<Lease> {
        let mut state = self.state.lock();
        match want {
            Want::Http1 | Want::OnlyHttp1 => {
                state.take_idle(cluster).map(|conn| Lease::http1(conn, self, cluster))
            }
            Want::Http2 => {
                let conn = state.take_stream(cluster, self.most_streams());
                conn.map(|conn| Lease::http2(conn, self, cluster))
            }
            Want::Negotiated => None,
        }
    }

    pub(super) fn queue(&self, want: Want) -> Turn {
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
    pub(super) fn ticket(self: &Arc<Self>, want: Want) -> Option<Ticket> {
        let taken = want.is_shared() && std::mem::replace(&mut self.state.lock().stream_dialled, true);
        (!taken).then(|| Ticket { shard: self.clone(), want })
    }

    /// A connection is free: for the longest waiting, else for later.
    pub(super) fn offer_http1(self: &Arc<Self>, mut conn: Http1, cluster: &Arc<Cluster>) {
        if conn.send.is_closed() || conn.about.is_worn(cluster) {
            return self.wake_one_http1();
        }
        let mut state = self.state.lock();
        while let Some(waiter) = state.wants_http1.pop_front() {
            if waiter.is_closed() {
                continue;
            }
            let lease = Lease::http1(conn, self, cluster);
            drop(state); // should the waiter have left meanwhile, the lease comes back to this function
            drop(waiter.send(Ok(Some(lease))));
            return;
        }
        if self.somebody_waits_for_a_slot(cluster) {
            return; // dropping it makes room
        }
        conn.idle = Idle::default();
        state.idle.push(conn);
    }

    /// Whether a connection to this endpoint, or to any of the cluster, waits for one of these to end.
    fn somebody_waits_for_a_slot(&self, cluster: &Cluster) -> bool {
        self.waiting.is_somebody() || cluster.somebody_waits_for_a_slot()
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
    pub(super) fn offer_http2(self: &Arc<Self>, conn: Arc<Http2>, cluster: &Arc<Cluster>) {
        let mut state = self.state.lock();
        state.stream_dialled = false;
        state.shared.push(conn);
        drop(state);
        self.serve_streams(cluster);
    }

    /// Gives free streams to those who wait. When none is left, one of the others looks again, and dials.
    fn serve_streams(self: &Arc<Self>, cluster: &Arc<Cluster>) {
        loop {
            let mut state = self.state.lock();
            if state.wants_stream.is_empty() {
                return;
            }
            let Some(conn) = state.take_stream(cluster, self.most_streams()) else { break };
            let lease = Lease::http2(conn, self, cluster);
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
    pub(super) fn wake_http1_waiters(&self) {
        let waiters = std::mem::take(&mut self.state.lock().wants_http1);
        waiters.into_iter().for_each(|waiter| drop(waiter.send(Ok(None))));
    }

    /// The endpoint turned out to speak HTTP/1: all who hoped for a stream look again.
    pub(super) fn wake_stream_waiters(&self) {
        let waiters = std::mem::take(&mut self.state.lock().wants_stream);
        waiters.into_iter().for_each(|waiter| drop(waiter.send(Ok(None))));
    }

    /// A stream has ended.
    pub(super) fn release_stream(self: &Arc<Self>, conn: &Arc<Http2>, cluster: &Arc<Cluster>) {
        let is_idle = conn.streams.fetch_sub(1, Relaxed) == 1;
        if is_idle {
            *conn.idle.lock() = Idle::default();
        }
        let somebody_waits = !self.state.lock().wants_stream.is_empty();
        if somebody_waits {
            self.serve_streams(cluster);
        } else if is_idle && self.somebody_waits_for_a_slot(cluster) {
            self.retire(conn); // makes room for a connection elsewhere
        }
    }

    /// The endpoint refused a stream of this connection, the caller's own, which still counts.
    pub(super) fn was_refused(&self, conn: &Http2) {
        let accepted = conn.streams.load(Relaxed).saturating_sub(1).max(1);
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
        conn.retired.store(true, Relaxed);
        self.state.lock().shared.retain(|other| !Arc::ptr_eq(other, conn));
    }

    fn idle(&self) -> usize {
        let state = self.state.lock();
        let unused = state.shared.iter().filter(|conn| conn.streams.load(Relaxed) == 0);
        state.idle.len() + unused.count()
    }

    fn evict_idle(&self) -> bool {
        let mut state = self.state.lock();
        if !state.idle.is_empty() {
            drop(state.idle.remove(0)); // the one unused for longest
            return true;
        }
        let unused = state.shared.iter().position(|conn| conn.streams.load(Relaxed) == 0);
        unused.map(|index| state.shared.swap_remove(index)).is_some()
    }

    fn sweep(&self, idle_timeout: Option<Duration>) {
        // Who was woken to dial may have left before it could: nobody waits longer than until here.
        self.wake_one_stream_waiter();
        let (now, mut state) = (Instant::now(), self.state.lock());
        state.sweeps = state.sweeps.wrapping_add(1);
        self.hope(state.sweeps);
        state.idle.retain_mut(|conn| !conn.is_done(idle_timeout, now));
        state.shared.retain(|conn| {
            let in_use = conn.streams.load(Relaxed) > 0;
            !conn.send.is_closed() && (in_use || !conn.idle.lock().is_over(idle_timeout, now))
        });
    }
}

impl State {
    fn take_idle(&mut self, cluster: &Cluster) -> Option<Http1> {
        // From the end: the most recently used. One that is still finishing its last message is left alone, and one
        // that grew too old while it waited is not used once more.
        for index in (0..self.idle.len()).rev() {
            let Some(conn) = self.idle.get(index) else { continue };
            if conn.send.is_closed() || conn.about.is_worn(cluster) {
                drop(self.idle.remove(index));
            } else if conn.send.is_ready() {
                return Some(self.idle.remove(index));
            }
        }
        None
    }

    fn take_stream(&mut self, cluster: &Cluster, most: u32) -> Option<Arc<Http2>> {
        self.shared.retain(|conn| conn.is_open(cluster));
        let free = |conn: &&Arc<Http2>| {
            conn.streams.load(Relaxed) < conn.send.max_streams().min(most) && !conn.send.is_clogged()
        };
        let conn = self.shared.iter().find(free)?.clone();
        conn.streams.fetch_add(1, Relaxed);
        Some(conn)
    }
}

impl Http1 {
    pub(super) fn new(
        send: http1::SendRequest<Body>,
        about: About,
        (admission, aftermath, expected): (Option<Arc<Admission>>, Arc<Aftermath>, Arc<Expected>),
        (hold, held): (Hold, HeldHttp1),
        limits: HeadLimits,
    ) -> Self {
        Self {
            send,
            about,
            admission,
            aftermath,
            expected,
            idle: Idle::default(),
            hold,
            held,
            limits,
            is_cut_short: false,
        }
    }

    /// Sends a request and waits for the head of its answer. An error comes with the request where that was not sent.
    pub(super) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> Result<http::Response<Incoming>, Unanswered> {
        self.about.uses += 1;
        self.expected.expect();
        let method = request.method().clone();
        match self.send.try_send_request(request).await {
            Ok(response) => Ok(response),
            Err(mut error) => match kept_from_hyper(error.error()) {
                Some(io) => Box::pin(self.read_again(io, method)).await.map_err(|error| (error, None)),
                None => {
                    let unsent = error.take_message();
                    Err((error.into_error(), unsent))
                }
            },
        }
    }

    /// Reads an answer that has more fields than there was room for. What had not been sent of its request by then is
    /// not sent any more.
    async fn read_again(
        &mut self,
        io: AnswerFirst,
        method: Method,
    ) -> hyper::Result<http::Response<Incoming>> {
        self.is_cut_short = !io.is_flushed(); // the rest goes with the first reader's buffer
        let io = Departing::new(io.read_again(), self.aftermath.clone());
        let (send, conn) = open_http1(io, self.limits, usize::MAX).await?;
        (self.send, self.hold) = (send, run_http1(conn, self.held.clone()));
        let mut again = Request::new(Body::empty());
        *again.method_mut() = method; // it says whether the answer has a body
        self.send.send_request(again).await
    }

    /// How it failed, where it was TLS that failed.
    pub(super) fn tls_failure(&self) -> Option<Failure> {
        self.admission.as_ref()?.failure()
    }

    /// Closes it in the middle of an exchange.
    pub(super) fn cut(self) {
        self.hold.cut();
    }

    /// Whether the sweep is to close it. One whose last request is answered but not yet taken whole cannot be used:
    /// that ends soon or never.
    fn is_done(&mut self, idle_timeout: Option<Duration>, now: Instant) -> bool {
        let most = match self.send.is_ready() {
            true => idle_timeout,
            false => Some(REST_OF_REQUEST.min(idle_timeout.unwrap_or(REST_OF_REQUEST))),
        };
        self.send.is_closed() || self.idle.is_over(most, now)
    }
}

/// The connection, where an answer's many fields were kept from hyper.
fn kept_from_hyper(error: &hyper::Error) -> Option<AnswerFirst> {
    let error = std::error::Error::source(error)?.downcast_ref::<io::Error>()?;
    error.get_ref()?.downcast_ref::<TooMany<AnswerFirst>>()?.take()
}

impl Http2 {
    pub(super) fn new(send: Sender, about: About, admission: Option<Arc<Admission>>) -> Arc<Self> {
        Arc::new(Self {
            send,
            about: Mutex::new(about),
            admission,
            streams: AtomicU32::new(0),
            retired: AtomicBool::new(false),
            idle: Mutex::default(),
        })
    }

    fn is_open(&self, cluster: &Cluster) -> bool {
        !self.retired.load(Relaxed) && !self.send.is_closed() && !self.about.lock().is_worn(cluster)
    }

    /// How it failed, where it was TLS that failed.
    pub(super) fn tls_failure(&self) -> Option<Failure> {
        self.admission.as_ref()?.failure()
    }

    /// How it was before this use.
    pub(super) fn count_use(&self) -> About {
        let mut about = self.about.lock();
        let before = *about;
        about.uses += 1;
        before
    }
}

impl Turn {
    pub(super) async fn served(&mut self) -> Served {
        // A waiter dropped unanswered means that the shard went away: look again, and find out.
        (&mut self.0).await.unwrap_or(Ok(None))
    }
}

impl Ticket {
    /// The dial failed: one HTTP/1 waiter, or all who shared it, learn why.
    pub(super) fn fail(self, error: &Error) {
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
