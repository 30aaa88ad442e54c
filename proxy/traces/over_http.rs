//! OTLP over HTTP: a POST with protobuf.

use std::time::{Duration, SystemTime};

use http::header::{CONNECTION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use pillion_base::ground::Ground;
use pillion_grpc::prost::Message as _;
use pillion_http::message::Headers;
use pillion_model::tracing::Tracing;
use pillion_sidecar::layers::pushback::Pushback;
use pillion_tls::client::AlpnOffer;
use pillion_upstream::discovery::Resolver;
use tokio::time::{Instant, timeout_at};

use super::messages::{ExportRequest, ExportResponse};
use super::{ExportError, Taken, accepted};
use pillion_companion::asking::{AGENT, Server, ask, connect};

/// 64 KiB: the content of an answer, which is a sentence at most.
const MOST_BYTES: usize = 64 * 1024;

pub(super) async fn send(
    of: &Tracing,
    request: &ExportRequest,
    until: Instant,
    ground: &Ground,
    resolver: &Resolver,
) -> Result<Taken, ExportError> {
    let url = &of.otlp;
    let mut question = Request::post(&url.path)
        .header(HOST, url.authority())
        .header(USER_AGENT, AGENT)
        .header(CONTENT_TYPE, "application/x-protobuf")
        .header(CONNECTION, "close");
    for (name, value) in &of.headers {
        question = question.header(name, &value.0);
    }
    let question = question.body(Full::new(Bytes::from(request.encode_to_vec())))?;
    let server = Server { is_tls: url.is_tls, host: &url.host, port: url.port };
    let connecting = timeout_at(until, connect(server, AlpnOffer::Http1, ground, resolver));
    let transport = connecting.await.map_err(|_elapsed| ExportError::Slow)??;
    let answer = ask(transport, question, MOST_BYTES, until).await?;
    let content = answer.body().as_deref().unwrap_or_default();
    judge(answer.status(), answer.headers(), content, SystemTime::now())
}

/// What an answer means (OTLP/HTTP Response). A collector that takes the request and answers with something unreadable, too
/// long, or without an end has taken it.
fn judge(
    status: StatusCode,
    headers: &HeaderMap,
    content: &[u8],
    now: SystemTime,
) -> Result<Taken, ExportError> {
    if status.is_success() {
        return Ok(accepted(ExportResponse::decode(content).unwrap_or_default()));
    }
    let after = || match Pushback::of(&Headers::Map(headers.clone()), false, now) {
        Some(Pushback::NotBefore(after) | Pushback::Exactly(after)) => after,
        Some(Pushback::Never) | None => Duration::ZERO,
    };
    let again = matches!(status.as_u16(), 429 | 502 | 503 | 504).then(after);
    Err(ExportError::Answered { what: format!("the collector answered {status}"), again })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::RETRY_AFTER;

    use super::super::messages::PartialSuccess;
    use super::*;

    #[test]
    fn an_answer_means_what_the_protocol_says() {
        let again = |status: u16, after: Option<&'static str>| {
            let value = after.map(|after| (RETRY_AFTER, HeaderValue::from_static(after)));
            let status = StatusCode::from_u16(status).unwrap();
            let answer = judge(status, &value.into_iter().collect(), b"", SystemTime::now());
            answer.unwrap_err().again().map(|pause| pause.as_secs())
        };
        for (status, after, expected) in [
            (429, None, Some(0)),
            (429, Some("7"), Some(7)),
            (503, Some("soon"), Some(0)),
            (502, None, Some(0)),
            (504, None, Some(0)),
            (500, None, None),
            (400, Some("7"), None),
            (404, None, None),
            (301, None, None),
        ] {
            assert_eq!(again(status, after), expected, "{status}");
        }
    }

    #[test]
    fn what_was_taken_is_counted_even_where_the_answer_is_not_readable() {
        let taken = |content: &[u8]| {
            judge(StatusCode::OK, &HeaderMap::new(), content, SystemTime::now()).unwrap().rejected
        };
        let partial = PartialSuccess { rejected_spans: 2, error_message: String::new() };
        assert_eq!(taken(&ExportResponse { partial_success: Some(partial) }.encode_to_vec()), 2);
        assert_eq!((taken(b""), taken(b"<html>")), (0, 0));
    }
}
