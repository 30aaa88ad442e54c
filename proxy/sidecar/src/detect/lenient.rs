//! Tests that bytes which one of four HTTP servers would read as a request are never detected as opaque.

use pillion_testkit::lenient::SERVERS;
use proptest::prelude::*;

use super::bytes::{LooksLike, Reader};

/// `limits.header_bytes` of the tests.
const MOST: usize = 64 * 1024;

/// Lines that are nearly HTTP, made of parts that servers are known to read differently.
fn nearly_http() -> impl Strategy<Value = Vec<u8>> {
    let leads: [&[u8]; 8] = [b"", b"", b"", b"\r\n", b"\r\r\n", b" ", b"\x0b", b"\xa0"];
    let methods: [&[u8]; 18] = [
        b"GET",
        b"GET",
        b"get",
        b"PURGE",
        b"FETCH",
        b"CONNECT",
        b"SOURCE",
        b"DESCRIBE",
        b"A",
        b"X_Y",
        b"GET-X",
        b"M-SEARCH",
        b"POST",
        b"PRI",
        b"QUERY",
        b"0",
        b"\xc9T\xc9",
        b"hello",
    ];
    let gaps: [&[u8]; 10] = [b" ", b" ", b" ", b"  ", b"\t", b"\x1c", b"\r", b"\xa0", b" \r", b""];
    let targets: [&[u8]; 16] = [
        b"/a",
        b"/a",
        b"/a",
        b"*",
        b"http://a/",
        b"key",
        b"a:1",
        b"{\"a\":1}",
        b"/\0",
        b"/\x01",
        b"/ b",
        b"",
        b"HTTP/",
        b"[::1]:1",
        b"/\xc3\xa4",
        b"?x",
    ];
    let versions: [&[u8]; 10] = [
        b"HTTP/1.1",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"HTTP/2.0",
        b"http/1.1",
        b"HTTP/0.9",
        b"RTSP/1.0",
        b"ICE/1.0",
        b"HTTP/1.1x",
        b"",
    ];
    let ends: [&[u8]; 7] = [b"\r\n", b"\r\n", b"\n", b" \r\n", b"\r", b"\t\n", b""];
    let one = |of: &[&'static [u8]]| proptest::sample::select(of.to_vec());
    let pieces =
        (one(&leads), one(&methods), one(&gaps), one(&targets), one(&gaps), one(&versions), one(&ends));
    let damage = proptest::option::weighted(0.2, any::<(prop::sample::Index, u8)>());
    (pieces, damage).prop_map(|((lead, method, gap, target, second_gap, version, end), damage)| {
        let mut line = [lead, method, gap, target, second_gap, version, end].concat();
        if let Some((place, byte)) = damage {
            let place = place.index(line.len());
            line[place] = byte;
        }
        line.extend_from_slice(b"host: a\r\n\r\n");
        line
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Checked with all bytes, after each byte, and where the connection ends after a part of them.
    #[test]
    fn a1_what_one_of_four_servers_reads_as_http_is_never_opaque(all in nearly_http(), cut in any::<prop::sample::Index>()) {
        let cut = &all[..=cut.index(all.len())];
        for (server, reads) in SERVERS {
            if reads(&all) {
                for end in 0..=all.len() {
                    let found = Reader::new(MOST).look(&all[..end]);
                    prop_assert_ne!(found, Some(LooksLike::Opaque), "{} reads it, {} bytes", server, end);
                }
            }
            if reads(cut) {
                prop_assert_ne!(Reader::new(MOST).look_at_all(cut), LooksLike::Opaque, "{} reads all of it", server);
            }
        }
    }
}
