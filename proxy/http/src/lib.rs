//! HTTP as a sidecar carries it: bodies, framing, replay, and connections of HTTP/1 and HTTP/2.
//!
//! Both sides of an exchange use this crate: the server for clients, and the pools of connections to upstreams. Bodies
//! report their progress to a [`transfer::Observer`]; they do not depend on routes, clusters or logs. `pillion_http1`
//! does the framing of HTTP/1, the crate `h2` that of HTTP/2; [`framing`] and [`head`] refuse what a proxy must refuse
//! beyond them.
//!
//! Deliberately absent: policy, and everything that accepts or dials.
//!
//! Modules are listed from top to bottom; each uses only those below it. [`Body`] is at the top: it may be a stream of
//! HTTP/2, may wait for an expectation, may be a replay, or may have been read in part. These modules are generic over
//! the body that they hold or send.

pub mod body;
pub mod h1;
pub mod h2;
pub mod expect;
pub mod replay;
pub mod begun;
pub mod tee;
pub mod transfer;
pub mod stall;
pub mod head;
pub mod headers;
pub mod framing;
pub mod seen;
pub mod agreed;
pub mod message;
pub mod error;

pub use body::Body;

/// An answer inside a sidecar.
pub type Response = message::Response<Body>;
