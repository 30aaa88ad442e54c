//! The words of `logs`.

use pillion_model::logs::{BadSinkUrl, IndexName, LineFormat, MongodbUrl, SinkUrl, SyslogUrl};
use pillion_model::text::shortened;

use super::Choice;
use crate::value::{BadWord, Word, leaves, wrapped_leaves};

/// A glob of an absolute path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob(String);

impl Word for Glob {
    const EXPECTED: &'static str = "a glob (\"/var/log/app/*.log\")";

    fn parse(text: &str) -> Result<Self, BadWord> {
        let bad = || BadWord::not(text, Self::EXPECTED);
        match text.strip_prefix('/') {
            None => Err(bad().help("write an absolute path, such as /var/log/app/*.log")),
            Some(rest) if rest.is_empty() || rest.ends_with('/') => {
                Err(bad().help("it must name files, not a folder: /var/log/app/*.log"))
            }
            Some(rest) if rest.split('/').any(|name| matches!(name, "." | "..")) => {
                Err(bad().help("write the path without . and .."))
            }
            Some(_) if text.len() > 4096 || text.contains('\0') => Err(bad()),
            Some(_) => Ok(Self(text.to_owned())),
        }
    }
}

impl Choice for LineFormat {
    const EXPECTED: &'static str = "auto, json, text, logfmt or cri";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("json", Self::Json),
        ("text", Self::Text),
        ("logfmt", Self::Logfmt),
        ("cri", Self::Cri),
    ];
}

/// The name of a field that is added to records, or of a label of Loki.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldName(pub(crate) String);

impl Word for FieldName {
    const EXPECTED: &'static str = "a field's name (team)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
        match begins && text.len() <= 63 && text.bytes().all(is_letter) {
            true => Ok(Self(text.to_owned())),
            false => {
                Err(BadWord::not(text, "a field's name").help("a letter, then letters, digits and _: team"))
            }
        }
    }
}

/// The name of a database or a collection of MongoDB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CollectionName(String);

impl Word for CollectionName {
    const EXPECTED: &'static str = "a name of MongoDB (logs)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        let is_taken = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        let is_sound = !text.is_empty() && text.len() <= 63 && text.chars().all(is_taken);
        match is_sound && !text.starts_with('.') && !text.starts_with("system.") {
            true => Ok(Self(text.to_owned())),
            false => Err(BadWord::not(text, "a name of MongoDB").help("letters, digits, - and _: logs")),
        }
    }
}

/// The message for an address of a sink. One with user information is not quoted.
fn bad(text: &str, why: BadSinkUrl, example: &str) -> BadWord {
    match why {
        BadSinkUrl::User => BadWord::new("has user information before an @")
            .secret()
            .help("over HTTP write it as a header: headers: { authorization: \"Basic ${CREDENTIALS}\" }; other credentials are not supported yet"),
        BadSinkUrl::NotYet => BadWord::not_yet(text),
        why => BadWord::new(format!("is `{}`, which {why}", shortened(text))).help(format!("write it like {example}")),
    }
}

impl Word for SinkUrl {
    const EXPECTED: &'static str = "an address (https://logs.example/ingest)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        Self::new(text).map_err(|why| bad(text, why, "http://elasticsearch:9200"))
    }
}

impl Word for SyslogUrl {
    const EXPECTED: &'static str = "the address of a receiver (tcp://logs:601)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        Self::new(text).map_err(|why| bad(text, why, "tcp://logs:601, udp://logs:514 or tls://logs:6514"))
    }
}

impl Word for MongodbUrl {
    const EXPECTED: &'static str = "the address of a server (mongodb://mongo:27017)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        Self::new(text).map_err(|why| match why {
            BadSinkUrl::Several => BadWord::not_yet(text).help("name one server"),
            why => bad(text, why, "mongodb://mongo:27017, with ?tls=true for TLS"),
        })
    }
}

impl Word for IndexName {
    const EXPECTED: &'static str = "the name of an index (\"app-%Y.%m.%d\")";

    fn parse(text: &str) -> Result<Self, BadWord> {
        Self::new(text).map_err(|why| {
            BadWord::new(format!("is `{}`, which {why}", shortened(text))).help("write it like app-%Y.%m.%d")
        })
    }
}

leaves!(
    LineFormat: super::chosen,
    SinkUrl: |url| url.to_string().into(),
    SyslogUrl: |url| url.to_string().into(),
    MongodbUrl: |url| url.to_string().into(),
    IndexName: |name| name.to_string().into(),
);
wrapped_leaves!(
    Glob: String, |glob| glob.as_str().into();
    FieldName: String, |name| name.as_str().into();
    CollectionName: String, |name| name.as_str().into();
);
