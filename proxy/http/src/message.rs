//! A request and an answer inside a sidecar: a head as it came, and a body.
//!
//! [`Headers`] are held in the form of the connection on which they came, and are converted only where they leave over
//! the other version of HTTP. So a message that comes and leaves over the same version is not converted.

mod headers;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use h2::ext::Protocol;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use pillion_http1::{Lines, Misuse, RequestHead as Asked, ResponseHead as Read, Spelling};

pub use self::headers::{Headers, Implied, remove_if};
use pillion_base::boxed::boxed;
use pillion_base::net::Io;

/// The head of a request.
#[derive(Debug, Clone)]
pub struct RequestHead {
    pub method: Method,
    pub uri: Uri,
    /// The HTTP version of the connection on which the request came.
    pub version: Version,
    pub headers: Headers,
    /// How HTTP/1 writes the names of a map.
    pub spelling: Spelling,
    /// The protocol that an extended CONNECT asks for (RFC 8441).
    pub protocol: Option<Box<Protocol>>,
}

/// The head of an answer.
#[derive(Debug)]
pub struct ResponseHead {
    pub status: StatusCode,
    /// The HTTP version of the connection on which the answer came.
    pub version: Version,
    /// The upstream's reason phrase, if it differs from the usual one of the status.
    pub reason: Option<Bytes>,
    pub headers: Headers,
    /// How HTTP/1 writes the names of a map.
    pub spelling: Spelling,
    /// The tunnel that the request asked for, if the answer opens it.
    pub opened: Option<Box<Opened>>,
}

/// An answer. Its head is boxed, because the answer passes through all layers, and each would move the head.
#[derive(Debug)]
pub struct Response<B> {
    head: Box<ResponseHead>,
    body: B,
}

/// The upstream's half of a tunnel, once its answer has been read. `None`: the tunnel was not opened.
pub type Opening = Pin<Box<dyn Future<Output = Option<Io>> + Send + Sync>>;

/// Carries what runs inside a CONNECT to its end. The side that answers the CONNECT provides it.
pub type Enter = Box<dyn FnOnce(Io) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// The other end of a tunnel that an answer opens.
pub enum Opened {
    /// The endpoint opened the tunnel. `to`: its `Upgrade` header.
    Switched { half: Opening, to: Option<HeaderValue> },
    /// The sidecar itself answers the CONNECT, and carries what runs inside.
    Inside(Enter),
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Switched { .. } => "Switched",
            Self::Inside(_) => "Inside",
        })
    }
}

impl RequestHead {
    /// Makes the head of a request that came over HTTP/1.
    ///
    /// # Errors
    /// The text of a head whose target the engine accepts, but `http::Uri` does not.
    pub fn read(head: Asked) -> Result<Arc<Self>, Bytes> {
        let Ok(uri) = Uri::from_maybe_shared(head.target_bytes()) else {
            return Err(head.fields.text().clone());
        };
        let Asked { method, version, fields, .. } = head;
        let (headers, spelling) = (Headers::Text(fields), Spelling::LOWER);
        Ok(Arc::new(Self { method, uri, version, headers, spelling, protocol: None }))
    }

    /// The fields in the form in which HTTP/1 is written.
    pub const fn lines(&self) -> Lines<'_> {
        self.headers.lines(&self.spelling)
    }

    /// The head in the form of HTTP/2, for this target. `self` is not changed, so that further tries can share it: over
    /// HTTP/2 each try had to copy it, for 700 instructions. There is no `Host`, because the target names the host. `via`:
    /// see [`Implied`].
    ///
    /// # Errors
    /// A field that HTTP/2 cannot carry.
    pub fn to_http2(&self, target: Uri, via: Option<&[u8]>) -> Result<http::Request<()>, Misuse> {
        let mut request = http::Request::new(());
        let host = target.authority().map(|authority| authority.as_str().as_bytes()).unwrap_or_default();
        *request.headers_mut() = self.headers.to_map_without(&Implied { host, via })?;
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = target;
        *request.version_mut() = Version::HTTP_2;
        if let Some(protocol) = &self.protocol {
            request.extensions_mut().insert((**protocol).clone());
        }
        Ok(request)
    }
}

/// Makes the head of a request that came over HTTP/2.
impl From<http::request::Parts> for RequestHead {
    fn from(mut parts: http::request::Parts) -> Self {
        Self {
            method: parts.method,
            uri: parts.uri,
            version: parts.version,
            protocol: parts.extensions.remove::<Protocol>().map(Box::new),
            headers: Headers::Map(parts.headers),
            spelling: Spelling::LOWER,
        }
    }
}

impl<B> Response<B> {
    /// An answer that the sidecar makes itself.
    pub fn new(status: StatusCode, body: B) -> Self {
        let (version, headers) = (Version::HTTP_11, Headers::default());
        let head =
            ResponseHead { status, version, reason: None, headers, spelling: Spelling::LOWER, opened: None };
        Self { head: Box::new(head), body }
    }

    /// An answer that came over HTTP/1.
    pub fn read(head: Read, body: B) -> Self {
        let reason = head.own_reason();
        let (status, version, headers) = (head.status, head.version, Headers::Text(head.fields));
        Self {
            head: boxed(|| ResponseHead {
                status,
                version,
                reason,
                headers,
                spelling: Spelling::LOWER,
                opened: None,
            }),
            body,
        }
    }

    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    pub const fn status_mut(&mut self) -> &mut StatusCode {
        &mut self.head.status
    }

    pub fn version(&self) -> Version {
        self.head.version
    }

    pub fn headers(&self) -> &Headers {
        &self.head.headers
    }

    pub const fn headers_mut(&mut self) -> &mut Headers {
        &mut self.head.headers
    }

    pub const fn head_mut(&mut self) -> &mut ResponseHead {
        &mut self.head
    }

    pub const fn body(&self) -> &B {
        &self.body
    }

    pub const fn body_mut(&mut self) -> &mut B {
        &mut self.body
    }

    /// Whether it opens the tunnel that the request asked for.
    pub fn opens_tunnel(&self) -> bool {
        self.head.opened.is_some()
    }

    pub fn map<C>(self, body: impl FnOnce(B) -> C) -> Response<C> {
        Response { head: self.head, body: body(self.body) }
    }

    pub fn into_parts(self) -> (Box<ResponseHead>, B) {
        (self.head, self.body)
    }
}

/// Makes an answer of one that came over HTTP/2.
impl<B> From<http::Response<B>> for Response<B> {
    fn from(response: http::Response<B>) -> Self {
        let (head, body) = response.into_parts();
        let (status, version, headers) = (head.status, head.version, Headers::Map(head.headers));
        Self {
            head: boxed(|| ResponseHead {
                status,
                version,
                reason: None,
                headers,
                spelling: Spelling::LOWER,
                opened: None,
            }),
            body,
        }
    }
}

impl ResponseHead {
    /// The fields in the form in which HTTP/1 is written.
    pub const fn lines(&self) -> Lines<'_> {
        self.headers.lines(&self.spelling)
    }

    /// The head in the form of HTTP/2.
    ///
    /// # Errors
    /// A field that HTTP/2 cannot carry.
    pub fn into_http2(self) -> Result<http::Response<()>, Misuse> {
        let mut response = http::Response::new(());
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers.into_map()?;
        Ok(response)
    }
}

impl Default for Headers {
    fn default() -> Self {
        Self::Map(HeaderMap::new())
    }
}
