//! HTTP/2 on the `h2` crate itself, for both roles: what a proxy must bound, a general layer over it hides.
//!
//! - One task drives a connection ([`client`], and the server of the crate above); one task carries each request.
//! - [`receive`]: what a peer sends is taken out of `h2` at once, small pieces joined, and its window is given back
//!   only as the bytes go on. So frames that wait because we hold them back count against nobody.
//! - [`send`]: what goes to a peer is read from the other side only as far as the peer takes it, or nearly.
//! - [`memory`]: what both hold, bounded per connection and for all connections of a worker together.
//! - [`guard`]: how long a peer may dawdle, and what `h2` writes on its way out, which the private `gather` joins.
//!
//! Deliberately absent: framing, windows and stream states, which are `h2`'s; and PINGs, of which gRPC servers allow
//! next to none.

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
pub use self::receive::Incoming;
pub use self::tunnel::Tunnel;

/// What one stream's peer may send before any of it has gone on: Envoy's advice for peers that are not trusted. 200
/// streams whose readers stand still hold 12 MiB, over as many connections as they like.
pub const STREAM_WINDOW: u32 = 64 * 1024;
/// `h2`'s count of small DATA frames that nobody has taken out of it. They are taken out after each look at the
/// socket, which yields at most [`guard::READ_AT_ONCE`]; its smallest frames (ten bytes, counted as 255) are a bit
/// less than half of this. So it is never reached, whatever is sent.
pub const DATA_FRAME_BUDGET: usize = 4 * 1024 * 1024;
/// What one stream may have waiting for the socket inside `h2`.
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

    /// Runs `poll`, which moves the connection over `io`. Before anybody else runs, what came out of `h2` is taken, and
    /// what went into it is sent.
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
        io.end_move(cx);
        polled
    }
}
