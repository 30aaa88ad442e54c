//! `--takeover PATH` of `run` and `exec`: the start of a sidecar that replaces another one, and that waits for its own
//! successor.

use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::Arc;

use anyhow::Context as _;
use pillion_base::children;
use pillion_model::Config;
use tokio::signal::unix::Signal;
use tokio::sync::oneshot;

use crate::app::{App, End, Keeper, Running, with_causes};
use crate::manager::WATCHDOG_PID;
use crate::takeover::{Found, Predecessor, Successors, find};

/// What a start has to do with other processes. Nothing without `--takeover`.
pub(super) struct Upgrade {
    path: Option<PathBuf>,
    /// The sidecar that serves at the path.
    predecessor: Option<Box<Predecessor>>,
}

impl Upgrade {
    /// Asks the sidecar that serves at `path` for its sockets, if there is one.
    ///
    /// # Errors
    /// A process serves there that does not hand over.
    pub(super) async fn find(path: Option<PathBuf>) -> anyhow::Result<Self> {
        let predecessor = match &path {
            None => None,
            Some(path) => match find(path).await.context("--takeover")? {
                Found::Sidecar(predecessor) => Some(predecessor),
                Found::Nothing => None,
            },
        };
        Ok(Self { path, predecessor })
    }

    /// Builds the sidecar and starts its threads. One that replaces another accepts no connection yet.
    ///
    /// # Errors
    /// What [`App::build`] and [`App::start`] refuse.
    pub(super) fn start(&self, config: Arc<Config>) -> anyhow::Result<Running> {
        match &self.predecessor {
            None => Ok(App::build(config)?.start()?),
            Some(predecessor) => Ok(App::build_with_sockets(config, predecessor.sockets())?.start_closed()?),
        }
    }

    /// Whether another sidecar serves until this one is ready.
    pub(super) const fn replaces(&self) -> bool {
        self.predecessor.is_some()
    }

    /// Whether a successor can take over from this sidecar.
    pub(super) const fn has_path(&self) -> bool {
        self.path.is_some()
    }

    /// Tells the sidecar that is to be replaced that it serves on.
    pub(super) async fn fail(&mut self, why: &anyhow::Error) {
        if let Some(predecessor) = self.predecessor.take() {
            predecessor.fail(with_causes(why)).await;
        }
    }

    /// Waits until the sidecar can serve. `Some`: it must end before that.
    ///
    /// # Errors
    /// The sidecar that is to be replaced serves on.
    pub(super) async fn prepare(
        &mut self,
        keeper: &mut Keeper,
        running: &mut Running,
        hangup: &mut Signal,
    ) -> anyhow::Result<Option<End>> {
        let ready = keeper.settle(running, hangup);
        match &mut self.predecessor {
            None => Ok(ready.await),
            Some(predecessor) => predecessor.prepare(ready).await.context("--takeover"),
        }
    }

    /// Serves, in the place of another sidecar or as the first, and waits for successors.
    ///
    /// # Errors
    /// The sidecar that is to be replaced serves on, or this one is the first and there can be no socket at the path.
    pub(super) async fn begin(&mut self, keeper: &mut Keeper, running: &mut Running) -> anyhow::Result<()> {
        let Some(predecessor) = self.predecessor.take() else { return self.listen(keeper, None) };
        let listener = predecessor.replace(|| running.open()).await.context("--takeover")?;
        keeper.keep_written(running);
        if let Err(error) = self.listen(keeper, Some(listener)) {
            let why = with_causes(&error);
            tracing::error!("{why}; serving on, and the next upgrade takes a restart");
        }
        Ok(())
    }

    fn listen(&self, keeper: &mut Keeper, taken: Option<UnixListener>) -> anyhow::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let successors = Successors::listen(path, taken)
            .with_context(|| format!("--takeover: cannot listen at {}", path.display()))?;
        keeper.await_successors(Some(successors));
        Ok(())
    }
}

/// Starts a successor at each SIGUSR2. It is a child of this process, so that it belongs to the same service of systemd.
pub(super) async fn start_successors(mut upgrade: Signal) -> Infallible {
    loop {
        if upgrade.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        match start_successor() {
            // another signal meanwhile asks for the same
            Ok(ended) => match ended.await {
                Ok(status) if status.success() => tracing::info!("the successor that was started has ended"),
                Ok(status) => tracing::warn!(%status, "the successor that was started has ended"),
                Err(_unknown) => {
                    tracing::warn!("the end of the successor that was started cannot be observed")
                }
            },
            Err(error) => tracing::error!(%error, "a successor cannot be started"),
        }
    }
}

/// Says at each SIGUSR2 why there is no successor.
pub(super) async fn refuse_successors(mut upgrade: Signal) -> Infallible {
    loop {
        if upgrade.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        tracing::warn!(
            "SIGUSR2 starts no successor, because this sidecar was started without --takeover PATH; add it and restart"
        );
    }
}

/// Runs the command line of this process again. A thread waits for its end, so that no zombie is left.
fn start_successor() -> io::Result<oneshot::Receiver<ExitStatus>> {
    let mut words = std::env::args_os();
    let program =
        words.next().ok_or_else(|| io::Error::other("the command line of this process is empty"))?;
    let mut successor = Command::new(program);
    successor.args(words).env_remove(WATCHDOG_PID); // which names this process
    let child = children::spawn(&mut successor)?;
    tracing::info!(pid = child.id(), "SIGUSR2: a successor was started");
    let (tell, ended) = oneshot::channel();
    std::thread::Builder::new().name("successor".into()).spawn(move || {
        if let Ok(status) = child.wait() {
            tell.send(status).unwrap_or_default(); // this sidecar may have ended
        }
    })?;
    Ok(ended)
}
