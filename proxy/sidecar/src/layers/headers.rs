//! Adds what the next hop must know, removes what it must not believe.

use std::net::IpAddr;

use http::header::{EXPECT, TE};
use http::{HeaderMap, HeaderValue, Version};
use tower::layer::layer_fn;
use tower::{Layer, service_fn};

use super::HttpService;
use crate::connection::Connection;
use crate::http::{Call, Failure, Response};
use pillion_base::error::Error;
use pillion_http::headers::{
    DOWNSTREAM_VERSION, Seen, X_FORWARDED_CLIENT_CERT, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO,
    X_PILLION_ATTEMPT, X_PILLION_VIA, X_REQUEST_ID, is_disguised, is_ours, remove_hop_by_hop, remove_if,
    remove_untrusted,
};
use pillion_model::Direction;
use pillion_model::Reason;

pub fn layer<S: HttpService>() -> impl Layer<S, Service = impl HttpService> + Clone {
    layer_fn(|next: S| service_fn(move |call| rewrite(next.clone(), call)))
}

async fn rewrite<S: HttpService>(mut next: S, mut call: Box<Call>) -> Result<Response, Failure> {
    request(&mut call)?;
    let mut response = next.call(call).await?;
    *response.version_mut() = DOWNSTREAM_VERSION;
    let headers = response.headers_mut();
    let seen = Seen::in_headers(headers);
    if seen.ours {
        remove_if(headers, is_ours);
    }
    if seen.hop_by_hop {
        let named = remove_hop_by_hop(headers);
        headers.remove(TE); // a request's alone
        response.body_mut().remove_trailers(named);
    }
    Ok(response)
}

fn request(call: &mut Call) -> Result<(), Error> {
    let exchange = call.common.exchange.clone();
    let connection = &exchange.connection;
    let seen = Seen::in_headers(&call.head.headers);
    let via = if seen.ours || seen.forged { distrust(call, connection) } else { None };
    let headers = &mut call.head.headers;
    if seen.hop_by_hop {
        call.body.remove_trailers(remove_hop_by_hop(headers));
    }
    if seen.expect {
        let expects = headers
            .remove(EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        call.common.waits_to_send = expects && call.head.version != Version::HTTP_10 && !call.body.is_empty();
        if call.common.waits_to_send && call.head.version == Version::HTTP_2 {
            exchange.interim.expect_continue();
        }
    }
    if call.common.route.as_ref().is_some_and(|route| route.cluster.is_passthrough()) {
        remove_untrusted(headers); // a stranger learns nothing of the mesh
        return Ok(());
    }
    if seen.disguised {
        remove_if(headers, is_disguised);
    }
    if connection.direction == Direction::Inbound {
        tell_the_application(headers, connection);
    }
    headers.insert(X_REQUEST_ID, exchange.request_id.clone());
    if !seen.forwarded_proto || seen.hop_by_hop && !headers.contains_key(X_FORWARDED_PROTO) {
        let scheme = if connection.peer.is_some() { "https" } else { "http" };
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    }
    let names_host = seen.forwarded_host && (!seen.hop_by_hop || headers.contains_key(X_FORWARDED_HOST));
    if let (false, Some(host)) = (names_host, &call.common.host) {
        headers.insert(X_FORWARDED_HOST, host.clone());
    }
    let own = exchange.worker.passes(connection.direction);
    call.common.via = Some(match via {
        None => own.clone(),
        Some(via) => passes(&via, own, exchange.worker.limits().via_passes)?,
    });
    Ok(())
}

/// Removes what only sidecars may say, and reads it where a sidecar said it. Returns `x-pillion-via`.
fn distrust(call: &mut Call, connection: &Connection) -> Option<HeaderValue> {
    let headers = &mut call.head.headers;
    let believed = connection.peer.is_some() || connection.direction == Direction::Outbound;
    let attempt = headers.get(X_PILLION_ATTEMPT).filter(|_| believed).cloned();
    let via = headers.get(X_PILLION_VIA).filter(|_| believed).cloned();
    remove_untrusted(headers);
    call.common.marked = attempt.as_ref().is_some_and(|attempt| number(attempt) > 1);
    if let Some(attempt) =
        attempt.filter(|_| call.common.marked || connection.direction == Direction::Inbound)
    {
        headers.insert(X_PILLION_ATTEMPT, attempt);
    }
    via
}

/// Who calls, as far as it is proven.
fn tell_the_application(headers: &mut HeaderMap, connection: &Connection) {
    match &connection.client_cert {
        Some(client_cert) => drop(headers.insert(X_FORWARDED_CLIENT_CERT, client_cert.clone())),
        None => append_forwarded_for(headers, connection.downstream.ip()),
    }
}

fn append_forwarded_for(headers: &mut HeaderMap, ip: IpAddr) {
    let before: Vec<&str> =
        headers.get_all(X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).collect();
    let ip = ip.to_canonical().to_string();
    let list = if before.is_empty() { ip } else { format!("{}, {ip}", before.join(", ")) };
    if let Ok(list) = HeaderValue::try_from(list) {
        headers.insert(X_FORWARDED_FOR, list);
    }
}

fn number(value: &HeaderValue) -> u32 {
    value.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// `x-pillion-via` with this pass added: a list of `INSTANCE-DIRECTION=COUNT`. One more than `most` is a loop.
fn passes(via: &HeaderValue, own: &HeaderValue, most: u32) -> Result<HeaderValue, Error> {
    let Ok(via) = via.to_str() else { return Ok(own.clone()) };
    let own = own.to_str().unwrap_or_default().trim_end_matches("=1");
    let mut count = 1;
    let mut list: Vec<&str> = Vec::new();
    for pass in via.split(',').map(str::trim).take(64) {
        match pass.split_once('=').filter(|(name, _)| *name == own) {
            Some((_, passes)) => count += passes.parse::<u32>().unwrap_or(most).min(most),
            None => list.push(pass),
        }
    }
    if count > most {
        return Err(Error::new(
            Reason::LoopDetected,
            format!("the request came through this sidecar {count} times: two services point at each other"),
        ));
    }
    let own = format!("{own}={count}");
    list.push(&own);
    HeaderValue::try_from(list.join(","))
        .map_err(|_invalid| Error::new(Reason::BadRequest, "x-pillion-via is malformed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fifth_pass_is_a_loop_and_others_passes_are_kept() {
        let own = HeaderValue::from_static("a-o=1");
        let mut via = own.clone();
        for expected in ["a-o=2", "a-o=3", "a-o=4"] {
            via = passes(&via, &own, 4).unwrap();
            assert_eq!(via, expected);
        }
        assert_eq!(passes(&via, &own, 4).unwrap_err().reason, Reason::LoopDetected);
        assert_eq!(passes(&via, &own, 5).unwrap(), "a-o=5");
        let other = HeaderValue::from_static("b-i=2");
        assert_eq!(passes(&other, &own, 4).unwrap(), "b-i=2,a-o=1");
        let absurd = HeaderValue::from_static("a-o=99999999999999999999");
        assert!(passes(&absurd, &own, 4).is_err());
    }
}
