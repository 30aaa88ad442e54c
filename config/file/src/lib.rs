//! The configuration file: it is read into [`pillion_model::Config`], and every fault carries its place in the file.
//!
//! [`effective()`] reports a configuration with the origin of each value.
//!
//! How a file is read: `load` checks its size, UTF-8 and nesting · `gate` lets serde_yaml check the syntax, and `place`
//! builds a tree that keeps the place of each key · `keys` declares every key once, and `reading` reads the tree into
//! the model by these declarations; `variable` replaces variables in the texts, `value` and `words` parse the words ·
//! the model validates the whole configuration, and `translate` expresses the model's faults in the terms of the file ·
//! `remark` collects all messages, each a [`Fault`] with its place.
//!
//! `schema` and [`effective()`] are made from the same declarations.
//!
//! Deliberately absent: network IO, clocks, tokio. Only [`load()`] opens a file, and only [`load()`] and [`parse()`]
//! read the environment.

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
