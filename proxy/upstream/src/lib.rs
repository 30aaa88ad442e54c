//! What a sidecar calls: clusters, their endpoints, the pick among them, and pooled connections.
//!
//! A [`cluster::Cluster`] is what lives on while a service is used, from one configuration to the next. [`pool`] leases
//! connections to its endpoints, and [`discovery`] learns by DNS where they are.
//!
//! Deliberately absent: which request goes to which cluster, and whether it is sent again.

pub mod cluster;
pub mod discovery;
pub mod pool;
