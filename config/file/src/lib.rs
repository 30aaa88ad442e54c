//! The configuration file: what it says in the terms of [`pillion_model::Config`], and where it says it.
//!
//! [`effective()`] tells a configuration back, with where each value came from.
//!
//! The life of a file: `load` guards the door (size, UTF-8, nesting) · `gate` asks serde_yaml whether it is YAML, and
//! `place` makes a tree of it that keeps where each key stands · `keys` declares every key once, and `reading` walks the
//! tree by these declarations into the model, texts with their variables replaced by `variable`, words checked by
//! `value` and `words` · the model validates the whole, and `translate` says its faults in the terms of the file ·
//! `remark` gathers all that is told, each [`Fault`] with its place.
//!
//! `schema` and [`effective()`] are made of the same declarations.
//!
//! Deliberately absent: network IO, clocks, tokio. Nothing here opens a file but [`load()`], and
//! nothing reads the environment but it and [`parse()`].

mod effective;
mod fault;
mod gate;
mod keys;
mod load;
mod place;
mod reading;
mod remark;
mod schema;
mod spell;
mod translate;
mod value;
mod variable;
mod words;

pub use effective::{Origin, Part, Provenance, Setting, Written, effective, effective_part};
pub use fault::{Errors, Fault, Severity};
pub use load::{effective_in, load, parse, parse_with, text_of};
pub use schema::schema;
