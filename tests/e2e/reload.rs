//! Reload and rotation, with the built binary.

mod stories;
mod under_load;
