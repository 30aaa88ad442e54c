//! The entries of a configuration: one task for each. A reload leaves those alone that did not change.

use std::sync::Arc;
use std::time::Duration;

use pillion_base::ground::Ground;
use pillion_companion::thread::{Order, Work};
use pillion_model::sync::Sync;
use pillion_telemetry::companions::{CompanionKind, Entry};
use pillion_telemetry::{Metrics, processes};
use pillion_upstream::discovery::Resolver;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep};

use super::asker::Asker;
use super::follower::Follower;

/// The pause before an entry whose task has panicked is begun anew.
const AFTER_PANIC: Duration = Duration::from_secs(5);

/// Makes the work of this companion.
pub fn begin(ground: Arc<Ground>) -> Box<dyn Fn(watch::Receiver<Order>) -> Work + Send> {
    Box::new(move |orders| {
        let asker =
            Asker { ground: ground.clone(), resolver: Arc::new(Resolver::system()), began: Instant::now() };
        Box::pin(Keeper::new(asker).run(orders))
    })
}

struct Keeper {
    asker: Asker,
    tasks: JoinSet<()>,
    followed: Vec<Followed>,
}

struct Followed {
    sync: Sync,
    entry: Arc<Entry>,
    task: AbortHandle,
    metrics: Arc<Metrics>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
        self.metrics.forget_sync(&self.sync.name);
    }
}

impl Keeper {
    fn new(asker: Asker) -> Self {
        Self { asker, tasks: JoinSet::new(), followed: Vec::new() }
    }

    /// Until it is told to finish. What is being written then is not published.
    async fn run(mut self, mut orders: watch::Receiver<Order>) {
        loop {
            let order = orders.borrow_and_update().clone();
            match order {
                Order::Follow(config) => self.follow(&config.sync),
                Order::Finish => return,
            }
            loop {
                tokio::select! { // no branch loses anything if another one completes first
                    changed = orders.changed() => match changed {
                        Ok(()) => break,
                        Err(_the_sidecar_has_gone) => return,
                    },
                    Some(ended) = self.tasks.join_next_with_id() => {
                        if let Err(error) = ended && error.is_panic() {
                            self.begin_anew(error.id());
                        }
                    }
                }
            }
        }
    }

    fn follow(&mut self, wanted: &[Sync]) {
        self.followed.retain(|followed| wanted.contains(&followed.sync));
        for sync in wanted {
            if self.followed.iter().all(|followed| followed.sync != *sync) {
                let metrics = self.asker.ground.metrics.clone();
                let entry = metrics.companions().register(CompanionKind::Sync, &sync.name, sync.required);
                let entry = Arc::new(entry);
                let task = self.spawn(sync, &entry, Duration::ZERO);
                self.followed.push(Followed { sync: sync.clone(), entry, task, metrics });
            }
        }
    }

    fn spawn(&mut self, sync: &Sync, entry: &Arc<Entry>, after: Duration) -> AbortHandle {
        let follower = Follower::new(sync.clone(), entry.clone(), self.asker.clone(), is_sidecar);
        self.tasks.spawn(async move {
            sleep(after).await;
            follower.run().await;
        })
    }

    fn begin_anew(&mut self, task: tokio::task::Id) {
        let Some(nth) = self.followed.iter().position(|followed| followed.task.id() == task) else { return };
        let Some(Followed { sync, entry, .. }) = self.followed.get(nth) else { return };
        let (sync, entry) = (sync.clone(), entry.clone());
        entry.down("its task has panicked, and is begun anew");
        tracing::error!(sync = sync.name, again_in = ?AFTER_PANIC, "a task has panicked, which is a fault of Pillion; it is begun anew");
        let task = self.spawn(&sync, &entry, AFTER_PANIC);
        if let Some(followed) = self.followed.get_mut(nth) {
            followed.task = task;
        }
    }
}

fn is_sidecar(process: u32) -> bool {
    processes::is_named(processes::PROC.as_ref(), process, "pillion")
}
