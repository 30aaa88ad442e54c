//! Consul's key/value store: the question of a blocking query, what its index says, and what an answer holds.
//!
//! The rules for the index are those that Consul documents for its clients: an index that goes backwards begins anew at
//! 0, and one below 1 counts as 1, because a query with 0 does not wait.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use pillion_model::sync::Store;
use serde::Deserialize;

use super::bounded::Bounded;
use super::version::{BadVersion, Content, Folder};

/// How long the server waits for a change. It answers up to a sixteenth later, so that its clients do not come at once.
pub(crate) const WAIT: Duration = Duration::from_mins(1);
/// The header with the index, in lower case.
pub(crate) const INDEX: &str = "x-consul-index";
/// The header with the ACL token.
pub(crate) const TOKEN: &str = "x-consul-token";

/// What a path keeps as it is: the unreserved characters of RFC 3986, and slashes.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

#[derive(Debug, thiserror::Error)]
pub(crate) enum BadAnswer {
    #[error("the answer has no valid X-Consul-Index, so this is not Consul")]
    NoIndex,
    #[error("the answer is not the JSON of Consul's KV store (line {}, column {})", .0.line(), .0.column())]
    Json(#[source] serde_json::Error),
    #[error("a value is not base64")]
    Base64(#[source] base64::DecodeError),
    #[error("the answer does not have the key that was asked for")]
    OtherKey,
    #[error(transparent)]
    Version(#[from] BadVersion),
}

/// A key as Consul shows it. A key that is only a folder has no value.
#[derive(Deserialize)]
struct Pair {
    #[serde(rename = "Key")]
    key: String,
    #[serde(rename = "Value")]
    value: Option<String>,
}

/// The path of the query that answers when there is something newer than `index`. With 0 it answers at once.
pub(crate) fn question(store: &Store, index: u64) -> String {
    let mut path = format!("/v1/kv/{}", utf8_percent_encode(&store.key, PATH));
    let mut separator = '?';
    let mut add = |what: &str| {
        path.push(separator);
        path.push_str(what);
        separator = '&';
    };
    if store.is_folder {
        add("recurse");
    }
    if store.is_stale {
        add("stale");
    }
    if index > 0 {
        add(&format!("index={index}"));
        add(&format!("wait={}s", WAIT.as_secs()));
    }
    path
}

/// The time within which the answer begins.
pub(crate) fn patience(index: u64) -> Duration {
    let slack = Duration::from_secs(10);
    if index > 0 { WAIT + WAIT / 16 + slack } else { slack }
}

/// The index for the next query, from that of the last one and what the answer says. `None`: it says none.
pub(crate) fn next_index(last: u64, said: Option<&str>) -> Result<u64, BadAnswer> {
    let said: u64 = said.and_then(|said| said.parse().ok()).ok_or(BadAnswer::NoIndex)?;
    let said = said.max(1);
    Ok(if said < last { 0 } else { said })
}

/// What the answer holds. `None`: a folder without a file.
pub(crate) fn read(store: &Store, answer: &[u8]) -> Result<Option<Content>, BadAnswer> {
    let pairs: Bounded<Pair> = serde_json::from_slice(answer).map_err(BadAnswer::Json)?;
    let pairs = pairs.all()?;
    if store.is_folder {
        return folder(&store.key, pairs);
    }
    let pair = pairs.into_iter().find(|pair| pair.key == store.key).ok_or(BadAnswer::OtherKey)?;
    Ok(Some(Content::file(value(pair.value)?)?))
}

fn folder(prefix: &str, pairs: Vec<Pair>) -> Result<Option<Content>, BadAnswer> {
    let mut files = Vec::with_capacity(pairs.len());
    for Pair { key, value } in pairs {
        let name = key.strip_prefix(prefix).ok_or(BadAnswer::OtherKey)?;
        // the key of a folder, as the web interface makes it
        if name.is_empty() || name.ends_with('/') {
            continue;
        }
        files.push((name.to_owned(), self::value(value)?));
    }
    Ok(if files.is_empty() { None } else { Some(Content::Folder(Folder::new(files)?)) })
}

fn value(text: Option<String>) -> Result<Bytes, BadAnswer> {
    STANDARD.decode(text.unwrap_or_default()).map(Bytes::from).map_err(BadAnswer::Base64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn store(key: &str, is_stale: bool) -> Store {
        let is_folder = key.ends_with('/');
        Store { is_tls: false, host: "c".to_owned(), port: 8500, key: key.to_owned(), is_folder, is_stale }
    }

    #[test]
    fn a_query_blocks_once_an_index_is_known() {
        for (key, is_stale, index, expected) in [
            ("app/a b", false, 0, "/v1/kv/app/a%20b"),
            ("app/?", false, 7, "/v1/kv/app/%3F?index=7&wait=60s"),
            ("app/", true, 7, "/v1/kv/app/?recurse&stale&index=7&wait=60s"),
        ] {
            assert_eq!(question(&store(key, is_stale), index), expected);
        }
        assert!(patience(1) > WAIT + WAIT / 16);
    }

    #[test]
    fn an_index_that_goes_backwards_begins_anew_and_none_is_below_one() {
        for (last, said, expected) in
            [(0, "7", 7), (7, "7", 7), (7, "9", 9), (9, "7", 0), (0, "0", 1), (1, "0", 1), (2, "0", 0)]
        {
            assert_eq!(next_index(last, Some(said)).ok(), Some(expected), "{last} {said}");
        }
        for said in [None, Some(""), Some("-1"), Some("x"), Some("99999999999999999999")] {
            assert!(matches!(next_index(3, said), Err(BadAnswer::NoIndex)), "{said:?}");
        }
    }

    #[test]
    fn a_key_and_a_folder_are_read() {
        let one =
            br#"[{"LockIndex":0,"Key":"app/x","Flags":0,"Value":"aGk=","CreateIndex":1,"ModifyIndex":2}]"#;
        assert_eq!(read(&store("app/x", false), one).unwrap(), Some(Content::File("hi".into())));
        assert!(matches!(read(&store("app/y", false), one), Err(BadAnswer::OtherKey)));
        let all = br#"[{"Key":"app/","Value":null},{"Key":"app/d/","Value":""},{"Key":"app/d/e","Value":"aGk="},{"Key":"app/x","Value":null}]"#;
        let files = vec![("d/e".to_owned(), "hi".into()), ("x".to_owned(), Bytes::new())];
        assert_eq!(
            read(&store("app/", false), all).unwrap(),
            Some(Content::Folder(Folder::new(files).unwrap()))
        );
        let none = br#"[{"Key":"app/","Value":null}]"#;
        assert_eq!(read(&store("app/", false), none).unwrap(), None);
    }

    #[test]
    fn what_is_not_an_answer_of_consul_is_told_without_its_content() {
        for text in ["", "secret", "{}", r#"[{"Key":"k","Value":"secret!"}]"#, r#"[{"Value":"YQ=="}]"#] {
            let why = read(&store("k", false), text.as_bytes()).unwrap_err().to_string();
            assert!(!why.contains("secret"), "{why}");
        }
        let out = br#"[{"Key":"app/../../etc/passwd","Value":"YQ=="}]"#;
        assert!(matches!(read(&store("app/", false), out), Err(BadAnswer::Version(BadVersion::Name(_)))));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_answer_makes_the_reader_panic(answer in prop::collection::vec(any::<u8>(), 0..200), last in any::<u64>()) {
            drop(read(&store("k", false), &answer));
            drop(read(&store("k/", false), &answer));
            drop(next_index(last, std::str::from_utf8(&answer).ok()));
        }
    }
}
