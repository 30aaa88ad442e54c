//! Reads a TLS ClientHello without taking part in the handshake: which server it names, and whether one of our own
//! sidecars sent it.
//!
//! RFC 8446 4.1.2 and 5.1, RFC 6066 3 (server name), RFC 7301 (ALPN). Pure; what cannot be read is no reason to
//! refuse a connection, so there is no error but [`Read::Malformed`].

/// Raw bytes at most. Hellos with post-quantum key shares have under 3 KiB.
pub(crate) const MOST: usize = 16 * 1024;

/// What `tls::Alpn` calls a sidecar's.
const OURS: [&[u8]; 3] = [b"pillion-h2", b"pillion-http/1.1", b"pillion-tcp"];

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    /// Lower case, without a trailing dot; only what is a DNS name.
    pub(crate) server_name: Option<Box<str>>,
    /// Its ALPN offers a protocol that only our sidecars speak.
    pub(crate) is_ours: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Whole(Hello),
    NeedMore,
    Malformed,
}

/// Reads the ClientHello at the start of `records`, the bytes as they came.
pub(crate) fn read(records: &[u8]) -> Read {
    match message(records) {
        Ok(body) => hello(&body).map_or(Read::Malformed, Read::Whole),
        Err(Broken) => Read::Malformed,
    }
    .or_need_more(records)
}

impl Read {
    fn or_need_more(self, records: &[u8]) -> Self {
        match self {
            Self::Malformed if is_short(records) && records.len() < MOST => Self::NeedMore,
            read => read,
        }
    }
}

struct Broken;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// RFC 8446, 5.1: 2^14 bytes of content; some stacks pad.
const RECORD_MOST: usize = (1 << 14) + 256;

/// The handshake bytes of the records that are whole, and of the one that is not.
fn content(records: &[u8]) -> Result<Vec<u8>, Broken> {
    let (mut rest, mut content) = (Cursor(records), Vec::new());
    while let Some((kind, [major, _minor], length)) = rest.record_header() {
        if kind != HANDSHAKE || major != 3 || length == 0 || length > RECORD_MOST {
            return Err(Broken);
        }
        let present = length.min(rest.0.len());
        content.extend_from_slice(rest.take(present).unwrap_or_default());
    }
    Ok(content)
}

/// The body of the first handshake message, when it is whole and a ClientHello.
fn message(records: &[u8]) -> Result<Vec<u8>, Broken> {
    let content = content(records)?;
    let mut cursor = Cursor(&content);
    let (kind, length) = cursor.u8().zip(cursor.u24()).ok_or(Broken)?;
    match kind {
        CLIENT_HELLO => cursor.take(length).map(<[u8]>::to_vec).ok_or(Broken),
        _ => Err(Broken),
    }
}

/// Whether more bytes may make it a ClientHello: nothing that is there contradicts it.
fn is_short(records: &[u8]) -> bool {
    let Ok(content) = content(records) else { return false };
    let mut cursor = Cursor(&content);
    let kind_fits = cursor.u8().is_none_or(|kind| kind == CLIENT_HELLO);
    kind_fits && cursor.u24().is_none_or(|length| length <= MOST && cursor.0.len() < length)
}

fn hello(body: &[u8]) -> Option<Hello> {
    let mut body = Cursor(body);
    body.take(2)?; // legacy_version
    body.take(32)?; // random
    body.vector8()?; // legacy_session_id
    body.vector16()?; // cipher_suites
    body.vector8()?; // legacy_compression_methods
    let mut hello = Hello { server_name: None, is_ours: false };
    if body.0.is_empty() {
        return Some(hello); // before TLS 1.2 extensions were optional
    }
    let mut extensions = body.vector16()?;
    while !extensions.0.is_empty() {
        let (kind, mut extension) = (extensions.u16()?, extensions.vector16()?);
        match kind {
            0 => hello.server_name = server_name(extension.vector16()?)?,
            16 => hello.is_ours = offers_ours(extension.vector16()?)?,
            _ => {}
        }
    }
    Some(hello)
}

/// The first name of type `host_name`. `None` outside: the list is broken; inside: no name that is one.
#[allow(clippy::option_option)]
fn server_name(mut list: Cursor<'_>) -> Option<Option<Box<str>>> {
    while !list.0.is_empty() {
        let (kind, name) = (list.u8()?, list.vector16()?);
        if kind == 0 {
            return Some(dns_name(name.0));
        }
    }
    Some(None)
}

fn dns_name(name: &[u8]) -> Option<Box<str>> {
    let name = name.strip_suffix(b".").unwrap_or(name);
    let is_label = |label: &[u8]| {
        !label.is_empty()
            && label.len() <= 63
            && label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let is_name = name.len() <= 253 && name.split(|byte| *byte == b'.').all(is_label);
    let lower = name.to_ascii_lowercase();
    is_name.then(|| String::from_utf8(lower).ok().map(String::into_boxed_str)).flatten()
}

fn offers_ours(mut list: Cursor<'_>) -> Option<bool> {
    let mut ours = false;
    while !list.0.is_empty() {
        let name = list.vector8()?;
        ours |= OURS.contains(&name.0);
    }
    Some(ours)
}

/// What is left to read; every step may find too little.
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

    /// Content type, version and length of a record.
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
    use crate::tls::{Alpn, provider};

    /// What rustls itself would send.
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

    /// The same message in records of `size` bytes.
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
    fn a_hello_of_old_without_extensions_is_one() {
        let body = [&[3, 0][..], &[7; 32], &[0], &[0, 2, 0, 5], &[1, 0]].concat();
        let message = [&[1, 0, 0, u8::try_from(body.len()).unwrap()][..], &body].concat();
        let record = [&[22, 3, 0, 0, u8::try_from(message.len()).unwrap()][..], &message].concat();
        assert_eq!(read(&record), whole(None, false));
    }

    #[test]
    fn what_contradicts_a_hello_is_malformed_at_once() {
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
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _: Read = read(&bytes);
            let _: Read = read(&[&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc][..], &bytes].concat());
        }

        #[test]
        fn a_damaged_hello_is_survived(places in proptest::collection::vec((0_usize..2000, any::<u8>()), 1..8)) {
            let mut hello = real("orders.shop", &["h2"]);
            for (place, byte) in places {
                let place = place % hello.len();
                hello[place] = byte;
            }
            let _: Read = read(&hello);
        }
    }
}
