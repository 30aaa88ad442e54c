//! A check over HTTP: Envoy's `http_service`.

use http::{HeaderMap, Uri, Version};
use pillion_base::error::Error;
use pillion_http::message::{Headers, RequestHead};
use pillion_http1::Spelling;
use pillion_model::authorization::AuthorizerUrl;

use super::content::whole;
use super::{Allowed, Subject, Verdict, request, unavailable};
use crate::http::answer::Denial;
use crate::http::{Body, Call, FailedCall};
use crate::layers::route::Carry;

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

/// Asks, and reads the answer: status 200 allows, any other status below 500 denies, and so does 501.
///
/// # Errors
/// There is no verdict.
pub(super) async fn ask(of: &Subject<'_>, question: Box<Call>, carry: impl Carry) -> Result<Verdict, Error> {
    let answer = carry(question).await.map_err(|FailedCall { error, .. }| error)?;
    let status = answer.status();
    let (head, body) = answer.into_parts();
    let content = whole(body, of.call.common.exchange.room()).await; // so that the connection can be used again
    match status.as_u16() {
        200 => content.map(|_ignored| Verdict::Allowed(Allowed::default())),
        201..=499 | 501 => {
            Ok(Verdict::Denied(Denial { status, headers: head.headers, body: content?.bytes }))
        }
        _ => Err(unavailable(format!("it answered {status}"))),
    }
}
