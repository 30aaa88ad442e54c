//! Runs a program of the operator: without a shell, without input and output, and bounded in time.
//!
//! What it prints is not kept: a program that checks a configuration quotes it, and with it the passwords.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use pillion_base::children::{self, Kept};
use pillion_model::sync::{Check, SyncCommand};
use tokio::time::{Instant, sleep};

/// The pauses between two looks whether the program has ended: from 2 ms, doubled.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandFault {
    #[error("{0} cannot be started: {1}")]
    NotStarted(String, #[source] io::Error),
    #[error("{0} still runs from before, although it was killed")]
    Left(String),
    #[error("{0} {1}")]
    Failed(String, Ending),
    #[error("{program} has not ended within {timeout:?}")]
    Slow { program: String, timeout: Duration },
}

/// How a program has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ending(ExitStatus);

impl Ending {
    /// Whether something else than a fault of its own has ended it, such as the kernel when memory is short.
    /// A shell tells of the signal that has ended its program by a code of its own, 128 higher.
    pub(crate) fn is_from_outside(self) -> bool {
        let signal = self.0.signal().or_else(|| Some(self.0.code()? - 128));
        signal.is_some_and(|signal| {
            [Signal::SIGKILL, Signal::SIGTERM].map(|kind| kind as i32).contains(&signal)
        })
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.0.code(), self.0.signal()) {
            (Some(code), _) => write!(f, "ended with code {code}"),
            (None, Some(signal)) => write!(f, "was ended by signal {signal}"),
            (None, None) => f.write_str("ended"),
        }
    }
}

/// The programs that were killed and have not ended: the kernel may wait for a disk, or the program belong to another user.
static LEFT: Mutex<Vec<Vec<String>>> = Mutex::new(Vec::new());

/// While it lives, the program with these words is not started again: each one that hangs keeps a thread.
pub(crate) struct Left(Vec<String>);

impl Left {
    pub(crate) fn new(words: &[String]) -> Self {
        LEFT.lock().unwrap_or_else(PoisonError::into_inner).push(words.to_vec());
        Self(words.to_vec())
    }

    fn has(words: &[String]) -> bool {
        LEFT.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|left| left == words)
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        let mut all = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(nth) = all.iter().position(|left| *left == self.0) {
            all.swap_remove(nth);
        }
    }
}

/// A program that runs, by the words of the operator. Dropped, it is killed with its process group, and its end is collected.
struct Running<'a>(Option<Kept>, &'a [String]);

impl Running<'_> {
    fn has_ended(&self) -> bool {
        self.0.as_ref().is_none_or(Kept::has_ended)
    }

    /// Kills what it has left behind, and collects its end. No other process has the number of its group before that.
    fn collect(mut self) -> io::Result<ExitStatus> {
        self.kill();
        self.0.take().map_or_else(|| Err(io::Error::other("it has not been started")), Kept::wait)
    }

    fn kill(&self) {
        if let Some(child) = &self.0
            && let Ok(group) = i32::try_from(child.id())
        {
            killpg(Pid::from_raw(group), Signal::SIGKILL).unwrap_or_default(); // it may have ended
            kill(Pid::from_raw(group), Signal::SIGKILL).unwrap_or_default(); // it may be in another group
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.kill();
        if let Some(child) = self.0.take() {
            child.collect_later(Left::new(self.1));
        }
    }
}

/// Runs it to its end. `file` takes the place of `{file}` in its arguments.
pub(crate) async fn run(command: &SyncCommand, file: &str) -> Result<(), CommandFault> {
    let SyncCommand { words: written, timeout } = command;
    let mut words = written.iter().map(|word| word.replace(Check::FILE, file));
    let program = words.next().unwrap_or_default();
    if Left::has(written) {
        return Err(CommandFault::Left(program));
    }
    let mut child = Command::new(&program);
    child.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let not_started = |error| CommandFault::NotStarted(program.clone(), error);
    let running = Running(Some(children::spawn(&mut child).map_err(not_started)?), written);
    let until = Instant::now() + *timeout;
    let mut pause = Duration::from_millis(2);
    while !running.has_ended() {
        if Instant::now() >= until {
            return Err(CommandFault::Slow { program, timeout: *timeout });
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    let status = running.collect().map_err(not_started)?;
    if status.success() { Ok(()) } else { Err(CommandFault::Failed(program, Ending(status))) }
}

#[cfg(test)]
mod tests {
    use pillion_testkit::Scratch;

    use super::*;

    fn command(words: &[&str], timeout: u64) -> SyncCommand {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        SyncCommand { words, timeout: Duration::from_secs(timeout) }
    }

    #[tokio::test]
    async fn a_program_gets_the_file_and_its_end_is_told() {
        let scratch = Scratch::new();
        let file = scratch.write("a file; rm", "x");
        let file = file.to_str().unwrap();
        assert!(run(&command(&["test", "-f", "{file}"], 30), file).await.is_ok());
        for (words, expected) in [
            (&["test", "-d", "{file}"][..], "test ended with code 1"),
            (&["sh", "-c", "kill -9 $$"], "sh was ended by signal 9"),
            (&["/no/such/program"], "cannot be started"),
        ] {
            let why = run(&command(words, 30), file).await.unwrap_err().to_string();
            assert!(why.contains(expected), "{why}");
        }
    }

    #[test]
    fn a_program_that_has_left_its_group_is_killed() {
        let mut child = Command::new("sleep");
        let running = Running(Some(children::spawn(child.arg("5")).unwrap()), &[]); // it has no group of its own
        assert_eq!(running.collect().unwrap().signal(), Some(9));
    }

    #[tokio::test]
    async fn a_program_that_hangs_after_its_kill_is_not_started_again() {
        let command = command(&["true", "hangs"], 30);
        let left = Left::new(&command.words);
        let why = run(&command, "").await.unwrap_err();
        assert_eq!(why.to_string(), "true still runs from before, although it was killed");
        drop(left);
        run(&command, "").await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_that_does_not_end_is_killed_with_its_children() {
        let scratch = Scratch::new();
        let path = scratch.path("pid");
        let script = "sleep 1000 & echo $! > \"$0\"; wait";
        let words = ["sh", "-c", script, "{file}"];
        let command = command(&words, 1000);
        let begun = async {
            loop {
                match std::fs::read_to_string(&path) {
                    Ok(pid) if pid.ends_with('\n') => break pid,
                    _ => tokio::task::yield_now().await, // never idle, so that the clock stands still
                }
            }
        };
        let late = async {
            let pid = begun.await;
            tokio::time::advance(Duration::from_secs(1000)).await;
            pid
        };
        let (ended, pid) = tokio::join!(run(&command, path.to_str().unwrap()), late);
        assert_eq!(ended.unwrap_err().to_string(), "sh has not ended within 1000s");
        let stat = std::path::PathBuf::from(format!("/proc/{}/stat", pid.trim()));
        let is_gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        while !is_gone() {
            std::thread::yield_now();
        }
    }
}
