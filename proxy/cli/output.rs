//! The output of commands. If its reader closes early (`pillion schema | head`), the command ends without an error.

use std::io::{ErrorKind, Write as _, stderr, stdout};

use anyhow::Context as _;
use pillion_telemetry::log;

/// The reader of standard output has closed it.
#[derive(Debug, thiserror::Error)]
#[error("standard output has been closed by its reader")]
pub(super) struct ReaderGone;

/// Prints the text unchanged.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        written => written.context("cannot write to standard output"),
    }
}

/// Prints the reason why a command ends to standard error; a failure to print is ignored. If the log is JSON, the text
/// is one record of the log.
pub(super) fn print_failure(text: &str) {
    match log::is_json() {
        true => tracing::error!("{text}"),
        false => drop(writeln!(stderr(), "{text}")),
    }
}

/// Prints a warning to standard error. If the log is JSON, the text is one record of the log.
pub(super) fn warn(text: &str) {
    match log::is_json() {
        true => tracing::warn!("{text}"),
        false => drop(writeln!(stderr(), "{text}")),
    }
}
