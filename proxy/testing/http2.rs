//! HTTP/2 and gRPC as back-end and as client, through the crate `h2`, so that tests choose every frame.

use std::future::Future;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, client};
use http::{HeaderMap, Request, Response};

use super::backend::Backend;
use super::mesh::{Mesh, Sidecar};

/// A client's connection.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) send: client::SendRequest<Bytes>,
}

pub(super) struct Answer {
    pub(super) head: Response<()>,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Option<HeaderMap>,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// `grpc-status`, from the headers of an answer of trailers alone, or from the trailers.
    pub(super) fn grpc_status(&self) -> Option<&str> {
        let trailing = self.trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
        self.header("grpc-status").or_else(|| trailing.and_then(|value| value.to_str().ok()))
    }
}

impl Mesh {
    /// Each request runs `handle`, which gets the number of its connection. `streams` is the limit of open streams.
    pub(super) fn http2<F, Fut>(&self, address: &str, streams: u32, handle: F) -> Backend
    where
        F: Fn(usize, Request<RecvStream>, SendResponse<Bytes>) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.scripted(address, move |peer, nth| {
            let handle = handle.clone();
            async move {
                let mut server = h2::server::Builder::new();
                server.max_concurrent_streams(streams);
                let Ok(mut conn) = server.handshake::<_, Bytes>(peer.into_io()).await else { return };
                while let Some(Ok((request, respond))) = conn.accept().await {
                    tokio::spawn(handle(nth, request, respond));
                }
            }
        })
    }
}

impl Sidecar {
    pub(super) async fn http2_client(&self) -> Client {
        let io = self.client().await.into_io();
        let (send, conn) = client::handshake(io).await.expect("the sidecar speaks HTTP/2");
        tokio::spawn(conn);
        Client { send }
    }
}

impl Client {
    pub(super) async fn ask(&self, request: Request<()>, body: &'static str) -> Result<Answer, h2::Error> {
        let mut send = self.send.clone().ready().await?;
        let (response, mut stream) = send.send_request(request, body.is_empty())?;
        if !body.is_empty() {
            stream.send_data(Bytes::from_static(body.as_bytes()), true)?;
        }
        read(response.await?).await
    }

    pub(super) async fn ask_with_trailers(
        &self,
        request: Request<()>,
        body: &'static str,
        trailers: HeaderMap,
    ) -> Result<Answer, h2::Error> {
        let mut send = self.send.clone().ready().await?;
        let (response, mut stream) = send.send_request(request, false)?;
        stream.send_data(Bytes::from_static(body.as_bytes()), false)?;
        stream.send_trailers(trailers)?;
        read(response.await?).await
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.ask(request("GET", path), "").await.expect("an answer")
    }

    /// A unary gRPC call. `deadline` is the value of `grpc-timeout`.
    pub(super) async fn grpc(&self, deadline: Option<&str>) -> Answer {
        let mut request = request("POST", "/orders.Orders/List");
        request.headers_mut().insert("content-type", "application/grpc".parse().expect("a value"));
        request.headers_mut().insert("te", "trailers".parse().expect("a value"));
        if let Some(deadline) = deadline {
            request.headers_mut().insert("grpc-timeout", deadline.parse().expect("a value"));
        }
        self.ask(request, "\0\0\0\0\0").await.expect("an answer")
    }
}

pub(super) fn request(method: &str, path: &str) -> Request<()> {
    let request = Request::builder().method(method).uri(format!("http://orders{path}"));
    request.body(()).expect("a request")
}

async fn read(response: Response<RecvStream>) -> Result<Answer, h2::Error> {
    let (head, mut stream) = response.into_parts();
    let body = read_body(&mut stream).await?;
    let trailers = stream.trailers().await?;
    Ok(Answer { head: Response::from_parts(head, ()), body, trailers })
}

pub(super) async fn read_body(stream: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    Ok(body)
}

/// A plain answer with a body.
pub(super) fn answer(mut respond: SendResponse<Bytes>, status: u16, body: &'static str) {
    let head = Response::builder().status(status).body(()).expect("a response");
    let mut stream = respond.send_response(head, false).expect("the stream is open");
    stream.send_data(Bytes::from_static(body.as_bytes()), true).expect("the stream is open");
}

/// A gRPC answer with an empty message and its status in the trailers.
pub(super) fn answer_grpc(mut respond: SendResponse<Bytes>, status: &'static str) {
    let head = Response::builder().header("content-type", "application/grpc").body(()).expect("a response");
    let mut stream = respond.send_response(head, false).expect("the stream is open");
    stream.send_data(Bytes::from_static(b"\0\0\0\0\0"), false).expect("the stream is open");
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.parse().expect("a value"));
    stream.send_trailers(trailers).expect("the stream is open");
}
