//! Words of `inbound.authorization`: actions, modes, and the patterns for peers, paths and addresses.

use pillion_model::authorization::{
    Action, AuthorizerAddress, AuthorizerUrl, BadAuthorizerUrl, BadJwksUrl, BadPathPattern, ClaimPattern,
    EncodedSlash, JwksUrl, Mode, PathPattern, PeerPattern, Rule,
};
use pillion_model::cluster::AddressPattern;
use pillion_model::text::shortened;

use super::route::{HeaderName, MatchPath};
use super::{Choice, RouteName};
use crate::value::{BadWord, Word, leaves, wrapped_leaves};

impl Choice for Action {
    const EXPECTED: &'static str = "allow or deny";
    const WORDS: &'static [(&'static str, Self)] = &[("allow", Self::Allow), ("deny", Self::Deny)];
}

impl Choice for Mode {
    const EXPECTED: &'static str = "enforce or audit";
    const WORDS: &'static [(&'static str, Self)] = &[("enforce", Self::Enforce), ("audit", Self::Audit)];
}

impl Choice for EncodedSlash {
    const EXPECTED: &'static str = "reject or keep";
    const WORDS: &'static [(&'static str, Self)] = &[("reject", Self::Reject), ("keep", Self::Keep)];
}

/// The name of a rule: a metric label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RuleName(pub(crate) String);

impl Word for RuleName {
    const EXPECTED: &'static str = "a rule's name";

    fn parse(text: &str) -> Result<Self, BadWord> {
        if Rule::RESERVED.contains(&text) {
            return Err(BadWord::new(format!(
                "is `{text}`, under which decisions without a rule are counted"
            ))
            .help("give it another name"));
        }
        RouteName::parse(text).map(|RouteName(name)| Self(name)).map_err(|_bad| {
            BadWord::not(text, Self::EXPECTED).help("names have letters, digits, dots, - and _: web-reads")
        })
    }
}

impl Word for PeerPattern {
    const EXPECTED: &'static str = "a SPIFFE ID, or all below a path (\"spiffe://cluster.local/ns/batch/*\")";

    fn parse(text: &str) -> Result<Self, BadWord> {
        Self::new(text).map_err(|why| {
            let help = match text.contains('*') {
                true => "a * stands for one or more last segments: \"spiffe://cluster.local/ns/batch/*\"",
                false => "write it like spiffe://cluster.local/ns/default/sa/web",
            };
            BadWord::new(format!("is `{}`, which is not a SPIFFE ID: {why}", shortened(text))).help(help)
        })
    }
}

impl Word for PathPattern {
    const EXPECTED: &'static str = "a path (/status), or all below it (\"/api/*\")";

    fn parse(text: &str) -> Result<Self, BadWord> {
        MatchPath::parse(text)?;
        Self::new(text).map_err(|why| {
            let bad = BadWord::new(format!("is `{}`, which {why}", shortened(text)));
            match why {
                BadPathPattern::Star => {
                    bad.help("a * stands for all that follows a slash, at the end: \"/api/*\"; the character itself is %2A")
                }
                BadPathPattern::NotNormal(normal) => {
                    bad.help(format!("no request is judged in this form; write {}", shortened(&normal)))
                }
                BadPathPattern::Unclear(_) => bad.help("such a request gets 400 before any rule is asked"),
            }
        })
    }
}

/// The address of a peer, or a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Source(pub(crate) AddressPattern);

impl Word for Source {
    const EXPECTED: &'static str = "an address or a network (10.1.2.3, 10.0.0.0/8)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        let pattern = AddressPattern::parse(text)?;
        match pattern.port {
            None => Ok(Self(pattern)),
            Some(_) => Err(BadWord::new(format!("is `{}`, with a port", shortened(text)))
                .help(format!("a peer's port says nothing: write {}", pattern.network))),
        }
    }
}

impl Word for JwksUrl {
    const EXPECTED: &'static str = "the address of a key set (https://id.example/jwks.json)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        Self::new(text).map_err(|why| {
            let bad = BadWord::new(format!("is `{}`, which {why}", shortened(text)));
            match why {
                BadJwksUrl::Plain => {
                    bad.help("whoever can change the answer could make tokens of his own: write https://")
                }
                _ => bad.help("write it like https://id.example/jwks.json"),
            }
        })
    }
}

impl Word for AuthorizerUrl {
    const EXPECTED: &'static str = "the address of an authorizer (http://127.0.0.1:9191/check)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        Self::new(text).map_err(|why| {
            let bad = BadWord::new(format!("is `{}`, which {why}", shortened(text)));
            match why {
                BadAuthorizerUrl::Address => {
                    bad.help("names are not resolved: write an IP address, as in http://127.0.0.1:9191/check")
                }
                _ => bad.help("write it like http://127.0.0.1:9191/check"),
            }
        })
    }
}

impl Word for AuthorizerAddress {
    const EXPECTED: &'static str = "the address of an authorizer (127.0.0.1:9191)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        Self::new(text).ok_or_else(|| {
            BadWord::not(text, Self::EXPECTED)
                .help("names are not resolved: write an IP address and a port, as in 127.0.0.1:9191")
        })
    }
}

/// The header in which requests carry a token, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenHeader(pub(crate) String);

impl Word for TokenHeader {
    const EXPECTED: &'static str = HeaderName::EXPECTED;

    fn parse(text: &str) -> Result<Self, BadWord> {
        HeaderName::parse(text).map(|HeaderName(name)| Self(name.to_ascii_lowercase()))
    }
}

/// The name of a claim, or the way to one within others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClaimName(pub(crate) String);

impl Word for ClaimName {
    const EXPECTED: &'static str = "the name of a claim (sub), or the way to one (/realm_access/roles)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        match text.is_empty() || text == "/" {
            true => Err(BadWord::not(text, Self::EXPECTED)),
            false => Ok(Self(text.to_owned())),
        }
    }
}

impl Word for ClaimPattern {
    const EXPECTED: &'static str = "the value of a claim (admin), or its beginning (\"svc-*\")";

    fn parse(text: &str) -> Result<Self, BadWord> {
        Self::new(text).map_err(|why| {
            BadWord::new(format!("is `{}`, which {why}", shortened(text)))
                .help("a * stands for the rest of a value, at the end: \"svc-*\"")
        })
    }
}

leaves!(
    AuthorizerAddress: |address| address.to_string().into(),
    AuthorizerUrl: |url| url.to_string().into(),
    JwksUrl: |url| url.to_string().into(),
    ClaimPattern: |pattern| pattern.to_string().into(),
    Action: super::chosen,
    Mode: super::chosen,
    EncodedSlash: super::chosen,
    PeerPattern: |pattern| pattern.to_string().into(),
    PathPattern: |pattern| pattern.to_string().into(),
);
wrapped_leaves!(
    RuleName: String, |name| name.as_str().into();
    ClaimName: String, |name| name.as_str().into();
    TokenHeader: String, |name| name.as_str().into();
    Source: AddressPattern, |pattern| pattern.to_string().into();
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mistake_in_a_rule_is_told_what_to_write() {
        fn help<T: Word>(text: &str) -> String {
            T::parse(text).err().and_then(|bad| bad.help).unwrap_or_default()
        }
        for (found, expected) in [
            (help::<RuleName>("default"), "another name"),
            (help::<RuleName>("a b"), "web-reads"),
            (help::<PeerPattern>("web"), "spiffe://cluster.local/ns/default/sa/web"),
            (help::<PeerPattern>("spiffe://a/*/b"), "last segments"),
            (help::<PathPattern>("/api*"), "\"/api/*\""),
            (help::<PathPattern>("/*/b"), "%2A"),
            (help::<PathPattern>("/a//b/%61"), "write /a/b/a"),
            (help::<PathPattern>("/a/../b/*"), "write /b/*"),
            (help::<PathPattern>("/%252e"), "gets 400"),
            (help::<PathPattern>("api"), "begins with a slash"),
            (help::<Source>("10.0.0.1:80"), "write 10.0.0.1"),
            (help::<Source>("10.0.0.1/8"), "write 10.0.0.0/8"),
        ] {
            assert!(found.contains(expected), "{found:?} has not {expected:?}");
        }
    }
}
