//! The thread of a companion: a runtime of its own, orders from the sidecar, and a new start after a panic.
//!
//! Nothing on the way of a request waits for such a thread.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pillion_model::Config;
use pillion_telemetry::Metrics;
use pillion_telemetry::companions::CompanionKind;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// The pause after the first panic. Each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// What a companion is to do.
#[derive(Debug, Clone)]
pub enum Order {
    /// Work by this configuration.
    Follow(Arc<Config>),
    /// Deliver what there is, and return. The thread ends with that.
    Finish,
}

/// The work of a companion. It stays on its thread.
pub type Work = Pin<Box<dyn Future<Output = ()>>>;

/// The sidecar's end of a companion's thread.
#[derive(Debug)]
pub struct Thread {
    orders: watch::Sender<Order>,
    /// Whether everything was delivered. Closed when the thread has ended.
    ended: watch::Receiver<bool>,
}

impl Thread {
    /// Starts a thread with the name of `kind`. The work gets its orders, of which the first is to follow `config`. When it
    /// panics or returns before it is told to, this is told, and the work is begun anew after a pause.
    ///
    /// # Errors
    /// The thread or its runtime cannot be created.
    pub fn start(
        kind: CompanionKind,
        config: Arc<Config>,
        metrics: Arc<Metrics>,
        work: impl Fn(watch::Receiver<Order>) -> Work + Send + 'static,
    ) -> io::Result<Self> {
        let (orders, receiver) = watch::channel(Order::Follow(config));
        let (delivered, ended) = watch::channel(false);
        let runtime = runtime()?;
        std::thread::Builder::new().name(kind.as_str().into()).spawn(move || {
            delivered.send_replace(keep_at_work(kind, runtime, &metrics, &receiver, work));
        })?;
        Ok(Self { orders, ended })
    }

    /// Lets the companion work by this configuration from now on.
    pub fn follow(&self, config: Arc<Config>) {
        self.orders.send_replace(Order::Follow(config));
    }

    /// Lets the companion deliver what there is. Returns whether it has done so within `patience`.
    pub async fn finish(&mut self, patience: Duration) -> bool {
        self.orders.send_replace(Order::Finish);
        let ended = timeout(patience, async { while self.ended.changed().await.is_ok() {} }).await;
        ended.is_ok() && *self.ended.borrow()
    }
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Does the work until it is told to finish. Returns whether it has done so.
fn keep_at_work(
    kind: CompanionKind,
    mut runtime: Runtime,
    metrics: &Arc<Metrics>,
    orders: &watch::Receiver<Order>,
    work: impl Fn(watch::Receiver<Order>) -> Work,
) -> bool {
    let (name, mut pause) = (kind.as_str(), FIRST_PAUSE);
    loop {
        let began = Instant::now();
        let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(work(orders.clone()))));
        let is_last = matches!(*orders.borrow(), Order::Finish);
        let why = match ended {
            Ok(()) if is_last => return true,
            Ok(()) => "it has ended by itself",
            Err(_) => "it has panicked",
        };
        tracing::error!(companion = name, "a companion does not work, which is a fault of Pillion: {why}");
        if is_last {
            return false;
        }
        if began.elapsed() > LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        let state = metrics.companions().register(kind, "all", false);
        state.down(format!("{why}, and will be started again"));
        match self::runtime() {
            Ok(fresh) => runtime = fresh, // what the old one had spawned ends with it
            Err(error) => tracing::error!(companion = name, %error, "no runtime can be created"),
        }
        runtime.block_on(pause_or_finish(pause, orders.clone()));
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn pause_or_finish(pause: Duration, mut orders: watch::Receiver<Order>) {
    tokio::select! {
        () = sleep(pause) => {}
        _ = orders.wait_for(|order| matches!(order, Order::Finish)) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn metrics() -> Arc<Metrics> {
        Metrics::new(1000)
    }

    #[tokio::test]
    async fn a_companion_that_is_told_to_finish_ends_its_thread() {
        let work = |mut orders: watch::Receiver<Order>| -> Work {
            Box::pin(async move { drop(orders.wait_for(|order| matches!(order, Order::Finish)).await) })
        };
        let mut thread = Thread::start(CompanionKind::Logs, Arc::default(), metrics(), work).unwrap();
        thread.follow(Arc::default());
        assert!(thread.finish(Duration::from_mins(1)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_companion_that_does_not_finish_is_not_waited_for() {
        let work = |_: watch::Receiver<Order>| -> Work { Box::pin(std::future::pending()) };
        let mut thread = Thread::start(CompanionKind::Logs, Arc::default(), metrics(), work).unwrap();
        assert!(!thread.finish(Duration::from_secs(5)).await);
    }

    /// Waits for something that another thread does.
    async fn until(mut is_so: impl FnMut() -> bool) {
        let patience = Instant::now() + Duration::from_mins(1);
        while !is_so() {
            assert!(Instant::now() < patience, "it did not come");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_companion_that_panics_is_told_and_begins_anew() {
        let (metrics, times) = (metrics(), Arc::new(AtomicUsize::new(0)));
        let begun = times.clone();
        let work = move |mut orders: watch::Receiver<Order>| -> Work {
            let first = begun.fetch_add(1, Ordering::Relaxed) == 0;
            Box::pin(async move {
                assert!(!first, "the panic of this test");
                drop(orders.wait_for(|order| matches!(order, Order::Finish)).await);
            })
        };
        let mut thread = Thread::start(CompanionKind::Logs, Arc::default(), metrics.clone(), work).unwrap();
        let told = "pillion_companion_up{companion=\"logs\",name=\"all\"} 0";
        until(|| metrics.encode().contains(told)).await;
        until(|| times.load(Ordering::Relaxed) == 2).await;
        assert!(thread.finish(Duration::from_mins(1)).await);
        assert!(!metrics.encode().contains(told));
    }

    #[tokio::test]
    async fn a_companion_that_panics_at_the_end_has_not_delivered() {
        let work = |mut orders: watch::Receiver<Order>| -> Work {
            Box::pin(async move {
                drop(orders.wait_for(|order| matches!(order, Order::Finish)).await);
                unreachable!("the panic of this test");
            })
        };
        let mut thread = Thread::start(CompanionKind::Logs, Arc::default(), metrics(), work).unwrap();
        assert!(!thread.finish(Duration::from_mins(1)).await);
    }
}
