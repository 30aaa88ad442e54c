//! The limits of heads, and the room for headers that sidecars add.
//!
//! The limits in the configuration are for heads of clients and applications. Between two sidecars a head also has the
//! headers that the first one added, and HTTP/2 counts its size in another way than HTTP/1. Connections of an
//! authenticated sidecar have room for both, so that one sidecar does not refuse a head that the other has accepted.

use http::Request;
use pillion_model::listener::DownstreamLimits;

use pillion_base::error::Error;
use pillion_model::Reason;

/// 10 fields that a sidecar adds to a request (to an answer it adds fewer): `x-request-id`, `x-forwarded-proto`,
/// `x-forwarded-host`, `x-pillion-via`, `x-pillion-attempt`, and those for the other version of HTTP: `host`, a length,
/// `te`, `connection`, `expect`. Over HTTP/2 `x-pillion-case` may be there, but neither `host` nor `connection`.
const SIDECAR_FIELDS: u32 = 10;
/// 2 KiB for the text of these fields. The longest are two host names (255 bytes each), a request ID (128 bytes),
/// `x-pillion-case` (512 bytes) and `x-pillion-via`.
const SIDECAR_BYTES: u32 = 2 * 1024;
/// 32 bytes: what HTTP/2 counts for each field in addition to its text (RFC 9113, 6.5.2). HTTP/1 has 4 (colon, blank,
/// CR LF).
const FIELD_OVERHEAD: u32 = 32;
/// 4 pseudo-fields: `:method`, `:scheme`, `:authority` and `:path`.
const PSEUDO_FIELDS: u32 = 4;
/// 128 KiB for an answer's head: twice Envoy's limit.
const ANSWER_BYTES: u32 = 128 * 1024;
/// HTTP/2 heads are read up to twice their limit, so that the sidecar itself refuses one that is too large. An even
/// larger one is answered by h2, without a reason, a request ID or a count.
const READABLE: u32 = 2;

/// Limits of the heads on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    pub fields: u32,
    /// The bytes of an HTTP/1 head, including the first line.
    pub bytes: u32,
    /// The size of an HTTP/2 head as HTTP/2 counts it.
    pub list_bytes: u32,
}

impl HeadLimits {
    /// The limits for requests. `from_sidecar`: the peer has a verified identity, so it may be a sidecar that has added
    /// headers.
    pub const fn of_requests(limits: &DownstreamLimits, from_sidecar: bool) -> Self {
        Self::of(limits.header_count, limits.header_bytes, from_sidecar)
    }

    /// The limits for answers. `from_sidecar`: the peer is the sidecar of the application, and may have added headers.
    pub const fn of_answers(most_fields: u32, from_sidecar: bool) -> Self {
        Self::of(most_fields, ANSWER_BYTES, from_sidecar)
    }

    const fn of(fields: u32, bytes: u32, from_sidecar: bool) -> Self {
        if !from_sidecar {
            return Self { fields, bytes, list_bytes: bytes };
        }
        let (fields, bytes) = (fields + SIDECAR_FIELDS, bytes + SIDECAR_BYTES);
        Self { fields, bytes, list_bytes: bytes + (fields + PSEUDO_FIELDS) * FIELD_OVERHEAD }
    }

    /// The size up to which HTTP/2 heads are read, to be refused with a reason.
    pub const fn readable_list_bytes(&self) -> u32 {
        self.list_bytes * READABLE
    }

    /// Checks the size of an HTTP/2 head. HTTP/1 heads are checked while they are read.
    pub fn check_http2(&self, fields: usize, list_bytes: usize) -> Result<(), Error> {
        let refused = |detail| Err(Error::new(Reason::HeadersTooLarge, detail));
        if fields > self.fields as usize {
            let most = self.fields;
            return refused(format!(
                "the request has {fields} header fields, more than {most} (limits.header_count)"
            ));
        }
        if list_bytes > self.list_bytes as usize {
            let most = self.list_bytes;
            return refused(format!("the request's head is over {most} bytes (limits.header_bytes)"));
        }
        Ok(())
    }
}

/// The size of a head as RFC 9113, 6.5.2, counts it.
pub fn list_bytes<B>(request: &Request<B>) -> usize {
    const NAMES: usize = ":method:scheme:authority:path".len();
    let overhead = FIELD_OVERHEAD as usize;
    let uri = request.uri();
    let texts = [
        request.method().as_str(),
        uri.scheme_str().unwrap_or_default(),
        uri.authority().map_or("", |authority| authority.as_str()),
        uri.path_and_query().map_or("", |path| path.as_str()),
    ];
    let pseudo = NAMES + texts.iter().map(|text| text.len() + overhead).sum::<usize>();
    pseudo + field_bytes(request.headers())
}

/// The size of the fields of a head as RFC 9113, 6.5.2, counts them.
pub fn field_bytes(fields: &http::HeaderMap) -> usize {
    let field = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        name.as_str().len() + value.len() + FIELD_OVERHEAD as usize
    };
    fields.iter().map(field).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b8_only_a_sidecar_has_room_for_what_it_adds() {
        let limits = DownstreamLimits::default();
        let (client, sidecar) =
            (HeadLimits::of_requests(&limits, false), HeadLimits::of_requests(&limits, true));
        assert_eq!((client.fields, client.bytes, client.list_bytes), (100, 65_536, 65_536));
        assert_eq!((sidecar.fields, sidecar.bytes), (110, 67_584));
        assert_eq!(sidecar.list_bytes, 67_584 + 114 * 32, "a full head of HTTP/1 fits, as HTTP/2 counts it");
    }

    #[test]
    fn b8_the_size_of_a_head_is_counted_as_http2_counts_it() {
        let request =
            http::Request::builder().method("GET").uri("http://orders/a").header("x-a", "bc").body(());
        let expected = 7 + 3 + 32 + 7 + 4 + 32 + 10 + 6 + 32 + 5 + 2 + 32 + 3 + 2 + 32;
        assert_eq!(list_bytes(&request.unwrap()), expected);
    }
}
