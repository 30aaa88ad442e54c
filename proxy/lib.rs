//! Pillion, a service-mesh sidecar proxy: one binary beside one application.
pub mod app;
pub mod cli;

pub(crate) mod admin;
pub(crate) mod cluster;
pub(crate) mod dispatch;
pub(crate) mod error;
pub(crate) mod http;
pub mod identity;
pub(crate) mod inbound;
pub(crate) mod layers;
pub(crate) mod net;
pub(crate) mod outbound;
pub mod runtime;
pub(crate) mod serve;
pub(crate) mod state;
pub mod telemetry;
pub mod tls;
