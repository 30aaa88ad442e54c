//! What changed in the last minute, from totals. Pure; the dashboard computes the same in `admin/dashboard/figures.js`.

use std::collections::{HashMap, VecDeque};

use super::picture::{Latency, Picture, Totals};

/// The time that rates and percentiles are about.
const WINDOW_MS: u64 = 60_000;
/// Events come once a second; more than these are never kept.
const MOST: usize = 120;

/// Whose totals.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// `true`: inbound.
    Service(bool, String),
    Caller(String),
}

/// The events of the last minute of one process.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<Kept>);

#[derive(Debug)]
struct Kept {
    started_ms: u64,
    uptime_ms: u64,
    /// The start of the process, when nothing had been counted.
    is_start: bool,
    totals: HashMap<Key, Totals>,
}

/// What happened in the last minute.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Change {
    /// Requests per second.
    pub(super) rate: f64,
    pub(super) requests: u64,
    pub(super) failed: u64,
    pub(super) latency: Latency,
    pub(super) retries: u64,
    pub(super) rejections: u64,
}

impl History {
    /// Adds an event. Those of a former process are forgotten.
    pub(super) fn remember(&mut self, picture: &Picture) {
        let Picture { started_ms, uptime_ms, .. } = *picture;
        if self.0.front().is_some_and(|first| first.started_ms != started_ms) {
            self.0.clear();
        }
        if self.0.is_empty() && uptime_ms <= WINDOW_MS {
            self.0.push_back(Kept { started_ms, uptime_ms: 0, is_start: true, totals: HashMap::new() });
        }
        let services = picture
            .services
            .iter()
            .map(|of| (Key::Service(of.is_inbound, of.name.clone()), of.totals.clone()));
        let callers = picture.callers.iter().map(|of| (Key::Caller(of.peer.clone()), of.totals.clone()));
        self.0.push_back(Kept {
            started_ms,
            uptime_ms,
            is_start: false,
            totals: services.chain(callers).collect(),
        });
        let is_old = |one: &Kept| uptime_ms.saturating_sub(one.uptime_ms) > WINDOW_MS;
        while self.0.len() > 1 && (self.0.front().is_some_and(is_old) || self.0.len() > MOST) {
            self.0.pop_front();
        }
    }

    /// What a service or a caller did in the last minute. `None`: there are no data yet.
    pub(super) fn change(&self, key: &Key) -> Option<Change> {
        let nothing = Totals::default();
        let last = self.0.back()?;
        let now = last.totals.get(key)?;
        let (mut later, mut then) = (now, None);
        // smaller totals are those of a series that was removed and made again
        for one in self.0.iter().rev().skip(1) {
            let before = || one.is_start.then_some(&nothing);
            let Some(earlier) = one.totals.get(key).or_else(before) else { break };
            if earlier.requests > later.requests {
                break;
            }
            (later, then) = (earlier, Some((earlier, last.uptime_ms.saturating_sub(one.uptime_ms))));
        }
        let (then, elapsed_ms) = then?;
        let requests = now.requests.saturating_sub(then.requests);
        Some(Change {
            rate: requests as f64 / (elapsed_ms as f64 / 1e3).max(1.0),
            requests,
            failed: now.failed.saturating_sub(then.failed),
            latency: now.latency.since(&then.latency),
            retries: now.retries.saturating_sub(then.retries),
            rejections: now.rejections.saturating_sub(then.rejections),
        })
    }
}

impl Change {
    /// The share of requests that failed.
    pub(super) fn failed_share(&self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.failed as f64 / self.requests as f64 }
    }
}

impl Latency {
    /// The values that came after `then`, which may lack buckets.
    fn since(&self, then: &Self) -> Self {
        let before = |at: usize| then.buckets.get(at).map_or(0, |(_, count)| *count);
        let grown = self
            .buckets
            .iter()
            .enumerate()
            .map(|(at, (bound, count))| (*bound, count.saturating_sub(before(at))));
        Self { buckets: grown.collect(), count: self.count.saturating_sub(then.count) }
    }

    /// In seconds, as Prometheus' `histogram_quantile`: linear within a bucket. `None`: there are no values.
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        if self.count == 0 || self.buckets.is_empty() {
            return None;
        }
        let wanted = share * self.count as f64;
        let (mut lower, mut below) = (0.0, 0.0);
        for (bound, count) in &self.buckets {
            let up_to = *count as f64;
            if up_to >= wanted {
                let inside = up_to - below;
                return Some(if inside <= 0.0 {
                    *bound
                } else {
                    lower + (bound - lower) * (wanted - below) / inside
                });
            }
            (lower, below) = (*bound, up_to);
        }
        Some(lower)
    }
}

#[cfg(test)]
mod tests {
    use super::super::picture::Service;
    use super::*;

    fn picture(started_ms: u64, uptime_ms: u64, requests: Option<u64>) -> Picture {
        let service = |requests| Service {
            name: "orders".into(),
            totals: Totals { requests, failed: requests / 10, ..Totals::default() },
            ..Service::default()
        };
        Picture {
            started_ms,
            uptime_ms,
            services: requests.map(service).into_iter().collect(),
            ..Picture::default()
        }
    }

    fn rate(history: &History) -> Option<f64> {
        history.change(&Key::Service(false, "orders".into())).map(|change| change.rate)
    }

    #[test]
    fn a_rate_is_that_of_the_last_minute_and_a_new_process_begins_anew() {
        let mut history = History::default();
        history.remember(&picture(1, 100_000, Some(1000)));
        assert_eq!(rate(&history), None, "the totals of an older process say nothing of the last minute");
        for second in 1..=120 {
            history.remember(&picture(1, 100_000 + second * 1000, Some(1000 + second * 10)));
        }
        assert_eq!((rate(&history), history.0.len()), (Some(10.0), 61));
        history.remember(&picture(2, 2000, Some(40)));
        assert_eq!(rate(&history), Some(20.0), "all of a young process happened in the last minute");
    }

    #[test]
    fn a_series_that_was_removed_or_is_new_has_no_negative_rate() {
        let mut history = History::default();
        history.remember(&picture(1, 100_000, Some(1000)));
        history.remember(&picture(1, 101_000, Some(5)));
        assert_eq!(rate(&history), None);
        history.remember(&picture(1, 102_000, Some(7)));
        assert_eq!(rate(&history), Some(2.0));
        history.remember(&picture(1, 103_000, None));
        assert_eq!(rate(&history), None);
    }

    #[test]
    fn quantiles_are_linear_within_a_bucket() {
        let latency = Latency { buckets: vec![(0.1, 50), (0.2, 100)], count: 100 };
        assert_eq!((latency.quantile(0.5), latency.quantile(0.75)), (Some(0.1), Some(0.15000000000000002)));
        assert_eq!(
            Latency { buckets: vec![(0.1, 0)], count: 3 }.quantile(0.5),
            Some(0.1),
            "beyond all bounds"
        );
        assert_eq!(Latency::default().quantile(0.5), None);
    }
}
