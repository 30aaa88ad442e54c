//! `--takeover`: a sidecar is replaced by another process, and no client notices.

mod applications;
mod failures;
mod stories;
mod systemd;
mod under_load;
