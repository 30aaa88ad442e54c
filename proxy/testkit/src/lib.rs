//! What the tests of every floor, and the fuzz targets, share.
//!
//! A dev-dependency alone: nothing of it is in the binary. It may panic, as a test does when its own ground gives way.
#![allow(clippy::expect_used, clippy::panic, clippy::missing_panics_doc)]

pub mod http1;
pub mod lenient;
mod scratch;

pub use scratch::Scratch;
