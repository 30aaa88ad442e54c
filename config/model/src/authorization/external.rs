//! `inbound.authorization.ext_authz`: a program beside that judges requests, too.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::Action;
use crate::cluster::{Cluster, UpstreamProtocol};
use crate::endpoint::Endpoint;
use crate::policy::Retry;

/// An external authorizer, in one of Envoy's two protocols.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtAuthz {
    pub service: AuthorizerService,
    /// From the question to the last byte of the answer.
    pub timeout: Duration,
    /// What happens to a request where the authorizer does not answer. Default: deny.
    pub on_error: Action,
    /// The headers of the request that the authorizer gets, in lower case.
    pub send_headers: Vec<String>,
    /// The most bytes of a request's body, which the authorizer gets whole. `None`: it gets no body.
    pub with_body: Option<u64>,
}

/// Where the authorizer is, and what it speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthorizerService {
    Http(AuthorizerUrl),
    Grpc(AuthorizerAddress),
}

impl AuthorizerService {
    pub const fn address(&self) -> SocketAddr {
        match self {
            Self::Http(url) => url.address,
            Self::Grpc(AuthorizerAddress(address)) => *address,
        }
    }
}

impl fmt::Display for AuthorizerService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) => url.fmt(f),
            Self::Grpc(address) => address.fmt(f),
        }
    }
}

impl ExtAuthz {
    pub const TIMEOUT: Duration = Duration::from_millis(200);
    /// A longer one would hold more requests than the authorizer could ever answer.
    pub const LONGEST_TIMEOUT: Duration = Duration::from_secs(30);
    pub const SEND_HEADERS: &str = "authorization";
    /// 1 MiB: every request with a body holds it, and a copy of it while the authorizer is asked.
    pub const LARGEST_BODY: u64 = 1024 * 1024;
    /// The name under which its connections and limits are counted.
    pub const NAME: &str = "ext_authz";

    /// The authorizer as a cluster: with a pool and limits, and no retry but on a connection that the authorizer had
    /// just closed. Outlier detection ejects no single endpoint.
    pub fn cluster(&self) -> Cluster {
        let mut cluster = Cluster::new(Self::NAME);
        cluster.endpoints = vec![Endpoint::at(self.service.address())];
        cluster.protocol = match self.service {
            AuthorizerService::Http(_) => UpstreamProtocol::Http1,
            AuthorizerService::Grpc(_) => UpstreamProtocol::Http2,
        };
        cluster.timeouts.connect = self.timeout;
        // a question has at most the body and as much again of everything else
        let max_body =
            Retry::default().max_body + 2 * usize::try_from(self.with_body.unwrap_or(0)).unwrap_or(0);
        cluster.retry = Some(Retry { attempts: 0, max_body, ..Retry::default() });
        cluster
    }
}

/// `http://127.0.0.1:9191/check`: the address, and what stands before the path of each request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizerUrl {
    pub address: SocketAddr,
    /// Empty, or with a slash at its beginning and none at its end.
    pub prefix: String,
}

/// `127.0.0.1:9191`, or `localhost:9191`. Other names are not resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthorizerAddress(pub SocketAddr);

impl AuthorizerAddress {
    /// `None`: the text is no IP address with a port.
    pub fn new(text: &str) -> Option<Self> {
        let local = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
        let local = local.map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        local.or_else(|| text.parse().ok()).filter(|address| address.port() != 0).map(Self)
    }
}

impl fmt::Display for AuthorizerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAuthorizerUrl {
    #[error("does not begin with http://")]
    Scheme,
    #[error("has no IP address and port")]
    Address,
    #[error("has a prefix that is no path, or a query")]
    Prefix,
}

impl AuthorizerUrl {
    /// # Errors
    /// What is wrong with the text.
    pub fn new(text: &str) -> Result<Self, BadAuthorizerUrl> {
        let rest = text.strip_prefix("http://").ok_or(BadAuthorizerUrl::Scheme)?;
        let (authority, prefix) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let AuthorizerAddress(address) =
            AuthorizerAddress::new(authority).ok_or(BadAuthorizerUrl::Address)?;
        let is_sendable = |byte: u8| byte.is_ascii_graphic() && !b"?\"#<>\\^`{|}".contains(&byte);
        let prefix = prefix.trim_end_matches('/');
        if !prefix.bytes().all(is_sendable) {
            return Err(BadAuthorizerUrl::Prefix);
        }
        Ok(Self { address, prefix: prefix.to_owned() })
    }
}

impl fmt::Display for AuthorizerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authorizer_has_an_address_and_perhaps_a_prefix() {
        for (text, expected) in [
            ("http://127.0.0.1:9191/check", "http://127.0.0.1:9191/check"),
            ("http://10.0.0.1:80", "http://10.0.0.1:80"),
            ("http://10.0.0.1:80/", "http://10.0.0.1:80"),
            ("http://[fd00::1]:80/a/b/", "http://[fd00::1]:80/a/b"),
            ("http://localhost:9191/check", "http://127.0.0.1:9191/check"),
        ] {
            assert_eq!(
                AuthorizerUrl::new(text).map(|url| url.to_string()),
                Ok(expected.to_owned()),
                "{text}"
            );
        }
        for (text, expected) in [
            ("127.0.0.1:9191", BadAuthorizerUrl::Scheme),
            ("https://127.0.0.1:9191", BadAuthorizerUrl::Scheme),
            ("http://authz.shop:9191/check", BadAuthorizerUrl::Address),
            ("http://127.0.0.1/check", BadAuthorizerUrl::Address),
            ("http://127.0.0.1:0/check", BadAuthorizerUrl::Address),
            ("http://a@127.0.0.1:1/check", BadAuthorizerUrl::Address),
            ("http://127.0.0.1:1/check?x", BadAuthorizerUrl::Prefix),
            ("http://127.0.0.1:1?x", BadAuthorizerUrl::Prefix),
            ("http://127.0.0.1:1/a b", BadAuthorizerUrl::Prefix),
            ("http://127.0.0.1:1/a\r\nb", BadAuthorizerUrl::Prefix),
        ] {
            assert_eq!(AuthorizerUrl::new(text), Err(expected), "{text}");
        }
        let address = |text| AuthorizerAddress::new(text).map(|address| address.to_string());
        assert_eq!(address("localhost:9191").as_deref(), Some("127.0.0.1:9191"));
        assert_eq!(address("[fd00::1]:80").as_deref(), Some("[fd00::1]:80"));
        for text in ["authz:9191", "127.0.0.1", "127.0.0.1:0", "http://127.0.0.1:1", "127.0.0.1:1/check"] {
            assert_eq!(address(text), None, "{text}");
        }
    }
}
