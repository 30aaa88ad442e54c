//! Tests with arbitrary bytes: they cause no panic and no endless loop, and no byte after a refusal is read.

use pillion_http1::{After, Limits};
use proptest::prelude::*;

use crate::corpus::{changed_answers, changed_requests};
use crate::drive::{Asking, Served};

/// Checks that every call of `read` takes bytes, returns an event, or needs more bytes.
fn check(bytes: &[u8], limits: Limits) {
    let mut served = Served { limits, ..Served::default() };
    served.feed(bytes);
    assert!(served.reads <= 3 * bytes.len() + 4, "{} looks at {} bytes", served.reads, bytes.len());
    if served.fault.is_some() {
        let requests = served.requests.len();
        served.server.read(bytes, &limits).unwrap();
        assert_eq!((served.requests.len(), served.server.after() == Some(After::Next)), (requests, false));
    }
    served.end();
    for method in ["GET", "HEAD", "CONNECT"] {
        let mut asking = Asking { limits, ..Asking::new(method) };
        asking.feed(bytes);
        assert!(asking.reads <= 3 * bytes.len() + 4);
        if asking.fault.is_some() {
            assert_eq!(asking.client.after(), Some(After::Reset));
        }
        asking.end();
    }
}

fn limits() -> impl Strategy<Value = Limits> {
    let small = (0..200_u32, 0..5_u32, 0..50_u32);
    let small =
        small.prop_map(|(head_bytes, fields, trailer_bytes)| Limits { head_bytes, fields, trailer_bytes });
    prop_oneof![3 => Just(Limits::default()), 1 => small]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_messages_cause_no_panic_and_no_endless_loop(requests in changed_requests(8), answers in changed_answers(8), limits in limits()) {
        check(&requests, limits);
        check(&answers, limits);
    }

    #[test]
    fn arbitrary_bytes_cause_no_panic_and_no_endless_loop(bytes in proptest::collection::vec(any::<u8>(), 0..200), limits in limits()) {
        check(&bytes, limits);
        check(&[b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", &bytes[..]].concat(), limits);
        check(&[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &bytes[..]].concat(), limits);
    }
}
