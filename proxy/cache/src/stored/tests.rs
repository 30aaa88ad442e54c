use std::time::Duration;

use super::*;

fn headers(fields: &[(&'static str, &'static str)]) -> Headers {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    Headers::Map(map)
}

fn times() -> Times {
    let now = Clock { at: Instant::now(), wall: 2_000_000_000 };
    Times { asked: now, received: now }
}

fn stored(fields: &[(&'static str, &'static str)]) -> Stored {
    let headers = headers(fields);
    let facts = AnswerFacts::of(StatusCode::OK, &headers);
    let (status, reason, selector) = (StatusCode::OK, None, Selector::default());
    Head { status, reason, headers, facts, selector, times: times() }.with(b"body")
}

fn all(of: &Stored, name: &str) -> Vec<String> {
    of.headers.named(name).map(|value| String::from_utf8_lossy(value).into_owned()).collect()
}

#[test]
fn what_concerns_one_connection_and_what_the_answer_withholds_is_not_stored() {
    let of = stored(&[
        ("connection", "A, close"),
        ("a", "1"),
        ("b", "2"),
        ("c", "3"),
        ("keep-alive", "x"),
        ("proxy-authenticate", "x"),
        ("age", "7"),
        ("cache-control", "max-age=60, no-cache=\"B\""),
        ("set-cookie", "a=b"),
    ]);
    for name in ["connection", "a", "b", "keep-alive", "proxy-authenticate", "age", "set-cookie"] {
        assert!(all(&of, name).is_empty(), "{name}");
    }
    assert_eq!(all(&of, "c"), ["3"]);
    assert_eq!(all(&of, "content-length"), ["4"], "so that an answer to HEAD has it");
}

#[test]
fn the_values_of_a_map_do_not_keep_what_was_read_from_a_connection() {
    let read = Bytes::from(b"max-age=60 and much more that was read".to_vec());
    let mut map = HeaderMap::new();
    let value = HeaderValue::from_maybe_shared(read.slice(..10)).unwrap();
    map.insert("cache-control", value.clone());
    map.append("x", HeaderValue::from_static("1"));
    map.append("x", HeaderValue::from_static(""));
    map.append("x", HeaderValue::from_static("22"));
    drop(value);
    let headers = Headers::Map(map);
    let facts = AnswerFacts::of(StatusCode::OK, &headers);
    let (status, reason, selector) = (StatusCode::OK, None, Selector::default());
    let of = Head { status, reason, headers, facts, selector, times: times() }.with(b"");
    assert!(read.is_unique(), "nothing else holds it");
    assert_eq!(all(&of, "cache-control"), ["max-age=60"]);
    assert_eq!(all(&of, "x"), ["1", "", "22"]);
}

#[test]
fn it_grows_older_on_the_monotonic_clock() {
    let of = stored(&[("cache-control", "max-age=60"), ("age", "7")]);
    assert_eq!(of.ttl(of.received.at), 53);
    let later = of.received.at + Duration::from_millis(60_999);
    assert_eq!((of.age(later), of.ttl(later)), (67, -7));
}

#[test]
fn a_304_replaces_the_fields_that_it_has_and_keeps_those_of_the_body() {
    let of = stored(&[
        ("cache-control", "max-age=1"),
        ("etag", "\"a\""),
        ("content-encoding", "br"),
        ("repr-digest", "sha-256=:1:"),
        ("x", "1"),
        ("x", "2"),
        ("y", "3"),
    ]);
    let by = headers(&[
        ("cache-control", "max-age=60"),
        ("etag", "\"other\""),
        ("content-length", "99"),
        ("content-encoding", "gzip"),
        ("repr-digest", "sha-256=:2:"),
        ("digest", "sha-256=2"),
        ("content-range", "bytes 0-1/99"),
        ("x", "9"),
        ("z", "8"),
        ("connection", "q"),
        ("q", "7"),
        ("age", "5"),
    ]);
    let later = Clock { at: of.received.at + Duration::from_secs(100), wall: of.received.wall + 100 };
    let of = of.freshened(&by, &headers(&[]), Times { asked: later, received: later });
    assert_eq!(of.ttl(later.at), 55);
    let of_body = [("etag", "\"a\""), ("content-length", "4"), ("content-encoding", "br")];
    let of_body = [&of_body[..], &[("repr-digest", "sha-256=:1:")]].concat();
    let expected = [&of_body[..], &[("x", "9"), ("y", "3"), ("z", "8")]].concat();
    assert!(all(&of, "content-range").is_empty() && all(&of, "digest").is_empty());
    for (name, value) in expected {
        assert_eq!(all(&of, name), [value], "{name}");
    }
    assert!(all(&of, "q").is_empty() && all(&of, "connection").is_empty() && of.body.bytes() == "body");
}

#[test]
fn a_304_with_another_tag_is_about_another_answer() {
    let is_meant = |own, other| stored(&[("etag", own)]).is_meant_by(&headers(&[("etag", other)]));
    assert!(is_meant("\"a\"", "\"a\"") && is_meant("\"a\"", "W/\"a\"") && is_meant("W/\"a\"", "\"a\""));
    assert!(!is_meant("\"a\"", "\"b\"") && !is_meant("W/\"a\"", "\"b\"") && !is_meant("\"a\"", "W/\"b\""));
    assert!(stored(&[]).is_meant_by(&headers(&[("etag", "\"a\"")])));
    assert!(stored(&[("etag", "\"a\"")]).is_meant_by(&headers(&[])));
}

#[test]
fn the_fields_that_a_304_has_for_one_client_go_to_that_client_alone() {
    let cookie = ("set-cookie", "a=b");
    for (before, newer) in [("max-age=1, private=\"x-user\"", "ext"), ("max-age=1", "no-cache=\"X-User\"")] {
        let of = stored(&[("cache-control", before), ("etag", "\"a\""), ("x-user", "anna")]);
        let lines: &[_] = match newer {
            "ext" => &[("x-user", "berta"), cookie, ("y", "1")],
            newer => &[("x-user", "berta"), cookie, ("y", "1"), ("cache-control", newer)],
        };
        let by = headers(lines);
        let fresh = of.freshened(&by, &headers(&[]), times());
        assert!(all(&fresh, "x-user").is_empty() && all(&fresh, "set-cookie").is_empty(), "{before} {newer}");
        assert_eq!(all(&fresh, "y"), ["1"]);
        let own: Vec<_> = fresh.own_fields(&by).iter().map(|(name, _)| name.as_str().to_owned()).collect();
        assert_eq!(own, ["x-user", "set-cookie"]);
    }
}

#[test]
fn a_304_that_varies_by_another_field_is_for_the_requests_that_have_its_value() {
    let of = stored(&[("cache-control", "max-age=1"), ("etag", "\"a\"")]);
    let anna = headers(&[("x-user", "anna")]);
    let fresh = of.freshened(&headers(&[("vary", "x-user")]), &anna, times());
    assert!(fresh.selector.fits(&anna) && !fresh.selector.fits(&headers(&[("x-user", "berta")])));
    let again = fresh.freshened(&headers(&[("x", "1")]), &anna, times());
    assert!(again.selector == fresh.selector && again.facts.vary == fresh.facts.vary);
    let unknown = of.freshened(&headers(&[("vary", "*")]), &anna, times());
    assert_eq!(unknown.facts.vary, Vary::Unknown);
}

#[test]
fn a_304_without_a_date_is_fresh_until_it_expires_and_no_longer() {
    let date = |at| httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(at)).leak();
    let (made, now) = (times().received.wall, times().received.at);
    let of = stored(&[("date", date(made)), ("expires", date(made + 60)), ("etag", "\"a\"")]);
    let later = Clock { at: now + Duration::from_secs(3_600), wall: made + 3_600 };
    let ttl = |newer: &[(&'static str, &'static str)]| {
        let by = headers(newer);
        of.freshened(&by, &headers(&[]), Times { asked: later, received: later }).ttl(later.at)
    };
    assert_eq!((of.ttl(of.received.at), ttl(&[("expires", date(made + 3_660))])), (60, 60));
    assert_eq!(ttl(&[("expires", date(made + 3_660)), ("date", date(made + 3_590))]), 60);
    assert_eq!(ttl(&[]), 0, "it has expired, and nothing newer is said");
}

#[test]
fn a_304_that_varies_by_less_leaves_the_answer_to_those_who_chose_it() {
    let anna = headers(&[("x-user", "anna"), ("accept", "a")]);
    let of = stored(&[("cache-control", "max-age=1"), ("vary", "x-user")]);
    let of = of.freshened(&headers(&[("vary", "X-User")]), &anna, times());
    for (newer, expected) in [("accept", "x-user, accept"), ("", "x-user"), ("x-user", "x-user")] {
        let fresh = of.freshened(&headers(&[("vary", newer)]), &anna, times());
        let fresh = fresh.freshened(&headers(&[("x", "1")]), &anna, times());
        assert!(fresh.selector.fits(&anna), "{newer}");
        assert!(!fresh.selector.fits(&headers(&[("x-user", "berta"), ("accept", "a")])), "{newer}");
        assert_eq!(all(&fresh, "vary"), [expected], "caches behind this one read it, too");
    }
}

#[test]
fn an_answer_to_head_describes_the_stored_one_only_if_it_has_its_validator() {
    let (etag, length) = (("etag", "\"a\""), ("content-length", "4"));
    let (modified, later) = (("last-modified", "x"), ("last-modified", "y"));
    for (own, head, expected) in [
        (&[etag][..], &[][..], Described::Vaguely),
        (&[], &[length], Described::Vaguely),
        (&[], &[etag], Described::Otherwise),
        (&[etag], &[etag, length], Described::AsItIs),
        (&[etag], &[("etag", "\"b\"")], Described::Otherwise),
        (&[etag], &[etag, ("content-length", "5")], Described::Otherwise),
        (&[modified], &[modified], Described::AsItIs),
        (&[etag, modified], &[etag], Described::AsItIs),
        (&[etag, modified], &[modified], Described::Vaguely),
        (&[etag, modified], &[etag, later], Described::Otherwise),
    ] {
        assert_eq!(stored(own).described_by(&headers(head)), expected, "{own:?} {head:?}");
    }
}

#[test]
fn everything_that_a_head_makes_it_keep_counts() {
    let bytes = |reason, cache_control| {
        let headers = headers(&[("cache-control", cache_control)]);
        let facts = AnswerFacts::of(StatusCode::OK, &headers);
        let (status, selector) = (StatusCode::OK, Selector::default());
        Head { status, reason, headers, facts, selector, times: times() }.with(b"").bytes()
    };
    let (plain, named) = ("max-age=60, ext=\"xxxxxxxx\"", "max-age=60, private=\"xxxx\"");
    let read = Bytes::from(b"Fine and what was read with it".to_vec());
    assert_eq!(bytes(Some(read.slice(..4)), plain), bytes(None, plain) + 4);
    assert!(read.is_unique(), "nothing else holds it");
    assert!(bytes(None, named) > bytes(None, plain), "the names that are withheld are kept apart");
}

#[test]
fn the_share_of_an_answer_covers_itself_and_the_pieces_that_it_keeps() {
    assert!(size_of::<Stored>() + 256 < OVERHEAD, "{}", size_of::<Stored>());
}

#[test]
fn many_validations_do_not_make_it_larger() {
    let mut of = stored(&[("cache-control", "max-age=1"), ("etag", "\"a\"")]);
    let by = headers(&[("cache-control", "max-age=60"), ("x", "1")]);
    of = of.freshened(&by, &headers(&[]), times());
    let bytes = of.bytes();
    (0..50).for_each(|_| of = of.freshened(&by, &headers(&[]), times()));
    assert_eq!(of.bytes(), bytes);
}
