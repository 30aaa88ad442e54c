//! Keeps the memory of the process within `limits.max_memory`: measures what is used, and sheds above the limit.
//!
//! [`Shedding`] decides. The keeper runs on the thread of DNS, because no request and no exposition of metrics keeps
//! that thread busy. Readiness does not change: a sidecar that came and went with each burst would be worse for its
//! callers than one that refuses some of them.

use std::sync::Arc;
use std::time::Duration;

use pillion_base::ground::Shared;
use pillion_base::memory::allocator;
use pillion_base::memory::host::{Counts, MemoryLimit};
use pillion_base::memory::shedding::{Actions, Shedding, Step};
use pillion_base::net::Network;
use pillion_base::unfinished::Side;
use pillion_model::listener::MaxMemory;
use pillion_sidecar::state::Store;
use pillion_telemetry::{Metrics, Seldom, Shed};
use tokio::time::{Instant, sleep};

/// The interval at which a change of the cgroup's limit is noticed, which an orchestrator may resize while it runs.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// The interval at which a change of the key is noticed where there is no limit.
const WITHOUT_LIMIT: Duration = Duration::from_secs(1);
/// What closing one connection frees, roughly: 8 KiB of an idle HTTP connection, 24 KiB of one with TLS.
const OF_ONE: u64 = 16 * 1024;
/// How long memory has to be well before caches that were shrunk may take twice as much again.
const GROW_EVERY: Duration = Duration::from_secs(10);
/// The fewest and the most connections that are closed after one look.
const AT_ONCE: (u64, u64) = (16, 4096);

pub(super) struct MemoryKeeper {
    network: Network,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    shared: Shared,
    /// The key by which the limit was found, and when.
    asked: Option<(MaxMemory, Instant)>,
    limit: Option<MemoryLimit>,
    shedding: Shedding,
    step: Step,
    /// When caches of services were shrunk, or grew a step, last; `None`: they have all of their memory.
    caches_shrunk: Option<Instant>,
}

impl MemoryKeeper {
    /// The limit holds from now on, before the first connection is accepted.
    pub(super) fn new(network: Network, store: Arc<Store>, metrics: Arc<Metrics>, shared: Shared) -> Self {
        let (asked, limit) = (None, None);
        let (shedding, step) = (Shedding::default(), Step::Nothing);
        let mut keeper =
            Self { network, store, metrics, shared, asked, limit, shedding, step, caches_shrunk: None };
        keeper.ask(Instant::now());
        keeper
    }

    /// Runs until the process ends.
    pub(super) async fn run(mut self) {
        loop {
            sleep(self.look(Instant::now())).await;
        }
    }

    /// Measures and acts. Returns the time until the next look.
    fn look(&mut self, now: Instant) -> Duration {
        self.ask(now);
        let Some(limit) = &self.limit else {
            self.record(Step::Nothing, (0, 0), now);
            self.grow_caches(now);
            return WITHOUT_LIMIT;
        };
        let most = limit.bytes;
        let measure = || self.network.memory_used(limit).unwrap_or_else(|| unreadable(now));
        let mut used = measure();
        if self.shedding.purge_is_due(used, most, now) {
            if shrink_caches(&self.store) {
                self.caches_shrunk = Some(now);
            }
            allocator::give_back();
            used = measure();
        } else if used < most - most / 4 {
            self.grow_caches(now);
        }
        self.metrics.set_memory(used, most);
        let actions = self.shedding.look(used, most, now);
        self.record(actions.step, (used, most), now);
        self.act(actions);
        actions.next
    }

    /// Finds the limit anew where the key has changed, and now and then.
    fn ask(&mut self, now: Instant) {
        let max = self.store.load().limits.max_memory;
        if self.asked.is_some_and(|(asked, at)| asked == max && now.duration_since(at) < ASK_AGAIN) {
            return;
        }
        self.asked = Some((max, now));
        let limit = self.network.memory_limit(max);
        if limit != self.limit {
            self.shared.ceiling.set_limit(limit.as_ref().map(|limit| limit.bytes));
            tell_limit(limit.as_ref());
            if limit.is_none() {
                self.metrics.forget_memory();
            }
            (self.limit, self.shedding) = (limit, Shedding::default());
        }
    }

    /// Puts the step in force, and says so.
    fn record(&mut self, step: Step, (used, limit): (u64, u64), now: Instant) {
        let before = std::mem::replace(&mut self.step, step);
        self.shared.ceiling.set_refuses(step >= Step::Refusing);
        if before == Step::Nothing && step > before {
            tell_short(step, (used, limit), now);
        } else if before > Step::Nothing && step == Step::Nothing {
            tell_over((used, limit), now);
        }
    }

    /// Caches that were shrunk grow again, step by step, while memory is well.
    fn grow_caches(&mut self, now: Instant) {
        if self.caches_shrunk.is_some_and(|at| now.saturating_duration_since(at) >= GROW_EVERY) {
            let mut is_whole = true;
            for cache in self.store.load().clusters().filter_map(|cluster| cluster.cache()) {
                is_whole &= !cache.grow();
            }
            self.caches_shrunk = (!is_whole).then_some(now);
        }
    }

    fn act(&self, actions: Actions) {
        if actions.excess == 0 {
            return;
        }
        let (least, most) = AT_ONCE;
        let count = usize::try_from((actions.excess / OF_ONE).clamp(least, most)).unwrap_or(usize::MAX);
        if actions.step >= Step::Strangers {
            self.close_strangers(count, actions.excess);
        }
        if actions.step == Step::Resting {
            self.count(Shed::Pooled, self.store.pools.close_idle());
            self.shared.ceiling.resting.call_oldest(count); // each counts itself when it closes
        }
    }

    fn close_strangers(&self, count: usize, bytes: u64) {
        let closed = (0..count).map_while(|_| self.shared.strangers.close_oldest()).count();
        let given_up = self.shared.unfinished.give_up_oldest(Side::Strangers, bytes);
        self.count(Shed::Unproven, closed + given_up);
    }

    fn count(&self, kind: Shed, count: usize) {
        if count > 0 {
            self.metrics.memory_shed(kind).inc_by(count as u64);
        }
    }
}

/// Stored answers go before anything else: they can be asked for again. Returns whether there were any.
fn shrink_caches(store: &Store) -> bool {
    let snapshot = store.load();
    let caches = snapshot.clusters().filter_map(|cluster| cluster.cache());
    let freed: u64 = caches.map(|cache| cache.shrink()).sum();
    if freed > 0 {
        tell_shrunk(freed);
    }
    freed > 0
}

fn tell_shrunk(bytes: u64) {
    static LINE: Seldom = Seldom::new();
    if let Some(left_out) = LINE.due(Instant::now().into_std()) {
        tracing::info!(bytes, left_out, "stored answers of services were given up, because memory is short");
    }
}

fn tell_limit(limit: Option<&MemoryLimit>) {
    match limit {
        None => tracing::info!("memory has no limit any more (limits.max_memory)"),
        Some(MemoryLimit { bytes, counts: Counts::Own }) => {
            tracing::info!(bytes, "the process's own memory is limited (limits.max_memory)");
        }
        Some(MemoryLimit { bytes, counts: Counts::Group(group) }) => {
            let cgroup = group.folder.display();
            tracing::info!(bytes, %cgroup, "the memory of the cgroup is limited to 90 % (limits.max_memory)");
        }
    }
}

fn tell_short(step: Step, (used, limit): (u64, u64), now: Instant) {
    static LINE: Seldom = Seldom::new();
    if let Some(left_out) = LINE.due(now.into_std()) {
        tracing::warn!(
            used,
            limit,
            ?step,
            left_out,
            "memory exceeds limits.max_memory: clients without an identity are closed, then new connections are refused, then idle ones are closed"
        );
    }
}

fn tell_over((used, limit): (u64, u64), now: Instant) {
    static LINE: Seldom = Seldom::new();
    if let Some(left_out) = LINE.due(now.into_std()) {
        tracing::info!(used, limit, left_out, "memory is within limits.max_memory again");
    }
}

/// Nothing, so that nobody is closed for it.
fn unreadable(now: Instant) -> u64 {
    static LINE: Seldom = Seldom::new();
    if let Some(left_out) = LINE.due(now.into_std()) {
        tracing::warn!(
            left_out,
            "the kernel does not tell how much memory is used: limits.max_memory is not enforced"
        );
    }
    0
}
