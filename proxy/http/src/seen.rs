//! Which kinds of fields a head has, by their names.

use http::HeaderMap;
use pillion_http1::{Fields, Known, Names};

use crate::message::Headers;

/// The fields of a message that concern the proxy, found in one pass, so that no field that is absent is searched. It
/// is small, because every call carries it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// The known names that are there, in exactly this spelling.
    names: Names,
    /// The kinds of the other names.
    others: u8,
}

/// A name `x-pillion-…`, in any spelling.
const OURS: u8 = 1;
const FORGED: u8 = 1 << 1;
const DISGUISED: u8 = 1 << 2;

impl Seen {
    pub const CONNECTION: Self = Self::of_names(&[Known::Connection]);
    pub const TE: Self = Self::of_names(&[Known::Te]);
    pub const TRANSFER_ENCODING: Self = Self::of_names(&[Known::TransferEncoding]);
    pub const UPGRADE: Self = Self::of_names(&[Known::Upgrade]);
    pub const KEEP_ALIVE: Self = Self::of_names(&[Known::KeepAlive]);
    pub const PROXY_CONNECTION: Self = Self::of_names(&[Known::ProxyConnection]);
    /// Any of the fields above, which concern this connection only.
    pub const HOP_BY_HOP: Self = Self::of_names(&[
        Known::Connection,
        Known::Te,
        Known::TransferEncoding,
        Known::Upgrade,
        Known::KeepAlive,
        Known::ProxyConnection,
    ]);
    pub const CONTENT_LENGTH: Self = Self::of_names(&[Known::ContentLength]);
    pub const CONTENT_TYPE: Self = Self::of_names(&[Known::ContentType]);
    pub const COOKIE: Self = Self::of_names(&[Known::Cookie]);
    pub const EXPECT: Self = Self::of_names(&[Known::Expect]);
    pub const REQUEST_ID: Self = Self::of_names(&[Known::XRequestId]);
    pub const TRACEPARENT: Self = Self::of_names(&[Known::Traceparent]);
    pub const TRACESTATE: Self = Self::of_names(&[Known::Tracestate]);
    pub const IDEMPOTENCY_KEY: Self = Self::of_names(&[Known::IdempotencyKey]);
    pub const GRPC_STATUS: Self = Self::of_names(&[Known::GrpcStatus]);
    pub const FORWARDED_PROTO: Self = Self::of_names(&[Known::XForwardedProto]);
    pub const FORWARDED_HOST: Self = Self::of_names(&[Known::XForwardedHost]);
    /// `x-pillion-via`, in this spelling.
    pub const VIA: Self = Self::of_names(&[Known::XPillionVia]);
    /// Another name `x-pillion-…`, in any spelling.
    pub const OURS: Self = Self {
        names: Names::of(&[Known::XPillionAttempt, Known::XPillionRefused, Known::XPillionReason]),
        others: OURS,
    };
    /// A name that claims an identity, in any spelling.
    pub const FORGED: Self = Self { names: Names::of(&[Known::XForwardedClientCert]), others: FORGED };
    /// Another spelling of a name that the sidecar sets or removes.
    pub const DISGUISED: Self = Self { names: Names::of(&[]), others: DISGUISED };

    const fn of_names(names: &[Known]) -> Self {
        Self { names: Names::of(names), others: 0 }
    }

    pub fn of(headers: &Headers) -> Self {
        match headers {
            Headers::Text(fields) => Self::in_fields(fields),
            Headers::Map(map) => Self::in_map(map),
        }
    }

    pub(crate) fn in_map(map: &HeaderMap) -> Self {
        let mut seen = Self::default();
        for name in map.keys().map(|name| name.as_str().as_bytes()) {
            match Known::find_lower(name) {
                Some(known) => seen.names = seen.names.with(Names::of(&[known])),
                None => seen.others |= other(name),
            }
        }
        seen
    }

    /// The reader of a text has already found the known names, so only other names are compared.
    fn in_fields(fields: &Fields) -> Self {
        Self { names: fields.seen(), others: fields.unknown_names().fold(0, |all, name| all | other(name)) }
    }

    pub const fn add(&mut self, these: Self) {
        self.names = self.names.with(these.names);
        self.others |= these.others;
    }

    /// Whether any of `these` is there.
    pub const fn has(self, these: Self) -> bool {
        self.names.has_any(these.names) || self.others & these.others != 0
    }
}

/// The kind of a name that is not known.
fn other(name: &[u8]) -> u8 {
    match name {
        name if claims_identity(name) => FORGED,
        name if is_ours(name) => OURS,
        name if is_disguised(name) => DISGUISED,
        _ => 0,
    }
}

/// Whether only sidecars may send a field with this name, and only to each other.
pub fn is_ours(name: &[u8]) -> bool {
    const PREFIX: &str = "x-pillion-";
    name.get(..PREFIX.len()).is_some_and(|start| reads_as(start, PREFIX))
}

/// Whether a field with this name claims the identity of the caller.
pub fn claims_identity(name: &[u8]) -> bool {
    const NAMES: [&str; 3] = ["x-forwarded-client-cert", "client-cert", "client-cert-chain"];
    NAMES.into_iter().any(|known| reads_as(name, known))
}

/// Whether an application might read `name` as one that the sidecar sets or removes, and so trust a value that the
/// caller chose.
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

/// Whether some application would read `name` as `known`. CGI, WSGI, PHP and others ignore case and turn `-` and `_`
/// into an underscore, and some also turn `.` and every other sign into one.
fn reads_as(name: &[u8], known: &str) -> bool {
    let is_sign = |byte: u8| !byte.is_ascii_alphanumeric();
    let same =
        |(byte, known): (&u8, u8)| byte.to_ascii_lowercase() == known || (known == b'-' && is_sign(*byte));
    name.len() == known.len() && name.iter().zip(known.bytes()).all(same)
}

/// Whether some application reads both names as one, whatever signs they have and in whatever case.
pub fn are_read_alike(one: &[u8], other: &[u8]) -> bool {
    let is_sign = |byte: &u8| !byte.is_ascii_alphanumeric();
    let same = |(one, other): (&u8, &u8)| one.eq_ignore_ascii_case(other) || (is_sign(one) && is_sign(other));
    one.len() == other.len() && one.iter().zip(other).all(same)
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
    fn a11_every_spelling_of_a_name_that_only_the_sidecar_may_send_is_recognised() {
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
            assert!(seen(name).has(Seen::DISGUISED), "{name}");
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
    fn the_same_fields_are_found_in_a_text_and_in_a_map() {
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
    fn x_pillion_via_is_distinguished_from_its_other_spellings() {
        assert!(seen("x-pillion-via").has(Seen::VIA) && !seen("x-pillion-via").has(Seen::OURS));
        assert!(seen("x_pillion-via").has(Seen::OURS) && !seen("x_pillion-via").has(Seen::VIA));
    }
}
