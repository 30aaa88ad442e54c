use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use pillion_model::access_format::LogFormat;
use pillion_model::cluster::{HostPattern, LoadBalancer, UpstreamProtocol};
use pillion_model::listener::{AppProtocol, Mtls, RedirectTo, Unknown};
use pillion_model::policy::RetryCondition;

fn host(text: &str) -> Option<(String, bool, Option<u16>)> {
    HostPattern::parse(text).ok().map(|h| (h.name, h.wildcard, h.port))
}

#[test]
fn a_text_that_is_not_a_host_is_refused() {
    for text in [
        "", "*", "*.", "*.*.x", "a..b", ".a", "a b", "a:", "a:0", "a:99999", "http://a", "a/b", "::1",
        "[::1", "*.[::1]",
    ] {
        assert_eq!(host(text), None, "{text:?}");
    }
}

#[test]
fn hosts_lose_case_and_trailing_dot_and_keep_their_port() {
    assert_eq!(host("Orders."), Some(("orders".into(), false, None)));
    assert_eq!(host("*.Shop:8080"), Some(("shop".into(), true, Some(8080))));
    assert_eq!(host("[::1]:80"), Some(("[::1]".into(), false, Some(80))));
    assert_eq!(host("10.0.0.1"), Some(("10.0.0.1".into(), false, None)));
}

#[test]
fn known_words_whose_feature_does_not_exist_yet_are_refused_as_not_supported() {
    let bad = LogFormat::parse("logfmt").unwrap_err();
    assert!(bad.what.ends_with("which is not supported yet"), "{bad:?}");
}

#[test]
fn a_format_is_a_word_or_a_template() {
    assert_eq!(LogFormat::parse("json"), Ok(LogFormat::Json));
    for text in ["text", "%DURATION%"] {
        let format = LogFormat::parse(text).expect("a format");
        assert_eq!(<LogFormat as crate::value::Leaf>::spell(&format), text);
    }
    let help = |text| LogFormat::parse(text).unwrap_err().help.unwrap();
    assert_eq!(help("jsn"), "did you mean json?");
    assert_eq!(help("apache"), "a template has operators: %REQ(:METHOD)% %RESPONSE_CODE%");
    assert!(help("%NO_SUCH%").contains("DOWNSTREAM_PEER_URI_SAN"));
}

#[test]
fn protocols_and_modes_are_known_by_their_names_only() {
    assert_eq!(AppProtocol::parse("tcp"), Ok(AppProtocol::Tcp));
    assert_eq!(AppProtocol::parse("tls"), Ok(AppProtocol::Tls));
    assert_eq!(UpstreamProtocol::parse("tcp"), Ok(UpstreamProtocol::Tcp));
    assert_eq!(Mtls::parse("permissive"), Ok(Mtls::Permissive));
    assert_eq!(Mtls::parse("False"), Ok(Mtls::Off));
    // upstream TLS is `tls: …`, beside any protocol
    assert!(UpstreamProtocol::parse("tls").is_err());
    for text in ["", "TCP", "http", "off", "udp"] {
        assert!(AppProtocol::parse(text).is_err() && UpstreamProtocol::parse(text).is_err(), "{text:?}");
    }
    for text in ["", "off", "localhost", "allow"] {
        assert!(RedirectTo::parse(text).is_err() && Unknown::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn a_misspelt_word_gets_the_nearest_word_as_help() {
    assert_eq!(Mtls::parse("permisive").unwrap_err().help.as_deref(), Some("did you mean permissive?"));
    assert_eq!(
        Unknown::parse("pass-through").unwrap_err().help.as_deref(),
        Some("did you mean passthrough?")
    );
    assert_eq!(
        LoadBalancer::parse("least-requests").unwrap_err().help.as_deref(),
        Some("did you mean least_request?")
    );
    assert_eq!(
        RetryCondition::parse("gateway-error").unwrap_err().help.as_deref(),
        Some("did you mean gateway_error?")
    );
}

#[test]
fn an_address_without_a_port_or_with_a_name_gets_help() {
    let help = |text| SocketAddr::parse(text).unwrap_err().help.unwrap();
    assert_eq!(help("127.0.0.1"), "add the port: 127.0.0.1:8080");
    assert_eq!(help("::1"), "add the port: [::1]:8080");
    assert_eq!(help("8080"), "write 127.0.0.1:8080");
    assert_eq!(help("localhost:8080"), "write 127.0.0.1:8080");
    assert!(Target::parse("orders.shop:15006").unwrap_err().help.unwrap().contains("endpoints: { dns:"));
    assert!(Target::parse("10.0.0.1:0").is_err());
}

#[test]
fn retry_conditions_are_names_statuses_and_grpc_statuses() {
    let cases = [
        ("5xx", RetryCondition::FiveXx),
        ("409", RetryCondition::Status(409)),
        ("unavailable", RetryCondition::Grpc(14)),
        ("DEADLINE_EXCEEDED", RetryCondition::Grpc(4)),
    ];
    for (text, expected) in cases {
        assert_eq!(RetryCondition::parse(text), Ok(expected), "{text}");
    }
    for text in ["200", "600", "4xx", "ok", ""] {
        assert!(RetryCondition::parse(text).is_err(), "{text:?}");
    }
}

proptest! {
    #[test]
    fn any_text_is_a_format_or_a_fault(
        parts in prop::collection::vec(prop_oneof![
            prop::sample::select(vec!["%", "(", ")", ":", "?", "REQ", "RESP", "START_TIME", "DURATION", "%Y", "9", "x", " "])
                .prop_map(str::to_owned),
            any::<char>().prop_map(String::from),
        ], 0..30)
    ) {
        let text = parts.concat();
        if let Ok(LogFormat::Template(template)) = LogFormat::parse(&text) {
            prop_assert_eq!(template.spelling(), text);
        }
    }
}
