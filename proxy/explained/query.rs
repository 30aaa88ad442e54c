//! The question of `pillion explain`, as words of a command line and as the query of a URL.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use pillion_model::SpiffeId;
use pillion_sidecar::layers::route::explain::Question;

/// The most headers of a question: as many as a request may have by default.
const MOST_HEADERS: usize = 100;

/// A question as it is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Query {
    /// Empty for opaque bytes.
    pub(crate) method: String,
    pub(crate) url: String,
    /// `name: value`
    pub(crate) headers: Vec<String>,
    /// A SPIFFE ID, and an address.
    pub(crate) sources: Vec<String>,
    pub(crate) inbound: Option<u16>,
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadQuestion {
    #[error("{0:?} is no URL: write http://orders/v2/x, or tcp://10.96.0.10:80 for opaque bytes")]
    Url(String),
    #[error("{0:?} needs a method before it: GET {0}")]
    NoMethod(String),
    #[error("{0:?} is no method")]
    Method(String),
    #[error("{0:?} is no header: write 'x-user: jo'")]
    Header(String),
    #[error("there are more than {MOST_HEADERS} headers")]
    ManyHeaders,
    #[error("{0:?} is no host: a sidecar answers a request with such a header Host with 400 (bad_request)")]
    Host(String),
    #[error("a request has one host: write one header Host")]
    ManyHosts,
    #[error("a CONNECT has no path: write CONNECT http://orders:8080")]
    ConnectWithPath,
    #[error(
        "{0:?} is no source: write a SPIFFE ID (spiffe://cluster.local/ns/default/sa/web) or an IP address"
    )]
    Source(String),
    #[error("{0:?} is no parameter: there are method, url, header, source and inbound")]
    Parameter(String),
}

impl Query {
    /// Parses the query of `/explain`.
    ///
    /// # Errors
    /// A parameter is not known.
    pub(crate) fn parse(text: &str) -> Result<Self, BadQuestion> {
        let mut query = Self::default();
        for word in text.split('&').filter(|word| !word.is_empty()) {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let value = decoded(value).ok_or_else(|| BadQuestion::Parameter(word.to_owned()))?;
            match name {
                "method" => query.method = value,
                "url" => query.url = value,
                "header" => query.headers.push(value),
                "source" => query.sources.push(value),
                "inbound" => {
                    let port = value.parse().map_err(|_no_port| BadQuestion::Parameter(word.to_owned()))?;
                    query.inbound = Some(port);
                }
                _ => return Err(BadQuestion::Parameter(name.to_owned())),
            }
        }
        Ok(query)
    }

    /// The query of `/explain`.
    pub(crate) fn encoded(&self) -> String {
        let Self { method, url, headers, sources, inbound } = self;
        let mut all = vec![("url", url.clone())];
        all.extend((!method.is_empty()).then(|| ("method", method.clone())));
        all.extend(headers.iter().map(|header| ("header", header.clone())));
        all.extend(sources.iter().map(|source| ("source", source.clone())));
        all.extend(inbound.map(|port| ("inbound", port.to_string())));
        let words: Vec<String> =
            all.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        words.join("&")
    }

    /// # Errors
    /// Something of it cannot be read.
    pub(crate) fn question(&self) -> Result<Question, BadQuestion> {
        let bad = || BadQuestion::Url(self.url.clone());
        let (scheme, rest) = self.url.split_once("://").ok_or_else(bad)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at_checked(end).ok_or_else(bad)?;
        let authority = host(authority.as_bytes()).ok_or_else(bad)?;
        let head = match (scheme, &*self.method) {
            ("http", "") => return Err(BadQuestion::NoMethod(self.url.clone())),
            ("http", method) => Some(self.request(method, &authority, target)?),
            ("tcp" | "https", _) => None, // TLS of the application is carried as it comes
            _ => return Err(bad()),
        };
        let (peer, source) = self.caller()?;
        let of_scheme = (scheme == "https").then_some(443);
        let to = authority
            .host()
            .trim_matches(['[', ']'])
            .parse::<IpAddr>()
            .ok()
            .map(|ip| SocketAddr::from((ip, authority.port_u16().or(of_scheme).unwrap_or(80))));
        let host = match &head {
            Some(head) => named(head, authority)?,
            None => authority,
        };
        let port = host.port_u16().or(of_scheme);
        let host = host.as_str().to_owned();
        Ok(Question { host, port, to, head: head.map(Into::into), inbound: self.inbound, peer, source })
    }

    /// The identity and the address of the caller.
    fn caller(&self) -> Result<(Option<SpiffeId>, Option<IpAddr>), BadQuestion> {
        let (mut peer, mut source) = (None, None);
        for text in &self.sources {
            match (text.parse::<SpiffeId>(), text.parse::<IpAddr>()) {
                (Ok(id), _) => peer = Some(id),
                (_, Ok(address)) => source = Some(address),
                (Err(_), Err(_)) => return Err(BadQuestion::Source(text.clone())),
            }
        }
        Ok((peer, source))
    }

    /// The head of the request as it is in HTTP/1: a CONNECT has the authority as its target, and other requests have a
    /// path.
    fn request(&self, method: &str, authority: &Authority, target: &str) -> Result<Parts, BadQuestion> {
        let method: Method = method.parse().map_err(|_invalid| BadQuestion::Method(method.to_owned()))?;
        let target = target.split('#').next().unwrap_or_default();
        let slash = if target.starts_with('/') { "" } else { "/" };
        let uri = match (method == Method::CONNECT, target) {
            (true, "" | "/") => Uri::builder().authority(authority.clone()).build(),
            (true, _) => return Err(BadQuestion::ConnectWithPath),
            (false, _) => format!("{slash}{target}").parse::<Uri>().map_err(http::Error::from),
        };
        let uri = uri.map_err(|_invalid| BadQuestion::Url(self.url.clone()))?;
        let (mut parts, ()) = Request::new(()).into_parts();
        (parts.method, parts.uri, parts.headers) = (method, uri, self.header_map()?);
        let host = HeaderValue::from_str(authority.as_str())
            .map_err(|_invalid| BadQuestion::Url(self.url.clone()))?;
        parts.headers.entry(HOST).or_insert(host);
        Ok(parts)
    }

    fn header_map(&self) -> Result<HeaderMap, BadQuestion> {
        let mut headers = HeaderMap::new();
        if self.headers.len() > MOST_HEADERS {
            return Err(BadQuestion::ManyHeaders);
        }
        for text in &self.headers {
            let bad = || BadQuestion::Header(text.clone());
            let (name, value) = text.split_once(':').ok_or_else(bad)?;
            let name: HeaderName = name.trim().parse().map_err(|_invalid| bad())?;
            headers.append(name, value.trim().parse().map_err(|_invalid| bad())?);
        }
        Ok(headers)
    }
}

/// `None`: the text is no host with perhaps a port.
fn host(text: &[u8]) -> Option<Authority> {
    let authority = Authority::try_from(text).ok()?;
    let is_host = !authority.host().trim_matches(['[', ']']).is_empty() && !text.contains(&b'@');
    is_host.then_some(authority)
}

/// The host that a request names: that of its header `Host`, and for a CONNECT its target (RFC 9112, 3.2). `url`: the host
/// of the URL.
fn named(head: &Parts, url: Authority) -> Result<Authority, BadQuestion> {
    let mut all = head.headers.get_all(HOST).iter();
    match (all.next(), all.next()) {
        (Some(_), Some(_)) => Err(BadQuestion::ManyHosts),
        (Some(one), None) if head.method != Method::CONNECT => {
            let bad = || BadQuestion::Host(String::from_utf8_lossy(one.as_bytes()).into_owned());
            host(one.as_bytes()).ok_or_else(bad)
        }
        _ => Ok(url),
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.method.is_empty() {
            write!(f, "{} ", self.method)?;
        }
        f.write_str(&self.url)
    }
}

/// Every byte but those of RFC 3986, 2.3, is encoded.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// `None`: an encoded byte has no two digits, or the text is not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let (mut bytes, mut parts) = (Vec::new(), text.split('%'));
    bytes.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(
            u8::from_str_radix(digits, 16)
                .ok()
                .filter(|_| digits.bytes().all(|it| it.is_ascii_hexdigit()))?,
        );
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn query(method: &str, url: &str) -> Query {
        Query { method: method.to_owned(), url: url.to_owned(), ..Query::default() }
    }

    #[test]
    fn a_url_has_a_host_and_perhaps_a_port_and_a_path() {
        for (url, host, port, target) in [
            ("http://orders/v2/x?a=1", "orders", None, "/v2/x?a=1"),
            ("http://orders:8080", "orders:8080", Some(8080), "/"),
            ("http://orders?a", "orders", None, "/?a"),
            ("http://[::1]:80/a#b", "[::1]:80", Some(80), "/a"),
        ] {
            let asked = query("GET", url).question().expect("a question");
            let head = asked.head.expect("a request");
            assert_eq!(
                (asked.host.as_str(), asked.port, head.uri.to_string().as_str()),
                (host, port, target)
            );
        }
        let tcp = query("", "tcp://10.96.0.10:80").question().expect("a question");
        assert!(tcp.head.is_none() && tcp.host == "10.96.0.10:80" && tcp.to == "10.96.0.10:80".parse().ok());
        assert_eq!(query("", "https://orders").question().expect("a question").port, Some(443));
    }

    #[test]
    fn the_header_host_names_the_host_and_the_url_the_address() {
        let with = |method: &str, url: &str, host: &str| {
            let headers = vec![format!("Host: {host}")];
            Query { headers, ..query(method, url) }.question().expect("a question")
        };
        let asked = with("GET", "http://10.96.0.10/a", "orders:8080");
        assert_eq!((asked.host.as_str(), asked.port), ("orders:8080", Some(8080)));
        assert_eq!(asked.to, "10.96.0.10:80".parse().ok());
        let asked = with("GET", "http://billing:81/a", "orders");
        assert_eq!((asked.host.as_str(), asked.port, asked.to), ("orders", None, None));
        let asked = with("CONNECT", "http://billing:81", "orders");
        assert_eq!((asked.host.as_str(), asked.port), ("billing:81", Some(81)), "as its target");
    }

    #[test]
    fn the_target_of_a_connect_is_the_authority() {
        for url in ["http://orders:80", "http://orders:80/"] {
            let head = query("CONNECT", url).question().expect("a question").head.expect("a request");
            assert_eq!((head.uri.to_string().as_str(), head.uri.path()), ("orders:80", ""));
        }
    }

    #[test]
    fn a_question_that_cannot_be_read_says_what_to_write() {
        let with = |headers: &[&str], sources: &[&str]| Query {
            headers: headers.iter().map(ToString::to_string).collect(),
            sources: sources.iter().map(ToString::to_string).collect(),
            ..query("GET", "http://a/")
        };
        for (asked, expected) in [
            (query("GET", "orders"), "http://orders/v2/x"),
            (query("GET", "ftp://orders"), "http://orders/v2/x"),
            (query("GET", "http:///a"), "http://orders/v2/x"),
            (query("GET", "http://a@b/"), "http://orders/v2/x"),
            (query("GET", "http://a/\u{1}"), "http://orders/v2/x"),
            (query("", "http://a/"), "GET http://a/"),
            (query("G T", "http://a/"), "is no method"),
            (with(&["x-user"], &[]), "x-user: jo"),
            (with(&["x user: a"], &[]), "x-user: jo"),
            (with(&["a: b"; 101], &[]), "more than 100"),
            (with(&["Host: a", "host: b"], &[]), "one header Host"),
            (with(&["Host: a@b"], &[]), "400 (bad_request)"),
            (with(&["Host: "], &[]), "400 (bad_request)"),
            (query("CONNECT", "http://a:80/b"), "CONNECT http://orders:8080"),
            (with(&[], &["web"]), "SPIFFE ID"),
        ] {
            let why = asked.question().err().map(|why| why.to_string()).unwrap_or_default();
            assert!(why.contains(expected), "{asked:?}: {why}");
        }
        for text in ["urls=a", "inbound=x", "url=%4", "url=%zz", "url=%ff"] {
            assert!(Query::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_question_survives_the_query_of_a_url(
            method in "[A-Z]{0,7}", url in ".{0,40}", headers in prop::collection::vec(".{0,20}", 0..3),
            sources in prop::collection::vec("[ -~]{0,20}", 0..3), inbound in prop::option::of(any::<u16>()),
        ) {
            let asked = Query { method, url, headers, sources, inbound };
            let text = asked.encoded();
            prop_assert!(text.is_ascii() && !text.contains(' '));
            prop_assert_eq!(Query::parse(&text), Ok(asked.clone()));
            drop(asked.question());
        }
    }
}
