//! A gRPC client: unary and server-streaming calls over a connection of HTTP/2.
//!
//! [`client`] makes calls: it adds a deadline and the bound of a message to the framing and statuses of tonic.
//! [`connection`] is a connection of HTTP/2 over any byte stream; another transport may take its place. Messages are
//! structs that derive `prost::Message`, with the fields that are needed: no compiler of `.proto` files runs at build
//! time.
//!
//! [`framed`] is for calls over another transport than a [`Connection`]: it has a message's frame alone.
//!
//! Deliberately absent: whatever dials, balances, retries or logs; these belong to the callers. Servers, compression and
//! streams of requests.
//!
//! Modules are listed from top to bottom: each may use those below it.

pub mod client;
pub mod connection;
pub mod framed;
mod status;

pub use client::{Client, Messages};
pub use connection::Connection;
pub use prost;
pub use tonic::metadata::MetadataMap;
pub use tonic::{Code, Request, Status};

#[cfg(test)]
mod tests;
