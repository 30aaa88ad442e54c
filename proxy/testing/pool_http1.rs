//! HTTP/1 connections to an endpoint: how they are kept, limited and waited for.

use super::backend::{Backend, OK};
use super::mesh::{A, B, Mesh, Sidecar, Watch, pass, secs, settle};
use super::peer::Peer;

/// Takes `seconds` for each answer, which contains the number of the connection.
fn tells_its_connection(mesh: &Mesh, seconds: u64) -> Backend {
    mesh.scripted(A, move |mut peer: Peer, nth| async move {
        while peer.message().await.is_some() {
            pass(seconds).await;
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{nth}");
            if peer.try_send(answer).await.is_err() {
                return;
            }
        }
    })
}

async fn clients(sidecar: &Sidecar, count: usize) -> Vec<Peer> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(sidecar.client().await);
    }
    clients
}

async fn send_all(clients: &mut [Peer]) {
    for client in clients {
        client.send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
    }
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn one_connection_serves_the_requests_of_several_clients() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    for mut client in clients(&sidecar, 3).await {
        assert_eq!(client.get("/1").await.status_and_reason(), (200, None));
        settle().await;
        assert_eq!(client.get("/2").await.status_and_reason(), (200, None));
        settle().await;
    }
    assert_eq!((a.connections(), a.hits()), (1, 6));
    assert_eq!(sidecar.sum("pillion_connections_total direction=outbound outcome=ok"), 1 + 3);
}

#[tokio::test(start_paused = true)]
async fn the_connection_used_last_is_used_first_and_the_others_grow_old() {
    let mesh = Mesh::default();
    let a = tells_its_connection(&mesh, 1);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], connection: { idle_timeout: 20s }");
    let mut clients = clients(&sidecar, 3).await;
    send_all(&mut clients).await;
    for client in &mut clients {
        client.answer().await;
    }
    settle().await;
    let mut used = Vec::new();
    for _ in 0..12 {
        used.push(clients[0].get("/").await.body);
        pass(4).await;
    }
    assert!(used.iter().all(|connection| *connection == used[0]), "{used:?}");
    assert_eq!((a.connections(), a.open()), (3, 1), "the two unused ones were closed");
}

#[tokio::test(start_paused = true)]
async fn a_connection_idle_for_too_long_is_closed_and_not_used_again() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    client.get("/").await;
    pass(52).await;
    client.get("/").await;
    assert_eq!((a.connections(), a.open()), (1, 1), "55 s is the default, and two of them are for the sweep");
    pass(55).await;
    assert_eq!(a.open(), 0);
    client.get("/").await;
    assert_eq!(a.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_replaced_after_so_many_requests_or_so_long() {
    for (policy, pause, connections) in
        [("max_requests: 2", 0, 2), ("max_age: 10s", 7, 2), ("max_age: 10s", 11, 4)]
    {
        let mesh = Mesh::default();
        let a = mesh.answering(A, OK);
        let sidecar = mesh.caller(&format!("endpoints: [10.0.0.1:80], connection: {{ {policy} }}"));
        let mut client = sidecar.client().await;
        for _ in 0..4 {
            client.get("/").await;
            settle().await;
            pass(pause).await;
        }
        assert_eq!(a.connections(), connections, "{policy}, {pause} s between two requests");
    }
}

#[tokio::test(start_paused = true)]
async fn at_max_connections_requests_wait_and_are_then_served() {
    let mesh = Mesh::default();
    let a = tells_its_connection(&mesh, 2);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], circuit_breaker: { max_connections: 2 }");
    let mut clients = clients(&sidecar, 6).await;
    let watch = Watch::start();
    send_all(&mut clients).await;
    assert_eq!(sidecar.sum("pillion_circuit_breaker_used limit=pending"), 4);
    assert_eq!(sidecar.sum("pillion_circuit_breaker_used limit=connections"), 2);
    for client in &mut clients {
        assert_eq!(client.answer().await.status_and_reason(), (200, None));
    }
    assert_eq!((watch.seconds(), a.connections()), (6, 2));
    settle().await;
    assert_eq!(sidecar.sum("pillion_circuit_breaker_used limit=pending"), 0);
}

#[tokio::test(start_paused = true)]
async fn at_max_connections_a_connection_that_dies_makes_room_for_another() {
    let mesh = Mesh::default();
    let a = mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.message().await;
        pass(1).await;
        peer.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], circuit_breaker: { max_connections: 1 }");
    let mut clients = clients(&sidecar, 4).await;
    send_all(&mut clients).await;
    for client in &mut clients {
        assert_eq!(client.answer().await.status_and_reason(), (200, None));
    }
    assert_eq!(a.connections(), 4);
}

#[tokio::test(start_paused = true)]
async fn too_many_waiting_requests_are_answered_at_once() {
    let mesh = Mesh::default();
    let _a = mesh.silent(A);
    let sidecar = mesh
        .caller("endpoints: [10.0.0.1:80], circuit_breaker: { max_connections: 1, max_pending_requests: 2 }");
    let mut waiting = clients(&sidecar, 3).await;
    send_all(&mut waiting[..1]).await; // while it is dialled for, it waits itself
    send_all(&mut waiting[1..]).await;
    assert_eq!(sidecar.sum("pillion_circuit_breaker_used limit=pending"), 2);
    let watch = Watch::start();
    let answer = sidecar.client().await.get("/").await;
    assert_eq!((answer.status_and_reason(), watch.seconds()), ((503, Some("limit_pending")), 0));
    assert!(answer.body.contains("max_pending_requests is 2"), "{}", answer.body);
    assert_eq!(sidecar.sum("pillion_circuit_breaker_rejections_total limit=pending"), 1);
}

#[tokio::test(start_paused = true)]
async fn requests_that_gave_up_waiting_leave_nothing_behind() {
    let mesh = Mesh::default();
    let a = tells_its_connection(&mesh, 5);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80], circuit_breaker: { max_connections: 1 }");
    let mut first = clients(&sidecar, 1).await;
    send_all(&mut first).await;
    let mut impatient = clients(&sidecar, 3).await;
    send_all(&mut impatient).await;
    drop(impatient);
    settle().await;
    assert_eq!(sidecar.sum("pillion_circuit_breaker_used limit=pending"), 0);
    assert_eq!(sidecar.sum("pillion_requests_total status=499 reason=client_gone"), 3);
    let watch = Watch::start();
    assert_eq!(first[0].answer().await.status_and_reason(), (200, None));
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (200, None));
    assert_eq!((watch.seconds(), a.hits(), a.connections()), (10, 2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_dial_whose_request_went_away_serves_the_next_one() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, OK);
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut clients = clients(&sidecar, 1).await;
    clients[0].send("GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await;
    clients.clear();
    settle().await;
    assert_eq!(sidecar.client().await.get("/").await.status_and_reason(), (200, None));
    assert!(a.connections() <= 1, "{}", a.connections());
}

#[tokio::test(start_paused = true)]
async fn two_requests_in_flight_on_one_client_get_their_own_answers_in_order() {
    let mesh = Mesh::default();
    let a = mesh.http1(A, |_, request| match request.head.starts_with("GET /first ") {
        true => "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirst",
        false => "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecond",
    });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let mut client = sidecar.client().await;
    client
        .send("GET /first HTTP/1.1\r\nhost: orders\r\n\r\nGET /second HTTP/1.1\r\nhost: orders\r\n\r\n")
        .await;
    assert_eq!((client.answer().await.body, client.answer().await.body), ("first".into(), "second".into()));
    assert_eq!(a.hits(), 2);
}

#[tokio::test(start_paused = true)]
async fn extra_bytes_after_an_answer_never_become_another_request_s_answer() {
    const TWO_ANSWERS: &str =
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nmineHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen";
    let mesh = Mesh::default();
    let a = mesh.http1(A, |nth, _| if nth == 0 { TWO_ANSWERS } else { OK });
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    assert_eq!(sidecar.client().await.get("/1").await.body, "mine");
    let second = tokio::time::timeout(secs(60), async { sidecar.client().await.get("/2").await.body }).await;
    assert_eq!(second.as_deref(), Ok("ok"), "and not what was left over");
    assert_eq!(a.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn at_max_connections_an_idle_one_to_another_endpoint_makes_room() {
    let mesh = Mesh::default();
    let (a, b) = (mesh.answering(A, OK), mesh.answering(B, OK));
    let sidecar = mesh.caller(
        "endpoints: [10.0.0.1:80, 10.0.0.2:80], load_balancer: round_robin, \
         circuit_breaker: { max_connections: 1 }",
    );
    let mut client = sidecar.client().await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.status_and_reason(), (200, None));
        settle().await;
        assert_eq!(a.open() + b.open(), 1);
    }
    assert_eq!((a.connections(), b.connections()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_closes_what_it_has_just_accepted_is_dialled_as_often_as_retry_allows() {
    let mesh = Mesh::default();
    mesh.memory.tell_late(super::mesh::at(A));
    let a = mesh.scripted(A, |_peer, _| async {});
    let sidecar = mesh.caller("endpoints: [10.0.0.1:80]");
    let answer = sidecar.client().await.get("/").await;
    assert_eq!(answer.status_and_reason(), (502, Some("connect_refused")), "{}", answer.body);
    assert_eq!(a.connections(), 3, "the first, and two retries");
}
