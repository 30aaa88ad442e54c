use proptest::prelude::*;

use super::LooksLike::{Http1, Http2, Opaque, Tls};
use super::*;

/// `limits.header_bytes` of the tests.
const MOST: usize = 64 * 1024;

fn look(first: &[u8]) -> Option<LooksLike> {
    Reader::new(MOST).look(first)
}

#[test]
fn first_bytes_of_each_protocol_are_distinguished() {
    let table: [(&[u8], LooksLike); 16] = [
        (b"GET / HTTP/1.1\r\n", Http1),
        (b"GET / HTTP/1.0\n", Http1),
        (b"\r\nPOST /x?y HTTP/1.1\r\nhost: a", Http1),
        (b"CONNECT a:1 HTTP/1.1\r\n", Http1),
        (b"PURGE http://a/ HTTP/1.1\r\n", Http1),
        (b"GET /\xc3\xa4 HTTP/1.1\r\n", Http1),
        (b"FETCH x HTTP/1.1\r\n", Http1),
        (b"\r\n\r\n\r\n\r\n\r\n\nGET / HTTP/1.1\r\n", Http1),
        (PREFACE, Http2),
        (b"\x16\x03\x01\x02\x00\x01", Tls),
        (b"\x16\x03\x03\x00\x05\x01\x00", Tls),
        (b"\x16\x03\x01\x02\x00\x02", Opaque),
        (b"\x16\x02\x00", Opaque),
        (b"\x16\x03\x01\x00\x00", Opaque),
        (b"\x16\x03\x01\x50", Opaque),
        (b"GETS / \r\n", Opaque),
    ];
    for (first, expected) in table {
        assert_eq!(look(first), Some(expected), "{:?}", String::from_utf8_lossy(first));
    }
}

/// RFC 9112 allows none of these lines, but each is a request for at least one of the four servers.
#[test]
fn a1_what_a_lenient_server_reads_as_http_is_for_the_http_side_to_refuse() {
    let long_method = [&[b'A'; 33][..], b" /a HTTP/1.1\r\n"].concat();
    let long_target = [b"PURGE /", &[b'x'; 9 * 1024][..], b" HTTP/1.1\r\n"].concat();
    let long_other = [b"FETCH ", &[b'x'; 9 * 1024][..], b" HTTP/1.1\r\n"].concat();
    let empty_lines = [&b"\r\n".repeat(4 * 1024)[..], b"GET /a HTTP/1.1\r\n"].concat();
    let table: [&[u8]; 34] = [
        b"GET /a HTTP/1.1 \r\n",
        b"GET  /a HTTP/1.1\r\n",
        b"GET\t/a\tHTTP/1.1\r\n",
        b"GET\x1c/a\xa0HTTP/1.1\r\n",
        b"GET\r/a\rHTTP/1.1\r\n",
        b" GET /a HTTP/1.1\r\n",
        b"\x0b\x85GET /a HTTP/1.1\r\n",
        b"\r\r\nGET /a HTTP/1.1\r\n",
        b"GET / HTTP/2.0\r\n",
        b"GET / HTTP/1.1x\r\n",
        b"GET /a b HTTP/1.1\r\n",
        b"GET /\0 HTTP/1.1\r\n",
        b"FETCH /\0 HTTP/1.1\r\n",
        b"get /\0 HTTP/1.1\r\n",
        b"G\xc9T /a HTTP/1.1\r\n",
        b"get /a HTTP/1.1\r\n",
        b"get /a http/1.1\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX",
        b"\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /a\r\n",
        b"GET key\n",
        b"CONNECT \r\n",
        b"POST /a\r\n",
        b"PURGE /a\r\n",
        b"PURGE *\r\n",
        b"PURGE http://a/\r\n",
        b"OPTIONS / RTSP/1.0\r\n",
        b"DESCRIBE / RTSP/1.0\r\n",
        b"SOURCE /a ICE/1.0\r\n",
        &long_method,
        &long_target,
        &long_other,
        &empty_lines,
    ];
    for first in table {
        let shown = String::from_utf8_lossy(first.get(..40).unwrap_or(first));
        assert_eq!(look(first), Some(Http1), "{shown:?}");
        let unended = first.strip_suffix(b"\n").unwrap_or(first);
        let whole = Reader::new(MOST).look_at_all(unended);
        assert_eq!(
            whole == Http1,
            *first != b"CONNECT \r\n"[..],
            "{shown:?}: and when its line ends with the connection"
        );
    }
}

/// Many servers of HTTP accept a PROXY header before a request, also where none is expected.
#[test]
fn a1_a_header_of_the_proxy_protocol_is_for_the_http_side_to_refuse() {
    let v2 =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x01\x01\x01\x02\x02\x02\x02\0\x01\0\x02GET / HTTP/1.1\r\n";
    let v1 = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\n";
    for header in [&v2[..], v1, b"PROXY UNKNOWN\r\n"] {
        assert_eq!(look(header), Some(Http1));
        let mut reader = Reader::new(MOST);
        let decided = (1..=header.len()).find_map(|end| reader.look(&header[..end]));
        assert_eq!(decided, Some(Http1), "byte by byte");
    }
    assert_eq!(look(b"\r\n\r\n\0\r\nQUIT "), Some(Opaque), "not the whole signature");
}

#[test]
fn a1_text_and_empty_lines_without_end_are_for_the_http_side_to_refuse() {
    for (what, first) in
        [("white space", &b" "[..]), ("empty lines", b"\r\n"), ("a word", b"a"), ("words", b"set key 0 0 ")]
    {
        let all = first.repeat(MOST + 1);
        assert_eq!(look(&all[..MOST - 1]), None, "{what}");
        for most in [MOST, MOST + 1, all.len()] {
            assert_eq!(look(&all[..most]), Some(Http1), "{what}, {most} bytes");
        }
    }
}

/// The first byte that neither TLS nor HTTP could have decides, so that the client does not wait longer than
/// needed.
#[test]
fn other_protocols_are_opaque_at_the_first_byte_that_tells() {
    let table: [(&str, &[u8], usize); 27] = [
        ("PostgreSQL, SSLRequest", b"\0\0\0\x08\x04\xd2\x16\x2f", 1),
        ("PostgreSQL, startup", b"\0\0\0\x54\0\x03\0\0user\0", 1),
        ("MySQL's answer to a greeting", b"\x54\0\0\x01\x8d\xa6", 2),
        ("MySQL's answer, as long as white space", b"\x20\0\0\x01\x8d\xa6", 2),
        ("Redis", b"*1\r\n$4\r\nPING\r\n", 4),
        ("Redis, inline", b"PING\r\n", 6),
        ("Redis, subscribing inline", b"SUBSCRIBE news\r\n", 16),
        ("memcached", b"get key\r\n", 9),
        ("memcached, a path as the key", b"get /index.html\r\n", 17),
        ("memcached, an address as the key", b"get https://a/b\r\n", 17),
        ("memcached, binary", b"\x80\0\0\x03", 2),
        ("SMTP", b"EHLO mail.example\r\n", 19),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n", 21),
        ("Kafka", b"\0\0\0\x23\0\x12\0\x03", 1),
        ("MongoDB", b"\x3a\0\0\0\x01\0\0\0", 1),
        ("MongoDB, as long as a letter and a blank", b"A\x20\0\0\x01\0\0\0", 3),
        ("AMQP", b"AMQP\0\0\x09\x01", 5),
        ("NATS", b"CONNECT {\"verbose\":false}\r\n", 27),
        ("STOMP", b"CONNECT\naccept-version:1.2\n\n\0", 8),
        ("STOMP, with carriage returns", b"CONNECT\r\naccept-version:1.2\r\n\r\n\0", 9),
        ("MQTT", b"\x10\x10\0\x04MQTT", 1),
        ("LDAP", b"0\x0c\x02\x01\x01`\x07", 3),
        ("Cassandra", b"\x05\0\0\0\x01", 1),
        ("git", b"0033git-upload-pack /project.git\0host=a\0", 33),
        ("NSQ", b"  V2IDENTIFY\n", 13),
        ("SIP", b"INVITE sip:a@b SIP/2.0\r\n", 24),
        ("Beanstalk", b"put 0 0 60 5\r\nhello\r\n", 14),
    ];
    for (what, first, at) in table {
        assert_eq!(look(first), Some(Opaque), "{what}");
        assert_eq!(look(&first[..at]), Some(Opaque), "{what}");
        assert_eq!(look(&first[..at - 1]), None, "{what}");
    }
}

#[test]
fn undecided_bytes_of_an_ended_connection_are_judged_as_they_are() {
    for (all, expected) in [
        (&b""[..], Opaque),
        (b"GET", Opaque),
        (b"\r\n", Opaque),
        (b"hello world", Opaque),
        (b"\x16\x03\x01", Opaque),
        (b"FETCH /a HTTP/1.1", Http1),
        (b"PRI * HTTP/2.0\r\n\r\nSM", Http1),
        (b"PRI", Opaque),
    ] {
        assert_eq!(Reader::new(MOST).look_at_all(all), expected, "{all:?}");
    }
}

/// At the deadline, the incomplete line of a slow client is judged by these two predicates.
#[test]
fn a_line_without_end_shows_whether_it_is_likely_to_become_a_request() {
    for (first, begins_like_one, is_hardly_one) in [
        (&b"GET"[..], true, false),
        (b"\r\nPO", true, false),
        (b"DELETE ", true, false),
        (b"CONNECT {", true, false),
        (b"\r\n", true, false),
        (b"GETX", false, false),
        (b"M-SEARCH", false, false),
        (b"BASELINE-CONTROL x", false, false),
        (b"FETCH x", false, false),
        (b"get /", false, true),
        (b"\r\nget", false, true),
        (b"hello", false, true),
    ] {
        let mut reader = Reader::new(MOST);
        assert_eq!(reader.look(first), None, "{first:?}");
        assert_eq!(reader.begins_like_a_request(), begins_like_one, "{first:?}");
        assert_eq!(reader.is_hardly_http(), is_hardly_one, "{first:?}");
    }
}

#[test]
fn an_http_server_that_speaks_first_is_recognised() {
    for (first, expected) in [
        (&b"HTTP/1.1 408 Request Timeout\r\n"[..], Some(true)),
        (b"\0\0\x12\x04\0\0\0\0\0\0\x03", Some(true)),
        (b"\0\0\0\x04\0\0\0\0\0", Some(true)),
        (b"\0\0\x11\x04\0\0\0\0\0", Some(false)),
        (b"HTT", None),
        (b"\0\0\x12\x04\0", None),
        (b"", None),
        (b"HTML", Some(false)),
        (b"220 mail.example ESMTP\r\n", Some(false)),
        (b"SSH-2.0-OpenSSH", Some(false)),
        (b"\x4a\0\0\0\x0a8.0.36\0", Some(false)),
    ] {
        assert_eq!(server_speaks_http(first), expected, "{first:?}");
    }
}

fn beginning() -> impl Strategy<Value = Vec<u8>> {
    let known: [&[u8]; 9] = [
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"PURGE http://a/ HTTP/1.0\n",
        b"FETCH  /a  http/1.1\r\n",
        PREFACE,
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PING\r\n",
        b"CONNECT {}\r\n",
        b"\r\n\r\nGET",
        b"\0\0\0\x08",
    ];
    let damaged = (proptest::sample::select(known.to_vec()), any::<(prop::sample::Index, u8)>()).prop_map(
        |(known, (place, byte))| {
            let mut bytes = known.to_vec();
            let place = place.index(bytes.len());
            bytes[place] = byte;
            bytes
        },
    );
    prop_oneof![proptest::collection::vec(any::<u8>(), 0..64), damaged]
}

proptest! {
    /// Holds for bytes that come one by one or all at once, and for any limit of examined bytes.
    #[test]
    fn a_decision_by_a_prefix_is_not_changed_by_more_bytes(
        first in beginning(),
        more in proptest::collection::vec(any::<u8>(), 0..32),
        most in 1_usize..80,
    ) {
        let all = [first, more].concat();
        let (mut decided, mut one_by_one) = (None, Reader::new(most));
        let (mut forgetful, mut held) = (Reader::new(most), BytesMut::new());
        for end in 0..=all.len() {
            let now = Reader::new(most).look(&all[..end]);
            prop_assert_eq!(one_by_one.look(&all[..end]), now, "at {}", end);
            held.extend_from_slice(all.get(end.wrapping_sub(1)..end).unwrap_or_default());
            if decided.is_none() {
                prop_assert_eq!(forgetful.look(&held), now, "at {}", end);
                forgetful.forget(&mut held);
                prop_assert!(held.len() <= PREFACE.len());
            }
            if decided.is_some() {
                prop_assert_eq!(now, decided, "at {}", end);
            }
            decided = now;
        }
        prop_assert!(decided.is_some() || all.len() < most.max(PREFACE.len()), "{} bytes undecided", all.len());
    }
}
