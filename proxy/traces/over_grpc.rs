//! OTLP over gRPC: `opentelemetry.proto.collector.trace.v1.TraceService/Export`.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use pillion_base::ground::Ground;
use pillion_grpc::prost::Message as _;
use pillion_grpc::{Client, Code, Connection, MetadataMap, Request, Status};
use pillion_model::text::shortened;
use pillion_model::tracing::Tracing;
use pillion_tls::client::AlpnOffer;
use pillion_upstream::discovery::Resolver;

use super::messages::{ErrorDetails, ExportRequest, ExportResponse, RetryInfo};
use super::{ExportError, PATIENCE, Taken, accepted};
use pillion_companion::asking::{Server, connect};

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// 4 MiB: what gRPC's libraries accept by default. A batch is smaller.
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// The name of the message in which a server says when it wants a call again.
const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

pub(super) async fn send(
    of: &Tracing,
    request: ExportRequest,
    ground: &Ground,
    resolver: &Resolver,
) -> Result<Taken, ExportError> {
    let url = &of.otlp;
    let scheme = if url.is_tls { "https" } else { "http" };
    let origin = Uri::try_from(format!("{scheme}://{}", url.authority())).map_err(http::Error::from)?;
    let server = Server { is_tls: url.is_tls, host: &url.host, port: url.port };
    let transport = connect(server, AlpnOffer::Http2, ground, resolver).await?;
    let connection = Connection::open(transport).await.map_err(|status| judge(&status))?;
    let mut request = Request::new(request);
    *request.metadata_mut() = MetadataMap::from_headers(headers(of)?);
    let mut client = Client::new(connection, origin, MOST_BYTES);
    let answer: ExportResponse =
        client.unary(EXPORT, request, PATIENCE).await.map_err(|status| judge(&status))?;
    Ok(accepted(answer))
}

fn headers(of: &Tracing) -> Result<HeaderMap, ExportError> {
    let mut map = HeaderMap::new();
    for (name, value) in &of.headers {
        let name = HeaderName::try_from(name.as_str()).map_err(http::Error::from)?;
        map.append(name, HeaderValue::try_from(value.0.as_str()).map_err(http::Error::from)?);
    }
    Ok(map)
}

/// What a status means (OTLP/gRPC Response). A collector that is exhausted wants the spans again only if it says when. So does
/// one that names a range: the protocol would send the spans again, but tonic has this status for a message that is too
/// long, which it stays.
fn judge(status: &Status) -> ExportError {
    let asked = retry_info(status.details());
    let again = match status.code() {
        Code::Cancelled | Code::DeadlineExceeded | Code::Aborted | Code::Unavailable | Code::DataLoss => {
            Some(asked.unwrap_or_default())
        }
        Code::ResourceExhausted | Code::OutOfRange => asked,
        _ => None,
    };
    let what = format!("the collector answered {:?}: {}", status.code(), shortened(status.message()));
    ExportError::Answered { what, again }
}

/// The pause that the details of a status ask for.
fn retry_info(details: &[u8]) -> Option<Duration> {
    let details = ErrorDetails::decode(details).ok()?.details;
    let info = details.into_iter().find(|detail| detail.type_url == RETRY_INFO)?;
    let delay = RetryInfo::decode(&*info.value).ok()?.retry_delay?;
    let (seconds, nanos) = (u64::try_from(delay.seconds).ok()?, u32::try_from(delay.nanos).ok()?);
    (nanos < 1_000_000_000).then(|| Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::super::messages::{Delay, Detail};
    use super::*;

    fn details(seconds: i64) -> Vec<u8> {
        let info = RetryInfo { retry_delay: Some(Delay { seconds, nanos: 0 }) };
        let detail = Detail { type_url: RETRY_INFO.to_owned(), value: info.encode_to_vec() };
        ErrorDetails { details: vec![detail] }.encode_to_vec()
    }

    #[test]
    fn a_status_means_what_the_protocol_says() {
        let again = |code, details: Vec<u8>| {
            judge(&Status::with_details(code, "", details.into())).again().map(|pause| pause.as_secs())
        };
        for (code, asked, expected) in [
            (Code::Unavailable, None, Some(0)),
            (Code::Unavailable, Some(7), Some(7)),
            (Code::Unavailable, Some(-1), Some(0)),
            (Code::Cancelled, None, Some(0)),
            (Code::DataLoss, None, Some(0)),
            (Code::ResourceExhausted, None, None),
            (Code::ResourceExhausted, Some(3), Some(3)),
            (Code::OutOfRange, None, None),
            (Code::OutOfRange, Some(3), Some(3)),
            (Code::InvalidArgument, Some(3), None),
            (Code::Unauthenticated, None, None),
            (Code::Internal, None, None),
        ] {
            assert_eq!(again(code, asked.map(details).unwrap_or_default()), expected, "{code:?} {asked:?}");
        }
        assert_eq!(again(Code::Unavailable, vec![0xff; 9]), Some(0), "details that cannot be read");
    }
}
