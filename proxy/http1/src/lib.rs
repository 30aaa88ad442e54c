//! HTTP/1 without sockets and clocks: it turns bytes into events, and heads and content into bytes.
//!
//! A shell owns the socket, the deadlines and the buffers, and drives one of two small values: [`Server`] reads
//! requests and writes answers, [`Client`] writes requests and reads answers. Both are plain data of a few words, so an
//! idle connection holds no buffer at all. Every call gets all bytes that came and were not taken yet. Bytes to send
//! are appended to a `Vec<u8>` of the caller.
//!
//! # A server's shell
//! 1. Read from the socket into the buffer, after the bytes that are left in it, and call [`Server::read`] with all of
//!    them. It returns a number and an event: drop this number of bytes, then act on the event. [`FromClient::Data`]
//!    says how many of the next bytes are content: take them. Call again until [`FromClient::More`]; then read from the
//!    socket.
//! 2. [`FromClient::Head`] brings a [`RequestHead`], which has been checked. The head is a copy of exact size, so all
//!    connections of a worker may share one buffer, which is free when no byte is left in it.
//! 3. Remove the fields that concern only this connection ([`remove_hop_by_hop`]), edit the others, and send the
//!    request on.
//! 4. While [`Server::is_expecting`]: call [`Server::write_interim`] with 100 when the upstream asks for the content.
//! 5. [`Server::write_head`] decides how the answer is delimited and whether the connection goes on. Then
//!    [`Server::put`] for small pieces, or [`Server::frame`] and three parts of a vectored write for large ones, and
//!    [`Server::finish`]. If head, small content and its end are written in one go, they are one piece of bytes.
//! 6. When [`Server::after`] returns a value, act on it. After [`Server::next`], the bytes that are left are the next
//!    request.
//! 7. After an error of `read`: if [`Server::is_owed`], answer with [`Error::status`]; the engine adds `close` to the
//!    answer. For an answer that cannot be finished, call [`Server::cut`], and reset the connection.
//! 8. At the end of the client's bytes, call [`Server::read_end`]. A complete request is still answered.
//!
//! # A client's shell
//! 1. [`Client::write_head`], then content as above. `after` waits for the whole request.
//! 2. Call [`Client::read`] as above, also while the request is still being written, because an answer may come early.
//!    Forward [`FromUpstream::Interim`] to the client of the other side; a 100 asks for the content.
//! 3. After [`FromUpstream::Switched`], the bytes that are left in the buffer, and all later ones, are opaque.
//! 4. At the end of the upstream's bytes, call [`Client::read_end`]. After [`EndOfInput::Unanswered`] on a connection
//!    that was used before, the request may be sent again; [`EndOfInput::InContent`] is a cut. Do not call it after a
//!    reset, or after an end that TLS did not announce: these are never [`EndOfInput::Whole`].
//! 5. [`Client::after`] says whether the connection may be pooled. Bytes that come while it is pooled make
//!    [`Client::read`] fail.
//!
//! # How fields are held
//! [`Fields`] is the text of the head with the positions of names and values in it, and a list of edits. Names that the
//! proxy needs are [`Known`] from the reading on: to check for one costs one bit, to find it compares bytes. Lines
//! without edits are copied together with their neighbours. For HTTP/2 there is a map ([`Fields::to_map`],
//! [`Fields::of_map`]), and a [`Spelling`] tells how the names were spelled.
//!
//! # How strict it is
//! A message that two readers could understand in two ways is refused ([`Fault`]), or is written in a form that has
//! only one meaning: lengths are canonical, blanks around values are single, chunks are written anew. Answers are
//! checked by the rules of requests.
//!
//! Deliberately absent: tasks, timers, sockets and policy. The caller decides which fields a peer may send, which
//! target is forwarded, and when a request is sent again.
//!
//! Modules are listed from top to bottom: each may use those below it.

#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod server;
pub mod client;
mod map;
mod write;
mod spelling;
mod head;
mod encode;
mod decode;
mod hop;
mod framing;
mod target;
mod lines;
mod fields;
mod value;
mod known;
mod token;
mod search;
mod limits;
mod error;

pub use client::{Client, FromUpstream};
pub use encode::Frame;
pub use error::{Blame, Error, Fault, Misuse};
pub use fields::Fields;
pub use framing::{Length, length_of};
pub use head::{Options, RequestHead, ResponseHead};
pub use hop::{Named, remove_hop_by_hop};
pub use known::{Known, Names};
pub use limits::Limits;
pub use server::{FromClient, Server};
pub use spelling::Spelling;
pub use target::Form;
pub use value::Value;
pub use write::Lines;

/// The state of the exchange at the end of a peer's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndOfInput {
    /// No request was sent or read, and no byte of a message had come.
    Idle,
    /// The request was sent, perhaps only in part, and no byte of an answer has come.
    Unanswered,
    /// The end is inside a head, or between interim answers and the answer.
    InHead,
    /// The end is inside the content of a message.
    InContent,
    /// The message is complete: by its framing, or because an answer ends with its connection. A client that has ended
    /// its direction may still get an answer.
    Whole,
}

/// How a connection goes on after an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Another exchange may begin.
    Next,
    Close,
    /// The connection is closed for writing first, and for reading when the client has ended or a time limit has
    /// expired (RFC 9112, 9.6).
    Linger,
    /// The connection is a tunnel, and its bytes are opaque.
    Opaque,
    /// The connection is reset, so that the end does not look like a regular one.
    Reset,
}
