//! A check over HTTP: Envoy's `http_service`.

use http::{HeaderMap, Uri, Version};
use pillion_base::exchanges::ExchangePlace;
use pillion_http::message::{Headers, RequestHead, ResponseHead};
use pillion_http1::Spelling;
use pillion_model::authorization::AuthorizerUrl;
use tokio::time::Instant;

use super::content::{Content, skip};
use super::subject::{Subject, request};
use super::{Allowed, Unjudged, Verdict, unsendable_denial};
use crate::http::answer::Denial;
use crate::http::{Body, Call};

/// The request to the authorizer: the method of the client's, the prefix with its path, and its host.
///
/// # Errors
/// Why this request cannot be asked about.
pub(super) fn question(
    of: &Subject<'_>,
    at: &AuthorizerUrl,
    headers: HeaderMap,
    body: Vec<u8>,
) -> Result<Box<Call>, String> {
    let uri = Uri::try_from(format!("{}{}", at.prefix, of.path()));
    let uri = uri.map_err(|_invalid| "the path of the question is too long or invalid".to_owned())?;
    let head = RequestHead {
        method: of.call.head.method.clone(),
        uri,
        version: Version::HTTP_11,
        spelling: Spelling::LOWER,
        protocol: None,
        headers: Headers::Map(headers),
    };
    let body = if body.is_empty() { Body::empty() } else { Body::full(body) };
    Ok(request(of, head, of.call.common.host.clone(), body))
}

/// What the answer says: status 200 allows, any other status below 500 denies, and so does 501.
///
/// # Errors
/// There is no verdict.
pub(super) async fn verdict(
    head: ResponseHead,
    body: Body,
    room: Option<ExchangePlace>,
    until: Instant,
) -> Result<Verdict, Unjudged> {
    let ResponseHead { status, headers, .. } = head;
    match status.as_u16() {
        200 => {
            skip(body, until).await;
            Ok(Verdict::Allowed(Allowed::default()))
        }
        201..=499 | 501 => {
            let Content { bytes, end, .. } = Content::read(body, room, until).await;
            Ok(match end {
                Ok(()) => Verdict::Denied(Denial { status, headers, body: bytes }),
                Err(why) => unsendable_denial(why),
            })
        }
        500..=599 => {
            skip(body, until).await;
            Err(Unjudged::Failed(format!("it answered {status}")))
        }
        _ => Err(Unjudged::Unreadable(format!("it answered {status}"))),
    }
}
