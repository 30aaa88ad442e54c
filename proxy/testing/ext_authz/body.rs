//! `ext_authz.with_body`: the authorizer gets the request's body, and the application gets it too.

use http::HeaderMap;

use super::super::backend::{Backend, OK};
use super::super::http2;
use super::super::mesh::{A, Mesh, Sidecar, secs, settle};
use super::{ALL, ALLOWS, AUTHORIZER, DENIES, file};

fn start(mesh: &Mesh, with_body: &str, rest: &str, answer: &'static str) -> (Backend, Backend, Sidecar) {
    let (app, authorizer) = (mesh.answering(A, OK), mesh.answering(AUTHORIZER, answer));
    let sidecar = mesh.sidecar(&file(&format!("with_body: {with_body},"), rest), None);
    (app, authorizer, sidecar)
}

const POST: &str = "POST /a HTTP/1.1\r\nhost: orders\r\n";

#[tokio::test(start_paused = true)]
async fn the_body_goes_to_the_authorizer_and_to_the_application() {
    let mesh = Mesh::default();
    let (app, authorizer, sidecar) = start(&mesh, "5", ALL, ALLOWS);
    let mut client = sidecar.client().await;
    for asked in [
        format!("{POST}content-length: 5\r\n\r\nhello"),
        format!("{POST}transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
    ] {
        assert_eq!(client.ask(&asked).await.status_and_reason(), (200, None));
    }
    let bodies = |of: &Backend| of.requests().into_iter().map(|asked| asked.body).collect::<Vec<_>>();
    assert_eq!(
        (bodies(&authorizer), bodies(&app)),
        (vec!["hello".to_owned(); 2], vec!["hello".to_owned(); 2])
    );
    assert!(app.requests()[1].head.contains("chunked"), "it is framed as it came");
    assert_eq!(client.get("/a").await.status(), Some(200), "a request without a body");
    assert_eq!(
        sidecar.sum("pillion_bytes_total direction=inbound flow=received"),
        10,
        "each byte is counted once"
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_for_100_continue_is_asked_for_its_body() {
    let mesh = Mesh::default();
    let (app, authorizer, sidecar) = start(&mesh, "8KiB", ALL, DENIES);
    let mut client = sidecar.client().await;
    client.send(format!("{POST}expect: 100-continue\r\ncontent-length: 5\r\n\r\n")).await;
    assert_eq!(client.head().await.as_deref(), Some("HTTP/1.1 100 Continue\r\n\r\n"));
    client.send("hello").await;
    assert_eq!(client.answer().await.status_and_reason(), (403, Some("authz_denied")));
    assert_eq!((authorizer.requests()[0].body.as_str(), app.hits()), ("hello", 0));
}

#[tokio::test(start_paused = true)]
async fn trailers_reach_the_application() {
    let mesh = Mesh::default();
    let (seen, mut trailers) = tokio::sync::mpsc::unbounded_channel();
    drop(mesh.http2(A, 100, move |_, request, respond| {
        let seen = seen.clone();
        async move {
            let (_, mut body) = request.into_parts();
            let whole = http2::read_body(&mut body).await.expect("a body");
            seen.send((whole, body.trailers().await.expect("an end"))).expect("the test listens");
            http2::answer(respond, 200, "ok");
        }
    }));
    let authorizer = mesh.answering(AUTHORIZER, ALLOWS);
    let yaml = file("with_body: 8KiB,", ALL).replace("app: ", "protocol: http2, app: ");
    let sidecar = mesh.sidecar(&yaml, None);
    let sent =
        HeaderMap::from_iter([(http::HeaderName::from_static("x-sum"), http::HeaderValue::from_static("1"))]);
    let client = sidecar.http2_client().await;
    let answer = client.ask_with_trailers(http2::request("POST", "/a"), "hello", sent.clone()).await;
    assert_eq!(answer.expect("an answer").head.status(), 200);
    assert_eq!(trailers.recv().await, Some((b"hello".to_vec(), Some(sent))));
    assert_eq!(authorizer.requests()[0].body, "hello");
}

#[tokio::test(start_paused = true)]
async fn a_longer_body_gets_413_and_nobody_is_asked() {
    let mesh = Mesh::default();
    let (app, authorizer, sidecar) = start(&mesh, "4", ALL, ALLOWS);
    for rest in [
        "content-length: 5\r\n\r\nhello",
        "transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    ] {
        let answer = sidecar.client().await.ask(&format!("{POST}{rest}")).await;
        assert_eq!(answer.status_and_reason(), (413, Some("body_too_large")), "{rest}");
    }
    assert_eq!((app.hits(), authorizer.hits()), (0, 0));
    assert_eq!(sidecar.sum("pillion_authorization_total decision=denied rule=ext_authz"), 2);
    assert_eq!(sidecar.sum("pillion_ext_authz_checks_total"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_for_which_there_is_no_memory_gets_503_and_no_decision_of_authorization() {
    let body = "x".repeat(600 * 1024);
    let asked = format!("{POST}content-length: {}\r\n\r\n{body}", body.len());
    for (rest, expected, hits) in
        [(ALL, (503, Some("overloaded")), 0), ("default: allow, mode: audit", (200, None), 1)]
    {
        let mesh = Mesh::default();
        mesh.memory.set_host_memory(0); // a client without an identity gets 512 KiB for its requests
        let (app, authorizer, sidecar) = start(&mesh, "1MiB", rest, ALLOWS);
        let answer = sidecar.client().await.ask(&asked).await;
        assert_eq!(
            (answer.status_and_reason(), app.hits(), authorizer.hits()),
            (expected, hits, 0),
            "{rest}"
        );
        assert_eq!(sidecar.sum("pillion_authorization_total rule=ext_authz"), 0, "{rest}");
        assert_eq!(sidecar.sum("pillion_ext_authz_checks_total"), 0, "{rest}");
        if let Some(got) = app.requests().first() {
            assert!(got.body == body, "the application gets it whole");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn in_audit_mode_a_longer_body_passes_whole() {
    let mesh = Mesh::default();
    let (app, authorizer, sidecar) = start(&mesh, "4", "default: allow, mode: audit", ALLOWS);
    for rest in [
        "content-length: 5\r\n\r\nhello",
        "transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    ] {
        let answer = sidecar.client().await.ask(&format!("{POST}{rest}")).await;
        assert_eq!(answer.status_and_reason(), (200, None), "{rest}");
    }
    assert_eq!(
        app.requests().iter().map(|asked| asked.body.as_str()).collect::<Vec<_>>(),
        ["hello", "hello"]
    );
    assert_eq!(authorizer.hits(), 0);
    assert_eq!(sidecar.sum("pillion_authorization_total decision=would_deny rule=ext_authz mode=audit"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_send_its_body_is_waited_for_as_elsewhere() {
    let mesh = Mesh::default();
    let (app, authorizer, sidecar) = start(&mesh, "8KiB", ALL, ALLOWS);
    let mut client = sidecar.client().await;
    client.send(format!("{POST}content-length: 5\r\n\r\nhe")).await;
    let before = tokio::time::Instant::now();
    assert_eq!(client.answer().await.status_and_reason(), (408, Some("request_stalled")));
    assert_eq!(before.elapsed().as_secs(), secs(300).as_secs(), "stream_idle_timeout");
    let mut client = sidecar.client().await;
    client.send(format!("{POST}content-length: 5\r\n\r\nhe")).await;
    settle().await;
    drop(client);
    settle().await;
    assert_eq!(sidecar.sum("pillion_requests_total reason=client_gone"), 1);
    assert_eq!((app.hits(), authorizer.hits()), (0, 0));
}
