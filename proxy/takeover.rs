//! Takes the listening sockets of a running sidecar over, without a moment in which no process accepts connections.
//!
//! The two processes talk over a Unix socket. The new one gets copies of the descriptors of all listeners, builds itself
//! with them and gets ready while the old one serves. Then the new one begins to accept, and only when it says so the old
//! one closes its copies. The queue of a listener belongs to the socket and not to a process, so no connection is lost;
//! and whatever happens to the new process before that moment, the old one serves on. [`steps`] has the states of both
//! sides and is pure; [`message`] is what they say, [`wire`] how it travels, [`predecessor`] the new process's side and
//! [`successor`] the old one's. [`place`] is the socket's file.
//!
//! Deliberately absent: connections. An accepted connection stays with its process and is drained there. State is not
//! handed over either: metrics, pools and recorded requests begin anew, as after a restart.

mod inherited;
mod message;
mod place;
mod predecessor;
mod steps;
mod successor;
#[cfg(test)]
mod tests;
mod wire;

pub(crate) use inherited::{Inherited, Socket};
pub(crate) use predecessor::{Found, Predecessor, find};
pub(crate) use successor::{Successors, Wish};
