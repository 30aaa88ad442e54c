//! Keeps a running sidecar up to date with its file, its operators and other sources. Changes are handled one after the
//! other, and each is applied as a whole or refused.

mod certificates;
mod tidying;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pillion_model::Config;
use tokio::signal::unix::Signal;
use tokio::sync::oneshot;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::Running;
use super::causes::with_causes;
use super::control::Applied;
use super::following::DnsSource;
use super::handing::HandOver;
use super::issued::WorkloadSource;
use super::kept::Kept;
use super::watch::{EVERY, Watch};
use crate::admin::{Order, Refusal};
use crate::manager::{News as ManagerNews, ServiceManager};
use crate::takeover::{Socket, Successors, Wish};
use crate::workload::{News, dial_unix};
use certificates::{
    forget_refusal, look_at_certificates, note_swap, publish_identity, refuse_certificates, report_failure,
};
use pillion_base::memory::program;
use pillion_telemetry::ReloadOutcome;
use pillion_upstream::cluster::update::EndpointSource as _;
use tidying::Tidying;

/// How long the start waits for keys from a URL. An issuer that does not answer must not keep a sidecar from starting.
const KEYS_PATIENCE: Duration = Duration::from_secs(5);

/// The source of the configuration, which can be read any number of times.
pub struct ConfigSource {
    /// The file that is watched. `None`: there are only flags.
    pub file: Option<PathBuf>,
    /// Keys that flags of the command line set over the file, each with its flag (`inbound.app`, `--app`).
    pub flags: Vec<(&'static str, &'static str)>,
    /// Reads the configuration anew. The error is the whole text that `check` prints.
    pub load: Box<dyn Fn() -> Result<Loaded, String> + Send>,
    /// Prints a warning of a configuration.
    pub warn: fn(&str),
    /// Where the last good configuration is kept.
    pub kept: Option<Kept>,
}

/// A configuration with the file that it was read from.
pub struct Loaded {
    pub config: Arc<Config>,
    /// The file and its text. `None`: built-in defaults and flags.
    pub written: Option<(PathBuf, Arc<str>)>,
    /// What is doubtful in it, each with its place.
    pub warnings: Vec<String>,
}

/// Why [`Keeper::keep`] has returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Drain,
    Quit,
    /// A successor accepts connections, and this process does not any more.
    TakenOver,
    /// A thread of the data path has ended. The process ends, because otherwise it would report that it is ready and
    /// serve only a part.
    Broken,
}

pub struct Keeper {
    source: ConfigSource,
    /// The file and the text of the configuration at work.
    written: Option<(PathBuf, Arc<str>)>,
    /// Why the configuration was refused at the start, so that the kept one is at work.
    refused: Option<Refusal>,
    again: Option<Again>,
    /// Warnings of the configuration that was read last, which are not printed yet.
    warnings: Vec<String>,
    watch: Option<Watch>,
    names: DnsSource,
    workload: WorkloadSource,
    looks: Interval,
    /// Learns of reloads.
    manager: ServiceManager,
    /// Where successors ask for the listeners, with `--takeover`.
    successors: Option<Successors>,
    /// A successor that waits for copies of the listeners.
    asks: Option<oneshot::Sender<Result<Vec<Socket>, String>>>,
    /// The takeover by a successor that serves.
    hand_over: Option<HandOver>,
    /// The start, a reload and companions use parts of the program that serving does not need.
    tidying: Tidying,
}

/// When a file that was refused at the start is read again, without a change of it: an address that was in use may be free
/// by now, and a certificate may exist.
struct Again {
    due: Instant,
    pause: Duration,
    /// The last reason that was reported. The same one is not reported again.
    said: String,
}

impl Again {
    /// An address in use is often that of a process which is about to end.
    const FIRST_PAUSE: Duration = Duration::from_secs(1);
    /// Reading a large file takes some milliseconds.
    const LONGEST_PAUSE: Duration = Duration::from_secs(60);

    fn new(why: &str, now: Instant) -> Self {
        Self { due: now + Self::FIRST_PAUSE, pause: Self::FIRST_PAUSE, said: why.to_owned() }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = now >= self.due;
        if is_due {
            self.pause = (self.pause * 2).min(Self::LONGEST_PAUSE);
            self.due = now + self.pause;
        }
        is_due
    }
}

impl Keeper {
    /// Must be called on the runtime that will keep the sidecar. It was started with what is `written` there, because its
    /// file was `refused` if this has a reason.
    pub fn new(source: ConfigSource, written: Option<(PathBuf, Arc<str>)>, refused: Option<String>) -> Self {
        let again = refused.as_ref().map(|why| Again::new(why, Instant::now()));
        let refused = refused.map(|why| Refusal { at: SystemTime::now(), why });
        let watch = source.file.as_deref().map(Watch::new);
        let mut looks = interval(EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (names, workload) = (DnsSource::new(), WorkloadSource::new(dial_unix()));
        let manager = ServiceManager::default();
        Self {
            source,
            written,
            refused,
            again,
            warnings: Vec::new(),
            watch,
            names,
            workload,
            looks,
            manager,
            successors: None,
            asks: None,
            hand_over: None,
            tidying: Tidying::default(),
        }
    }

    /// Tells this service manager of reloads from now on.
    pub(crate) fn report_to(&mut self, manager: ServiceManager) {
        self.manager = manager;
    }

    pub(crate) const fn manager(&self) -> &ServiceManager {
        &self.manager
    }

    /// Hands over to a successor that asks there. `None`: hands over to none any more.
    pub(crate) fn await_successors(&mut self, successors: Option<Successors>) {
        self.successors = successors;
    }

    /// Waits until the sidecar is ready: the first answers of DNS and of Kubernetes and the keys for tokens have arrived or their time is over,
    /// and its certificates exist. `Some`: the sidecar must end before that. `hangup` is SIGHUP, which asks for a reload.
    pub async fn settle(&mut self, running: &mut Running, hangup: &mut Signal) -> Option<End> {
        if self.refused.is_some() {
            running.controller.around.metrics.config_reloads(ReloadOutcome::Refused).inc();
        }
        self.keep_written(running);
        self.workload.follow(running.controller.config());
        self.names.follow(running.controller.config());
        running.kubernetes.follow(running.controller.config());
        running.follow_companions();
        let names = self.names.first(&running.controller);
        let slices = running.kubernetes.first(&running.controller);
        tokio::join!(names, slices, running.controller.first_keys(KEYS_PATIENCE));
        publish_identity(running);
        self.tell(running, None);
        running.set_ready();
        if let Some(why) = running.readiness.why_not() {
            tracing::warn!(listening = %running.addresses(), "not ready yet: {why}");
        }
        while running.readiness.why_not().is_some() {
            if let Some(end) = self.step(running, hangup).await {
                return Some(end);
            }
        }
        self.looks.reset(); // the threads that have just started use parts of the program, too
        self.tidying.begin();
        None
    }

    /// Runs until the sidecar ends by itself or by an order.
    pub async fn keep(&mut self, running: &mut Running, hangup: &mut Signal) -> End {
        loop {
            if let Some(end) = self.step(running, hangup).await {
                return end;
            }
        }
    }

    /// Whether a successor serves, so that this process accepts no connection any more.
    pub(crate) const fn is_taken_over(&self) -> bool {
        self.hand_over.is_some()
    }

    /// Completes a takeover. May be dropped and called again.
    pub(crate) async fn hand_over(&mut self, running: &mut Running) {
        let Some(hand_over) = &mut self.hand_over else { return };
        hand_over.finish(&mut self.manager).await;
        running.finish_companions().await; // the successor has its own
    }

    /// Notes what a successor needs before anything is waited for, because a signal may drop the wait.
    fn note(&mut self, running: &mut Running, wish: Wish) {
        match wish {
            Wish::Sockets(answer) => self.asks = Some(answer),
            Wish::Serves { pid, closed } => {
                self.hand_over = Some(HandOver::begin(running, pid, closed));
                if let Some(kept) = &mut self.source.kept {
                    kept.leave(); // before the successor is answered, which then writes there
                }
            }
        }
    }

    /// Handles the next event, or checks the files. `Some`: the sidecar must end. May be dropped and called again.
    async fn step(&mut self, running: &mut Running, hangup: &mut Signal) -> Option<End> {
        if self.is_taken_over() {
            self.hand_over(running).await;
            return Some(End::TakenOver);
        }
        if self.asks.is_some() {
            let lent = running.lend().await;
            let answered = self.asks.take().map(|answer| answer.send(lent));
            drop(answered); // the successor may have gone
        }
        tokio::select! { // no branch loses anything if another one completes first
            _ = self.looks.tick() => {
                if running.is_broken() {
                    return Some(End::Broken);
                }
                self.manager.tell(ManagerNews::Well);
                look_at_certificates(running);
                running.controller.free_former();
                if self.tidying.is_due() {
                    program::give_back();
                }
                running.controller.warn_of_expiry(SystemTime::now());
                if self.watch.as_mut().is_some_and(Watch::look) {
                    drop(self.reload(running, "a changed file"));
                } else if self.again.as_mut().is_some_and(|again| again.is_due(Instant::now())) {
                    self.try_refused(running);
                }
            }
            () = wrote(self.source.kept.as_mut()) => {}
            Some(()) = hangup.recv() => drop(self.reload(running, "SIGHUP")),
            news = self.workload.next() => self.learn_identity(running, news),
            Some(update) = self.names.next() => running.controller.learn(update),
            Some(update) = running.kubernetes.next() => running.controller.learn(update),
            Some(order) = running.orders.recv() => match order {
                Order::Drain => return Some(End::Drain),
                Order::Quit => return Some(End::Quit),
                Order::Reload(answer) => drop(answer.send(self.reload(running, "the admin port"))),
            },
            wish = next_wish(self.successors.as_mut()) => self.note(running, wish),
        }
        None
    }

    /// Keeps endpoints and certificates of a sidecar that ends current for its last connections, until `ended` is ready.
    pub(super) async fn follow_until<T>(
        &mut self,
        running: &mut Running,
        ended: impl Future<Output = T>,
    ) -> T {
        let mut ended = std::pin::pin!(ended);
        loop {
            tokio::select! { // nothing is lost: `ended` goes on in the next turn
                ended = &mut ended => return ended,
                () = self.follow(running) => {}
            }
        }
    }

    /// Handles the next event of a sidecar that ends. Its file is not read any more, and a further order to end changes
    /// nothing.
    pub(crate) async fn follow(&mut self, running: &mut Running) {
        tokio::select! { // no branch loses anything if another one completes first
            _ = self.looks.tick() => {
                if !running.is_broken() {
                    self.manager.tell(ManagerNews::Well);
                }
                look_at_certificates(running);
                running.controller.free_former();
            }
            () = wrote(self.source.kept.as_mut()) => {}
            news = self.workload.next() => self.learn_identity(running, news),
            Some(update) = self.names.next() => running.controller.learn(update),
            Some(update) = running.kubernetes.next() => running.controller.learn(update),
            Some(Order::Reload(answer)) = running.orders.recv() => {
                drop(answer.send(Err("this process is about to end".to_owned())));
            }
        }
    }

    /// Applies what a Workload API has issued, or reports why there was nothing.
    fn learn_identity(&mut self, running: &mut Running, news: News) {
        match news {
            News::Issued(credentials) => match running.controller.rotate((*credentials).clone()) {
                Ok(()) => {
                    running.controller.note_answer(false);
                    note_swap(running);
                }
                Err(why) => {
                    self.workload.put_back(credentials);
                    running.controller.note_answer(true);
                    refuse_certificates(running, &why);
                }
            },
            News::Same => {
                running.controller.note_answer(false);
                tracing::info!("the Workload API answers again, and the certificates in use are current");
            }
            News::Failed(why) => report_failure(running, &why),
        }
        forget_refusal(running);
        publish_identity(running);
    }

    /// Gives the admin port the current configuration and the current text of its file. `changed` is when the
    /// configuration was applied, unless that was published before.
    fn tell(&self, running: &Running, changed: Option<SystemTime>) {
        let (file, text) = self.written.clone().unzip();
        if self.source.kept.is_some() {
            running.controller.around.metrics.config_snapshot().set(self.refused.is_some().into());
        }
        running.console.amend(|published| {
            published.loaded_at = changed.or(published.loaded_at);
            published.file = file;
            published.config = running.controller.config().clone();
            published.listening = running.controller.addresses().listening();
            published.text = text;
            published.flags.clone_from(&self.source.flags);
            published.last_refusal.clone_from(&self.refused);
        });
    }

    /// Keeps the configuration at work for later starts, unless it is the kept one. A sidecar that has not replaced another
    /// one yet keeps nothing, because it may still fail.
    pub(crate) fn keep_written(&mut self, running: &Running) {
        if !running.is_open() {
            return;
        }
        if let (Some(kept), Some((_, text)), None) = (&mut self.source.kept, &self.written, &self.refused) {
            kept.keep(text);
        }
    }

    /// Waits for a bounded time until the configuration is kept, because the process ends.
    pub(crate) async fn finish(&mut self) {
        if let Some(kept) = &mut self.source.kept {
            kept.finish().await;
        }
    }

    /// Reloads the file, and tells the service manager what came of it.
    fn reload(&mut self, running: &mut Running, because: &str) -> Result<String, String> {
        self.manager.tell(ManagerNews::Reloading);
        let reloaded = self.reload_file(running, because);
        let status = match &reloaded {
            Ok(done) => done.clone(),
            Err(_) => {
                let generation = running.controller.generation();
                format!("configuration refused, generation {generation} stays in use; see the log")
            }
        };
        self.manager.tell(ManagerNews::Ready { status: &status });
        reloaded
    }

    /// Reads the file again that was refused at the start. A fault that was reported last is not reported again, and neither
    /// are the warnings beside it.
    fn try_refused(&mut self, running: &mut Running) {
        let applied = self.apply_file(running);
        if let (Err(why), Some(again)) = (&applied, &self.again)
            && *why == again.said
        {
            return tracing::debug!("still refused: {why}");
        }
        if let Ok(status) = self.report(running, "the refusal at the start", applied) {
            self.manager.tell(ManagerNews::Ready { status: &status });
        }
    }

    /// Reloads the file, and reports the result as return value, in the log and in the metric.
    fn reload_file(&mut self, running: &mut Running, because: &str) -> Result<String, String> {
        let applied = self.apply_file(running);
        self.report(running, because, applied)
    }

    fn apply_file(&mut self, running: &mut Running) -> Result<Applied, String> {
        look_at_certificates(running);
        self.tidying.begin();
        let controller = &mut running.controller;
        if let Some(watch) = &mut self.watch {
            watch.known(); // before the file is read, so that a change during the reading is noticed
        }
        self.warnings.clear();
        let Loaded { config, written, warnings } = (self.source.load)()?;
        self.warnings = warnings;
        let applied = controller.apply(&config).map_err(|error| with_causes(&error))?;
        (self.written, self.refused, self.again) = (written, None, None);
        Ok(applied)
    }

    fn report(
        &mut self,
        running: &mut Running,
        because: &str,
        applied: Result<Applied, String>,
    ) -> Result<String, String> {
        std::mem::take(&mut self.warnings).iter().for_each(|warning| (self.source.warn)(warning));
        let (outcome, generation) = (outcome(&applied), running.controller.generation());
        match &applied {
            Ok(Applied::Changed) => {
                self.names.follow(running.controller.config());
                running.kubernetes.follow(running.controller.config());
                self.workload.follow(running.controller.config());
                running.follow_companions();
                self.tell(running, Some(SystemTime::now()));
                self.keep_written(running);
                publish_identity(running);
            }
            Ok(Applied::Unchanged) => {
                self.tell(running, None);
                self.keep_written(running);
            }
            Err(why) => {
                if let Some(again) = &mut self.again {
                    again.said.clone_from(why);
                }
                let refusal = Refusal { at: SystemTime::now(), why: why.clone() };
                running.console.amend(|published| published.last_refusal = Some(refusal));
            }
        }
        // after all that is so now: whoever waits for them looks at the rest at once
        running.controller.around.metrics.config_reloads(outcome).inc();
        match applied {
            Ok(Applied::Changed) => {
                tracing::info!(because, generation, "configuration reloaded");
                Ok(format!("reloaded; this is generation {generation}"))
            }
            Ok(Applied::Unchanged) => {
                tracing::info!(because, generation, "configuration reloaded without changes");
                Ok(format!("nothing has changed; this is generation {generation}"))
            }
            Err(why) => {
                tracing::error!(
                    because,
                    generation,
                    "configuration refused, the old one stays in use: {why}"
                );
                Err(why)
            }
        }
    }
}

async fn wrote(kept: Option<&mut Kept>) {
    match kept {
        Some(kept) => kept.wrote().await,
        None => std::future::pending().await,
    }
}

async fn next_wish(successors: Option<&mut Successors>) -> Wish {
    match successors {
        Some(successors) => successors.next().await,
        None => std::future::pending().await,
    }
}

const fn outcome(applied: &Result<Applied, String>) -> ReloadOutcome {
    match applied {
        Ok(Applied::Changed) => ReloadOutcome::Applied,
        Ok(Applied::Unchanged) => ReloadOutcome::Unchanged,
        Err(_) => ReloadOutcome::Refused,
    }
}

#[cfg(test)]
mod tests;
