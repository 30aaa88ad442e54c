//! What a sidecar stands on: the network, time, limits, the end of the process, and the relay of opaque bytes.
//!
//! Everything here is told what to do by its arguments. Sockets come from [`net::Network`], which has a twin in memory;
//! waiting goes through [`deadline`]; [`drain`] is how a sidecar ends; [`relay`] carries bytes both ways; [`error`] says
//! why an exchange failed and whether it may be sent again; [`ground::Ground`] is what each worker has of all that.
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
pub mod drain;
pub mod deadline;
pub mod memory;
pub mod limits;
pub mod error;
