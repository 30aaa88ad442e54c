//! What a route does with its requests in addition to sending them to a service: the compiled form of `rewrite`,
//! `redirect`, `fault` and other keys of the file.
//!
//! Pure: a request's head, its path and random numbers are arguments.

use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Uri};
use pillion_base::error::{Error, ErrorAnswer};
use pillion_base::limits::Limit;
use pillion_base::rate::{PeerRateLimits, Rate, RateLimit};
use pillion_http::message::Headers;
use pillion_model::Reason;
use pillion_model::route::{
    AbortStatus, Answer, FaultInjection, HeaderChanges as Changes, PathMatch, RateLimit as RateLimitConfig,
    RateLimitBy, Redirect, Scheme,
};

use super::Route;

pub struct Actions {
    pub answer: Option<Answer>,
    pub rewrite: Rewrite,
    pub request_headers: HeaderChanges,
    pub response_headers: HeaderChanges,
    pub fault: FaultInjection,
    pub mirror: Option<Mirror>,
    pub rate_limit: Option<Arc<RateLimit>>,
}

/// The mirror to which copies of some requests go.
pub struct Mirror {
    /// The mirror's cluster with its own policy but without retries. Its name is the route's, followed by [`MIRRORED`].
    pub route: Arc<Route>,
    pub share: f64,
    /// The limit of copies under way at once, which bounds the bytes that wait for the mirror to 16 MiB.
    pub limit: Arc<Limit>,
}

impl Mirror {
    /// 256: while a mirror has so many requests under way, it gets no further one.
    pub const MOST_AT_ONCE: u32 = 256;
}

/// The end of the route's name for mirrored requests, in metrics and log.
pub const MIRRORED: &str = "#mirror";

#[derive(Default)]
pub struct Rewrite {
    /// The part of the path that is replaced, and its replacement.
    pub path: Option<(Replaced, String)>,
    pub host: Option<HeaderValue>,
}

pub enum Replaced {
    /// The prefix, without a trailing slash.
    Prefix(String),
    Whole,
}

impl Rewrite {
    pub fn new(prefix: Option<&str>, host: Option<&str>, matched: Option<&PathMatch>) -> Self {
        let replaced = match matched {
            None => Replaced::Prefix(String::new()),
            Some(PathMatch::Prefix(prefix)) => Replaced::Prefix(prefix.trim_end_matches('/').to_owned()),
            Some(PathMatch::Exact(_) | PathMatch::Regex(_)) => Replaced::Whole,
        };
        Self {
            path: prefix.map(|prefix| (replaced, prefix.to_owned())),
            host: host.and_then(|host| HeaderValue::from_str(host).ok()),
        }
    }

    /// The request's target with the new path; `None`: the target does not change. The query is always kept.
    ///
    /// # Errors
    /// The new target cannot be written; most likely it is too long.
    pub fn target(&self, uri: &Uri) -> Result<Option<Uri>, http::Error> {
        let Some(path) = self.new_path(uri) else { return Ok(None) };
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(PathAndQuery::try_from(with_query(&path, uri.query()))?);
        Ok(Some(Uri::from_parts(parts)?))
    }

    /// `None`: the request has no path that begins with the prefix, such as `*`.
    fn new_path(&self, uri: &Uri) -> Option<String> {
        let (replaced, by) = self.path.as_ref()?;
        let Replaced::Prefix(prefix) = replaced else { return Some(by.clone()) };
        let rest = uri.path().strip_prefix(prefix.as_str())?;
        if rest.is_empty() {
            return Some(by.clone());
        }
        let rest = rest.strip_prefix('/')?;
        Some(match by.trim_end_matches('/') {
            // An application could take what follows `//` for a host.
            "" => format!("/{}", rest.trim_start_matches('/')),
            by => format!("{by}/{rest}"),
        })
    }
}

fn with_query(path: &str, query: Option<&str>) -> String {
    query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"))
}

/// The `location` of a redirect for a request with this host and target. Without another host or scheme it is only a
/// path, because only the client knows the scheme and host that it used.
pub fn location(redirect: &Redirect, host: &str, uri: &Uri) -> Option<HeaderValue> {
    let Redirect { path, host: other, scheme, .. } = redirect;
    let path = match path {
        Some(path) if path.contains('?') => path.clone(),
        path => with_query(path.as_deref().unwrap_or_else(|| uri.path()), uri.query()),
    };
    let text = match (scheme, other) {
        (None, None) => path,
        (scheme, other) => {
            let scheme = match scheme {
                Some(Scheme::Https) => "https",
                Some(Scheme::Http) | None => "http",
            };
            let path = if path.starts_with('/') { path.as_str() } else { "/" };
            let authority = other.as_deref().unwrap_or_else(|| without_port_of_other_scheme(host, scheme));
            format!("{scheme}://{authority}{path}")
        }
    };
    HeaderValue::try_from(text).ok()
}

/// The host of a request whose redirect changes the scheme to `scheme`. The default port of the former scheme would lead
/// to a server that does not speak the new one.
fn without_port_of_other_scheme<'a>(host: &'a str, scheme: &str) -> &'a str {
    let former = if scheme == "https" { ":80" } else { ":443" };
    host.strip_suffix(former).unwrap_or(host)
}

/// Changes of headers: names are removed first, then values are set, then values are added.
#[derive(Default)]
pub struct HeaderChanges {
    remove: Box<[HeaderName]>,
    set: Box<[(HeaderName, HeaderValue)]>,
    add: Box<[(HeaderName, HeaderValue)]>,
}

impl HeaderChanges {
    pub fn new(of: &Changes) -> Self {
        let field = |(name, value): &(String, String)| {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            Some((name, HeaderValue::from_bytes(value.as_bytes()).ok()?))
        };
        Self {
            remove: of
                .remove
                .iter()
                .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
                .collect(),
            set: of.set.iter().filter_map(field).collect(),
            add: of.add.iter().filter_map(field).collect(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    pub fn apply(&self, headers: &mut Headers) {
        self.remove.iter().for_each(|name| headers.remove_named(name));
        for (name, value) in &self.set {
            headers.remove_named(name);
            headers.append_named(name, value);
        }
        self.add.iter().for_each(|(name, value)| headers.append_named(name, value));
    }
}

/// Whether this request belongs to a share of all requests. `dice` gives a random number from 0 to below 1.
pub fn is_among(share: f64, dice: impl FnOnce() -> f64) -> bool {
    share >= 1.0 || (share > 0.0 && dice() < share)
}

/// The error for a fault that `route` injects.
pub fn injected(with: AbortStatus, route: &str) -> Error {
    let answer = match with {
        AbortStatus::Http(status) => ErrorAnswer::Status(status),
        AbortStatus::Grpc(status) => ErrorAnswer::Grpc(status),
    };
    Error::new(Reason::FaultInjected, format!("this answer was injected: {route} has `fault.abort`"))
        .answered(answer)
}

/// The limit of inbound requests.
pub enum PeersRateLimit {
    All(RateLimit),
    /// Clients without an identity have a table of their own, so that they cannot take the places of the mesh's peers.
    Each {
        peers: Box<PeerRateLimits>,
        strangers: Box<PeerRateLimits>,
    },
}

pub fn rate(of: RateLimitConfig) -> Rate {
    Rate { requests: of.requests, per: of.per, burst: of.burst.unwrap_or(of.requests) }
}

impl PeersRateLimit {
    pub fn new(of: RateLimitConfig, now: std::time::Instant) -> Self {
        match of.by {
            RateLimitBy::All => Self::All(RateLimit::new(rate(of), now)),
            RateLimitBy::Peer => {
                let table = || Box::new(PeerRateLimits::new(rate(of), now));
                Self::Each { peers: table(), strangers: table() }
            }
        }
    }
}

/// The error for a request beyond a rate limit. `wait`: after this time a further request may be accepted.
pub fn rate_limited(rate: Rate, whose: &str, wait: std::time::Duration) -> Error {
    let seconds = u32::try_from(wait.as_nanos().div_ceil(1_000_000_000)).unwrap_or(u32::MAX);
    let Rate { requests, per, burst } = rate;
    let detail =
        format!("{whose} is at its limit: {requests} requests in {per:?}, {burst} at once (rate_limit)");
    Error::new(Reason::RateLimited, detail).answered(ErrorAnswer::RetryAfter(seconds.max(1)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rewritten(matched: Option<PathMatch>, prefix: &str, target: &'static str) -> String {
        let uri = Uri::from_static(target);
        let rewrite = Rewrite::new(Some(prefix), None, matched.as_ref());
        rewrite.target(&uri).expect("it is short").unwrap_or(uri).to_string()
    }

    #[test]
    fn a_prefix_is_replaced_on_the_borders_of_segments_and_a_whole_path_as_a_whole() {
        let prefix = |text: &str| Some(PathMatch::Prefix(text.to_owned()));
        for (matched, by, target, expected) in [
            (prefix("/v2"), "/", "/v2/x", "/x"),
            (prefix("/v2"), "/", "/v2", "/"),
            (prefix("/v2/"), "/", "/v2", "/"),
            (prefix("/v2"), "/", "/v2/", "/"),
            (prefix("/v2"), "/", "/v2?a=/v2", "/?a=/v2"),
            (prefix("/v2"), "/new", "/v2/x?y", "/new/x?y"),
            (prefix("/v2"), "/new/", "/v2/x", "/new/x"),
            (prefix("/v2/"), "/new", "/v2//x", "/new//x"),
            (prefix("/v2"), "/", "/v2//evil.example/", "/evil.example/"),
            (prefix("/v2"), "/", "/v2//", "/"),
            (prefix("/"), "/new", "/x", "/new/x"),
            (None, "/new", "/", "/new/"),
            (None, "/new", "/x", "/new/x"),
            (None, "/new", "*", "*"),
            (None, "/new", "http://orders/x", "http://orders/new/x"),
            (Some(PathMatch::Exact("/a/b".into())), "/c", "/a/b?q", "/c?q"),
        ] {
            assert_eq!(rewritten(matched.clone(), by, target), expected, "{matched:?} {by} {target}");
        }
    }

    /// `http::Uri` holds 65,534 bytes.
    #[test]
    fn a_target_that_becomes_too_long_is_an_error_and_not_left_as_it_is() {
        let uri: Uri = format!("/{}", "x".repeat(65_500)).parse().expect("a path");
        let rewrite = Rewrite::new(Some(&format!("/{}", "t".repeat(100))), None, None);
        assert!(rewrite.target(&uri).is_err());
        assert!(Rewrite::new(Some("/t"), None, None).target(&uri).is_ok());
    }

    #[test]
    fn the_default_port_of_the_former_scheme_goes_with_it() {
        let redirect = |scheme| Redirect { path: None, host: None, scheme: Some(scheme), status: 302 };
        for (scheme, host, expected) in [
            (Scheme::Https, "orders:80", "https://orders/"),
            (Scheme::Https, "[fd00::80]:80", "https://[fd00::80]/"),
            (Scheme::Https, "[fd00::80]", "https://[fd00::80]/"),
            (Scheme::Https, "orders:8080", "https://orders:8080/"),
            (Scheme::Https, "orders:443", "https://orders:443/"),
            (Scheme::Http, "orders:443", "http://orders/"),
            (Scheme::Http, "orders:80", "http://orders:80/"),
        ] {
            let location = location(&redirect(scheme), host, &Uri::from_static("/"));
            assert_eq!(location.expect("a value"), expected, "{scheme:?} {host}");
        }
    }

    #[test]
    fn a_location_keeps_the_parts_that_the_redirect_does_not_change() {
        let redirect = |path: Option<&str>, host: Option<&str>, scheme| Redirect {
            path: path.map(str::to_owned),
            host: host.map(str::to_owned),
            scheme,
            status: 301,
        };
        for (redirect, target, expected) in [
            (redirect(Some("/v2"), None, None), "/old", "/v2"),
            (redirect(Some("/v2"), None, None), "/old?a=1", "/v2?a=1"),
            (redirect(Some("/v2?b=2"), None, None), "/old?a=1", "/v2?b=2"),
            (redirect(None, Some("new.shop"), None), "/old?a=1", "http://new.shop/old?a=1"),
            (redirect(None, None, Some(Scheme::Https)), "//evil/x", "https://orders//evil/x"),
            (redirect(Some("/v2"), Some("b:8443"), Some(Scheme::Https)), "/", "https://b:8443/v2"),
            (redirect(None, Some("b"), None), "*", "http://b/"),
        ] {
            let uri = Uri::from_static(target);
            assert_eq!(
                location(&redirect, "orders", &uri).expect("a value"),
                expected,
                "{redirect:?} {target}"
            );
        }
    }

    #[test]
    fn shares_are_met_in_the_long_run_and_0_and_1_need_no_random_number() {
        let mut rng = fastrand::Rng::with_seed(7);
        for share in [0.01, 0.2, 0.5, 0.999] {
            let hits = (0..100_000).filter(|_| is_among(share, || rng.f64())).count() as f64;
            let deviation = (100_000.0 * share * (1.0 - share)).sqrt();
            assert!((hits - 100_000.0 * share).abs() < 6.0 * deviation, "{hits} of {share}");
        }
        assert!(!is_among(0.0, || unreachable!()) && is_among(1.0, || unreachable!()));
    }

    proptest! {
        #[test]
        fn no_path_makes_a_rewrite_panic(path in "/[a-z/?%]{0,20}", prefix in "/[a-z/]{0,6}", by in "/[a-z/]{0,6}") {
            let rewrite = Rewrite::new(Some(&by), None, Some(&PathMatch::Prefix(prefix)));
            let uri: Uri = path.parse().expect("a path");
            if let Some(target) = rewrite.target(&uri).expect("it is short") {
                prop_assert_eq!(target.query(), uri.query());
                prop_assert!(target.path().starts_with('/'));
            }
        }
    }
}
