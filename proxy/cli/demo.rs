//! `pillion demo`: a whole mesh in one process, and a caller who never notices that a replica fails.
//!
//! Caller and replicas know nothing of the sidecars between them, and the flaky replica falls ill on a schedule
//! of its own. What the summary says of retries and ejections is read from `/metrics`, as anybody else would.

mod caller;
mod client;
mod latencies;
mod mesh;
mod replica;
mod schedule;
mod story;
mod report;

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use super::duration::{HOUR, MILLISECOND, MINUTE, SECOND, duration};
use super::output::print;
use caller::{Caller, Tally};
use mesh::Mesh;
use report::Reported;
use schedule::Schedule;

/// Requests per second: enough for a steady p99, little enough for a laptop on battery.
const RATE: u32 = 200;
/// The caller's keep-alive connections.
const CONNECTIONS: usize = 8;
/// About one illness of the flaky replica every two of these.
const PACE: Duration = Duration::from_secs(1);
/// Between two live lines.
const LINE_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub struct Demo {
    /// End after this time, for example 10s or 2m [default: run until Ctrl-C]
    #[arg(long = "for", value_name = "DURATION", value_parser = lasting)]
    lasts: Option<Duration>,
    /// Print the configuration files of the sidecars
    #[arg(long)]
    show_config: bool,
    /// The seed of the failing replica's schedule: the same seed gives the same failures
    #[arg(long, value_name = "NUMBER", default_value_t = 7)]
    seed: u64,
}

/// `500ms`, `10s`, `2m`, `1h`; not zero.
fn lasting(text: &str) -> Result<Duration, String> {
    duration(text, &[MILLISECOND, SECOND, MINUTE, HOUR])
        .ok_or_else(|| format!("{text:?} is no duration; write it as 500ms, 10s, 2m or 1h"))
}

impl Demo {
    /// Runs until a signal, or as long as was asked.
    ///
    /// # Errors
    /// The mesh could not be started, or not every request was answered well.
    pub fn run(self) -> anyhow::Result<()> {
        quieten();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.play())
    }

    async fn play(self) -> anyhow::Result<()> {
        let asked_to_end = asked_to_end()?;
        let mesh = Mesh::start(Schedule::new(self.seed, PACE))?;
        self.open(&mesh)?;
        let began = Instant::now();
        let caller = Caller::start(mesh.outbound, RATE, CONNECTIONS);
        let mut whole = Tally::default();
        tokio::select! { // the live lines end between two of them; what was counted is kept
            () = asked_to_end => {}
            () = self.time_is_up() => {}
            broken = watch(&mesh, &caller, &mut whole) => return broken,
        }
        whole.add(&caller.stop().await);
        close(began.elapsed(), &whole, Reported::by(mesh.metrics).await?)
    }

    fn open(&self, mesh: &Mesh) -> anyhow::Result<()> {
        print(&story::opening(mesh, RATE))?;
        match self.show_config {
            true => print(&story::configuration(mesh)),
            false => Ok(()),
        }
    }

    async fn time_is_up(&self) {
        match self.lasts {
            Some(lasts) => sleep(lasts).await,
            None => std::future::pending().await,
        }
    }
}

/// Ejections are news in a log and noise between live lines, unless somebody asked for the log.
fn quieten() {
    let is_asked_for = std::env::var_os("PILLION_LOG").is_some();
    pillion_telemetry::log::init((!is_asked_for).then_some("warn"));
}

/// Ctrl-C, or what ends a container. Listening begins with the call, not with the first poll.
fn asked_to_end() -> std::io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! { // a signal that came to the branch not taken asks for the same
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// A live line every second. Ends only when something is broken.
async fn watch(mesh: &Mesh, caller: &Caller, whole: &mut Tally) -> anyhow::Result<()> {
    let mut ticks = interval_at(Instant::now() + LINE_EVERY, LINE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut since = Instant::now();
    loop {
        ticks.tick().await;
        if mesh.is_broken() {
            bail!("a sidecar's thread has ended; its last words stand above");
        }
        let latest = caller.take();
        whole.add(&latest);
        let line =
            story::line(since.elapsed(), &latest, whole, Reported::by(mesh.metrics).await?, mesh.mood());
        since = Instant::now();
        rewrite(&line)?;
    }
}

/// On a terminal the line takes the place of the one before.
fn rewrite(line: &str) -> anyhow::Result<()> {
    match std::io::stdout().is_terminal() {
        true => print(&format!("\r{line}\x1b[K")),
        false => print(&format!("{line}\n")),
    }
}

fn close(lasted: Duration, whole: &Tally, told: Reported) -> anyhow::Result<()> {
    let printed = print(&format!("\n{}", story::summary(lasted, whole, told)));
    match (whole.failed, whole.answered) {
        (0, 0) => bail!("no request was made"),
        (0, _) => printed,
        (failed, _) => bail!("{failed} requests were not answered well"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_number_and_a_unit() {
        let cases = [
            ("10s", Some(10_000)),
            ("500ms", Some(500)),
            ("2m", Some(120_000)),
            ("1h", Some(3_600_000)),
            ("10", None),
            ("s", None),
            ("0s", None),
            ("-1s", None),
            ("1 s", None),
            ("9999999999999999999h", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(lasting(text).ok(), expected.map(Duration::from_millis), "{text:?}");
        }
    }

    /// The real thing: real sockets and threads, so it takes real time, about a second. On a machine without any
    /// to spare it waits for the illness to be noticed.
    #[tokio::test]
    async fn a_replica_falls_ill_and_the_caller_never_notices() {
        let mesh = Mesh::start(Schedule::new(1, PACE * 3 / 10)).expect("loopback has free ports");
        let caller = Caller::start(mesh.outbound, RATE, CONNECTIONS);
        let noticed = tokio::time::timeout(Duration::from_secs(60), until_noticed(&mesh)).await;
        let whole = caller.stop().await;
        let told = noticed.expect("a retry and an ejection within a minute");
        assert_eq!((whole.failed, whole.first_failure), (0, None), "{told:?}");
        assert!(whole.answered > told.retries, "{told:?}");
    }

    /// Until a retry and an ejection are told.
    async fn until_noticed(mesh: &Mesh) -> Reported {
        loop {
            sleep(Duration::from_millis(50)).await;
            let told = Reported::by(mesh.metrics).await.expect("the sidecar tells its metrics");
            if told.retries > 0 && told.ejections > 0 {
                return told;
            }
        }
    }
}
