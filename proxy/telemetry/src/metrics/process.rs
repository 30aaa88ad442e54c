//! What is told of the process itself: its build, its memory, and what it applies and writes.

use super::Metrics;
use crate::family::{Exposition, IntCounter, IntGauge};
use crate::labels::{CertificateUse, Label, ReloadOutcome, Shed, SpanOutcome};
use crate::symbols::Symbols;

/// The commit from which the binary was built. The build takes it from this environment variable.
pub const REVISION: &str = match option_env!("PILLION_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

impl Metrics {
    /// Memory in use and its limit, which exist where `limits.max_memory` has one.
    pub fn set_memory(&self, used: u64, limit: u64) {
        let bytes = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.families.memory_used.of(()).set(bytes(used));
        self.families.memory_limit.of(()).set(bytes(limit));
    }

    /// Removes both, because there is no limit any more.
    pub fn forget_memory(&self) {
        self.families.memory_used.remove(|_| true);
        self.families.memory_limit.remove(|_| true);
    }

    pub fn memory_shed(&self, kind: Shed) -> IntCounter {
        self.families.memory_shed.of((kind,))
    }

    /// Sets the expiry of the first certificate of this use, in seconds since 1970. `None`: there is none, and no series.
    pub fn set_certificate_not_after(&self, of: CertificateUse, first: Option<i64>) {
        match first {
            Some(first) => self.families.not_after.of((of,)).set(first),
            None => self.families.not_after.remove(|(known,)| *known == of),
        }
    }

    /// The counter of reloads of the configuration by outcome.
    pub fn config_reloads(&self, outcome: ReloadOutcome) -> IntCounter {
        self.families.config_reloads.of((outcome,))
    }

    /// The gauge of the snapshot that the data path uses.
    pub fn config_generation(&self) -> IntGauge {
        self.families.config_generation.of(())
    }

    /// Whether the kept configuration is at work. It exists where one is kept.
    pub fn config_snapshot(&self) -> IntGauge {
        self.families.config_snapshot.of(())
    }

    pub fn access_log_dropped(&self) -> IntCounter {
        self.families.access_log_dropped.of(())
    }

    pub fn spans(&self, outcome: SpanOutcome) -> IntCounter {
        self.families.spans.of((outcome,))
    }
}

/// Registers `pillion_build_info`, which is always 1.
pub(super) fn publish_build(to: &Exposition) {
    to.gauges("pillion_build_info", "The version and the revision of this process.")
        .of((Version, Revision))
        .set(1);
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Version;

impl Label for Version {
    const NAME: &'static str = "version";

    fn value(self, _: &Symbols) -> String {
        env!("CARGO_PKG_VERSION").to_owned()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Revision;

impl Label for Revision {
    const NAME: &'static str = "revision";

    fn value(self, _: &Symbols) -> String {
        REVISION.to_owned()
    }
}
