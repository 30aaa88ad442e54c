//! What requests are hashed by, for the balancers `ring_hash` and `maglev`.
//!
//! Pure. The hash is FNV-1a of 64 bits over the key's bytes, followed by the finaliser of splitmix64. It must never
//! change: all sidecars of a mesh, in all versions, have to choose the same endpoint for the same key.

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::time::Duration;

use http::{HeaderValue, Uri};
use pillion_http::message::Headers;
use pillion_model::cluster::HashKey;

/// The hash of the key of a request or connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyHash(NonZeroU64);

impl KeyHash {
    pub fn of(key: &[u8]) -> Self {
        Self(NonZeroU64::new(hash(key)).unwrap_or(NonZeroU64::MIN))
    }

    /// The hash of a request's key. `None`: the request has no key. `uri` is the request's target, and `client` its
    /// client's address.
    pub fn of_request(key: &HashKey, headers: &Headers, uri: &Uri, client: IpAddr) -> Option<Self> {
        match key {
            HashKey::Header(name) => headers.named(name).find(|value| !value.is_empty()).map(Self::of),
            HashKey::Cookie { name, .. } => cookie(headers, name.as_bytes()).map(Self::of),
            HashKey::Source => Some(Self::of_client(client)),
            HashKey::Path => Some(Self::of(uri.path().as_bytes())),
        }
    }

    /// The hash of a client's address. IPv4 in IPv6 (`::ffff:10.0.0.1`) counts as IPv4.
    pub fn of_client(client: IpAddr) -> Self {
        Self::of(client.to_canonical().to_string().as_bytes())
    }

    /// A new cookie for a client that has none, and the hash of its value. The client that sends it back comes to the
    /// same endpoint. `None`: the name cannot stand in a header.
    pub fn issue(name: &str, ttl: Option<Duration>, random: u64) -> Option<(HeaderValue, Self)> {
        let value = format!("{random:016x}");
        let age = ttl.map(|ttl| format!("Max-Age={}; ", ttl.as_secs())).unwrap_or_default();
        let cookie = HeaderValue::try_from(format!("{name}={value}; {age}Path=/; HttpOnly")).ok()?;
        Some((cookie, Self::of(value.as_bytes())))
    }

    pub(super) const fn get(self) -> u64 {
        self.0.get()
    }
}

/// The value of a cookie. The first one that is not empty counts; HTTP/2 may divide cookies over several fields.
fn cookie<'h>(headers: &'h Headers, name: &[u8]) -> Option<&'h [u8]> {
    let pairs = headers.named("cookie").flat_map(|field| field.split(|byte| *byte == b';'));
    let values = pairs.filter_map(|pair| pair.trim_ascii().strip_prefix(name)?.strip_prefix(b"="));
    values.into_iter().find(|value| !value.is_empty())
}

/// FNV-1a, finished by [`mix`], because similar keys have similar upper bits after FNV alone.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    mix(bytes.iter().fold(OFFSET, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME)))
}

/// The finaliser of splitmix64.
pub(super) const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The number `nth` of the sequence that belongs to a seed: splitmix64.
pub(super) const fn nth(seed: u64, nth: u64) -> u64 {
    mix(seed.wrapping_add(nth.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// A hash as a number from 0 to below 1.
pub(super) const fn unit(hash: u64) -> f64 {
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use http::header::{COOKIE, HeaderName};

    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 2, 3));

    /// The fields of a request, by their names.
    type Written = &'static [(&'static str, &'static str)];

    fn headers(fields: Written) -> Headers {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let mut map = HeaderMap::new();
        for (name, value) in fields.iter().map(field) {
            map.append(name, value);
        }
        Headers::Map(map)
    }

    fn key_of(key: &HashKey, fields: Written, target: &str) -> Option<KeyHash> {
        KeyHash::of_request(key, &headers(fields), &target.parse().expect("a target"), CLIENT)
    }

    #[test]
    fn the_hash_of_a_key_never_changes() {
        // Computed with another implementation of both functions. Another value moves the clients of a mesh whose sidecars
        // have different versions.
        assert_eq!(hash(b""), 0xf52a_15e9_a9b5_e89b);
        assert_eq!(hash(b"alice"), 0xc5d1_556d_6677_4a5c);
        assert_eq!(hash(b"10.0.0.1:80"), 0xdbbc_907f_2153_1a73);
    }

    #[test]
    fn a_request_is_hashed_by_what_its_key_names() {
        let sid = HashKey::Cookie { name: "sid".into(), ttl: None };
        let user = HashKey::Header("x-user".into());
        let table: [(&HashKey, Written, &str, Option<&str>); 10] = [
            (&user, &[("x-user", "")], "/", None),
            (&user, &[("x-user", "alice"), ("x-user", "bob")], "/", Some("alice")),
            (&user, &[("x-other", "alice")], "/", None),
            (&sid, &[("cookie", "a=1; sid=s1; sid=s2")], "/", Some("s1")),
            (&sid, &[("cookie", "a=1"), ("cookie", "sid=s1")], "/", Some("s1")),
            (&sid, &[("cookie", "xsid=s1; sidx=s2; sid=")], "/", None),
            (&sid, &[], "/", None),
            (&HashKey::Path, &[], "/a/b?c=d", Some("/a/b")),
            (&HashKey::Path, &[], "http://orders/a", Some("/a")),
            (&HashKey::Source, &[], "/", Some("10.1.2.3")),
        ];
        for (key, fields, target, expected) in table {
            let expected = expected.map(|text| KeyHash::of(text.as_bytes()));
            assert_eq!(key_of(key, fields, target), expected, "{key:?} {fields:?} {target}");
        }
        let mapped = "::ffff:10.1.2.3".parse().expect("an address");
        assert_eq!(KeyHash::of_client(mapped), KeyHash::of_client(CLIENT));
    }

    #[test]
    fn a_cookie_that_is_sent_back_has_the_hash_with_which_it_was_issued() {
        let key = HashKey::Cookie { name: "sid".into(), ttl: None };
        let (cookie, hash) = KeyHash::issue("sid", None, 7).expect("a valid name");
        assert_eq!(cookie, "sid=0000000000000007; Path=/; HttpOnly");
        let mut map = HeaderMap::new();
        map.insert(COOKIE, HeaderValue::from_static("theme=dark; sid=0000000000000007"));
        let target = Uri::from_static("/");
        assert_eq!(KeyHash::of_request(&key, &Headers::Map(map), &target, CLIENT), Some(hash));
        let (cookie, _) = KeyHash::issue("sid", Some(Duration::from_secs(3600)), 7).expect("a valid name");
        assert_eq!(cookie, "sid=0000000000000007; Max-Age=3600; Path=/; HttpOnly");
    }
}
