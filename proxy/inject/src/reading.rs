//! Reads a text that is JSON or YAML.

use crate::fault::Fault;
use crate::json;
use crate::tree::Tree;

/// The largest text that is read. etcd refuses objects above 1.5 MiB, and a file may hold many of them.
const LARGEST: usize = 32 << 20;

/// # Errors
/// The text is too large or too deep, or is neither YAML nor JSON.
pub(crate) fn read(text: &str) -> Result<Tree<'_>, Fault> {
    if text.len() > LARGEST {
        return Err(Fault::of_file("the file is larger than 32 MiB").help("split it"));
    }
    json::read(text).map_or_else(|| Tree::read(text), Ok)
}
