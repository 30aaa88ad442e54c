//! HTTP/1 without sockets and clocks: bytes in, events out; heads and content in, bytes out.
//!
//! A shell owns the socket, the deadlines and the buffers, and drives one of two small values: [`Server`] reads requests
//! and writes answers, [`Client`] writes requests and reads answers. Both are plain data of a few words, so a connection
//! that is idle holds no buffer at all. Every call takes all bytes that came and were not taken yet, and what is written
//! goes to the end of a `Vec<u8>` of the caller's.
//!
//! # A server's shell
//! 1. Read from the socket behind what is left in the buffer, and call [`Server::read`] with all of it. It gives a number
//!    and an event: drop so many bytes, then act on the event. [`FromClient::Data`] says that so many of the next bytes
//!    are content: take them. Call again until [`FromClient::More`]; then read from the socket.
//! 2. [`FromClient::Head`] brings a [`RequestHead`], which has been judged. The head is a copy of exact size, so the
//!    buffer may be shared by all connections of a worker, and is free when nothing is left in it.
//! 3. Take what concerns this connection alone out of the fields ([`remove_hop_by_hop`]), edit them, send the request on.
//! 4. While [`Server::is_expecting`]: [`Server::write_interim`] with 100 when the upstream asks for the content.
//! 5. [`Server::write_head`] decides how the answer is delimited and whether the connection goes on. Then
//!    [`Server::put`] for small pieces, or [`Server::frame`] and three parts of a vectored write for large ones, and
//!    [`Server::finish`]. Head, small content and its end are one piece of bytes when they are written one after the other.
//! 6. When [`Server::after`] says something, do that. After [`Server::next`] the bytes that are left are the next request.
//! 7. At an error of `read`: where [`Server::is_owed`], answer with [`Error::status`]; the answer says `close` by itself.
//!    An answer that cannot be finished: [`Server::cut`], and reset the connection.
//! 8. At the end of the client's bytes: [`Server::read_end`]. A whole request is still answered.
//!
//! # A client's shell
//! 1. [`Client::write_head`], then content as above. `after` waits for the whole request.
//! 2. Call [`Client::read`] as above, also while the request is still being written: an early answer counts.
//!    [`FromUpstream::Interim`] goes on to the client of the other side; a 100 asks for the content.
//! 3. [`FromUpstream::Switched`]: what is left in the buffer, and all that follows, is opaque.
//! 4. At the end of the upstream's bytes: [`Client::read_end`]. [`EndOfInput::Unanswered`] on a connection that was used
//!    before is what may be sent again; [`EndOfInput::InContent`] is a cut. A reset, and an end that TLS did not announce, is
//!    never [`EndOfInput::Whole`]: do not ask then.
//! 5. [`Client::after`] says whether the connection may rest. Bytes that come while it rests make [`Client::read`] fail.
//!
//! # How fields are held
//! [`Fields`] is one piece of text with the places of names and values in it, and a list of edits. Names that the proxy
//! looks at are [`Known`] from the reading on: asking for one is a bit, finding it compares bytes. What nobody touched is
//! written by copying its neighbours with it. For HTTP/2 there is a map ([`Fields::to_map`], [`Fields::of_map`]), and
//! [`Spelling`] keeps case and order beside it.
//!
//! # How strict it is
//! What two readers could take in two ways is refused ([`Fault`]), or leaves in one way: lengths are canonical, blanks
//! around values single, chunks anew. Answers are held to the rules of requests.
//!
//! Deliberately absent: tasks, timers, sockets, policy. Who may be named as a field, which target is forwarded and when a
//! request is sent again, others decide.
//!
//! Modules are listed from top to bottom: each may use those below it.

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
mod lines;
mod fields;
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
pub use map::Spelling;
pub use server::{FromClient, Server};
pub use target::Form;
pub use write::Lines;

/// What the end of a peer's bytes ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndOfInput {
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
