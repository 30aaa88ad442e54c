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
//! `json_schema` and [`effective()`] are made from the same declarations.
//!
//! Modules are listed from top to bottom.
//!
//! Beside this, `document` reads YAML of others.
//!
//! Deliberately absent: network IO, clocks, tokio. Only [`load()`] opens a file, and only [`load()`] and [`parse()`]
//! read the environment.

mod load;
mod given;
mod effective;
mod document;
mod json_schema;
mod keys;
mod page;
mod reading;
mod translate;
mod gate;
mod remark;
mod variable;
mod words;
mod value;
mod schema;
mod spell;
mod fault;
mod place;

pub use document::document;
pub use effective::{Part, Written, effective, effective_part};
pub use fault::{Errors, Fault, Severity};
pub use given::{BadProbe, Given, GivenProbe};
pub use json_schema::json_schema;
pub use load::{effective_in, load, parse, parse_file, parse_given, parse_with, read, text_of};
pub use page::{Origin, Provenance, Setting};
pub use value::duration;
