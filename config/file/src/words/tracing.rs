//! The words of `tracing`.

use pillion_model::text::shortened;
use pillion_model::tracing::{BadOtlpUrl, HiddenText, OtlpUrl, Propagation};

use super::Choice;
use crate::value::{BadWord, Word, leaves, wrapped_leaves};

impl Word for OtlpUrl {
    const EXPECTED: &'static str = "the address of a collector (http://127.0.0.1:4318)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        Self::new(text).map_err(|why| {
            if why == BadOtlpUrl::User {
                return BadWord::new("has user information before an @")
                    .secret()
                    .help("write it as a header: headers: { authorization: \"Basic ${CREDENTIALS}\" }");
            }
            let bad = BadWord::new(format!("is `{}`, which {why}", shortened(text)));
            bad.help("write it like http://collector:4318, or grpc://collector:4317")
        })
    }
}

impl Choice for Propagation {
    const EXPECTED: &'static str = "w3c, b3 or b3multi";
    const WORDS: &'static [(&'static str, Self)] =
        &[("w3c", Self::W3c), ("b3", Self::B3), ("b3multi", Self::B3Multi)];
}

/// The value of a header that may be a credential. No message quotes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HiddenValue(HiddenText);

impl Word for HiddenValue {
    const EXPECTED: &'static str = "a header's value";

    fn parse(text: &str) -> Result<Self, BadWord> {
        let is_sound = !text.is_empty() && text.len() <= 4096 && text.trim_matches(' ') == text;
        match is_sound && text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            true => Ok(Self(HiddenText(text.to_owned()))),
            false => Err(BadWord::new("is not 1 to 4096 visible ASCII characters").secret()),
        }
    }
}

leaves!(OtlpUrl: |url| url.to_string().into());
wrapped_leaves!(HiddenValue: HiddenText, |_value| "(hidden)".into());
