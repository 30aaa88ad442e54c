//! What is known of a name, and what each answer makes of it. Pure: callers bring `now` and chance.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::answer::{Answer, Family};

/// Endpoints of one name; the first ones in order are taken, so that every sidecar takes the same. Ten times what
/// Kubernetes puts into one EndpointSlice.
pub(super) const MOST: usize = 1000;

/// "No such name" in a row, until it is believed. A headless service scaled to zero says so for good; a DNS server
/// that restarts, or has not yet heard from the API server, says so for a moment, and an emptied cluster fails every
/// request. Requests to endpoints that really left fail by themselves until then.
pub(super) const BELIEVED: u32 = 3;

/// While "no such name" is in doubt, a long `refresh` does not prolong the doubt.
const DOUBT: Duration = Duration::from_secs(5);

/// First pause after a failure; each further one is twice as long.
const BACKOFF: Duration = Duration::from_secs(1);

/// Longest pause between failures, unless `refresh` is longer.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// No refresh is shorter (a DNS server is shared by many) or longer.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Pauses differ by up to this part, either way: sidecars that started together must not ask together.
const JITTER: f64 = 0.1;

/// The endpoints of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// In order, none twice, at most 1000. Outlives every failure; empty if the name never resolved, or has no
    /// addresses any more.
    pub endpoints: Arc<[SocketAddr]>,
    /// When a server last told them.
    pub learnt_at: Option<Instant>,
    /// Why the last question brought no answer, or half of one.
    pub last_error: Option<String>,
}

impl Membership {
    pub(super) fn unknown() -> Self {
        Self { endpoints: Arc::default(), learnt_at: None, last_error: None }
    }

    /// Whether a first question has come to anything, good or bad.
    pub fn was_asked(&self) -> bool {
        self.learnt_at.is_some() || self.last_error.is_some()
    }
}

/// What is worth a line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// Answers stopped. Told once.
    Lost,
    /// Answers are back.
    Back,
    /// "No such name" is believed now: the endpoints are gone.
    Emptied,
    /// More addresses than are taken.
    TooMany,
}

/// What an answer changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) changed: bool,
    pub(super) news: Option<News>,
}

/// The state of one name between questions.
#[derive(Debug)]
pub(super) struct NameState {
    port: u16,
    refresh: Duration,
    pub(super) membership: Membership,
    /// In a row.
    failures: u32,
    /// "No such name" in a row.
    denials: u32,
    too_many: bool,
}

impl NameState {
    pub(super) fn new(port: u16, refresh: Duration, before: Option<Membership>) -> Self {
        let refresh = refresh.clamp(SHORTEST, LONGEST);
        let membership = before.unwrap_or_else(Membership::unknown);
        Self { port, refresh, membership, failures: 0, denials: 0, too_many: false }
    }

    pub(super) fn hear(&mut self, answer: Answer, now: Instant) -> Heard {
        match answer {
            Answer::Found { addresses, unheard } => self.found(addresses, unheard, now),
            Answer::Nothing(why) => self.denied(why, now),
            Answer::Failed(why) => self.failed(why),
        }
    }

    /// Until the next question. `luck` is between 0 and 1.
    pub(super) fn pause(&self, luck: f64) -> Duration {
        self.exact_pause().mul_f64(1.0 - JITTER + 2.0 * JITTER * luck.clamp(0.0, 1.0))
    }

    fn exact_pause(&self) -> Duration {
        if self.failures > 0 {
            let doubled = BACKOFF.saturating_mul(1_u32.checked_shl(self.failures - 1).unwrap_or(u32::MAX));
            return doubled.min(self.refresh.max(LONGEST_BACKOFF));
        }
        let in_doubt = self.denials > 0 && !self.membership.endpoints.is_empty();
        if in_doubt { self.refresh.min(DOUBT) } else { self.refresh }
    }

    /// What could not be asked is as it was: the endpoints of that family stay.
    fn found(&mut self, mut found: Vec<IpAddr>, unheard: Option<(Family, String)>, now: Instant) -> Heard {
        let was_lost = self.is_lost();
        if let Some((family, _)) = &unheard {
            let known = self.membership.endpoints.iter().map(SocketAddr::ip);
            found.extend(known.filter(|ip| Family::of(*ip) == *family));
        }
        self.failures = 0;
        self.denials = 0;
        self.membership.learnt_at = Some(now);
        self.membership.last_error = unheard.map(|(_, why)| why);
        let back = was_lost.then_some(News::Back);
        let too_many = self.count(&mut found).then_some(News::TooMany);
        let endpoints = found.into_iter().map(|ip| SocketAddr::new(ip, self.port)).collect();
        Heard { changed: self.replace(endpoints), news: back.or(too_many) }
    }

    fn denied(&mut self, why: String, now: Instant) -> Heard {
        let first = !self.is_lost();
        self.failures = 0;
        self.denials = self.denials.saturating_add(1);
        self.membership.last_error = Some(why);
        if self.denials >= BELIEVED && !self.membership.endpoints.is_empty() {
            self.membership.learnt_at = Some(now);
            return Heard { changed: self.replace(Arc::default()), news: Some(News::Emptied) };
        }
        Heard { changed: false, news: first.then_some(News::Lost) }
    }

    /// A server that fails between denials is not one to believe: they count from one again.
    fn failed(&mut self, why: String) -> Heard {
        let first = !self.is_lost();
        self.denials = 0;
        self.failures = self.failures.saturating_add(1);
        self.membership.last_error = Some(why);
        Heard { changed: false, news: first.then_some(News::Lost) }
    }

    fn is_lost(&self) -> bool {
        self.failures > 0 || self.denials > 0
    }

    /// Orders and bounds; whether it is newly too many.
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
        Answer::Found { addresses, unheard: None }
    }

    fn half(ips: &[&str], family: Family) -> Answer {
        let Answer::Found { addresses, .. } = found(ips) else { unreachable!() };
        Answer::Found { addresses, unheard: Some((family, "timed out".into())) }
    }

    fn failed() -> Answer {
        Answer::Failed("timed out".into())
    }

    fn nothing() -> Answer {
        Answer::Nothing("no such name".into())
    }

    fn heard(changed: bool, news: impl Into<Option<News>>) -> Heard {
        Heard { changed, news: news.into() }
    }

    /// Hears all of it; what the last one changed.
    fn after(known: &mut NameState, answers: impl IntoIterator<Item = Answer>) -> Heard {
        let mut last = Heard::default();
        for answer in answers {
            last = known.hear(answer, Instant::now());
        }
        last
    }

    fn endpoints(known: &NameState) -> Vec<String> {
        known.membership.endpoints.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn endpoints_are_in_order_and_a_new_order_is_no_change() {
        let mut known = NameState::new(80, REFRESH, None);
        let first = after(&mut known, [found(&["192.0.2.2", "2001:db8::1", "192.0.2.1", "192.0.2.2"])]);
        assert_eq!(first, heard(true, None));
        assert_eq!(endpoints(&known), ["192.0.2.1:80", "192.0.2.2:80", "[2001:db8::1]:80"]);
        let again = after(&mut known, [found(&["192.0.2.1", "192.0.2.2", "2001:db8::1"])]);
        assert_eq!(again, heard(false, None));
        assert_eq!(after(&mut known, [found(&["192.0.2.2"])]), heard(true, None));
        assert_eq!(endpoints(&known), ["192.0.2.2:80"]);
    }

    #[test]
    fn a_failure_keeps_the_endpoints_for_ever_and_is_told_once() {
        let mut known = NameState::new(80, REFRESH, None);
        let asked_at = Instant::now();
        known.hear(found(&["192.0.2.1"]), asked_at);
        assert_eq!(after(&mut known, [failed()]), heard(false, News::Lost));
        for _ in 0..1000 {
            assert_eq!(after(&mut known, [failed()]), heard(false, None));
        }
        assert_eq!(endpoints(&known), ["192.0.2.1:80"]);
        assert_eq!(known.membership.learnt_at, Some(asked_at));
        assert_eq!(known.membership.last_error.as_deref(), Some("timed out"));
        assert_eq!(after(&mut known, [found(&["192.0.2.1"])]), heard(false, News::Back));
        assert_eq!(known.membership.last_error, None);
    }

    #[test]
    fn failures_are_asked_again_after_a_second_then_ever_later() {
        for (refresh, longest) in [(1, 30), (5, 30), (60, 60)] {
            let mut known = NameState::new(80, Duration::from_secs(refresh), None);
            let mut pauses = Vec::new();
            for _ in 0..40 {
                known.hear(failed(), Instant::now());
                pauses.push(known.pause(0.5).as_secs());
            }
            assert_eq!(pauses[..4], [1, 2, 4, 8], "refresh {refresh}");
            assert_eq!(pauses.last(), Some(&longest), "refresh {refresh}");
        }
    }

    #[test]
    fn a_name_denied_is_believed_the_third_time() {
        let mut known = NameState::new(80, REFRESH, None);
        after(&mut known, [found(&["192.0.2.1"])]);
        assert_eq!(after(&mut known, [nothing()]), heard(false, News::Lost));
        assert_eq!(after(&mut known, [nothing()]), heard(false, None));
        assert_eq!(endpoints(&known), ["192.0.2.1:80"]);
        assert_eq!(after(&mut known, [nothing()]), heard(true, News::Emptied));
        assert!(known.membership.endpoints.is_empty());
        assert_eq!(known.membership.last_error.as_deref(), Some("no such name"));
        assert_eq!(after(&mut known, [nothing()]), heard(false, None));
        assert_eq!(after(&mut known, [found(&["192.0.2.1"])]), heard(true, News::Back));
    }

    #[test]
    fn a_failure_or_an_answer_between_denials_counts_them_anew() {
        for between in [failed(), found(&["192.0.2.1"])] {
            let mut known = NameState::new(80, REFRESH, None);
            after(&mut known, [found(&["192.0.2.1"]), nothing(), nothing(), between, nothing(), nothing()]);
            assert_eq!(endpoints(&known), ["192.0.2.1:80"]);
        }
    }

    #[test]
    fn doubt_is_settled_within_seconds_whatever_the_refresh() {
        let mut known = NameState::new(80, Duration::from_secs(600), None);
        after(&mut known, [found(&["192.0.2.1"])]);
        assert_eq!(known.pause(0.5).as_secs(), 600);
        after(&mut known, [nothing()]);
        assert_eq!(known.pause(0.5).as_secs(), 5);
        after(&mut known, [nothing(), nothing()]);
        assert_eq!(known.pause(0.5).as_secs(), 600);
    }

    #[test]
    fn a_family_that_could_not_be_asked_keeps_its_endpoints() {
        let mut known = NameState::new(80, REFRESH, None);
        after(&mut known, [found(&["192.0.2.1", "2001:db8::1"])]);
        assert_eq!(after(&mut known, [half(&["192.0.2.2"], Family::V6)]), heard(true, None));
        assert_eq!(endpoints(&known), ["192.0.2.2:80", "[2001:db8::1]:80"]);
        assert_eq!(known.membership.last_error.as_deref(), Some("timed out"));
        assert_eq!(known.pause(0.5), REFRESH);
        after(&mut known, [found(&["192.0.2.2"])]);
        assert_eq!(endpoints(&known), ["192.0.2.2:80"]);
    }

    #[test]
    fn a_thousand_addresses_are_taken_and_the_rest_told_once() {
        let many: Vec<String> = (0..MOST + 1).map(|i| format!("10.0.{}.{}", i / 256, i % 256)).collect();
        let many: Vec<&str> = many.iter().rev().map(String::as_str).collect();
        let mut known = NameState::new(80, REFRESH, None);
        assert_eq!(after(&mut known, [found(&many)]), heard(true, News::TooMany));
        assert_eq!(known.membership.endpoints.len(), MOST);
        assert_eq!(known.membership.endpoints[0].to_string(), "10.0.0.0:80");
        assert_eq!(after(&mut known, [found(&many)]), heard(false, None));
    }

    #[test]
    fn pauses_differ_by_a_tenth_and_have_bounds() {
        let known = NameState::new(80, Duration::from_secs(10), None);
        assert_eq!(known.pause(0.0), Duration::from_secs(9));
        assert_eq!(known.pause(1.0), Duration::from_secs(11));
        assert_eq!(NameState::new(80, Duration::ZERO, None).pause(0.5), SHORTEST);
        assert_eq!(NameState::new(80, Duration::MAX, None).pause(0.5), LONGEST);
    }
}
