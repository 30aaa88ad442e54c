//! Decides which lines the log has about a collector: a problem once, at most one line a minute, and its end. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// A collector whose problem changes with each attempt must not fill the log.
const EVERY: Duration = Duration::from_mins(1);

#[derive(Default)]
pub(super) struct Notices {
    /// The problem of which the log knows, until it is over.
    said: Option<String>,
    at: Option<Instant>,
}

impl Notices {
    /// Whether the log gets this problem now.
    pub(super) fn problem(&mut self, why: &str, now: Instant) -> bool {
        let is_known = self.said.as_deref() == Some(why);
        if is_known || self.at.is_some_and(|at| now.saturating_duration_since(at) < EVERY) {
            return false;
        }
        (self.said, self.at) = (Some(why.to_owned()), Some(now));
        true
    }

    /// There is no problem any more. Whether the log gets that now.
    pub(super) fn over(&mut self) -> bool {
        self.said.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_gets_one_line_a_minute_at_most_and_an_end_for_each_problem_that_it_has() {
        let (mut notices, start) = (Notices::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!notices.over());
        assert!(notices.problem("it is dead", at(0)));
        assert!(!notices.problem("it is dead", at(100)), "it is known");
        assert!(notices.problem("it is busy", at(101)));
        assert!(!notices.problem("it is dead", at(102)) && !notices.problem("it is busy", at(160)));
        assert!(notices.over() && !notices.over());
        assert!(!notices.problem("it is dead", at(160)) && !notices.over(), "the log did not get it");
        assert!(notices.problem("it is dead", at(161)) && notices.over());
    }
}
