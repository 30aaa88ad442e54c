//! The upstream side: clusters, their endpoints, the choice among them, and pooled connections.
//!
//! A [`cluster::Cluster`] holds what lives on while a service is used, from one configuration to the next. Each
//! endpoint owns a [`pool`] of open connections. [`lease`] takes a connection from it for a request, or opens one with
//! [`connect`]. [`discovery`] learns the addresses of the endpoints by DNS.
//!
//! Deliberately absent: which request goes to which cluster, and whether a request is sent again.
//!
//! Modules are listed from top to bottom, and each uses only modules below it. A pool knows no cluster: it gets what it
//! needs as arguments ([`pool::Pool`]). The code that opens connections stands above both.

pub mod lease;
pub mod connect;
pub mod discovery;
pub mod cluster;
pub mod pool;
pub mod slots;
