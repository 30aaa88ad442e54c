//! `/`: the dashboard, one page without any outside asset. It shows what `/events` sends.

use http::StatusCode;
use http::header::{ACCEPT, CONTENT_SECURITY_POLICY, HeaderMap, HeaderName, HeaderValue};
use hyper::body::Bytes;

use super::answer::{Answer, answer};

const PAGE: &str = include_str!("dashboard/page.html");
const STYLE: &str = include_str!("dashboard/style.css");
const FIGURES: &str = include_str!("dashboard/figures.js");
const MAP: &str = include_str!("dashboard/map.js");
const SCRIPT: &str = include_str!("dashboard/script.js");

/// The page has its style and its script inside, and may ask this port alone. No other page may frame it.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// Whether the client is a browser: it accepts HTML by name, which `curl` does not.
pub(super) fn is_for(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    accepted.flat_map(|accept| accept.split(',')).any(|kind| kind.trim_start().starts_with("text/html"))
}

pub(super) fn page() -> Answer {
    let parts = [("/*style*/", STYLE), ("/*figures*/", FIGURES), ("/*map*/", MAP), ("/*script*/", SCRIPT)];
    let page = parts.iter().fold(PAGE.to_owned(), |page, (place, part)| page.replace(place, part));
    let mut answer = answer(StatusCode::OK, "text/html; charset=utf-8", Bytes::from(page));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(HeaderName::from_static("referrer-policy"), HeaderValue::from_static("no-referrer"));
    answer
}
