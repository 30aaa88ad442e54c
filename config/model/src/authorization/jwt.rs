//! `inbound.authorization.jwt`, and the conditions on what a verified token says.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::authority::{authority, host_and_port, http_port, is_sendable_path};

/// Which tokens (RFC 7519) are accepted, and where requests carry them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwt {
    /// What the claim `iss` must be.
    pub issuer: String,
    /// The claim `aud` must have one of these.
    pub audiences: Vec<String>,
    pub jwks: Jwks,
    /// The header with the token, in lower case. In `authorization` it follows the word `Bearer`.
    pub header: String,
    /// Whether a request without a token is refused.
    pub required: bool,
    /// Whether the application receives the token.
    pub forward: bool,
}

impl Jwt {
    pub const HEADER: &str = "authorization";
}

/// Where the keys of the issuer are (RFC 7517).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Jwks {
    File(PathBuf),
    Url { url: JwksUrl, refresh: Duration },
}

impl Jwks {
    pub const REFRESH: Duration = Duration::from_mins(5);
    /// A shorter time would make every sidecar of a mesh a burden for the issuer.
    pub const SHORTEST_REFRESH: Duration = Duration::from_secs(10);
}

/// The address of a key set: `https`, or `http` on loopback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwksUrl {
    pub is_https: bool,
    /// A name, or an IP address without brackets.
    pub host: String,
    pub port: u16,
    /// With its query.
    pub path: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadJwksUrl {
    #[error("does not begin with https://")]
    Scheme,
    #[error("is plain http:// to another host than loopback")]
    Plain,
    #[error("has user information before an @")]
    User,
    #[error("has no valid host and port")]
    Host,
    #[error("has a character in its path that requests cannot carry")]
    Path,
}

impl JwksUrl {
    /// # Errors
    /// What is wrong with the text.
    pub fn new(text: &str) -> Result<Self, BadJwksUrl> {
        let (is_https, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(BadJwksUrl::Scheme),
        };
        let (named, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if named.contains('@') {
            return Err(BadJwksUrl::User);
        }
        let (host, port) = host_and_port(named).ok_or(BadJwksUrl::Host)?;
        let is_loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if !is_https && !is_loopback {
            return Err(BadJwksUrl::Plain);
        }
        if !is_sendable_path(path) {
            return Err(BadJwksUrl::Path);
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let port = port.unwrap_or_else(|| http_port(is_https));
        Ok(Self { is_https, host, port, path })
    }

    /// The host and the port, as requests name them.
    pub fn authority(&self) -> String {
        authority(&self.host, self.port, http_port(self.is_https))
    }
}

impl fmt::Display for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http{}://{}{}", if self.is_https { "s" } else { "" }, self.authority(), self.path)
    }
}

/// A claim that a verified token must have, with one of these values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimMatch {
    /// The name of the claim; or, with a slash at its beginning, the way to a claim within others (RFC 6901).
    pub name: String,
    pub values: Vec<ClaimPattern>,
}

/// One text, or all that begin with it: `svc-*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimPattern {
    /// Without the star.
    pub text: String,
    pub is_prefix: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("has a * that is not its last character")]
pub struct BadClaimPattern;

impl ClaimPattern {
    /// # Errors
    /// The text has a star that is not at its end.
    pub fn new(text: &str) -> Result<Self, BadClaimPattern> {
        let (begin, is_prefix) = text.strip_suffix('*').map_or((text, false), |begin| (begin, true));
        match begin.contains('*') {
            true => Err(BadClaimPattern),
            false => Ok(Self { text: begin.to_owned(), is_prefix }),
        }
    }

    pub fn fits(&self, value: &str) -> bool {
        if self.is_prefix { value.starts_with(&self.text) } else { value == self.text }
    }

    /// Whether every value that fits `narrow` fits this.
    pub fn covers(&self, narrow: &Self) -> bool {
        self == narrow || (self.is_prefix && narrow.text.starts_with(&self.text))
    }
}

impl fmt::Display for ClaimPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.text, if self.is_prefix { "*" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_key_set_is_https_or_loopback() {
        for (text, expected) in [
            ("https://id.example", "https://id.example/"),
            ("https://ID.example:443/a/b?c=d", "https://id.example/a/b?c=d"),
            ("https://id.example:8443?x", "https://id.example:8443/?x"),
            ("https://[fd00::1]:8443/k", "https://[fd00::1]:8443/k"),
            ("http://127.0.0.1:80/k", "http://127.0.0.1/k"),
            ("http://[::1]:8080/k", "http://[::1]:8080/k"),
            ("http://localhost:9/", "http://localhost:9/"),
        ] {
            assert_eq!(JwksUrl::new(text).map(|url| url.to_string()), Ok(expected.to_owned()), "{text}");
        }
        for (text, expected) in [
            ("id.example", BadJwksUrl::Scheme),
            ("HTTPS://id.example", BadJwksUrl::Scheme),
            ("ftp://id.example", BadJwksUrl::Scheme),
            ("http://id.example/k", BadJwksUrl::Plain),
            ("http://10.0.0.1/k", BadJwksUrl::Plain),
            ("http://localhost.example/k", BadJwksUrl::Plain),
            ("https://a@b/k", BadJwksUrl::User),
            ("https:///k", BadJwksUrl::Host),
            ("https://a:/k", BadJwksUrl::Host),
            ("https://a:0/k", BadJwksUrl::Host),
            ("https://a:+80/k", BadJwksUrl::Host),
            ("https://a:99999/k", BadJwksUrl::Host),
            ("https://[::1/k", BadJwksUrl::Host),
            ("https://[a]/k", BadJwksUrl::Host),
            ("https://[::1]x/k", BadJwksUrl::Host),
            ("https://a b/k", BadJwksUrl::Host),
            ("https://a/k k", BadJwksUrl::Path),
            ("https://a/k#f", BadJwksUrl::Path),
            ("https://a/\r\n", BadJwksUrl::Path),
        ] {
            assert_eq!(JwksUrl::new(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn a_star_at_the_end_stands_for_the_rest_of_a_claim() {
        for (pattern, value, expected) in [
            ("svc-*", "svc-a", true),
            ("svc-*", "svc-", true),
            ("svc-*", "svc", false),
            ("*", "", true),
            ("admin", "admin", true),
            ("admin", "administrator", false),
            ("admin", "Admin", false),
            ("", "", true),
        ] {
            assert_eq!(ClaimPattern::new(pattern).unwrap().fits(value), expected, "{pattern} {value}");
        }
        for bad in ["*a", "a*b", "**"] {
            assert_eq!(ClaimPattern::new(bad), Err(BadClaimPattern), "{bad}");
        }
        let covers =
            |wide, narrow| ClaimPattern::new(wide).unwrap().covers(&ClaimPattern::new(narrow).unwrap());
        assert!(covers("a*", "ab*") && covers("a*", "a") && covers("a", "a"));
        assert!(!covers("a", "a*") && !covers("ab*", "a*"));
    }
}
