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

use super::memory::ceiling::Ceiling;
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

/// 32 MiB for the unfinished handshakes and heads of all sides: a quarter of 128 MiB, which is usual for the container of a
/// sidecar. Where the memory has a lower limit, a quarter of that.
const ALL: usize = 32 * 1024 * 1024;

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
    /// Bytes that all unfinished handshakes and heads of this side may hold at once, however much memory there is. The
    /// three bounds together are [`ALL`]. 12 MiB are 768 handshakes, or 170 heads of 64 KiB with their readers; 8 MiB are
    /// 113 such heads.
    pub const fn most(self) -> usize {
        match self {
            Self::Strangers | Self::Peers => ALL / 8 * 3,
            Self::Application => ALL / 4,
        }
    }

    /// The same where the memory of the process is limited: the same part of a quarter of it.
    fn most_within(self, ceiling: &Ceiling) -> usize {
        let all = ceiling.part_of_limit().min(ALL);
        match self {
            Self::Strangers | Self::Peers => all / 8 * 3,
            Self::Application => all / 4,
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
pub struct Unfinished {
    piles: [Mutex<Pile>; 3],
    ceiling: Arc<Ceiling>,
}

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
    /// Those of a process whose memory has this limit.
    pub fn within(ceiling: Arc<Ceiling>) -> Self {
        Self { ceiling, ..Self::default() }
    }

    /// Gives up the oldest of a side, until they have freed `bytes` or there is none. Returns how many there were.
    pub fn give_up_oldest(&self, side: Side, bytes: u64) -> usize {
        let mut pile = self.pile(side).lock();
        let most = pile.bytes.saturating_sub(usize::try_from(bytes).unwrap_or(usize::MAX));
        let gone = pile.shrink(most);
        drop(pile);
        let count = gone.len();
        gone.into_iter().for_each(Held::give_up);
        count
    }

    pub fn begin(self: &Arc<Self>, side: Side) -> Share {
        let (gives_up, given_up) = oneshot::channel();
        let mut pile = self.pile(side).lock();
        pile.last_id += 1;
        let id = pile.last_id;
        pile.held.insert(id, Held { bytes: 0, gives_up });
        Share { id, side, of: self.clone(), given_up }
    }

    const fn pile(&self, side: Side) -> &Mutex<Pile> {
        let [strangers, peers, application] = &self.piles;
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
        self.shrink(most)
    }

    /// Removes the oldest entries until the rest fits into `most`. Returns what was removed.
    fn shrink(&mut self, most: usize) -> Vec<Held> {
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

impl Held {
    fn give_up(self) {
        let _told: Result<(), ()> = self.gives_up.send(()); // an entry whose receiver is dropped is about to end
    }
}

impl Share {
    /// Notes that this one now holds `bytes`. Above the bound the oldest of its side are given up, perhaps this one
    /// among them.
    pub fn hold(&self, bytes: usize) {
        let most = self.side.most_within(&self.of.ceiling);
        let gone = self.of.pile(self.side).lock().hold(self.id, bytes, most);
        if !gone.is_empty() {
            tell(self.side, most);
        }
        gone.into_iter().for_each(Held::give_up);
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

fn tell(side: Side, limit: usize) {
    static LINES: [Seldom; 3] = [const { Seldom::new() }; 3];
    let [strangers, peers, application] = &LINES;
    let line = match side {
        Side::Strangers => strangers,
        Side::Peers => peers,
        Side::Application => application,
    };
    if let Some(left_out) = line.due(Instant::now().into_std()) {
        let of = side.name();
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

    #[test]
    fn the_bounds_shrink_with_the_memory_of_the_process() {
        let ceiling = Arc::<Ceiling>::default();
        let all = Arc::new(Unfinished::within(ceiling.clone()));
        ceiling.set_limit(Some(64 << 20));
        let [mut first, mut second] = [(); 2].map(|()| all.begin(Side::Application));
        first.hold(4 << 20);
        assert!(!is_given_up(&mut first));
        second.hold(1);
        assert!(
            is_given_up(&mut first) && !is_given_up(&mut second),
            "the half of what 128 MiB have room for"
        );
        let sides = [Side::Strangers, Side::Peers, Side::Application];
        assert_eq!(sides.map(Side::most).iter().sum::<usize>(), ALL);
    }

    #[test]
    fn when_memory_runs_short_the_oldest_of_a_side_are_given_up_until_enough_is_free() {
        let all = Arc::<Unfinished>::default();
        let [mut first, mut second, mut third] = [(); 3].map(|()| all.begin(Side::Strangers));
        [&first, &second, &third].into_iter().for_each(|share| share.hold(1000));
        assert_eq!(all.give_up_oldest(Side::Peers, u64::MAX), 0);
        assert_eq!(all.give_up_oldest(Side::Strangers, 1001), 2);
        assert!(is_given_up(&mut first) && is_given_up(&mut second) && !is_given_up(&mut third));
        assert_eq!(all.give_up_oldest(Side::Strangers, u64::MAX), 1);
    }
}
