//! The foundation of a sidecar: network, timers, limits, memory bounds, drain, and the relay of opaque bytes.
//!
//! Code in this crate gets its policy through arguments. Sockets come from [`net::Network`], which has an in-memory
//! variant for tests. Waits go through [`deadline`]. [`drain`] ends a sidecar. [`relay`] carries bytes in both
//! directions. [`error`] says why an exchange failed and whether the request may be sent again. [`ground::Ground`] is
//! what each worker has of all this.
//!
//! Deliberately absent: HTTP, certificates, and every decision about where bytes go.
//!
//! Modules are listed from top to bottom: each may use those below it.

pub mod ground;
pub mod exchanges;
pub mod strangers;
pub mod unfinished;
pub mod accept;
pub mod relay;
pub mod net;
pub mod race;
pub mod drain;
pub mod deadline;
pub mod memory;
pub mod limits;
pub mod rate;
pub mod boxed;
pub mod children;
pub mod error;
