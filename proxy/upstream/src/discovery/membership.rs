//! What is known of a name, and how each answer changes it. Pure: the caller passes `now` and a random number.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::answer::{Answer, Family};

/// The most endpoints of one name: ten times the size of a Kubernetes EndpointSlice. The first ones in sorted order are
/// used, so that every sidecar uses the same.
pub(super) const MOST: usize = 1000;

/// The number of "no such name" answers in a row after which the endpoints are removed. For a headless service that was
/// scaled to zero the answer is true. But a DNS server that restarts, or does not yet have the data of the API server,
/// gives it for a moment, and a cluster without endpoints fails every request. Until then requests to endpoints that
/// really ended simply fail.
pub(super) const DENIALS_BEFORE_REMOVAL: u32 = 3;

/// The longest pause after a first "no such name", so that a long `refresh` does not delay the decision.
const REFRESH_IN_DOUBT: Duration = Duration::from_secs(5);

/// The pause after the first failure. Each further failure doubles it.
const BACKOFF: Duration = Duration::from_secs(1);

/// The longest pause between failures, unless `refresh` is longer.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// The shortest and the longest `refresh`. Many clients share a DNS server, so it must not be asked too often.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Pauses vary by this share in both directions, so that sidecars that started together do not ask together.
const JITTER: f64 = 0.1;

/// The endpoints of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Sorted, without duplicates, at most 1000. Kept through every failure. Empty if the name never resolved, or has
    /// no addresses any more.
    pub endpoints: Arc<[SocketAddr]>,
    /// When a server last reported them.
    pub learnt_at: Option<Instant>,
    /// Why the last look-up had no answer, or only one family.
    pub last_error: Option<String>,
}

impl Membership {
    pub(super) fn unknown() -> Self {
        Self { endpoints: Arc::default(), learnt_at: None, last_error: None }
    }

    /// Whether the first look-up has ended, with or without an answer.
    pub fn was_asked(&self) -> bool {
        self.learnt_at.is_some() || self.last_error.is_some()
    }
}

/// A change that is worth a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// Look-ups began to fail. Reported once.
    Lost,
    /// Look-ups work again.
    Back,
    /// "No such name" was answered often enough: the endpoints are removed.
    Emptied,
    /// The name has more addresses than are used.
    TooMany,
}

/// The effect of an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    pub(super) changed: bool,
    pub(super) news: Option<News>,
}

/// The state of one name between look-ups.
#[derive(Debug)]
pub(super) struct NameState {
    port: u16,
    refresh: Duration,
    pub(super) membership: Membership,
    /// Failures in a row.
    failures: u32,
    /// "No such name" answers in a row.
    denials: u32,
    too_many: bool,
}

impl NameState {
    pub(super) fn new(port: u16, refresh: Duration, before: Option<Membership>) -> Self {
        let refresh = refresh.clamp(SHORTEST, LONGEST);
        let membership = before.unwrap_or_else(Membership::unknown);
        Self { port, refresh, membership, failures: 0, denials: 0, too_many: false }
    }

    pub(super) fn apply(&mut self, answer: Answer, now: Instant) -> Effect {
        match answer {
            Answer::Found { addresses, unanswered } => self.found(addresses, unanswered, now),
            Answer::Nothing(why) => self.denied(why, now),
            Answer::Failed(why) => self.failed(why),
        }
    }

    /// The pause until the next look-up. `luck` is a random number between 0 and 1.
    pub(super) fn pause(&self, luck: f64) -> Duration {
        self.exact_pause().mul_f64(1.0 - JITTER + 2.0 * JITTER * luck.clamp(0.0, 1.0))
    }

    fn exact_pause(&self) -> Duration {
        if self.failures > 0 {
            let doubled = BACKOFF.saturating_mul(1_u32.checked_shl(self.failures - 1).unwrap_or(u32::MAX));
            return doubled.min(self.refresh.max(LONGEST_BACKOFF));
        }
        let in_doubt = self.denials > 0 && !self.membership.endpoints.is_empty();
        if in_doubt { self.refresh.min(REFRESH_IN_DOUBT) } else { self.refresh }
    }

    /// Takes over an answer. If the question of one family failed, the endpoints of that family stay.
    fn found(
        &mut self,
        mut found: Vec<IpAddr>,
        unanswered: Option<(Family, String)>,
        now: Instant,
    ) -> Effect {
        let was_lost = self.is_lost();
        if let Some((family, _)) = &unanswered {
            let known = self.membership.endpoints.iter().map(SocketAddr::ip);
            found.extend(known.filter(|ip| Family::of(*ip) == *family));
        }
        self.failures = 0;
        self.denials = 0;
        self.membership.learnt_at = Some(now);
        self.membership.last_error = unanswered.map(|(_, why)| why);
        let back = was_lost.then_some(News::Back);
        let too_many = self.count(&mut found).then_some(News::TooMany);
        let endpoints = found.into_iter().map(|ip| SocketAddr::new(ip, self.port)).collect();
        Effect { changed: self.replace(endpoints), news: back.or(too_many) }
    }

    fn denied(&mut self, why: String, now: Instant) -> Effect {
        let first = !self.is_lost();
        self.failures = 0;
        self.denials = self.denials.saturating_add(1);
        self.membership.last_error = Some(why);
        if self.denials >= DENIALS_BEFORE_REMOVAL && !self.membership.endpoints.is_empty() {
            self.membership.learnt_at = Some(now);
            return Effect { changed: self.replace(Arc::default()), news: Some(News::Emptied) };
        }
        Effect { changed: false, news: first.then_some(News::Lost) }
    }

    /// Notes a failure. "No such name" answers then count from zero, because the server is not reliable.
    fn failed(&mut self, why: String) -> Effect {
        let first = !self.is_lost();
        self.denials = 0;
        self.failures = self.failures.saturating_add(1);
        self.membership.last_error = Some(why);
        Effect { changed: false, news: first.then_some(News::Lost) }
    }

    fn is_lost(&self) -> bool {
        self.failures > 0 || self.denials > 0
    }

    /// Sorts the addresses and applies the limit. Returns whether the limit was exceeded for the first time.
    fn count(&mut self, found: &mut Vec<IpAddr>) -> bool {
        found.sort_unstable();
        found.dedup();
        let were_too_many = std::mem::replace(&mut self.too_many, found.len() > MOST);
        found.truncate(MOST);
        self.too_many && !were_too_many
    }

    fn replace(&mut self, endpoints: Arc<[SocketAddr]>) -> bool {
        let changed = self.membership.endpoints != endpoints;
        if changed {
            self.membership.endpoints = endpoints;
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFRESH: Duration = Duration::from_secs(5);

    fn found(ips: &[&str]) -> Answer {
        let addresses = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        Answer::Found { addresses, unanswered: None }
    }

    fn half(ips: &[&str], family: Family) -> Answer {
        let Answer::Found { addresses, .. } = found(ips) else { unreachable!() };
        Answer::Found { addresses, unanswered: Some((family, "timed out".into())) }
    }

    fn failed() -> Answer {
        Answer::Failed("timed out".into())
    }

    fn nothing() -> Answer {
        Answer::Nothing("no such name".into())
    }

    fn effect(changed: bool, news: impl Into<Option<News>>) -> Effect {
        Effect { changed, news: news.into() }
    }

    /// Applies all answers, and returns the effect of the last one.
    fn after(known: &mut NameState, answers: impl IntoIterator<Item = Answer>) -> Effect {
        let mut last = Effect::default();
        for answer in answers {
            last = known.apply(answer, Instant::now());
        }
        last
    }

    fn endpoints(known: &NameState) -> Vec<String> {
        known.membership.endpoints.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn endpoints_are_sorted_and_another_order_is_no_change() {
        let mut known = NameState::new(80, REFRESH, None);
        let first = after(&mut known, [found(&["192.0.2.2", "2001:db8::1", "192.0.2.1", "192.0.2.2"])]);
        assert_eq!(first, effect(true, None));
        assert_eq!(endpoints(&known), ["192.0.2.1:80", "192.0.2.2:80", "[2001:db8::1]:80"]);
        let again = after(&mut known, [found(&["192.0.2.1", "192.0.2.2", "2001:db8::1"])]);
        assert_eq!(again, effect(false, None));
        assert_eq!(after(&mut known, [found(&["192.0.2.2"])]), effect(true, None));
        assert_eq!(endpoints(&known), ["192.0.2.2:80"]);
    }

    #[test]
    fn failures_keep_the_endpoints_for_ever_and_are_reported_once() {
        let mut known = NameState::new(80, REFRESH, None);
        let asked_at = Instant::now();
        known.apply(found(&["192.0.2.1"]), asked_at);
        assert_eq!(after(&mut known, [failed()]), effect(false, News::Lost));
        for _ in 0..1000 {
            assert_eq!(after(&mut known, [failed()]), effect(false, None));
        }
        assert_eq!(endpoints(&known), ["192.0.2.1:80"]);
        assert_eq!(known.membership.learnt_at, Some(asked_at));
        assert_eq!(known.membership.last_error.as_deref(), Some("timed out"));
        assert_eq!(after(&mut known, [found(&["192.0.2.1"])]), effect(false, News::Back));
        assert_eq!(known.membership.last_error, None);
    }

    #[test]
    fn failed_look_ups_are_repeated_after_one_second_and_then_less_and_less_often() {
        for (refresh, longest) in [(1, 30), (5, 30), (60, 60)] {
            let mut known = NameState::new(80, Duration::from_secs(refresh), None);
            let mut pauses = Vec::new();
            for _ in 0..40 {
                known.apply(failed(), Instant::now());
                pauses.push(known.pause(0.5).as_secs());
            }
            assert_eq!(pauses[..4], [1, 2, 4, 8], "refresh {refresh}");
            assert_eq!(pauses.last(), Some(&longest), "refresh {refresh}");
        }
    }

    #[test]
    fn the_third_no_such_name_in_a_row_removes_the_endpoints() {
        let mut known = NameState::new(80, REFRESH, None);
        after(&mut known, [found(&["192.0.2.1"])]);
        assert_eq!(after(&mut known, [nothing()]), effect(false, News::Lost));
        assert_eq!(after(&mut known, [nothing()]), effect(false, None));
        assert_eq!(endpoints(&known), ["192.0.2.1:80"]);
        assert_eq!(after(&mut known, [nothing()]), effect(true, News::Emptied));
        assert!(known.membership.endpoints.is_empty());
        assert_eq!(known.membership.last_error.as_deref(), Some("no such name"));
        assert_eq!(after(&mut known, [nothing()]), effect(false, None));
        assert_eq!(after(&mut known, [found(&["192.0.2.1"])]), effect(true, News::Back));
    }

    #[test]
    fn a_failure_or_an_answer_restarts_the_count_of_no_such_name() {
        for between in [failed(), found(&["192.0.2.1"])] {
            let mut known = NameState::new(80, REFRESH, None);
            after(&mut known, [found(&["192.0.2.1"]), nothing(), nothing(), between, nothing(), nothing()]);
            assert_eq!(endpoints(&known), ["192.0.2.1:80"]);
        }
    }

    #[test]
    fn no_such_name_is_asked_again_within_seconds_even_if_refresh_is_long() {
        let mut known = NameState::new(80, Duration::from_secs(600), None);
        after(&mut known, [found(&["192.0.2.1"])]);
        assert_eq!(known.pause(0.5).as_secs(), 600);
        after(&mut known, [nothing()]);
        assert_eq!(known.pause(0.5).as_secs(), 5);
        after(&mut known, [nothing(), nothing()]);
        assert_eq!(known.pause(0.5).as_secs(), 600);
    }

    #[test]
    fn a_family_whose_question_failed_keeps_its_endpoints() {
        let mut known = NameState::new(80, REFRESH, None);
        after(&mut known, [found(&["192.0.2.1", "2001:db8::1"])]);
        assert_eq!(after(&mut known, [half(&["192.0.2.2"], Family::V6)]), effect(true, None));
        assert_eq!(endpoints(&known), ["192.0.2.2:80", "[2001:db8::1]:80"]);
        assert_eq!(known.membership.last_error.as_deref(), Some("timed out"));
        assert_eq!(known.pause(0.5), REFRESH);
        after(&mut known, [found(&["192.0.2.2"])]);
        assert_eq!(endpoints(&known), ["192.0.2.2:80"]);
    }

    #[test]
    fn a_thousand_addresses_are_used_and_the_excess_is_reported_once() {
        let many: Vec<String> = (0..MOST + 1).map(|i| format!("10.0.{}.{}", i / 256, i % 256)).collect();
        let many: Vec<&str> = many.iter().rev().map(String::as_str).collect();
        let mut known = NameState::new(80, REFRESH, None);
        assert_eq!(after(&mut known, [found(&many)]), effect(true, News::TooMany));
        assert_eq!(known.membership.endpoints.len(), MOST);
        assert_eq!(known.membership.endpoints[0].to_string(), "10.0.0.0:80");
        assert_eq!(after(&mut known, [found(&many)]), effect(false, None));
    }

    #[test]
    fn pauses_vary_by_a_tenth_and_have_bounds() {
        let known = NameState::new(80, Duration::from_secs(10), None);
        assert_eq!(known.pause(0.0), Duration::from_secs(9));
        assert_eq!(known.pause(1.0), Duration::from_secs(11));
        assert_eq!(NameState::new(80, Duration::ZERO, None).pause(0.5), SHORTEST);
        assert_eq!(NameState::new(80, Duration::MAX, None).pause(0.5), LONGEST);
    }
}
