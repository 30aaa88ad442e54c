//! What commands print. A reader that has seen enough (`pillion schema | head`) ends the command, and not as a fault.

use std::io::{ErrorKind, Write as _, stderr, stdout};

use anyhow::Context as _;
use pillion_telemetry::log;

/// Nobody reads standard output any more.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads standard output any more")]
pub(super) struct ReaderGone;

/// Prints the text as it is.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        written => written.context("cannot write to standard output"),
    }
}

/// What ends a command, on standard error; where nobody reads that, there is nobody to tell. Where the log is JSON, it is
/// one record of the log.
pub(super) fn complain(text: &str) {
    match log::is_json() {
        true => tracing::error!("{text}"),
        false => drop(writeln!(stderr(), "{text}")),
    }
}

/// The same for what is suspicious and goes on.
pub(super) fn warn(text: &str) {
    match log::is_json() {
        true => tracing::warn!("{text}"),
        false => drop(writeln!(stderr(), "{text}")),
    }
}
