//! HTTP as the proxy handles it: calls, bodies, pools, connections. Framing itself is hyper's.
//!
//! Deliberately absent: policy. What may be retried, how long to wait and where to go is decided in `layers`
//! and `cluster`.

pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod call;
pub(crate) mod exchange;
pub(crate) mod expect;
pub(crate) mod guard;
pub(crate) mod headers;
pub(crate) mod linger;
pub(crate) mod replay;
pub(crate) mod server;
pub(crate) mod tunnel;
pub(crate) mod upstream;

pub(crate) use body::Body;
pub(crate) use call::Call;
pub(crate) use exchange::Exchange;

pub(crate) type Response = http::Response<Body>;
