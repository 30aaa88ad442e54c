//! `run --takeover`: a sidecar is replaced by another process, and no client notices.

mod failures;
mod stories;
mod under_load;
