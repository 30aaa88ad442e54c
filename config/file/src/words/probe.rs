//! The names of probes, and what probes ask for.

use super::is_host_name;
use crate::value::{BadWord, Word, on_off, wrapped_leaves};
use pillion_model::text::shortened;

/// The last segment of `/probe/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProbeName(pub(crate) String);

impl Word for ProbeName {
    const EXPECTED: &'static str = "a probe's name";

    fn parse(text: &str) -> Result<Self, BadWord> {
        match is_host_name(text) {
            true => Ok(Self(text.to_owned())),
            false => Err(BadWord::not(text, "a probe's name")
                .help("the name is the last part of /probe/NAME: letters, digits, dots, - and _")),
        }
    }
}

/// A path as requests send it, with its query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProbePath(pub(crate) String);

impl Word for ProbePath {
    const EXPECTED: &'static str = "a path (/healthz)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        let bad = |help: String| Err(BadWord::not(text, "a path").help(help));
        if text.contains("://") {
            return bad("write only the path; the address is that of the application, with `port`".into());
        }
        if !text.starts_with('/') {
            return bad(format!("a path begins with a slash: /{}", shortened(text)));
        }
        match text.chars().find(|c| !c.is_ascii_graphic() || *c == '#') {
            // characters that a URI cannot hold (RFC 3986) and that HTTP clients refuse to send
            None if !text.contains(['"', '<', '>', '\\', '^', '`', '{', '|', '}']) => {
                Ok(Self(text.to_owned()))
            }
            Some('#') => bad("requests carry no fragment; leave out what follows the #".into()),
            _ => bad("write it as it is sent: other characters are percent-encoded (%20)".into()),
        }
    }
}

/// A service name as in gRPC health checking. The empty name is the server as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GrpcService(pub(crate) String);

/// The most bytes of a service name; names with packages are far shorter.
const LONGEST: usize = 253;

impl Word for GrpcService {
    const EXPECTED: &'static str = "a gRPC service (shop.Orders)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        if on_off(text).is_some() {
            return Err(BadWord::new(format!("is `{}`, which is not a service", shortened(text)))
                .help("name the service: shop.Orders; \"\" asks about the server as a whole"));
        }
        match text.len() <= LONGEST && text.chars().all(|c| c.is_ascii_graphic()) {
            true => Ok(Self(text.to_owned())),
            false => {
                Err(BadWord::not(text, "a gRPC service").help("write it like shop.Orders, with its package"))
            }
        }
    }
}

wrapped_leaves!(
    ProbeName: String, |name| name.as_str().into();
    ProbePath: String, |path| path.as_str().into();
    GrpcService: String, |service| service.as_str().into();
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_have_a_query_and_an_address_in_its_place_gets_help() {
        for good in ["/", "/healthz", "/live?pod=a&x=%20", "/a;b=c/~x"] {
            assert_eq!(ProbePath::parse(good), Ok(ProbePath(good.to_owned())));
        }
        for (text, expected) in [
            ("healthz", "begins with a slash: /healthz"),
            ("", "begins with a slash: /"),
            ("http://127.0.0.1/healthz", "write only the path"),
            ("/a#b", "no fragment"),
            ("/a b", "percent-encoded"),
            ("/ä", "percent-encoded"),
            ("/a\r\nx: y", "percent-encoded"),
            ("/{a}", "percent-encoded"),
        ] {
            let help = ProbePath::parse(text).err().and_then(|bad| bad.help);
            assert!(help.as_deref().is_some_and(|help| help.contains(expected)), "{text:?} {help:?}");
        }
    }

    #[test]
    fn a_grpc_service_is_a_name_or_the_whole_server() {
        for good in ["", "shop.Orders", "liveness", "grpc.health.v1.Health"] {
            assert_eq!(GrpcService::parse(good), Ok(GrpcService(good.to_owned())));
        }
        for bad in ["true", "off", "a b", "ä", "a\n"] {
            assert!(GrpcService::parse(bad).is_err(), "{bad:?}");
        }
        assert!(GrpcService::parse(&"x".repeat(254)).is_err());
    }

    #[test]
    fn the_name_of_a_probe_is_one_segment_of_a_path() {
        assert!(ProbeName::parse("app-live.2_x").is_ok());
        for bad in ["", "a/b", "a b", "..", "a?b", "%2e"] {
            assert!(ProbeName::parse(bad).is_err(), "{bad:?}");
        }
    }
}
