//! `pillion bench`: load on a schedule that does not wait for answers, and the latencies that came of it.
//!
//! [`asked`] makes the request from the arguments, [`report`] writes what came of it. [`super::load`] sends.

mod asked;
mod report;

use std::io::{IsTerminal as _, stderr};
use std::pin::pin;
use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::Args;
use pillion_base::net::{Network, descriptors};
use tokio::time::{MissedTickBehavior, interval};

use super::ending::{asked_to_end, lasting};
use super::load::{Load, Plan, Tally, of_kernel};
use super::output::{print, rewrite, warn};
use asked::Asked;
use report::{Report, progress};

/// The pause between two pictures of the progress bar.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// After Ctrl-C, requests that are due have so much time for their answers.
const AFTER_INTERRUPT: Duration = Duration::from_secs(1);
/// More requests a second than one thread of this program can send.
const MOST_RATE: i64 = 1_000_000;
/// Each connection takes a descriptor and some 20 KB.
const MOST_CONNECTIONS: i64 = 10_000;
/// Servers of HTTP/2 usually allow 100 streams, and RFC 9113 advises at least as many.
const MOST_STREAMS: i64 = 1000;

#[derive(Debug, Args)]
pub struct Bench {
    #[command(flatten)]
    asked: Asked,
    /// Requests per second
    #[arg(long, value_name = "NUMBER", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=MOST_RATE))]
    rate: u32,
    /// Connections; with HTTP/1.1 also the most requests in flight
    #[arg(short, long, value_name = "NUMBER", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=MOST_CONNECTIONS))]
    connections: u32,
    /// Requests in flight on each connection of HTTP/2
    #[arg(long, value_name = "NUMBER", default_value_t = 16, requires = "http2", value_parser = clap::value_parser!(u32).range(1..=MOST_STREAMS))]
    streams: u32,
    /// How long requests are sent, for example 30s or 5m
    #[arg(long = "for", value_name = "DURATION", default_value = "10s", value_parser = lasting)]
    lasts: Duration,
    /// The longest time from sending a request to the last byte of its answer
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = lasting)]
    timeout: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Bench {
    /// # Errors
    /// No request succeeded, or the arguments cannot be used.
    pub fn run(self) -> anyhow::Result<()> {
        if let Err(error) = descriptors::raise_limit() {
            warn(&format!("the limit of open files cannot be raised: {error}"));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.measure())
    }

    async fn measure(self) -> anyhow::Result<()> {
        let mut asked_to_end = pin!(asked_to_end()?);
        let plan = self.plan();
        let starting = async {
            let target = self.asked.target(Network::Os).await?;
            let load = Load::start(target, plan, of_kernel()).await;
            load.map_err(|failure| anyhow!("{}: {}", self.asked.url, failure.why))
        };
        let mut load = tokio::select! { // no request was sent
            () = &mut asked_to_end => bail!("ended before the first request"),
            started = starting => started?,
        };
        let mut whole = Tally::default();
        let is_interrupted = watch(&mut load, plan, &mut whole, asked_to_end).await?;
        if is_interrupted {
            load.stop(AFTER_INTERRUPT).await;
        }
        whole.add(&load.take());
        let least = if is_interrupted { Duration::ZERO } else { self.lasts };
        self.close(&Report {
            what: format!("{} {}", self.asked.method(), self.asked.url),
            is_http2: self.asked.is_http2(),
            plan,
            lasted: load.elapsed().max(least),
            connections: load.connections(),
            whole: &whole,
            busy: load.busy(),
            is_interrupted,
        })
    }

    fn plan(&self) -> Plan {
        let streams = if self.asked.is_http2() { self.streams as usize } else { 1 };
        Plan {
            rate: self.rate,
            connections: self.connections as usize,
            streams,
            lasts: Some(self.lasts),
            timeout: self.timeout,
        }
    }

    fn close(&self, report: &Report<'_>) -> anyhow::Result<()> {
        match self.json {
            true => print(&format!("{}\n", report.json()))?,
            false => print(&report.text())?,
        }
        match report.whole.answered {
            0 => bail!("no request succeeded"),
            _ => Ok(()),
        }
    }
}

/// Waits until the load has ended, and shows how far it is if standard error is a terminal. Returns whether it was ended by
/// a signal.
async fn watch(
    load: &mut Load,
    plan: Plan,
    whole: &mut Tally,
    mut asked_to_end: impl Future<Output = ()> + Unpin,
) -> anyhow::Result<bool> {
    let is_shown = stderr().is_terminal();
    let mut ticks = interval(PROGRESS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let is_interrupted = loop {
        tokio::select! { // a picture is drawn whole or not at all
            () = load.ended() => break false,
            () = &mut asked_to_end => break true,
            _ = ticks.tick(), if is_shown => {
                whole.add(&load.take());
                rewrite(&mut stderr().lock(), &progress(load.elapsed(), plan, whole))?;
            }
        }
    };
    if is_shown {
        rewrite(&mut stderr().lock(), "")?; // the report stands in the bar's place
    }
    Ok(is_interrupted)
}
