//! Code that the tests of every crate and the fuzz targets share.
//!
//! Only a dev-dependency: none of it is in the binary. It may panic, as a test does when its environment fails.
#![allow(clippy::expect_used, clippy::panic, clippy::missing_panics_doc)]

pub mod agent;
pub mod api_server;
pub mod http1;
pub mod jwt;
pub mod lenient;
mod scratch;

pub use scratch::Scratch;
