//! Words of balancers that hash.

use super::is_token;
use crate::value::{BadWord, Word, wrapped_leaves};

/// The name of a header whose value is hashed. It is kept in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HashedHeader(pub(crate) String);

impl Word for HashedHeader {
    const EXPECTED: &'static str = "a header's name";

    fn parse(text: &str) -> Result<Self, BadWord> {
        let bad = || BadWord::not(text, "a header's name");
        match text.to_ascii_lowercase() {
            // HTTP/2 has no Host header, and a service has few hosts
            name if name == "host" => Err(bad().help("requests are not hashed by their host")),
            name if name == ":path" => Err(bad().help("write path: true")),
            name if is_token(&name) => Ok(Self(name)),
            _ => Err(bad().help("names have letters, digits and dashes, no spaces and no colon: x-user")),
        }
    }
}

/// The name of a cookie, which counts as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CookieName(pub(crate) String);

impl Word for CookieName {
    const EXPECTED: &'static str = "a cookie's name";

    fn parse(text: &str) -> Result<Self, BadWord> {
        let is_prefixed =
            |prefix: &str| text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
        if ["__Host-", "__Secure-"].into_iter().any(is_prefixed) {
            return Err(BadWord::new(
                "has a prefix that clients accept only with `Secure`, which is not set",
            )
            .help("write a name without __Host- and __Secure-: sid"));
        }
        match is_token(text) {
            true => Ok(Self(text.to_owned())),
            false => Err(BadWord::not(text, "a cookie's name")
                .help("names have letters, digits, dashes and underscores: sid")),
        }
    }
}

wrapped_leaves!(
    HashedHeader: String, |name| name.as_str().into();
    CookieName: String, |name| name.as_str().into();
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_no_header_or_cookie_has_gets_help() {
        for (text, expected) in [("Host", "host"), (":path", "path: true"), ("x user", "no spaces")] {
            let help = HashedHeader::parse(text).unwrap_err().help;
            assert!(help.as_deref().is_some_and(|help| help.contains(expected)), "{text:?} {help:?}");
        }
        assert_eq!(HashedHeader::parse("X-User"), Ok(HashedHeader("x-user".into())));
        for text in ["__Host-sid", "__secure-sid"] {
            assert!(CookieName::parse(text).is_err(), "{text}");
        }
        assert_eq!(CookieName::parse("Sid_1"), Ok(CookieName("Sid_1".into())));
        for text in ["", "s id", "sid=", "sid;"] {
            assert!(CookieName::parse(text).is_err(), "{text:?}");
        }
    }
}
