//! The request of `pillion bench`, from its arguments. The flags are those of curl.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::AtomicU64;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use hyper::body::Bytes;
use pillion_base::net::Network;
use pillion_model::cluster::UpstreamTls;
use pillion_model::identity::TlsPolicy;
use pillion_tls::client::{AlpnOffer, ClientTls};
use pillion_upstream::discovery::names;

use crate::cli::load::Target;
use pillion_companion::asking::AGENT;

/// The type of a body that is given without one, as curl has it.
const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");

#[derive(Debug, Args)]
pub(super) struct Asked {
    /// The address that is asked: http:// or https://, a host, and a path
    pub(super) url: Url,
    /// The method [default: GET; with -d POST]
    #[arg(short = 'X', long = "request", value_name = "METHOD")]
    method: Option<Method>,
    /// A header, such as 'x-user: jo'; `host` may differ from the host of the URL
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The body: text, or @FILE
    #[arg(short, long, value_name = "TEXT|@FILE")]
    data: Option<String>,
    /// Speak HTTP/2: by ALPN over TLS, without asking (prior knowledge) over plaintext
    #[arg(long)]
    http2: bool,
    /// The file of the authorities that may vouch for the server [default: those of the system]
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    ca: Option<PathBuf>,
    /// Accept every certificate of the server
    #[arg(short = 'k', long)]
    insecure: bool,
}

/// A URL of a server, with an explicit scheme.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    is_tls: bool,
    authority: Authority,
    target: PathAndQuery,
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|error| format!("{error}"))?;
        let (scheme, authority) = (uri.scheme_str(), uri.authority());
        let is_tls = scheme == Some("https");
        match authority {
            Some(authority) if is_tls || scheme == Some("http") => {
                if authority.as_str().contains('@') {
                    return Err("a URL with a user is not supported; use -H 'authorization: …'".to_owned());
                }
                if has_bad_port(authority) {
                    return Err("the port is no number from 1 to 65535".to_owned());
                }
                let target = uri.path_and_query().cloned();
                let target = target.unwrap_or_else(|| PathAndQuery::from_static("/"));
                Ok(Self { is_tls, authority: authority.clone(), target })
            }
            _ => Err("write it as http://HOST:PORT/PATH or https://HOST/PATH".to_owned()),
        }
    }
}

/// An authority may have a port of any digits (RFC 3986, section 3.2.3).
fn has_bad_port(authority: &Authority) -> bool {
    let after_host = authority.as_str().get(authority.host().len()..).unwrap_or_default();
    !after_host.is_empty() && authority.port_u16().is_none_or(|port| port == 0)
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.target)
    }
}

impl Url {
    /// A name, or an IP address without brackets.
    fn host(&self) -> &str {
        self.authority.host().trim_start_matches('[').trim_end_matches(']')
    }

    fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(if self.is_tls { 443 } else { 80 })
    }
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write it as 'name: value'")?;
    let name = name.trim().parse().map_err(|_invalid| format!("{name:?} is not the name of a header"))?;
    let value = value.trim().parse().map_err(|_invalid| "its value has control characters".to_owned())?;
    Ok((name, value))
}

impl Asked {
    pub(super) const fn is_http2(&self) -> bool {
        self.http2
    }

    pub(super) fn method(&self) -> Method {
        let usual = if self.data.is_some() { Method::POST } else { Method::GET };
        self.method.clone().unwrap_or(usual)
    }

    /// Reads files, and looks the host up.
    ///
    /// # Errors
    /// A file cannot be read or used, or the host has no address.
    pub(super) async fn target(&self, network: Network) -> anyhow::Result<Target> {
        let (tls, request) = (self.tls()?, self.request()?);
        let resolved = names::addresses(&network, self.url.host(), self.url.port()).await;
        let addresses = resolved.with_context(|| format!("{} has no address", self.url.host()))?;
        let (is_http2, connections) = (self.http2, AtomicU64::new(0));
        Ok(Target { network, addresses, tls, is_http2, request, connections })
    }

    fn tls(&self) -> anyhow::Result<Option<ClientTls>> {
        let (host, offer) = (self.url.host(), if self.http2 { AlpnOffer::Http2 } else { AlpnOffer::Http1 });
        if !self.url.is_tls {
            ensure!(self.ca.is_none() && !self.insecure, "--ca and -k are for https:// alone");
            return Ok(None);
        }
        if self.insecure {
            return Ok(Some(ClientTls::unverified(host, offer)?));
        }
        let simple = UpstreamTls::Simple { sni: None, trust_bundle: self.ca.clone(), own: None };
        ClientTls::new(None, &simple, &TlsPolicy::default(), Some(host), offer)
            .context("the server's authorities cannot be used (see --ca)")
    }

    /// With HTTP/2 the host stands in the URI, as `:authority`.
    fn request(&self) -> anyhow::Result<Request<Bytes>> {
        let mut request = Request::new(self.body()?);
        *request.method_mut() = self.method();
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, AGENT);
        if self.data.is_some() {
            headers.insert(CONTENT_TYPE, FORM);
        }
        for (name, _) in &self.headers {
            headers.remove(name); // a given one replaces ours
        }
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        let own_host = headers.get(HOST).map(|host| Authority::try_from(host.as_bytes())).transpose();
        let host =
            own_host.context("-H 'host: …' is not a host")?.unwrap_or_else(|| self.url.authority.clone());
        let mut uri = http::uri::Parts::default();
        uri.path_and_query = Some(self.url.target.clone());
        if self.http2 {
            headers.remove(HOST);
            uri.scheme = Some(if self.url.is_tls { Scheme::HTTPS } else { Scheme::HTTP });
            uri.authority = Some(host);
        } else {
            headers.insert(HOST, HeaderValue::from_str(host.as_str())?);
        }
        *request.uri_mut() = Uri::from_parts(uri)?;
        Ok(request)
    }

    fn body(&self) -> anyhow::Result<Bytes> {
        match self.data.as_deref().map(|data| (data, data.strip_prefix('@'))) {
            None => Ok(Bytes::new()),
            Some((_, Some(""))) => bail!("-d @FILE has no file"),
            Some((_, Some(file))) => {
                let read = std::fs::read(file).with_context(|| format!("the body {file} cannot be read"));
                read.map(Bytes::from)
            }
            Some((text, None)) => Ok(Bytes::copy_from_slice(text.as_bytes())),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        asked: Asked,
    }

    fn asked(words: &[&str]) -> Asked {
        Line::try_parse_from(std::iter::once("bench").chain(words.iter().copied())).expect("usable").asked
    }

    /// The head as HTTP/1.1 or HTTP/2 would carry it.
    fn head(words: &[&str]) -> String {
        let request = asked(words).request().expect("a request");
        let mut headers: Vec<_> =
            request.headers().iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        headers.retain(|header| !header.starts_with("user-agent"));
        headers.sort();
        format!("{} {} {} {:?}", request.method(), request.uri(), headers.join(" "), request.body())
    }

    #[test]
    fn a_url_has_a_scheme_and_a_host() {
        for (text, expected) in [
            ("http://127.0.0.1:8080", Some("http://127.0.0.1:8080/")),
            ("https://shop.test/a?b=c", Some("https://shop.test/a?b=c")),
            ("http://[::1]:1/", Some("http://[::1]:1/")),
            ("127.0.0.1:8080", None),
            ("ftp://a/", None),
            ("http://jo@a/", None),
            ("/a", None),
            ("", None),
        ] {
            let url = text.parse::<Url>();
            assert_eq!(url.map(|url| url.to_string()).ok().as_deref(), expected, "{text}");
        }
        let url: Url = "https://[::1]/".parse().expect("a URL");
        assert_eq!((url.host(), url.port()), ("::1", 443));
    }

    #[test]
    fn the_request_has_the_method_the_headers_and_the_body_of_the_arguments() {
        let url = "http://a:1/x?y";
        for (words, expected) in [
            (&[url][..], r#"GET /x?y host="a:1" b"""#),
            (&[url, "--http2"], r#"GET http://a:1/x?y  b"""#),
            (
                &[url, "-H", "Host: orders", "-H", "x-a: 1", "-H", "x-a: 2"],
                r#"GET /x?y host="orders" x-a="1" x-a="2" b"""#,
            ),
            (&[url, "--http2", "-H", "host: orders"], r#"GET http://orders/x?y  b"""#),
            (
                &[url, "-d", "a=b"],
                r#"POST /x?y content-type="application/x-www-form-urlencoded" host="a:1" b"a=b""#,
            ),
            (
                &[url, "-X", "PUT", "-d", "{}", "-H", "content-type: application/json"],
                r#"PUT /x?y content-type="application/json" host="a:1" b"{}""#,
            ),
        ] {
            assert_eq!(head(words), expected, "{words:?}");
        }
    }

    #[test]
    fn arguments_that_cannot_be_used_are_refused_with_a_sentence() {
        for (words, expected) in [
            (&["http://a/", "-H", "no colon"][..], "write it as 'name: value'"),
            (&["http://a/", "-H", "a b: c"], "is not the name of a header"),
            (&["a:80"], "write it as http://HOST:PORT/PATH"),
            (&["https://a/", "-k", "--ca", "x"], "cannot be used with"),
        ] {
            let words = std::iter::once("bench").chain(words.iter().copied());
            let error = Line::try_parse_from(words).expect_err("unusable").to_string();
            assert!(error.contains(expected), "{error}");
        }
        for (words, expected) in [
            (&["http://a/", "-k"][..], "for https:// alone"),
            (&["https://a/", "--ca", "/nowhere"], "authorities cannot be used"),
        ] {
            let error = asked(words).tls().expect_err("unusable");
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        }
        for (words, expected) in [
            (&["http://a/", "-d", "@/nowhere"][..], "/nowhere cannot be read"),
            (&["http://a/", "-d", "@"], "has no file"),
            (&["http://a/", "-H", "host: a b"], "is not a host"),
        ] {
            let error = asked(words).request().expect_err("unusable");
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        }
    }
}
