//! Tests that the result does not depend on the pieces in which bytes come.

use proptest::prelude::*;

use crate::corpus::{ANSWERS, REQUESTS, changed_answers, changed_requests};
use crate::drive::{Asking, Message, Served};
use pillion_http1::{After, EndOfInput, Fault};

/// All that was read, for comparison.
type Seen = (Vec<Message>, Option<Message>, Option<Fault>, Option<After>, Option<EndOfInput>);

fn served(pieces: &[&[u8]]) -> Seen {
    let mut served = Served::default();
    pieces.iter().for_each(|piece| served.feed(piece));
    let ended = served.fault.is_none().then(|| served.end());
    (served.requests, served.current, served.fault, served.after, ended)
}

fn asked(pieces: &[&[u8]]) -> Seen {
    let mut asking = Asking::new("GET");
    pieces.iter().for_each(|piece| asking.feed(piece));
    let ended = asking.fault.is_none().then(|| asking.end());
    (asking.interim, asking.answer, asking.fault, asking.client.after(), ended)
}

/// Removes the differences that are allowed when bytes come one by one: another fault may be found, or it may be found
/// later. The message is refused in both cases, and the messages before it are the same.
fn alike(mut one: Seen, mut other: Seen) -> (Seen, Seen) {
    let is_not_in =
        |seen: &Seen| seen.2.is_some() || matches!(seen.4, Some(EndOfInput::InHead | EndOfInput::InContent));
    if (one.2.is_some() && is_not_in(&other)) || (other.2.is_some() && is_not_in(&one)) {
        (one.1, one.2, one.3, one.4) = (None, None, None, None);
        (other.1, other.2, other.3, other.4) = (None, None, None, None);
    }
    (one, other)
}

fn by_ones(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.chunks(1).collect()
}

#[test]
fn a_message_in_two_pieces_is_read_like_one_piece() {
    for request in REQUESTS.map(str::as_bytes) {
        let whole = served(&[request]);
        assert!(whole.2.is_none() && whole.1.is_none(), "{}", request.escape_ascii());
        for cut in 0..=request.len() {
            assert_eq!(
                served(&[&request[..cut], &request[cut..]]),
                whole,
                "{} at {cut}",
                request.escape_ascii()
            );
        }
        assert_eq!(served(&by_ones(request)), whole);
    }
    for answer in ANSWERS.map(str::as_bytes) {
        let whole = asked(&[answer]);
        assert!(whole.2.is_none() && whole.4 == Some(EndOfInput::Whole), "{}", answer.escape_ascii());
        for cut in 0..=answer.len() {
            assert_eq!(asked(&[&answer[..cut], &answer[cut..]]), whole, "{} at {cut}", answer.escape_ascii());
        }
        assert_eq!(asked(&by_ones(answer)), whole);
    }
}

#[test]
fn a_message_that_ends_too_early_is_never_complete() {
    for request in REQUESTS.map(str::as_bytes) {
        let whole = served(&[request]).0.len();
        for cut in 0..request.len() {
            let (requests, current, fault, after, ended) = served(&[&request[..cut]]);
            assert_eq!(fault, None);
            let is_told = current.is_none() || ended == Some(EndOfInput::InContent);
            assert!(
                is_told
                    && (requests.len() < whole || after.is_some() || ended != Some(EndOfInput::InContent))
            );
        }
    }
    for answer in ANSWERS.map(str::as_bytes) {
        let length = asked(&[answer]).1.map(|read| read.content.len());
        for cut in 0..answer.len() {
            let (_, read, fault, _, ended) = asked(&[&answer[..cut]]);
            assert_eq!(fault, None);
            let is_until_close = answer.ends_with(b"ends");
            assert!(ended != Some(EndOfInput::Whole) || is_until_close, "{} at {cut}", answer.escape_ascii());
            assert!(read.map(|read| read.content.len()) <= length);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_requests_are_read_alike_in_pieces(bytes in changed_requests(4), cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..5)) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let ends = cuts.iter().copied().chain([bytes.len()]);
        let starts = [0].into_iter().chain(cuts.iter().copied());
        let pieces: Vec<&[u8]> = starts.zip(ends).map(|(start, end)| &bytes[start..end]).collect();
        for pieces in [pieces, by_ones(&bytes)] {
            let (whole, cut) = alike(served(&[&bytes]), served(&pieces));
            prop_assert_eq!(whole, cut);
            let (whole, cut) = alike(asked(&[&bytes]), asked(&pieces));
            prop_assert_eq!(whole, cut);
        }
    }

    #[test]
    fn changed_answers_are_read_alike_in_pieces(bytes in changed_answers(4)) {
        let (whole, cut) = alike(asked(&[&bytes]), asked(&by_ones(&bytes)));
        prop_assert_eq!(whole, cut);
    }
}
