//! `pillion policy record`: writes the least rules under which the traffic of a running sidecar would have passed.

mod document;

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use http::{Method, StatusCode};
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::admin::{AdminPort, USUAL};
use super::ending::{asked_to_end, lasting, time_is_up};
use super::output::{print, warn};
use document::{About, Document};

/// The time between two calls. The sidecar ends a recording 30 s after the last one.
const EVERY: Duration = Duration::from_secs(2);
/// The calls that may fail one after the other. With [`EVERY`] and the time that a call may take this is less than what the
/// sidecar waits for.
const MOST_FAILURES: usize = 2;

#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Write the least allow rules under which the traffic seen would have passed, in `mode: audit`
    Record(Record),
}

#[derive(Debug, Args)]
pub struct Record {
    /// The admin port of the application's sidecar. PILLION_ADMIN_TOKEN has the token, where `admin.token` is set
    #[arg(long, value_name = "URL", default_value = USUAL)]
    admin: AdminPort,
    /// End after this time, for example 10m [default: record until Ctrl-C]
    #[arg(long = "for", value_name = "DURATION", value_parser = lasting)]
    lasts: Option<Duration>,
    /// The file to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Policy {
    /// # Errors
    /// The sidecar cannot be asked, or the document cannot be written.
    pub fn run(self) -> anyhow::Result<()> {
        let Self::Record(record) = self;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(record.record())
    }
}

impl Record {
    async fn record(self) -> anyhow::Result<()> {
        let asked_to_end = asked_to_end()?;
        let output = self.output.clone().map(Output::open).transpose()?; // now, and not after ten minutes
        let mut recording = Recording::begin(&self.admin).await?;
        warn(&format!(
            "recording what comes to the application beside {}; Ctrl-C ends and writes",
            self.admin
        ));
        let began = Instant::now();
        let lost = tokio::select! { // what was found last is kept
            () = asked_to_end => None,
            () = time_is_up(self.lasts) => None,
            why = recording.follow() => Some(why),
        };
        let lost = match lost {
            None => recording.end().await.err(),
            lost => lost,
        };
        let has_found = recording.found["traffic"].as_array().is_some_and(|all| !all.is_empty());
        if let Some(why) = lost.as_ref().filter(|_| !has_found) {
            bail!("the recording ended before it had found anything, so nothing is written: {why:#}");
        }
        if let Some(kept) = output.as_ref().filter(|output| !has_found && !output.is_new_and_empty) {
            bail!("nothing came to the application, so {} is left as it was", kept.file.display());
        }
        self.write(output, &recording.found, began.elapsed(), lost.as_ref())?;
        lost.map_or(Ok(()), |why| Err(why.context("the recording ended early; what it had found is written")))
    }

    fn write(
        &self,
        output: Option<Output>,
        found: &Value,
        lasted: Duration,
        lost: Option<&anyhow::Error>,
    ) -> anyhow::Result<()> {
        let lost = lost.map(|why| format!("the recording ended early: {why:#}"));
        let about = About { from: self.admin.to_string(), lasted, at: SystemTime::now(), lost };
        let Document { text, gaps } = document::write(found, &about);
        for gap in &gaps {
            warn(gap);
        }
        match output {
            None => print(&text),
            Some(output) => output.write(&text),
        }
    }
}

/// The file for the document. A file that this command has made is removed again if no document is written to it.
struct Output {
    file: PathBuf,
    is_new_and_empty: bool,
}

impl Output {
    /// # Errors
    /// The file cannot be written.
    fn open(file: PathBuf) -> anyhow::Result<Self> {
        let is_new = match OpenOptions::new().write(true).create_new(true).open(&file) {
            Ok(_file) => true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let opened = OpenOptions::new().append(true).create(true).open(&file);
                opened.map(|_file| false).with_context(|| unwritable(&file))?
            }
            Err(error) => return Err(error).with_context(|| unwritable(&file)),
        };
        Ok(Self { file, is_new_and_empty: is_new })
    }

    fn write(mut self, text: &str) -> anyhow::Result<()> {
        self.is_new_and_empty = false;
        std::fs::write(&self.file, text).with_context(|| unwritable(&self.file))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.is_new_and_empty {
            drop(std::fs::remove_file(&self.file)); // the command already tells why it fails
        }
    }
}

fn unwritable(file: &Path) -> String {
    format!("{} cannot be written (see --output)", file.display())
}

/// A recording that a sidecar has begun, and what it has found until now.
struct Recording {
    admin: AdminPort,
    id: u64,
    found: Value,
}

impl Recording {
    async fn begin(admin: &AdminPort) -> anyhow::Result<Self> {
        let begun = admin.ask(Method::POST, "/policy/record").await?.json()?;
        let id = begun["id"].as_u64().context("the sidecar began no recording; is it of another version?")?;
        Ok(Self { admin: admin.clone(), id, found: Value::Null })
    }

    /// Asks again and again, so that the recording goes on. Returns only when it cannot.
    async fn follow(&mut self) -> anyhow::Error {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failures = 0;
        loop {
            ticks.tick().await;
            match self.ask("").await {
                Ok(()) => failures = 0,
                Err(Failure::Gone(why)) => return why,
                Err(Failure::Unanswered(why)) if failures == MOST_FAILURES => return why,
                Err(Failure::Unanswered(_)) => failures += 1,
            }
        }
    }

    async fn end(&mut self) -> anyhow::Result<()> {
        match self.ask("&end=on").await {
            Ok(()) => Ok(()),
            Err(Failure::Gone(why) | Failure::Unanswered(why)) => Err(why),
        }
    }

    async fn ask(&mut self, more: &str) -> Result<(), Failure> {
        let target = format!("/policy/record?id={}{more}", self.id);
        let answer = self.admin.ask(Method::POST, &target).await.map_err(Failure::Unanswered)?;
        let is_gone = answer.status == StatusCode::GONE;
        self.found = answer.json().map_err(|why| match is_gone {
            true => Failure::Gone(why),
            false => Failure::Unanswered(why),
        })?;
        Ok(())
    }
}

/// Why a call has brought nothing.
enum Failure {
    /// The sidecar has ended the recording, or was restarted.
    Gone(anyhow::Error),
    Unanswered(anyhow::Error),
}
