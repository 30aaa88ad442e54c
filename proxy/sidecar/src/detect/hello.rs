//! Reads a TLS ClientHello without taking part in the handshake: which server it names, and whether a Pillion sidecar
//! sent it.
//!
//! RFC 8446 4.1.2 and 5.1, RFC 6066 3 (server name), RFC 7301 (ALPN). The functions are pure. A connection is not
//! refused because its ClientHello cannot be read, so the only error is [`Read::Malformed`].

use std::net::Ipv4Addr;

/// 16 KiB of raw bytes; later bytes are never examined. A ClientHello with post-quantum key shares has less than 3 KiB.
pub const MOST: usize = 16 * 1024;

/// The ALPN protocols of sidecars, as in `pillion_tls::Alpn`.
const OURS: [&[u8]; 3] = [b"pillion-h2", b"pillion-http/1.1", b"pillion-tcp"];

#[derive(Debug, PartialEq, Eq)]
pub struct Hello {
    /// In lower case, without a trailing dot. `None` also where the name is not a DNS name.
    pub server_name: Option<Box<str>>,
    /// Its ALPN offers a protocol that only our sidecars speak.
    pub is_ours: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    Whole(Hello),
    NeedMore,
    Malformed,
}

/// Reads the ClientHello at the start of `records`, the bytes as they came.
pub fn read(records: &[u8]) -> Read {
    match assembled(records.get(..MOST).unwrap_or(records)) {
        Ok(hello) => Read::Whole(hello),
        Err(Fault::Short) if records.len() < MOST => Read::NeedMore,
        Err(_) => Read::Malformed,
    }
}

enum Fault {
    /// The bytes that are there may still become a ClientHello.
    Short,
    Broken,
}

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// RFC 8446, 5.1, allows 2^14 bytes of content; 256 more are accepted because some TLS stacks pad.
const RECORD_MOST: usize = (1 << 14) + 256;

/// Joins the contents of records until the message is complete. Later records are not examined: a client that resumes a
/// session may send early data after its ClientHello, before any answer.
fn assembled(records: &[u8]) -> Result<Hello, Fault> {
    let (mut rest, mut content) = (Cursor(records), Vec::with_capacity(records.len()));
    loop {
        match message(&content) {
            Err(Fault::Short) => content.extend_from_slice(fragment(&mut rest)?),
            whole => return whole.and_then(|body| hello(body).ok_or(Fault::Broken)),
        }
    }
}

/// The part of the next record's content that has come.
fn fragment<'a>(rest: &mut Cursor<'a>) -> Result<&'a [u8], Fault> {
    let (kind, [major, _minor], length) = rest.record_header().ok_or(Fault::Short)?;
    if kind != HANDSHAKE || major != 3 || length == 0 || length > RECORD_MOST {
        return Err(Fault::Broken);
    }
    rest.take(length.min(rest.0.len())).ok_or(Fault::Short)
}

/// The body of the first handshake message, which must be a ClientHello.
fn message(content: &[u8]) -> Result<&[u8], Fault> {
    let mut content = Cursor(content);
    if content.u8().ok_or(Fault::Short)? != CLIENT_HELLO {
        return Err(Fault::Broken);
    }
    match content.u24().ok_or(Fault::Short)? {
        length if length > MOST => Err(Fault::Broken),
        length => content.take(length).ok_or(Fault::Short),
    }
}

fn hello(body: &[u8]) -> Option<Hello> {
    let mut body = Cursor(body);
    let [major, _minor] = body.array()?; // legacy_version: SSL 3 and later
    if major < 3 {
        return None;
    }
    body.take(32)?; // random
    body.vector8()?; // legacy_session_id
    body.vector16()?; // cipher_suites
    body.vector8()?; // legacy_compression_methods
    let (mut name, mut is_ours) = (None, None);
    if body.0.is_empty() {
        return Some(Hello { server_name: None, is_ours: false }); // before TLS 1.2 extensions were optional
    }
    let mut extensions = body.vector16()?;
    while !extensions.0.is_empty() {
        let (kind, mut extension) = (extensions.u16()?, extensions.vector16()?);
        // The server might take another one than we do, so a second one is malformed (RFC 8446, 4.2).
        match kind {
            0 if name.is_none() => name = Some(server_name(extension.vector16()?)?),
            16 if is_ours.is_none() => is_ours = Some(offers_ours(extension.vector16()?)?),
            0 | 16 => return None,
            _ => {}
        }
    }
    Some(Hello { server_name: name.flatten(), is_ours: is_ours.unwrap_or_default() })
}

/// The name of type `host_name`. The outer `None` means that the list is malformed, the inner one that it has no valid DNS
/// name. Two names of this type are malformed (RFC 6066, 3).
#[allow(clippy::option_option)]
fn server_name(mut list: Cursor<'_>) -> Option<Option<Box<str>>> {
    let mut host = None;
    while !list.0.is_empty() {
        let (kind, name) = (list.u8()?, list.vector16()?);
        match kind {
            0 if host.is_none() => host = Some(dns_name(name.0)),
            0 => return None,
            _ => {}
        }
    }
    Some(host.flatten())
}

/// Checks a DNS name. IP addresses are not allowed as server names (RFC 6066, 3).
fn dns_name(name: &[u8]) -> Option<Box<str>> {
    let name = str::from_utf8(name.strip_suffix(b".").unwrap_or(name)).ok()?;
    let is_name = name.len() <= 253 && name.split('.').all(is_label) && name.parse::<Ipv4Addr>().is_err();
    is_name.then(|| name.to_ascii_lowercase().into_boxed_str())
}

/// Whether a label is valid by RFC 1123, 2.1. Underscores are allowed too, because real names have them.
fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

fn offers_ours(mut list: Cursor<'_>) -> Option<bool> {
    let mut ours = false;
    while !list.0.is_empty() {
        let name = list.vector8()?;
        ours |= OURS.contains(&name.0);
    }
    Some(ours)
}

/// The bytes that are left to read. Every method returns `None` where too few are left.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<usize> {
        self.array().map(|bytes| usize::from(u16::from_be_bytes(bytes)))
    }

    fn u24(&mut self) -> Option<usize> {
        self.array().map(|[a, b, c]| usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c))
    }

    fn vector8(&mut self) -> Option<Self> {
        let length = self.u8()?;
        self.take(length.into()).map(Self)
    }

    fn vector16(&mut self) -> Option<Self> {
        let length = self.u16()?;
        self.take(length).map(Self)
    }

    /// The content type, version and length of a record.
    fn record_header(&mut self) -> Option<(u8, [u8; 2], usize)> {
        let header: [u8; 5] = self.array()?;
        let [kind, major, minor, high, low] = header;
        Some((kind, [major, minor], usize::from(u16::from_be_bytes([high, low]))))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::ClientConnection;
    use rustls::pki_types::ServerName;

    use super::*;
    use pillion_tls::{Alpn, provider};

    /// The ClientHello that rustls sends.
    fn real(name: &'static str, alpn: &[&str]) -> Vec<u8> {
        let mut config = rustls::ClientConfig::builder_with_provider(provider::any().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(name).unwrap();
        let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes).unwrap();
        bytes
    }

    fn whole(name: Option<&str>, is_ours: bool) -> Read {
        Read::Whole(Hello { server_name: name.map(Into::into), is_ours })
    }

    /// The message of `hello` in records of `size` bytes.
    fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
        let record = |part: &[u8]| {
            let length = u16::try_from(part.len()).unwrap().to_be_bytes();
            [&[22, 3, 1][..], &length, part].concat()
        };
        hello[5..].chunks(size).flat_map(record).collect()
    }

    #[test]
    fn names_and_offers_are_read() {
        for (name, alpn, expected) in [
            ("Orders.Shop", &["h2", "http/1.1"][..], whole(Some("orders.shop"), false)),
            ("orders", &["pillion-tcp"][..], whole(Some("orders"), true)),
            ("orders", &["h2", "pillion-h2"][..], whole(Some("orders"), true)),
            ("192.0.2.1", &[][..], whole(None, false)),
        ] {
            assert_eq!(read(&real(name, alpn)), expected, "{name} {alpn:?}");
        }
    }

    #[test]
    fn our_own_protocols_are_those_of_tls() {
        let ours: Vec<&[u8]> =
            Alpn::ALL.iter().filter(|alpn| alpn.is_sidecar()).map(|alpn| alpn.name().as_bytes()).collect();
        assert_eq!(OURS.to_vec(), ours);
    }

    #[test]
    fn a_hello_without_extensions_of_an_old_client_is_read() {
        let body = [&[3, 0][..], &[7; 32], &[0], &[0, 2, 0, 5], &[1, 0]].concat();
        let message = [&[1, 0, 0, u8::try_from(body.len()).unwrap()][..], &body].concat();
        let record = [&[22, 3, 0, 0, u8::try_from(message.len()).unwrap()][..], &message].concat();
        assert_eq!(read(&record), whole(None, false));
    }

    /// An extensions block around one name, as `server_name` carries it.
    fn named(name: &[u8]) -> Vec<u8> {
        let length = u8::try_from(name.len()).unwrap();
        let list = [&[0, 0, length][..], name].concat();
        [&[0, 0, 0, length + 5, 0, length + 3][..], &list].concat()
    }

    /// A TLS 1.2 hello with these extensions, in one record.
    fn made(extensions: &[u8]) -> Vec<u8> {
        let length = u16::try_from(extensions.len()).unwrap().to_be_bytes();
        let body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0], &length, extensions].concat();
        let length = u16::try_from(body.len()).unwrap();
        let [high, low] = (length + 4).to_be_bytes();
        [&[22, 3, 1, high, low, 1, 0][..], &length.to_be_bytes(), &body].concat()
    }

    #[test]
    fn a_server_name_that_is_not_a_dns_name_is_left_out() {
        let long = [b'a'; 64];
        for name in [
            &b""[..],
            b".",
            b"a..b",
            b"a b",
            b"\xc3\xa4.shop",
            b"192.0.2.1",
            b"::1",
            b"-a.shop",
            b"a-.shop",
            &long,
        ] {
            assert_eq!(read(&made(&named(name))), whole(None, false), "{name:?}");
        }
        for (name, expected) in
            [(&b"Orders.Shop."[..], "orders.shop"), (b"_a-b.1", "_a-b.1"), (&long[..63], &"a".repeat(63))]
        {
            assert_eq!(read(&made(&named(name))), whole(Some(expected), false));
        }
    }

    /// The service is chosen by the name, and a server that takes the other one of two would be another service.
    #[test]
    fn a_hello_that_names_two_servers_is_malformed() {
        let (one, two) = (named(b"one.shop"), named(b"two.shop"));
        let protocols = |name: &[u8]| {
            let length = u8::try_from(name.len()).unwrap();
            [&[0, 16, 0, length + 3, 0, length + 1, length][..], name].concat()
        };
        let names = |kind: u8| [&[0, 0, 0, 15, 0, 13, kind, 0, 3][..], b"one", &[0, 0, 4], b"two."].concat();
        assert_eq!(read(&made(&[&one[..], &two].concat())), Read::Malformed);
        assert_eq!(read(&made(&[protocols(b"h2"), protocols(b"pillion-tcp")].concat())), Read::Malformed);
        assert_eq!(read(&made(&names(0))), Read::Malformed);
        assert_eq!(read(&made(&names(1))), whole(Some("two"), false), "one name, and another kind of it");
    }

    /// Early data may come with the ClientHello, and must not hide the server name.
    #[test]
    fn bytes_after_a_complete_hello_are_not_judged() {
        let hello = real("orders.shop", &["pillion-tcp"]);
        let early = [20, 3, 3, 0, 1, 1, 23, 3, 3, 0, 9, 1, 2];
        let sent = [&hello[..], &early].concat();
        for most in 0..=sent.len() {
            let expected = if most < hello.len() { Read::NeedMore } else { whole(Some("orders.shop"), true) };
            assert_eq!(read(&sent[..most]), expected, "{most} bytes");
        }
        let much = [&hello[..], &[0; MOST]].concat();
        assert_eq!(read(&much), whole(Some("orders.shop"), true));
    }

    /// The result does not depend on the pieces in which the bytes come.
    #[test]
    fn a_hello_beyond_the_bound_is_malformed_even_when_whole() {
        let padding = |length: u16| [&[0, 21][..], &length.to_be_bytes(), &vec![0; length.into()]].concat();
        let spare = MOST - made(&padding(0)).len();
        let fits = made(&padding(u16::try_from(spare).unwrap()));
        let beyond = made(&padding(u16::try_from(spare + 1).unwrap()));
        assert_eq!((fits.len(), read(&fits)), (MOST, whole(None, false)));
        assert_eq!(read(&beyond[..MOST - 1]), Read::NeedMore);
        assert_eq!(read(&beyond[..MOST]), Read::Malformed);
        assert_eq!(read(&beyond), Read::Malformed);
    }

    #[test]
    fn versions_before_ssl_3_are_malformed() {
        let mut hello = made(&named(b"orders"));
        hello[9] = 2;
        assert_eq!(read(&hello), Read::Malformed);
    }

    #[test]
    fn bytes_that_cannot_become_a_hello_are_malformed_at_once() {
        for bytes in [
            &b"\x17\x03\x03\x00\x05"[..],
            b"\x16\x02\x00\x00\x05",
            b"\x16\x03\x01\x00\x00",
            b"\x16\x03\x01\x00\x05\x02",
        ] {
            assert_eq!(read(bytes), Read::Malformed, "{bytes:?}");
        }
        let endless = [&[22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff][..], &[0; MOST]].concat();
        assert_eq!(read(&endless), Read::Malformed, "longer than any hello");
    }

    proptest! {
        #[test]
        fn any_prefix_in_any_fragments_needs_more(size in 1_usize..600, cut in 0.0_f64..1.0) {
            let hello = real("orders.shop", &["pillion-h2", "h2"]);
            let records = in_records(&hello, size);
            if records.len() < MOST {
                prop_assert_eq!(read(&records), whole(Some("orders.shop"), true));
                let cut = (records.len() as f64 * cut) as usize;
                prop_assert_eq!(read(&records[..cut]), Read::NeedMore);
            }
        }

        #[test]
        fn no_bytes_cause_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _: Read = read(&bytes);
            let _: Read = read(&[&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc][..], &bytes].concat());
        }

        #[test]
        fn a_damaged_hello_causes_no_panic_and_more_bytes_do_not_change_the_verdict(
            places in proptest::collection::vec((0_usize..2000, any::<u8>()), 1..8),
            size in 1_usize..600,
        ) {
            let mut hello = in_records(&real("orders.shop", &["h2"]), size);
            for (place, byte) in places {
                let place = place % hello.len();
                hello[place] = byte;
            }
            let last = read(&hello);
            let first = (0..hello.len()).step_by(7).map(|most| read(&hello[..most])).find(|read| *read != Read::NeedMore);
            prop_assert!(first.is_none_or(|first| first == last), "more bytes changed the verdict to {:?}", last);
        }
    }
}
