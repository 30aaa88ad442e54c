//! A sidecar whose successor serves: shortly before its end it closes its idle connections, and refuses nothing.

use tokio::time::timeout;

use super::super::backend::OK;
use super::super::mesh::{A, Mesh, Sidecar, pass, secs, settle};
use super::{GET, PREFACE, goaway, has, is_closed, slow, stream};

/// The caller's side, and the application's.
fn both(mesh: &Mesh) -> [Sidecar; 2] {
    [mesh.caller("endpoints: [10.0.0.1:80]"), mesh.application("app: 10.0.0.1:80")]
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_closed_and_a_request_that_comes_just_then_is_served() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    for sidecar in both(&mesh) {
        let (mut kept, mut new) = (sidecar.client().await, sidecar.client().await);
        let (mut idle, mut spare) = (sidecar.client().await, sidecar.client().await);
        for client in [&mut kept, &mut idle] {
            client.get("/").await;
        }
        sidecar.drain.begin();
        pass(600).await;
        for client in [&mut idle, &mut spare] {
            assert!(!is_closed(client).await, "a request may be on its way");
        }
        for client in [&mut kept, &mut new] {
            client.send_unnoticed(GET).await;
        }
        sidecar.drain.dismiss();
        for client in [&mut idle, &mut spare] {
            assert!(is_closed(client).await);
        }
        for client in [&mut kept, &mut new] {
            client.io.withhold(false);
            let answer = client.answer().await;
            assert_eq!(
                (answer.status_and_reason(), answer.header("connection")),
                ((200, None), Some("close"))
            );
            assert_eq!(client.rest().await, b"");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn requests_under_way_go_on_and_those_of_a_client_that_was_just_active_are_served() {
    let mesh = Mesh::default();
    let _a = slow(&mesh, A, 5);
    for sidecar in both(&mesh) {
        let mut busy = sidecar.client().await;
        busy.send(GET).await;
        pass(2).await;
        let mut new = sidecar.client().await;
        sidecar.drain.begin();
        sidecar.drain.dismiss();
        settle().await;
        new.send(GET).await;
        for client in [&mut busy, &mut new] {
            let answer = client.answer().await;
            assert_eq!(
                (answer.status_and_reason(), answer.header("connection")),
                ((200, None), Some("close"))
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_http2_client_that_ignored_goaway_learns_which_streams_were_processed() {
    let mesh = Mesh::default();
    let _a = mesh.answering(A, OK);
    for sidecar in both(&mesh) {
        let mut deaf = sidecar.client().await;
        deaf.send([PREFACE, &stream(1)].concat()).await;
        sidecar.drain.begin();
        pass(600).await;
        deaf.send(stream(3)).await;
        pass(10).await;
        sidecar.drain.dismiss();
        let heard = timeout(secs(5), deaf.rest()).await.expect("the connection is closed");
        assert!(has(&heard, &goaway(3)), "{heard:?}");
    }
}
