//! HTTP/2 with the crate `h2` itself, for both roles: a general layer over it would hide what a proxy must bound.
//!
//! - One task drives a connection ([`client`], and `h2_server` of pillion-sidecar); one task carries each request.
//! - [`receive`] takes a peer's bytes out of `h2` at once and joins small pieces. The window is given back only when
//!   the bytes are passed on. So frames that wait because the sidecar holds them back do not count against the peer.
//! - [`send`] reads bytes for a peer from the other side only (or nearly) as far as the peer accepts them.
//! - [`memory`] bounds what both hold: for each connection, and for all connections of a worker together.
//! - [`guard`] bounds how long a peer may take, and sends the bytes that `h2` writes; the private `gather` joins them.
//!
//! Deliberately absent: framing, windows and stream states, which `h2` handles; and PINGs, of which gRPC servers allow
//! very few.

pub mod client;
mod gather;
pub mod guard;
pub mod memory;
mod receive;
pub mod send;
pub mod tunnel;

use std::sync::Arc;
use std::task::Context;

use pillion_base::deadline::Timers;
use pillion_base::ground::Ground;

use self::guard::GuardedIo;
use self::memory::Account;
use self::receive::Arrivals;
pub use self::receive::{Incoming, Whole};
pub use self::tunnel::Tunnel;

/// 64 KiB: what the peer of one stream may send before any of it is passed on. Envoy recommends it for untrusted peers.
/// 200 streams without progress hold 12 MiB, over any number of connections.
pub const STREAM_WINDOW: u32 = 64 * 1024;
/// 4 MiB: the budget of `h2` for small DATA frames that were not taken out of it. They are taken out after each read of
/// the socket, which yields at most [`guard::READ_AT_ONCE`]. The smallest frames (10 bytes, counted as 255) in one read
/// count a little less than half of this, so the budget is never exhausted.
pub const DATA_FRAME_BUDGET: usize = 4 * 1024 * 1024;
/// 128 KiB: how many bytes of one stream may wait for the socket inside `h2`.
pub const SEND_BUFFER: usize = 128 * 1024;

/// What the streams of one connection share.
pub struct Room {
    pub account: Account,
    pub arrivals: Arrivals,
    pub timers: Timers,
}

impl Room {
    pub fn new(ground: &Ground) -> Arc<Self> {
        Arc::new(Self {
            account: Account::new(ground.http2_memory.clone()),
            arrivals: Arrivals::default(),
            timers: ground.timers.clone(),
        })
    }

    /// Runs `poll`, which moves the connection over `io`. Before another task runs, received bytes are taken out of
    /// `h2`, and written bytes are sent.
    pub fn drive<T>(
        &self,
        io: &GuardedIo,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> T,
    ) -> T {
        self.arrivals.begin(cx);
        io.begin_move();
        let polled = poll(cx);
        self.arrivals.take();
        self.account.note_sent(io.end_move(cx));
        polled
    }
}
