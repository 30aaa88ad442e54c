//! The sources of `metrics.merge`: their names and addresses.

use crate::value::{BadWord, Word, leaves, on_off, wrapped_leaves};
use pillion_model::telemetry::{BadSourceUrl, SourceUrl};
use pillion_model::text::shortened;

/// A label's value that can stand before the name of a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SourceName(pub(crate) String);

const LONGEST: usize = 63;

impl Word for SourceName {
    const EXPECTED: &'static str = "a source's name (jvm)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        let is_letter =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
        match begins && text.len() <= LONGEST && text.bytes().all(is_letter) && on_off(text).is_none() {
            true => Ok(Self(text.to_owned())),
            false => Err(BadWord::not(text, "a source's name")
                .help("a lower-case letter, then letters, digits, - and _: jvm")),
        }
    }
}

impl Word for SourceUrl {
    const EXPECTED: &'static str = "the address of metrics (http://127.0.0.1:8080/metrics)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        Self::new(text).map_err(|why| {
            let bad = BadWord::new(format!("is `{}`, which {why}", shortened(text)));
            match why {
                BadSourceUrl::Https => {
                    bad.help("sources are containers of the same pod, over loopback: write http://127.0.0.1:8080/metrics")
                }
                BadSourceUrl::Address => {
                    bad.help("names are not resolved: write an IP address and a port, as in http://127.0.0.1:8080/metrics")
                }
                BadSourceUrl::Scheme | BadSourceUrl::Path => bad.help("write it like http://127.0.0.1:8080/metrics"),
            }
        })
    }
}

leaves!(SourceUrl: |url| url.to_string().into());

wrapped_leaves!(
    SourceName: String, |name| name.as_str().into();
);
