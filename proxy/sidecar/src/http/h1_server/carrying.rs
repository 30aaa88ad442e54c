//! Carries one request through the stack, in the task of its connection.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Method;
use pillion_http1::Fields;
use tokio::sync::oneshot;

use super::content::{ClientMove, Content};
use super::{Downstream, Left, answering};
use crate::http::call::AnsweringService;
use crate::http::{Body, Call, Exchange, Response, headers, tunnel};
use pillion_base::net::Io;
use pillion_http::h1::request::Incoming;
use pillion_http::message::RequestHead;
use pillion_http::seen::Seen;
use pillion_http::transfer::{INTERIM_WAITING, only_continues};

/// Carries a request from its head to the last byte of its answer.
pub(super) async fn carry<S: AnsweringService>(
    client: &mut Downstream,
    head: Arc<RequestHead>,
    (body, mut content): (Option<Incoming>, Content),
    stack: &mut S,
) -> Left {
    let body = body.map_or_else(Body::empty, Body::request);
    let is_connect = head.method == Method::CONNECT;
    let (call, exchange, asked) = begun(client, head, body);
    let answered = {
        let mut carried = pin!(stack.call(call));
        poll_fn(|cx| poll_answered(carried.as_mut(), client, &mut content, &exchange, cx)).await
    };
    let Some(response) = answered else { return Left::Lost };
    match asked {
        Some((asked, opens)) if response.opens_tunnel() => {
            let response = tunnel::open(asked, response, &exchange);
            answering::open(client, response, opens).await
        }
        _ => {
            if is_connect {
                client.server.close_after(); // later bytes were meant for the tunnel, and are not a request
            }
            answering::answer(client, content, response).await
        }
    }
}

/// A tunnel that a request asks for, and the sender that passes the connection on when the tunnel is open.
type Tunnel = (tunnel::RequestedTunnel, oneshot::Sender<Io>);

/// Makes the call for the stack, with its exchange and the tunnel that the request asks for.
fn begun(
    client: &mut Downstream,
    mut head: Arc<RequestHead>,
    body: Body,
) -> (Box<Call>, Arc<Exchange>, Option<Tunnel>) {
    let mut seen = Seen::of(&head.headers);
    let request_id = headers::request_id(&head.headers, &seen, &mut client.worker.ground.rng.lock());
    let asked = tunnel::may_be_asked(&head, &seen)
        .then(|| tunnel::asked_http1(Arc::make_mut(&mut head), &body))
        .flatten();
    if asked.is_some() {
        seen = Seen::of(&head.headers); // `asked_http1` may have changed the headers
    }
    let (worker, connection, bytes) =
        (client.worker.clone(), client.connection.clone(), head.headers.text_bytes());
    let exchange = Arc::new(Exchange::new(worker, connection, request_id, bytes));
    client.watch.pause(exchange.started);
    let mut call = Call::new(head, body, seen, exchange.clone());
    call.common.tunnel = asked.as_ref().map(|(asked, _)| Box::new(asked.kind.clone()));
    (call, exchange, asked)
}

/// The stack's answer. `None`: the client left before it came, and the request in the stack is to be dropped.
fn poll_answered(
    mut carried: Pin<&mut impl Future<Output = Result<Response, Infallible>>>,
    client: &mut Downstream,
    content: &mut Content,
    exchange: &Exchange,
    cx: &mut Context<'_>,
) -> Poll<Option<Response>> {
    loop {
        let answered = carried.as_mut().poll(cx);
        exchange.interim.take(cx, |interim| client.tell(&interim));
        if let Poll::Ready(Ok(response)) = answered {
            return Poll::Ready(Some(response));
        }
        match content.poll(client, cx) {
            ClientMove::Sent => continue,
            ClientMove::Waits => {}
            ClientMove::Left => return Poll::Ready(None),
        }
        return match client.poll_send(cx) {
            Poll::Ready(Err(_gone)) => Poll::Ready(None),
            _ => Poll::Pending,
        };
    }
}

impl Downstream {
    /// Writes an interim answer (1xx), if the client's version has these.
    fn tell(&mut self, interim: &http::Response<()>) {
        if self.outbox.len() >= INTERIM_WAITING && !only_continues(interim) {
            return;
        }
        if let Ok(fields) = Fields::of_map(interim.headers()) {
            // The engine writes none to a version without interim answers; one that is invalid is left out.
            let _written = self.server.write_interim(interim.status(), &fields, self.outbox.end());
        }
    }
}
