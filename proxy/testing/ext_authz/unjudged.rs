//! An external authorizer over HTTP that does not answer, or whose answer cannot be read or forwarded.

use std::time::Duration;

use tokio::time::Instant;

use super::super::backend::{Backend, HANG_UP, OK};
use super::super::mesh::{A, Mesh, Sidecar, pass, secs};
use super::super::peer::Peer;
use super::{ALL, ALLOWS, AUTHORIZER, ask, file};

const UNAVAILABLE: (u16, Option<&str>) = (503, Some("authz_unavailable"));

/// An authorizer that says this, and then waits, closes the connection, or resets it.
fn saying(mesh: &Mesh, text: &'static str, then: &'static str) -> Backend {
    mesh.scripted(AUTHORIZER, move |mut peer: Peer, _| async move {
        peer.message().await;
        drop(peer.try_send(text).await);
        match then {
            "waits" => tokio::time::sleep(secs(60)).await,
            "closes" => {}
            _ => peer.reset(),
        }
    })
}

/// A failing authorizer, as a script.
fn failing(mesh: &Mesh, how: &'static str) -> Option<Backend> {
    match how {
        "refuses" => None,
        "is silent" => Some(mesh.silent(AUTHORIZER)),
        "hangs up" => Some(mesh.answering(AUTHORIZER, HANG_UP)),
        "resets" => Some(saying(mesh, "", "resets")),
        "trickles" => Some(mesh.scripted(AUTHORIZER, |mut peer: Peer, _| async move {
            peer.message().await;
            for byte in "HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n".bytes() {
                tokio::time::sleep(Duration::from_millis(50)).await;
                if peer.try_send([byte]).await.is_err() {
                    return;
                }
            }
        })),
        "breaks off its head" => Some(saying(mesh, "HTTP/1.1 403 No\r\nx-a: ", "closes")),
        "resets in its head" => Some(saying(mesh, "HTTP/1.1 403 No\r\nx-a: ", "resets")),
        "breaks off its content" => {
            Some(saying(mesh, "HTTP/1.1 403 No\r\nx-why: no\r\ncontent-length: 5\r\n\r\n1", "closes"))
        }
        "trickles its content" => {
            Some(saying(mesh, "HTTP/1.1 403 No\r\ncontent-length: 5\r\n\r\n1", "waits"))
        }
        answer => Some(mesh.answering(AUTHORIZER, answer)),
    }
}

fn with_content(status: &str, bytes: usize) -> &'static str {
    format!("HTTP/1.1 {status}\r\ncontent-length: {bytes}\r\n\r\n{}", "x".repeat(bytes)).leak()
}

#[tokio::test(start_paused = true)]
async fn a_denial_whose_content_cannot_be_forwarded_denies_also_where_failures_are_allowed() {
    for how in [with_content("302 No", 65 * 1024), "breaks off its content", "trickles its content"] {
        let mesh = Mesh::default();
        let (app, _authorizer) = (mesh.answering(A, OK), failing(&mesh, how));
        let sidecar = mesh.sidecar(&file("on_error: allow,", ALL), None);
        let before = Instant::now();
        let answer = sidecar.client().await.get("/a").await;
        assert_eq!((answer.status_and_reason(), app.hits()), ((403, Some("authz_denied")), 0), "{how:.60}");
        assert_eq!(answer.header("x-why"), None, "{how:.60}");
        assert!(before.elapsed() < secs(1), "{how:.60}: {:?}", before.elapsed());
        assert_eq!(sidecar.sum("pillion_ext_authz_checks_total outcome=denied"), 1, "{how:.60}");
    }
}

/// Asks once with each way of `on_error`, and expects this outcome of the check.
async fn fails(how: &'static str, outcome: &str, if_allowed: (u16, Option<&str>)) {
    for (on_error, expected) in [("", UNAVAILABLE), ("on_error: allow,", if_allowed)] {
        let mesh = Mesh::default();
        let (app, _authorizer) = (mesh.answering(A, OK), failing(&mesh, how));
        let sidecar = mesh.sidecar(&file(on_error, ALL), None);
        let before = Instant::now();
        let answer = sidecar.client().await.get("/a").await;
        assert_eq!(answer.status_and_reason(), expected, "{how:.60} {on_error}");
        assert_eq!(app.hits(), usize::from(expected.0 == 200), "{how:.60} {on_error}");
        assert!(before.elapsed() < secs(1), "{how:.60}: {:?}", before.elapsed());
        let sum = |outcome: &str| sidecar.sum(&format!("pillion_ext_authz_checks_total {outcome}"));
        assert_eq!((sum(&format!("outcome={outcome}")), sum("")), (1, 1), "{how:.60}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_authorizer_that_fails_denies_unless_the_file_says_allow() {
    for how in [
        "refuses",
        "is silent",
        "hangs up",
        "resets",
        "HTTP/1.1 500 Broken\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy",
        with_content("503 Busy", 65 * 1024),
    ] {
        fails(how, "failed", (200, None)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_read_denies_also_where_failures_are_allowed() {
    let fields: &'static str =
        format!("HTTP/1.1 403 No\r\n{}content-length: 0\r\n\r\n", "a: b\r\n".repeat(1000)).leak();
    for how in [
        "trickles",
        "breaks off its head",
        "resets in its head",
        "garbage\r\n\r\n",
        "HTTP/1.1 999 What\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 099 What\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n12345",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n12345",
        "HTTP/1.1 403 No\r\ncontent-length: 5x\r\n\r\n12345",
        "HTTP/1.1 403 No\r\ntransfer-encoding: gzip\r\n\r\n12345",
        fields,
    ] {
        fails(how, "unreadable", UNAVAILABLE).await;
    }
}

/// The client chooses how long the head of the denial is.
#[tokio::test(start_paused = true)]
async fn a_client_cannot_make_a_denial_pass_by_what_the_authorizer_repeats() {
    let mesh = Mesh::default();
    let app = mesh.answering(A, OK);
    let authorizer = mesh.http1(AUTHORIZER, |_, question| {
        let target = question.head.split(' ').nth(1).expect("a target").replace('&', "%26");
        format!("HTTP/1.1 302 Found\r\nlocation: /login?to={target}\r\ncontent-length: 0\r\n\r\n").leak()
    });
    let yaml = file("on_error: allow,", ALL) + "\nlimits: { header_bytes: 1MiB }\n";
    let sidecar = mesh.sidecar(&yaml, None);
    for (length, expected) in [(1, (302, Some("authz_denied"))), (45_000, UNAVAILABLE)] {
        let answer = ask(&sidecar, &format!("GET /a?{}", "&".repeat(length))).await;
        assert_eq!((answer.status_and_reason(), app.hits()), (expected, 0), "{length}");
    }
    assert_eq!(authorizer.hits(), 2);
}

#[tokio::test(start_paused = true)]
async fn status_200_allows_whatever_its_content_is() {
    let late = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n1";
    for (text, then, connections) in [
        (with_content("200 OK", 64 * 1024), "waits", 1),
        (with_content("200 OK", 256 * 1024), "waits", 2),
        (late, "closes", 2),
        (late, "waits", 2),
    ] {
        for on_error in ["", "on_error: allow,"] {
            let mesh = Mesh::default();
            let app = mesh.answering(A, OK);
            let authorizer = mesh.scripted(AUTHORIZER, move |mut peer: Peer, _| async move {
                while peer.message().await.is_some() {
                    let is_gone = peer.try_send(text).await.is_err();
                    if is_gone || then == "closes" {
                        return;
                    }
                }
            });
            let sidecar = mesh.sidecar(&file(on_error, ALL), None);
            for nth in 1..=2 {
                let answer = sidecar.client().await.get("/a").await;
                assert_eq!((answer.status_and_reason(), app.hits()), ((200, None), nth), "{text:.60} {then}");
            }
            assert_eq!(authorizer.connections(), connections, "{text:.60} {then}");
            assert_eq!(sidecar.sum("pillion_ext_authz_checks_total outcome=allowed"), 2, "{text:.60} {then}");
        }
    }
}

/// What `/a` gets, and how long it waited.
async fn timed(sidecar: &Sidecar) -> ((u16, Option<String>), Duration) {
    let before = Instant::now();
    let answer = sidecar.client().await.get("/a").await;
    let (status, reason) = answer.status_and_reason();
    ((status, reason.map(str::to_owned)), before.elapsed())
}

#[tokio::test(start_paused = true)]
async fn an_authorizer_that_cannot_be_reached_is_not_dialled_for_every_request() {
    for (on_error, expected) in [("", UNAVAILABLE), ("on_error: allow,", (200, None))] {
        let expected = (expected.0, expected.1.map(str::to_owned));
        let mesh = Mesh::default();
        let _app = mesh.answering(A, OK);
        let sidecar = mesh.sidecar(&file(on_error, ALL), None);
        let sum = |outcome: &str| sidecar.sum(&format!("pillion_ext_authz_checks_total outcome={outcome}"));
        for nth in 1..=8 {
            assert_eq!(timed(&sidecar).await.0, expected, "{nth}");
        }
        assert_eq!((sum("failed"), sum("circuit_open")), (5, 3));
        let tunnel = ask(&sidecar, "CONNECT orders:80").await;
        assert_eq!(tunnel.status_and_reason(), (403, Some("authz_denied")), "it could not be asked about");
        pass(1).await;
        assert_eq!((timed(&sidecar).await.0, sum("failed")), (expected.clone(), 6), "one probe");
        let authorizer = mesh.answering(AUTHORIZER, ALLOWS);
        pass(1).await;
        assert_eq!((timed(&sidecar).await.0, authorizer.hits()), (expected.clone(), 0), "2 s this time");
        pass(1).await;
        for nth in 1..=3 {
            assert_eq!((timed(&sidecar).await.0, authorizer.hits()), ((200, None), nth), "it is back");
        }
    }
}

/// A client can make an authorizer slow, and must not decide for others by that.
#[tokio::test(start_paused = true)]
async fn an_authorizer_that_does_not_answer_some_requests_is_asked_about_all() {
    for on_error in ["", "on_error: allow,"] {
        let mesh = Mesh::default();
        let (_app, authorizer) = (mesh.answering(A, OK), mesh.silent(AUTHORIZER));
        let sidecar = mesh.sidecar(&file(on_error, ALL), None);
        for _ in 0..10 {
            let (_answer, waited) = timed(&sidecar).await;
            assert!(waited >= Duration::from_millis(200), "{waited:?}");
        }
        assert!(authorizer.connections() > 0);
        let sum = |outcome: &str| sidecar.sum(&format!("pillion_ext_authz_checks_total outcome={outcome}"));
        assert_eq!((sum("failed"), sum("circuit_open")), (10, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_no_verdict_do_not_stop_the_questions() {
    for answer in ["garbage\r\n\r\n", "HTTP/1.1 500 Broken\r\ncontent-length: 0\r\n\r\n"] {
        let mesh = Mesh::default();
        let (_app, authorizer) = (mesh.answering(A, OK), mesh.answering(AUTHORIZER, answer));
        let sidecar = mesh.sidecar(&file("", ALL), None);
        for nth in 1..=10 {
            assert_eq!(sidecar.client().await.get("/a").await.status_and_reason(), UNAVAILABLE);
            assert_eq!(authorizer.hits(), nth, "{answer:?}");
        }
    }
}
