//! Decides who may ask the admin port: a call that changes state needs `admin.token`, and web pages that a person on this
//! host has open in a browser are kept out.
//!
//! Pages have two ways. A page may send a request across origins: it cannot read the response, but the request would
//! take effect. Browsers say where such a request comes from (`Origin`, `Sec-Fetch-Site`). Or the page's host name is
//! made to resolve to this host (DNS rebinding), and the browser treats both as one origin: then `Host` is that name.
//! So the host must be an address or `localhost`, which no other site can have. Of these headers, programs send only
//! `Host`.

use http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use http::request::Parts;
use http::uri::Authority;
use pillion_model::telemetry::Secret;

const BEARER: &[u8] = b"Bearer ";
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether a request that changes state bears the token (RFC 6750, 2.1). A request that changes nothing needs none.
pub(super) fn bears(request: &Parts, token: Option<&Secret>) -> bool {
    let Some(token) = token.filter(|_| !request.method.is_safe()) else { return true };
    let mut all = request.headers.get_all(AUTHORIZATION).iter();
    let (Some(credentials), None) = (all.next(), all.next()) else { return false };
    match credentials.as_bytes().split_at_checked(BEARER.len()) {
        Some((scheme, offered)) => scheme.eq_ignore_ascii_case(BEARER) && token.is(offered),
        None => false,
    }
}

/// Whether the request may be answered; if not, why.
pub(super) fn admit(request: &Parts) -> Result<(), &'static str> {
    let hosts = hosts(request).ok_or("the Host header is not valid")?;
    if !hosts.iter().all(is_own) {
        return Err(
            "the admin port answers to IP addresses and to localhost, not to other names (DNS rebinding)",
        );
    }
    match request.method.is_safe()
        || (is_from_origin(&request.headers, &hosts) && is_from_site(&request.headers))
    {
        true => Ok(()),
        false => Err("web pages of other sites may not change anything here"),
    }
}

/// Whether no page of another site has a browser ask. A page that costs something, or of which there are few places, must
/// not be used up by one that cannot even read the answer.
pub(super) fn is_asked_from_here(request: &Parts) -> bool {
    let hosts = hosts(request).unwrap_or_default();
    is_from_origin(&request.headers, &hosts) && is_from_site(&request.headers)
}

fn is_from_origin(headers: &HeaderMap, hosts: &[Authority]) -> bool {
    let is_own = |origin: &HeaderValue| hosts.iter().any(|host| is_origin_of(origin.as_bytes(), host));
    headers.get_all(ORIGIN).iter().all(is_own)
}

/// The hosts in the request line and in the header; none in HTTP/1.0. `None`: a value is not a host.
fn hosts(request: &Parts) -> Option<Vec<Authority>> {
    let named = request.headers.get_all(HOST).iter();
    let named = named.map(|host| Authority::try_from(host.as_bytes()).ok()).collect::<Option<Vec<_>>>()?;
    let all: Vec<_> = request.uri.authority().cloned().into_iter().chain(named).collect();
    all.iter().all(|host| !host.as_str().contains('@')).then_some(all)
}

/// Whether the host is an address or `localhost`, and not a name that can be registered.
fn is_own(host: &Authority) -> bool {
    let name = host.host();
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    bare.parse::<std::net::IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost")
}

/// Whether the origin is that of `host`. The admin port speaks no TLS, so its origin begins with `http://`.
fn is_origin_of(origin: &[u8], host: &Authority) -> bool {
    let Some(origin) = origin.strip_prefix(b"http://") else { return false };
    let Ok(origin) = Authority::try_from(origin) else { return false };
    if origin.as_str().contains('@') {
        return false;
    }
    let port = |of: &Authority| of.port_u16().unwrap_or(80);
    origin.host().eq_ignore_ascii_case(host.host()) && port(&origin) == port(host)
}

/// Whether the browser says of no request that a page of another site has it sent.
fn is_from_site(headers: &HeaderMap) -> bool {
    headers.get_all(SEC_FETCH_SITE).iter().all(|site| matches!(site.as_bytes(), b"same-origin" | b"none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `line` is `METHOD TARGET`.
    fn request(line: &str, headers: &[(&str, &str)]) -> Parts {
        let (method, target) = line.split_once(' ').expect("two words");
        let mut request = http::Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    fn admitted(line: &str, headers: &[(&str, &str)]) -> bool {
        admit(&request(line, headers)).is_ok()
    }

    #[test]
    fn a_page_with_few_places_is_not_asked_by_pages_of_other_sites() {
        let table = [
            (None, None, true),
            (None, Some("same-origin"), true),
            (None, Some("none"), true),
            (None, Some("same-site"), false),
            (None, Some("cross-site"), false),
            (Some("http://localhost:15000"), None, true),
            (Some("http://evil.example"), None, false),
            (Some("null"), None, false),
        ];
        for (origin, site, expected) in table {
            let mut headers = vec![("host", "localhost:15000")];
            headers.extend(origin.map(|origin| ("origin", origin)));
            headers.extend(site.map(|site| ("sec-fetch-site", site)));
            let asked = request("GET /tap", &headers);
            assert_eq!(is_asked_from_here(&asked), expected, "{origin:?} {site:?}");
        }
    }

    #[test]
    fn only_requests_to_addresses_and_localhost_are_answered() {
        let table = [
            ("127.0.0.1:15000", true),
            ("127.0.0.1", true),
            ("10.1.2.3:9", true),
            ("[::1]:15000", true),
            ("[::1]", true),
            ("localhost", true),
            ("LocalHost:15000", true),
            ("evil.example", false),
            ("evil.example:15000", false),
            ("localhost.evil.example", false),
            ("x.localhost", false),
            ("127.0.0.1.evil.example", false),
            ("127.0.0.1@evil.example", false),
            ("evil.example@127.0.0.1", false),
            ("127.1", false),
            ("0x7f000001", false),
            ("pillion", false),
            ("", false),
            ("a b", false),
        ];
        for (host, expected) in table {
            for line in ["GET /config", "HEAD /", "POST /drain", "PUT /logging?level=debug"] {
                assert_eq!(admitted(line, &[("host", host)]), expected, "{line} {host}");
            }
        }
        assert!(admitted("POST /drain", &[]), "HTTP/1.0, which no browser speaks");
        assert!(!admitted("GET http://evil.example/config", &[("host", "127.0.0.1")]));
        assert!(!admitted("GET http://127.0.0.1/config", &[("host", "evil.example")]));
        assert!(!admitted("GET /config", &[("host", "127.0.0.1"), ("host", "evil.example")]));
    }

    #[test]
    fn a_request_that_changes_state_is_refused_from_another_origin() {
        let table = [
            ("127.0.0.1:15000", "http://127.0.0.1:15000", true),
            ("localhost:15000", "http://LOCALHOST:15000", true),
            ("127.0.0.1", "http://127.0.0.1:80", true),
            ("[::1]:15000", "http://[::1]:15000", true),
            ("127.0.0.1:15000", "http://127.0.0.1:3000", false),
            ("127.0.0.1:15000", "http://localhost:15000", false),
            ("127.0.0.1:15000", "https://127.0.0.1:15000", false),
            ("127.0.0.1:15000", "http://evil.example", false),
            ("127.0.0.1:15000", "null", false),
            ("127.0.0.1:15000", "", false),
            ("127.0.0.1:15000", "http://127.0.0.1:15000/", false),
            ("127.0.0.1:15000", "http://evil.example@127.0.0.1:15000", false),
        ];
        for (host, origin, expected) in table {
            let headers = [("host", host), ("origin", origin)];
            assert_eq!(admitted("POST /quitquitquit", &headers), expected, "{host} {origin}");
            assert!(
                admitted("GET /config", &headers),
                "the browser refuses to show responses across origins"
            );
        }
        let own = "http://127.0.0.1:15000";
        let two = [("host", "127.0.0.1:15000"), ("origin", own), ("origin", "http://evil.example")];
        assert!(!admitted("POST /drain", &two));
    }

    #[test]
    fn a_request_that_changes_state_is_refused_from_another_site() {
        for (site, expected) in
            [("same-origin", true), ("none", true), ("same-site", false), ("cross-site", false), ("", false)]
        {
            let headers = [("host", "localhost:15000"), ("sec-fetch-site", site)];
            assert_eq!(admitted("POST /reload", &headers), expected, "{site}");
            assert!(admitted("GET /", &headers), "a link may lead here");
        }
    }
}
