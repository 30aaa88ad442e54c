//! Recognises a connection of the sidecar that comes back to the sidecar as if it came from a client.
//!
//! Wrong redirect rules bring back connections that they should leave alone, and each connection that came back would
//! cause the next one. A connection is recognised by both of its addresses, because several connections may have the
//! same local address and port.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use super::leg::Leg;
use crate::error::Error;
use pillion_model::{Direction, Reason};

/// The open connections, as hashes with a random key: a few bytes for each connection.
static OPEN: LazyLock<Open> = LazyLock::new(Open::default);

/// The interval between log lines. Wrong rules affect every connection, and one line for each would flood the log.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// 32: connections are dialled to few destinations at a time, and a question waits for those to its own part alone.
const PARTS: usize = 32;

#[derive(Default)]
struct Open {
    registered: Mutex<Registered>,
    /// The dials whose connections may not be registered yet, by their destinations. A dial holds its part for reading,
    /// so that dials run beside each other. A question takes it for writing, and so waits until such dials have ended.
    /// While a question waits for a part, parking_lot blocks new readers of that part, so a new dial to it waits behind
    /// the question: as long as the dials under way take, each one call of connect(2) that does not block.
    dials: [RwLock<()>; PARTS],
    key: RandomState,
}

#[derive(Default)]
struct Registered {
    by_hash: HashMap<u64, Registration>,
}

#[derive(Clone, Copy)]
struct Registration {
    /// How many connections of the sidecar, one after the other, have carried the same opaque bytes, with this one.
    passes: u32,
    /// The connections with these addresses that are not forgotten yet: a new one may come before the last one is.
    held: u32,
}

impl Registered {
    fn add(&mut self, hash: u64, passes: u32) {
        let held = self.by_hash.get(&hash).map_or(0, |former| former.held);
        self.by_hash.insert(hash, Registration { passes, held: held.saturating_add(1) });
    }

    fn forget(&mut self, hash: u64) {
        match self.by_hash.get_mut(&hash) {
            Some(registration) if registration.held > 1 => registration.held -= 1,
            _ => drop(self.by_hash.remove(&hash)),
        }
    }
}

impl Open {
    /// Hashes the addresses without the parts that only one end of a connection knows (scope id, flow label).
    fn hash(&self, direction: Direction, near: SocketAddr, far: SocketAddr) -> u64 {
        let is_inbound = matches!(direction, Direction::Inbound);
        self.key.hash_one((
            is_inbound,
            near.ip().to_canonical(),
            near.port(),
            far.ip().to_canonical(),
            far.port(),
        ))
    }

    /// Registers a connection, and returns its hash.
    fn register(&self, leg: Leg, near: SocketAddr, far: SocketAddr) -> u64 {
        let hash = self.hash(leg.direction(), near, far);
        self.registered.lock().add(hash, leg.passes());
        hash
    }

    /// Registers a connection while `connect` makes it, which returns its local address. A connection to the sidecar
    /// itself is complete before `connect` returns, and another worker may accept it. So a question to the same
    /// destination waits until it is registered: for one call of connect(2) that does not block.
    fn register_dialled(
        &self,
        leg: Leg,
        far: SocketAddr,
        connect: impl FnOnce() -> io::Result<Option<SocketAddr>>,
    ) -> io::Result<Option<u64>> {
        let _dial = self.dials_to(far).read();
        Ok(connect()?.map(|near| self.register(leg, near, far)))
    }

    #[allow(clippy::indexing_slicing)] // the remainder is within
    fn dials_to(&self, far: SocketAddr) -> &RwLock<()> {
        &self.dials[self.key.hash_one((far.ip().to_canonical(), far.port())) as usize % PARTS]
    }

    fn contains(&self, direction: Direction, near: SocketAddr, far: SocketAddr) -> bool {
        self.passes(direction, near, far) > 0
    }

    /// Zero: the connection is not the sidecar's own.
    fn passes(&self, direction: Direction, near: SocketAddr, far: SocketAddr) -> u32 {
        drop(self.dials_to(far).write());
        let hash = self.hash(direction, near, far);
        self.registered.lock().by_hash.get(&hash).map_or(0, |registration| registration.passes)
    }
}

/// A connection of the sidecar that is registered while it is open.
#[derive(Debug)]
pub struct Noted(u64);

impl Noted {
    pub fn new(leg: Leg, near: SocketAddr, far: SocketAddr) -> Self {
        Self(OPEN.register(leg, near, far))
    }

    /// Registers the connection that `connect` makes, before anybody may ask for it.
    pub(super) fn connecting(
        leg: Leg,
        far: SocketAddr,
        connect: impl FnOnce() -> io::Result<Option<SocketAddr>>,
    ) -> io::Result<Option<Self>> {
        Ok(OPEN.register_dialled(leg, far, connect)?.map(Self))
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        OPEN.registered.lock().forget(self.0);
    }
}

/// Whether a client of this side is the sidecar itself, in a loop. `to` is the original destination.
///
/// A connection that leaves on the outbound side may arrive on the inbound side: an application may call itself. A
/// connection of the sidecar must never arrive on the outbound side.
pub fn is_loop(side: Direction, from: SocketAddr, to: Option<SocketAddr>) -> bool {
    let Some(to) = to else { return false };
    match side {
        Direction::Inbound => OPEN.contains(Direction::Inbound, from, to),
        Direction::Outbound => {
            OPEN.contains(Direction::Outbound, from, to) || OPEN.contains(Direction::Inbound, from, to)
        }
    }
}

/// How many of the sidecar's own connections in a row carry the bytes of a client that connected to a listener at `to`.
/// Zero: the client is not the sidecar. One is no loop, because a service may have the listener of another service as
/// its endpoint.
pub fn passes(from: SocketAddr, to: SocketAddr) -> u32 {
    OPEN.passes(Direction::Outbound, from, to)
}

/// The error of a connection that is a loop. Logs a warning, at a limited rate.
pub fn loop_detected(from: SocketAddr, to: Option<SocketAddr>) -> Error {
    const WHY: &str = "the sidecar's own connection was redirected to it: the rules do not leave out its user, \
                       or what it sends from 127.0.0.6 and ::6";
    static LAST_LOGGED: Mutex<Option<Instant>> = Mutex::new(None);
    let mut logged = LAST_LOGGED.lock();
    if logged.is_none_or(|logged| logged.elapsed() >= LOG_EVERY) {
        *logged = Some(Instant::now());
        tracing::warn!(%from, ?to, "{WHY}");
    }
    Error::new(Reason::LoopDetected, WHY)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};
    use std::thread;

    use super::*;

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    #[test]
    fn an_own_connection_is_recognised_by_both_addresses_while_it_is_open() {
        let (near, far) = (at("192.0.2.1:40000"), at("192.0.2.2:80"));
        let open = Noted::new(Leg::Outbound, near, far);
        assert!(is_loop(Direction::Outbound, near, Some(far)));
        assert!(!is_loop(Direction::Inbound, near, Some(far)), "an application calls itself");
        assert!(
            !is_loop(Direction::Outbound, near, Some(at("192.0.2.2:81"))),
            "another connection, from the same port"
        );
        assert!(!is_loop(Direction::Outbound, near, None));
        assert_eq!((passes(near, far), passes(far, near)), (1, 0));
        drop(open);
        let open = Noted::new(Leg::OutboundAgain(2), near, far);
        assert_eq!(passes(near, far), 3);
        drop(open);
        assert!(!is_loop(Direction::Outbound, near, Some(far)) && passes(near, far) == 0);
    }

    #[test]
    fn a_dial_waits_for_no_other_dial() {
        let (open, far) = (Arc::new(Open::default()), at("192.0.2.2:80"));
        let (tell, told) = mpsc::channel();
        let other = open.clone();
        let dialled = open.register_dialled(Leg::Outbound, far, || {
            thread::spawn(move || {
                let near = Some(at("192.0.2.1:40003"));
                drop(tell.send(other.register_dialled(Leg::Outbound, far, || Ok(near))));
            });
            told.recv_timeout(Duration::from_secs(60)).expect("the other dial waits").map(|_hash| None)
        });
        assert_eq!(dialled.unwrap(), None);
        assert_eq!(open.passes(Direction::Outbound, at("192.0.2.1:40003"), far), 1);
    }

    #[test]
    fn a_question_waits_for_a_dial_to_its_destination() {
        let (open, near, far) = (Arc::new(Open::default()), at("192.0.2.1:40004"), at("192.0.2.2:80"));
        let (tell, told) = mpsc::channel();
        let until = Instant::now() + Duration::from_secs(60);
        open.register_dialled(Leg::Outbound, far, || {
            let asks = open.clone();
            thread::spawn(move || tell.send(asks.passes(Direction::Outbound, near, far)).unwrap());
            // no new reader passes a waiting writer, so this ends when the question waits
            while open.dials_to(far).try_read().is_some() {
                assert!(told.try_recv().is_err(), "the question was answered before the dial had ended");
                assert!(Instant::now() < until, "the question has not begun");
                thread::yield_now();
            }
            assert!(told.try_recv().is_err(), "the question was answered before the dial had ended");
            Ok(Some(near))
        })
        .unwrap();
        assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok(1));
        assert!(open.dials_to(far).try_write().is_some());
    }

    #[test]
    fn a_connection_that_closes_late_leaves_a_later_one_with_the_same_addresses_registered() {
        let (near, far) = (at("192.0.2.1:40002"), at("192.0.2.2:80"));
        let former = Noted::new(Leg::Outbound, near, far);
        let open = Noted::new(Leg::OutboundAgain(1), near, far);
        drop(former);
        assert_eq!(passes(near, far), 2);
        drop(open);
        assert_eq!(passes(near, far), 0);
    }

    #[test]
    fn a_connection_to_the_application_may_come_back_on_neither_side() {
        let (near, far) = (at("[fd00::1]:40001"), at("[fd00::1]:80"));
        let _open = Noted::new(Leg::InboundFor(near.ip()), near, far);
        assert!(is_loop(Direction::Inbound, near, Some(far)));
        assert!(is_loop(Direction::Outbound, near, Some(far)));
    }
}
