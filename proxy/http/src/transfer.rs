//! The progress of the two bodies of an exchange, and the trait to which the bodies report it.
//!
//! The bodies do not depend on routes, layers or logs. The exchange implements [`Observer`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use parking_lot::Mutex;
use tokio::time::Instant;

use pillion_base::deadline::Timers;
use pillion_model::Reason;

/// Receives reports of the progress of an exchange's bodies, and of the end of the exchange.
pub trait Observer: Send + Sync {
    /// When the request came.
    fn started(&self) -> Instant;
    /// The progress of the request's body.
    fn progress(&self) -> &Progress;
    /// The interim answers for the client.
    fn interim(&self) -> &Interim;
    fn timers(&self) -> &Timers;
    /// A part of the head of an answer, or an interim answer, has come.
    fn answer_began(&self);
    /// The sidecar cut the request's body, for this reason, which the answer will state.
    fn cut(&self, reason: Reason);
    /// The exchange became a tunnel, which received this number of bytes from the client.
    fn was_tunnel(&self, received: u64);
    /// The answer has ended, completely or not. Only the first call counts.
    fn finish(&self, ending: ResponseEnd);
}

/// The connection of an answer, held until the answer ends. It is closed when this is dropped.
pub trait Carrier: Send + Sync {
    /// The answer is complete: the connection may serve another request.
    fn give_back(self: Box<Self>);
}

/// Takes a copy of the body of an answer as it passes.
pub trait Keeper: Send + Sync {
    fn data(&mut self, data: &Bytes);
    fn end(self: Box<Self>, how: BodyEnd);
}

/// How the body of an answer ended, for who takes a copy of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyEnd {
    /// It came to its end, and has no trailers.
    Whole,
    /// It came to its end, and has trailers.
    Trailers,
    /// The upstream broke it off, or a limit did.
    Cut,
    /// The client took no more of it.
    ClientLeft,
}

/// How a response ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct ResponseEnd {
    pub bytes: u64,
    pub grpc_status: Option<u8>,
    pub reason: Option<Reason>,
}

/// 16 KiB: while so many bytes of interim answers, or of what is sent before them, wait for a client, further interim
/// answers are dropped. Clients depend only on `100 Continue`, and an upstream may send 32 of 128 KiB each at once.
pub const INTERIM_WAITING: usize = 16 * 1024;

/// Interim answers (1xx) on their way to the client.
#[derive(Default)]
pub struct Interim {
    /// The client waits for a 100 before it sends its body.
    expects: AtomicBool,
    is_told: AtomicBool,
    state: Mutex<(Vec<http::Response<()>>, Option<Waker>)>,
}

impl Interim {
    /// Notes that the client waits for `100 Continue`. It gets one when its body is read for the first time.
    pub fn expect_continue(&self) {
        self.expects.store(true, Relaxed);
    }

    /// Adds a `100 Continue`, if the client waits for one, because its body is wanted now.
    pub fn ask(&self) {
        if self.expects.load(Relaxed) && self.expects.swap(false, Relaxed) {
            let mut ask = http::Response::new(());
            *ask.status_mut() = StatusCode::CONTINUE;
            self.tell(ask);
        }
    }

    /// Adds an interim answer. It is dropped if too much waits already; see [`INTERIM_WAITING`].
    pub fn tell(&self, interim: http::Response<()>) {
        let mut state = self.state.lock();
        let waiting: usize = state.0.iter().map(interim_bytes).sum();
        if waiting >= INTERIM_WAITING && !only_continues(&interim) {
            return;
        }
        state.0.push(interim);
        self.is_told.store(true, Relaxed);
        if let Some(waker) = state.1.take() {
            waker.wake();
        }
    }

    /// Gives the waiting interim answers to `give`. Keeps the waker while the client waits for a 100, because the body
    /// may be read in another task.
    pub fn take(&self, cx: &Context<'_>, mut give: impl FnMut(http::Response<()>)) {
        if self.expects.load(Relaxed) {
            self.state.lock().1 = Some(cx.waker().clone());
        }
        if self.is_told.load(Relaxed) && self.is_told.swap(false, Relaxed) {
            let waiting = std::mem::take(&mut self.state.lock().0);
            waiting.into_iter().for_each(&mut give);
        }
    }
}

/// The bytes of the fields of an interim answer.
pub fn interim_bytes(interim: &http::Response<()>) -> usize {
    interim.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

/// Whether it is a `100 Continue` without fields, which is never dropped: a client may wait for it, and it costs next to
/// nothing. An upstream's own 100 may have fields, up to the size of a head.
pub fn only_continues(interim: &http::Response<()>) -> bool {
    interim.status() == StatusCode::CONTINUE && interim.headers().is_empty()
}

/// The progress of the request's body. The body writes it, and the timeout layer reads it.
pub struct Progress {
    started: Instant,
    /// When the first byte moved, in nanoseconds after `started`, plus one; zero: not yet.
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

    /// Whether a part of the request's body has not come yet, or has not been read.
    pub fn is_unfinished(&self) -> bool {
        self.has_body.load(Relaxed) && self.complete.load(Relaxed) == 0
    }

    /// Whether the request has a body.
    pub fn has_body(&self) -> bool {
        self.has_body.load(Relaxed)
    }

    /// Notes that the client broke its request off.
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

/// A copy of the progress. Each time is counted from the start of the request.
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
    fn b6_a_100_with_fields_counts_as_any_interim_answer() {
        let interim = Interim::default();
        for _ in 0..32 {
            let mut large = http::Response::new(());
            *large.status_mut() = StatusCode::CONTINUE;
            large.headers_mut().insert("x", HeaderValue::from_bytes(&[b'a'; 10 * 1024]).unwrap());
            interim.tell(large);
        }
        let mut count = 0;
        interim.take(&Context::from_waker(Waker::noop()), |_interim| count += 1);
        assert_eq!(count, 2, "16 KiB, and one more");
    }

    #[test]
    fn waiting_interim_answers_have_a_bound_and_a_100_is_never_dropped() {
        let interim = Interim::default();
        interim.expect_continue();
        for _ in 0..32 {
            let mut hints = http::Response::new(());
            *hints.status_mut() = StatusCode::EARLY_HINTS;
            hints.headers_mut().insert("link", HeaderValue::from_bytes(&[b'a'; 10 * 1024]).unwrap());
            interim.tell(hints);
        }
        interim.ask();
        let mut statuses = Vec::new();
        interim.take(&Context::from_waker(Waker::noop()), |interim| statuses.push(interim.status().as_u16()));
        assert_eq!(statuses, [103, 103, 100]);
    }
}
