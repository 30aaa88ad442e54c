//! `pillion demo`: a whole mesh in one process, and a caller that gets only good answers although a replica fails.
//!
//! Caller and replicas know nothing of the sidecars between them, and the flaky replica fails on a fixed schedule. The
//! retries and ejections in the summary are read from `/metrics`, as any scraper would read them.

mod mesh;
mod replica;
mod schedule;
mod story;
mod report;

use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::Args;
use http::Request;
use http::header::HOST;
use hyper::body::Bytes;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::ending::{asked_to_end, lasting, time_is_up};
use super::load::{Load, Plan, Tally, Target, of_kernel};
use super::output::{print, rewrite};
use mesh::Mesh;
use report::Reported;
use schedule::Schedule;

/// Requests per second: enough for a stable p99, and little load for a laptop on battery.
const RATE: u32 = 200;
/// The caller's keep-alive connections.
const CONNECTIONS: usize = 8;
/// The longest time of a request. The sidecar answers far earlier.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The name of the service, which is all that the caller knows of it.
const SERVICE: &str = "orders";
/// The flaky replica fails for a longer time about once in two of these.
const PACE: Duration = Duration::from_secs(1);
/// The time between two live lines.
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

impl Demo {
    /// Runs until a signal, or for the requested time.
    ///
    /// # Errors
    /// The mesh could not be started, or some requests failed.
    pub fn run(self) -> anyhow::Result<()> {
        quieten();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.play())
    }

    async fn play(self) -> anyhow::Result<()> {
        let asked_to_end = asked_to_end()?;
        let mesh = Mesh::start(Schedule::new(self.seed, PACE))?;
        self.open(&mesh)?;
        let mut caller = call(&mesh).await?;
        let mut whole = Tally::default();
        tokio::select! { // the live lines end between two lines; the counts are kept
            () = asked_to_end => {}
            () = time_is_up(self.lasts) => {}
            broken = watch(&mesh, &caller, &mut whole) => return broken,
        }
        caller.stop(TIMEOUT).await;
        whole.add(&caller.take());
        close(caller.elapsed(), &whole, Reported::by(mesh.metrics).await?)
    }

    fn open(&self, mesh: &Mesh) -> anyhow::Result<()> {
        print(&story::opening(mesh, RATE))?;
        match self.show_config {
            true => print(&story::configuration(mesh)),
            false => Ok(()),
        }
    }
}

/// Hides log lines about ejections, which would disturb the live lines, unless PILLION_LOG is set.
fn quieten() {
    let is_asked_for = std::env::var_os("PILLION_LOG").is_some();
    pillion_telemetry::log::init((!is_asked_for).then_some("warn"));
}

/// Starts the caller, which knows nothing of the sidecars.
async fn call(mesh: &Mesh) -> anyhow::Result<Load> {
    let request = Request::get("/").header(HOST, SERVICE).body(Bytes::new())?;
    let plan = Plan { rate: RATE, connections: CONNECTIONS, streams: 1, lasts: None, timeout: TIMEOUT };
    let target = Target::plaintext(mesh.outbound, request);
    Load::start(target, plan, of_kernel()).await.map_err(|failure| anyhow!(failure.why))
}

/// Prints a live line every second. Returns only if the mesh is broken.
async fn watch(mesh: &Mesh, caller: &Load, whole: &mut Tally) -> anyhow::Result<()> {
    let mut ticks = interval_at(Instant::now() + LINE_EVERY, LINE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut since = Instant::now();
    loop {
        ticks.tick().await;
        if mesh.is_broken() {
            bail!("a thread of a sidecar has ended; see the log above");
        }
        let latest = caller.take();
        whole.add(&latest);
        let line =
            story::line(since.elapsed(), &latest, whole, Reported::by(mesh.metrics).await?, mesh.state());
        since = Instant::now();
        rewrite(&mut std::io::stdout().lock(), &line)?;
    }
}

fn close(lasted: Duration, whole: &Tally, reported: Reported) -> anyhow::Result<()> {
    let printed = print(&format!("\n{}", story::summary(lasted, whole, reported)));
    match (whole.failed, whole.answered) {
        (0, 0) => bail!("no request was made"),
        (0, _) => printed,
        (failed, _) => bail!("{failed} requests were not answered well"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    /// This test uses real sockets and threads, so it takes real time, about a second. On a busy machine it waits until
    /// the failure is noticed.
    #[tokio::test]
    async fn a_replica_fails_and_the_caller_gets_only_good_answers() {
        let mesh = Mesh::start(Schedule::new(1, PACE * 3 / 10)).expect("loopback has free ports");
        let mut caller = call(&mesh).await.expect("the sidecar listens");
        let noticed = tokio::time::timeout(Duration::from_secs(60), until_noticed(&mesh)).await;
        caller.stop(TIMEOUT).await;
        let whole = caller.take();
        let reported = noticed.expect("a retry and an ejection within a minute");
        assert_eq!((whole.failed, whole.first_failure), (0, None), "{reported:?}");
        assert!(whole.answered > reported.retries, "{reported:?}");
    }

    /// Waits until a retry and an ejection are reported.
    async fn until_noticed(mesh: &Mesh) -> Reported {
        loop {
            sleep(Duration::from_millis(50)).await;
            let reported = Reported::by(mesh.metrics).await.expect("the sidecar tells its metrics");
            if reported.retries > 0 && reported.ejections > 0 {
                return reported;
            }
        }
    }
}
