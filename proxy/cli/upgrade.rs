//! `run --takeover PATH`: the start of a sidecar that replaces another one, and that waits for its own successor.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use pillion_model::Config;
use tokio::signal::unix::Signal;

use crate::app::{App, End, Keeper, Running, with_causes};
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

    /// Tells the sidecar that is to be replaced that it serves on.
    pub(super) async fn fail(&mut self, why: &anyhow::Error) {
        if let Some(predecessor) = self.predecessor.take() {
            predecessor.fail(with_causes(why)).await;
        }
    }

    /// Waits until the sidecar is ready and serves, in the place of another one or as the first. `Some`: it must end
    /// before that.
    ///
    /// # Errors
    /// The sidecar that is to be replaced serves on, or there can be no socket at the path.
    pub(super) async fn settle(
        &mut self,
        keeper: &mut Keeper,
        running: &mut Running,
        hangup: &mut Signal,
    ) -> anyhow::Result<Option<End>> {
        let Some(mut predecessor) = self.predecessor.take() else {
            let end = keeper.settle(running, hangup).await;
            if end.is_none() {
                self.listen(keeper, None)?;
            }
            return Ok(end);
        };
        let ready = predecessor.prepare(keeper.settle(running, hangup)).await;
        if let Some(end) = ready.context("--takeover")? {
            return Ok(Some(end));
        }
        let listener = predecessor.replace(|| running.open()).await.context("--takeover")?;
        self.listen(keeper, Some(listener))?;
        Ok(None)
    }

    fn listen(&self, keeper: &mut Keeper, taken: Option<UnixListener>) -> anyhow::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let successors = Successors::listen(path, taken)
            .with_context(|| format!("--takeover: cannot listen at {}", path.display()))?;
        keeper.await_successors(Some(successors));
        Ok(())
    }
}
