//! What is counted of the companions of the application.

use super::Metrics;
use crate::application;
use crate::companions::Board;
use crate::family::{IntCounter, IntGauge};
use crate::labels::{LogOutcome, NameLabel, SinkLabel, SourceLabel, SyncOutcome};
use crate::symbols::Symbol;
use pillion_model::telemetry::ProcessMetrics;

impl Metrics {
    /// Exports what the application's process uses, from now on. Call it once.
    pub fn add_application(&self, by: &ProcessMetrics) {
        application::tell(by, &self.exposition);
    }

    /// The states of the companions of the application.
    pub const fn companions(&self) -> &Board {
        &self.companions
    }

    /// When the version at work of a synced file was written, in seconds since 1970.
    pub fn sync_version(&self, name: &str) -> IntGauge {
        self.families.sync_version.of((NameLabel(self.intern(name)),))
    }

    /// Versions of a synced file.
    pub fn sync_changes(&self, name: &str, outcome: SyncOutcome) -> IntCounter {
        self.families.sync_changes.of((NameLabel(self.intern(name)), outcome))
    }

    /// Removes the series of a file that is not synced any more.
    pub fn forget_sync(&self, name: &str) {
        let own = NameLabel(self.intern(name));
        self.families.sync_version.remove(|(name,)| *name == own);
        self.families.sync_changes.remove(|(name, _)| *name == own);
    }

    /// The counter of a source's records at a sink. Keep the handle.
    pub fn logs_records(&self, source: Symbol, sink: Symbol, outcome: LogOutcome) -> IntCounter {
        self.families.logs_records.of((SourceLabel(source), SinkLabel(sink), outcome))
    }

    /// The gauge of the bytes of a source that a sink has not taken yet.
    pub fn logs_lag(&self, source: Symbol, sink: Symbol) -> IntGauge {
        self.families.logs_lag.of((SourceLabel(source), SinkLabel(sink)))
    }

    /// Removes the gauges of sources and sinks that a reload may have removed.
    pub fn forget_logs_lag(&self) {
        self.families.logs_lag.remove(|_| true);
    }

    pub fn logs_truncated(&self) -> IntCounter {
        self.families.logs_truncated.of(())
    }
}
