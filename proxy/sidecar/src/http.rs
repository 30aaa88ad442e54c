//! Requests and answers on their way through the proxy: calls, exchanges, the servers of both versions, and answers of our
//! own. Bodies and HTTP/2 are in `pillion_http`, pools in `pillion_upstream`. Framing itself is `pillion_http1`'s for HTTP/1,
//! and the `h2` crate's for HTTP/2.
//!
//! Deliberately absent: policy. What may be retried, how long to wait and where to go is decided in `layers`
//! and `cluster`.

pub mod answer;
pub mod call;
pub mod exchange;
pub mod h1_server;
pub mod h2_server;
pub mod linger;
pub mod refusal;
pub mod server;
pub mod tunnel;

pub use call::{Call, FailedCall};
pub use exchange::Exchange;

pub use pillion_http::{Body, Response, body, expect, framing, h2, head, headers, replay, stall, transfer};
