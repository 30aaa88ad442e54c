//! An HTTP/2 connection, which serves many requests at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use pillion_model::policy::ConnectionPolicy;
use tokio::time::Instant;

use super::{About, Idle};
use pillion_http::agreed::Agreed;
use pillion_http::h2::client::Sender;
use pillion_tls::admission::{Admission, AdmissionFailure};

pub(crate) struct Http2 {
    pub(super) send: Sender,
    about: Mutex<About>,
    admission: Option<Arc<Admission>>,
    /// What is agreed on with another sidecar.
    pub(super) agreed: Agreed,
    /// The number of requests that it carries now.
    streams: AtomicU32,
    /// Whether the connection takes no new request, because it is old, received GOAWAY or broke.
    retired: AtomicBool,
    idle: Mutex<Idle>,
}

impl Http2 {
    pub(crate) fn new(send: Sender, about: About, admission: Option<Arc<Admission>>) -> Arc<Self> {
        Arc::new(Self {
            send,
            about: Mutex::new(about),
            admission,
            agreed: Agreed::default(),
            streams: AtomicU32::new(0),
            retired: AtomicBool::new(false),
            idle: Mutex::default(),
        })
    }

    /// Whether the connection may carry one more request, by its age and its peer.
    pub(super) fn is_open(&self, policy: &ConnectionPolicy) -> bool {
        !self.retired.load(Relaxed) && !self.send.is_closed() && !self.about.lock().is_worn(policy)
    }

    /// Whether there is room for another stream if the endpoint accepts `most`.
    pub(super) fn has_room(&self, most: u32) -> bool {
        self.streams() < self.send.max_streams().min(most) && !self.send.is_clogged()
    }

    pub(super) fn streams(&self) -> u32 {
        self.streams.load(Relaxed)
    }

    pub(super) fn add_stream(&self) {
        self.streams.fetch_add(1, Relaxed);
    }

    /// Notes that a stream has ended. Returns whether it was the last one.
    pub(super) fn end_stream(&self) -> bool {
        let is_idle = self.streams.fetch_sub(1, Relaxed) == 1;
        if is_idle {
            *self.idle.lock() = Idle::default();
        }
        is_idle
    }

    pub(super) fn opened(&self) -> Instant {
        self.about.lock().opened
    }

    /// The connection takes no new request from now on.
    pub(super) fn retire(&self) {
        self.retired.store(true, Relaxed);
    }

    /// Whether the sweep must close the connection.
    pub(super) fn is_done(&self, idle_timeout: Option<Duration>, now: Instant) -> bool {
        self.send.is_closed() || (self.streams() == 0 && self.idle.lock().is_over(idle_timeout, now))
    }

    /// The TLS failure of the connection, if there was one.
    pub(super) fn tls_failure(&self) -> Option<AdmissionFailure> {
        self.admission.as_ref()?.failure()
    }

    /// Counts one use. Returns the values from before it.
    pub(super) fn count_use(&self) -> About {
        let mut about = self.about.lock();
        let before = *about;
        about.uses += 1;
        before
    }
}
