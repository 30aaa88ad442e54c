//! Makes calls: each with a deadline, and each message with a bound.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http::uri::PathAndQuery;
use http_body::Body;
use prost::Message;
use tokio::time::{Instant, timeout_at};
use tonic::client::{Grpc, GrpcService};
use tonic::codec::Streaming;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

/// Makes calls over a transport, such as [`Connection`](crate::Connection).
pub struct Client<T> {
    grpc: Grpc<T>,
}

/// The messages that the server sends in answer to one call.
pub struct Messages<M>(Streaming<M>);

impl<T, B> Client<T>
where
    T: GrpcService<tonic::body::Body, ResponseBody = B>,
    B: Body<Data = Bytes, Error = Status> + Send + 'static,
{
    /// `origin` is scheme and authority, such as `http://localhost`, which gRPC uses for Unix sockets. `most`: bytes of
    /// one message, in either direction.
    pub fn new(transport: T, origin: Uri, most: usize) -> Self {
        let grpc = Grpc::with_origin(transport, origin);
        Self { grpc: grpc.max_decoding_message_size(most).max_encoding_message_size(most) }
    }

    /// Sends a message and waits for the one that answers it. `path`: `/package.Service/Method`. The server learns the
    /// deadline as `grpc-timeout`. When the future is dropped, the call is cancelled.
    ///
    /// # Errors
    /// The status with which the server ended the call. Without one: DEADLINE_EXCEEDED; UNAVAILABLE when the connection
    /// broke; UNKNOWN when the answer was cut before its status; the code that gRPC gives a reset (CANCELLED,
    /// RESOURCE_EXHAUSTED, PERMISSION_DENIED, INTERNAL); OUT_OF_RANGE when the message was longer than its bound;
    /// INTERNAL when it was no gRPC; RESOURCE_EXHAUSTED also when 100 calls of the connection wait to be written.
    pub async fn unary<M, R>(
        &mut self,
        path: &'static str,
        mut request: Request<M>,
        deadline: Duration,
    ) -> Result<R, Status>
    where
        M: Message + Default + 'static,
        R: Message + Default + 'static,
    {
        request.set_timeout(deadline);
        let path = PathAndQuery::from_static(path);
        within(deadline, async {
            self.ready().await?;
            Ok(self.grpc.unary(request, path, ProstCodec::default()).await?.into_inner())
        })
        .await
    }

    /// Sends a message and waits at most for `patience` until the server begins its answer, which may then go on for
    /// any time. When the answer is dropped, the call is cancelled. The transport must notice a server that vanishes: a
    /// Unix socket does, and TCP needs keep-alive.
    ///
    /// # Errors
    /// As those of [`Self::unary`].
    pub async fn server_streaming<M, R>(
        &mut self,
        path: &'static str,
        request: Request<M>,
        patience: Duration,
    ) -> Result<Messages<R>, Status>
    where
        M: Message + Default + 'static,
        R: Message + Default + 'static,
    {
        let path = PathAndQuery::from_static(path);
        within(patience, async {
            self.ready().await?;
            let answer = self.grpc.server_streaming(request, path, ProstCodec::default()).await?;
            Ok(Messages(answer.into_inner()))
        })
        .await
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.grpc.ready().await.map_err(|error| Status::from_error(error.into()))
    }
}

impl<M> Messages<M> {
    /// The next message. `None`: the server has ended the call with OK. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// As those of [`Client::unary`].
    pub async fn next(&mut self) -> Result<Option<M>, Status> {
        self.0.message().await
    }
}

async fn within<T>(deadline: Duration, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let late = || {
        let said = format!("no answer within {deadline:?}");
        Err(Status::deadline_exceeded(said))
    };
    let ended = timeout_at(Instant::now() + deadline, call).await;
    ended.unwrap_or_else(|_elapsed| late())
}
