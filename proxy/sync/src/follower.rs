//! Follows one source: each version is written, checked, published and told, or refused with a reason.

use std::sync::Arc;
use std::time::SystemTime;

use pillion_model::sync::Sync;
use pillion_telemetry::companions::Entry;
use pillion_telemetry::{Metrics, Seldom, SyncOutcome};
use tokio::time::{Instant, sleep};

use super::asker::Asker;
use super::change::{self, Untold};
use super::check;
use super::pace::{after_failures, between_looks_at_place};
use super::source::{News, Source};
use super::target::{Stamp, Target, WriteFault, seconds};
use super::version::{Content, Digest};

pub(crate) struct Follower {
    sync: Sync,
    entry: Arc<Entry>,
    asker: Asker,
    metrics: Arc<Metrics>,
    source: Source,
    target: Target,
    /// The version in its place, and what the place looked like when it was put there.
    at_work: Option<(Digest, Option<Stamp>)>,
    /// Whether something has failed after the version was put there, which is tried again.
    is_unfinished: bool,
    /// When the place was looked at last.
    looked: Option<Instant>,
    /// Whether the source has had a version, as far as this is known.
    is_known: bool,
    /// The version that was refused last: it is not judged again.
    refused: Option<(Digest, String)>,
    /// Whether the source has said that there is no such file, and no other answer has come since.
    is_absent: bool,
    /// Whether it has been counted that the source does not have it any more.
    is_deletion_counted: bool,
    failures: u32,
}

/// Why a version is not in its place.
struct NotTaken {
    outcome: SyncOutcome,
    why: String,
}

impl Follower {
    pub(crate) fn new(sync: Sync, entry: Arc<Entry>, asker: Asker, is_sidecar: fn(u32) -> bool) -> Self {
        let (source, target) = (Source::new(&sync), Target::new(&sync, is_sidecar));
        let metrics = asker.ground.metrics.clone();
        let (at_work, looked, is_known, refused, failures) = (None, None, false, None, 0);
        let (is_absent, is_deletion_counted, is_unfinished) = (false, false, false);
        Self {
            sync,
            entry,
            asker,
            metrics,
            source,
            target,
            at_work,
            is_unfinished,
            looked,
            is_known,
            refused,
            is_absent,
            is_deletion_counted,
            failures,
        }
    }

    /// Follows until it is dropped.
    pub(crate) async fn run(mut self) {
        self.entry.note("from", self.sync.from.to_string());
        self.entry.note("to", self.sync.to.display().to_string());
        SyncOutcome::ALL
            .iter()
            .for_each(|outcome| drop(self.metrics.sync_changes(&self.sync.name, *outcome)));
        self.target.tidy();
        self.take_stock();
        if let Some((digest, _)) = self.at_work {
            self.is_known = self.target.has_mark(&digest);
            self.show(&digest);
            self.answered(); // it is there, whether or not the source is
            self.tell_if_untold(&digest).await; // what is still to come is told after the first answer of the source
        }
        loop {
            self.step().await;
        }
    }

    async fn step(&mut self) {
        self.look_at_place();
        match self.source.next(&self.asker).await {
            Ok(News::Same) => self.answered(),
            Ok(News::Absent) => self.absent(),
            Ok(News::Version(content)) => self.version(content).await,
            Err(why) => {
                if why.is_of_version() && self.failures == 0 {
                    self.metrics.sync_changes(&self.sync.name, SyncOutcome::Refused).inc();
                }
                self.source.forget(); // the next answer tells all, also that there is nothing
                self.is_absent = false;
                self.failed(why.to_string()).await;
            }
        }
    }

    /// Notes what is in the place.
    fn take_stock(&mut self) {
        let stamp = self.target.stamp();
        self.at_work = self.target.existing().map(|digest| (digest, stamp));
    }

    /// Asks for the whole version where another program has changed or removed the file. One that does so again and again is
    /// not answered at once.
    fn look_at_place(&mut self) {
        if self.is_unfinished {
            return; // it does not look as it will
        }
        let every =
            between_looks_at_place(self.sync.every.unwrap_or_else(|| self.sync.from.usual_interval()));
        if self.looked.is_some_and(|looked| looked.elapsed() < every) {
            return;
        }
        self.looked = Some(Instant::now());
        let Some((digest, stamp)) = self.at_work.clone() else { return };
        if stamp.is_some() && self.target.stamp() == stamp {
            return;
        }
        self.take_stock();
        if self.at_work.as_ref().is_none_or(|(now, _)| *now != digest) {
            let is_written_anew = self.refused.is_none() && !self.is_absent;
            let what = if is_written_anew { ", which is written anew" } else { "" };
            tracing::warn!(sync = self.sync.name, to = %self.sync.to.display(), "another program has changed or removed the file{what}");
            self.source.forget();
        }
    }

    /// The source has answered, and nothing is new.
    fn answered(&mut self) {
        self.failures = 0;
        if self.is_absent {
            return; // nothing is new, so it is still absent
        }
        let is_of_source = self.is_known || !self.sync.required;
        if self.at_work.is_some() && !self.is_unfinished && is_of_source && self.refused.is_none() {
            self.entry.up();
        }
    }

    fn absent(&mut self) {
        self.failures = 0;
        if std::mem::replace(&mut self.is_absent, true) {
            return;
        }
        let (name, from) = (&self.sync.name, &self.sync.from);
        if self.is_known {
            self.entry.down("the source does not have it any more: what is there stays");
            if !std::mem::replace(&mut self.is_deletion_counted, true) {
                self.metrics.sync_changes(name, SyncOutcome::Deleted).inc();
            }
            tracing::warn!(sync = name, %from, "the source does not have it any more: what is there stays");
        } else {
            self.entry.down("the source does not have it yet");
            tracing::warn!(sync = name, %from, "the source does not have it yet");
        }
    }

    async fn version(&mut self, content: Content) {
        let digest = content.digest();
        (self.is_absent, self.is_deletion_counted, self.is_known) = (false, false, true);
        if let Some((refused, why)) = &self.refused
            && *refused == digest
        {
            self.entry.down(why.as_str()); // another problem may have been shown since
            self.failures = 0;
            return;
        }
        if self.at_work.as_ref().is_some_and(|(at_work, _)| *at_work == digest) {
            self.not_refused();
            self.keep_mark(&digest);
            self.show(&digest);
            if self.is_unfinished && !self.finish(&content, digest).await {
                return;
            }
            if self.tell_if_untold(&digest).await {
                self.answered();
            }
            return;
        }
        self.source.was_new();
        match self.take(&content, digest).await {
            Ok(None) => {
                self.failures = 0;
                self.tell_change(&digest).await;
            }
            Ok(Some(fault)) => {
                // where the disk alone is behind, all is there to be read; else it is told when it is
                if self.target.content().is_ok_and(|now| now == Some(digest)) {
                    self.tell_change(&digest).await;
                }
                self.not_whole(&fault).await;
            }
            Err(NotTaken { outcome, why }) => {
                self.metrics.sync_changes(&self.sync.name, outcome).inc();
                if outcome == SyncOutcome::Failed {
                    self.source.forget(); // it is tried again
                    return self.failed(why).await;
                }
                let shown = format!("version {} is refused, and the old one stays: {why}", short(&digest));
                self.entry.down(shown.as_str());
                self.entry.note("refused_version", short(&digest));
                self.refused = Some((digest, shown));
                self.failures = 0;
                tracing::warn!(sync = self.sync.name, version = %short(&digest), "a version is refused, and the old one stays: {why}");
            }
        }
    }

    /// Does what is left to do of the version in its place. Returns whether it is whole now.
    async fn finish(&mut self, content: &Content, digest: Digest) -> bool {
        match self.target.finish(content) {
            Ok(()) => {
                self.is_unfinished = false;
                self.is_in_place(digest);
                true
            }
            Err(fault) => {
                self.not_whole(&fault).await;
                false
            }
        }
    }

    /// The version in its place is neither written nor told again. The source is asked for it, to do the rest.
    async fn not_whole(&mut self, fault: &WriteFault) {
        self.source.forget();
        self.failed(format!("the version is in its place, and not whole: {fault}")).await;
    }

    /// Notes a version that was just put in its place. Where another program has written there since, the next look at the
    /// place finds it.
    fn is_in_place(&mut self, digest: Digest) {
        let stamp = self.target.stamp();
        let is_ours = self.target.content().map_or(true, |now| now == Some(digest));
        self.at_work = Some((digest, stamp.filter(|_| is_ours)));
    }

    fn not_refused(&mut self) {
        self.refused = None;
        self.entry.drop_note("refused_version");
    }

    /// Writes a version, lets it be checked, and puts it in its place. Gives back what failed after it was there.
    async fn take(&mut self, content: &Content, digest: Digest) -> Result<Option<WriteFault>, NotTaken> {
        let failed = |why: String| NotTaken { outcome: SyncOutcome::Failed, why };
        let written = self.target.write(content).map_err(|fault| failed(fault.to_string()))?;
        check::passes(&self.sync.check, content, &written.path).await.map_err(|bad| NotTaken {
            outcome: if bad.is_passing() { SyncOutcome::Failed } else { SyncOutcome::Refused },
            why: bad.to_string(),
        })?;
        if self.sync.on_change.is_some() {
            self.target.set_untold(&digest); // a reload or an end of the process may come before it is told
        }
        let fault = self.target.publish(written, content).map_err(|fault| failed(fault.to_string()))?;
        self.is_unfinished = fault.is_some();
        self.is_in_place(digest);
        self.not_refused();
        self.keep_mark(&digest);
        self.show(&digest);
        self.entry.up();
        self.metrics.sync_changes(&self.sync.name, SyncOutcome::Applied).inc();
        tracing::info!(sync = self.sync.name, version = %short(&digest), to = %self.sync.to.display(), "a new version is in its place");
        Ok(fault)
    }

    fn keep_mark(&self, digest: &Digest) {
        if self.sync.required {
            self.target.set_mark(digest);
        }
    }

    /// Shows the version in its place on `/companions` and in the metrics.
    fn show(&self, digest: &Digest) {
        self.entry.note("version", short(digest));
        let at = self.target.written_at().unwrap_or_else(SystemTime::now);
        self.metrics.sync_version(&self.sync.name).set(seconds(at));
    }

    /// Tells the application where a task or a process before this one did not come to it. Returns whether nothing is to come.
    async fn tell_if_untold(&mut self, digest: &Digest) -> bool {
        !self.target.is_untold(digest) || self.tell_change(digest).await
    }

    /// Tells the application of the version in its place. Returns whether that is over, and not still to come.
    async fn tell_change(&mut self, digest: &Digest) -> bool {
        let Some(how) = &self.sync.on_change else { return true };
        let told = change::tell(how, &self.sync.to, &self.asker).await;
        self.entry.note("on_change", told.as_ref().map_or_else(ToString::to_string, |()| "told".to_owned()));
        if let Err(why) = &told
            && why.is_to_come()
        {
            self.source.forget(); // the version comes again, and is told then
            self.failed(format!("the version is in its place, and the application is not told yet: {why}"))
                .await;
            return false;
        }
        self.target.set_told(digest); // also after a failure: each version is told once, with its own tries
        self.record_told(told);
        true
    }

    fn record_told(&self, told: Result<(), Untold>) {
        let name = &self.sync.name;
        match told {
            Ok(()) => {}
            Err(why) if why.is_early() => {
                tracing::info!(sync = name, "nothing is told of the new version: {why}")
            }
            Err(why) => {
                self.metrics.sync_changes(name, SyncOutcome::Untold).inc();
                tracing::warn!(sync = name, "the application is not told of the new version: {why}");
            }
        }
    }

    /// Waits before the next try. What is there stays.
    async fn failed(&mut self, why: String) {
        static LINE: Seldom = Seldom::new();
        self.failures = self.failures.saturating_add(1);
        // the first failure of a source is always told
        let left_out = if self.failures == 1 { Some(0) } else { LINE.due(std::time::Instant::now()) };
        if let Some(left_out) = left_out {
            let (name, from) = (&self.sync.name, &self.sync.from);
            tracing::warn!(sync = name, %from, left_out, "no version could be taken, and what is there stays: {why}");
        }
        self.entry.down(why);
        let dice = self.asker.ground.rng.lock().f64();
        sleep(after_failures(self.failures, dice)).await;
    }
}

/// A version as logs and pages name it: the beginning of its SHA-256.
fn short(digest: &Digest) -> String {
    digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
