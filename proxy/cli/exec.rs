//! `pillion exec`: runs an application beside a sidecar, from when the sidecar is ready until the application ends.
//!
//! With a configuration this process is the sidecar, too. Without one, the sidecar is another process, which is asked over
//! its admin port.

mod application;
mod signals;
mod terminal;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use http::Method;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal as Kind;
use pillion_telemetry::log;
use tokio::time::timeout;

use super::admin::{AdminPort, USUAL};
use super::ending::lasting;
use super::output::print_failure;
use super::run::{Run, Started, broken};
use super::wait::until_ready;
use crate::app::{End, with_causes};
pub(super) use application::NotStarted;
use application::{Application, signalled};
use signals::Signals;

#[derive(Debug, Args)]
pub struct Exec {
    /// The configuration file of a sidecar that this process itself runs [default: the sidecar at --admin is used]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The admin port of the sidecar that is used where no file is given
    #[arg(long, value_name = "URL", default_value = USUAL, conflicts_with = "config")]
    admin: AdminPort,
    /// How long to wait until the sidecar is ready, such as 500ms, 30s or 2m
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = lasting)]
    timeout: Duration,
    /// Keep the last good configuration at PATH, and start with it when the new one is bad or absent
    #[arg(long, value_name = "PATH", requires = "config")]
    snapshot: Option<PathBuf>,
    /// Take the listeners over from the sidecar that serves at this Unix socket, if there is one, and wait there for a
    /// successor of this one
    #[arg(long, value_name = "PATH", requires = "config")]
    takeover: Option<PathBuf>,
    /// The application with its arguments, after `--`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// What happens first while the application runs.
enum Event {
    Ended(u8),
    Signal(Kind),
    SidecarEnds(End),
}

impl Exec {
    /// Returns the exit code of the application.
    ///
    /// # Errors
    /// The sidecar cannot start or is not ready in time, or the application cannot be started ([`NotStarted`]).
    pub fn run(mut self) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let code = match self.config.take() {
            Some(file) => {
                let run = Run::of_file(file, self.snapshot.take(), self.takeover.take());
                run.prepare();
                runtime.block_on(self.with_own_sidecar(run))
            }
            None => {
                log::init(None);
                runtime.block_on(self.beside_sidecar())
            }
        };
        code.map(ExitCode::from)
    }

    /// Runs a sidecar in this process. When the application has ended, nothing inbound can be answered any more, so that the
    /// sidecar ends without `drain.delay`.
    async fn with_own_sidecar(self, run: Run) -> anyhow::Result<u8> {
        let mut signals = Signals::catch(true)?; // before anything listens, so that no signal is missed
        let most_files = getrlimit(Resource::RLIMIT_NOFILE)?.0;
        let mut sidecar = run.start().await?;
        let code = self.inside(&mut sidecar, &mut signals, most_files).await;
        sidecar.end(End::Quit, async { _ = signals.ending().await }).await;
        code
    }

    /// `most_files`: the limit of open files that this process was started with.
    async fn inside(
        &self,
        sidecar: &mut Started,
        signals: &mut Signals,
        most_files: u64,
    ) -> anyhow::Result<u8> {
        let ready = tokio::select! { // the sidecar ends if a signal comes first
            ready = timeout(self.timeout, sidecar.prepare()) => ready,
            kind = signals.ending() => return Ok(signalled(kind)),
        };
        match ready {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(End::Broken))) => return Err(broken()),
            Ok(Ok(Some(_order))) => bail!("the sidecar was told to end before the application was started"),
            Ok(Err(error)) => return Err(error),
            Err(_elapsed) => {
                let why = sidecar.why_not_ready().unwrap_or_default();
                bail!("the sidecar is not ready after {:?}: {why}", self.timeout);
            }
        }
        tokio::select! { // as above; `timeout` does not end what has replaced another sidecar
            begun = sidecar.begin() => begun?,
            kind = signals.ending() => return Ok(signalled(kind)),
        }
        let application = with_limit(most_files, || Application::start(&self.command))?;
        kept(application, sidecar, signals).await
    }

    /// Uses the sidecar of another process, and ends it with the application.
    async fn beside_sidecar(self) -> anyhow::Result<u8> {
        let mut signals = Signals::catch(false)?;
        tokio::select! { // the sidecar belongs to another process, which ends it
            ready = until_ready(self.admin.port(), self.timeout) => ready?,
            kind = signals.ending() => return Ok(signalled(kind)),
        }
        let code = match Application::start(&self.command) {
            Ok(application) => Ok(watched(application, &mut signals).await),
            Err(error) => Err(error),
        };
        let asked = self.admin.ask(Method::POST, "/quitquitquit").await;
        if let Err(why) = asked.and_then(|answer| answer.accepted()) {
            print_failure(&format!("the sidecar was not ended: {}", with_causes(&why)));
        }
        code
    }
}

/// Passes signals on until the application ends, and returns its exit code.
async fn watched(mut application: Application, signals: &mut Signals) -> u8 {
    loop {
        tokio::select! { // both wait for events that are kept
            code = application.ended() => return code,
            kind = signals.next() => application.send(kind),
        }
    }
}

/// Keeps the sidecar until it must end, once. Later its last connections are served as before.
async fn keep(sidecar: &mut Started, has_ended: bool) -> End {
    match has_ended {
        false => sidecar.keep().await,
        true => match sidecar.follow().await {},
    }
}

/// Passes signals on until the application ends, and keeps the sidecar. When one of both is told to end, the other is, too.
/// When a successor has taken over, the application goes on.
async fn kept(
    mut application: Application,
    sidecar: &mut Started,
    signals: &mut Signals,
) -> anyhow::Result<u8> {
    let mut ended = None;
    loop {
        let event = tokio::select! { // all wait for events that are kept
            code = application.ended() => Event::Ended(code),
            kind = signals.next() => Event::Signal(kind),
            end = keep(sidecar, ended.is_some()) => Event::SidecarEnds(end),
        };
        match event {
            Event::Ended(_) if ended == Some(End::Broken) => return Err(broken()),
            Event::Ended(code) => return Ok(code),
            Event::Signal(kind) => {
                if kind == Kind::SIGTERM {
                    sidecar.drain_inbound();
                }
                application.send(kind);
            }
            Event::SidecarEnds(End::TakenOver) => {
                tracing::info!("a successor serves; this process ends with its application");
                ended = Some(End::TakenOver);
            }
            Event::SidecarEnds(end) => {
                tracing::info!("the sidecar is told to end, and so is the application");
                ended = Some(end);
                sidecar.drain_inbound();
                application.send(Kind::SIGTERM);
            }
        }
    }
}

/// Starts a program with the limit of open files that this process was started with. Programs of old close every
/// descriptor up to it, or expect small numbers.
fn with_limit<T>(most_files: u64, start: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most_files, hard)?;
    let started = start();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
    started
}
