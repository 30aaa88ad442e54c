//! The two sides of a sidecar, and the way of a request and of a connection through them.
//!
//! [`inbound`] and [`outbound`] take an accepted connection; [`detect`] tells what it speaks; HTTP goes through the layers
//! of [`layers`] to [`dispatch`], and opaque bytes to [`tcp`]. Where they go is read from [`state`]; what is known of a
//! request or of an opaque connection stands in its [`exchange`].
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
pub mod worker;
pub mod state;
