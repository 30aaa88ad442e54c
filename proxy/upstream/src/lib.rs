//! What a sidecar calls: clusters, their endpoints, the pick among them, and pooled connections.
//!
//! A [`cluster::Cluster`] is what lives on while a service is used, from one configuration to the next. Each of its
//! endpoints owns a [`pool`] of open connections. [`lease`] takes one of them for a request, or opens one by [`connect`];
//! [`discovery`] learns by DNS where the endpoints are.
//!
//! Deliberately absent: which request goes to which cluster, and whether it is sent again.
//!
//! Modules are listed from top to bottom; each uses those below it alone. A pool knows no cluster: what it must know of
//! its own it is told ([`pool::Pool`]), and who opens connections stands above both.

pub mod lease;
pub mod connect;
pub mod discovery;
pub mod cluster;
pub mod pool;
pub mod slots;
