//! The configuration file: what it says in the terms of [`pillion_model::Config`], and where it says it.
//!
//! [`effective()`] tells a configuration back, with where each value came from.
//!
//! The life of a file: `load` guards the door (size, UTF-8, nesting) · `file` is what was typed, every key
//! known by name, its leaves checked by `value` and `words`, its unions by `shape` · what serde_yaml does
//! not let through, or holds a dollar, is read again by `salvage` from the tree of `place`, which kept where each
//! key stands, its texts with their variables replaced by `variable` · `check` fills in the defaults and looks at what needs two keys at once · each [`Fault`] gets its place.
//!
//! Deliberately absent: network IO, clocks, tokio. Nothing here opens a file but [`load()`], and
//! nothing reads the environment but it and [`parse()`].

mod check;
mod effective;
mod fault;
mod file;
mod load;
mod place;
mod salvage;
mod schema;
mod shape;
mod translate;
mod value;
mod variable;
mod words;

pub use effective::{Origin, Provenance, Setting, Written, effective};
pub use fault::{Errors, Fault, Severity};
pub use load::{effective_in, load, parse, parse_with};
pub use schema::schema;
