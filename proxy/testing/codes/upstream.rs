//! Scenes in which an endpoint, or the way to it, fails: it is unknown, refuses, is late, or breaks off.

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response};

use super::super::backend::HANG_UP;
use super::super::mesh::{self, A, IDENTITY, Mesh, ORDERS, Pair, expired, identity, pass, settle};
use super::super::peer::Peer;
use super::client::{Form, Heard, PLAIN, Question, over_http1};
use super::{Shown, Stage};
use pillion_model::EndpointUpdate;
use pillion_model::endpoint::Problem;
use pillion_tls::identity::credentials::Credentials;

const INBOUND: &str = "10.1.0.1:15006";
const ONE: &str = "endpoints: [10.0.0.1:80], retry: off";
const UPGRADE: &str = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Asks the caller's sidecar of `orders`.
async fn ask(stage: Stage, form: Form, orders: &str) -> Shown {
    let sidecar = stage.caller(orders);
    let heard = form.ask(sidecar.client().await.into_io(), PLAIN).await;
    stage.shown(sidecar, heard)
}

/// An endpoint at A that reads each request, and then does nothing.
pub(super) fn silent(mesh: &Mesh, form: Form) {
    silent_for(mesh, form, 100);
}

/// The same, with so many streams at once.
fn silent_for(mesh: &Mesh, form: Form, streams: u32) {
    match form {
        Form::Http => drop(mesh.silent(A)),
        Form::Grpc => drop(mesh.http2(A, streams, |_, request, respond| async move {
            let _held = (request, respond);
            std::future::pending::<()>().await;
        })),
    }
}

/// An endpoint at A that begins an answer; `then` has what is left.
fn begins(mesh: &Mesh, form: Form, then: Then) {
    match form {
        Form::Http => drop(mesh.scripted(A, move |mut peer: Peer, _| async move {
            peer.message().await;
            peer.send("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf").await;
            if then == Then::Nothing {
                peer.rest().await;
            }
        })),
        Form::Grpc => drop(mesh.scripted(A, move |peer: Peer, _| async move {
            let mut conn = h2::server::handshake(peer.into_io()).await.expect("HTTP/2");
            let (_request, mut respond): (Request<RecvStream>, SendResponse<Bytes>) =
                conn.accept().await.expect("a request").expect("a request");
            let head = Response::builder().header("content-type", "application/grpc").body(());
            let mut stream = respond.send_response(head.expect("a head"), false).expect("an open stream");
            stream.send_data(Bytes::from_static(b"\0\0\0"), false).expect("an open stream");
            match then {
                Then::Nothing => drop(conn.accept().await),
                Then::Close => drop(tokio::time::timeout(mesh::secs(1), conn.accept()).await),
            }
        })),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Nothing,
    Close,
}

pub(super) async fn no_endpoints(stage: Stage, form: Form) -> Shown {
    learnt(stage, form, EndpointUpdate::known("orders", [])).await
}

pub(super) async fn unresolved_service(stage: Stage, form: Form) -> Shown {
    learnt(stage, form, EndpointUpdate::none("orders", Problem::Dns("no such name".into()))).await
}

async fn learnt(stage: Stage, form: Form, update: EndpointUpdate) -> Shown {
    let sidecar = stage.caller("endpoints: { dns: \"orders:80\" }");
    sidecar.controller.learn(update);
    let heard = form.ask(sidecar.client().await.into_io(), PLAIN).await;
    stage.shown(sidecar, heard)
}

pub(super) async fn unhealthy(stage: Stage, form: Form) -> Shown {
    let sidecar = stage.caller(&format!("{ONE}, health_check: {{ tcp: true, interval: 1s }}"));
    pass(30).await;
    let heard = form.ask(sidecar.client().await.into_io(), PLAIN).await;
    stage.shown(sidecar, heard)
}

pub(super) async fn refused(stage: Stage, form: Form) -> Shown {
    ask(stage, form, ONE).await
}

pub(super) async fn application_refused(stage: Stage, form: Form) -> Shown {
    let sidecar = stage.application(&format!("app: {A}, protocol: {}", protocol(form)));
    let heard = form.ask(sidecar.client().await.into_io(), PLAIN).await;
    stage.shown(sidecar, heard)
}

/// What a client of this form expects of an application.
pub(super) const fn protocol(form: Form) -> &'static str {
    match form {
        Form::Http => "http1",
        Form::Grpc => "http2",
    }
}

pub(super) async fn connect_timeout(stage: Stage, form: Form) -> Shown {
    stage.mesh.black_hole(A);
    ask(stage, form, &format!("{ONE}, connect_timeout: 700ms")).await
}

/// The caller's sidecar shows an expired certificate.
pub(super) async fn certificate_refused(stage: Stage, form: Form) -> Shown {
    let pair = stage.pair();
    let own = expired(&pair.ca, "web");
    to_sidecar(stage, form, &pair, ORDERS, own).await
}

pub(super) async fn another_server(stage: Stage, form: Form) -> Shown {
    let pair = stage.pair();
    let own = identity(&pair.ca, "web");
    to_sidecar(stage, form, &pair, "tls: \"spiffe://cluster.local/ns/default/sa/billing\"", own).await
}

async fn to_sidecar(stage: Stage, form: Form, pair: &Pair, tls: &str, own: Credentials) -> Shown {
    let inbound = pair.application(INBOUND, A);
    let orders = mesh::caller(&format!("endpoints: [{INBOUND}], retry: off, {tls}"));
    let sidecar = stage.sidecar(&(orders + IDENTITY), Some(own));
    let heard = form.ask(sidecar.client().await.into_io(), PLAIN).await;
    stage.shown(sidecar, heard).keeping(inbound)
}

pub(super) async fn reset(stage: Stage, form: Form) -> Shown {
    match form {
        Form::Http => drop(stage.mesh.scripted(A, |mut peer: Peer, _| async move {
            peer.message().await;
            peer.reset();
        })),
        Form::Grpc => drop(stage.mesh.http2(A, 100, |_, _, mut respond| async move {
            respond.send_reset(h2::Reason::INTERNAL_ERROR);
        })),
    }
    ask(stage, form, ONE).await
}

pub(super) async fn closed(stage: Stage, form: Form) -> Shown {
    match form {
        Form::Http => drop(stage.mesh.answering(A, HANG_UP)),
        Form::Grpc => drop(stage.mesh.scripted(A, |peer: Peer, _| async move {
            let mut conn = h2::server::handshake(peer.into_io()).await.expect("HTTP/2");
            let _request = conn.accept().await;
        })),
    }
    ask(stage, form, ONE).await
}

pub(super) async fn closed_amid_its_answer(stage: Stage, form: Form) -> Shown {
    begins(&stage.mesh, form, Then::Close);
    ask(stage, form, ONE).await
}

/// It speaks HTTP/1 where HTTP/2 is expected, or no HTTP at all.
pub(super) async fn no_http(stage: Stage, form: Form) -> Shown {
    let said = match form {
        Form::Http => "220 mail.example.com ESMTP\r\n",
        Form::Grpc => "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
    };
    drop(stage.mesh.scripted(A, move |mut peer: Peer, _| async move {
        peer.head().await;
        peer.send(said).await;
        pass(1).await;
    }));
    ask(stage, form, ONE).await
}

pub(super) async fn switched_unasked(stage: Stage, form: Form) -> Shown {
    const SWITCHED: &str =
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    drop(stage.mesh.answering(A, SWITCHED));
    ask(stage, form, ONE).await
}

pub(super) async fn switched_to_another(stage: Stage, _form: Form) -> Shown {
    const SWITCHED: &str =
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: smoke\r\n\r\n";
    drop(stage.mesh.answering(A, SWITCHED));
    let sidecar = stage.caller(ONE);
    let heard = over_http1(sidecar.client().await.into_io(), &PLAIN.head("GET", UPGRADE)).await;
    stage.shown(sidecar, heard)
}

pub(super) async fn late(stage: Stage, form: Form) -> Shown {
    silent(&stage.mesh, form);
    ask(stage, form, &format!("{ONE}, timeout: 3s")).await
}

pub(super) async fn later_than_the_caller_waits(stage: Stage, form: Form) -> Shown {
    silent(&stage.mesh, form);
    let sidecar = stage.caller(&format!("{ONE}, timeout: 15s"));
    let question = Question { fields: &[("grpc-timeout", "2S")], ..PLAIN };
    let heard = form.ask(sidecar.client().await.into_io(), question).await;
    stage.shown(sidecar, heard)
}

/// A further try would be allowed, but not for this condition.
pub(super) async fn late_try(stage: Stage, form: Form) -> Shown {
    silent(&stage.mesh, form);
    let retry = "{ attempts: 1, per_try_timeout: 2s, conditions: [connect_failure], methods: all }";
    ask(stage, form, &format!("endpoints: [10.0.0.1:80], retry: {retry}")).await
}

/// The endpoint does not take the body of the request.
pub(super) async fn unread_upload(stage: Stage, _form: Form) -> Shown {
    drop(stage.mesh.scripted(A, |mut peer: Peer, _| async move {
        peer.head().await;
        pass(3600).await;
    }));
    let sidecar = stage.caller(&format!("{ONE}, stream_idle_timeout: 20s"));
    let upload = PLAIN.head("POST", "content-length: 1000000\r\n") + &".".repeat(1_000_000);
    let heard = over_http1(sidecar.client().await.into_io(), &upload).await;
    stage.shown(sidecar, heard)
}

pub(super) async fn pause_in_an_answer(stage: Stage, form: Form) -> Shown {
    begins(&stage.mesh, form, Then::Nothing);
    ask(stage, form, &format!("{ONE}, stream_idle_timeout: 20s")).await
}

pub(super) async fn too_long(stage: Stage, form: Form) -> Shown {
    silent(&stage.mesh, form);
    ask(stage, form, &format!("{ONE}, timeout: off, max_duration: 20s")).await
}

pub(super) async fn too_long_an_answer(stage: Stage, form: Form) -> Shown {
    begins(&stage.mesh, form, Then::Nothing);
    ask(stage, form, &format!("{ONE}, max_duration: 20s")).await
}

/// One request has the only connection, or the only stream of it, and another one waits.
pub(super) async fn too_many_wait(stage: Stage, form: Form) -> Shown {
    silent_for(&stage.mesh, form, 1);
    held_by(2, stage, form, "circuit_breaker: { max_connections: 1, max_pending_requests: 1 }").await
}

pub(super) async fn too_many(stage: Stage, form: Form) -> Shown {
    silent(&stage.mesh, form);
    held_by(1, stage, form, "circuit_breaker: { max_requests: 1 }").await
}

/// Asks while so many other requests are under way.
async fn held_by(others: usize, stage: Stage, form: Form, limits: &str) -> Shown {
    let sidecar = stage.caller(&format!("{ONE}, timeout: off, {limits}"));
    let mut held = Vec::new();
    for _ in 0..others {
        let client = sidecar.client().await.into_io();
        held.push(tokio::spawn(async move {
            let other = Question { id: "another", ..PLAIN };
            form.ask(client, other).await
        }));
        settle().await;
    }
    let heard = form.ask(sidecar.client().await.into_io(), PLAIN).await;
    stage.shown(sidecar, heard).keeping(held)
}

pub(super) async fn given_up(stage: Stage, form: Form) -> Shown {
    silent(&stage.mesh, form);
    let sidecar = stage.caller(ONE);
    form.ask_and_leave(sidecar.client().await.into_io()).await;
    stage.shown(sidecar, Heard::Nothing)
}

pub(super) async fn left_amid_its_request(stage: Stage, form: Form) -> Shown {
    silent(&stage.mesh, form);
    let sidecar = stage.caller(ONE);
    form.begin_and_leave(sidecar.client().await.into_io()).await;
    stage.shown(sidecar, Heard::Nothing)
}

pub(super) async fn left_amid_the_answer(stage: Stage, form: Form) -> Shown {
    begins(&stage.mesh, form, Then::Nothing);
    let sidecar = stage.caller(ONE);
    form.ask_and_leave(sidecar.client().await.into_io()).await;
    stage.shown(sidecar, Heard::Cut(200))
}
