//! Requests and answers inside the proxy: calls, exchanges, the servers of both HTTP versions, and the sidecar's own
//! answers. Bodies and HTTP/2 are in `pillion_http`, pools in `pillion_upstream`. `pillion_http1` does the framing of
//! HTTP/1, the crate `h2` that of HTTP/2.
//!
//! Deliberately absent: policy. `layers` and `cluster` decide what may be retried, how long to wait, and where to go.

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
