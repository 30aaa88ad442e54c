//! HTTP as the proxy handles it: calls, bodies, pools, connections. Framing itself is hyper's for HTTP/1, and the `h2`
//! crate's for HTTP/2.
//!
//! Deliberately absent: policy. What may be retried, how long to wait and where to go is decided in `layers`
//! and `cluster`.

pub mod answer;
pub mod call;
pub mod exchange;
pub mod guard;
pub mod h2_server;
pub mod linger;
pub mod refusal;
pub mod server;
pub mod tunnel;

pub use call::{Call, Failure};
pub use exchange::Exchange;

pub use pillion_http::{Body, Response, body, expect, framing, h2, head, headers, replay, stall, transfer};
