//! The body of a stored answer, and the count of those that readers still hold when they are stored no more.
//!
//! A body is evicted while a slow client reads it: its memory is free only when that client is done. So each body knows
//! in how many entries it is, and counts as lingering from the time when it is in none until nothing holds it.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

/// The bytes of bodies that were evicted and are still held. It may be too low, and below 0, for an instant.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lingering(Arc<AtomicI64>);

impl Lingering {
    pub(crate) fn bytes(&self) -> u64 {
        u64::try_from(self.0.load(Relaxed)).unwrap_or(0)
    }

    fn add(&self, bytes: i64) {
        self.0.fetch_add(bytes, Relaxed);
    }
}

/// A body. Its clones, and the readers of its bytes, share the memory.
#[derive(Clone)]
pub struct Content {
    bytes: Bytes,
    held: Arc<Held>,
}

struct Held {
    bytes: Box<[u8]>,
    /// In how many entries it is.
    places: AtomicUsize,
    /// Where it is counted; empty before it was stored for the first time.
    lingering: OnceLock<Lingering>,
}

impl Held {
    fn size(&self) -> i64 {
        i64::try_from(self.bytes.len()).unwrap_or(i64::MAX)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(lingering) = self.lingering.get() {
            lingering.add(-self.size()); // it has lingered since it was in no entry
        }
    }
}

/// What the readers hold.
struct Reader(Arc<Held>);

impl AsRef<[u8]> for Reader {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl Content {
    pub fn new(body: Box<[u8]>) -> Self {
        let is_empty = body.is_empty();
        let held = Arc::new(Held { bytes: body, places: AtomicUsize::new(0), lingering: OnceLock::new() });
        let bytes = if is_empty { Bytes::new() } else { Bytes::from_owner(Reader(held.clone())) };
        Self { bytes, held }
    }

    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Notes that it is in a further entry. Not in two threads at once.
    pub(crate) fn place(&self, lingering: &Lingering) -> Place {
        let was_stored = self.held.lingering.set(lingering.clone()).is_err();
        if self.held.places.fetch_add(1, Relaxed) == 0 && was_stored {
            lingering.add(-self.held.size());
        }
        Place(self.held.clone())
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{} bytes", self.len())
    }
}

/// The place of a body in an entry.
pub(crate) struct Place(Arc<Held>);

impl Clone for Place {
    fn clone(&self) -> Self {
        self.0.places.fetch_add(1, Relaxed); // it is in an entry already
        Self(self.0.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let (1, Some(lingering)) = (self.0.places.fetch_sub(1, Relaxed), self.0.lingering.get()) {
            lingering.add(self.0.size());
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("in an entry")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_lingers_from_its_last_place_until_its_last_reader_is_done() {
        let lingering = Lingering::default();
        let count = || lingering.bytes();
        let content = Content::new(b"body"[..].into());
        let place = content.place(&lingering);
        let (other, reader) = (place.clone(), content.bytes().slice(1..2));
        drop((place, content));
        assert_eq!(count(), 0, "it is in one more entry");
        drop(other);
        assert_eq!(count(), 4, "also if only a part is read");
        drop(reader);
        assert_eq!(count(), 0);
    }

    #[test]
    fn a_body_that_comes_back_into_an_entry_lingers_no_more() {
        let lingering = Lingering::default();
        let content = Content::new(b"body"[..].into());
        drop(content.place(&lingering));
        assert_eq!(lingering.bytes(), 4);
        let place = content.place(&lingering);
        assert_eq!(lingering.bytes(), 0);
        drop((content, place));
        assert_eq!(lingering.bytes(), 0);
    }

    #[test]
    fn a_body_that_was_never_stored_does_not_count() {
        let lingering = Lingering::default();
        drop(Content::new(b"body"[..].into()));
        drop(Content::new(b""[..].into()).place(&lingering));
        assert_eq!(lingering.bytes(), 0);
    }
}
