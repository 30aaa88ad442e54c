//! Bounds the memory of all unfinished handshakes and heads.
//!
//! Above the bound the unfinished one that began first is given up. An honest one is complete within milliseconds, so
//! the oldest ones most likely belong to clients that stall. Each [`Side`] has a bound of its own, so that many
//! unauthenticated clients never cost a peer of the mesh its request.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use pillion_telemetry::Seldom;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// What the reader of an HTTP/2 connection holds before the bytes of its head are counted: the first buffers of the
/// crate `h2`. An HTTP/1 reader holds only the bytes themselves.
pub const READER: usize = 8 * 1024;
/// What a handshake holds at most: rustls reads [`HANDSHAKE_BYTES`], and allocates room for 4 KiB more.
pub const HANDSHAKE: usize = 16 * 1024;
/// What a client may send until its handshake is complete. Most clients send 3 KiB. Four RSA certificates of 4096 bits
/// and a post-quantum key share are 10 KiB.
pub const HANDSHAKE_BYTES: usize = 12 * 1024;

/// The kind of client that has begun a handshake or a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// An inbound client that has not proven its identity.
    Strangers,
    /// An inbound client that has proven its identity.
    Peers,
    /// The application of this sidecar.
    Application,
}

impl Side {
    /// Bytes that all unfinished handshakes and heads of this side may hold at once. The three bounds together are 32
    /// MiB, a quarter of 128 MiB, the smallest container that is usual for a sidecar. 12 MiB are 768 handshakes, or 170
    /// heads of 64 KiB with their readers; 8 MiB are 113 such heads.
    pub const fn most(self) -> usize {
        const MIB: usize = 1024 * 1024;
        match self {
            Self::Strangers | Self::Peers => 12 * MIB,
            Self::Application => 8 * MIB,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Strangers => "strangers",
            Self::Peers => "peers of the mesh",
            Self::Application => "the application",
        }
    }
}

/// The unfinished handshakes and heads of all workers.
#[derive(Default)]
pub struct Unfinished([Mutex<Pile>; 3]);

#[derive(Default)]
struct Pile {
    last_id: u64,
    bytes: usize,
    /// The oldest come first.
    held: BTreeMap<u64, Held>,
}

struct Held {
    bytes: usize,
    gives_up: oneshot::Sender<()>,
}

/// What one unfinished handshake or head holds. Dropping it gives the memory back.
pub struct Share {
    id: u64,
    side: Side,
    of: Arc<Unfinished>,
    given_up: oneshot::Receiver<()>,
}

impl Unfinished {
    pub fn begin(self: &Arc<Self>, side: Side) -> Share {
        let (gives_up, given_up) = oneshot::channel();
        let mut pile = self.pile(side).lock();
        pile.last_id += 1;
        let id = pile.last_id;
        pile.held.insert(id, Held { bytes: 0, gives_up });
        Share { id, side, of: self.clone(), given_up }
    }

    const fn pile(&self, side: Side) -> &Mutex<Pile> {
        let [strangers, peers, application] = &self.0;
        match side {
            Side::Strangers => strangers,
            Side::Peers => peers,
            Side::Application => application,
        }
    }
}

impl Pile {
    /// Notes the bytes of one entry, and removes the oldest entries until the rest fits into `most`. Returns what was
    /// removed.
    fn hold(&mut self, id: u64, bytes: usize, most: usize) -> Vec<Held> {
        if let Some(held) = self.held.get_mut(&id) {
            self.bytes = self.bytes - held.bytes + bytes;
            held.bytes = bytes;
        }
        let mut gone = Vec::new();
        while self.bytes > most
            && let Some((_, oldest)) = self.held.pop_first()
        {
            self.bytes -= oldest.bytes;
            gone.push(oldest);
        }
        gone
    }

    fn leave(&mut self, id: u64) {
        if let Some(held) = self.held.remove(&id) {
            self.bytes -= held.bytes;
        }
    }
}

impl Share {
    /// Notes that this one now holds `bytes`. Above the bound the oldest of its side are given up, perhaps this one
    /// among them.
    pub fn hold(&self, bytes: usize) {
        let gone = self.of.pile(self.side).lock().hold(self.id, bytes, self.side.most());
        if !gone.is_empty() {
            tell(self.side);
        }
        for held in gone {
            let _told: Result<(), ()> = held.gives_up.send(()); // an entry whose receiver is dropped is about to end
        }
    }

    /// Ready when this one was given up.
    pub fn poll_given_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match Pin::new(&mut self.given_up).poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(()),
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }

    pub async fn given_up(&mut self) {
        std::future::poll_fn(|cx| self.poll_given_up(cx)).await;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.pile(self.side).lock().leave(self.id);
    }
}

fn tell(side: Side) {
    static LINES: [Seldom; 3] = [const { Seldom::new() }; 3];
    let [strangers, peers, application] = &LINES;
    let line = match side {
        Side::Strangers => strangers,
        Side::Peers => peers,
        Side::Application => application,
    };
    if let Some(left_out) = line.due(Instant::now().into_std()) {
        let (of, limit) = (side.name(), side.most());
        tracing::warn!(
            of,
            limit,
            left_out,
            "unfinished handshakes and heads exceed their memory limit: the oldest is closed"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_given_up(share: &mut Share) -> bool {
        share.poll_given_up(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    #[test]
    fn a8_above_the_bound_the_oldest_of_the_same_side_is_given_up_first() {
        let all = Arc::<Unfinished>::default();
        let third = Side::Strangers.most() / 3;
        let [mut first, mut second, mut third_one, mut fourth] = [(); 4].map(|()| all.begin(Side::Strangers));
        let mut peer = all.begin(Side::Peers);
        [&first, &second, &third_one].into_iter().for_each(|share| share.hold(third));
        peer.hold(third);
        assert!(![&mut first, &mut second, &mut third_one].into_iter().any(is_given_up));
        fourth.hold(third);
        assert!(is_given_up(&mut first) && !is_given_up(&mut second));
        drop(second);
        fourth.hold(2 * third);
        assert!(![&mut third_one, &mut fourth, &mut peer].into_iter().any(is_given_up));
        fourth.hold(Side::Strangers.most() + 1);
        assert!(is_given_up(&mut third_one) && is_given_up(&mut fourth), "a single one may exceed the bound");
        assert!(!is_given_up(&mut peer), "unproven clients never cost a peer anything");
        drop((first, third_one, fourth));
        assert_eq!(all.pile(Side::Strangers).lock().bytes, 0);
    }
}
