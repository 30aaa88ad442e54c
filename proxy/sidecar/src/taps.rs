//! Live copies of the records of exchanges, for `/tap`. They cost nothing while nobody asks for them.
//!
//! A worker never waits for a tap: each tap has a bounded channel, and what does not fit is counted and left out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pillion_http::message::Headers;
use pillion_telemetry::json::printable;
use pillion_telemetry::timeline::Timeline;
use tokio::sync::mpsc;

/// How many records may wait for one tap: some milliseconds of a busy sidecar. With headers they take 1.5 MiB.
const WAITING: usize = 128;
/// How many taps there may be at once: each of them has a copy of every record.
const MOST_TAPS: usize = 8;
/// Bytes of the header names and values of one message that are copied.
const HEADER_BYTES: usize = 4 * 1024;
/// In place of a value that may be a credential.
const REDACTED: &str = "[redacted]";
/// Parts of the names of header fields whose values may be credentials.
const CREDENTIALS: [&str; 19] = [
    "auth",
    "cookie",
    "token",
    "secret",
    "pass",
    "pwd",
    "key",
    "session",
    "signature",
    "credential",
    "client-cert",
    "jwt",
    "assertion",
    "oidc",
    "saml",
    "otp",
    "csrf",
    "xsrf",
    "api-id",
];
/// Fields with a URL, whose query may have secrets.
const URLS: [&str; 6] = ["location", "referer", "url", "uri", "path", "link"];
/// How values begin that are credentials, whatever the name of their field: a JWT, and schemes of `Authorization`.
const CREDENTIAL_VALUES: [&str; 4] = ["eyj", "bearer ", "basic ", "digest "];

/// The taps of a sidecar. All workers share them.
#[derive(Default)]
pub struct Taps {
    open: AtomicUsize,
    with_headers: AtomicUsize,
    /// Read by the workers without a lock.
    senders: ArcSwap<Vec<Sender>>,
    /// Held while `senders` is replaced.
    change: Mutex<()>,
}

#[derive(Clone)]
struct Sender {
    records: mpsc::Sender<Arc<Tapped>>,
    lost: Arc<AtomicU64>,
}

/// A record as a tap gets it.
#[derive(Debug)]
pub struct Tapped {
    pub timeline: Arc<Timeline>,
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
        let _one_at_a_time = self.change.lock();
        let mut senders = Vec::clone(&self.senders.load());
        senders.retain(|sender| !sender.records.is_closed());
        if senders.len() >= MOST_TAPS {
            return None;
        }
        let (sender, records) = mpsc::channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        senders.push(Sender { records: sender, lost: lost.clone() });
        self.senders.store(Arc::new(senders));
        self.open.fetch_add(1, Relaxed);
        self.with_headers.fetch_add(usize::from(has_headers), Relaxed);
        Some(Tap { records, lost, has_headers, of: self.clone() })
    }

    /// Whether any tap has room for a record. Where none has, each of them is told that one was left out, and the record
    /// need not be made.
    pub fn has_room(&self) -> bool {
        let senders = self.senders.load();
        let has_room = senders.iter().any(|sender| sender.records.capacity() > 0);
        if !has_room {
            for sender in senders.iter() {
                sender.lost.fetch_add(1, Relaxed);
            }
        }
        has_room
    }

    /// Gives a record to every tap that has room for it.
    pub fn tell(&self, record: Tapped) {
        let record = Arc::new(record);
        for sender in self.senders.load().iter() {
            if sender.records.try_send(record.clone()).is_err() {
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
        let _one_at_a_time = self.of.change.lock();
        let mut senders = Vec::clone(&self.of.senders.load());
        senders.retain(|sender| !sender.records.is_closed());
        self.of.senders.store(Arc::new(senders));
    }
}

/// Names and values, bounded, without what may be a credential.
pub fn listed(headers: &Headers) -> HeaderList {
    let (mut all, mut bytes) = (Vec::new(), 0);
    for (name, value) in headers.iter() {
        let (name, value) = (printable(name, HEADER_BYTES), shown(name, value));
        bytes += name.len() + value.len();
        if bytes > HEADER_BYTES {
            break;
        }
        all.push((name.into(), value.into()));
    }
    all
}

/// The value of a field, or what stands in its place.
fn shown(name: &[u8], value: &[u8]) -> String {
    let (name, start) = (lower(name), lower(value.get(..16).unwrap_or(value)));
    let is_named = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    if is_named(&CREDENTIALS) || CREDENTIAL_VALUES.iter().any(|begins| start.trim_start().starts_with(begins))
    {
        return REDACTED.to_owned();
    }
    match value.iter().position(|byte| *byte == b'?').filter(|_| is_named(&URLS)) {
        Some(query) => printable(value.get(..query).unwrap_or_default(), HEADER_BYTES) + "?" + REDACTED,
        None => printable(value, HEADER_BYTES),
    }
}

fn lower(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_that_may_be_a_credential_is_shown() {
        for (name, value, expected) in [
            ("accept", "text/html", "text/html"),
            ("Authorization", "Basic dXNlcg==", REDACTED),
            ("ocp-apim-subscription-key", "1", REDACTED),
            ("x-functions-key", "1", REDACTED),
            ("x-goog-iap-jwt-assertion", "1", REDACTED),
            ("x-amzn-oidc-data", "1", REDACTED),
            ("X-PWD", "1", REDACTED),
            ("set-cookie", "a=1", REDACTED),
            ("x-plain", "eyJhbGciOi", REDACTED),
            ("x-plain", "Bearer abc", REDACTED),
            ("location", "https://app/cb?code=1", "https://app/cb?[redacted]"),
            ("referer", "https://app/?code=1", "https://app/?[redacted]"),
            ("x-envoy-original-path", "/a?code=1", "/a?[redacted]"),
            ("x-question", "is it?", "is it?"),
            ("x-colour", "\x1b[31mred", "\u{fffd}[31mred"),
        ] {
            assert_eq!(shown(name.as_bytes(), value.as_bytes()), expected, "{name}: {value}");
        }
    }

    #[test]
    fn what_is_listed_has_a_bound() {
        let mut map = http::HeaderMap::new();
        for field in 0..100 {
            let name = http::HeaderName::try_from(format!("x-{field}")).unwrap();
            map.insert(name, http::HeaderValue::from_bytes(&[0xff; 500]).unwrap());
        }
        let all = listed(&Headers::Map(map));
        let bytes: usize = all.iter().map(|(name, value)| name.len() + value.len()).sum();
        assert!((1..=HEADER_BYTES).contains(&bytes), "{bytes}");
    }
}
