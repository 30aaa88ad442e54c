//! HTTP/1 with the engine of `pillion-http1`, for both roles: what is needed between the engine and a socket.
//!
//! - [`client`]: a connection to an upstream, and the body of its answer.
//! - [`request`]: the content of a client's request, between the server that reads it and the task that forwards it.
//! - [`buffer`]: the buffers of a thread for reading and writing, so that an idle connection holds no buffer.
//!
//! Deliberately absent: framing and heads, which the engine handles; and tasks: the user of an exchange polls it.

pub mod client;
pub mod request;
pub mod buffer;
