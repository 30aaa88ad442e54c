//! A plain HTTP/1.1 client on one keep-alive connection; it has never heard of sidecars.

use std::net::SocketAddr;

use http::header::HOST;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

pub(crate) struct Client {
    send: SendRequest<Empty<Bytes>>,
    /// Moves the connection's bytes; ends with it.
    _driver: JoinSet<()>,
}

impl Client {
    /// # Errors
    /// Nobody listens at `to`.
    pub(crate) async fn connect(to: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let (send, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move { drop(connection.await) }); // a failure is told to the request it fails
        Ok(Self { send, _driver: driver })
    }

    /// The whole answer.
    ///
    /// # Errors
    /// The connection broke; it is of no further use.
    pub(crate) async fn get(&mut self, host: &str, path: &str) -> anyhow::Result<Response<Bytes>> {
        self.send.ready().await?;
        let request = Request::get(path).header(HOST, host).body(Empty::new())?;
        let (head, body) = self.send.send_request(request).await?.into_parts();
        Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    }
}
