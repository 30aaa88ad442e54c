//! Adds the headers that the next hop needs, and removes those that it must not trust.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderValue, Version};
use pillion_http1::{Known, Misuse, Value};
use tower::layer::layer_fn;
use tower::{Layer, service_fn};

use super::HttpService;
use crate::connection::Connection;
use crate::http::call::RequestContext;
use crate::http::exchange::Exchange;
use crate::http::{Call, FailedCall, Response};
use pillion_base::error::Error;
use pillion_http::headers::{remove_hop_by_hop, remove_untrusted};
use pillion_http::message::Headers;
use pillion_http::seen::{Seen, is_disguised, is_ours};
use pillion_model::Direction;
use pillion_model::Reason;

/// The schemes as values, whose bytes need not be checked for each request.
static HTTP: HeaderValue = HeaderValue::from_static("http");
static HTTPS: HeaderValue = HeaderValue::from_static("https");

pub fn layer<S: HttpService>() -> impl Layer<S, Service = impl HttpService> + Clone {
    layer_fn(|next: S| service_fn(move |call| rewrite(next.clone(), call)))
}

async fn rewrite<S: HttpService>(mut next: S, mut call: Box<Call>) -> Result<Response, FailedCall> {
    request(&mut call)?;
    let mut response = next.call(call).await?;
    let seen = response.body_mut().response_tail().seen.take();
    let headers = response.headers_mut();
    let seen = seen.unwrap_or_else(|| Seen::of(headers));
    if seen.has(Seen::OURS) || seen.has(Seen::VIA) {
        headers.remove_where(is_ours);
    }
    if seen.has(Seen::HOP_BY_HOP) {
        let named = remove_hop_by_hop(headers, &seen).map_err(not_rewritten)?;
        if seen.has(Seen::TE) {
            headers.remove(Known::Te); // `TE` has a meaning in requests only
        }
        response.body_mut().remove_trailers(named);
    }
    Ok(response)
}

fn request(call: &mut Call) -> Result<(), Error> {
    let exchange = call.common.exchange.clone();
    let connection = &exchange.connection;
    let seen = call.seen;
    remove_untrusted_of_request(call, connection);
    let version = call.head.version;
    if seen.has(Seen::HOP_BY_HOP) {
        remove_connection_headers(call)?;
    }
    let headers = &mut Arc::make_mut(&mut call.head).headers;
    if seen.has(Seen::EXPECT) {
        // Any other expectation is forwarded: the upstream decides whether it refuses it (RFC 9110, 10.1.1).
        let is_continue = headers.all(Known::Expect).all(|value| value.eq_ignore_ascii_case(b"100-continue"));
        let expects = is_continue && headers.take(Known::Expect).is_some();
        call.common.waits_to_send = expects && version != Version::HTTP_10 && !call.body.is_empty();
        if call.common.waits_to_send && version == Version::HTTP_2 {
            exchange.interim.expect_continue();
        }
    }
    if call.common.route.as_ref().is_some_and(|route| route.cluster.is_passthrough()) {
        remove_untrusted(headers); // destinations outside the mesh do not get its headers
        return Ok(());
    }
    if seen.has(Seen::DISGUISED) {
        headers.remove_where(is_disguised);
    }
    if connection.direction == Direction::Inbound {
        inform_application(headers, &exchange);
    }
    headers.put(Known::XRequestId, &exchange.request_id);
    let has_proto = seen.has(Seen::FORWARDED_PROTO)
        && (!seen.has(Seen::CONNECTION) || headers.has(Known::XForwardedProto));
    if !has_proto || connection.outside.is_some() {
        headers.set(Known::XForwardedProto, if connection.is_over_tls() { &HTTPS } else { &HTTP });
    }
    let names_host =
        seen.has(Seen::FORWARDED_HOST) && (!seen.has(Seen::CONNECTION) || headers.has(Known::XForwardedHost));
    if let (false, Some(host)) = (names_host, &call.common.host) {
        headers.put(Known::XForwardedHost, host);
    }
    let own = exchange.worker.passes(connection.direction);
    call.common.passes = match &call.common.via {
        None => 1,
        Some(via) if !names(via.as_bytes(), own) => 1, // nearly always: a limit need not be read
        Some(via) => passes(via.as_bytes(), own, exchange.worker.limits().via_passes)?,
    };
    if call.common.route.as_ref().is_some_and(|route| route.cluster.tls().is_some()) {
        tell_passes(headers, &call.common); // a sidecar may be there
    }
    exchange.write_trace(call.attempt, headers);
    Ok(())
}

/// Removes the headers that concern the client's connection alone, and those that it names.
pub(super) fn remove_connection_headers(call: &mut Call) -> Result<(), Error> {
    let headers = &mut Arc::make_mut(&mut call.head).headers;
    let named = remove_hop_by_hop(headers, &call.seen).map_err(not_rewritten)?;
    if !named.is_empty() {
        call.seen = Seen::of(headers); // removed headers must not decide anything below
    }
    call.body.remove_trailers(named);
    Ok(())
}

/// `x-forwarded-proto` of a request that has none, and of every request of a client outside the mesh over TLS: no proxy
/// before the sidecar could know better.
pub(super) const fn scheme(connection: &Connection) -> &'static str {
    if connection.is_over_tls() { "https" } else { "http" }
}

/// Removes headers that only sidecars may send, and reads them where a trusted sidecar sent them.
fn remove_untrusted_of_request(call: &mut Call, connection: &Connection) {
    let seen = call.seen;
    if !seen.has(Seen::VIA) && !seen.has(Seen::OURS) && !seen.has(Seen::FORGED) {
        return; // nearly always
    }
    let headers = &mut Arc::make_mut(&mut call.head).headers;
    let believed = connection.peer.is_some() || connection.direction == Direction::Outbound;
    if seen.has(Seen::VIA) {
        call.common.via = headers.take(Known::XPillionVia).filter(|_| believed);
    }
    if !seen.has(Seen::OURS) && !seen.has(Seen::FORGED) {
        return;
    }
    let attempt = headers.value(Known::XPillionAttempt).filter(|_| believed);
    remove_untrusted(headers);
    call.common.marked = attempt.as_ref().is_some_and(|attempt| number(attempt) > 1);
    if let Some(attempt) =
        attempt.filter(|_| call.common.marked || connection.direction == Direction::Inbound)
    {
        headers.put(Known::XPillionAttempt, &attempt);
    }
}

/// An error that cannot happen: only a head of 4 GiB cannot be rewritten, and heads have a limit.
fn not_rewritten(misuse: Misuse) -> Error {
    Error::new(Reason::InternalError, misuse.to_string())
}

/// Tells the application who calls: the verified certificate and, for a client without an identity of the mesh, its
/// address.
fn inform_application(headers: &mut Headers, exchange: &Exchange) {
    let connection = &exchange.connection;
    if let Some(client_cert) = exchange.client_cert() {
        headers.set(Known::XForwardedClientCert, client_cert);
    }
    if connection.peer.is_none() {
        append_forwarded_for(headers, connection.downstream.ip());
    }
}

fn append_forwarded_for(headers: &mut Headers, ip: IpAddr) {
    let before: Vec<&str> = headers
        .all(Known::XForwardedFor)
        .filter(|value| value.is_ascii())
        .flat_map(std::str::from_utf8)
        .collect();
    let ip = ip.to_canonical().to_string();
    let list = if before.is_empty() { ip } else { format!("{}, {ip}", before.join(", ")) };
    if let Ok(list) = HeaderValue::try_from(list) {
        headers.set(Known::XForwardedFor, &list);
    }
}

fn number(value: &Value) -> u32 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Whether `via` has an entry of this sidecar.
fn names(via: &[u8], own: &HeaderValue) -> bool {
    list(via).any(|pass| count_of(own_name(own), pass).is_some())
}

/// How many times a request has passed through this sidecar, including this time. `via` is a list of
/// `INSTANCE-DIRECTION=COUNT`. More than `most` passes are a loop.
fn passes(via: &[u8], own: &HeaderValue, most: u32) -> Result<u32, Error> {
    let own = own_name(own);
    let earlier = list(via).filter_map(|pass| count_of(own, pass));
    let number = |text| std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(most);
    let count = earlier.fold(1, |sum, passes| sum + number(passes).min(most));
    if count > most {
        return Err(Error::new(
            Reason::LoopDetected,
            format!(
                "the request came through this sidecar {count} times (limits.via_passes is {most}): compare the \
                 routes of the sidecars in x-pillion-via, which send it round in a loop"
            ),
        ));
    }
    Ok(count)
}

/// Adds `x-pillion-via` for the next sidecar.
pub fn tell_passes(headers: &mut Headers, common: &RequestContext) {
    if common.passes > 0 {
        let own = common.exchange.worker.passes(common.exchange.connection.direction);
        match &common.via {
            None => headers.set(Known::XPillionVia, own), // nearly always
            Some(came) => headers.set(Known::XPillionVia, &via(came.as_bytes(), own, common.passes)),
        }
    }
}

/// `x-pillion-via` for the next sidecar: the list that came, with this sidecar's `count`. The own entry comes first, so
/// that it is read even if the list is long.
fn via(came: &[u8], own: &HeaderValue, count: u32) -> HeaderValue {
    let name = own_name(own);
    let mut text = [name, b"=", count.to_string().as_bytes()].concat();
    let others = list(came).filter(|pass| count_of(name, pass).is_none());
    text.extend(others.flat_map(|pass| [b",", pass]).flatten());
    HeaderValue::from_bytes(&text).unwrap_or_else(|_invalid| own.clone())
}

/// The name of this sidecar's entry in the list.
fn own_name(own: &HeaderValue) -> &[u8] {
    own.as_bytes().strip_suffix(b"=1").unwrap_or(own.as_bytes())
}

/// The count of `pass`, if it is the entry of `name`.
fn count_of<'a>(name: &[u8], pass: &'a [u8]) -> Option<&'a [u8]> {
    pass.strip_prefix(name)?.strip_prefix(b"=")
}

/// The entries of a `via`. At most 64 are read.
fn list(via: &[u8]) -> impl Iterator<Item = &[u8]> {
    let passes = via.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    passes.filter(|pass| !pass.is_empty()).take(64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fifth_pass_through_a_sidecar_is_a_loop_and_entries_of_others_are_kept() {
        let own = HeaderValue::from_static("a-o=1");
        let next = |came: &HeaderValue| via(came.as_bytes(), &own, passes(came.as_bytes(), &own, 4).unwrap());
        let mut came = own.clone();
        for expected in ["a-o=2", "a-o=3", "a-o=4"] {
            came = next(&came);
            assert_eq!(came, expected);
        }
        assert_eq!(passes(came.as_bytes(), &own, 4).unwrap_err().reason, Reason::LoopDetected);
        assert_eq!(passes(came.as_bytes(), &own, 5).unwrap(), 5);
        assert_eq!(next(&HeaderValue::from_static("b-i=2")), "a-o=1,b-i=2");
        assert_eq!(next(&HeaderValue::from_static("b-i=2, a-o=1 ,c-o=1")), "a-o=2,b-i=2,c-o=1");
        let crowd: String = (0..100).map(|nth| format!("x{nth}-o=1,")).collect();
        let mut came = HeaderValue::try_from(crowd).unwrap();
        for _ in 0..4 {
            came = next(&came);
        }
        assert!(passes(came.as_bytes(), &own, 4).is_err(), "a long list hides no loop");
        let absurd = HeaderValue::from_static("a-o=99999999999999999999");
        assert!(passes(absurd.as_bytes(), &own, 4).is_err());
    }
}
