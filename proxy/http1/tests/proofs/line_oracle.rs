//! Compares the reader of lines with httparse, which hyper uses: a head that the engine accepts is accepted by httparse
//! too, with the same lines.

use pillion_http1::{Fields, FromClient, FromUpstream, Limits, Server};
use proptest::prelude::*;

use crate::corpus::{changed_answers, changed_requests};
use crate::drive::Asking;

type Lines = Vec<(Vec<u8>, Vec<u8>)>;

fn ours(fields: &Fields) -> Lines {
    // The engine makes lengths canonical and removes some fields, so the text of the lines is compared.
    let length = |name: &[u8]| {
        name.eq_ignore_ascii_case(b"content-length") || name.eq_ignore_ascii_case(b"transfer-encoding")
    };
    let lines = fields.iter().filter(|(name, _)| !length(name));
    lines.map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
}

fn theirs(headers: &[httparse::Header<'_>]) -> Lines {
    let length = |name: &str| {
        name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("transfer-encoding")
    };
    let lines = headers.iter().filter(|header| !length(header.name));
    lines.map(|header| (header.name.as_bytes().to_vec(), header.value.to_vec())).collect()
}

#[test]
fn a_target_that_is_not_utf_8_is_refused_when_its_line_is_whole() {
    let read = |bytes: &[u8]| Server::new().read(bytes, &Limits::default()).map(|(used, _)| used);
    assert_eq!(read(b"GET \x80 HTTP/1.0\r"), Ok(0));
    assert!(read(b"GET \x80 HTTP/1.0\r\n\r\n").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_request_head_that_is_accepted_is_read_as_httparse_reads_it(bytes in changed_requests(3)) {
        let mut server = Server::new();
        let read = server.read(&bytes, &Limits::default());
        let mut room = [httparse::EMPTY_HEADER; 100];
        let mut parsed = httparse::Request::new(&mut room);
        let oracle = parsed.parse(&bytes);
        match read {
            Ok((used, FromClient::Head(head))) => {
                prop_assert_eq!(oracle, Ok(httparse::Status::Complete(used)));
                prop_assert_eq!(parsed.method, Some(head.method.as_str()));
                prop_assert_eq!(parsed.path, Some(head.target()));
                prop_assert_eq!(parsed.version, Some(u8::from(head.version == http::Version::HTTP_11)));
                prop_assert_eq!(ours(&head.fields), theirs(parsed.headers));
            }
            Ok(_) => prop_assert!(!matches!(oracle, Ok(httparse::Status::Complete(_))), "we wait: {}", bytes.escape_ascii()),
            Err(_) => {}
        }
        if oracle.is_err() && !server.is_owed() {
            // httparse refuses a target that is not UTF-8 before its line is whole
            let whole = [&bytes[..], b"\n\r\n"].concat();
            let refused = Server::new().read(&whole, &Limits::default()).is_err();
            prop_assert!(refused, "we refuse what httparse refuses: {}", bytes.escape_ascii());
        }
    }

    #[test]
    fn an_answer_head_that_is_accepted_is_read_as_httparse_reads_it(bytes in changed_answers(3)) {
        let mut asking = Asking::new("GET");
        let read = asking.client.read(&bytes, &Limits::default());
        let mut room = [httparse::EMPTY_HEADER; 100];
        let mut parsed = httparse::Response::new(&mut room);
        let oracle = parsed.parse(&bytes);
        if let Ok((used, FromUpstream::Head(head) | FromUpstream::Interim(head))) = &read {
            prop_assert_eq!(oracle, Ok(httparse::Status::Complete(*used)));
            prop_assert_eq!(parsed.code, Some(head.status.as_u16()));
            prop_assert_eq!(ours(&head.fields), theirs(parsed.headers));
        }
        if oracle.is_err() {
            prop_assert!(read.is_err(), "we refuse what httparse refuses: {}", bytes.escape_ascii());
        }
    }
}
