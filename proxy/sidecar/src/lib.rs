//! The two sides of a sidecar, and the path of a request and of a connection through them.
//!
//! [`inbound`] and [`outbound`] take an accepted connection; [`detect`] finds its protocol. HTTP goes through
//! [`layers`] to [`dispatch`], opaque bytes go to [`tcp`]. [`state`] has the routes; [`exchange`] has what is known of
//! a request or of an opaque connection.
//!
//! Deliberately absent: files, YAML, and everything that changes the state. The crate `pillion` does that.
//!
//! Modules are listed from top to bottom: each may use those below it.

pub mod inbound;
pub mod outbound;
pub mod serve;
pub mod dispatch;
pub mod layers;
pub mod http;
pub mod tcp;
pub mod detect;
pub mod exchange;
pub mod connection;
pub mod noted;
pub mod worker;
pub mod taps;
pub mod traces;
pub mod state;
