//! A file over HTTP: the validators by which a server says that nothing has changed (RFC 9110, section 13).

use http::header::{ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use http::{HeaderMap, HeaderValue, StatusCode};

/// What the last complete answer said about its version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Validators {
    etag: Option<HeaderValue>,
    modified: Option<HeaderValue>,
}

/// What a status means for the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    Content,
    Same,
    Absent,
    Failure,
}

impl Validators {
    pub(crate) fn of(head: &HeaderMap) -> Self {
        Self { etag: head.get(ETAG).cloned(), modified: head.get(LAST_MODIFIED).cloned() }
    }

    /// Asks for a newer version alone. A server that has a tag ignores the date.
    pub(crate) fn add_to(&self, head: &mut HeaderMap) {
        if let Some(etag) = &self.etag {
            head.insert(IF_NONE_MATCH, etag.clone());
        }
        if let Some(modified) = &self.modified {
            head.insert(IF_MODIFIED_SINCE, modified.clone());
        }
    }

    /// What an answer with this status means. A 304 without a condition in the question says nothing.
    pub(crate) fn meaning(&self, status: StatusCode) -> Meaning {
        match status {
            StatusCode::OK => Meaning::Content,
            StatusCode::NOT_MODIFIED if *self != Self::default() => Meaning::Same,
            StatusCode::NOT_FOUND | StatusCode::GONE => Meaning::Absent,
            _ => Meaning::Failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_validators_of_an_answer_stand_in_the_next_question() {
        let answer: HeaderMap = [
            (ETAG, HeaderValue::from_static("W/\"1\"")),
            (LAST_MODIFIED, HeaderValue::from_static("Sat, 28 Nov 2026 00:00:00 GMT")),
        ]
        .into_iter()
        .collect();
        let mut question = HeaderMap::new();
        Validators::of(&answer).add_to(&mut question);
        assert_eq!(question.get(IF_NONE_MATCH).unwrap(), "W/\"1\"");
        assert_eq!(question.get(IF_MODIFIED_SINCE).unwrap(), "Sat, 28 Nov 2026 00:00:00 GMT");
    }

    #[test]
    fn only_a_whole_answer_brings_a_version() {
        let known = Validators { etag: Some(HeaderValue::from_static("\"1\"")), modified: None };
        for (status, expected) in [
            (200, Meaning::Content),
            (304, Meaning::Same),
            (404, Meaning::Absent),
            (410, Meaning::Absent),
            (206, Meaning::Failure),
            (301, Meaning::Failure),
            (503, Meaning::Failure),
        ] {
            assert_eq!(known.meaning(StatusCode::from_u16(status).unwrap()), expected, "{status}");
        }
        assert_eq!(Validators::default().meaning(StatusCode::NOT_MODIFIED), Meaning::Failure);
    }
}
