//! Live copies of the records of exchanges, for `/tap`. They cost nothing while nobody asks for them.
//!
//! A worker never waits for a tap: each tap has a bounded channel, and what does not fit is counted and left out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;
use pillion_http::message::Headers;
use pillion_telemetry::timeline::Timeline;
use tokio::sync::mpsc;

/// How many records may wait for one tap: some milliseconds of a busy sidecar.
const WAITING: usize = 256;
/// How many taps there may be at once: each of them has a copy of every record.
const MOST_TAPS: usize = 8;
/// Bytes of header names and values that are copied for one record.
const HEADER_BYTES: usize = 16 * 1024;
/// In place of a value that may be a credential.
const REDACTED: &str = "[redacted]";
/// Parts of the names of header fields whose values may be credentials.
const CREDENTIALS: [&str; 12] = [
    "auth",
    "cookie",
    "token",
    "secret",
    "password",
    "passwd",
    "api-key",
    "apikey",
    "session",
    "signature",
    "credential",
    "client-cert",
];

/// The taps of a sidecar. All workers share them.
#[derive(Default)]
pub struct Taps {
    open: AtomicUsize,
    with_headers: AtomicUsize,
    senders: Mutex<Vec<Sender>>,
}

struct Sender {
    records: mpsc::Sender<Arc<Tapped>>,
    lost: Arc<AtomicU64>,
}

/// A record as a tap gets it.
#[derive(Debug)]
pub struct Tapped {
    pub timeline: Timeline,
    /// Those of the request and those of the answer, where a tap wants headers. Values that may be credentials are left
    /// out.
    pub headers: Option<Box<[HeaderList; 2]>>,
}

/// Names and values.
pub type HeaderList = Vec<(Box<str>, Box<str>)>;

/// The receiving end of a tap. It ends when this is dropped.
pub struct Tap {
    records: mpsc::Receiver<Arc<Tapped>>,
    lost: Arc<AtomicU64>,
    has_headers: bool,
    of: Arc<Taps>,
}

impl Taps {
    /// Whether there is any tap.
    pub fn is_open(&self) -> bool {
        self.open.load(Relaxed) > 0
    }

    /// Whether a tap wants headers.
    pub fn wants_headers(&self) -> bool {
        self.with_headers.load(Relaxed) > 0
    }

    /// Opens a tap. `None`: there are too many already.
    pub fn open(self: &Arc<Self>, has_headers: bool) -> Option<Tap> {
        let mut senders = self.senders.lock();
        senders.retain(|sender| !sender.records.is_closed());
        if senders.len() >= MOST_TAPS {
            return None;
        }
        let (sender, records) = mpsc::channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        senders.push(Sender { records: sender, lost: lost.clone() });
        self.open.fetch_add(1, Relaxed);
        self.with_headers.fetch_add(usize::from(has_headers), Relaxed);
        Some(Tap { records, lost, has_headers, of: self.clone() })
    }

    /// Gives the record that `make` makes to every tap. It is not made where no tap has room for it.
    pub fn tell(&self, make: impl FnOnce() -> Tapped) {
        let senders = self.senders.lock();
        let has_room = |sender: &&Sender| sender.records.capacity() > 0 && !sender.records.is_closed();
        let record = senders.iter().find(has_room).map(|_| Arc::new(make()));
        for sender in &*senders {
            let sent = record.as_ref().is_some_and(|record| sender.records.try_send(record.clone()).is_ok());
            if !sent {
                sender.lost.fetch_add(1, Relaxed);
            }
        }
    }
}

impl Tap {
    /// The next record.
    pub fn poll_next(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<Arc<Tapped>>> {
        self.records.poll_recv(cx)
    }

    /// How many records were left out since the last call.
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Relaxed)
    }

    pub const fn has_headers(&self) -> bool {
        self.has_headers
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.records.close();
        self.of.open.fetch_sub(1, Relaxed);
        self.of.with_headers.fetch_sub(usize::from(self.has_headers), Relaxed);
        self.of.senders.lock().retain(|sender| !sender.records.is_closed());
    }
}

/// Names and values, bounded, without what may be a credential.
pub fn listed(headers: &Headers) -> HeaderList {
    let (mut all, mut bytes) = (Vec::new(), 0);
    for (name, value) in headers.iter() {
        bytes += name.len() + value.len();
        if bytes > HEADER_BYTES {
            break;
        }
        let value = if is_credential(name) { REDACTED.into() } else { String::from_utf8_lossy(value) };
        all.push((String::from_utf8_lossy(name).into(), value.into()));
    }
    all
}

/// Whether the value of a field may be a credential.
fn is_credential(name: &[u8]) -> bool {
    let name = name.to_ascii_lowercase();
    CREDENTIALS.iter().any(|part| name.windows(part.len()).any(|window| window == part.as_bytes()))
}
