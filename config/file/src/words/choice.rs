//! Words out of a fixed table, as the file spells them.

use serde_json::Value;

use crate::schema::{self, Described};
use crate::value::{BadWord, Word, leaves, on_off, wrapped_leaves};
use pillion_model::authorization::{Action, EncodedSlash, Mode};
use pillion_model::cluster::{LoadBalancer, UpstreamProtocol};
use pillion_model::identity::TlsVersion;
use pillion_model::listener::{AppProtocol, Mtls, RedirectTo, Unknown};
use pillion_model::logs::LineFormat;
use pillion_model::route::{RateLimitBy, Scheme};
use pillion_model::sync::SyncSignal;
use pillion_model::telemetry::Compatibility;
use pillion_model::text::nearest;
use pillion_model::tracing::Propagation;

/// Chooses one of a table of words.
pub(crate) fn choose<T: Clone>(text: &str, table: &[(&str, T)]) -> Result<T, BadWord> {
    if let Some((_, chosen)) = table.iter().find(|(word, _)| *word == text) {
        return Ok(chosen.clone());
    }
    let words: Vec<&str> = table.iter().map(|(word, _)| *word).collect();
    Err(not_one_of(text, &words))
}

pub(super) fn not_one_of(text: &str, words: &[&str]) -> BadWord {
    let near = nearest(text, words);
    // of a long table, the similar word alone is more useful than the whole list
    let list = if near.is_some() && words.len() > 8 {
        "a word known here".into()
    } else {
        format!("one of {}", words.join(", "))
    };
    let bad = BadWord::not(text, &list);
    match near {
        Some(word) if bad.help.is_none() => bad.help(format!("did you mean {word}?")),
        _ => bad,
    }
}

/// A word out of a fixed table.
pub(crate) trait Choice: Clone + 'static {
    const EXPECTED: &'static str;
    const WORDS: &'static [(&'static str, Self)];

    fn words() -> impl Iterator<Item = &'static str> {
        Self::WORDS.iter().map(|(word, _)| *word)
    }

    /// Every spelling of `off` counts as the table's `off`.
    fn chosen(text: &str) -> Result<Self, BadWord> {
        let is_off = on_off(text) == Some(false) && Self::words().any(|word| word == "off");
        choose(if is_off { "off" } else { text }, Self::WORDS)
    }
}

/// The word of a choice.
pub(crate) fn chosen<T: Choice + PartialEq>(choice: &T) -> Value {
    T::WORDS.iter().find(|(_, meant)| meant == choice).map_or(Value::Null, |(word, _)| (*word).into())
}

/// Implements [`Word`] for a [`Choice`]; a blanket implementation would conflict with the other words.
macro_rules! choices {
    ($($name:ty),*) => {$(
        impl Word for $name {
            const EXPECTED: &'static str = <Self as Choice>::EXPECTED;

            fn parse(text: &str) -> Result<Self, BadWord> {
                Self::chosen(text)
            }
        }

        impl Described for $name {
            fn described() -> Option<Value> {
                Some(schema::one_of(Self::words()))
            }
        }
    )*};
}
choices!(
    AppProtocol,
    UpstreamProtocol,
    Mtls,
    RedirectTo,
    Unknown,
    TlsVersion,
    PostQuantum,
    LoadBalancer,
    TlsMode,
    ClientMode,
    AlwaysErrors,
    RateLimitBy,
    Compatibility,
    Propagation,
    Scheme,
    Action,
    Mode,
    EncodedSlash,
    SyncSignal,
    LineFormat
);

leaves!(
    AppProtocol: chosen,
    UpstreamProtocol: chosen,
    Mtls: chosen,
    RedirectTo: chosen,
    Unknown: chosen,
    RateLimitBy: chosen,
    Compatibility: chosen,
    Propagation: chosen,
    Scheme: chosen,
    TlsVersion: chosen,
    SyncSignal: chosen,
    TlsMode: chosen,
    ClientMode: chosen,
);
wrapped_leaves!(
    PostQuantum: bool, |prefer| chosen(&PostQuantum(*prefer));
    AlwaysErrors: bool, |always| chosen(&AlwaysErrors(*always));
);

impl Choice for AppProtocol {
    const EXPECTED: &'static str = "a protocol (auto, http1, http2, tcp, tls)";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("http1", Self::Http1),
        ("http2", Self::Http2),
        ("tcp", Self::Tcp),
        ("tls", Self::Tls),
    ];
}

impl Choice for UpstreamProtocol {
    const EXPECTED: &'static str = "a protocol (auto, http1, http2, tcp)";
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("http1", Self::Http1), ("http2", Self::Http2), ("tcp", Self::Tcp)];
}

impl Choice for Mtls {
    const EXPECTED: &'static str = "strict, permissive or off";
    const WORDS: &'static [(&'static str, Self)] =
        &[("strict", Self::Strict), ("permissive", Self::Permissive), ("off", Self::Off)];
}

impl Choice for RedirectTo {
    const EXPECTED: &'static str = "original or loopback";
    const WORDS: &'static [(&'static str, Self)] =
        &[("original", Self::Original), ("loopback", Self::Loopback)];
}

impl Choice for Unknown {
    const EXPECTED: &'static str = "passthrough or deny";
    const WORDS: &'static [(&'static str, Self)] =
        &[("passthrough", Self::Passthrough), ("deny", Self::Deny)];
}

impl Choice for Compatibility {
    const EXPECTED: &'static str = "istio";
    const WORDS: &'static [(&'static str, Self)] = &[("istio", Self::Istio)];
}

impl Choice for RateLimitBy {
    const EXPECTED: &'static str = "peer or all";
    const WORDS: &'static [(&'static str, Self)] = &[("all", Self::All), ("peer", Self::Peer)];
}

impl Choice for Scheme {
    const EXPECTED: &'static str = "http or https";
    const WORDS: &'static [(&'static str, Self)] = &[("http", Self::Http), ("https", Self::Https)];
}

impl Choice for TlsVersion {
    const EXPECTED: &'static str = "a TLS version (\"1.2\" or \"1.3\")";
    const WORDS: &'static [(&'static str, Self)] = &[("1.2", Self::Tls12), ("1.3", Self::Tls13)];
}

/// `prefer` or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PostQuantum(pub(crate) bool);

impl Choice for PostQuantum {
    const EXPECTED: &'static str = "prefer or off";
    const WORDS: &'static [(&'static str, Self)] = &[("prefer", Self(true)), ("off", Self(false))];
}

impl Choice for LoadBalancer {
    const EXPECTED: &'static str =
        "a load balancer (peak_ewma, least_request, round_robin, random, { ring_hash: … }, { maglev: … })";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("peak_ewma", Self::PeakEwma),
        ("least_request", Self::LeastRequest),
        ("round_robin", Self::RoundRobin),
        ("random", Self::Random),
    ];
}

/// The mode of a service's `tls`, without its details.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TlsMode {
    Off,
    Simple,
    Mutual,
}

impl Choice for TlsMode {
    const EXPECTED: &'static str = "a mode (mutual, simple, off)";
    const WORDS: &'static [(&'static str, Self)] =
        &[("mutual", Self::Mutual), ("simple", Self::Simple), ("off", Self::Off)];
}

/// `client` of a port's `tls`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientMode {
    Off,
    Request,
    Require,
}

impl Choice for ClientMode {
    const EXPECTED: &'static str = "whether clients show certificates (off, request, require)";
    const WORDS: &'static [(&'static str, Self)] =
        &[("off", Self::Off), ("request", Self::Request), ("require", Self::Require)];
}

/// `errors` or `off`. `errors` means that failed requests are logged whatever the sample is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AlwaysErrors(pub(crate) bool);

impl Choice for AlwaysErrors {
    const EXPECTED: &'static str = "errors or off";
    const WORDS: &'static [(&'static str, Self)] = &[("errors", Self(true)), ("off", Self(false))];
}
