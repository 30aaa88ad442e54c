//! Reads a [`Config`] from a file or from its text. This is the entry point of this crate.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::fault::{Errors, Fault, Severity, lines};
use crate::gate;
use crate::given::Given;
use crate::keys::FILE;
use crate::place;
use crate::reading::{LARGEST, Node, Reading};
use crate::translate::add_faults_of_model;
use crate::variable::Environment;
use pillion_model::Config;

/// The most open brackets, counted before a parser runs: serde_yaml's scanner takes time proportional to their square.
/// The count is rough (brackets in comments and texts count), hence the limit is far above what the parsers allow.
const BRACKETS: usize = 1000;

/// How deeply a line may be indented or nested by signs (`- - -`). The limit has the same reason as [`BRACKETS`].
const SIGNS: usize = 1000;

/// Reads and checks a configuration file. Relative paths in it start at its own folder, and its variables (`${NAME}`,
/// `${NAME:-default}`) are those of this process.
///
/// Returns the configuration, and warnings about what is valid but probably not meant.
///
/// # Errors
/// Returns every fault that was found, if any is an error: the file cannot be read, is larger than 4 MiB, is not UTF-8,
/// is not YAML, or contains values that are not allowed.
pub fn load(path: &Path) -> Result<(Config, Vec<Fault>), Errors> {
    parse_file(path, &read(path)?, path.parent().unwrap_or_else(|| Path::new("")), &Given::default())
}

/// The text of a configuration file.
///
/// # Errors
/// The file cannot be read, or is not UTF-8.
pub fn read(path: &Path) -> Result<String, Errors> {
    let alone = |fault| Errors::new(path.display().to_string(), "", vec![fault]);
    read_file(path).and_then(utf8).map_err(alone)
}

/// Checks the text of the file at `path`, as [`load`] does, with what the command line adds to it. Relative
/// paths in it start at `folder`.
///
/// # Errors
/// Returns the same errors as [`load`].
pub fn parse_file(
    path: &Path,
    source: &str,
    folder: &Path,
    given: &Given,
) -> Result<(Config, Vec<Fault>), Errors> {
    parse_named(&path.display().to_string(), source, folder, &of_process, given)
}

/// The text of a file, for [`effective()`](crate::effective()) of the configuration read from it. Empty if the file
/// cannot be read or must not reach a parser.
pub fn text_of(file: &Path) -> String {
    let text = read_file(file).and_then(utf8).unwrap_or_default();
    if guard(&text).is_ok() { text } else { String::new() }
}

/// Calls [`effective()`](crate::effective()) for a configuration that was read from `file`. The origins are those in
/// the file as it is now.
pub fn effective_in(
    config: &Config,
    file: &Path,
    flags: &[(&'static str, &'static str)],
) -> Vec<crate::Setting> {
    let (name, text) = (file.display().to_string(), text_of(file));
    crate::effective(config, Some(crate::Written { name: &name, text: &text }), flags)
}

/// Checks the text of a configuration. Relative paths in it start at `folder`, and its variables are those of this
/// process.
///
/// # Errors
/// Returns the same errors as [`load`]; they name the file `configuration`.
pub fn parse(source: &str, folder: &Path) -> Result<(Config, Vec<Fault>), Errors> {
    parse_with(source, folder, &of_process)
}

/// Checks the text of a configuration with other variables: `environment` returns the value of a name, or `None` where
/// it is not set.
///
/// # Errors
/// Returns the same errors as [`parse`].
pub fn parse_with(
    source: &str,
    folder: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<(Config, Vec<Fault>), Errors> {
    parse_named("configuration", source, folder, environment, &Given::default())
}

/// Checks the text of a configuration with other variables, and with what the command line will add to it.
///
/// # Errors
/// Returns the same errors as [`parse`].
pub fn parse_given(
    source: &str,
    folder: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
    given: &Given,
) -> Result<(Config, Vec<Fault>), Errors> {
    parse_named("configuration", source, folder, environment, given)
}

/// A variable that is not UTF-8 counts as not set: no key of the file could hold its value.
fn of_process(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn parse_named(
    name: &str,
    source: &str,
    folder: &Path,
    environment: Environment<'_>,
    given: &Given,
) -> Result<(Config, Vec<Fault>), Errors> {
    let source = source.strip_prefix('\u{feff}').unwrap_or(source);
    let refuse = |faults| Errors::new(name, source, faults);
    guard(source).map_err(|fault| refuse(vec![fault]))?;
    refuse_empty(source).map_err(|fault| refuse(vec![fault]))?;
    let (mut tree, gate) = gate::open(source).map_err(|fault| refuse(vec![*fault]))?;
    given.add_to(&mut tree).map_err(|fault| refuse(vec![fault]))?;
    let mut reading = Reading::of(&tree, folder, environment);
    let mut config = Config::default();
    if let Some(root) = Node::root(&tree).filter(|root| root.is_written(&mut reading)) {
        FILE.read(&mut config, &root, &mut reading);
    }
    if let (Err(fault), true) = (gate, reading.remarks.unread.is_empty()) {
        reading.remarks.unread.push(*fault);
    }
    let is_over = reading.is_over();
    let Reading { dropped, defaults, mut remarks, .. } = reading;
    // reading was given up halfway, so nothing is known of the rest
    if is_over {
        return Err(refuse(remarks.unread));
    }
    dropped.into_iter().for_each(|(list, nth)| tree.drop_nth(list, nth));
    add_faults_of_model(&config, defaults.as_ref(), &tree, &mut remarks);
    let faults = remarks.into_faults(&tree);
    match faults.iter().any(|fault| fault.severity == Severity::Error) {
        true => Err(refuse(faults)),
        false => Ok((config, faults)),
    }
}

/// Refuses texts that must not reach a parser.
fn guard(source: &str) -> Result<(), Fault> {
    if source.len() > LARGEST {
        return Err(Fault::of_file("the file is larger than 4 MiB", None));
    }
    match too_deep(source) {
        Some(line) => Err(Fault { line, ..Fault::of_file("the file is nested too deep", None) }),
        None => Ok(()),
    }
}

/// Refuses an empty file. A failed write can leave one, and the defaults would silently turn mTLS off.
fn refuse_empty(source: &str) -> Result<(), Fault> {
    match place::is_empty(source) {
        true => Err(Fault::of_file("the file is empty", Some("write {} if the defaults are meant"))),
        false => Ok(()),
    }
}

/// The line whose nesting exceeds the limits.
fn too_deep(source: &str) -> Option<usize> {
    let mut open = 0usize;
    for (nth, line) in lines(source).enumerate() {
        for byte in line.bytes() {
            match byte {
                b'[' | b'{' => open += 1,
                b']' | b'}' => open = open.saturating_sub(1),
                _ => {}
            }
            if open > BRACKETS {
                return Some(nth + 1);
            }
        }
        let begin = line.bytes().take_while(|byte| b" -?:".contains(byte)).filter(|byte| *byte != b' ');
        if begin.count() > SIGNS {
            return Some(nth + 1);
        }
    }
    None
}

/// Reads at most one byte more than allowed, because the file may be a device without an end.
fn read_file(path: &Path) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST as u64 + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok(bytes),
        Err(error) => Err(Fault::of_file(format!("the file cannot be read: {error}"), None)),
    }
}

fn utf8(bytes: Vec<u8>) -> Result<String, Fault> {
    String::from_utf8(bytes).map_err(|error| {
        let (good, _) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        let last = good.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        let column = String::from_utf8_lossy(last).chars().count() + 1;
        Fault { line, column, ..Fault::of_file("the file is not UTF-8", Some("save it as UTF-8")) }
    })
}
