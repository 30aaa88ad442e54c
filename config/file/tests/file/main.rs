//! The configuration file from outside: which files load, which are refused, and with which messages.

#[path = "../support/editor.rs"]
mod editor;

mod authorization;
mod balancers;
mod defaults;
mod discovery;
mod dns;
mod downstream;
mod faults;
mod hostile;
mod identity;
mod logs;
mod metrics;
mod named;
mod peers;
mod probes;
mod protocols;
mod refusals;
mod routes;
mod samples;
mod schema;
mod sync;
mod tracing;
mod variables;

use std::path::Path;

use pillion_config::{Errors, Fault, parse};
use pillion_model::Config;

/// The configuration of a text that must be valid and pass the schema.
fn good(source: &str) -> Config {
    let complaints = editor::complaints(source);
    assert!(complaints.is_empty(), "{source}\n{complaints:#?}");
    loaded(source)
}

/// The configuration of a text that must be valid, although the schema may not have all of its keys.
fn loaded(source: &str) -> Config {
    parse(source, Path::new("/etc/pillion")).expect("a good file").0
}

fn warnings(source: &str) -> Vec<Fault> {
    parse(source, Path::new("")).expect("a good file").1
}

fn bad(source: &str) -> Errors {
    parse(source, Path::new("")).expect_err("a faulty file")
}

/// `LINE:COL MESSAGE` of each fault.
fn messages(source: &str) -> Vec<String> {
    bad(source).faults.iter().map(|f| format!("{}:{} {}", f.line, f.column, f.message)).collect()
}
