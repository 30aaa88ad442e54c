//! HTTP as a sidecar carries it: bodies, framing, replay, and connections of HTTP/1 and HTTP/2.
//!
//! Both sides of an exchange use this floor: the server that a client talks to, and the pool of connections to
//! upstreams. What bodies tell while they flow, they tell an [`transfer::Observer`]; they know nothing of routes, clusters
//! or logs. Framing of HTTP/1 is `pillion_http1`'s, that of HTTP/2 the `h2` crate's; what a proxy must refuse beyond them
//! is in [`framing`] and [`head`].
//!
//! Deliberately absent: policy, and everything that accepts or dials.
//!
//! Modules are listed from top to bottom; each uses those below it alone. [`Body`] stands at the top: it may be a stream
//! of HTTP/2, wait for an expectation or be a replay, and what these three hold or send is any body, whose type they do
//! not know.

pub mod body;
pub mod h1;
pub mod h2;
pub mod expect;
pub mod replay;
pub mod tee;
pub mod transfer;
pub mod stall;
pub mod head;
pub mod headers;
pub mod framing;
pub mod seen;
pub mod message;
pub mod error;

pub use body::Body;

/// An answer on its way through a sidecar.
pub type Response = message::Response<Body>;
