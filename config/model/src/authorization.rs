//! `inbound.authorization`: which peers may send which requests and connections to the application.

mod external;
mod jwt;
pub mod path;

use std::fmt;

use crate::cluster::{AddressPattern, HostPattern};
use crate::identity::{BadSpiffeId, SpiffeId};
use crate::route::HeaderMatch;
pub use external::{AuthorizerAddress, AuthorizerService, AuthorizerUrl, BadAuthorizerUrl, ExtAuthz};
pub use jwt::{BadClaimPattern, BadJwksUrl, ClaimMatch, ClaimPattern, Jwks, JwksUrl, Jwt};
use path::{BadPath, JudgedPath};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorization {
    /// What happens where no rule matches. Default: deny.
    pub default: Action,
    pub mode: Mode,
    pub encoded_slash: EncodedSlash,
    /// Their order does not matter, except that the first one that matches is named in the log. Names are unique.
    pub rules: Vec<Rule>,
    /// `None`: no token is read.
    pub jwt: Option<Jwt>,
    /// `None`: rules alone judge.
    pub ext_authz: Option<ExtAuthz>,
}

impl Default for Authorization {
    fn default() -> Self {
        Self {
            default: Action::Deny,
            mode: Mode::default(),
            encoded_slash: EncodedSlash::default(),
            rules: Vec::new(),
            jwt: None,
            ext_authz: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    Allow,
    Deny,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    #[default]
    Enforce,
    /// Everything passes unchanged. What would be denied is logged and counted.
    Audit,
}

/// What happens to a path with an encoded slash (`%2F`), if rules name paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EncodedSlash {
    /// The request gets 400.
    #[default]
    Reject,
    /// The path is forwarded with it, and judged as with a slash, too.
    Keep,
}

/// A rule matches what fits every condition of `when`, and does not fit `not` as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// A metric label. None of [`Rule::RESERVED`].
    pub name: String,
    pub action: Action,
    pub when: Conditions,
    /// `None`: no exception.
    pub not: Option<Conditions>,
}

impl Rule {
    /// The names under which decisions are counted that no rule makes: the default; a path that two readers could see
    /// differently; opaque bytes where rules for HTTP exist; a token that is missing or bad; an external
    /// authorizer. `other` is the label of
    /// rules beyond the bound of names.
    pub const RESERVED: [&str; 6] =
        [Self::DEFAULT, Self::BAD_PATH, Self::OPAQUE, Self::JWT, ExtAuthz::NAME, "other"];
    pub const DEFAULT: &str = "default";
    pub const BAD_PATH: &str = "bad_path";
    pub const OPAQUE: &str = "opaque";
    pub const JWT: &str = "jwt";
}

/// Conditions, all of which must fit. The values of one condition are alternatives; an empty one always fits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    /// A peer without a verified identity never fits.
    pub from: Vec<PeerPattern>,
    /// In upper case.
    pub methods: Vec<String>,
    pub paths: Vec<PathPattern>,
    /// Ports of the application.
    pub ports: Vec<u16>,
    pub hosts: Vec<HostPattern>,
    /// All must fit. None is one that the application does not get as the peer has sent it.
    pub headers: Vec<HeaderMatch>,
    /// The peer's address. The patterns have no port.
    pub sources: Vec<AddressPattern>,
    /// All must fit. A request without a verified token never fits.
    pub claims: Vec<ClaimMatch>,
}

impl Conditions {
    pub fn is_empty(&self) -> bool {
        let Self { from, methods, paths, ports, hosts, headers, sources, claims } = self;
        from.is_empty()
            && methods.is_empty()
            && paths.is_empty()
            && ports.is_empty()
            && hosts.is_empty()
            && headers.is_empty()
            && sources.is_empty()
            && claims.is_empty()
    }

    /// Whether there is a condition that only a request can fit, and no opaque connection.
    pub fn need_http(&self) -> bool {
        !(self.methods.is_empty()
            && self.paths.is_empty()
            && self.hosts.is_empty()
            && self.headers.is_empty()
            && self.claims.is_empty())
    }
}

impl Rule {
    /// Whether a condition of `when` or `not` is for requests alone.
    pub fn needs_http(&self) -> bool {
        self.when.need_http() || self.not.as_ref().is_some_and(Conditions::need_http)
    }

    /// The claims of `when` and `not`.
    pub fn claims(&self) -> impl Iterator<Item = &ClaimMatch> {
        std::iter::once(&self.when).chain(&self.not).flat_map(|of| &of.claims)
    }

    /// Whether a condition of `when` or `not` is about paths.
    pub fn names_paths(&self) -> bool {
        std::iter::once(&self.when).chain(&self.not).any(|of| !of.paths.is_empty())
    }
}

/// One SPIFFE ID, or all below a path: `spiffe://cluster.local/ns/batch/*`. Compared as text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeerPattern {
    /// The ID; of a pattern with `*`, what is before its last slash.
    pub id: SpiffeId,
    /// One or more segments must follow `id`.
    pub is_below: bool,
}

impl PeerPattern {
    /// # Errors
    /// What is wrong with the text.
    pub fn new(text: &str) -> Result<Self, BadSpiffeId> {
        match text.strip_suffix("/*") {
            Some(above) => Ok(Self { id: above.parse()?, is_below: true }),
            None => Ok(Self { id: text.parse()?, is_below: false }),
        }
    }

    pub fn fits(&self, peer: &SpiffeId) -> bool {
        let rest = peer.as_str().strip_prefix(self.id.as_str());
        rest.is_some_and(|rest| if self.is_below { rest.starts_with('/') } else { rest.is_empty() })
    }
}

impl fmt::Display for PeerPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.id, if self.is_below { "/*" } else { "" })
    }
}

/// One path, or all that begin with it: `/api/*` is every path that begins with `/api/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PathPattern {
    /// The path, normalised; of a pattern with `*`, what is before the star, which is a slash at the end.
    pub path: String,
    pub is_below: bool,
}

/// Why a text is no pattern for paths.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPathPattern {
    #[error("has a * that is not its last segment")]
    Star,
    #[error("is not judged: {0}")]
    Unclear(BadPath),
    /// With the form in which requests are judged.
    #[error("is not in its normal form")]
    NotNormal(String),
}

impl PathPattern {
    /// # Errors
    /// What is wrong with the text.
    pub fn new(text: &str) -> Result<Self, BadPathPattern> {
        let (path, is_below) = match text.strip_suffix('*') {
            Some(above) if above.ends_with('/') => (above, true),
            _ => (text, false),
        };
        if path.contains('*') {
            return Err(BadPathPattern::Star);
        }
        let judged = JudgedPath::of(path, EncodedSlash::Keep).map_err(BadPathPattern::Unclear)?;
        let pattern = Self { path: judged.forwarded.into_owned(), is_below };
        if pattern.path != path {
            return Err(BadPathPattern::NotNormal(pattern.to_string()));
        }
        Ok(pattern)
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.path, if self.is_below { "*" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_compared_as_text_and_a_star_stands_for_last_segments() {
        for (pattern, id, expected) in [
            ("spiffe://a.b/ns/web", "spiffe://a.b/ns/web", true),
            ("spiffe://a.b/ns/web", "spiffe://a.b/ns/web/x", false),
            ("spiffe://a.b/ns/web", "spiffe://a.b/ns/webx", false),
            ("spiffe://a.b/ns/*", "spiffe://a.b/ns/web", true),
            ("spiffe://a.b/ns/*", "spiffe://a.b/ns/web/sa/x", true),
            ("spiffe://a.b/ns/*", "spiffe://a.b/ns", false),
            ("spiffe://a.b/ns/*", "spiffe://a.b/nsx/web", false),
            ("spiffe://a.b/*", "spiffe://a.b/x", true),
            ("spiffe://a.b/*", "spiffe://a.b", false),
            ("spiffe://a.b/*", "spiffe://a.b.c/x", false),
            ("spiffe://axb/*", "spiffe://a.b/x", false),
        ] {
            let (pattern, id) = (PeerPattern::new(pattern).unwrap(), id.parse().unwrap());
            assert_eq!(pattern.fits(&id), expected, "{pattern} {id}");
        }
        for text in ["/api/*", "/*", "/a", "/a;b", "/a%2Fb", "/%2A"] {
            assert_eq!(PathPattern::new(text).unwrap().to_string(), text);
        }
        for text in ["*", "/a*", "/*/a", "/a/*b", "/a/**", "/%61", "/a//b", "/a/../b", "/%252e", "a", ""] {
            assert!(PathPattern::new(text).is_err(), "{text}");
        }
        for text in ["*", "spiffe://*", "spiffe://a/*/b", "spiffe://a/b*", "spiffe://a/b/", "spiffe://a/**"] {
            assert!(PeerPattern::new(text).is_err(), "{text}");
        }
    }
}
