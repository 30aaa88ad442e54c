//! The identity that a configuration takes from a SPIFFE Workload API.

use std::time::Duration;

use pillion_model::Config;
use pillion_model::identity::{Identity, WorkloadApi};
use pillion_tls::identity::credentials::Credentials;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::workload::{self, Dial, News};

/// The time until credentials are tried again that could not be put to use for a reason outside them, such as a
/// service's trust bundle that is half written.
const AGAIN: Duration = Duration::from_secs(10);

/// Follows the Workload API of the current configuration, if it has one.
pub(crate) struct WorkloadSource {
    dial: Dial,
    followed: Option<Followed>,
    again: Option<(Instant, Box<Credentials>)>,
}

struct Followed {
    of: WorkloadApi,
    heard: mpsc::Receiver<News>,
    task: JoinHandle<()>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Followed {
    fn start(of: &WorkloadApi, dial: &Dial) -> Self {
        let (heard, task) = workload::follow(of.clone(), dial.clone());
        Self { of: of.clone(), heard, task: tokio::spawn(task) }
    }
}

impl WorkloadSource {
    pub(crate) fn new(dial: Dial) -> Self {
        Self { dial, followed: None, again: None }
    }

    /// Must be called on a runtime.
    pub(crate) fn follow(&mut self, config: &Config) {
        let wanted = config.identity.as_ref().and_then(Identity::workload_api);
        match (&self.followed, wanted) {
            (Some(followed), Some(wanted)) if followed.of.reads_the_same_as(wanted) => {}
            _ => {
                self.again = None;
                self.followed = wanted.map(|of| Followed::start(of, &self.dial));
            }
        }
    }

    /// What was heard next. It waits forever where there is no Workload API. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> News {
        let Some(followed) = &mut self.followed else { return std::future::pending().await };
        tokio::select! { // a branch takes something only when it completes
            biased;
            Some(news) = followed.heard.recv() => {
                if matches!(news, News::Issued(_)) {
                    self.again = None;
                }
                news
            }
            Some(credentials) = due(&mut self.again) => News::Issued(credentials),
            else => std::future::pending().await,
        }
    }

    /// Notes that these credentials could not be put to use. [`Self::next`] returns them again after [`AGAIN`], unless
    /// newer ones come first.
    pub(crate) fn put_back(&mut self, credentials: Box<Credentials>) {
        self.again = Some((Instant::now() + AGAIN, credentials));
    }
}

async fn due(again: &mut Option<(Instant, Box<Credentials>)>) -> Option<Box<Credentials>> {
    let (due, _) = again.as_ref()?;
    sleep_until(*due).await;
    again.take().map(|(_, credentials)| credentials)
}
