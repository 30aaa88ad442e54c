//! HTTP/1 without sockets and clocks: bytes in, events out; heads and content in, bytes out.
//!
//! TODO-DOC

#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod server;
pub mod client;
mod map;
mod write;
mod head;
mod encode;
mod decode;
mod hop;
mod framing;
mod target;
mod fields;
mod lines;
mod known;
mod search;
mod limits;
mod error;

pub use client::{Client, FromUpstream};
pub use encode::Frame;
pub use error::{Blame, Error, Fault, Misuse};
pub use fields::Fields;
pub use framing::Length;
pub use head::{Options, RequestHead, ResponseHead};
pub use hop::{Named, remove_hop_by_hop};
pub use known::{Known, Names};
pub use limits::Limits;
pub use map::Spelling;
pub use server::{FromClient, Server};
pub use target::Form;

/// What the end of a peer's bytes ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Nothing was asked, and nothing of a message had come.
    Idle,
    /// The request was sent, perhaps in part, and not a byte of an answer has come.
    Unanswered,
    /// In the middle of a head, or between interim answers and the answer.
    InHead,
    /// In the middle of a content.
    InContent,
    /// The message is whole: by its own framing, or because an answer ends with its connection. A client that has
    /// ended may still be answered.
    Whole,
}

/// How a connection goes on after an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Another exchange may begin.
    Next,
    Close,
    /// Closed for writing first, then for reading when the client has ended or its time is up (RFC 9112, 9.6).
    Linger,
    /// From here on its bytes are somebody else's.
    Opaque,
    /// Closed in a way that does not look like an end.
    Reset,
}
