//! `pillion run`: runs the sidecar, from reading file and flags to the drain. `pillion exec` does the same around an
//! application.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use pillion_base::children::{Others, gets_orphans};
use pillion_config::{Fault, Given, GivenProbe};
use pillion_model::Config;
use pillion_telemetry::{AccessLog, log};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{AbortHandle, JoinSet};

use super::output::warn;
use super::upgrade::{Upgrade, refuse_successors, start_successors};
use crate::app::{ConfigSource, End, Keeper, Kept, Loaded, Restored, Running, with_causes};
use crate::manager::{News, ServiceManager};

/// The configuration file if the command line names none.
const USUAL_FILE: &str = "/etc/pillion/pillion.yaml";

#[derive(Debug, Default, Args)]
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
    /// Keep the last good configuration at PATH, and start with it when the new one is bad or absent
    #[arg(long, value_name = "PATH")]
    snapshot: Option<PathBuf>,
    /// Where the certificates are, for a file without `identity`: a folder with tls.crt, tls.key and ca.crt, or the URL of a
    /// Workload API (unix:///run/agent.sock)
    #[arg(long, value_name = "DIR|URL")]
    identity: Option<String>,
    /// A probe of the application beside those of the file: NAME=http:8080/path, NAME=tcp:3306 or NAME=grpc:9090/service
    #[arg(long, value_name = "PROBE")]
    probe: Vec<GivenProbe>,
    /// Allow core files and debuggers of the same user; a core file contains private keys
    #[arg(long)]
    core_dumps: bool,
    /// Take the listeners over from the sidecar that serves at this Unix socket, if there is one, and wait there for a
    /// successor of this one
    #[arg(long, value_name = "PATH")]
    takeover: Option<PathBuf>,
}

fn app(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok(SocketAddr::from(([127, 0, 0, 1], port)));
    }
    text.parse().map_err(|_invalid| "a port like 8080 or an address like 127.0.0.1:8080".to_owned())
}

impl Run {
    /// As if these were the only arguments.
    pub(super) fn of_file(file: PathBuf, snapshot: Option<PathBuf>, takeover: Option<PathBuf>) -> Self {
        Self { config: Some(file), snapshot, takeover, ..Self::default() }
    }

    /// Runs until a signal ends the sidecar.
    ///
    /// # Errors
    /// The configuration is invalid or cannot be applied. The text has all faults.
    pub fn run(self) -> anyhow::Result<()> {
        self.prepare();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut ends = Ends::new()?; // before anything listens, so that no signal is missed
            let upgrade = signal(SignalKind::user_defined2())?; // always: uncaught, it ends the process
            let mut sidecar = self.start().await?;
            let ended = tokio::select! { // nothing is lost: the sidecar ends in both cases
                () = ends.wait() => Ok(End::Drain),
                ended = sidecar.serve(upgrade) => ended,
            };
            if let Ok(End::Broken) = ended {
                return Err(broken());
            }
            let why = *ended.as_ref().unwrap_or(&End::Quit);
            sidecar.end(why, ends.second(why)).await;
            ended.map(drop)
        })
    }

    /// What a process that will hold keys does first.
    pub(super) fn prepare(&self) {
        log::init(None);
        if !self.core_dumps {
            keep_memory_private();
        }
    }

    /// Starts the sidecar, on the runtime that will keep it.
    ///
    /// # Errors
    /// The configuration is invalid or cannot be applied. The text has all faults.
    pub(super) async fn start(self) -> anyhow::Result<Started> {
        let file = self.file();
        let (hangup, reopen) = (signal(SignalKind::hangup())?, signal(SignalKind::user_defined1())?);
        let kept = self.kept(file.as_deref())?;
        let loaded = self.config(file.as_deref());
        if let Ok(loaded) = &loaded {
            loaded.warnings.iter().for_each(|warning| warn(warning));
        }
        if loaded.is_err() && kept.is_none() {
            return Err(loaded.err().unwrap_or_else(broken)); // before a running sidecar is asked for anything
        }
        let mut upgrade = Upgrade::find(self.takeover.clone()).await?;
        let fallback = kept.as_ref().filter(|_| !upgrade.replaces());
        let begun = self.begin(loaded, fallback, &upgrade);
        if let Err(error) = &begun {
            upgrade.fail(error).await;
        }
        let Begun { running, written, refused } = begun?;
        log_start(&running, written.as_ref().map(|(file, _)| file.as_path()));
        let mut beside = JoinSet::new();
        beside.spawn(reopen_log(reopen, running.access_log()));
        let keeper = Keeper::new(self.source(file, kept), written, refused);
        Ok(Started { running, keeper, upgrade, hangup, is_ending: false, upgrades: None, beside })
    }

    /// Starts with the file or, when that is bad or absent, with the kept configuration. There is none for a sidecar that
    /// replaces another one, because that one serves on with a good configuration.
    fn begin(
        &self,
        loaded: anyhow::Result<Loaded>,
        kept: Option<&Kept>,
        upgrade: &Upgrade,
    ) -> anyhow::Result<Begun> {
        let started = |loaded: Loaded, refused| {
            let Loaded { config, written, .. } = loaded;
            anyhow::Ok(Begun { running: upgrade.start(config)?, written, refused })
        };
        let why = match (loaded.and_then(|loaded| started(loaded, None)), kept) {
            (Err(why), Some(_)) => with_causes(&why),
            (begun, _) => return begun,
        };
        let kept = kept.context("there is none")?;
        let path = kept.path().display();
        let begun = self.restored(kept).and_then(|loaded| started(loaded, Some(why.clone())));
        let begun = begun.map_err(|also| {
            anyhow::anyhow!(
                "{why}\nthe configuration kept at {path} cannot be used either: {}",
                with_causes(&also)
            )
        })?;
        tracing::error!(kept = %path, "configuration refused at the start, the kept one is in use: {why}");
        Ok(begun)
    }

    /// `None`: the configuration is not kept.
    fn kept(&self, file: Option<&Path>) -> anyhow::Result<Option<Kept>> {
        let pair = self.snapshot.clone().zip(file);
        pair.map(|(path, file)| Kept::new(path, file)).transpose()
    }

    fn restored(&self, kept: &Kept) -> anyhow::Result<Loaded> {
        let Restored { config, warnings, text } = kept.restore(&self.given())?;
        let warnings = placed(kept.path(), &warnings);
        warnings.iter().for_each(|warning| warn(warning));
        let config = Arc::new(self.with_flags(config)?);
        Ok(Loaded { config, written: Some((kept.path().to_owned(), text.into())), warnings })
    }

    /// The source for reloads: the file and the flags of the start. A missing file is refused, because it does not mean
    /// that the operator wants the defaults.
    fn source(self, file: Option<PathBuf>, kept: Option<Kept>) -> ConfigSource {
        let (flags, again) = (self.flags(), file.clone());
        let load = move || match &again {
            Some(file) => self.config(Some(file)).map_err(|error| with_causes(&error)),
            None => Err("there is no configuration file to read again".to_owned()),
        };
        ConfigSource { file, flags, load: Box::new(load), warn, kept }
    }

    /// The keys that flags set over the file.
    fn flags(&self) -> Vec<(&'static str, &'static str)> {
        let all = [
            ("inbound.app", "--app", self.app),
            ("inbound.listen", "--inbound", self.inbound),
            ("outbound.listen", "--outbound", self.outbound),
            ("admin.listen", "--admin", self.admin),
        ];
        let of_addresses =
            all.into_iter().filter(|(.., given)| given.is_some()).map(|(key, flag, _)| (key, flag));
        let probes = (!self.probe.is_empty()).then_some(("inbound.probes", "--probe"));
        of_addresses.chain(probes).collect()
    }

    /// With --snapshot the usual file is meant also where it is absent: the kept configuration stands in for it.
    fn file(&self) -> Option<PathBuf> {
        let is_meant = |file: &PathBuf| self.snapshot.is_some() || file.exists();
        let usual = || Some(PathBuf::from(USUAL_FILE)).filter(is_meant);
        self.config.clone().or_else(usual)
    }

    fn config(&self, file: Option<&Path>) -> anyhow::Result<Loaded> {
        let given = self.given();
        let (config, written, warnings) = match file {
            Some(file) => {
                let (config, warnings, text) = load(file, &given)?;
                (config, Some((file.to_owned(), text.into())), warnings)
            }
            None if given == Given::default() => (Config::default(), None, Vec::new()),
            None => (without_file(&given)?, None, Vec::new()),
        };
        Ok(Loaded { config: Arc::new(self.with_flags(config)?), written, warnings })
    }

    /// What the command line adds to a file before it is checked.
    fn given(&self) -> Given {
        Given { identity: self.identity.clone(), probes: self.probe.clone() }
    }

    fn with_flags(&self, mut config: Config) -> anyhow::Result<Config> {
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

/// What the sidecar was started with.
struct Begun {
    running: Running,
    written: Option<(PathBuf, Arc<str>)>,
    /// Why it was not started with its file.
    refused: Option<String>,
}

/// The configuration of a file, its warnings, and its text.
fn load(file: &Path, given: &Given) -> anyhow::Result<(Config, Vec<String>, String)> {
    let folder = file.parent().unwrap_or_else(|| Path::new(""));
    let read = pillion_config::read(file)
        .and_then(|text| Ok((pillion_config::parse_file(file, &text, folder, given)?, text)));
    let ((config, warnings), text) = read.map_err(|errors| anyhow::anyhow!("{errors}"))?;
    Ok((config, placed(file, &warnings), text))
}

/// The built-in defaults with what the command line adds, of which some depend.
fn without_file(given: &Given) -> anyhow::Result<Config> {
    let folder = std::env::current_dir().unwrap_or_default();
    let read = pillion_config::parse_given("{}", &folder, &|_| None, given);
    read.map(|(config, _warnings)| config).map_err(|errors| anyhow::anyhow!("{errors}"))
}

/// The warnings of a file, each with its place.
fn placed(file: &Path, warnings: &[Fault]) -> Vec<String> {
    warnings.iter().map(|warning| format!("{}:{warning}", file.display())).collect()
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

/// A sidecar that this process runs.
pub(super) struct Started {
    running: Running,
    keeper: Keeper,
    upgrade: Upgrade,
    hangup: Signal,
    /// Whether the service manager knows that it ends.
    is_ending: bool,
    /// Starts successors.
    upgrades: Option<AbortHandle>,
    /// Tasks that end with the sidecar.
    beside: JoinSet<Infallible>,
}

impl Started {
    /// Waits until the sidecar can serve. `Some`: it must end before that.
    ///
    /// # Errors
    /// The sidecar that is to be replaced serves on.
    pub(super) async fn prepare(&mut self) -> anyhow::Result<Option<End>> {
        let Self { running, keeper, upgrade, hangup, .. } = self;
        upgrade.prepare(keeper, running, hangup).await
    }

    /// Serves, in the place of the sidecar that is to be replaced if there is one, and reports this sidecar as ready. The wait
    /// is bounded.
    ///
    /// # Errors
    /// The sidecar that is to be replaced serves on, or this one is the first and its readiness cannot be reported.
    pub(super) async fn begin(&mut self) -> anyhow::Result<()> {
        let Self { running, keeper, upgrade, .. } = self;
        let has_replaced = upgrade.replaces();
        upgrade.begin(keeper, running).await?;
        keeper.report_to(ServiceManager::of_environment()); // not before it is ready: a reload reports that, too
        let status = format!("ready {}", running.addresses());
        match (print_ready(&status), has_replaced) {
            (Err(error), true) => tracing::error!(%error, "the ready line cannot be written; serving on"),
            (printed, _) => printed.context("standard output")?,
        }
        keeper.manager().tell(News::Ready { status: &status });
        if log::is_json() {
            tracing::info!(addresses = %running.addresses(), "ready");
        }
        Ok(())
    }

    /// Why it is not ready.
    pub(super) fn why_not_ready(&self) -> Option<String> {
        self.running.why_not_ready()
    }

    /// Keeps the sidecar until it must end. May be dropped and called again.
    pub(super) async fn keep(&mut self) -> End {
        let end = self.keeper.keep(&mut self.running, &mut self.hangup).await;
        if end == End::TakenOver
            && let Some(upgrades) = self.upgrades.take()
        {
            upgrades.abort(); // a further successor is the matter of the one that serves
        }
        end
    }

    /// Keeps endpoints and certificates current, of a sidecar that ends with its application. May be dropped and called again.
    pub(super) async fn follow(&mut self) -> Infallible {
        loop {
            self.keeper.follow(&mut self.running).await;
        }
    }

    /// `upgrade` is SIGUSR2, which asks for a successor.
    async fn serve(&mut self, upgrade: Signal) -> anyhow::Result<End> {
        if gets_orphans() {
            let mut others = Others::watch()?;
            self.beside.spawn(async move { others.collect().await });
        }
        if let Some(end) = self.prepare().await? {
            return Ok(end);
        }
        self.begin().await?;
        self.upgrades = Some(match self.upgrade.has_path() {
            true => self.beside.spawn(start_successors(upgrade)),
            false => self.beside.spawn(refuse_successors(upgrade)),
        });
        Ok(self.keep().await)
    }

    /// Drains inbound, and leaves outbound to the application. The successor of a sidecar that was taken over has new
    /// connections, and no request on the former ones is refused.
    pub(super) fn drain_inbound(&self) {
        if !self.keeper.is_taken_over() {
            self.running.drain_inbound();
        }
    }

    /// Takes in no successor any more, and tells the service manager that the process is about to end.
    pub(super) fn announce_end(&mut self) {
        self.keeper.await_successors(None);
        if !std::mem::replace(&mut self.is_ending, true) {
            self.keeper.manager().tell(News::Stopping);
        }
    }

    /// Ends the sidecar in order. A `second` signal ends it at once.
    pub(super) async fn end(mut self, why: End, second: impl Future<Output = ()>) {
        if !self.running.is_open() {
            tracing::info!("ended before it served; the sidecar that it should replace serves on");
            return;
        }
        let why = if self.keeper.is_taken_over() { End::TakenOver } else { why };
        if why != End::TakenOver {
            tracing::info!("draining; a second signal ends at once");
            self.announce_end();
        }
        let (running, keeper) = (&mut self.running, &mut self.keeper);
        let ended = async {
            match why {
                End::TakenOver => {
                    keeper.hand_over(running).await; // a signal may have interrupted it
                    tracing::info!("a successor serves; this process ends after its connections");
                    running.end_after_connections(keeper).await;
                }
                End::Quit => running.quit(keeper).await,
                End::Drain | End::Broken => running.drain(keeper).await,
            }
        };
        tokio::select! { // open connections are then closed, as the operator asked
            () = ended => {}
            () = second => tracing::warn!("second signal: ending without waiting for open connections"),
        }
        self.keeper.finish().await;
    }
}

fn print_ready(line: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush())
}

pub(super) fn broken() -> anyhow::Error {
    anyhow::anyhow!("a worker thread has ended unexpectedly; see the log above")
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

/// The signals SIGTERM and SIGINT.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The second signal, where the first one has told the sidecar to drain. No signal has come to one that was taken over.
    async fn second(&mut self, why: End) {
        if why == End::TakenOver {
            self.wait().await;
            tracing::info!(
                "this process ends after its connections already; a second signal ends it at once"
            );
        }
        self.wait().await;
    }

    async fn wait(&mut self) {
        tokio::select! { // a signal of the other branch is not needed any more
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
