//! Opaque connections whose first endpoint accepts none: another endpoint is dialled as `retry` allows, counted and
//! logged.

use std::time::Duration;

use serde_json::Value;

use super::backend::{Backend, UNAVAILABLE};
use super::logged;
use super::mesh::{A, B, C, Mesh, Sidecar, Watch, caller, pass, settle};

/// The first endpoint is asked first, and nothing listens there.
const TWO: &str =
    "endpoints: [10.0.0.1:80, 10.0.0.2:80], load_balancer: round_robin, listen: 127.0.0.1:0, protocol: tcp";
/// A service with these two endpoints, whose protocol is detected.
const UNDECLARED: &str =
    "endpoints: [10.0.0.1:80, 10.0.0.2:80], load_balancer: round_robin, listen: 127.0.0.1:0";

fn retries(sidecar: &Sidecar) -> [u64; 4] {
    ["succeeded", "failed", "budget", "limit"]
        .map(|outcome| sidecar.sum(&format!("pillion_retries_total service=orders outcome={outcome}")))
}

/// A server that answers the first bytes with its own, and ends.
fn answering(mesh: &Mesh, address: &str) -> Backend {
    mesh.scripted(address, |mut peer, _| async move {
        peer.exactly(3).await;
        peer.send("yes").await;
    })
}

/// The answer to a client that sends three bytes.
async fn ask(sidecar: &Sidecar) -> Vec<u8> {
    let mut client = sidecar.direct_client().await;
    client.send("\0hi").await;
    client.half_close().await;
    let heard = client.rest().await;
    settle().await;
    heard
}

fn ending(line: &Value) -> (Option<&str>, u64, Option<&str>) {
    (line["reason"].as_str(), line["attempts"].as_u64().expect("a number"), line["upstream"].as_str())
}

fn detail(line: &Value) -> &str {
    line["detail"].as_str().unwrap_or_default()
}

#[test]
fn c6_a_connection_that_is_made_elsewhere_is_a_retry_and_its_line_says_so() {
    let lines = logged::lines(|log| async move {
        let mesh = Mesh::default();
        let b = answering(&mesh, B);
        let sidecar = mesh.sidecar(&(caller(TWO) + &log), None);
        assert_eq!(ask(&sidecar).await, b"yes");
        assert_eq!(b.connections(), 1);
        assert_eq!(retries(&sidecar), [1, 0, 0, 0]);
    });
    assert_eq!(ending(&lines[0]), (None, 2, Some(B)), "{lines:?}");
}

#[test]
fn a_connection_that_every_endpoint_refuses_is_dialled_as_often_as_retry_allows() {
    let lines = logged::lines(|log| async move {
        let mesh = Mesh::default();
        let sidecar = mesh.sidecar(&(caller(TWO) + &log), None);
        assert_eq!(ask(&sidecar).await, b"");
        assert_eq!(retries(&sidecar), [0, 2, 0, 0]);
    });
    let (reason, attempts, upstream) = ending(&lines[0]);
    assert_eq!((reason, attempts), (Some("connect_refused"), 3), "{lines:?}");
    assert!(upstream.is_some(), "the endpoint of the last attempt: {lines:?}");
}

#[test]
fn c6_an_empty_budget_forbids_a_second_dial_and_the_line_says_why() {
    let lines = logged::lines(|log| async move {
        let mesh = Mesh::default();
        let b = answering(&mesh, B);
        let retry = "retry: { budget: { ratio: 0%, min_per_second: 0 } }";
        let sidecar = mesh.sidecar(&(caller(&format!("{TWO}, {retry}")) + &log), None);
        assert_eq!(ask(&sidecar).await, b"");
        assert_eq!(b.connections(), 0);
        assert_eq!(retries(&sidecar), [0, 0, 1, 0]);
    });
    assert_eq!(ending(&lines[0]), (Some("connect_refused"), 1, Some(A)), "{lines:?}");
    assert!(detail(&lines[0]).contains("retry.budget"), "{lines:?}");
}

#[test]
fn connections_have_their_share_of_the_budget_and_no_more() {
    let lines = logged::lines(|log| async move {
        let mesh = Mesh::default();
        let service = "endpoints: [10.0.0.1:80], listen: 127.0.0.1:0, protocol: tcp, \
                       outlier_detection: { consecutive_errors: off }, \
                       retry: { attempts: 1, budget: { ratio: 20%, min_per_second: 0 }, backoff: { base: 1ms, max: 1ms } }";
        let sidecar = mesh.sidecar(&(caller(service) + &log), None);
        for _ in 0..50 {
            assert_eq!(ask(&sidecar).await, b"");
        }
        assert_eq!(retries(&sidecar), [0, 10, 40, 0]);
    });
    assert_eq!(lines.iter().map(|line| ending(line).1).sum::<u64>(), 60);
}

#[test]
fn c6_a_second_dial_beyond_max_retries_is_not_made_and_the_line_says_why() {
    let lines = logged::lines(|log| async move {
        let mesh = Mesh::default();
        let b = answering(&mesh, B);
        let service = format!("{TWO}, circuit_breaker: {{ max_retries: 0 }}");
        let sidecar = mesh.sidecar(&(caller(&service) + &log), None);
        assert_eq!(ask(&sidecar).await, b"");
        assert_eq!(b.connections(), 0);
        assert_eq!(retries(&sidecar), [0, 0, 0, 1]);
        assert_eq!(sidecar.sum("pillion_circuit_breaker_rejections_total limit=retries"), 1);
    });
    assert_eq!(ending(&lines[0]), (Some("connect_refused"), 1, Some(A)), "{lines:?}");
    assert!(detail(&lines[0]).contains("max_retries"), "{lines:?}");
}

#[test]
fn a_failure_that_no_condition_lists_is_final() {
    for retry in ["retry: { conditions: [reset, gateway_error] }", "retry: off"] {
        let lines = logged::lines(move |log| async move {
            let mesh = Mesh::default();
            let b = answering(&mesh, B);
            let sidecar = mesh.sidecar(&(caller(&format!("{TWO}, {retry}")) + &log), None);
            assert_eq!(ask(&sidecar).await, b"");
            assert_eq!((b.connections(), retries(&sidecar)), (0, [0; 4]), "{retry}");
        });
        assert_eq!(ending(&lines[0]), (Some("connect_refused"), 1, Some(A)), "{retry} {lines:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn there_is_a_pause_before_another_endpoint_is_dialled() {
    let mesh = Mesh::default();
    let b = answering(&mesh, B);
    let sidecar = mesh.caller(&format!("{TWO}, retry: {{ backoff: {{ base: 100h, max: 100h }} }}"));
    let mut client = sidecar.direct_client().await;
    client.send("\0hi").await;
    pass(1).await;
    assert_eq!((b.connections(), retries(&sidecar)), (0, [0; 4]), "the pause does not count as a try");
    pass(100 * 3600).await;
    assert_eq!((b.connections(), retries(&sidecar)), (1, [1, 0, 0, 0]));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_waits_for_its_next_dial_takes_no_place_among_max_connections() {
    let mesh = Mesh::default();
    let b = answering(&mesh, B);
    let more = "circuit_breaker: { max_connections: 1 }, retry: { backoff: { base: 100h, max: 100h } }";
    let sidecar = mesh.caller(&format!("{TWO}, {more}"));
    let mut waiting = sidecar.direct_client().await;
    waiting.send("\0hi").await;
    pass(1).await;
    assert_eq!(ask(&sidecar).await, b"yes", "the only place is free during the pause");
    pass(100 * 3600).await;
    assert_eq!(waiting.exactly(3).await.0, b"yes");
    assert_eq!(b.connections(), 2);
    assert_eq!(sidecar.sum("pillion_circuit_breaker_rejections_total limit=connections"), 0);
}

/// The early dial counted no first try, because the client then spoke HTTP.
#[tokio::test(start_paused = true)]
async fn a_client_that_was_dialled_for_early_and_speaks_http_then_counts_once_in_the_budget() {
    let mesh = Mesh::default();
    let a = mesh.answering(A, UNAVAILABLE);
    let service = "endpoints: [10.0.0.1:80], listen: 127.0.0.1:0, outlier_detection: { consecutive_errors: off }, \
                   retry: { attempts: 5, conditions: [gateway_error], budget: { ratio: 100%, min_per_second: 0 } }";
    let sidecar = mesh.caller(service);
    let mut client = sidecar.direct_client().await;
    tokio::time::sleep(Duration::from_millis(100)).await; // it is dialled to hear whether it speaks first
    assert_eq!((a.connections(), a.hits()), (1, 0));
    assert_eq!(client.get("/").await.status_and_reason(), (503, None));
    assert_eq!(retries(&sidecar), [0, 1, 1, 0], "one first try, so one retry, and no other");
}

#[test]
fn an_early_dial_that_is_used_keeps_its_attempts() {
    let lines = logged::lines(|log| async move {
        let mesh = Mesh::default();
        let _b = mesh.scripted(B, |mut peer, _| async move { peer.send("220 hello\r\n").await });
        let sidecar = mesh.sidecar(&(caller(UNDECLARED) + &log), None);
        let mut client = sidecar.direct_client().await;
        assert_eq!(client.exactly(11).await.0, b"220 hello\r\n");
        client.half_close().await;
        client.rest().await;
        settle().await;
        assert_eq!(retries(&sidecar), [1, 0, 0, 0]);
    });
    assert_eq!(ending(&lines[0]), (None, 2, Some(B)), "{lines:?}");
}

#[test]
fn an_early_dial_that_reached_no_endpoint_logs_its_attempts() {
    let lines = logged::lines(|log| async move {
        let mesh = Mesh::default();
        let sidecar = mesh.sidecar(&(caller(UNDECLARED) + &log), None);
        assert_eq!(sidecar.direct_client().await.rest().await, b"", "it says nothing, and is closed");
        settle().await;
    });
    let (reason, attempts, upstream) = ending(&lines[0]);
    assert_eq!((reason, attempts, upstream.is_some()), (Some("connect_refused"), 3, true), "{lines:?}");
}

#[test]
fn without_endpoints_there_was_no_attempt() {
    let lines = logged::lines(|log| async move {
        let mesh = Mesh::default();
        let service = "endpoints: { dns: \"nowhere.test:80\" }, listen: 127.0.0.1:0, protocol: tcp";
        let sidecar = mesh.sidecar(&(caller(service) + &log), None);
        assert_eq!(ask(&sidecar).await, b"");
    });
    let (reason, attempts, upstream) = ending(&lines[0]);
    assert_eq!((reason.is_some(), attempts, upstream), (true, 0, None), "{lines:?}");
}

#[test]
fn a_line_has_the_time_that_the_server_took_to_its_first_byte() {
    for speaks_first in [false, true] {
        let lines = logged::lines(move |log| async move {
            let mesh = Mesh::default();
            let _c = mesh.scripted(C, move |mut peer, _| async move {
                if !speaks_first {
                    peer.exactly(3).await;
                }
                pass(2).await;
                peer.send("yes").await;
            });
            let service = "endpoints: [10.0.0.3:80], listen: 127.0.0.1:0, protocol: tcp";
            let sidecar = mesh.sidecar(&(caller(service) + &log), None);
            let mut client = sidecar.direct_client().await;
            if !speaks_first {
                pass(5).await; // the client's own time
                client.send("\0hi").await;
            }
            assert_eq!(client.exactly(3).await.0, b"yes");
            client.half_close().await;
            client.rest().await;
            settle().await;
        });
        let took = lines[0]["upstream_duration_us"].as_u64().expect("a server that answered");
        assert!((2_000_000..2_100_000).contains(&took), "{speaks_first} {lines:?}");
        let whole = lines[0]["duration_us"].as_u64().expect("a number");
        assert!(whole >= took, "{speaks_first} {lines:?}");
    }
}

#[test]
fn a_connect_that_reaches_no_endpoint_logs_what_it_tried_and_a_request_without_a_route_logs_no_attempt() {
    let lines = logged::lines(|log| async move {
        let mesh = Mesh::default();
        let sidecar = mesh.sidecar(&(caller("endpoints: [10.0.0.3:80]") + &log), None);
        let mut client = sidecar.client().await;
        let answer = client.ask(&format!("CONNECT {A} HTTP/1.1\r\nhost: {A}\r\n\r\n")).await;
        assert_eq!(answer.status_and_reason(), (502, Some("connect_refused")));
        let answer = sidecar.client().await.ask("GET / HTTP/1.1\r\nhost: nobody\r\n\r\n").await;
        assert_eq!(answer.status_and_reason(), (404, Some("no_route")));
    });
    let endings: Vec<_> = lines.iter().map(ending).collect();
    assert_eq!(endings, [(Some("connect_refused"), 1, Some(A)), (Some("no_route"), 0, None)]);
}

#[test]
fn a_dial_that_answered_a_connect_is_the_attempt_of_what_runs_inside() {
    let lines = logged::lines(|log| async move {
        let mesh = Mesh::default();
        let a = mesh.scripted(A, |mut peer, _| async move { peer.send("220 hello\r\n").await });
        let sidecar = mesh.sidecar(&(caller("endpoints: [10.0.0.3:80]") + &log), None);
        let mut client = sidecar.client().await;
        client.send(format!("CONNECT {A} HTTP/1.1\r\nhost: {A}\r\n\r\n")).await;
        assert!(client.head().await.is_some_and(|head| head.contains(" 200 ")));
        assert_eq!(client.exactly(11).await.0, b"220 hello\r\n");
        client.half_close().await;
        client.rest().await;
        settle().await;
        assert_eq!(a.connections(), 1);
    });
    let opaque: Vec<_> = lines.iter().filter(|line| line["protocol"] == "tcp").map(ending).collect();
    assert_eq!(opaque, [(None, 1, Some(A))], "{lines:?}");
}

#[test]
fn an_early_dial_that_has_just_failed_is_not_repeated_when_the_client_speaks() {
    for is_refused in [true, false] {
        let lines = logged::lines(move |log| async move {
            let mesh = Mesh::default();
            if !is_refused {
                mesh.black_hole(C);
            }
            let service = "endpoints: [10.0.0.3:80], listen: 127.0.0.1:0, retry: off, connect_timeout: 2s";
            let sidecar = mesh.sidecar(&(caller(service) + &log), None);
            let mut client = sidecar.direct_client().await;
            tokio::time::sleep(Duration::from_millis(100)).await; // it is dialled to hear whether it speaks first
            client.send([0; 64]).await;
            let watch = Watch::start();
            assert_eq!(client.rest().await, b"");
            assert_eq!(watch.seconds(), if is_refused { 0 } else { 2 });
            settle().await;
            assert_eq!(
                sidecar.sum("pillion_connections_total service=orders outcome=refused"),
                u64::from(is_refused)
            );
            assert_eq!(
                sidecar.sum("pillion_connections_total service=orders outcome=timeout"),
                u64::from(!is_refused)
            );
        });
        let reason = if is_refused { "connect_refused" } else { "connect_timeout" };
        assert_eq!(ending(&lines[0]), (Some(reason), 1, Some(C)), "{lines:?}");
    }
}

#[test]
fn an_early_dial_that_failed_between_two_bytes_is_not_repeated() {
    let lines = logged::lines(|log| async move {
        let mesh = Mesh::default();
        mesh.black_hole(C);
        let service = "endpoints: [10.0.0.3:80], listen: 127.0.0.1:0, retry: off, connect_timeout: 2s";
        let sidecar = mesh.sidecar(&(caller(service) + &log), None);
        let mut client = sidecar.direct_client().await;
        tokio::time::sleep(Duration::from_millis(100)).await; // it is dialled to hear whether it speaks first
        client.send("G").await; // HTTP, or not
        pass(3).await;
        client.send([0; 64]).await;
        let watch = Watch::start();
        assert_eq!(client.rest().await, b"");
        assert_eq!(watch.seconds(), 0, "the dial has failed already and is not repeated");
        settle().await;
        assert_eq!(sidecar.sum("pillion_connections_total service=orders outcome=timeout"), 1);
    });
    assert_eq!(ending(&lines[0]), (Some("connect_timeout"), 1, Some(C)), "{lines:?}");
}
