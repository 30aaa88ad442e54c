//! tower layers, one room each: what happens to a request on its way to the upstream and back.
//!
//! # How a layer is written
//! The story is a plain `async fn` over the rest of the stack; what it decides is a pure function beside it; the
//! tower shell is one line, [`tower::layer::layer_fn`] around [`tower::service_fn`]. Its future is the `async
//! fn`'s own, so nothing is boxed but the call itself (passed by pointer, once) and the leaf.
//!
//! Layers hold no state: policy, worker and clocks ride on the [`Call`](crate::http::Call). A stack holds at most a
//! function pointer, and cloning one for each request is free.
//!
//! # tower's traps, and how they are met
//! - Never call a clone that was not polled: every service here is always ready, nothing is reserved in
//!   `poll_ready`. Limits shed inside `call`.
//! - A permit must live until the *body* ends: it rides on the response's tail ([`pillion_http::body`]).
//! - A timeout must drop what is under way: it does, and says so first ([`crate::exchange::attempts`]).
//! - No retry once response headers went downstream: the retry layer sees responses before anybody below it.
//! - The retry budget is fed once per request, with its first try, and spent once per retry: in [`retry`].

pub mod closing;
pub mod headers;
pub mod limit;
pub mod record;
pub mod rescue;
pub mod retry;
pub mod route;
pub mod timeout;
pub mod verdict;

pub use crate::http::call::{AnsweringService, HttpService};

/// A layer by name: what a test may leave out of a stack, to show what it is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    Record,
    Route,
    Headers,
    Timeout,
    Retry,
    PerTry,
    Limit,
}

/// `layer`, which only a test leaves out.
#[cfg(not(any(test, feature = "testing")))]
pub fn unless<L>(_omitted: Option<Name>, _name: Name, layer: L) -> L {
    layer
}

/// `layer`, unless it is the one left out.
#[cfg(any(test, feature = "testing"))]
pub fn unless<L>(
    omitted: Option<Name>,
    name: Name,
    layer: L,
) -> tower::util::Either<L, tower::layer::util::Identity> {
    match omitted == Some(name) {
        false => tower::util::Either::Left(layer),
        true => tower::util::Either::Right(tower::layer::util::Identity::new()),
    }
}

#[cfg(test)]
mod tests {
    use tower::Service;

    use crate::http::{Call, FailedCall, Response};
    use crate::inbound::Inbound;
    use crate::outbound::Outbound;

    /// The one layer that holds something: the route layer knows how to enter its side once more, for a CONNECT.
    const ROUTE_LAYER: usize = size_of::<fn()>();
    /// What [`super::unless`] adds in tests: whether each of these layers is left out, a byte each, rounded up to whole
    /// pointers.
    const OMITTED: usize = 2 * size_of::<usize>();

    /// What a connection costs while it waits: its task holds the largest of its phases. With the task's own header
    /// that stays in the allocator's class of 2,560 bytes.
    #[test]
    fn a_connection_stays_small() {
        fn future<A, B, C, D, F>(_: impl Fn(A, B, C, D) -> F) -> usize {
            size_of::<F>()
        }
        let (outbound, inbound) = (future(Outbound::serve), future(Inbound::serve));
        assert!(outbound <= 2304 && inbound <= 2304, "{outbound} {inbound}");
    }

    /// What a request costs in memory and moves. A future that grows here was probably handed over by value
    /// somewhere and is kept twice.
    #[test]
    fn a_request_stays_small() {
        fn future<S: Service<Box<Call>>>(_: &S) -> usize {
            size_of::<S::Future>()
        }
        assert!(size_of::<Response>() <= 80, "{}", size_of::<Response>());
        assert!(size_of::<FailedCall>() <= 56, "{}", size_of::<FailedCall>());
        assert!(size_of::<Call>() <= 464, "{}", size_of::<Call>());
        let outbound = future(&crate::outbound::stack(None));
        let inbound = future(&crate::inbound::stack(None));
        assert!(outbound <= 2048 && inbound <= 2048, "{outbound} {inbound}");
        let stack = size_of_val(&crate::outbound::stack(None));
        assert!(stack <= ROUTE_LAYER + OMITTED, "{stack}: it is cloned for each request");
    }
}
