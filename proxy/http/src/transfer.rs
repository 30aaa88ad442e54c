//! How the two bodies of an exchange move: what they tell while they flow, and who is told.
//!
//! The bodies know nothing of routes, layers or logs. Whoever carries an exchange is an [`Observer`] to them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Waker};
use std::time::Duration;

use http::StatusCode;
use parking_lot::Mutex;
use tokio::time::Instant;

use pillion_base::deadline::Timers;
use pillion_model::Reason;

/// Whoever is told how the bodies of an exchange move, and how the exchange ends.
pub trait Observer: Send + Sync {
    /// When the request came.
    fn started(&self) -> Instant;
    /// How far the request's body is.
    fn progress(&self) -> &Progress;
    /// What the client hears before its answer.
    fn interim(&self) -> &Interim;
    fn timers(&self) -> &Timers;
    /// The sidecar cut the request's body; whoever answers next says why.
    fn cut(&self, reason: Reason);
    /// The exchange became a tunnel, which took so many bytes from the client.
    fn was_tunnel(&self, received: u64);
    /// The answer has ended, whole or not. Only the first call counts.
    fn finish(&self, ending: ResponseEnd);
}

/// The connection that an answer comes from, for as long as the answer lasts. Dropped, it is closed.
pub trait Carrier: Send + Sync {
    /// The answer came whole: the connection may serve another request.
    fn give_back(self: Box<Self>);
}

/// How a response ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct ResponseEnd {
    pub bytes: u64,
    pub grpc_status: Option<u8>,
    pub reason: Option<Reason>,
}

/// No further interim answer is kept for a client while so many bytes of them, or of what comes before them, wait for
/// it. Nobody depends on one but on `100 Continue`, and an upstream may send 32 of 128 KiB at once.
pub const INTERIM_WAITING: usize = 16 * 1024;

/// Interim answers (1xx) on their way to the client.
#[derive(Default)]
pub struct Interim {
    /// The client waits to be asked for its body.
    expects: AtomicBool,
    is_told: AtomicBool,
    state: Mutex<(Vec<http::Response<()>>, Option<Waker>)>,
}

impl Interim {
    /// The client waits for `100 Continue`, and hears it when its body is read for the first time.
    pub fn expect_continue(&self) {
        self.expects.store(true, Relaxed);
    }

    /// The body is wanted now.
    pub fn ask(&self) {
        if self.expects.load(Relaxed) && self.expects.swap(false, Relaxed) {
            let mut ask = http::Response::new(());
            *ask.status_mut() = StatusCode::CONTINUE;
            self.tell(ask);
        }
    }

    /// Dropped where too much waits already; see [`INTERIM_WAITING`].
    pub fn tell(&self, interim: http::Response<()>) {
        let mut state = self.state.lock();
        let waiting: usize = state.0.iter().map(size).sum();
        if waiting >= INTERIM_WAITING && interim.status() != StatusCode::CONTINUE {
            return;
        }
        state.0.push(interim);
        self.is_told.store(true, Relaxed);
        if let Some(waker) = state.1.take() {
            waker.wake();
        }
    }

    /// Gives away what there is. Who comes from another task than the body's reader is woken when there is more.
    pub fn take(&self, cx: &Context<'_>, mut give: impl FnMut(http::Response<()>)) {
        if self.expects.load(Relaxed) {
            self.state.lock().1 = Some(cx.waker().clone());
        }
        if self.is_told.swap(false, Relaxed) {
            let told = std::mem::take(&mut self.state.lock().0);
            told.into_iter().for_each(&mut give);
        }
    }
}

/// What its fields take up.
fn size(interim: &http::Response<()>) -> usize {
    interim.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

/// How far the request's body is. Written by the body, read by the timeout that watches over it.
pub struct Progress {
    started: Instant,
    /// Nanoseconds after `started`, plus one; zero: not yet.
    first: AtomicU64,
    last: AtomicU64,
    complete: AtomicU64,
    bytes: AtomicU64,
    waits_for_client: AtomicBool,
    broke: AtomicBool,
    /// There is a body to watch.
    has_body: AtomicBool,
}

impl Progress {
    pub const fn new(started: Instant) -> Self {
        Self {
            started,
            first: AtomicU64::new(0),
            last: AtomicU64::new(0),
            complete: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            waits_for_client: AtomicBool::new(false),
            broke: AtomicBool::new(false),
            has_body: AtomicBool::new(false),
        }
    }

    fn stamp(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX - 1) + 1
    }

    pub fn waits_for_client(&self) {
        if self.first.load(Relaxed) == 0 {
            let now = self.stamp();
            self.first.store(now, Relaxed);
            self.last.store(now, Relaxed);
        }
        self.waits_for_client.store(true, Relaxed);
    }

    pub fn moved(&self, bytes: u64) {
        let now = self.stamp();
        if self.first.load(Relaxed) == 0 {
            self.first.store(now, Relaxed);
        }
        self.last.store(now, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        self.waits_for_client.store(false, Relaxed);
    }

    pub fn completed(&self) {
        if self.complete.load(Relaxed) == 0 {
            let now = self.stamp();
            self.complete.store(now, Relaxed);
            if self.first.load(Relaxed) == 0 {
                self.first.store(now, Relaxed);
            }
        }
    }

    pub fn announced(&self) {
        self.has_body.store(true, Relaxed);
    }

    /// A part of the request's body has not come yet, or nobody has asked for it.
    pub fn is_unfinished(&self) -> bool {
        self.has_body.load(Relaxed) && self.complete.load(Relaxed) == 0
    }

    /// The client broke its own request off.
    pub fn broke(&self) {
        self.broke.store(true, Relaxed);
    }

    pub fn client_broke(&self) -> bool {
        self.broke.load(Relaxed)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    pub fn view(&self) -> BodyView {
        let at = |stamp: &AtomicU64| stamp.load(Relaxed).checked_sub(1).map(Duration::from_nanos);
        BodyView {
            first: at(&self.first),
            last: at(&self.last),
            complete: at(&self.complete),
            waits_for_client: self.waits_for_client.load(Relaxed),
        }
    }
}

/// A request body's way so far, each moment as time after the request's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BodyView {
    pub first: Option<Duration>,
    pub last: Option<Duration>,
    pub complete: Option<Duration>,
    pub waits_for_client: bool,
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use http::HeaderValue;

    use super::*;

    #[test]
    fn interim_answers_that_wait_have_a_bound_and_the_client_is_asked_for_its_body_whatever_waits() {
        let interim = Interim::default();
        interim.expect_continue();
        for _ in 0..32 {
            let mut hints = http::Response::new(());
            *hints.status_mut() = StatusCode::EARLY_HINTS;
            hints.headers_mut().insert("link", HeaderValue::from_bytes(&[b'a'; 10 * 1024]).unwrap());
            interim.tell(hints);
        }
        interim.ask();
        let mut told = Vec::new();
        interim.take(&Context::from_waker(Waker::noop()), |interim| told.push(interim.status().as_u16()));
        assert_eq!(told, [103, 103, 100]);
    }
}
