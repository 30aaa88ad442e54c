//! Words of routes: names, hosts, paths, headers.

use serde_json::Value;

use super::{GRPC, choose, is_host_name, is_token};
use crate::value::{BadWord, Word, leaves, wrapped_leaves};
use pillion_model::Pattern;
use pillion_model::cluster::HostPattern;
use pillion_model::pattern::PatternError;
use pillion_model::route::RouteHost;
use pillion_model::text::shortened;

/// The index of a host's routes has a level for each segment of a path. No server takes longer paths by default.
const LONGEST_PATH: usize = 4096;

/// The name of a route: a metric label.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RouteName(pub(crate) String);

impl Word for RouteName {
    const EXPECTED: &'static str = "a route's name";

    fn parse(text: &str) -> Result<Self, BadWord> {
        match is_host_name(text) {
            true => Ok(Self(text.to_owned())),
            false => {
                Err(BadWord::not(text, "a route's name").help("names have letters, digits, dots, - and _"))
            }
        }
    }
}

impl Word for RouteHost {
    const EXPECTED: &'static str = "a host (orders, \"*.shop\"), or \"*\" for every host of every service";

    fn parse(text: &str) -> Result<Self, BadWord> {
        match text {
            "*" => Ok(Self::Any),
            _ => HostPattern::parse(text).map(Self::One),
        }
    }
}

/// A path as requests send it, without the query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MatchPath(pub(crate) String);

impl Word for MatchPath {
    const EXPECTED: &'static str = "a path (/v2)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        let bad = |help: String| Err(BadWord::not(text, "a path").help(help));
        if !text.starts_with('/') {
            return bad(match text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) {
                Some(rest) => format!("hosts belong in `hosts`; write {}", shortened(path_of(rest))),
                None => format!("a path begins with a slash: /{}", shortened(text)),
            });
        }
        if text.len() > LONGEST_PATH {
            return bad(format!("a path has at most {LONGEST_PATH} bytes"));
        }
        match text.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '?' | '#')) {
            None => Ok(Self(text.to_owned())),
            Some('?') => bad(format!("paths are compared without the query: {}", shortened(path_of(text)))),
            Some('#') => bad("requests carry no fragment; leave out what follows the #".into()),
            Some(_) => bad("write it as it is sent: other characters are percent-encoded (%20)".into()),
        }
    }
}

/// The path of a URL: the part after the authority, up to the query.
fn path_of(url: &str) -> &str {
    let path = url.find('/').and_then(|at| url.get(at..)).unwrap_or("/");
    path.split(['?', '#']).next().unwrap_or("/")
}

/// The name of a header as the operator typed it, because faults are placed by this text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct HeaderName(pub(crate) String);

impl Word for HeaderName {
    const EXPECTED: &'static str = "a header's name";

    fn parse(text: &str) -> Result<Self, BadWord> {
        let bad = || BadWord::not(text, "a header's name");
        match text.to_ascii_lowercase().as_str() {
            // HTTP/2 has no Host header, so routes match hosts only by `hosts`
            "host" | ":authority" => Err(bad().help("hosts belong in `hosts`")),
            ":path" => Err(bad().help("write path: { prefix: /v2 }")),
            ":method" => Err(bad().help("write methods: [GET]")),
            name if is_token(name) => Ok(Self(text.to_owned())),
            _ => Err(bad().help("names have letters, digits and dashes, no spaces and no colon: x-canary")),
        }
    }
}

/// A header's value or the beginning of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeaderText(pub(crate) String);

impl Word for HeaderText {
    const EXPECTED: &'static str = "a header's value";

    fn parse(text: &str) -> Result<Self, BadWord> {
        if text.chars().any(|c| c.is_ascii_control() && c != '\t') {
            return Err(BadWord::new("has a control character, which no header's value has"));
        }
        // values have no space at their ends (RFC 9110, section 5.5)
        match text.trim_matches([' ', '\t']) == text {
            true => Ok(Self(text.to_owned())),
            false => {
                Err(BadWord::new(format!("is `{}`, which begins or ends with a space", shortened(text)))
                    .help("values are compared without such spaces; leave them out"))
            }
        }
    }
}

/// A header that a route changes, in lower case. Which of them it may change is the model's to say.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ChangedHeader(pub(crate) String);

impl Word for ChangedHeader {
    const EXPECTED: &'static str = "a header's name";

    fn parse(text: &str) -> Result<Self, BadWord> {
        match is_token(text) {
            true => Ok(Self(text.to_ascii_lowercase())),
            false => Err(BadWord::not(text, Self::EXPECTED)
                .help("names have letters, digits and dashes, no spaces and no colon: x-canary")),
        }
    }
}

/// A host, and perhaps a port, as a request names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Authority(pub(crate) String);

impl Word for Authority {
    const EXPECTED: &'static str = "a host (orders-v2.shop, \"orders:8080\")";

    fn parse(text: &str) -> Result<Self, BadWord> {
        match HostPattern::parse(text)? {
            HostPattern { wildcard: true, .. } => {
                Err(BadWord::not(text, "a single host").help("write the host that is to be asked"))
            }
            _ => Ok(Self(text.to_owned())),
        }
    }
}

/// Where a caller is sent: a path, perhaps with a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RedirectPath(pub(crate) String);

impl Word for RedirectPath {
    const EXPECTED: &'static str = MatchPath::EXPECTED;

    fn parse(text: &str) -> Result<Self, BadWord> {
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        if text.starts_with("//") {
            return Err(BadWord::not(text, "a path").help("what stands behind // is a host: write `host`"));
        }
        match query.chars().all(|c| c.is_ascii_graphic() && c != '#') {
            true => MatchPath::parse(path).map(|_| Self(text.to_owned())),
            false => Err(BadWord::not(text, "a path with a query")
                .help("write it as it is sent: other characters are percent-encoded (%20)")),
        }
    }
}

/// What a route answers with: any text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RespondBody(pub(crate) String);

impl Word for RespondBody {
    const EXPECTED: &'static str = "a text";

    fn parse(text: &str) -> Result<Self, BadWord> {
        Ok(Self(text.to_owned()))
    }
}

/// A gRPC status that is a failure, by its name in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grpc(pub(crate) u8);

impl Word for Grpc {
    const EXPECTED: &'static str = "a gRPC status (NOT_FOUND)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        choose(&text.to_ascii_lowercase(), &GRPC).map(Self)
    }
}

impl Word for Pattern {
    const EXPECTED: &'static str = "a regular expression (/v[0-9]+)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        Self::new(text).map_err(|error| {
            let help = match error {
                PatternError::Malformed(_) => {
                    "the syntax is that of the Rust crate regex, without look-around"
                }
                PatternError::Long | PatternError::Large => "write several routes, each with a part of it",
            };
            BadWord::new(error.to_string()).help(help)
        })
    }
}

/// The name of a parameter, as it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct QueryName(pub(crate) String);

impl Word for QueryName {
    const EXPECTED: &'static str = "a parameter's name";

    fn parse(text: &str) -> Result<Self, BadWord> {
        match of_query(text, &['=']) {
            Ok(()) if !text.is_empty() => Ok(Self(text.to_owned())),
            Ok(()) => Err(BadWord::new("is empty where a parameter's name must stand")),
            Err(help) => Err(BadWord::not(text, Self::EXPECTED).help(help)),
        }
    }
}

/// What a parameter's value can be, or how it can begin, as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueryText(pub(crate) String);

impl Word for QueryText {
    const EXPECTED: &'static str = "a parameter's value";

    fn parse(text: &str) -> Result<Self, BadWord> {
        of_query(text, &[])
            .map(|()| Self(text.to_owned()))
            .map_err(|help| BadWord::not(text, Self::EXPECTED).help(help))
    }
}

/// # Errors
/// What to write instead.
fn of_query(text: &str, besides: &[char]) -> Result<(), &'static str> {
    match text.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '&' | '#') || besides.contains(c)) {
        None => Ok(()),
        Some('&') => Err("a & ends a parameter: write each by its own name"),
        Some('=') => Err("what stands before the = is the name, and what stands behind it the value"),
        Some(_) => Err("write it as it is sent: other characters are percent-encoded (%20)"),
    }
}

leaves!(
    RouteHost: |host| match host {
        RouteHost::Any => "*".into(),
        RouteHost::One(host) => host.to_string().into(),
    },
    Pattern: |pattern| pattern.text().into(),
);
wrapped_leaves!(
    RouteName: String, |name| name.as_str().into();
    MatchPath: String, |path| path.as_str().into();
    HeaderText: String, |text| text.as_str().into();
    QueryText: String, |text| text.as_str().into();
    ChangedHeader: String, |name| name.as_str().into();
    Authority: String, |host| host.as_str().into();
    RedirectPath: String, |path| path.as_str().into();
    RespondBody: String, |text| text.as_str().into();
    Grpc: u8, |number| GRPC.iter().find(|(_, known)| known == number).map_or(Value::Null, |(name, _)| (*name).into());
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn help<T: Word>(text: &str) -> Option<String> {
        T::parse(text).err().map(|bad| bad.help.unwrap_or_default())
    }

    #[test]
    fn each_mistake_in_a_path_gets_help() {
        let cases = [
            ("v2", "a path begins with a slash: /v2"),
            ("", "a path begins with a slash: /"),
            ("http://orders/v2?x=1", "hosts belong in `hosts`; write /v2"),
            ("https://orders", "hosts belong in `hosts`; write /"),
            ("/v2?beta=1", "without the query: /v2"),
            ("/v2#top", "no fragment"),
            ("/a b", "percent-encoded"),
            ("/ä", "percent-encoded"),
            ("/a\n", "percent-encoded"),
        ];
        for (text, expected) in cases {
            let help = help::<MatchPath>(text);
            assert!(help.as_deref().is_some_and(|help| help.contains(expected)), "{text:?} {help:?}");
        }
        for text in ["/", "/v2/", "/a%20b", "/a/../b", "/*", "/{id}", "/a;b=c,d:e@f"] {
            assert!(MatchPath::parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn each_mistake_in_a_header_gets_help() {
        for (text, expected) in [
            ("Host", "`hosts`"),
            (":authority", "`hosts`"),
            (":path", "path: {"),
            (":method", "methods:"),
            ("x canary", "no spaces"),
            ("x-canary:", "no colon"),
            ("", "letters"),
        ] {
            let help = help::<HeaderName>(text);
            assert!(help.as_deref().is_some_and(|help| help.contains(expected)), "{text:?} {help:?}");
        }
        assert_eq!(HeaderName::parse("X-Canary"), Ok(HeaderName("X-Canary".into())));
        for text in [" a", "a ", "\ta", "a\n", "a\u{7f}", "\0"] {
            assert!(HeaderText::parse(text).is_err(), "{text:?}");
        }
        for text in ["", "a b", "ä", "1.10", "a\tb"] {
            assert_eq!(HeaderText::parse(text), Ok(HeaderText(text.into())), "{text:?}");
        }
    }

    #[test]
    fn each_slip_in_a_parameter_or_a_pattern_is_told_what_to_write() {
        for (text, expected) in
            [("a=1", "before the ="), ("a&b", "ends a parameter"), ("a b", "%20"), ("ä", "%20")]
        {
            let help = help::<QueryName>(text);
            assert!(help.as_deref().is_some_and(|help| help.contains(expected)), "{text:?} {help:?}");
        }
        assert!(QueryName::parse("").is_err());
        assert!(
            QueryText::parse("").is_ok()
                && QueryText::parse("1=2").is_ok()
                && QueryText::parse("1&2").is_err()
        );
        for (text, expected) in [("(", "syntax"), ("[a-z]{1,999}{1,999}", "several routes")] {
            let help = help::<Pattern>(text);
            assert!(help.as_deref().is_some_and(|help| help.contains(expected)), "{text:?} {help:?}");
        }
    }

    #[test]
    fn a_single_star_matches_every_host() {
        assert_eq!(RouteHost::parse("*"), Ok(RouteHost::Any));
        assert!(matches!(RouteHost::parse("*.shop:80"), Ok(RouteHost::One(host)) if host.wildcard));
        for text in ["", "**", "*:80", "all of them"] {
            assert!(RouteHost::parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_text_makes_the_parsers_panic(text in ".{0,40}|(http://)?[a-z/?#: ]{0,20}") {
            drop(RouteName::parse(&text));
            drop(RouteHost::parse(&text));
            drop(MatchPath::parse(&text));
            drop(HeaderName::parse(&text));
            drop(HeaderText::parse(&text));
            drop(QueryName::parse(&text));
            drop(Authority::parse(&text));
            drop(RedirectPath::parse(&text));
            drop(ChangedHeader::parse(&text));
            drop(QueryText::parse(&text));
            drop(Pattern::parse(&text));
        }
    }
}
