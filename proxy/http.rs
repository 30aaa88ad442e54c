//! HTTP as the proxy handles it: calls, bodies, pools, connections. Framing itself is hyper's for HTTP/1, and the `h2`
//! crate's for HTTP/2.
//!
//! Deliberately absent: policy. What may be retried, how long to wait and where to go is decided in `layers`
//! and `cluster`.

pub(crate) mod answer;
pub(crate) mod attempts;
pub(crate) mod body;
pub(crate) mod breaking;
pub(crate) mod call;
pub(crate) mod exchange;
pub(crate) mod expect;
pub(crate) mod flush;
pub(crate) mod framing;
pub(crate) mod guard;
pub(crate) mod h2;
pub(crate) mod head;
pub(crate) mod headers;
pub(crate) mod linger;
pub(crate) mod refusal;
pub(crate) mod replay;
pub(crate) mod server;
pub(crate) mod stall;
pub(crate) mod transfer;
pub(crate) mod tunnel;
pub(crate) mod upstream;

pub(crate) use body::Body;
pub(crate) use call::{Call, Failure};
pub(crate) use exchange::Exchange;

pub(crate) type Response = http::Response<Body>;
