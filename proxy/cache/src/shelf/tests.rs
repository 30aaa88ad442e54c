use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::*;
use crate::stored::{Head, Times};
use crate::vary::{Selector, Vary};
use crate::{AnswerFacts, Clock};

fn headers(name: &'static str, value: &str) -> Headers {
    let value = HeaderValue::from_str(value).unwrap();
    Headers::Map([(HeaderName::from_static(name), value)].into_iter().collect::<HeaderMap>())
}

fn stored(body: &[u8], selector: Selector) -> Arc<Stored> {
    let now = Clock { at: Instant::now(), wall: 2_000_000_000 };
    let headers = headers("cache-control", "max-age=60");
    let facts = AnswerFacts::of(StatusCode::OK, &headers);
    let (status, reason) = (StatusCode::OK, None);
    let head = Head { status, reason, headers, facts, selector, times: Times { asked: now, received: now } };
    Arc::new(head.with(body))
}

fn put(shelf: &Shelf, key: KeyRef<'_>, stored: Arc<Stored>) -> bool {
    shelf.put(key, stored, None, || true)
}

fn key(target: &str) -> KeyRef<'_> {
    KeyRef { host: b"orders", target: target.as_bytes() }
}

fn nothing() -> Headers {
    Headers::default()
}

#[test]
fn a_scan_of_many_targets_stays_within_the_bound_and_leaves_what_is_used_often() {
    let shelf = Shelf::new(4 << 20, 64 << 10);
    let hot: Vec<String> = (0..50).map(|nth| format!("/hot/{nth}")).collect();
    for target in &hot {
        put(&shelf, key(target), stored(&[b'h'; 10_000], Selector::default()));
    }
    let count = || hot.iter().filter(|target| shelf.get(key(target)).is_some()).count();
    (0..5).for_each(|_| assert!(count() > 45));
    for nth in 0..5_000 {
        put(&shelf, key(&format!("/scan/{nth}")), stored(&[b's'; 10_000], Selector::default()));
        assert!(shelf.bytes() <= 4 << 20, "{}", shelf.bytes());
        if nth % 50 == 0 {
            count();
        }
    }
    assert!(count() > 40, "{}", count());
}

#[test]
fn an_answer_above_the_share_of_a_part_is_not_kept() {
    let shelf = Shelf::new(1 << 16, 1 << 20);
    assert!(!put(&shelf, key("/"), stored(&[0; 1 << 17], Selector::default())));
    assert!(shelf.get(key("/")).is_none() && shelf.bytes() <= 1 << 16);
}

#[test]
fn each_choice_of_a_target_is_kept_up_to_a_bound_and_the_newest_replaces_its_like() {
    let shelf = Shelf::new(4 << 20, 64 << 10);
    let vary = Vary::Fields(vec!["foo".into()]);
    let chosen = |value: &str| Selector::of(&vary, &headers("foo", value)).unwrap();
    let found = |value: &str| {
        let entry = shelf.get(key("/")).unwrap();
        entry.find(&headers("foo", value)).map(|stored| stored.body.bytes().clone())
    };
    put(&shelf, key("/"), stored(b"1", chosen("1")));
    put(&shelf, key("/"), stored(b"2", chosen("2")));
    assert_eq!((found("1"), found("2"), found("3")), (Some("1".into()), Some("2".into()), None));
    put(&shelf, key("/"), stored(b"new", chosen("1")));
    assert_eq!((found("1"), found("2")), (Some("new".into()), Some("2".into())));
    for nth in 0..100 {
        put(&shelf, key("/"), stored(b"x", chosen(&format!("v{nth}"))));
    }
    let entry = shelf.get(key("/")).unwrap();
    assert!(entry.variants.len() == MOST_VARIANTS && found("v99").is_some());
    put(&shelf, key("/"), stored(b"for all", Selector::default()));
    assert_eq!(found("v99").as_deref(), Some(&b"for all"[..]), "it does not vary any more");
}

fn stored_at(departed: Instant, body: &[u8], selector: Selector) -> Arc<Stored> {
    let at = Clock { at: departed, wall: 2_000_000_000 };
    let headers = headers("cache-control", "max-age=60");
    let facts = AnswerFacts::of(StatusCode::OK, &headers);
    let (status, reason) = (StatusCode::OK, None);
    let times = Times { asked: at, received: at };
    Arc::new(Head { status, reason, headers, facts, selector, times }.with(body))
}

#[test]
fn an_answer_of_an_earlier_request_replaces_none_of_a_later_one() {
    let shelf = Shelf::new(4 << 20, 64 << 10);
    let (early, late) = (Instant::now(), Instant::now() + std::time::Duration::from_secs(1));
    let chosen =
        |value: &str| Selector::of(&Vary::Fields(vec!["foo".into()]), &headers("foo", value)).unwrap();
    let all = Selector::default;
    assert!(put(&shelf, key("/"), stored_at(late, b"new", all())));
    assert!(!put(&shelf, key("/"), stored_at(early, b"old", all())));
    assert!(!put(&shelf, key("/"), stored_at(early, b"old", chosen("1"))), "it would hide the newer one");
    assert_eq!(shelf.get(key("/")).unwrap().find(&nothing()).unwrap().body.bytes(), "new");
    assert!(put(&shelf, key("/x"), stored_at(late, b"1", chosen("1"))));
    assert!(put(&shelf, key("/x"), stored_at(early, b"2", chosen("2"))), "for other requests");
    assert!(!put(&shelf, key("/x"), stored_at(early, b"old", all())));
}

#[test]
fn a_freshened_answer_takes_the_place_of_what_it_began_from_and_of_nothing_else() {
    let shelf = Shelf::new(4 << 20, 64 << 10);
    let at = Instant::now();
    let [one, other, fresh] = [b"1", b"2", b"3"].map(|body| stored_at(at, body, Selector::default()));
    put(&shelf, key("/"), one.clone());
    assert!(!shelf.put(key("/"), fresh.clone(), Some(&other), || true));
    assert!(shelf.put(key("/"), fresh.clone(), Some(&one), || true));
    assert!(!shelf.put(key("/"), one, Some(&other), || true));
    shelf.remove(key("/"));
    assert!(!shelf.put(key("/"), other, Some(&fresh), || true), "it was forgotten meanwhile");
}

#[test]
fn other_bounds_make_parts_of_another_size_and_keep_what_there_is() {
    let shelf = Shelf::new(64 << 20, 1 << 20);
    put(&shelf, key("/"), stored(b"1", Selector::default()));
    assert_eq!(shelf.share(), 8 << 20);
    let hash = shelf.hash(key("/"));
    shelf.set_bounds(64 << 20, 8 << 20);
    assert!(shelf.get(key("/")).is_some() && shelf.share() == 64 << 20);
    assert_eq!(shelf.hash(key("/")), hash, "invalidations are remembered by it");
    assert!(put(&shelf, key("/large"), stored(&[0; 12 << 20], Selector::default())));
}

#[test]
fn a_target_passes_for_a_while_and_keeps_its_answers() {
    let (shelf, now) = (Shelf::new(1 << 20, 1 << 10), Instant::now());
    put(&shelf, key("/"), stored(b"1", Selector::default()));
    shelf.pass(key("/"), now, Duration::from_secs(1));
    let entry = shelf.get(key("/")).unwrap();
    assert!(entry.passes(now) && !entry.passes(now + std::time::Duration::from_secs(1)));
    assert!(entry.find(&nothing()).is_some());
    put(&shelf, key("/"), stored(b"2", Selector::default()));
    assert!(!shelf.get(key("/")).unwrap().passes(now), "it can be stored again");
}

#[test]
fn a_purge_removes_what_fits() {
    let shelf = Shelf::new(1 << 20, 1 << 10);
    for target in ["/a", "/a?x=1", "/b"] {
        put(&shelf, key(target), stored(b"1", Selector::default()));
    }
    assert_eq!(shelf.purge(&Pattern::parse("/a")), 2);
    assert!(shelf.get(key("/a")).is_none() && shelf.get(key("/b")).is_some());
    assert!(shelf.remove(key("/b")) && !shelf.remove(key("/b")));
    assert_eq!(shelf.purge(&Pattern::All), 0);
}

#[test]
fn bodies_that_slow_readers_hold_are_within_the_bound_after_they_were_evicted() {
    let (most, shelf) = (4 << 20, Shelf::new(4 << 20, 1 << 20));
    let mut readers = Vec::new();
    let mut nth = 0;
    let mut store = |readers: &mut Vec<bytes::Bytes>, is_read: bool| {
        nth += 1;
        let new = stored(&[b'x'; 60_000], Selector::default());
        let reader = new.body.bytes().slice(..100); // a part holds all of it
        let is_kept = put(&shelf, key(&format!("/{nth}")), new);
        readers.extend(Some(reader).filter(|_| is_kept && is_read));
        assert!(shelf.bytes() <= most, "{}", shelf.bytes());
        is_kept
    };
    (0..60).for_each(|_| assert!(store(&mut readers, true)));
    let _some_are_kept = (0..500).filter(|nth| store(&mut readers, nth % 7 == 0)).count();
    let held = |readers: &[bytes::Bytes]| 60_000 * readers.len() as u64;
    assert!(held(&readers) <= most, "{} are read", readers.len());
    let _some_are_kept = (0..500).filter(|_| store(&mut readers, true)).count();
    assert!(held(&readers) <= most && held(&readers) > most / 2, "{} are read", readers.len());
    assert!(!store(&mut readers, true), "there is room for nothing else");
    readers.clear();
    (0..100).for_each(|_| assert!(store(&mut readers, false), "what was held is free"));
}

#[test]
fn marks_of_targets_that_pass_are_within_the_bound_beside_bodies_that_slow_readers_hold() {
    let (most, shelf, now) = (4 << 20, Shelf::new(4 << 20, 1 << 20), Instant::now());
    let mut readers = Vec::new();
    for nth in 0..60 {
        let new = stored(&[b'x'; 60_000], Selector::default());
        readers.push(new.body.bytes().slice(..100));
        assert!(put(&shelf, key(&format!("/{nth}")), new) && shelf.remove(key(&format!("/{nth}"))));
    }
    for nth in 0..5_000 {
        shelf.pass(key(&format!("/passes/{nth}")), now, Duration::from_secs(1));
        assert!(shelf.bytes() <= most, "{} after {nth} marks", shelf.bytes());
    }
}

#[test]
fn room_that_was_reserved_for_readers_is_used_again_when_they_are_done() {
    let (shelf, began) = (Shelf::new(4 << 20, 1 << 20), Instant::now());
    let at = |seconds| began + Duration::from_secs(seconds);
    let fill = |seconds, name: &str| {
        (0..100).for_each(|nth| {
            let new = stored_at(at(seconds), &[b'x'; 60_000], Selector::default());
            put(&shelf, key(&format!("/{name}/{nth}")), new);
        });
    };
    let slow = stored_at(began, &[b'x'; 60_000], Selector::default());
    let reader = slow.body.bytes().clone();
    assert!(put(&shelf, key("/slow"), slow));
    fill(0, "a");
    shelf.remove(key("/slow"));
    fill(1, "b");
    assert!(shelf.bytes() <= 4 << 20);
    drop(reader);
    fill(2, "c");
    assert!(shelf.bytes() < 4_000_000, "for a while it stays free: {}", shelf.bytes());
    fill(12, "d");
    assert!(shelf.bytes() > 4_000_000, "{}", shelf.bytes());
}

#[test]
fn a_cache_with_a_large_bound_gives_up_everything_too() {
    let shelf = Shelf::new(2 << 30, 1 << 20);
    for nth in 0..50 {
        put(&shelf, key(&format!("/{nth}")), stored(&[0; 60_000], Selector::default()));
    }
    let freed: u64 = (0..3).map(|_| shelf.shrink()).sum();
    assert!(freed > 3_000_000, "{freed}");
    assert_eq!(shelf.bytes(), 0);
    assert!(shelf.grow() && put(&shelf, key("/"), stored(b"x", Selector::default())));
}

#[test]
fn it_shrinks_when_memory_is_short_and_grows_again() {
    let shelf = Shelf::new(8 << 20, 64 << 10);
    let fill = || {
        (0..2_000).for_each(|nth| {
            put(&shelf, key(&format!("/{nth}")), stored(&[0; 8_000], Selector::default()));
        })
    };
    fill();
    let before = shelf.bytes();
    assert!(before > 6 << 20, "{before}");
    assert!(shelf.shrink() > 0 && shelf.bytes() <= before / 2);
    let freed: u64 = (0..10).map(|_| shelf.shrink()).sum();
    assert!(freed > 0);
    assert_eq!(shelf.bytes(), 0);
    fill();
    assert_eq!(shelf.bytes(), 0, "until memory is well again");
    (0..4).for_each(|_| assert!(shelf.grow()));
    assert!(!shelf.grow());
    fill();
    assert!(shelf.bytes() > 6 << 20, "{}", shelf.bytes());
    shelf.set_bounds(2 << 20, 64 << 10);
    assert!(shelf.bytes() <= 2 << 20);
}

/// How many of 100 requests are answered, of which few targets get most.
fn hits(shelf: &Shelf) -> u64 {
    let (mut state, mut found) = (1_u64, 0);
    for nth in 0..60_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let part = (state >> 48) * (state >> 48) / 65_536 * (state >> 48) / 65_536;
        let target = format!("/{}", part / 2);
        match shelf.get(key(&target)) {
            Some(_) if nth >= 30_000 => found += 1,
            Some(_) => {}
            None => _ = put(shelf, key(&target), stored(&[0; 1_024], Selector::default())),
        }
    }
    found / 300
}

#[test]
fn after_a_shortage_of_memory_it_remembers_evicted_keys_as_before() {
    let shelf = Shelf::new(8 << 20, 64 << 10);
    let before = hits(&shelf);
    (0..10).for_each(|_| _ = shelf.shrink());
    while shelf.grow() {}
    let after = hits(&shelf);
    assert!(after + 1 >= before, "{before} of 100 before, {after} after");
}

#[test]
fn slow_readers_that_come_and_go_do_not_change_the_room_for_ever() {
    let (shelf, began) = (Shelf::new(4 << 20, 1 << 20), Instant::now());
    let mut slow = None;
    let changes: Vec<u32> = (0..100)
        .map(|round| {
            let at = began + Duration::from_secs(11 * round);
            let read = stored_at(at, &[b'x'; 60_000], Selector::default());
            let reader = read.body.bytes().clone();
            assert!(put(&shelf, key("/slow"), read));
            shelf.remove(key("/slow"));
            for nth in 0..80 {
                let new = stored_at(at, &[b'x'; 60_000], Selector::default());
                put(&shelf, key(&format!("/{nth}")), new);
                assert!(shelf.bytes() <= 4 << 20);
            }
            slow = Some(reader); // the one before is done
            shelf.writing.lock().changes
        })
        .collect();
    assert!(slow.is_some() && shelf.parts.read().entries.capacity() > 3 << 20);
    assert!(changes[0] > 0 && changes[3..].iter().all(|count| *count == changes[3]), "{changes:?}");
}

#[test]
fn marks_of_targets_that_pass_are_not_counted_as_kept() {
    let shelf = Shelf::new(1 << 20, 1 << 10);
    put(&shelf, key("/"), stored(b"1", Selector::default()));
    shelf.pass(key("/own"), Instant::now(), Duration::from_secs(1));
    assert_eq!(shelf.entries(), 1);
    shelf.pass(key("/"), Instant::now(), Duration::from_secs(1));
    put(&shelf, key("/own"), stored(b"1", Selector::default()));
    shelf.set_bounds(4 << 20, 1 << 20);
    assert_eq!(shelf.entries(), 2);
    shelf.remove(key("/"));
    assert_eq!(shelf.entries(), 1);
}

#[test]
fn other_bounds_do_not_end_a_shortage_of_memory() {
    let shelf = Shelf::new(8 << 20, 64 << 10);
    put(&shelf, key("/"), stored(&[0; 8_000], Selector::default()));
    assert!(shelf.shrink() > 0);
    for (most, largest) in [(16 << 20, 64 << 10), (16 << 20, 1 << 20)] {
        shelf.set_bounds(most, largest);
        assert!(!put(&shelf, key("/"), stored(&[0; 8_000], Selector::default())));
    }
    assert!(shelf.grow() && put(&shelf, key("/"), stored(b"1", Selector::default())));
}

#[test]
fn what_is_evicted_while_it_is_read_is_not_given_up_yet() {
    let shelf = Shelf::new(8 << 20, 1 << 20);
    let new = stored(&[0; 60_000], Selector::default());
    let reader = new.body.bytes().clone();
    assert!(put(&shelf, key("/"), new));
    let freed = shelf.shrink();
    assert!(freed > 0 && freed < 10_000, "{freed}");
    drop(reader);
}
