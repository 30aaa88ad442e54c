//! What the companions of the application share, and what else runs beside the data path: [`thread`] gives a companion a
//! thread of its own, [`courtesy`] and [`pieces`] keep one with much to do out of the way of requests, [`asking`] connects to
//! servers that the operator names by their URLs.
//!
//! Deliberately not here: what a companion does. Each has a crate of its own above this one. Its state, as metrics, pages
//! and readiness show it, is on the board of [`pillion_telemetry::companions`].

pub mod thread;
pub mod courtesy;
pub mod pieces;
pub mod asking;
