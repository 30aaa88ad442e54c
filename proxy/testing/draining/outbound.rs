//! The application's own calls during a drain: they are served until outbound has been quiet for a second, and each
//! answer announces that the connection will close.

use bytes::Bytes;

use super::super::backend::OK;
use super::super::http2::{self, request};
use super::super::mesh::{A, Mesh, pass, secs, settle};
use super::super::peer::Peer;
use super::{End, GET, UPGRADE, chat, echoes, greeter, is_closed, slow};
use pillion_base::drain::DrainOutcome;

/// A request for a host that no service has.
const INSIDE: &str = "GET / HTTP/1.1\r\nhost: 192.0.2.9\r\n\r\n";
const OWN_PORT: &str = "endpoints: [10.0.0.1:80], listen: 127.0.0.1:0";

#[tokio::test(start_paused = true)]
async fn an_idle_connection_stays_and_its_next_answer_is_its_last() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let (mut idle, mut rests) = (sidecar.client().await, sidecar.client().await);
    for client in [&mut idle, &mut rests] {
        assert_eq!(client.get("/").await.header("connection"), None);
    }
    let end = End::begin(&sidecar).await;
    pass(2).await;
    for client in [&mut idle, &mut rests] {
        let answer = client.get("/").await;
        assert_eq!((answer.status_and_reason(), answer.header("connection")), ((200, None), Some("close")));
        assert_eq!(client.rest().await, b"");
    }
    assert_eq!(
        end.outcome_and_seconds().await,
        (DrainOutcome::Finished, 5),
        "not before `delay`, whatever is idle"
    );
}

#[tokio::test(start_paused = true)]
async fn idle_and_silent_connections_do_not_delay_the_drain_and_stay_open() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let sidecar = mesh.caller(OWN_PORT);
    let (mut idle, mut silent) = (sidecar.client().await, sidecar.client().await);
    let mut undecided = sidecar.direct_client().await;
    assert_eq!(idle.get("/").await.status_and_reason(), (200, None));
    let end = End::begin(&sidecar).await;
    assert_eq!(end.outcome_and_seconds().await, (DrainOutcome::Finished, 5));
    for client in [&mut idle, &mut silent, &mut undecided] {
        assert!(!is_closed(client).await, "a request that is on its way is served to the last moment");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_in_flight_is_answered_with_connection_close() {
    let mesh = Mesh::default();
    let _a = slow(&mesh, A, 12);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    client.send(GET).await;
    let end = End::begin(&sidecar).await;
    let answer = client.answer().await;
    assert_eq!((answer.status_and_reason(), answer.header("connection")), ((200, None), Some("close")));
    assert_eq!(client.rest().await, b"");
    drop(client);
    assert_eq!(
        end.outcome_and_seconds().await,
        (DrainOutcome::Finished, 13),
        "a second after the last connection"
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_head_or_body_is_on_its_way_is_waited_for() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let sidecar = mesh.caller(OWN_PORT);
    let (mut head, mut kept, mut body) =
        (sidecar.client().await, sidecar.client().await, sidecar.direct_client().await);
    kept.get("/").await;
    pass(3).await; // rests
    body.send("POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 4\r\n\r\nbo").await;
    let end = End::begin(&sidecar).await;
    end.before_delay().await;
    for client in [&mut head, &mut kept] {
        client.send("GET / HTT").await;
    }
    pass(8).await;
    assert!(!end.is_over());
    for (client, rest) in [
        (&mut head, "P/1.1\r\nhost: orders\r\n\r\n"),
        (&mut kept, "P/1.1\r\nhost: orders\r\n\r\n"),
        (&mut body, "dy"),
    ] {
        client.send(rest).await;
        assert_eq!(client.answer().await.status_and_reason(), (200, None));
    }
    assert_eq!(end.outcome_and_seconds().await, (DrainOutcome::Finished, 14));
}

#[tokio::test(start_paused = true)]
async fn new_connections_are_served_to_the_end() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let end = End::begin(&sidecar).await;
    for _ in 0..20 {
        tokio::time::sleep(secs(1) - secs(1) / 10).await;
        let mut client = sidecar.client().await;
        let answer = client.get("/").await;
        assert_eq!((answer.status_and_reason(), answer.header("connection")), ((200, None), Some("close")));
    }
    assert_eq!(
        end.outcome_and_seconds().await,
        (DrainOutcome::Finished, 19),
        "18 s of calls, and a second without"
    );
}

#[tokio::test(start_paused = true)]
async fn the_sidecar_s_own_answers_announce_the_close_as_well() {
    let mesh = Mesh::default();
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let _end = End::begin(&sidecar).await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\nhost: nobody\r\n\r\n", 404),
        ("GET / HTTP/1.1\r\nhost: orders\r\n\r\n", 502),
        (UPGRADE, 502),
        ("nonsense / HTTP/1.1\r\nhost orders\r\n\r\n", 400),
    ] {
        let mut client = sidecar.client().await;
        let answer = client.ask(request).await;
        assert_eq!(
            (answer.status(), answer.header("connection")),
            (Some(status), Some("close")),
            "{request}"
        );
        assert_eq!(client.rest().await, b"");
    }
}

#[tokio::test(start_paused = true)]
async fn pipelined_requests_are_answered_up_to_the_one_with_connection_close() {
    let mesh = Mesh::default();
    let a = slow(&mesh, A, 1);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    client.send([GET, GET].concat()).await;
    let _end = End::begin(&sidecar).await;
    assert_eq!(client.answer().await.header("connection"), Some("close"));
    drop(client.try_send(GET).await); // it may not have heard yet
    assert_eq!((client.rest().await, a.hits()), (vec![], 1), "what comes after that is surely not acted on");
}

#[tokio::test(start_paused = true)]
async fn an_http2_client_gets_goaway_at_once_and_its_streams_finish() {
    let mesh = Mesh::default();
    let _a = mesh.http2(A, 100, |_, _, respond| async move {
        pass(12).await;
        http2::answer(respond, 200, "ok");
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let client = sidecar.http2_client().await;
    let asked = tokio::spawn({
        let client = client.clone();
        async move { client.get("/").await.body }
    });
    settle().await;
    let end = End::begin(&sidecar).await;
    assert!(client.ask(request("GET", "/late"), "").await.is_err(), "no new stream is taken");
    assert_eq!(asked.await.expect("asked"), b"ok");
    assert_eq!(end.outcome_and_seconds().await, (DrainOutcome::Finished, 13));
}

#[tokio::test(start_paused = true)]
async fn an_http2_client_that_connects_during_the_drain_is_served_for_a_second() {
    let mesh = Mesh::default();
    let _a = mesh.http2(A, 100, |_, _, respond| async move { http2::answer(respond, 200, "ok") });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let end = End::begin(&sidecar).await;
    end.after_delay().await;
    for _ in 0..3 {
        let client = sidecar.http2_client().await;
        for _ in 0..5 {
            assert_eq!(client.get("/").await.body, b"ok");
        }
        pass(1).await;
        settle().await;
        assert!(client.ask(request("GET", "/late"), "").await.is_err(), "it has had its second");
    }
    assert_eq!(end.outcome_and_seconds().await.0, DrainOutcome::Finished);
}

/// Sends the preface and SETTINGS, and reacts to nothing. RFC 9113 allows no stream to be closed for that.
#[tokio::test(start_paused = true)]
async fn an_http2_client_that_ignores_goaway_does_not_delay_the_drain() {
    let mesh = Mesh::default();
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut deaf = sidecar.client().await;
    deaf.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    pass(1).await;
    let end = End::begin(&sidecar).await;
    assert_eq!(end.outcome_and_seconds().await, (DrainOutcome::Finished, 5));
}

#[tokio::test(start_paused = true)]
async fn a_grpc_stream_goes_on_in_both_directions_and_is_cut_at_timeout() {
    let mesh = Mesh::default();
    let _a = mesh.http2(A, 100, |_, request, mut respond| async move {
        let mut stream = respond.send_response(http::Response::new(()), false).expect("it is open");
        let mut body = request.into_body();
        while let Some(Ok(data)) = body.data().await {
            drop(body.flow_control().release_capacity(data.len()));
            drop(stream.send_data(data, false));
        }
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], protocol: http2, timeout: off");
    let io = sidecar.client().await.into_io();
    let (send, conn) = h2::client::handshake(io).await.expect("the sidecar speaks HTTP/2");
    tokio::spawn(conn);
    let mut send = send.ready().await.expect("a free stream");
    let (answer, mut up) = send.send_request(request("POST", "/talk"), false).expect("it can be sent");
    let mut down = answer.await.expect("an answer").into_body();
    let end = End::begin(&sidecar).await;
    for _ in 0..4 {
        pass(6).await;
        up.send_data(Bytes::from_static(b"still here"), false).expect("it is open");
        assert_eq!(down.data().await.expect("more").expect("no error"), "still here");
    }
    assert_eq!(end.outcome_and_seconds().await, (DrainOutcome::Cut { inbound: 0, outbound: 1 }, 25));
}

#[tokio::test(start_paused = true)]
async fn opaque_connections_live_until_they_end_old_and_new() {
    let mesh = Mesh::default();
    let _a = greeter(&mesh, A);
    let sidecar = mesh.caller(OWN_PORT);
    let mut old = sidecar.direct_client().await;
    assert_eq!(old.exactly(7).await.0, b"welcome");
    let end = End::begin(&sidecar).await;
    end.after_delay().await;
    echoes(&mut old, "after `delay`").await;
    let mut new = sidecar.direct_client().await;
    assert_eq!(new.exactly(7).await.0, b"welcome");
    drop(old);
    pass(10).await;
    echoes(&mut new, "much later").await;
    drop(new);
    assert_eq!(end.outcome_and_seconds().await, (DrainOutcome::Finished, 16));
}

#[tokio::test(start_paused = true)]
async fn an_upgraded_exchange_and_a_connect_live_until_they_end() {
    let mesh = Mesh::default();
    let _a = chat(&mesh, A);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut upgraded = sidecar.client().await;
    upgraded.send(UPGRADE).await;
    assert!(upgraded.head().await.expect("an answer").starts_with("HTTP/1.1 101 "));
    let end = End::begin(&sidecar).await;
    let mut new = sidecar.client().await;
    new.send(UPGRADE).await;
    let head = new.head().await.expect("an answer").to_ascii_lowercase();
    assert!(head.contains("\r\nconnection: upgrade\r\n") && !head.contains("close"), "{head}");
    end.after_delay().await;
    for client in [&mut upgraded, &mut new] {
        echoes(client, "after `delay`").await;
    }
    drop(upgraded);
    pass(5).await;
    echoes(&mut new, "five more seconds").await;
    drop(new);
    assert_eq!(end.outcome_and_seconds().await, (DrainOutcome::Finished, 11));
}

#[tokio::test(start_paused = true)]
async fn requests_inside_a_connect_get_connection_close_and_the_tunnel_ends_with_them() {
    let mesh = Mesh::default();
    let _x = mesh.answering("192.0.2.9:80", OK);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    client.send("CONNECT 192.0.2.9:80 HTTP/1.1\r\nhost: 192.0.2.9:80\r\n\r\n").await;
    assert!(client.head().await.expect("an answer").starts_with("HTTP/1.1 200 "));
    assert_eq!(client.ask(INSIDE).await.status_and_reason(), (200, None));
    let end = End::begin(&sidecar).await;
    end.after_delay().await;
    assert!(!end.is_over(), "a tunnel is open, whatever it carries");
    let answer = client.ask(INSIDE).await;
    assert_eq!((answer.status_and_reason(), answer.header("connection")), ((200, None), Some("close")));
    assert_eq!(client.rest().await, b"");
    drop(client);
    assert_eq!(end.outcome_and_seconds().await, (DrainOutcome::Finished, 6));
}

#[tokio::test(start_paused = true)]
async fn the_drain_waits_for_requests_that_wait_for_a_connection_or_a_retry() {
    let mesh = Mesh::default();
    let _a = slow(&mesh, A, 4);
    let one = "circuit_breaker: { max_connections: 1 }, timeout: 60s";
    let sidecar = mesh.caller(&format!("endpoints: [10.0.0.1:80], {one}"));
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = sidecar.client().await;
        client.send(GET).await;
        clients.push(client);
    }
    settle().await;
    assert_eq!(sidecar.sum("pillion_circuit_breaker_used limit=pending"), 2);
    let end = End::begin(&sidecar).await;
    for client in &mut clients {
        assert_eq!(client.answer().await.status_and_reason(), (200, None));
    }
    drop(clients);
    assert_eq!(end.outcome_and_seconds().await, (DrainOutcome::Finished, 13));

    let mesh = Mesh::default();
    let _b = mesh.http1(A, |nth, _| if nth == 0 { super::super::backend::UNAVAILABLE } else { OK });
    let pauses = "retry: { backoff: { base: 20s, max: 20s } }, timeout: 60s";
    let sidecar = mesh.caller(&format!("endpoints: [10.0.0.1:80], {pauses}"));
    let mut client: Peer = sidecar.client().await;
    client.send(GET).await;
    settle().await;
    let end = End::begin(&sidecar).await;
    assert_eq!(client.answer().await.status_and_reason(), (200, None));
    assert_eq!(end.outcome_and_seconds().await.0, DrainOutcome::Finished);
}
