//! What the fields of a head are to a proxy, told by their names.

use http::HeaderMap;
use pillion_http1::{Fields, Known, Names};

use crate::message::Headers;

/// What a message's headers hold that concerns a proxy, found in one pass: nothing is looked up by name that is
/// not there. A look-up hashes the name, which costs as much as looking at three names here. A set in one word, for it
/// travels with every call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen(u32);

impl Seen {
    pub const CONNECTION: Self = Self(1);
    pub const KEEP_ALIVE: Self = Self(1 << 1);
    pub const PROXY_CONNECTION: Self = Self(1 << 2);
    pub const TE: Self = Self(1 << 3);
    pub const TRANSFER_ENCODING: Self = Self(1 << 4);
    pub const UPGRADE: Self = Self(1 << 5);
    /// Any of the fields that concern this connection alone: all of the above.
    pub const HOP_BY_HOP: Self = Self((1 << 6) - 1);
    pub const CONTENT_LENGTH: Self = Self(1 << 6);
    pub const CONTENT_TYPE: Self = Self(1 << 7);
    pub const COOKIE: Self = Self(1 << 8);
    pub const EXPECT: Self = Self(1 << 9);
    pub const REQUEST_ID: Self = Self(1 << 10);
    pub const IDEMPOTENCY_KEY: Self = Self(1 << 11);
    pub const GRPC_STATUS: Self = Self(1 << 12);
    pub const FORWARDED_PROTO: Self = Self(1 << 13);
    pub const FORWARDED_HOST: Self = Self(1 << 14);
    /// `x-pillion-via`, in this spelling.
    pub const VIA: Self = Self(1 << 15);
    /// `x-pillion-…` besides, in any spelling.
    pub const OURS: Self = Self(1 << 16);
    /// Would claim an identity, in any spelling.
    pub const FORGED: Self = Self(1 << 17);
    /// Another spelling of a name that we set or remove.
    pub const DISGUISED: Self = Self(1 << 18);
    const NOTHING: Self = Self(0);

    pub fn of(headers: &Headers) -> Self {
        match headers {
            Headers::Text(fields) => Self::in_fields(fields),
            Headers::Map(map) => Self::in_map(map),
        }
    }

    pub(crate) fn in_map(map: &HeaderMap) -> Self {
        map.keys().fold(Self::NOTHING, |seen, name| Self(seen.0 | Self::of_name(name.as_str()).0))
    }

    /// The same of fields as they were read: names that are known are told by a bit, and others compared.
    fn in_fields(fields: &Fields) -> Self {
        let seen = fields.seen();
        let known = KNOWN.iter().filter(|(names, _)| seen.has_any(*names));
        let known = known.fold(Self::NOTHING, |all, (_, what)| Self(all.0 | what.0));
        let others = fields.iter_known().filter(|(known, ..)| known.is_none());
        others.fold(known, |all, (_, name, _)| Self(all.0 | Self::of_other(name).0))
    }

    /// Whether any of `these` is there.
    pub const fn has(self, these: Self) -> bool {
        self.0 & these.0 != 0
    }

    fn of_name(name: &str) -> Self {
        match name {
            "connection" => Self::CONNECTION,
            "keep-alive" => Self::KEEP_ALIVE,
            "proxy-connection" => Self::PROXY_CONNECTION,
            "te" => Self::TE,
            "transfer-encoding" => Self::TRANSFER_ENCODING,
            "upgrade" => Self::UPGRADE,
            "content-length" => Self::CONTENT_LENGTH,
            "content-type" => Self::CONTENT_TYPE,
            "cookie" => Self::COOKIE,
            "expect" => Self::EXPECT,
            "x-request-id" => Self::REQUEST_ID,
            "idempotency-key" => Self::IDEMPOTENCY_KEY,
            "grpc-status" => Self::GRPC_STATUS,
            "x-forwarded-proto" => Self::FORWARDED_PROTO,
            "x-forwarded-host" => Self::FORWARDED_HOST,
            "x-pillion-via" => Self::VIA,
            name => Self::of_other(name.as_bytes()),
        }
    }

    /// Of a name that is none of the above.
    fn of_other(name: &[u8]) -> Self {
        match name {
            name if claims_identity(name) => Self::FORGED,
            name if is_ours(name) => Self::OURS,
            name if is_disguised(name) => Self::DISGUISED,
            _ => Self::NOTHING,
        }
    }
}

/// What the names are that the engine knows.
const KNOWN: [(Names, Seen); 18] = [
    (Names::of(&[Known::Connection]), Seen::CONNECTION),
    (Names::of(&[Known::KeepAlive]), Seen::KEEP_ALIVE),
    (Names::of(&[Known::ProxyConnection]), Seen::PROXY_CONNECTION),
    (Names::of(&[Known::Te]), Seen::TE),
    (Names::of(&[Known::TransferEncoding]), Seen::TRANSFER_ENCODING),
    (Names::of(&[Known::Upgrade]), Seen::UPGRADE),
    (Names::of(&[Known::ContentLength]), Seen::CONTENT_LENGTH),
    (Names::of(&[Known::ContentType]), Seen::CONTENT_TYPE),
    (Names::of(&[Known::Cookie]), Seen::COOKIE),
    (Names::of(&[Known::Expect]), Seen::EXPECT),
    (Names::of(&[Known::XRequestId]), Seen::REQUEST_ID),
    (Names::of(&[Known::IdempotencyKey]), Seen::IDEMPOTENCY_KEY),
    (Names::of(&[Known::GrpcStatus]), Seen::GRPC_STATUS),
    (Names::of(&[Known::XForwardedProto]), Seen::FORWARDED_PROTO),
    (Names::of(&[Known::XForwardedHost]), Seen::FORWARDED_HOST),
    (Names::of(&[Known::XPillionVia]), Seen::VIA),
    (Names::of(&[Known::XPillionAttempt, Known::XPillionRefused, Known::XPillionReason]), Seen::OURS),
    (Names::of(&[Known::XForwardedClientCert]), Seen::FORGED),
];

/// Only our own sidecars may say these, and only to each other.
pub fn is_ours(name: &[u8]) -> bool {
    const PREFIX: &str = "x-pillion-";
    name.get(..PREFIX.len()).is_some_and(|start| reads_as(start, PREFIX))
}

/// Would claim who calls.
pub fn claims_identity(name: &[u8]) -> bool {
    const NAMES: [&str; 3] = ["x-forwarded-client-cert", "client-cert", "client-cert-chain"];
    NAMES.into_iter().any(|known| reads_as(name, known))
}

/// Whether an application might take `name` for another one that we set or remove, and so read what a caller chose
/// where it expects what we say.
pub fn is_disguised(name: &[u8]) -> bool {
    let known: &[&str] = match name.len() {
        10 => &["keep-alive"],
        12 => &["x-request-id", "grpc-timeout"],
        14 => &["content-length"],
        15 => &["x-forwarded-for"],
        16 => &["x-forwarded-host", "proxy-connection"],
        17 => &["x-forwarded-proto", "transfer-encoding"],
        _ => return false, // most names end here: one comparison for each
    };
    known.iter().any(|known| !name.eq_ignore_ascii_case(known.as_bytes()) && reads_as(name, known))
}

/// Whether some application would read `name` as `known`. CGI, WSGI, PHP and their like make one underscore of `-`
/// and `_`, some of them also of `.` and every other sign, and no case.
fn reads_as(name: &[u8], known: &str) -> bool {
    let is_sign = |byte: u8| !byte.is_ascii_alphanumeric();
    let same =
        |(byte, known): (&u8, u8)| byte.to_ascii_lowercase() == known || (known == b'-' && is_sign(*byte));
    name.len() == known.len() && name.iter().zip(known.bytes()).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn seen(name: &'static str) -> Seen {
        let field = (HeaderName::from_static(name), HeaderValue::from_static("1"));
        Seen::in_map(&HeaderMap::from_iter([field]))
    }

    #[test]
    fn a11_every_spelling_of_a_name_that_is_ours_to_say_is_known() {
        for name in
            ["x_pillion_attempt", "x-pillion_via", "x_pillion-refused", "x.pillion.via", "x-pillion-anything"]
        {
            assert!(is_ours(name.as_bytes()), "{name}");
        }
        for name in ["x_forwarded_client_cert", "x-forwarded_client-cert", "client_cert", "client.cert-chain"]
        {
            assert!(claims_identity(name.as_bytes()), "{name}");
        }
        for name in [
            "x_forwarded_for",
            "x-forwarded_for",
            "x.forwarded.for",
            "x_forwarded_host",
            "x_forwarded_proto",
            "x_request_id",
            "x~request!id",
            "content_length",
            "transfer_encoding",
            "proxy_connection",
            "keep_alive",
            "grpc_timeout",
        ] {
            assert!(is_disguised(name.as_bytes()), "{name}");
            assert_eq!(seen(name), Seen::DISGUISED, "{name}");
        }
        for name in [
            "x-forwarded-for",
            "x-request-id",
            "content-length",
            "x-forwarded-fox",
            "x_forwarded_port",
            "user_agent",
            "xforwardedxfor",
            "x-pillions",
            "x_pillion",
        ] {
            let bytes = name.as_bytes();
            assert!(!is_disguised(bytes) && !is_ours(bytes) && !claims_identity(bytes), "{name}");
        }
    }

    #[test]
    fn fields_as_they_were_read_hold_what_their_map_holds() {
        let others = [
            "x_pillion_attempt",
            "x.pillion.anything-that-is-longer-than-any",
            "x_forwarded_client_cert",
            "client-cert",
            "client.cert-chain",
            "x_forwarded_for",
            "proxy_connection",
            "transfer_encoding",
            "x-mine",
            "x-pillions",
            "user_agent",
            "a-name-that-is-longer-than-all-that-are-looked-for",
        ];
        for name in Known::ALL.map(Known::as_str).into_iter().chain(others) {
            for name in [name.to_owned(), name.to_ascii_uppercase()] {
                let mut fields = Fields::default();
                fields.append_named(name.as_bytes(), b"1").unwrap();
                let map = fields.to_map().unwrap();
                assert_eq!(Seen::in_fields(&fields), Seen::in_map(&map), "{name}");
            }
        }
    }

    #[test]
    fn the_exact_name_of_the_passes_is_told_from_its_other_spellings() {
        assert_eq!(seen("x-pillion-via"), Seen::VIA);
        assert_eq!(seen("x_pillion-via"), Seen::OURS);
    }
}
