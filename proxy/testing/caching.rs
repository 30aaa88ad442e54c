//! The cache of a service, seen by its callers: what is asked for again, who waits for whom, and what stands in for
//! errors.

mod newer;
mod turns;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use proptest::prelude::*;

use super::backend::{HANG_UP, UNAVAILABLE};
use super::mesh::{A, Mesh, Sidecar, caller, pass, secs, settle};
use super::peer::{Message, Peer};

const CACHED: &str = "endpoints: [10.0.0.1:80], retry: off, outlier_detection: off, cache: { max: 4MiB }";

/// An answer of `orders` with these further header lines.
fn answer(lines: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n{lines}\r\n{body}", body.len())
}

fn fixed(lines: &str, body: &str) -> &'static str {
    answer(lines, body).leak()
}

fn not_modified(lines: &str) -> &'static str {
    format!("HTTP/1.1 304 Not Modified\r\n{lines}\r\n").leak()
}

async fn ask(sidecar: &Sidecar, path: &str, lines: &str) -> Message {
    sidecar.client().await.ask(&format!("GET {path} HTTP/1.1\r\nhost: orders\r\n{lines}\r\n")).await
}

fn cache_status(answer: &Message) -> &str {
    answer.header("cache-status").unwrap_or_default()
}

fn counted(sidecar: &Sidecar, outcome: &str) -> u64 {
    sidecar.sum(&format!("pillion_cache_requests_total service=orders outcome={outcome}"))
}

#[tokio::test(start_paused = true)]
async fn a_fresh_answer_is_used_again_with_its_age_and_grows_stale() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, fixed("cache-control: max-age=60\r\nx: 1\r\n", "body"));
    let sidecar = mesh.caller(CACHED);
    let first = ask(&sidecar, "/x", "").await;
    assert_eq!((first.status(), cache_status(&first)), (Some(200), "pillion; fwd=uri-miss; stored"));
    pass(10).await;
    let second = ask(&sidecar, "/x", "").await;
    assert_eq!((&*second.body, second.header("age"), second.header("x")), ("body", Some("10"), Some("1")));
    assert_eq!((cache_status(&second), a.hits()), ("pillion; hit; ttl=50", 1));
    ask(&sidecar, "/x?y", "").await;
    assert_eq!(a.hits(), 2, "another query is another answer");
    pass(50).await;
    ask(&sidecar, "/x", "").await;
    assert_eq!(a.hits(), 3);
    settle().await;
    assert_eq!((counted(&sidecar, "hit"), counted(&sidecar, "miss")), (1, 3));
    assert_eq!(sidecar.sum("pillion_requests_total service=orders status=200"), 4);
    assert!(sidecar.sum("pillion_cache_bytes service=orders") > 1_000);
}

#[tokio::test(start_paused = true)]
async fn without_a_cache_nothing_is_kept_and_nothing_is_told() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, fixed("cache-control: max-age=60\r\n", "body"));
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    for _ in 0..2 {
        assert_eq!(ask(&sidecar, "/", "").await.header("cache-status"), None);
    }
    assert_eq!((a.hits(), sidecar.sum("pillion_cache_requests_total")), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stale_answer_is_validated_and_a_304_freshens_it() {
    let mesh = Mesh::default();
    let a = mesh.http1(A, |_, request: &Message| match request.header("if-none-match") {
        Some("\"a\"") => "HTTP/1.1 304 Not Modified\r\ncache-control: max-age=60\r\nx: 2\r\n\r\n",
        _ => fixed("cache-control: max-age=1\r\netag: \"a\"\r\nx: 1\r\ny: 1\r\n", "body"),
    });
    let sidecar = mesh.caller(CACHED);
    ask(&sidecar, "/", "").await;
    pass(5).await;
    let validated = ask(&sidecar, "/", "").await;
    assert_eq!((validated.status(), &*validated.body), (Some(200), "body"));
    assert_eq!((validated.header("x"), validated.header("y")), (Some("2"), Some("1")));
    assert_eq!(cache_status(&validated), "pillion; fwd=stale; fwd-status=304; ttl=60");
    assert_eq!(cache_status(&ask(&sidecar, "/", "").await), "pillion; hit; ttl=60");
    let known = ask(&sidecar, "/", "if-none-match: \"a\"\r\n").await;
    assert_eq!((known.status(), known.header("etag"), &*known.body), (Some(304), Some("\"a\""), ""));
    assert_eq!((a.hits(), counted(&sidecar, "revalidated")), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_304_about_another_answer_freshens_nothing_and_the_service_is_asked_without_conditions() {
    for lifetime in ["max-age=1", "max-age=1, stale-while-revalidate=60"] {
        let mesh = Mesh::default();
        let first = fixed(&format!("cache-control: {lifetime}\r\netag: \"a\"\r\n"), "old");
        let a = mesh.http1(A, move |nth, request: &Message| match request.header("if-none-match") {
            Some(_) => not_modified("cache-control: max-age=60\r\netag: \"b\"\r\n"),
            None if nth == 0 => first,
            None => fixed("cache-control: max-age=60\r\netag: \"b\"\r\n", "new"),
        });
        let sidecar = mesh.caller(CACHED);
        ask(&sidecar, "/", "").await;
        pass(5).await;
        ask(&sidecar, "/", "").await;
        settle().await;
        let next = ask(&sidecar, "/", "").await;
        assert_eq!((&*next.body, next.header("etag"), a.hits()), ("new", Some("\"b\""), 3), "{lifetime}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_and_a_range_are_answered_out_of_the_whole_answer() {
    let mesh = Mesh::default();
    let lines = "cache-control: max-age=60\r\ncontent-digest: x\r\ny: 1\r\n";
    let a = mesh.answering(A, fixed(lines, "0123456789"));
    let sidecar = mesh.caller(CACHED);
    ask(&sidecar, "/", "").await;
    let part = ask(&sidecar, "/", "range: bytes=2-4\r\n").await;
    assert_eq!((part.status(), &*part.body), (Some(206), "234"));
    assert_eq!(part.header("content-range"), Some("bytes 2-4/10"));
    assert_eq!(
        (part.header("content-digest"), part.header("y")),
        (None, Some("1")),
        "it is that of the whole"
    );
    let beyond = ask(&sidecar, "/", "range: bytes=10-\r\n").await;
    assert_eq!((beyond.status(), beyond.header("content-range")), (Some(416), Some("bytes */10")));
    assert_eq!(beyond.header("cache-control"), None, "the refusal of one range is not fresh for others");
    let whole = ask(&sidecar, "/", "range: bytes=0-1,3-4\r\n").await;
    assert_eq!(
        (whole.status(), &*whole.body, whole.header("content-digest")),
        (Some(200), "0123456789", Some("x"))
    );
    let mut client = sidecar.client().await;
    client.send("HEAD / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
    let head = client.head().await.expect("a head");
    assert!(head.starts_with("HTTP/1.1 200") && head.to_lowercase().contains("content-length: 10"), "{head}");
    assert_eq!(client.get("/").await.body, "0123456789", "the answer to HEAD had no body");
    assert_eq!(a.hits(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_unsafe_method_that_succeeds_forgets_its_target_and_those_that_it_names() {
    let mesh = Mesh::default();
    let a = mesh.http1(A, |_, request: &Message| match request.head.starts_with("POST /fails") {
        true => UNAVAILABLE,
        false => fixed("cache-control: max-age=60\r\nlocation: /b\r\ncontent-location: c\r\n", "x"),
    });
    let sidecar = mesh.caller(CACHED);
    for path in ["/a", "/b", "/c", "/fails"] {
        ask(&sidecar, path, "").await;
    }
    for path in ["/a", "/fails"] {
        let post = format!("POST {path} HTTP/1.1\r\nhost: orders\r\ncontent-length: 1\r\n\r\nx");
        assert_eq!(cache_status(&sidecar.client().await.ask(&post).await), "pillion; fwd=method");
    }
    let before = a.hits();
    for path in ["/a", "/b", "/c", "/fails"] {
        ask(&sidecar, path, "").await;
    }
    assert_eq!(a.hits() - before, 3, "what failed has changed nothing");
}

#[tokio::test(start_paused = true)]
async fn a_stale_answer_stands_in_for_errors_as_long_as_the_configuration_allows() {
    let mesh = Mesh::default();
    let how = Arc::new(AtomicUsize::new(0));
    let shared = how.clone();
    let _a = mesh.http1(A, move |_, _: &Message| match shared.load(Relaxed) {
        0 => fixed("cache-control: max-age=1\r\n", "body"),
        1 => UNAVAILABLE,
        _ => HANG_UP,
    });
    let sidecar = mesh.caller(&CACHED.replace("4MiB", "4MiB, stale_if_error: 1m"));
    ask(&sidecar, "/", "").await;
    pass(5).await;
    for (kind, expected) in [
        (1, "pillion; fwd=stale; fwd-status=503; ttl=-4"),
        (2, "pillion; fwd=stale; ttl=-4; detail=no-answer"),
    ] {
        how.store(kind, Relaxed);
        let stale = ask(&sidecar, "/", "").await;
        assert_eq!((stale.status(), &*stale.body, cache_status(&stale)), (Some(200), "body", expected));
    }
    assert_eq!(ask(&sidecar, "/", "cache-control: no-cache\r\n").await.status(), Some(502));
    pass(60).await;
    assert_eq!(ask(&sidecar, "/", "").await.status(), Some(502));
    assert_eq!(counted(&sidecar, "stale"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_stale_answer_stands_in_before_a_silent_service_uses_up_the_timeout() {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, nth| async move {
        while peer.message().await.is_some() {
            match nth {
                0 => peer.send(fixed("cache-control: max-age=1\r\nconnection: close\r\n", "body")).await,
                _ => std::future::pending().await,
            }
        }
    });
    let sidecar = mesh.caller(&CACHED.replace("4MiB", "4MiB, stale_if_error: 1m"));
    ask(&sidecar, "/", "").await;
    pass(5).await;
    let stale = ask(&sidecar, "/", "").await;
    assert_eq!((stale.status(), &*stale.body), (Some(200), "body"));
}

#[tokio::test(start_paused = true)]
async fn a_stale_answer_is_used_while_one_request_validates_it_in_the_background() {
    let mesh = Mesh::default();
    let a = mesh.http1(A, |nth, _: &Message| match nth {
        0 => fixed("cache-control: max-age=1, stale-while-revalidate=60\r\n", "old"),
        _ => fixed("cache-control: max-age=60\r\n", "new"),
    });
    let sidecar = mesh.caller(CACHED);
    ask(&sidecar, "/", "").await;
    pass(5).await;
    let stale = ask(&sidecar, "/", "").await;
    assert_eq!((&*stale.body, cache_status(&stale)), ("old", "pillion; hit; ttl=-4"));
    settle().await;
    assert_eq!(ask(&sidecar, "/", "").await.body, "new");
    assert_eq!((a.hits(), counted(&sidecar, "stale")), (2, 1));
    assert_eq!(
        sidecar.sum("pillion_requests_total service=orders"),
        3,
        "the validation is no request of the application"
    );
}

#[tokio::test(start_paused = true)]
async fn a_cookie_goes_to_the_client_alone_that_it_was_set_for() {
    for lines in
        ["cache-control: max-age=60\r\n", "cache-control: max-age=0\r\netag: \"a\"\r\n", "etag: \"a\"\r\n"]
    {
        let mesh = Mesh::default();
        let _a = mesh.http1(A, move |nth, request: &Message| match request.header("if-none-match") {
            Some(_) => not_modified(&format!("set-cookie: id={nth}\r\n")),
            None => fixed(&format!("{lines}set-cookie: id={nth}\r\n"), "body"),
        });
        let sidecar = mesh.caller(CACHED);
        let first = ask(&sidecar, "/", "").await;
        assert_eq!(first.header("set-cookie"), Some("id=0"));
        let told = "pillion; fwd=uri-miss; stored; detail=without-set-cookie";
        assert_eq!(cache_status(&first) == told, lines.starts_with("cache-control"), "{lines}");
        let second = ask(&sidecar, "/", "").await;
        let own = if lines.contains("max-age=60") { None } else { Some("id=1") };
        assert_eq!((second.status(), second.header("set-cookie"), &*second.body), (Some(200), own, "body"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_for_one_range_or_one_client_does_not_become_the_answer_of_all() {
    let mesh = Mesh::default();
    let a = mesh.http1(A, |_, request: &Message| {
        if request.header("range").is_some() {
            return "HTTP/1.1 416 Range Not Satisfiable\r\ncontent-length: 0\r\ncache-control: max-age=60\r\n\r\n";
        }
        match request.header("cookie") {
            Some(_) => "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\ncache-control: no-store\r\n\r\n",
            None => fixed("cache-control: max-age=60\r\n", "body"),
        }
    });
    let sidecar = mesh.caller(CACHED);
    assert_eq!(ask(&sidecar, "/", "range: bytes=99-\r\n").await.status(), Some(416));
    assert_eq!(ask(&sidecar, "/", "").await.body, "body");
    let refused = ask(&sidecar, "/", "cookie: a=b\r\ncache-control: no-cache\r\n").await;
    assert_eq!((refused.status(), a.hits()), (Some(403), 3));
    assert!(cache_status(&ask(&sidecar, "/", "").await).starts_with("pillion; hit"));
}

#[tokio::test(start_paused = true)]
async fn streams_and_bodies_that_are_cut_or_too_large_are_not_stored() {
    let large = "x".repeat(2_000);
    let chunked = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncache-control: max-age=60\r\n\r\n7d0\r\n{large}\r\n0\r\n\r\n"
    );
    for (lines, raw) in [
        ("an event stream", answer("cache-control: max-age=60\r\ncontent-type: text/event-stream\r\n", "x")),
        ("a long body", answer("cache-control: max-age=60\r\n", &large)),
        ("a long body of unknown length", chunked),
        ("trailers", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncache-control: max-age=60\r\ntrailer: a\r\n\r\n1\r\nx\r\n0\r\na: b\r\n\r\n".to_owned()),
    ] {
        let mesh = Mesh::default();
        let a = mesh.answering(A, raw.leak());
        let sidecar = mesh.caller(&CACHED.replace("4MiB", "4MiB, max_object: 1KiB"));
        for _ in 0..2 {
            assert_eq!(ask(&sidecar, "/", "").await.status(), Some(200));
        }
        assert_eq!(a.hits(), 2, "{lines}");
    }
    let mesh = Mesh::default();
    let a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.message().await;
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\ncache-control: max-age=60\r\n\r\nhalf").await;
    });
    let sidecar = mesh.caller(CACHED);
    for _ in 0..2 {
        let mut client = sidecar.client().await;
        client.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
        client.head().await;
        client.exactly(10).await;
    }
    assert_eq!(a.connections(), 2, "a body that was cut");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_a_slow_client_holds_counts_after_its_answer_was_forgotten() {
    const SIZE: usize = 1_000_000;
    let mesh = Mesh::default();
    let _a = mesh.answering(A, fixed("cache-control: max-age=60\r\n", &"x".repeat(SIZE)));
    let sidecar = mesh.caller(CACHED);
    ask(&sidecar, "/", "").await;
    let mut slow = sidecar.client().await;
    slow.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
    settle().await;
    let head = "POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 0\r\n\r\n";
    sidecar.client().await.ask(head).await;
    let kept = || sidecar.sum("pillion_cache_bytes service=orders");
    assert!((SIZE as u64..SIZE as u64 + 1_000).contains(&kept()), "{}", kept());
    assert_eq!(slow.answer().await.body.len(), SIZE);
    settle().await;
    assert_eq!(kept(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_pages_of_the_admin_port_show_what_a_cache_holds_and_may_hold() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, fixed("cache-control: max-age=60\r\n", "body"));
    let sidecar = mesh.caller(CACHED);
    ask(&sidecar, "/", "").await;
    let admin = sidecar.addresses.admin[0];
    let page = async |path: &str| {
        let mut operator = Peer::new(mesh.memory.connect(admin).await.expect("the admin port listens"));
        operator.ask(&format!("GET {path} HTTP/1.1\r\nhost: {admin}\r\n\r\n")).await.body
    };
    let clusters: serde_json::Value = serde_json::from_str(&page("/clusters").await).expect("JSON");
    let cache = &clusters["clusters"][0]["cache"];
    assert_eq!((&cache["entries"], &cache["max"]), (&1.into(), &(4 << 20).into()), "{cache}");
    assert!(cache["bytes"].as_u64().is_some_and(|bytes| (500..2_000).contains(&bytes)), "{cache}");
    let config = page("/config").await;
    assert!(config.contains("services.orders.cache.max") && config.contains("4MiB"), "{config}");
}

#[tokio::test(start_paused = true)]
async fn the_usual_port_of_a_host_makes_no_other_answer() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, fixed("cache-control: max-age=60\r\n", "body"));
    let sidecar = mesh.caller(CACHED);
    ask(&sidecar, "/", "").await;
    let mut client = sidecar.client().await;
    let answer = client.ask("GET / HTTP/1.1\r\nhost: Orders:80\r\n\r\n").await;
    assert_eq!((answer.status(), a.hits()), (Some(200), 1));
    client.ask("DELETE / HTTP/1.1\r\nhost: orders:80\r\n\r\n").await;
    ask(&sidecar, "/", "").await;
    assert_eq!(a.hits(), 3, "what is deleted by one name is gone by the other");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_takes_nothing_but_a_stored_answer_gets_504() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, fixed("cache-control: max-age=60\r\n", "body"));
    let sidecar = mesh.caller(CACHED);
    let only = "cache-control: only-if-cached\r\n";
    assert_eq!(ask(&sidecar, "/", only).await.status(), Some(504));
    ask(&sidecar, "/", "").await;
    assert_eq!((ask(&sidecar, "/", only).await.status(), a.hits()), (Some(200), 1));
}

#[tokio::test(start_paused = true)]
async fn a_route_that_rewrites_the_path_shares_what_the_service_is_asked_for() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, fixed("cache-control: max-age=60\r\n", "body"));
    let file = format!(
        "{}routes:\n  - {{ hosts: [orders], match: {{ path: {{ prefix: /old }} }}, to: orders, rewrite: {{ prefix: /new }} }}\n",
        caller(CACHED)
    );
    let sidecar = mesh.sidecar(&file, None);
    ask(&sidecar, "/new/x", "").await;
    assert!(cache_status(&ask(&sidecar, "/old/x", "").await).starts_with("pillion; hit"));
    assert_eq!(a.hits(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_reload_keeps_what_is_stored_and_one_without_the_key_frees_it() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, fixed("cache-control: max-age=600\r\n", "body"));
    let mut sidecar = mesh.caller(CACHED);
    ask(&sidecar, "/", "").await;
    sidecar.reload(&caller(&CACHED.replace("4MiB", "8MiB, stale_if_error: 1m"))).expect("a good file");
    ask(&sidecar, "/", "").await;
    assert_eq!(a.hits(), 1);
    let kept = |sidecar: &Sidecar| sidecar.sum("pillion_cache_bytes service=orders");
    assert!(kept(&sidecar) > 0);
    sidecar.reload(&caller("endpoints: [10.0.0.1:80]")).expect("a good file");
    assert_eq!(kept(&sidecar), 0);
    ask(&sidecar, "/", "").await;
    sidecar.reload(&caller(CACHED)).expect("a good file");
    ask(&sidecar, "/", "").await;
    assert_eq!(a.hits(), 3);
}

/// What one user may see of an answer, and how the service marks it.
#[derive(Debug, Clone, Copy)]
enum Mark {
    Private,
    VariesByUser,
    Authorized,
    NoStore,
    NotCached,
    ForAll,
    /// For all, with a cookie and a field for one user alone, also in a 304.
    SetsCookie,
    /// A guess makes it fresh; it is for the owner of a cookie, or for those without one.
    Guessed,
}

fn mark() -> impl Strategy<Value = Mark> {
    prop_oneof![
        Just(Mark::Private),
        Just(Mark::VariesByUser),
        Just(Mark::Authorized),
        Just(Mark::NoStore),
        Just(Mark::NotCached),
        Just(Mark::ForAll),
        Just(Mark::SetsCookie),
        Just(Mark::Guessed),
    ]
}

/// The answer says for whom it was made, unless it is for all.
fn made_for(mark: Mark, request: &Message) -> &'static str {
    let named = request.header("x-user").or_else(|| request.header("authorization"));
    let user = named.or_else(|| request.header("cookie")).unwrap_or("nobody");
    if request.header("range").is_some() && matches!(mark, Mark::ForAll) {
        return "HTTP/1.1 416 Range Not Satisfiable\r\ncontent-length: 0\r\ncache-control: max-age=60\r\n\r\n";
    }
    match mark {
        Mark::SetsCookie => {
            let own = format!(
                "cache-control: max-age=20, private=\"x-own\"\r\nx-own: {user}\r\nset-cookie: {user}\r\netag: \"a\"\r\n"
            );
            match request.header("if-none-match") {
                Some(_) => not_modified(&own),
                None => fixed(&own, "all"),
            }
        }
        Mark::Guessed => fixed("last-modified: Wed, 01 Jan 2020 00:00:00 GMT\r\n", user),
        Mark::Private => fixed("cache-control: private, max-age=60\r\n", user),
        Mark::VariesByUser => fixed("cache-control: max-age=60\r\nvary: x-user, authorization\r\n", user),
        Mark::Authorized => fixed("cache-control: max-age=60\r\n", user),
        Mark::NoStore => fixed("cache-control: no-store, max-age=60\r\n", user),
        Mark::NotCached => fixed("x: y\r\n", user),
        Mark::ForAll => fixed("cache-control: public, max-age=60\r\n", "all"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn the_private_answers_of_two_users_never_mix(
        marks in proptest::collection::vec(mark(), 3),
        requests in proptest::collection::vec((0_usize..3, 0_usize..4, 0_u64..90, proptest::bool::ANY), 1..25),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mesh = Mesh::default();
            let of = marks.clone();
            let _a = mesh.http1(A, move |_, request: &Message| {
                let place = (0..3).find(|place| request.head.starts_with(&format!("GET /{place} "))).unwrap_or(0);
                made_for(of[place], request)
            });
            let sidecar = mesh.caller(CACHED);
            for (place, user, seconds, is_ranged) in requests {
                let name = ["anna", "berta", "carl", "nobody"][user];
                // a mark by the header of credentials is for those who send credentials
                let field = match marks[place] {
                    Mark::Authorized => "authorization",
                    Mark::SetsCookie | Mark::Guessed => "cookie",
                    _ => "x-user",
                };
                let own = if name == "nobody" { String::new() } else { format!("{field}: {name}\r\n") };
                let range = if is_ranged { "range: bytes=0-99\r\n" } else { "" };
                let answer = ask(&sidecar, &format!("/{place}"), &format!("{own}{range}")).await;
                let is_refused = is_ranged && answer.status() == Some(416);
                let is_for_them = answer.body == name || answer.body == "all" || is_refused;
                assert!(is_for_them, "{} for {name} {:?}", answer.body, marks[place]);
                for field in ["set-cookie", "x-own"] {
                    assert!(answer.header(field).is_none_or(|of| of == name), "{field} for {name}");
                }
                tokio::time::sleep(secs(seconds)).await;
            }
        });
    }
}
