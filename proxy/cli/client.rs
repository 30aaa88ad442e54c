//! A plain HTTP/1.1 client on one keep-alive connection. It knows nothing of sidecars.

use std::io;
use std::net::SocketAddr;

use http::header::HOST;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use pillion_base::net::{Made, Network, Stream, Transport};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// 16 MiB: more than any page of a sidecar has.
const MOST_BYTES: usize = 16 * 1024 * 1024;

pub(crate) struct Client {
    send: SendRequest<Full<Bytes>>,
    /// The task that moves the connection's bytes. It ends with the client.
    _driver: JoinSet<()>,
}

impl Client {
    /// # Errors
    /// No server listens at `to`.
    pub(crate) async fn connect(to: SocketAddr) -> anyhow::Result<Self> {
        let io = Transport::plain(dial(&Network::Os, to).await?);
        let (send, connection) = http1::Builder::new().handshake(TokioIo::new(io)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move { drop(connection.await) }); // the request that fails gets the error
        Ok(Self { send, _driver: driver })
    }

    /// Sends a GET and returns the complete response.
    ///
    /// # Errors
    /// The connection broke and cannot be used again.
    pub(crate) async fn get(&mut self, host: &str, path: &str) -> anyhow::Result<Response<Bytes>> {
        self.ask(Request::get(path).header(HOST, host).body(Full::default())?).await
    }

    /// Sends a request and returns the response, whose body is still to be read.
    ///
    /// # Errors
    /// The connection broke and cannot be used again.
    pub(crate) async fn begin(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> anyhow::Result<Response<Incoming>> {
        self.send.ready().await?;
        Ok(self.send.send_request(request).await?)
    }

    /// Sends a request and returns the complete response.
    ///
    /// # Errors
    /// The connection broke, or the response is longer than [`MOST_BYTES`]. The connection cannot be used again.
    pub(crate) async fn ask(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Bytes>> {
        let (head, body) = self.begin(request).await?.into_parts();
        let whole = Limited::new(body, MOST_BYTES).collect().await;
        let whole = whole.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(broken) => anyhow::Error::new(broken).context("the response cannot be read"),
            Err(too_long) => anyhow::anyhow!("the response cannot be read: {too_long}"),
        })?;
        Ok(Response::from_parts(head, whole.to_bytes()))
    }
}

/// Dials as any client does. The connection must not count as one that a sidecar of this process has made: the demo has
/// such sidecars, and they refuse connections of their own.
pub(crate) async fn dial(network: &Network, to: SocketAddr) -> io::Result<Stream> {
    match network {
        Network::Os => {
            let stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            Ok(Stream::Tcp(stream, Made::Dialled(None)))
        }
        Network::Memory(memory) => Ok(Stream::Memory(memory.connect(to).await?, None)),
    }
}
