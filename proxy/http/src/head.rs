//! How large a head may be, and how much of it is a sidecar's own.
//!
//! The limits of the file count what a client or an application sent. Between two sidecars a head also carries what the
//! first of them added, and HTTP/2 counts it otherwise than HTTP/1: a connection of an authenticated sidecar has room for
//! that, so that what one sidecar let in the other does not refuse.

use http::Request;
use pillion_model::listener::DownstreamLimits;

use pillion_base::error::Error;
use pillion_model::Reason;

/// What a sidecar adds to a request, which is more than it adds to an answer: `x-request-id`, `x-forwarded-proto`,
/// `x-forwarded-host`, `x-pillion-via`, `x-pillion-attempt`, and what the other version of HTTP wants: `host`, a length,
/// `te`, `connection`, `expect`.
const SIDECAR_FIELDS: u32 = 10;
/// Their text. The longest are two names of hosts (255 each), a request id (128) and the list of passes.
const SIDECAR_BYTES: u32 = 2 * 1024;
/// HTTP/2 counts so many bytes for each field beside its text (RFC 9113, 6.5.2), HTTP/1 has four.
const FIELD_OVERHEAD: u32 = 32;
/// `:method`, `:scheme`, `:authority` and `:path`.
const PSEUDO_FIELDS: u32 = 4;
/// Bytes of an answer's head; twice Envoy's limit.
const ANSWER_BYTES: u32 = 128 * 1024;
/// How many times its limit an HTTP/2 head may have, so that we can say ourselves that it is too large. What is larger
/// yet h2 answers by itself, without a reason, a request id or a count.
const READABLE: u32 = 2;

/// Limits of the heads on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    pub fields: u32,
    /// As HTTP/1 has them, the first line included.
    pub bytes: u32,
    /// As HTTP/2 counts them.
    pub list_bytes: u32,
}

impl HeadLimits {
    /// `from_sidecar`: the peer has proven who it is, and may have added to what its client sent.
    pub const fn of_requests(limits: &DownstreamLimits, from_sidecar: bool) -> Self {
        Self::of(limits.header_count, limits.header_bytes, from_sidecar)
    }

    /// `from_sidecar`: the other end is the application's sidecar, and may have added to what its application sent.
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

    /// What HTTP/2 reads at all, to say why it goes no further.
    pub const fn readable_list_bytes(&self) -> u32 {
        self.list_bytes * READABLE
    }

    /// HTTP/1's heads are measured while they are read, HTTP/2's here.
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
            return refused(format!("the request's headers are over {most} bytes (limits.header_bytes)"));
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
    let field =
        |(name, value): (&http::HeaderName, &http::HeaderValue)| name.as_str().len() + value.len() + overhead;
    pseudo + request.headers().iter().map(field).sum::<usize>()
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
    fn b8_a_head_is_measured_as_http2_measures_it() {
        let request =
            http::Request::builder().method("GET").uri("http://orders/a").header("x-a", "bc").body(());
        let expected = 7 + 3 + 32 + 7 + 4 + 32 + 10 + 6 + 32 + 5 + 2 + 32 + 3 + 2 + 32;
        assert_eq!(list_bytes(&request.unwrap()), expected);
    }
}
