//! The program beside which a sidecar runs: starts it, passes signals on to it, and waits for its end. It also collects other
//! children that have ended, because orphans become children of a process with the ID 1.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitStatus};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal as Kind, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, getpid};
use pillion_base::children::{Kept, Others, spawn};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::terminal::Terminal;

/// The exit codes of shells for a command that does not exist, and for one that cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;
/// Shells add the number of the signal that ended a program.
const SIGNALLED: u8 = 128;

/// Why the application did not start.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum NotStarted {
    #[error("cannot start {0:?}: there is no such program; write its path, or have its folder in PATH")]
    NotFound(OsString),
    #[error("cannot start {0:?}; is it a program that this user may execute?")]
    NotRun(OsString, #[source] io::Error),
}

impl NotStarted {
    pub(super) fn of(program: &OsStr, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound(program.to_owned()),
            _ => Self::NotRun(program.to_owned(), error),
        }
    }

    pub(in crate::cli) const fn code(&self) -> u8 {
        match self {
            Self::NotFound(_) => NOT_FOUND,
            Self::NotRun(..) => NOT_RUN,
        }
    }
}

/// A running application. It has a process group of its own, so that a signal from the terminal reaches it once, and not a
/// second time through this process. The group is in the terminal's foreground if this process was.
pub(super) struct Application {
    pid: Pid,
    child: Kept,
    terminal: Option<Terminal>,
    changes: Signal,
    others: Others,
}

impl Application {
    /// `most_files`: the limit of open files that this process was started with, which the program gets.
    ///
    /// # Errors
    /// The program cannot be executed.
    pub(super) fn start(words: &[OsString], most_files: u64) -> anyhow::Result<Self> {
        let changes = signal(SignalKind::child())?; // before the start, so that no end is missed
        let others = Others::watch()?;
        let (program, arguments) = words.split_first().ok_or_else(|| anyhow::anyhow!("no command"))?;
        let terminal = Terminal::in_foreground();
        let is_raised = getrlimit(Resource::RLIMIT_NOFILE)?.0 != most_files;
        let start = |mut command: Command| spawn(command.args(arguments).process_group(0));
        let started = match is_raised.then(|| start(limited(program, most_files))) {
            Some(Ok(child)) => Ok(child),
            other => {
                if let Some(Err(error)) = other {
                    tracing::warn!(%error, "the application gets the sidecar's limit of open files");
                }
                start(Command::new(program))
            }
        };
        let child = started.map_err(|error| NotStarted::of(program, error))?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        let started = Self { pid, child, terminal, changes, others };
        started.bring_to_foreground();
        Ok(started)
    }

    /// Passes a signal on. The process exists until its end is collected, so that no other one can get it.
    pub(super) fn send(&self, kind: Kind) {
        if let Err(error) = kill(self.pid, kind) {
            tracing::warn!(%error, signal = kind.as_str(), "a signal cannot be passed on to the application");
        }
    }

    /// Waits for the end, and returns the exit code. May be dropped and called again.
    pub(super) async fn ended(&mut self) -> u8 {
        loop {
            while self.has_stopped() {
                self.stopped();
            }
            match self.child.try_wait() {
                Ok(Some(status)) => return exit_code(status),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(%error, "the application has ended, and how is not known");
                    return u8::MAX;
                }
            }
            tokio::select! { // the signal only asks for another look, and the other branch never completes
                Some(()) = self.changes.recv() => {}
                never = self.others.collect() => match never {},
            }
        }
    }

    /// Whether it has been stopped since the last look.
    fn has_stopped(&self) -> bool {
        let seen = waitid(Id::Pid(self.pid), WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG);
        matches!(seen, Ok(WaitStatus::Stopped(..)))
    }

    /// The terminal has stopped the application (Ctrl-Z), or it was about to read in the background. This process stops,
    /// too, so that its shell can go on, until the shell continues it.
    fn stopped(&self) {
        let Some(terminal) = &self.terminal else { return };
        if !terminal.is_ours() && getpid().as_raw() != 1 {
            terminal.take_back(self.pid);
            kill(getpid(), Kind::SIGSTOP).unwrap_or_default(); // returns when the shell continues this process
        }
        self.bring_to_foreground();
    }

    /// Gives the terminal to the application if this process has it, and continues the application: it may have been
    /// stopped because it read too early.
    fn bring_to_foreground(&self) {
        if let Some(terminal) = &self.terminal {
            terminal.give(self.pid);
            killpg(self.pid, Kind::SIGCONT).unwrap_or_default(); // the group may have ended
        }
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        if let Some(terminal) = &self.terminal {
            terminal.take_back(self.pid);
        }
    }
}

/// This binary, which lowers its own limit of open files and then becomes the program ([`become_program`]). The limit of this
/// process is that of a sidecar at work, and there is no other way to set that of a child alone without `unsafe`.
fn limited(program: &OsStr, most_files: u64) -> Command {
    let mut command = Command::new("/proc/self/exe"); // also where the file was replaced
    command.args(["exec", "--open-files", &most_files.to_string(), "--"]).arg(program);
    command
}

/// Becomes the program, with this limit of open files. Programs of old close every descriptor up to it, or expect small
/// numbers. Returns why it did not.
pub(super) fn become_program(words: &[OsString], most_files: u64) -> anyhow::Error {
    let Some((program, arguments)) = words.split_first() else { return anyhow::anyhow!("no command") };
    let lowered = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, most_files.min(hard), hard));
    if let Err(error) = lowered {
        return anyhow::anyhow!("the limit of open files cannot be set for the application: {error}");
    }
    NotStarted::of(program, Command::new(program).args(arguments).exec()).into()
}

/// The exit code for the end by a signal.
pub(super) fn signalled(kind: Kind) -> u8 {
    SIGNALLED.saturating_add(u8::try_from(kind as i32).unwrap_or_default())
}

fn exit_code(status: ExitStatus) -> u8 {
    match status.code() {
        Some(code) => u8::try_from(code & 0xff).unwrap_or(u8::MAX),
        // also a real-time signal, which has no name
        None => SIGNALLED
            .saturating_add(status.signal().and_then(|kind| kind.try_into().ok()).unwrap_or_default()),
    }
}
