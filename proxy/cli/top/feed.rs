//! Reads `/events` and goes on after a lost connection, such as a restart of the sidecar.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::super::admin::AdminPort;
use super::super::client::Client;
use super::super::lines::Lines;
use super::picture::Picture;
use super::state::Input;

/// The time without an event after which the connection counts as lost. Events come once a second; a sidecar with
/// thousands of services takes longer for one.
const SILENCE: Duration = Duration::from_secs(15);
/// The pause before a further connection.
const PAUSE: Duration = Duration::from_secs(1);
/// 8 MiB: an event with the most services and endpoints has less than half of it.
const LONGEST: usize = 8 * 1024 * 1024;

/// A stream of events.
pub(super) struct Feed {
    lines: Lines,
    /// Kept while the stream is read.
    _connection: Client,
}

impl Feed {
    /// # Errors
    /// Nobody answers there, or the sidecar refuses.
    pub(super) async fn open(admin: &AdminPort) -> anyhow::Result<Self> {
        let (connection, body) = admin.stream("/events").await?;
        Ok(Self { lines: Lines::of(body, LONGEST), _connection: connection })
    }

    /// The next event. `None`: the stream has ended.
    async fn next(&mut self) -> anyhow::Result<Option<Picture>> {
        loop {
            let line = timeout(SILENCE, self.lines.next()).await;
            let line = line.ok().with_context(|| format!("no event for {} s", SILENCE.as_secs()))?;
            let Some(line) = line? else { return Ok(None) };
            if let Some(data) = line.strip_prefix(b"data: ") {
                let event: Value = serde_json::from_slice(data).context("an event is not JSON")?;
                return Picture::read(&event).map(Some).map_err(anyhow::Error::msg);
            }
        }
    }

    /// Passes events on until the other end of `to` is dropped.
    pub(super) async fn follow(self, admin: AdminPort, to: mpsc::Sender<Input>) {
        let mut feed = Some(self);
        loop {
            let lost = match &mut feed {
                Some(open) => match open.next().await {
                    Ok(Some(picture)) => Input::Event(Box::new(picture)),
                    Ok(None) => Input::Lost("the sidecar has ended the stream".to_owned()),
                    Err(why) => Input::Lost(format!("{why:#}")),
                },
                None => match Self::open(&admin).await {
                    Ok(open) => {
                        feed = Some(open);
                        continue;
                    }
                    Err(why) => Input::Lost(format!("{why:#}")),
                },
            };
            let is_lost = matches!(lost, Input::Lost(_));
            if to.send(lost).await.is_err() {
                return;
            }
            if is_lost {
                feed = None;
                sleep(PAUSE).await;
            }
        }
    }
}
