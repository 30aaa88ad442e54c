//! What the companions of the application have done: shipped logs, and the caches of services.

use std::collections::BTreeMap;

use crate::families::Families;
use crate::labels::{CacheOutcome, Label as _, LogOutcome};
use crate::symbols::Symbols;

/// What a sink has taken of a source.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LogsOverview {
    pub source: String,
    pub sink: String,
    /// Bytes of files that it has not taken yet.
    pub lag: i64,
    pub delivered: u64,
    pub refused: u64,
}

/// How the cache of a service has served requests.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct CacheOverview {
    /// All but those with which it had nothing to do.
    pub requests: u64,
    /// Those for which the service was not asked first.
    pub hits: u64,
}

pub(super) fn logs(families: &Families, symbols: &Symbols) -> Vec<LogsOverview> {
    let mut found = BTreeMap::<_, LogsOverview>::new();
    families.logs_lag.each(|(source, sink), gauge| {
        found.entry((source.value(symbols), sink.value(symbols))).or_default().lag = gauge.get();
    });
    families.logs_records.each(|(source, sink, outcome), counter| {
        // a pair without a lag is one of a former configuration
        if let Some(of) = found.get_mut(&(source.value(symbols), sink.value(symbols))) {
            match outcome {
                LogOutcome::Delivered => of.delivered = counter.get(),
                LogOutcome::Refused => of.refused = counter.get(),
                LogOutcome::Retried => {}
            }
        }
    });
    found.into_iter().map(|((source, sink), of)| LogsOverview { source, sink, ..of }).collect()
}

/// By the name of the service.
pub(super) fn caches(families: &Families, symbols: &Symbols) -> BTreeMap<String, CacheOverview> {
    let mut found = BTreeMap::<_, CacheOverview>::new();
    families.cache_requests.each(|(service, outcome), counter| {
        let (of, count) = (found.entry(service.value(symbols)).or_default(), counter.get());
        match outcome {
            CacheOutcome::Hit | CacheOutcome::Stale => {
                (of.requests, of.hits) = (of.requests + count, of.hits + count);
            }
            CacheOutcome::Miss | CacheOutcome::Revalidated => of.requests += count,
            CacheOutcome::Pass => {}
        }
    });
    found
}

#[cfg(test)]
mod tests {
    use pillion_model::Direction;

    use super::*;
    use crate::Metrics;

    #[test]
    fn a_pair_of_source_and_sink_has_its_lag_and_what_became_of_its_records() {
        let metrics = Metrics::new(1_000);
        let [app, old, loki] = ["app", "old", "loki"].map(|name| metrics.intern(name));
        metrics.logs_lag(app, loki).set(7);
        metrics.logs_records(app, loki, LogOutcome::Delivered).inc_by(5);
        metrics.logs_records(app, loki, LogOutcome::Refused).inc_by(2);
        metrics.logs_records(app, loki, LogOutcome::Retried).inc_by(9);
        metrics.logs_records(old, loki, LogOutcome::Delivered).inc();
        let [source, sink] = ["app", "loki"].map(str::to_owned);
        let expected = LogsOverview { source, sink, lag: 7, delivered: 5, refused: 2 };
        assert_eq!(metrics.overview().logs, [expected]);
    }

    #[test]
    fn requests_with_which_a_cache_has_nothing_to_do_are_no_misses() {
        let metrics = Metrics::new(1_000);
        let orders = metrics.service(Direction::Outbound, metrics.intern("orders"));
        for (count, outcome) in (1..).zip(CacheOutcome::ALL) {
            orders.cache_requests(*outcome).inc_by(count); // 1 hit, 2 misses, 3 stale, 4 revalidated, 5 passed by
        }
        assert_eq!(metrics.overview().caches["orders"], CacheOverview { requests: 10, hits: 4 });
    }
}
