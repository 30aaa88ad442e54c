//! Traces of requests: where spans go, which requests get them, and the headers by which sidecars and applications tell
//! each other of a trace.

use std::fmt;

use crate::authority::{authority, host_and_port, http_port, is_sendable_path};

#[derive(Debug, Clone, PartialEq)]
pub struct Tracing {
    /// The collector that gets the spans.
    pub otlp: OtlpUrl,
    /// The share of the requests that are traced where no caller has decided it. Default 0.01.
    pub sample: f64,
    /// The headers that are read, the first ones before the others, and written. Without double entries.
    pub propagate: Vec<Propagation>,
    /// What each request to the collector carries besides: names in lower case, and values.
    pub headers: Vec<(String, HiddenText)>,
}

impl Tracing {
    /// 1 %: a busy service shows its usual requests by it, and the cost is not noticed.
    pub const SAMPLE: f64 = 0.01;
    /// 16: the most headers. Collectors ask for one or two.
    pub const MOST_HEADERS: usize = 16;
}

/// Headers that tell of a trace. The order of the variants is the one in which they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Propagation {
    /// `traceparent` and `tracestate` (W3C Trace Context).
    W3c,
    /// `b3`, Zipkin's single header.
    B3,
    /// `x-b3-traceid` and its companions, Zipkin's older headers.
    B3Multi,
}

/// A text that no log, page or error shows.
#[derive(Clone, PartialEq, Eq)]
pub struct HiddenText(pub String);

impl fmt::Debug for HiddenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HiddenText")
    }
}

/// The address of a collector of the OpenTelemetry protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpUrl {
    pub transport: OtlpTransport,
    pub is_tls: bool,
    /// A name, or an IP address without brackets.
    pub host: String,
    pub port: u16,
    /// Where spans are posted over HTTP: the path of the URL with `/v1/traces`. Empty over gRPC.
    pub path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtlpTransport {
    /// Protobuf in POST requests.
    Http,
    Grpc,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadOtlpUrl {
    #[error("does not begin with http://, https://, grpc:// or grpcs://")]
    Scheme,
    #[error("has user information before an @")]
    User,
    #[error("has no valid host and port")]
    Host,
    #[error("has a path, which gRPC has not")]
    GrpcPath,
    #[error("has a query, a fragment, or a character that requests cannot carry")]
    Path,
}

impl OtlpUrl {
    /// What the protocol appends to the base address.
    const SIGNAL: &str = "/v1/traces";
    /// The port of gRPC where none is written.
    const GRPC_PORT: u16 = 4317;

    /// # Errors
    /// What is wrong with the text.
    pub fn new(text: &str) -> Result<Self, BadOtlpUrl> {
        const SCHEMES: [(&str, OtlpTransport, bool); 4] = [
            ("http://", OtlpTransport::Http, false),
            ("https://", OtlpTransport::Http, true),
            ("grpc://", OtlpTransport::Grpc, false),
            ("grpcs://", OtlpTransport::Grpc, true),
        ];
        let scheme = SCHEMES.iter().find_map(|scheme| Some((scheme, text.strip_prefix(scheme.0)?)));
        let (&(_, transport, is_tls), rest) = scheme.ok_or(BadOtlpUrl::Scheme)?;
        let (named, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if named.contains('@') {
            return Err(BadOtlpUrl::User);
        }
        let (host, port) = host_and_port(named).ok_or(BadOtlpUrl::Host)?;
        if path.contains('?') || !is_sendable_path(path) {
            return Err(BadOtlpUrl::Path);
        }
        let base = path.trim_end_matches('/');
        let path = match transport {
            OtlpTransport::Grpc if !base.is_empty() => return Err(BadOtlpUrl::GrpcPath),
            OtlpTransport::Grpc => String::new(),
            OtlpTransport::Http if base.ends_with(Self::SIGNAL) => base.to_owned(),
            OtlpTransport::Http => format!("{base}{}", Self::SIGNAL),
        };
        let port = port.unwrap_or_else(|| Self::usual_port(transport, is_tls));
        Ok(Self { transport, is_tls, host, port, path })
    }

    const fn usual_port(transport: OtlpTransport, is_tls: bool) -> u16 {
        match transport {
            OtlpTransport::Http => http_port(is_tls),
            OtlpTransport::Grpc => Self::GRPC_PORT,
        }
    }

    /// The host and the port, as requests name them: those of gRPC are requests of HTTP, too.
    pub fn authority(&self) -> String {
        authority(&self.host, self.port, http_port(self.is_tls))
    }
}

impl fmt::Display for OtlpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match (self.transport, self.is_tls) {
            (OtlpTransport::Http, false) => "http",
            (OtlpTransport::Http, true) => "https",
            (OtlpTransport::Grpc, false) => "grpc",
            (OtlpTransport::Grpc, true) => "grpcs",
        };
        let named = authority(&self.host, self.port, Self::usual_port(self.transport, self.is_tls));
        write!(f, "{scheme}://{named}{}", self.path.trim_end_matches(Self::SIGNAL))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_collector_is_http_or_grpc() {
        for (text, expected, path) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318", "/v1/traces"),
            ("http://Collector/", "http://collector", "/v1/traces"),
            ("https://otel.example:443/tenant/", "https://otel.example/tenant", "/tenant/v1/traces"),
            ("http://c:4318/v1/traces", "http://c:4318", "/v1/traces"),
            ("grpc://[fd00::1]", "grpc://[fd00::1]", ""),
            ("grpcs://otel.example:443/", "grpcs://otel.example:443", ""),
        ] {
            let url = OtlpUrl::new(text).unwrap();
            assert_eq!((url.to_string().as_str(), url.path.as_str()), (expected, path), "{text}");
            assert_eq!(OtlpUrl::new(&url.to_string()), Ok(url));
        }
        for (text, expected) in [
            ("collector:4318", BadOtlpUrl::Scheme),
            ("HTTP://collector", BadOtlpUrl::Scheme),
            ("http://user:password@collector", BadOtlpUrl::User),
            ("http://", BadOtlpUrl::Host),
            ("grpc://a:0", BadOtlpUrl::Host),
            ("grpc://a:4317/v1/traces", BadOtlpUrl::GrpcPath),
            ("http://a/?key=1", BadOtlpUrl::Path),
            ("http://a/\r\nx: y", BadOtlpUrl::Path),
        ] {
            assert_eq!(OtlpUrl::new(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn no_debug_output_shows_the_value_of_a_header() {
        assert_eq!(format!("{:?}", HiddenText("Bearer abc".to_owned())), "HiddenText");
    }
}
