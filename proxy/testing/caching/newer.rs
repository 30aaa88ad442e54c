//! What newer answers of the service do to what is stored: they freshen it, replace it or show that it holds no more.

use super::super::backend::UNAVAILABLE;
use super::super::mesh::{A, Mesh, Sidecar, pass, settle};
use super::super::peer::{Message, Peer};
use super::{CACHED, ask, fixed};

async fn head(sidecar: &Sidecar) {
    let mut client = sidecar.client().await;
    client.send("HEAD / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
    client.head().await.expect("a head");
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_head_freshens_a_stale_answer_only_if_it_has_its_validator() {
    for (validator, expected) in [("", "new"), ("etag: \"a\"\r\n", "old")] {
        let mesh = Mesh::default();
        let first = fixed(&format!("cache-control: max-age=1\r\n{validator}"), "old");
        let of_head =
            format!("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncache-control: max-age=60\r\n{validator}\r\n");
        let of_head: &str = of_head.leak();
        let _a = mesh.http1(A, move |nth, _: &Message| match nth {
            0 => first,
            1 => of_head,
            _ => fixed("cache-control: max-age=60\r\n", "new"),
        });
        let sidecar = mesh.caller(CACHED);
        ask(&sidecar, "/", "").await;
        pass(5).await;
        head(&sidecar).await;
        assert_eq!(ask(&sidecar, "/", "").await.body, expected, "{validator}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_answer_that_is_forgotten_meanwhile_does_not_stand_in_for_an_error() {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        while let Some(request) = peer.message().await {
            if request.header("x-late").is_none() {
                peer.send(fixed("cache-control: max-age=1\r\n", "old")).await;
                continue;
            }
            pass(2).await;
            peer.send(UNAVAILABLE).await;
        }
    });
    let sidecar = mesh.caller(&CACHED.replace("4MiB", "4MiB, stale_if_error: 1m"));
    for is_forgotten in [false, true] {
        ask(&sidecar, "/", "").await;
        pass(3).await;
        let mut late = Vec::new();
        for _leads_and_waits in 0..2 {
            let mut client = sidecar.client().await;
            client.send("GET / HTTP/1.1\r\nhost: orders\r\nx-late: 1\r\n\r\n").await;
            settle().await;
            late.push(client);
        }
        if is_forgotten {
            sidecar.client().await.ask("DELETE / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
        }
        for mut client in late {
            let answer = client.answer().await;
            let expected = if is_forgotten { 503 } else { 200 };
            assert_eq!(answer.status(), Some(expected), "forgotten: {is_forgotten}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_newer_answer_that_is_not_stored_for_its_size_its_trailers_or_its_choice_takes_the_older_one_away()
{
    let chunked = |head: &str, body: &str, trailers: &str| {
        let size = body.len();
        format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncache-control: max-age=60\r\n{head}\r\n{size:x}\r\n{body}\r\n0\r\n{trailers}\r\n"
        )
    };
    let large = "x".repeat(2_000);
    for (kind, newer) in [
        ("its size", fixed("cache-control: max-age=60\r\n", &large)),
        ("its size, that is not known", chunked("", &large, "").leak()),
        ("its trailers", chunked("trailer: a\r\n", "new", "a: b\r\n").leak()),
        ("its choice", fixed("cache-control: max-age=60\r\nvary: x-long\r\n", "new")),
    ] {
        let mesh = Mesh::default();
        let _a = mesh.http1(A, move |nth, _: &Message| match nth {
            0 => fixed("cache-control: max-age=60\r\n", "old"),
            _ => newer,
        });
        let sidecar = mesh.caller(&CACHED.replace("4MiB", "4MiB, max_object: 1KiB"));
        ask(&sidecar, "/", "").await;
        let long = format!("cache-control: no-cache\r\nx-long: {}\r\n", "x".repeat(5_000));
        ask(&sidecar, "/", &long).await;
        settle().await;
        assert_ne!(ask(&sidecar, "/", "").await.body, "old", "{kind}");
    }
}
