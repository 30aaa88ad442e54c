//! `pillion exec`: runs an application beside a sidecar, from when the sidecar is ready until the application ends.
//!
//! With a configuration this process is the sidecar, too. Without one, the sidecar is another process, which is asked over
//! its admin port.

mod application;
mod program;
mod signals;
mod terminal;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use http::Method;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::Signal as Kind;
use pillion_base::children::Others;
use pillion_telemetry::log;
use tokio::time::timeout;

use super::admin::{AdminPort, USUAL};
use super::drain::{Failure, failure};
use super::ending::lasting;
use super::output::{print_failure, warn};
use super::run::{Run, Started, broken};
use super::wait::until_ready;
use crate::app::{End, with_causes};
pub(super) use application::NotStarted;
use application::{Application, become_program, signalled};
use program::look_for;
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
    /// Internal, not for operators: `pillion exec` starts itself with this option as its child, which sets its limit of open
    /// files and then becomes the application
    #[arg(long, hide = true, value_name = "NUMBER", conflicts_with = "config")]
    open_files: Option<u64>,
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
        if let Some(most_files) = self.open_files {
            return Err(become_program(&self.command, most_files));
        }
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
        look_for(&self.command)?; // before a sidecar that serves gives its listeners away
        let most_files = getrlimit(Resource::RLIMIT_NOFILE)?.0;
        let mut others = Others::watch()?;
        let mut sidecar = run.start().await?;
        let code = self.inside(&mut sidecar, &mut signals, most_files).await;
        tokio::select! { // the end of the sidecar is the end of this process
            () = sidecar.end(End::Quit, signals.second()) => code,
            never = others.collect() => match never {},
        }
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
        let application = Application::start(&self.command, most_files)?;
        kept(application, sidecar, signals).await
    }

    /// Uses the sidecar of another process, and ends it with the application, or when the application does not run: a pod
    /// ends with its last container.
    async fn beside_sidecar(self) -> anyhow::Result<u8> {
        let mut signals = Signals::catch(false)?;
        let ready = tokio::select! { // the application is not started if a signal comes first
            ready = until_ready(self.admin.port(), self.timeout) => ready.map(|()| None),
            kind = signals.ending() => Ok(Some(signalled(kind))),
        };
        let code = match ready {
            Ok(None) => self.watched(&mut signals).await,
            Ok(Some(code)) => Ok(code),
            Err(why) => Err(why),
        };
        let asked = self.admin.ask(Method::POST, "/quitquitquit").await;
        match asked.and_then(|answer| answer.accepted()) {
            Ok(()) => {}
            // an older sidecar may end before its answer is sent
            Err(why) if failure(&why) == Failure::Broken => warn(&format!(
                "the sidecar did not answer the order to end, and its log says whether it has ended in order: {}",
                with_causes(&why)
            )),
            Err(why) => print_failure(&format!("the sidecar was not ended: {}", with_causes(&why))),
        }
        code
    }

    /// Passes signals on until the application ends, and returns its exit code.
    async fn watched(&self, signals: &mut Signals) -> anyhow::Result<u8> {
        let mut application = Application::start(&self.command, getrlimit(Resource::RLIMIT_NOFILE)?.0)?;
        loop {
            tokio::select! { // both wait for events that are kept
                code = application.ended() => return Ok(code),
                kind = signals.next() => application.send(kind),
            }
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
                sidecar.announce_end();
                sidecar.drain_inbound();
                application.send(Kind::SIGTERM);
            }
        }
    }
}
