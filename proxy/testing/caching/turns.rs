//! Of many equal requests one leads: who waits, for how long, and what the others get.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use super::super::backend::UNAVAILABLE;
use super::super::mesh::{A, Mesh, Sidecar, pass, secs, settle};
use super::super::peer::Peer;
use super::{CACHED, ask, cache_status, counted, fixed};

const FRESH: &str = "cache-control: max-age=60\r\n";
const HALF: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncache-control: max-age=60\r\n\r\nbo";

/// An endpoint that answers each request after a second.
fn slow(mesh: &Mesh, answer: &'static str) -> Arc<AtomicUsize> {
    slow_by(mesh, move |_| answer)
}

/// So, with another answer for each number.
fn slow_by<F>(mesh: &Mesh, answer: F) -> Arc<AtomicUsize>
where
    F: Fn(usize) -> &'static str + Copy + Send + Sync + 'static,
{
    let asked = Arc::new(AtomicUsize::new(0));
    let shared = asked.clone();
    drop(mesh.scripted(A, move |mut peer: Peer, _| {
        let asked = shared.clone();
        async move {
            while peer.message().await.is_some() {
                let nth = asked.fetch_add(1, Relaxed);
                pass(1).await;
                if peer.try_send(answer(nth)).await.is_err() {
                    return;
                }
            }
        }
    }));
    asked
}

/// A hundred equal requests at once. Returns their clients.
async fn herd(sidecar: &Sidecar) -> Vec<Peer> {
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut client = sidecar.client().await;
        client.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
        clients.push(client);
    }
    settle().await;
    clients
}

#[tokio::test(start_paused = true)]
async fn of_many_equal_requests_one_is_sent() {
    let mesh = Mesh::default();
    let asked = slow(&mesh, fixed(FRESH, "body"));
    let sidecar = mesh.caller(CACHED);
    let mut collapsed = 0;
    for mut client in herd(&sidecar).await {
        let answer = client.answer().await;
        assert_eq!(answer.body, "body");
        collapsed += usize::from(cache_status(&answer).contains("collapsed"));
    }
    assert_eq!((asked.load(Relaxed), collapsed, counted(&sidecar, "hit")), (1, 99, 99));
}

#[tokio::test(start_paused = true)]
async fn if_the_answer_is_not_for_all_the_others_are_sent_at_once_and_later_ones_do_not_wait() {
    let mesh = Mesh::default();
    let asked = slow(&mesh, fixed("cache-control: private\r\n", "body"));
    let sidecar = mesh.caller(CACHED);
    let began = Instant::now();
    for mut client in herd(&sidecar).await {
        assert_eq!(client.answer().await.body, "body");
    }
    assert!(began.elapsed() < Duration::from_millis(2_500), "{:?}", began.elapsed());
    assert_eq!(asked.load(Relaxed), 100);
    let began = Instant::now();
    for mut client in herd(&sidecar).await {
        client.answer().await;
    }
    assert!(began.elapsed() < Duration::from_millis(1_500), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_never_fresh_or_have_trailers_or_are_cut_are_fetched_together() {
    let cut = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncache-control: max-age=60\r\n\r\n4\r\nbody\r\nx\r\n";
    let trailers = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncache-control: max-age=60\r\ntrailer: a\r\n\r\n4\r\nbody\r\n0\r\na: b\r\n\r\n";
    for answer in [fixed("etag: \"a\"\r\n", "body"), trailers, cut] {
        let mesh = Mesh::default();
        let asked = slow(&mesh, answer);
        let sidecar = mesh.caller(CACHED);
        let began = Instant::now();
        for mut client in herd(&sidecar).await {
            assert!(client.head().await.expect("a head").starts_with("HTTP/1.1 200"));
        }
        assert!(began.elapsed() < Duration::from_millis(2_500), "{:?} {answer}", began.elapsed());
        assert_eq!(asked.load(Relaxed), 100, "{answer}");
    }
}

/// An endpoint that sends `first` to the first request and then nothing more, and answers all others.
fn stalling(mesh: &Mesh, first: &'static str) {
    let is_first = Arc::new(AtomicBool::new(true));
    drop(mesh.scripted(A, move |mut peer: Peer, _| {
        let is_first = is_first.clone();
        async move {
            while peer.message().await.is_some() {
                if is_first.swap(false, Relaxed) {
                    peer.send(first).await;
                    std::future::pending::<()>().await;
                }
                peer.send(fixed(FRESH, "body")).await;
            }
        }
    }));
}

/// The time until all but the first one of a herd have their answers.
async fn time_of_the_others(sidecar: &Sidecar) -> Duration {
    let mut clients = herd(sidecar).await;
    let began = Instant::now();
    for client in clients.iter_mut().skip(1) {
        assert_eq!(client.answer().await.body, "body");
    }
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn no_request_waits_for_a_leader_without_an_answer_for_longer_than_five_seconds() {
    let mesh = Mesh::default();
    stalling(&mesh, "");
    let sidecar = mesh.caller(CACHED);
    let took = time_of_the_others(&sidecar).await;
    assert!(took >= secs(4) && took < secs(6), "{took:?}");
    assert!(cache_status(&ask(&sidecar, "/", "").await).starts_with("pillion; hit"));
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_body_is_slow_does_not_hold_the_others_up() {
    let mesh = Mesh::default();
    stalling(&mesh, HALF);
    let took = time_of_the_others(&mesh.caller(CACHED)).await;
    assert!(took < secs(2), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn leaders_that_leave_one_after_another_do_not_prolong_the_wait_of_the_others() {
    let mesh = Mesh::default();
    let (asked, last) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let shared = (asked.clone(), last.clone());
    let _a = mesh.scripted(A, move |mut peer: Peer, _| {
        let (asked, last) = shared.clone();
        async move {
            let request = peer.message().await.expect("a request");
            last.store(request.header("x-nth").and_then(|nth| nth.parse().ok()).expect("a number"), Relaxed);
            asked.fetch_add(1, Relaxed);
            peer.send(HALF).await;
            std::future::pending::<()>().await;
        }
    });
    let sidecar = mesh.caller(CACHED);
    let mut clients = Vec::new();
    for nth in 0..50 {
        let mut client = sidecar.client().await;
        client.send(&format!("GET / HTTP/1.1\r\nhost: orders\r\nx-nth: {nth}\r\n\r\n")).await;
        clients.push(Some(client));
    }
    settle().await;
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(900)).await;
        clients[last.load(Relaxed)] = None;
    }
    assert!(asked.load(Relaxed) > 40, "{} were sent after 7 seconds", asked.load(Relaxed));
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_for_a_leader_in_whose_place_a_stale_answer_stands_get_it_too() {
    let mesh = Mesh::default();
    let asked = slow_by(&mesh, |nth| match nth {
        0 => fixed("cache-control: max-age=3\r\n", "body"),
        _ => UNAVAILABLE,
    });
    let sidecar = mesh.caller(&CACHED.replace("4MiB", "4MiB, stale_if_error: 1m"));
    ask(&sidecar, "/", "").await;
    pass(5).await;
    for mut client in herd(&sidecar).await {
        let answer = client.answer().await;
        assert_eq!((answer.status(), &*answer.body), (Some(200), "body"));
    }
    assert_eq!((asked.load(Relaxed), counted(&sidecar, "stale")), (2, 100), "one asks for all");
}

#[tokio::test(start_paused = true)]
async fn when_the_client_of_the_leader_leaves_another_request_leads() {
    let mesh = Mesh::default();
    let asked = slow(&mesh, fixed(FRESH, "body"));
    let sidecar = mesh.caller(CACHED);
    let mut clients = herd(&sidecar).await;
    drop(clients.remove(0));
    for mut client in clients {
        assert_eq!(client.answer().await.body, "body");
    }
    assert_eq!(asked.load(Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_for_a_validation_in_the_background_that_fails_get_the_stale_answer() {
    let mesh = Mesh::default();
    let asked = Arc::new(AtomicUsize::new(0));
    let shared = asked.clone();
    let _a = mesh.scripted(A, move |mut peer: Peer, _| {
        let asked = shared.clone();
        async move {
            while peer.message().await.is_some() {
                if asked.fetch_add(1, Relaxed) == 0 {
                    peer.send(fixed("cache-control: max-age=1, stale-while-revalidate=4\r\n", "body")).await;
                    continue;
                }
                pass(3).await;
                peer.send(UNAVAILABLE).await;
            }
        }
    });
    let sidecar = mesh.caller(&CACHED.replace("4MiB", "4MiB, stale_if_error: 1m"));
    ask(&sidecar, "/", "").await;
    pass(5).await;
    assert_eq!(cache_status(&ask(&sidecar, "/", "").await), "pillion; hit; ttl=-4");
    pass(1).await;
    for mut client in herd(&sidecar).await {
        let answer = client.answer().await;
        assert_eq!((answer.status(), &*answer.body), (Some(200), "body"));
    }
    assert_eq!(asked.load(Relaxed), 2, "none of them is sent");
}

#[tokio::test(start_paused = true)]
async fn a_stale_answer_that_stands_in_says_nothing_about_another_choice_of_the_target() {
    let mesh = Mesh::default();
    let asked = slow_by(&mesh, |nth| match nth {
        0 | 1 => fixed("cache-control: max-age=3\r\nvary: x\r\n", "old"),
        2 => UNAVAILABLE,
        _ => fixed("cache-control: max-age=3\r\nvary: x\r\n", "new"),
    });
    let sidecar = mesh.caller(&CACHED.replace("4MiB", "4MiB, stale_if_error: 1m"));
    ask(&sidecar, "/", "x: 1\r\n").await;
    ask(&sidecar, "/", "x: 2\r\n").await;
    pass(5).await;
    let [mut one, mut other] = [sidecar.client().await, sidecar.client().await];
    one.send("GET / HTTP/1.1\r\nhost: orders\r\nx: 1\r\n\r\n").await;
    settle().await;
    other.send("GET / HTTP/1.1\r\nhost: orders\r\nx: 2\r\n\r\n").await;
    assert_eq!((one.answer().await.body.as_str(), other.answer().await.body.as_str()), ("old", "new"));
    assert_eq!(asked.load(Relaxed), 4);
}
