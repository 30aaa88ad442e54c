//! HTTP/1 on the engine of `pillion-http1`, for both roles: what stands between its bytes and a socket.
//!
//! - [`client`]: a connection to an upstream, and the body of its answer.
//! - [`request`]: the content of a client's request, on its way to who sends it on.
//! - [`buffer`]: what a thread reads into and writes from, so that an idle connection holds no buffer.
//!
//! Deliberately absent: framing and heads, which are the engine's; and tasks: who wants an exchange polls it.

pub mod client;
pub mod request;
pub mod buffer;
