//! Inbound during a drain: requests are served until `delay`, those under way finish after it, and later ones are
//! refused.

use pillion_base::net::memory::Pipe;
use pillion_tls::client::Purpose;
use tokio::io::{AsyncReadExt as _, copy_bidirectional};

use super::super::backend::OK;
use super::super::http2::{self, request};
use super::super::mesh::{A, Mesh, Pair, application, at, pass, secs, settle};
use super::super::peer::Peer;
use super::{End, GET, PREFACE, Plan, UPGRADE, chat, echoes, goaway, greeter, has, is_closed, slow, stream};
use pillion_base::drain::DrainOutcome;

const APP: &str = "app: 10.0.0.1:80";

#[tokio::test(start_paused = true)]
async fn until_delay_every_client_is_served_and_answers_announce_the_close() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let sidecar = mesh.application(APP);
    let mut kept = sidecar.client().await;
    kept.get("/").await;
    let end = End::begin(&sidecar).await;
    end.before_delay().await;
    for mut client in [kept, sidecar.client().await] {
        let answer = client.get("/").await;
        assert_eq!((answer.status_and_reason(), answer.header("connection")), ((200, None), Some("close")));
        assert_eq!(client.rest().await, b"");
    }
    assert_eq!(end.outcome_and_seconds().await, (DrainOutcome::Finished, 5));
}

#[tokio::test(start_paused = true)]
async fn after_delay_the_listener_is_closed_and_idle_connections_are_closed() {
    let mesh = Mesh::default();
    let _a = slow(&mesh, A, 10);
    let sidecar = mesh.application(APP);
    let (mut busy, mut silent) = (sidecar.client().await, sidecar.client().await);
    busy.send(GET).await;
    let end = End::begin(&sidecar).await;
    end.before_delay().await;
    assert!(!is_closed(&mut silent).await, "it has been silent for less than a second");
    end.after_delay().await;
    assert!(is_closed(&mut silent).await);
    assert!(mesh.memory.connect(sidecar.address()).await.is_err(), "refused, which may be sent elsewhere");
    let answer = busy.answer().await;
    assert_eq!((answer.status_and_reason(), answer.header("connection")), ((200, None), Some("close")));
    drop(busy);
    assert_eq!(end.outcome_and_seconds().await, (DrainOutcome::Finished, 10));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_as_its_silent_connection_is_about_to_close_is_answered() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let sidecar = mesh.application(APP);
    let (mut kept, mut new) = (sidecar.client().await, sidecar.client().await);
    kept.get("/").await;
    pass(10).await;
    for client in [&mut kept, &mut new] {
        client.send_unnoticed(GET).await;
    }
    let end = End::planned(&sidecar, Plan { delay: secs(0), timeout: secs(25) }).await;
    pass(2).await;
    assert!(!end.is_over(), "they are at work");
    for client in [&mut kept, &mut new] {
        client.io.withhold(false);
        let answer = client.answer().await;
        assert_eq!(answer.status_and_reason(), (503, Some("draining")));
        assert_eq!(answer.header("connection"), Some("close"));
    }
    assert_eq!((end.outcome_and_seconds().await.0, a.hits()), (DrainOutcome::Finished, 1));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_as_its_connection_has_been_idle_for_too_long_is_served() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    let sidecar = mesh.sidecar(&(application(APP) + "limits: { idle_timeout: 60s }\n"), None);
    let (mut kept, mut silent) = (sidecar.client().await, sidecar.client().await);
    for client in [&mut kept, &mut silent] {
        client.get("/").await;
    }
    let mut new = sidecar.client().await; // and its first request
    pass(50).await;
    for client in [&mut kept, &mut new] {
        client.send_unnoticed(GET).await;
    }
    pass(15).await;
    assert!(is_closed(&mut silent).await, "its time is over");
    for client in [&mut kept, &mut new] {
        client.io.withhold(false);
        assert_eq!(client.answer().await.status_and_reason(), (200, None));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_as_its_connection_is_closed_for_its_memory_is_served() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    mesh.memory.set_cgroup(Some(100 << 20));
    mesh.memory.set_memory_used(50 << 20);
    let sidecar = mesh.application(APP);
    let (mut kept, mut silent) = (sidecar.client().await, sidecar.client().await);
    for client in [&mut kept, &mut silent] {
        client.get("/").await;
    }
    pass(10).await;
    kept.send_unnoticed(GET).await;
    mesh.memory.set_memory_used(95 << 20);
    pass(5).await;
    assert!(is_closed(&mut silent).await, "memory is short");
    mesh.memory.set_memory_used(50 << 20);
    kept.io.withhold(false);
    assert_eq!(kept.answer().await.status_and_reason(), (200, None));
}

/// Of a record of TLS the sidecar can read nothing until it has all of it. The first half is still in the kernel, or in the
/// session of TLS already.
#[tokio::test(start_paused = true)]
async fn a_request_of_which_half_a_record_has_come_as_its_connection_is_about_to_close_is_answered() {
    for is_noticed in [false, true] {
        half_a_record_has_come(is_noticed).await;
    }
}

async fn half_a_record_has_come(is_noticed: bool) {
    const AT: &str = "10.1.0.1:15006";
    let pair = Pair::new();
    let _a = pair.mesh.answering(A, OK);
    let sidecar = pair.application(AT, A);
    let mut wire = Peer::new(pair.mesh.memory.connect(at(AT)).await.expect("the sidecar listens"));
    let (near, mut middle) = Pipe::pair(64 * 1024);
    let asks = async {
        let mut client = pair.shaken(near, Purpose::Http1).await;
        assert_eq!(client.get("/").await.status_and_reason(), (200, None));
        client
    };
    let mut client = tokio::select! { // nothing is on its way when the client is done
        biased;
        client = asks => client,
        _ = copy_bidirectional(&mut middle, &mut wire.io) => unreachable!("both ends stay open"),
    };
    pass(10).await;
    client.send(GET).await;
    let mut record = vec![0; 4096];
    let length = middle.read(&mut record).await.expect("an open connection");
    wire.send_unnoticed(&record[..length / 2]).await;
    wire.io.withhold(!is_noticed);
    settle().await;
    let end = End::planned(&sidecar, Plan { delay: secs(0), timeout: secs(25) }).await;
    wire.io.withhold(false);
    pass(1).await;
    wire.send(&record[length / 2..length]).await;
    let answer = tokio::select! { // the relay ends with the test
        biased;
        answer = client.answer() => answer,
        _ = copy_bidirectional(&mut middle, &mut wire.io) => client.answer().await,
    };
    assert_eq!(answer.status_and_reason(), (503, Some("draining")));
    drop((client, middle, wire));
    assert_eq!(end.outcome_and_seconds().await.0, DrainOutcome::Finished);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_active_within_a_second_is_answered_rather_than_closed() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let sidecar = mesh.application(APP);
    let end = End::begin(&sidecar).await;
    end.before_delay().await;
    let (mut new, mut silent) = (sidecar.client().await, sidecar.client().await);
    end.after_delay().await;
    let answer = new.get("/").await;
    assert_eq!(
        (answer.status_and_reason(), answer.header("connection")),
        ((503, Some("draining")), Some("close"))
    );
    assert_eq!(new.rest().await, b"");
    assert_eq!(silent.rest().await, b"", "a second was long enough");
    assert_eq!(end.outcome_and_seconds().await, (DrainOutcome::Finished, 6));
    assert_eq!(a.hits(), 0);
    assert_eq!(sidecar.sum("pillion_requests_total direction=inbound reason=draining status=503"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_in_the_queue_of_the_closing_listener_gets_an_answer() {
    let mesh = Mesh::default();
    let sidecar = mesh.application(APP);
    let plan = Plan { delay: secs(0), timeout: secs(5) };
    // Neither the accept loop nor the drain has run since: the connection is in the queue.
    let mut queued = sidecar.client().await;
    queued.send(GET).await;
    let end = End::planned(&sidecar, plan).await;
    assert_eq!(queued.answer().await.status_and_reason(), (503, Some("draining")));
    drop(queued);
    assert_eq!(end.outcome_and_seconds().await, (DrainOutcome::Finished, 0));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_half_sent_at_delay_is_refused_when_it_is_complete() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let sidecar = mesh.application(APP);
    let (mut kept, mut new) = (sidecar.client().await, sidecar.client().await);
    kept.get("/").await;
    let end = End::begin(&sidecar).await;
    end.before_delay().await;
    for client in [&mut kept, &mut new] {
        client.send("POST / HT").await;
    }
    pass(5).await;
    assert!(!end.is_over(), "it is on its way");
    for client in [&mut kept, &mut new] {
        client.send("TP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n..").await;
        let answer = client.answer().await;
        assert_eq!(
            (answer.status_and_reason(), answer.body.as_str()),
            ((503, Some("draining")), "pillion: draining\n")
        );
    }
    assert_eq!(end.outcome_and_seconds().await.0, DrainOutcome::Finished);
    assert_eq!(a.hits(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_still_sends_its_body_gets_the_refusal_before_the_end() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let sidecar = mesh.application(APP);
    let mut client = sidecar.client().await;
    let end = End::begin(&sidecar).await;
    end.before_delay().await;
    client.send("POST / HTTP/1.1\r\n").await;
    end.after_delay().await;
    client.send("host: a\r\ncontent-length: 1000000\r\n\r\n").await;
    settle().await;
    client.send(vec![b'.'; 500_000]).await; // is read, though the request is refused
    assert_eq!(client.answer().await.status_and_reason(), (503, Some("draining")));
    drop(client);
    assert_eq!((end.outcome_and_seconds().await.0, a.hits()), (DrainOutcome::Finished, 0));
}

#[tokio::test(start_paused = true)]
async fn bodies_in_flight_finish_in_both_directions() {
    let mesh = Mesh::default();
    let _a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.message().await;
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01234").await;
        pass(10).await;
        peer.send("56789").await;
    });
    let sidecar = mesh.application(APP);
    let mut client = sidecar.client().await;
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n01234").await;
    let end = End::begin(&sidecar).await;
    end.after_delay().await;
    client.send("56789").await;
    let answer = client.answer().await;
    assert_eq!((answer.status_and_reason(), answer.body.as_str()), ((200, None), "0123456789"));
    drop(client);
    assert_eq!(end.outcome_and_seconds().await, (DrainOutcome::Finished, 15));
}

#[tokio::test(start_paused = true)]
async fn http2_streams_finish_and_their_client_opens_no_further_ones() {
    let mesh = Mesh::default();
    let _a = mesh.http2(A, 100, |_, _, respond| async move {
        pass(12).await;
        http2::answer(respond, 200, "ok");
    });
    let sidecar = mesh.application("app: 10.0.0.1:80, protocol: http2");
    let client = sidecar.http2_client().await;
    let asked = tokio::spawn({
        let client = client.clone();
        async move { client.get("/").await.body }
    });
    settle().await;
    let end = End::begin(&sidecar).await;
    assert!(
        client.ask(request("GET", "/late"), "").await.is_err(),
        "the client got a GOAWAY, and opens no stream"
    );
    assert_eq!(asked.await.expect("asked"), b"ok");
    assert_eq!(end.outcome_and_seconds().await, (DrainOutcome::Finished, 12));
}

#[tokio::test(start_paused = true)]
async fn an_http2_client_that_ignores_goaway_is_refused_and_then_closed() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let sidecar = mesh.application(APP);
    let mut deaf = sidecar.client().await;
    deaf.send(PREFACE).await;
    pass(1).await;
    let end = End::begin(&sidecar).await;
    end.before_delay().await;
    deaf.send(stream(1)).await;
    settle().await;
    assert_eq!(a.hits(), 1, "until `delay` it is served");
    end.after_delay().await;
    deaf.send(stream(3)).await;
    settle().await;
    assert_eq!(sidecar.sum("pillion_requests_total direction=inbound reason=draining status=503"), 1);
    assert_eq!(end.outcome_and_seconds().await, (DrainOutcome::Finished, 6));
    drop(deaf.rest().await);
    assert_eq!(a.hits(), 1);
}

#[tokio::test(start_paused = true)]
async fn opaque_and_upgraded_connections_are_cut_at_timeout_and_counted() {
    let mesh = Mesh::default();
    let (_a, _b) = (greeter(&mesh, A), chat(&mesh, "10.0.0.2:80"));
    let opaque = mesh.application("app: 10.0.0.1:80");
    let upgrades = mesh.application("app: 10.0.0.2:80");
    let (mut tcp, mut websocket) = (opaque.client().await, upgrades.client().await);
    assert_eq!(tcp.exactly(7).await.0, b"welcome");
    websocket.send(UPGRADE).await;
    assert!(websocket.head().await.expect("an answer").starts_with("HTTP/1.1 101 "));
    let ends = [End::begin(&opaque).await, End::begin(&upgrades).await];
    pass(24).await;
    for client in [&mut tcp, &mut websocket] {
        echoes(client, "still here").await;
    }
    for end in ends {
        assert_eq!(end.outcome_and_seconds().await, (DrainOutcome::Cut { inbound: 1, outbound: 0 }, 25));
    }
}

#[tokio::test(start_paused = true)]
async fn an_opaque_connection_that_ends_ends_the_drain() {
    let mesh = Mesh::default();
    let _a = greeter(&mesh, A);
    let sidecar = mesh.application(APP);
    let mut client = sidecar.client().await;
    assert_eq!(client.exactly(7).await.0, b"welcome");
    let end = End::begin(&sidecar).await;
    pass(15).await;
    echoes(&mut client, "bye").await;
    drop(client);
    assert_eq!(end.outcome_and_seconds().await, (DrainOutcome::Finished, 15));
}

/// A client that was stalled for longer than a deserted connection is kept. It may send elsewhere whatever it has sent
/// meanwhile, with any method, because GOAWAY tells which of its streams were processed.
#[tokio::test(start_paused = true)]
async fn an_http2_client_that_returns_too_late_learns_which_streams_were_processed() {
    let mesh = Mesh::default();
    let app = mesh.answering(A, OK);
    let sidecar = mesh.application(APP);
    let mut client = sidecar.client().await;
    client.send(&[PREFACE, &stream(1)].concat()).await;
    settle().await;
    let end = End::planned(&sidecar, Plan { delay: secs(0), timeout: secs(25) }).await;
    pass(2).await;
    drop(client.try_send(stream(3)).await); // it has read nothing yet, and nobody has heard this
    let heard = client.rest().await;
    assert!(has(&heard, &goaway(1)), "{heard:?}");
    assert_eq!(app.hits(), 1);
    drop(client);
    assert_eq!(end.outcome_and_seconds().await.0, DrainOutcome::Finished);
}

#[tokio::test(start_paused = true)]
async fn an_http2_client_that_was_idle_for_too_long_learns_which_streams_were_processed() {
    const ANSWER: &[u8] = b"\0\0\x02\0\x01\0\0\0\x03ok"; // on stream 3
    let mesh = Mesh::default();
    let app = mesh.answering(A, OK);
    let sidecar = mesh.sidecar(&(application(APP) + "limits: { idle_timeout: 60s }\n"), None);
    for (seconds, is_answered) in [(1, true), (2, false)] {
        let before = app.hits();
        let mut client = sidecar.client().await;
        client.send([PREFACE, &stream(1)].concat()).await;
        tokio::time::sleep(secs(119) / 2).await;
        client.send_unnoticed(stream(3)).await; // it is on its way when the client has been idle for too long
        pass(seconds).await;
        client.io.withhold(false);
        let heard = client.rest().await;
        assert_eq!(has(&heard, ANSWER), is_answered, "{heard:?}");
        assert!(has(&heard, &goaway(if is_answered { 3 } else { 1 })), "{heard:?}");
        assert_eq!(app.hits() - before, if is_answered { 2 } else { 1 });
    }
    settle().await;
    assert_eq!(sidecar.sum("pillion_connections_active direction=inbound protocol=http2"), 0);
}
