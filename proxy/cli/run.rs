//! `pillion run`: the sidecar, from the file or the flags to the drain.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use pillion_config::Config;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::{App, Running};

/// Where the configuration is when nobody says.
const USUAL_FILE: &str = "/etc/pillion/pillion.yaml";

#[derive(Debug, Args)]
pub struct Run {
    /// Configuration file [default: /etc/pillion/pillion.yaml where it exists, else built-in defaults]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Port of the application on 127.0.0.1, or its address
    #[arg(long, value_name = "PORT|ADDR", value_parser = app)]
    app: Option<SocketAddr>,
    /// Where inbound listens
    #[arg(long, value_name = "ADDR")]
    inbound: Option<SocketAddr>,
    /// Where outbound listens
    #[arg(long, value_name = "ADDR")]
    outbound: Option<SocketAddr>,
    /// Where admin listens
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
}

fn app(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok(SocketAddr::from(([127, 0, 0, 1], port)));
    }
    text.parse().map_err(|_invalid| "a port like 8080 or an address like 127.0.0.1:8080".to_owned())
}

impl Run {
    /// Runs until a signal ends it.
    ///
    /// # Errors
    /// The configuration is invalid or cannot be put to work; the text says all of it.
    pub fn run(self) -> anyhow::Result<()> {
        crate::telemetry::log::init(None);
        let config = self.config()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut signals = Signals::new()?; // before anything listens: no signal finds nobody home
            let running = App::build(&config)?.start()?;
            let mut stdout = std::io::stdout();
            writeln!(stdout, "{}", running.addresses())
                .and_then(|()| stdout.flush())
                .context("standard output")?;
            tokio::select! { // nothing is lost: either way the sidecar is about to end
                () = signals.end() => {}
                () = broken(&running) => anyhow::bail!("a worker has ended by itself; see the log above"),
            }
            drain(running, signals).await;
            Ok(())
        })
    }

    fn config(&self) -> anyhow::Result<Config> {
        let mut config = match &self.config {
            Some(file) => load(file)?,
            None if Path::new(USUAL_FILE).exists() => load(Path::new(USUAL_FILE))?,
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
        eprintln!("{}:{warning}", file.display());
    }
    Ok(config)
}

/// Ready when a thread of the data path is gone: better no sidecar than half of one that says it is ready.
async fn broken(running: &Running) {
    while !running.is_broken() {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// SIGTERM or SIGINT.
    async fn end(&mut self) {
        loop {
            tokio::select! { // a signal that came to the branch not taken is no longer of interest
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => tracing::warn!("SIGHUP: reloading the configuration is not supported yet"),
            }
        }
    }
}

/// A second signal ends at once.
async fn drain(running: Running, mut signals: Signals) {
    tracing::info!("draining; a second signal ends at once");
    tokio::select! { // what is still open then is cut, as asked
        () = running.drain() => {}
        () = signals.end() => tracing::warn!("second signal: leaving what is still open"),
    }
}
