//! The right to send one request on one connection.

use std::sync::Arc;

use http::Uri;

use super::About;
use super::aftermath::{Patience, outlast};
use super::http1::Http1;
use super::http2::Http2;
use super::send_failure::{SendFailure, by_tls, explain_failed, is_goaway, was_refused};
use super::shard::Shard;
use pillion_base::limits::Permit;
use pillion_http::agreed::{Asked, CASE};
use pillion_http::message::RequestHead;
use pillion_http::transfer::Observer;
use pillion_http::{Body, Response};
use pillion_tls::admission;

pub struct Lease {
    kind: Option<LeaseKind>,
    shard: Arc<Shard>,
    about: About,
    /// Whether the request was handed to the connection, and its exchange has not ended completely. Over HTTP/2, whether
    /// the upstream may be at work: it has the request, and has neither ended its answer nor reset the stream.
    is_busy: bool,
    /// Whether the connection is closed even if its exchange ends completely.
    is_last: bool,
    /// The observer of the request's body, if the request has a body.
    carries: Option<Arc<dyn Observer>>,
    /// The place among `max_requests`, held for as long as the upstream may work on the request.
    permit: Option<Permit>,
    patience: Patience,
    /// What the request has told another sidecar over HTTP/2 of the spelling of its names.
    asked: Asked,
}

enum LeaseKind {
    Http1(Box<Http1>),
    Http2(Arc<Http2>),
}

impl Lease {
    pub(super) fn http1(conn: Box<Http1>, shard: &Arc<Shard>) -> Self {
        let about = conn.about;
        Self::new(LeaseKind::Http1(conn), about, shard)
    }

    pub(super) fn http2(conn: Arc<Http2>, shard: &Arc<Shard>) -> Self {
        let about = conn.count_use();
        Self::new(LeaseKind::Http2(conn), about, shard)
    }

    fn new(kind: LeaseKind, about: About, shard: &Arc<Shard>) -> Self {
        Self {
            kind: Some(kind),
            shard: shard.clone(),
            about,
            is_busy: false,
            is_last: false,
            carries: None,
            permit: None,
            patience: Patience::NONE,
            asked: Asked::Nothing,
        }
    }

    pub const fn is_http2(&self) -> bool {
        matches!(self.kind, Some(LeaseKind::Http2(_)))
    }

    /// Whether the connection has carried a request before.
    pub const fn is_reused(&self) -> bool {
        self.about.uses > 0
    }

    /// Whether the peer is a sidecar whose identity was verified.
    pub const fn is_sidecar(&self) -> bool {
        self.about.is_sidecar
    }

    /// Applies the present limits to this exchange. An HTTP/2 connection keeps the limits that it was opened with.
    pub(crate) fn limit_answer(&self, most_fields: u32) {
        if let Some(LeaseKind::Http1(conn)) = &self.kind {
            conn.limit_answer(most_fields);
        }
    }

    /// From now on the lease holds the request's place among `max_requests`, until the exchange has ended or the upstream
    /// has had `patience` to end it.
    pub fn hold(&mut self, permit: Option<Permit>, patience: Patience) {
        (self.permit, self.patience) = (permit, patience);
    }

    /// Sends a request and waits for the headers of the answer. If no byte of the request was sent, its body is
    /// unchanged afterwards. `target`: the target over HTTP/2, if it differs from that of the head.
    pub async fn send<O: Observer + 'static>(
        &mut self,
        (head, target): (&RequestHead, &mut Option<Uri>),
        body: &mut Body,
        observer: &Arc<O>,
    ) -> Result<Response, SendFailure> {
        self.is_busy = true;
        self.carries = (!body.is_empty()).then(|| observer.clone() as Arc<dyn Observer>);
        let sent = match &mut self.kind {
            Some(LeaseKind::Http1(conn)) => conn.send(head, body, &**observer).await,
            Some(LeaseKind::Http2(_)) => {
                let target = target.take().unwrap_or_else(|| head.uri.clone());
                let sent = Box::pin(self.send_http2((head, target), body, &**observer)).await;
                // The application may also work on after the head of its answer.
                self.is_busy = sent.as_ref().map_or_else(|failure| failure.is_cut, |_answered| true);
                sent
            }
            None => unreachable!("a lease has its connection until it is dropped"),
        };
        sent.map_err(|failure| match self.tls_failure() {
            Some(tls) => by_tls(failure, tls),
            None => failure,
        })
    }

    /// The TLS failure behind an error. A TLS 1.3 server judges our certificate after the handshake has ended for us,
    /// and its alert comes in place of an answer. HTTP libraries report it badly or not at all, so the stream below
    /// them has kept it.
    fn tls_failure(&self) -> Option<admission::AdmissionFailure> {
        match &self.kind {
            Some(LeaseKind::Http1(conn)) => conn.tls_failure(),
            Some(LeaseKind::Http2(conn)) => conn.tls_failure(),
            None => None,
        }
    }

    async fn send_http2(
        &mut self,
        (head, target): (&RequestHead, Uri),
        body: &mut Body,
        observer: &dyn Observer,
    ) -> Result<Response, SendFailure> {
        let Some(LeaseKind::Http2(conn)) = &self.kind else { unreachable!("asked of HTTP/2 alone") };
        let (mut told, mut via) = (None, None);
        if self.about.is_sidecar {
            (self.asked, told) = conn.agreed.ask(head);
            via = conn.agreed.implied_via();
        }
        let mut head = head.to_http2(target, via).map_err(|misuse| SendFailure::unwritable(&misuse))?;
        if let Some(told) = told {
            head.headers_mut().insert(CASE, told);
        }
        let failed = match conn.send.send(head, body, observer).await {
            Ok(response) => return Ok(Response::from(response.map(Body::from))),
            Err(failed) => failed,
        };
        if failed.is_unsent || is_goaway(&failed.error) {
            self.shard.retire(conn);
        } else if was_refused(&failed.error) {
            self.shard.was_refused(conn);
        }
        Err(explain_failed(&failed, self.is_reused()))
    }

    /// Learns from the answer of another sidecar how its names are spelled. `tells`: it has fields `x-pillion-…`.
    pub fn learn_spelling(&self, answer: &mut Response, tells: bool) {
        if let Some(LeaseKind::Http2(conn)) = &self.kind {
            let told = if tells { answer.headers().named(CASE.as_str()).next() } else { None };
            let spelling = conn.agreed.hear_answer(self.asked, told);
            answer.head_mut().spelling = spelling;
        }
    }

    /// Makes this exchange the last one on its connection, if the connection is HTTP/1.
    pub const fn close_after(&mut self) {
        self.is_last = true;
    }

    /// The answer came completely. The connection may serve another request, unless this was to be the last, or a part
    /// of this request was not sent: that part is not needed any more, but without it no other request can follow.
    pub fn give_back(mut self) {
        self.permit = None;
        let is_unfinished = self.carries.as_ref().is_some_and(|observer| observer.progress().is_unfinished());
        self.is_busy = self.is_last || is_unfinished;
    }
}

/// Returns an intact connection to the pool. An HTTP/1 connection in the middle of an exchange is closed.
impl Drop for Lease {
    fn drop(&mut self) {
        match self.kind.take() {
            Some(LeaseKind::Http1(conn)) if !self.is_busy => self.shard.take_back(conn),
            Some(LeaseKind::Http2(conn)) => {
                self.shard.release_stream(&conn);
                if let (true, Some(permit)) = (self.is_busy, self.permit.take().filter(Permit::is_scarce)) {
                    outlast(permit, self.patience);
                }
            }
            Some(LeaseKind::Http1(conn)) => {
                conn.cut(self.permit.take().filter(Permit::is_scarce), self.patience);
            }
            None => {}
        }
    }
}
