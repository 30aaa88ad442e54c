//! Starts the companions of the application, passes new configurations to them, and lets them deliver at the end.
//!
//! A companion has a thread from the first configuration that has it to the end of the process.

use std::sync::Arc;
use std::time::Duration;

use pillion_base::ground::Ground;
use pillion_companion::thread::{Order, Thread, Work};
use pillion_model::{Config, SpiffeId};
use pillion_sync::keeper;
use pillion_telemetry::companions::CompanionKind;
use tokio::sync::watch;

/// Makes the work of a companion.
type Begin = fn(Arc<Ground>) -> Box<dyn Fn(watch::Receiver<Order>) -> Work + Send>;

/// A companion that this program has.
struct Companion {
    kind: CompanionKind,
    /// Whether a configuration has it.
    is_in: fn(&Config) -> bool,
    /// Whether it may work beside that of a predecessor. Else it starts when this sidecar has taken over.
    may_precede: bool,
    begin: Begin,
}

const ALL: [Companion; 2] = [
    Companion {
        kind: CompanionKind::Logs,
        is_in: |config| config.logs.is_some(),
        may_precede: false,
        begin: pillion_logs::ship::work,
    },
    Companion {
        kind: CompanionKind::Sync,
        is_in: |config| !config.sync.is_empty(),
        may_precede: true,
        begin: keeper::begin,
    },
];

pub(super) struct Companions {
    ground: Arc<Ground>,
    threads: Vec<(CompanionKind, Thread)>,
}

impl Companions {
    pub(super) const fn new(ground: Arc<Ground>) -> Self {
        Self { ground, threads: Vec::new() }
    }

    /// Lets all companions work by this configuration. One without a thread is started if the configuration has it. `own`: the
    /// identity, which names the workload where the configuration does not. `is_open`: no predecessor accepts connections any
    /// more.
    pub(super) fn follow(&mut self, config: &Arc<Config>, own: Option<&SpiffeId>, is_open: bool) {
        // before a thread runs, so that no probe finds the sidecar ready in between
        for sync in config.sync.iter().filter(|sync| sync.required) {
            self.ground.metrics.companions().await_first(CompanionKind::Sync, &sync.name);
        }
        let workload = config.workload.or_of(own);
        let named = (config.logs.is_some() && workload != config.workload)
            .then(|| Arc::new(Config { workload, ..Config::clone(config) }));
        let config = named.as_ref().unwrap_or(config);
        for companion in ALL {
            if let Some((_, thread)) = self.threads.iter().find(|(kind, _)| *kind == companion.kind) {
                thread.follow(config.clone());
            } else if (companion.is_in)(config) && (is_open || companion.may_precede) {
                self.start(&companion, config);
            }
        }
    }

    fn start(&mut self, companion: &Companion, config: &Arc<Config>) {
        let (metrics, work) = (self.ground.metrics.clone(), (companion.begin)(self.ground.clone()));
        match Thread::start(companion.kind, config.clone(), metrics, work) {
            Ok(thread) => self.threads.push((companion.kind, thread)),
            Err(error) => {
                tracing::error!(companion = companion.kind.as_str(), %error, "a companion cannot be started; the next reload tries again");
            }
        }
    }

    /// Lets all companions deliver what they have, for at most `patience` together.
    pub(super) async fn finish(&mut self, patience: Duration) {
        let all = self.threads.drain(..).map(|(kind, thread)| (kind, tokio::spawn(finish(thread, patience))));
        for (kind, delivering) in all.collect::<Vec<_>>() {
            if !delivering.await.is_ok_and(|is_done| is_done) {
                tracing::warn!(companion = kind.as_str(), "a companion has not delivered everything in time");
            }
        }
    }
}

async fn finish(mut thread: Thread, patience: Duration) -> bool {
    thread.finish(patience).await
}
