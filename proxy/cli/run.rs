//! `pillion run`: runs the sidecar, from reading file and flags to the drain.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use pillion_model::Config;
use pillion_telemetry::{AccessLog, log};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::output::warn;
use crate::app::{App, ConfigSource, End, Keeper, Running, with_causes};
use crate::manager::{News, ServiceManager};

/// The configuration file if the command line names none.
const USUAL_FILE: &str = "/etc/pillion/pillion.yaml";

#[derive(Debug, Args)]
pub struct Run {
    /// The configuration file [default: /etc/pillion/pillion.yaml where it exists, else the built-in defaults]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The port of the application on 127.0.0.1, or its address
    #[arg(long, value_name = "PORT|ADDR", value_parser = app)]
    app: Option<SocketAddr>,
    /// The address that the inbound side listens on
    #[arg(long, value_name = "ADDR")]
    inbound: Option<SocketAddr>,
    /// The address that the outbound side listens on
    #[arg(long, value_name = "ADDR")]
    outbound: Option<SocketAddr>,
    /// The address that the admin port listens on
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// Allow core files and debuggers of the same user; a core file contains private keys
    #[arg(long)]
    core_dumps: bool,
}

fn app(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok(SocketAddr::from(([127, 0, 0, 1], port)));
    }
    text.parse().map_err(|_invalid| "a port like 8080 or an address like 127.0.0.1:8080".to_owned())
}

impl Run {
    /// Runs until a signal ends the sidecar.
    ///
    /// # Errors
    /// The configuration is invalid or cannot be applied. The text has all faults.
    pub fn run(self) -> anyhow::Result<()> {
        log::init(None);
        if !self.core_dumps {
            keep_memory_private();
        }
        let file = self.file();
        let config = self.config(file.as_deref())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let signals = Signals::new()?; // before anything listens, so that no signal is missed
            let reopen = signal(SignalKind::user_defined1())?;
            let running = App::build(config)?.start()?;
            log_start(&running, file.as_deref());
            let reopening = reopen_log(reopen, running.access_log());
            tokio::select! { // the log need not be opened again when the sidecar has ended
                ended = self.serve(running, signals, file) => ended,
                never = reopening => match never {},
            }
        })
    }

    /// Keeps the sidecar until a signal or an order ends it, and drains it.
    async fn serve(
        self,
        mut running: Running,
        mut signals: Signals,
        file: Option<PathBuf>,
    ) -> anyhow::Result<()> {
        let mut keeper = Keeper::new(self.source(file));
        keeper.report_to(ServiceManager::of_environment());
        let Signals { end, hangup } = &mut signals;
        let ended = tokio::select! { // nothing is lost: the sidecar ends in both cases
            () = end.wait() => End::Drain,
            ended = keep(&mut keeper, &mut running, hangup) => ended?,
        };
        if ended == End::Broken {
            anyhow::bail!("a worker thread has ended unexpectedly; see the log above");
        }
        keeper.manager().tell(News::Stopping);
        drain(running, signals, ended).await;
        Ok(())
    }

    /// The source for reloads: the file and the flags of the start. A missing file is refused, because it does not mean
    /// that the operator wants the defaults.
    fn source(self, file: Option<PathBuf>) -> ConfigSource {
        let (flags, again) = (self.flags(), file.clone());
        let load = move || match &again {
            Some(file) => self.config(Some(file)).map_err(|error| with_causes(&error)),
            None => Err("there is no configuration file to read again".to_owned()),
        };
        ConfigSource { file, flags, load: Box::new(load) }
    }

    /// The keys that flags set over the file.
    fn flags(&self) -> Vec<(&'static str, &'static str)> {
        let all = [
            ("inbound.app", "--app", self.app),
            ("inbound.listen", "--inbound", self.inbound),
            ("outbound.listen", "--outbound", self.outbound),
            ("admin.listen", "--admin", self.admin),
        ];
        all.into_iter().filter(|(.., given)| given.is_some()).map(|(key, flag, _)| (key, flag)).collect()
    }

    fn file(&self) -> Option<PathBuf> {
        let usual = || Some(PathBuf::from(USUAL_FILE)).filter(|file| file.exists());
        self.config.clone().or_else(usual)
    }

    fn config(&self, file: Option<&Path>) -> anyhow::Result<Config> {
        let mut config = match file {
            Some(file) => load(file)?,
            None => Config::default(),
        };
        if let Some(inbound) = &mut config.inbound {
            inbound.app = self.app.or(inbound.app);
            inbound.listen = self.inbound.map_or_else(|| inbound.listen.clone(), |address| vec![address]);
        } else if self.app.is_some() || self.inbound.is_some() {
            anyhow::bail!("--app and --inbound need an inbound side, and the file says `inbound: off`");
        }
        if let Some(outbound) = &mut config.outbound {
            outbound.listen = self.outbound.map_or_else(|| outbound.listen.clone(), |address| vec![address]);
        } else if self.outbound.is_some() {
            anyhow::bail!("--outbound needs an outbound side, and the file says `outbound: off`");
        }
        if let Some(admin) = self.admin {
            config.admin.listen = vec![admin];
        }
        Ok(config)
    }
}

fn load(file: &Path) -> anyhow::Result<Config> {
    let (config, warnings) = pillion_config::load(file).map_err(|errors| anyhow::anyhow!("{errors}"))?;
    for warning in warnings {
        warn(&format!("{}:{warning}", file.display()));
    }
    Ok(config)
}

/// Forbids core files of this process, and reading its memory through /proc or ptrace without CAP_SYS_PTRACE: the memory
/// contains private keys (prctl(2), PR_SET_DUMPABLE).
fn keep_memory_private() {
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!(%error, "core files of this process cannot be forbidden; they would contain private keys");
    }
}

/// Logs the start, with the time at which the certificates expire.
fn log_start(running: &Running, file: Option<&Path>) {
    let file = file
        .map_or_else(|| "none, built-in defaults and flags".to_owned(), |file| file.display().to_string());
    tracing::info!(version = env!("CARGO_PKG_VERSION"), file, listening = %running.addresses(), "started");
    if let Some(ends) = running.certificate_ends() {
        tracing::info!(ends, "certificates are in use");
    }
}

/// Reports the sidecar as ready when it is, and keeps it until it ends.
async fn keep(keeper: &mut Keeper, running: &mut Running, hangup: &mut Signal) -> anyhow::Result<End> {
    if let Some(end) = keeper.settle(running, hangup).await {
        return Ok(end);
    }
    let (mut stdout, addresses) = (std::io::stdout(), running.addresses());
    writeln!(stdout, "ready {addresses}").and_then(|()| stdout.flush()).context("standard output")?;
    keeper.manager().tell(News::Ready { status: &format!("ready {addresses}") });
    if log::is_json() {
        tracing::info!(%addresses, "ready");
    }
    Ok(keeper.keep(running, hangup).await)
}

/// Opens the file of the access log again at each SIGUSR1, as the programs that rotate files ask for.
async fn reopen_log(mut reopen: Signal, log: Option<Arc<AccessLog>>) -> Infallible {
    loop {
        if reopen.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        match &log {
            Some(log) => log.reopen(),
            None => tracing::info!("SIGUSR1 does nothing, because there is no access log"),
        }
    }
}

struct Signals {
    end: Ends,
    hangup: Signal,
}

/// The signals SIGTERM and SIGINT.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let end =
            Ends { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
        Ok(Self { end, hangup: signal(SignalKind::hangup())? })
    }
}

impl Ends {
    async fn wait(&mut self) {
        tokio::select! { // a signal of the other branch is not needed any more
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Drains. A second signal ends the process at once.
async fn drain(running: Running, mut signals: Signals, why: End) {
    tracing::info!("draining; a second signal ends at once");
    let drained = async {
        match why {
            End::Quit => running.quit().await,
            End::Drain | End::Broken => running.drain().await,
        }
    };
    tokio::select! { // open connections are then closed, as the operator asked
        () = drained => {}
        () = signals.end.wait() => tracing::warn!("second signal: ending without waiting for open connections"),
    }
}
