//! The output of commands. If its reader closes early (`pillion schema | head`), the command ends without an error.

use std::io::{ErrorKind, IsTerminal, Write, stderr, stdout};

use anyhow::Context as _;
use pillion_telemetry::log;

/// The reader of standard output has closed it.
#[derive(Debug, thiserror::Error)]
#[error("standard output has been closed by its reader")]
pub(super) struct ReaderGone;

/// Prints the text unchanged.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    write(&mut stdout().lock(), text)
}

fn write(out: &mut impl Write, text: &str) -> anyhow::Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        written => written.context("cannot write the output"),
    }
}

/// Prints a line of a report that goes on. On a terminal it replaces the line before.
pub(super) fn rewrite(out: &mut (impl Write + IsTerminal), line: &str) -> anyhow::Result<()> {
    let text = if out.is_terminal() { format!("\r{line}\x1b[K") } else { format!("{line}\n") };
    write(out, &text)
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
