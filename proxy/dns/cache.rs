//! Caches answers of name servers, for as long as these allow. Pure: callers pass `now`.
//!
//! Answers are stored as they came, so that their size in bytes is known. An answer that came over one transport is
//! also used for the other.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::{DNSClass, Name, RData, RecordType};
use tokio::time::Instant;

/// The most answers. Most applications call fewer names.
const MOST: usize = 4096;
/// The bytes of all answers together. A usual answer has 200 bytes.
const MOST_BYTES: usize = 2 * 1024 * 1024;
/// What an entry takes beside the bytes of its answer, roughly: key and bookkeeping.
const BESIDE: usize = 200;

/// No answer is cached for longer, whatever its records say: a wrong record with a time to live of a day must not stay
/// here for a day.
const LONGEST: Duration = Duration::from_secs(300);

/// Case is ignored, because hickory compares names so.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) name: Name,
    pub(super) kind: RecordType,
    pub(super) class: DNSClass,
    /// The bits DO, CD and AD of the query, which lead to different answers.
    pub(super) dnssec: [bool; 3],
}

#[derive(Debug, Default)]
pub(super) struct Cache {
    kept: HashMap<Key, Kept>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    raw: Arc<[u8]>,
    since: Instant,
    until: Instant,
}

impl Kept {
    fn bytes(&self) -> usize {
        self.raw.len() + BESIDE
    }
}

impl Cache {
    /// The cached answer and its age.
    pub(super) fn find(&self, key: &Key, now: Instant) -> Option<(Arc<[u8]>, Duration)> {
        let kept = self.kept.get(key).filter(|kept| now < kept.until)?;
        Some((kept.raw.clone(), now.duration_since(kept.since)))
    }

    pub(super) fn keep(&mut self, key: Key, raw: Arc<[u8]>, lifetime: Duration, now: Instant) {
        let kept = Kept { raw, since: now, until: now + lifetime.min(LONGEST) };
        self.make_room(kept.bytes(), now);
        self.bytes += kept.bytes();
        if let Some(before) = self.kept.insert(key, kept) {
            self.bytes -= before.bytes();
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Removes expired answers and then, if that is not enough, the half that expires next. This is rare, and frees
    /// much at once.
    fn make_room(&mut self, bytes: usize, now: Instant) {
        let has_room = |cache: &Self| cache.kept.len() < MOST && cache.bytes + bytes <= MOST_BYTES;
        if has_room(self) {
            return;
        }
        self.retain(|kept| now < kept.until);
        if !has_room(self) {
            let mut ends: Vec<Instant> = self.kept.values().map(|kept| kept.until).collect();
            ends.sort_unstable();
            let median = ends.get(ends.len() / 2).copied();
            self.retain(|kept| Some(kept.until) > median);
        }
    }

    fn retain(&mut self, is_kept: impl Fn(&Kept) -> bool) {
        self.kept.retain(|_, kept| is_kept(kept));
        self.bytes = self.kept.values().map(Kept::bytes).sum();
    }
}

/// How long an answer may be cached. `None`: not at all. It is the time of its shortest record. If there is no record
/// of the requested type, it is what the zone's SOA record says about such answers (RFC 2308).
pub(super) fn lifetime(message: &Message) -> Option<Duration> {
    let is_said = matches!(message.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain);
    if !is_said || message.metadata.truncation {
        return None;
    }
    let wanted = message.queries.first()?.query_type();
    let is_wanted = |kind| wanted == RecordType::ANY || kind == wanted;
    let has_it = message.metadata.response_code == ResponseCode::NoError
        && message.answers.iter().any(|record| is_wanted(record.record_type()));
    let negative = message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(authority) => Some(authority.minimum),
        _ => None,
    });
    let bound = if has_it { LONGEST_TTL } else { negative? };
    let shortest = message.all_sections().map(|record| seconds(record.ttl)).min()?.min(seconds(bound));
    (shortest > 0).then(|| Duration::from_secs(shortest.into()))
}

/// A larger time to live counts as zero (RFC 2181, section 8).
const LONGEST_TTL: u32 = i32::MAX as u32;

const fn seconds(ttl: u32) -> u32 {
    if ttl > LONGEST_TTL { 0 } else { ttl }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::op::{OpCode, Query};
    use hickory_resolver::proto::rr::Record;
    use hickory_resolver::proto::rr::rdata::{A, CNAME, SOA};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn key(text: &str) -> Key {
        Key { name: name(text), kind: RecordType::A, class: DNSClass::IN, dnssec: [false; 3] }
    }

    fn raw(length: usize) -> Arc<[u8]> {
        vec![0; length].into()
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// An answer to a query for A records with these sections: `A 60`, `CNAME 30`, `SOA 900 60` (the time to live of
    /// the record, and its time for negative answers).
    fn message(code: ResponseCode, answers: &[&str], authorities: &[&str]) -> Message {
        let record = |text: &&str| {
            let words: Vec<&str> = text.split(' ').collect();
            let number = |nth: usize| words[nth].parse::<u32>().unwrap();
            let data = match words[0] {
                "A" => RData::A(A::new(192, 0, 2, 1)),
                "CNAME" => RData::CNAME(CNAME(name("b.test."))),
                _ => RData::SOA(SOA::new(name("test."), name("test."), 1, 1, 1, 1, number(2))),
            };
            Record::from_rdata(name("a.test."), number(1), data)
        };
        let mut message = Message::response(1, OpCode::Query);
        message.metadata.response_code = code;
        message.add_query(Query::query(name("a.test."), RecordType::A));
        message.add_answers(answers.iter().map(record));
        message.add_authorities(authorities.iter().map(record));
        message
    }

    #[test]
    fn an_answer_lives_as_long_as_its_shortest_record() {
        use ResponseCode::{NXDomain, NoError, Refused, ServFail};
        for (code, answers, authorities, expected) in [
            (NoError, &["A 60"][..], &[][..], Some(60)),
            (NoError, &["CNAME 300", "A 60", "A 90"], &[], Some(60)),
            (NoError, &["A 60"], &["SOA 30 5"], Some(30)),
            (NoError, &["A 0"], &[], None),
            (NoError, &["A 4294967295"], &[], None),
            (NoError, &["A 86400"], &[], Some(86400)),
            (NXDomain, &[], &["SOA 900 60"], Some(60)),
            (NXDomain, &[], &["SOA 30 60"], Some(30)),
            (NXDomain, &["CNAME 20"], &["SOA 900 60"], Some(20)),
            (NXDomain, &[], &[], None),
            (NoError, &[], &["SOA 900 60"], Some(60)),
            (NoError, &["CNAME 20"], &["SOA 900 60"], Some(20)),
            (NoError, &["CNAME 20"], &[], None),
            (NoError, &[], &[], None),
            (ServFail, &[], &["SOA 900 60"], None),
            (Refused, &["A 60"], &[], None),
        ] {
            let found = lifetime(&message(code, answers, authorities));
            assert_eq!(found, expected.map(secs), "{code} {answers:?} {authorities:?}");
        }
        let mut cut = message(NoError, &["A 60"], &[]);
        cut.metadata.truncation = true;
        assert_eq!(lifetime(&cut), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_cached_until_it_expires_but_not_longer_than_five_minutes() {
        let mut cache = Cache::default();
        cache.keep(key("short."), raw(10), secs(30), Instant::now());
        cache.keep(key("long."), raw(10), secs(86400), Instant::now());
        tokio::time::advance(secs(29)).await;
        let found = cache.find(&key("SHORT."), Instant::now());
        assert_eq!(found.map(|(_, age)| age), Some(secs(29)), "in any case");
        let mut other = key("short.");
        other.dnssec = [true, false, false];
        assert!(cache.find(&other, Instant::now()).is_none());
        tokio::time::advance(secs(1)).await;
        assert!(cache.find(&key("short."), Instant::now()).is_none());
        tokio::time::advance(secs(269)).await;
        assert!(cache.find(&key("long."), Instant::now()).is_some());
        tokio::time::advance(secs(1)).await;
        assert!(cache.find(&key("long."), Instant::now()).is_none());
    }

    #[test]
    fn answers_are_bounded_in_number_and_in_bytes() {
        let now = Instant::now();
        for length in [100, 60_000] {
            let mut cache = Cache::default();
            for nth in 0..3 * MOST as u64 {
                cache.keep(key(&format!("name-{nth}.")), raw(length), secs(1 + nth % 300), now);
                assert!(cache.kept.len() <= MOST && cache.bytes <= MOST_BYTES);
            }
            let bytes: usize = cache.kept.values().map(Kept::bytes).sum();
            assert_eq!(cache.bytes, bytes);
            assert!(cache.kept.len() > 15, "the cache is not emptied every time: {}", cache.kept.len());
        }
    }

    #[test]
    fn expired_answers_are_removed_before_others() {
        let now = Instant::now();
        let mut cache = Cache::default();
        for nth in 0..MOST {
            let lifetime = if nth == 0 { secs(300) } else { secs(1) };
            cache.keep(key(&format!("name-{nth}.")), raw(10), lifetime, now);
        }
        let later = now + secs(2);
        cache.keep(key("new."), raw(10), secs(10), later);
        assert_eq!(cache.kept.len(), 2);
        assert!(cache.find(&key("name-0."), later).is_some());
    }

    #[test]
    fn a_new_answer_to_an_equal_query_replaces_the_old_one() {
        let mut cache = Cache::default();
        for _ in 0..10 {
            cache.keep(key("a."), raw(10), secs(10), Instant::now());
        }
        assert_eq!((cache.kept.len(), cache.bytes), (1, 10 + BESIDE));
    }
}
