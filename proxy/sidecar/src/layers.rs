//! The layers (of tower) through which a request passes to the upstream, and its answer back. Each has its own file.
//!
//! # How a layer is written
//! A layer is an `async fn` over the rest of the stack. Its decisions are pure functions in the same file. One line
//! makes it a tower layer: [`tower::layer::layer_fn`] around [`tower::service_fn`]. The layer's future is that of the
//! `async fn`, so only the call itself (passed by pointer) and the innermost service are boxed. A layer that nearly
//! always passes a call on unchanged returns the future of the next one instead (`Either`): each future in between takes
//! 50 instructions a poll.
//!
//! Layers hold no state: the [`Call`](crate::http::Call) carries policy, worker and clocks. A stack holds at most one
//! function pointer, so a clone for each request costs nothing.
//!
//! # Known mistakes with tower, and how they are avoided
//! - A clone that was not polled must not be called. Here every service is always ready, and nothing is reserved in
//!   `poll_ready`; limits refuse inside `call`.
//! - A permit must live until the *body* ends, so it is kept in the response's tail ([`pillion_http::body`]).
//! - A timeout must drop what is under way. It notes the end of the attempts first ([`crate::exchange::attempts`]).
//! - A request must not be retried once response headers went downstream. The retry layer sees each response before its
//!   headers are sent.
//! - [`retry`] makes one deposit in the retry budget per request, with the first try, and one withdrawal per retry.

pub mod amend;
pub mod cache;
pub mod closing;
pub mod headers;
pub mod limit;
pub mod record;
pub mod rescue;
pub mod retry;
pub mod hedge;
pub mod route;
pub mod timeout;
pub mod pushback;
pub mod verdict;

pub use crate::http::call::{AnsweringService, HttpService};

/// The status of an answer that the sidecar makes itself by the configuration. To a CONNECT, also to the extended one of
/// HTTP/2, every 2xx says that a tunnel is open (RFC 9110, 9.3.6), and its bytes would be lost: 403 says that there is
/// none.
pub fn opens_nothing(status: u16, call: &crate::http::Call) -> u16 {
    let is_extended = call.common.tunnel.is_some() && call.head.version == http::Version::HTTP_2;
    let is_connect = is_extended || call.head.method == http::Method::CONNECT;
    if is_connect && (200..300).contains(&status) { 403 } else { status }
}

/// The route of a request in a sentence: by its name, or by its service where it has none.
pub fn name_of_route(call: &crate::http::Call) -> String {
    let metrics = &call.common.exchange.worker.ground.metrics;
    match call.common.route.as_deref() {
        Some(route) if route.name == pillion_telemetry::Symbol::EMPTY => {
            format!("a route to \"{}\"", route.cluster.name)
        }
        Some(route) => format!("the route \"{}\"", metrics.name(route.name)),
        None => "the route".to_owned(),
    }
}

/// The name of a layer that a test may leave out of a stack, to show why the layer is needed.
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

/// Returns `layer`. Only tests leave layers out.
#[cfg(not(any(test, feature = "testing")))]
pub fn unless<L>(_omitted: Option<Name>, _name: Name, layer: L) -> L {
    layer
}

/// Returns `layer`, unless it is the one that a test leaves out.
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

    /// The only layer that holds data: the route layer has the function that serves what runs inside a CONNECT.
    const ROUTE_LAYER: usize = size_of::<fn()>();
    /// What [`super::unless`] adds in tests: a byte for each layer that may be left out, rounded up to whole pointers.
    const OMITTED: usize = 2 * size_of::<usize>();

    /// Bounds the memory of a connection that waits: its task is as large as the largest of its phases. With the task's
    /// own header it stays in the allocator's size class of 2,560 bytes.
    #[test]
    fn a_connection_stays_small() {
        fn future<A, B, C, D, F>(_: impl Fn(A, B, C, D) -> F) -> usize {
            size_of::<F>()
        }
        let (outbound, inbound) = (future(Outbound::serve), future(Inbound::serve));
        assert!(outbound <= 2304 && inbound <= 2304, "{outbound} {inbound}");
    }

    /// Bounds the memory of a request, and the bytes that are moved for it. If a future grows here, it was probably
    /// passed by value somewhere and is kept twice.
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
