//! Tells the application that there is a new version: by a signal, a request or a program. Each is bounded in time.

use std::io::{self, Read as _};
use std::path::Path;
use std::time::Duration;

use http::{Method, StatusCode};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pillion_model::sync::{HttpCall, OnChange, SignalTo, SyncSignal};
use pillion_telemetry::processes;
use tokio::time::sleep;

use super::asker::{AskFault, Asker};
use super::command::{CommandFault, run};
use super::walk;

/// The pauses before a request or a program is tried again. The application may just be starting.
const AGAIN: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];

/// Why the application was not told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Untold {
    #[error("no process is called {0}")]
    NoProcess(String),
    #[error("there is no {}", .0.display())]
    NoPidFile(std::path::PathBuf),
    #[error("{path} has no number of a process: {why}", path = .0.display(), why = .1)]
    PidFile(std::path::PathBuf, String),
    #[error(
        "{path} names process {number}, which is a sidecar and not the application: the file was written in another process namespace; write shareProcessNamespace: true in the pod",
        path = .0.display(), number = .1
    )]
    Sidecar(std::path::PathBuf, i32),
    #[error("process {0} of the pid file has ended")]
    Ended(i32),
    #[error("process {0} cannot be signalled: {1}")]
    Signal(i32, #[source] Errno),
    #[error("the request was answered with {0}")]
    Status(StatusCode),
    #[error("the request failed: {0}")]
    Ask(#[from] AskFault),
    #[error(transparent)]
    Command(#[from] CommandFault),
}

impl Untold {
    /// Whether nothing is wrong: an application that is not there yet reads the new version when it starts.
    pub(crate) const fn is_early(&self) -> bool {
        matches!(self, Self::NoProcess(_) | Self::NoPidFile(_) | Self::Ended(_))
    }

    /// Whether nothing was tried, because a program that was killed has not ended: a reload kills the one that runs.
    pub(crate) const fn is_to_come(&self) -> bool {
        matches!(self, Self::Command(CommandFault::Left(_)))
    }
}

/// Tells of the version at `file`. A signal is sent once, the others are tried three times.
pub(crate) async fn tell(how: &OnChange, file: &Path, asker: &Asker) -> Result<(), Untold> {
    let (mut pauses, mut failed) = (AGAIN.into_iter(), None);
    loop {
        let told = match how {
            OnChange::Signal { signal, to } => return send(*signal, to),
            OnChange::Http { call, timeout } => ask(call, *timeout, asker).await,
            OnChange::Exec(command) => run(command, &file.to_string_lossy()).await.map_err(Untold::from),
        };
        let Err(why) = told else { return Ok(()) };
        // a program that outlives its end stands in the way of the next try: then the first one has failed, and is not to come
        let why = if why.is_to_come() { failed.take().unwrap_or(why) } else { why };
        let Some(pause) = pauses.next() else { return Err(why) };
        failed = Some(why);
        sleep(pause).await;
    }
}

async fn ask(HttpCall { method, url }: &HttpCall, timeout: Duration, asker: &Asker) -> Result<(), Untold> {
    let method = Method::from_bytes(method.as_bytes()).unwrap_or(Method::POST);
    let status = asker.call(method, url, timeout).await?;
    if status.is_success() { Ok(()) } else { Err(Untold::Status(status)) }
}

fn send(signal: SyncSignal, to: &SignalTo) -> Result<(), Untold> {
    let all = match to {
        SignalTo::Process(name) => processes::named(processes::PROC.as_ref(), name),
        SignalTo::PidFile(path) => vec![number_in(path)?],
    };
    if let (true, SignalTo::Process(name)) = (all.is_empty(), to) {
        return Err(Untold::NoProcess(name.clone()));
    }
    for id in all {
        match kill(Pid::from_raw(id), kind(signal)) {
            Ok(()) => {}
            Err(Errno::ESRCH) if matches!(to, SignalTo::Process(_)) => {} // it has just ended
            Err(Errno::ESRCH) => return Err(Untold::Ended(id)),
            Err(error) => return Err(Untold::Signal(id, error)),
        }
    }
    Ok(())
}

/// The number in a pid file. A number below 1 would be a group of processes.
fn number_in(path: &Path) -> Result<i32, Untold> {
    let bad = |why: String| Untold::PidFile(path.to_owned(), why);
    let read = || -> io::Result<String> {
        let mut text = String::new();
        walk::open(path)?.take(64).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Untold::NoPidFile(path.to_owned()),
        _ => bad(error.to_string()),
    })?;
    let number = text.trim().parse().ok().filter(|number: &i32| *number > 0);
    let number = number.ok_or_else(|| bad("it must hold one number".to_owned()))?;
    if is_sidecar(number) { Err(Untold::Sidecar(path.to_owned(), number)) } else { Ok(number) }
}

/// Whether this is the number of this process, or of another one of Pillion, such as the parent in `pillion exec`.
fn is_sidecar(number: i32) -> bool {
    u32::try_from(number).is_ok_and(|number| {
        number == std::process::id() || processes::is_named(processes::PROC.as_ref(), number, "pillion")
    })
}

const fn kind(signal: SyncSignal) -> Signal {
    match signal {
        SyncSignal::Hup => Signal::SIGHUP,
        SyncSignal::Usr1 => Signal::SIGUSR1,
        SyncSignal::Usr2 => Signal::SIGUSR2,
        SyncSignal::Term => Signal::SIGTERM,
        SyncSignal::Int => Signal::SIGINT,
        SyncSignal::Quit => Signal::SIGQUIT,
        SyncSignal::Winch => Signal::SIGWINCH,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use pillion_testkit::Scratch;

    use super::*;

    #[test]
    fn the_process_of_a_pid_file_gets_the_signal() {
        let scratch = Scratch::new();
        let mut child = Command::new("sh")
            .args(["-c", "trap 'exit 7' USR1; echo; while :; do sleep 0.01; done"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap(); // it has its trap now
        let path = scratch.write("pid", format!("{}\n", child.id()));
        send(SyncSignal::Usr1, &SignalTo::PidFile(path)).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(7));
    }

    #[test]
    fn a_pid_file_with_anything_else_is_refused() {
        let scratch = Scratch::new();
        for text in ["", "0", "-1", "x", "1 2", "99999999999"] {
            let path = scratch.write("pid", text);
            assert!(matches!(number_in(&path), Err(Untold::PidFile(..))), "{text:?}");
        }
    }

    #[test]
    fn a_pid_file_that_names_the_sidecar_is_refused() {
        let scratch = Scratch::new();
        let path = scratch.write("pid", std::process::id().to_string());
        let why = send(SyncSignal::Winch, &SignalTo::PidFile(path)).unwrap_err();
        assert!(matches!(why, Untold::Sidecar(..)), "{why}");
        assert!(why.to_string().contains("shareProcessNamespace") && !why.is_early());
    }

    #[test]
    fn a_pid_file_of_a_process_that_has_ended_is_no_fault() {
        let scratch = Scratch::new();
        let path = scratch.write("pid", i32::MAX.to_string()); // above the kernel's largest number of a process
        assert!(send(SyncSignal::Hup, &SignalTo::PidFile(path)).unwrap_err().is_early());
    }

    #[test]
    fn an_application_that_is_not_there_yet_is_no_fault() {
        let scratch = Scratch::new();
        for to in [SignalTo::Process("no-such-process".to_owned()), SignalTo::PidFile(scratch.path("none"))] {
            assert!(send(SyncSignal::Hup, &to).unwrap_err().is_early(), "{to:?}");
        }
    }
}
