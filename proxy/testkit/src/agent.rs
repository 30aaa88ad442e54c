//! A SPIFFE Workload API for tests, in memory or at a Unix socket, written with the crate `h2`.
//!
//! What it issues is set by the test, and is sent on every open call at once. It can also refuse calls, send bytes that
//! are no answer, and leave.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine as _;
use bytes::{BufMut as _, Bytes};
use h2::SendStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

const FETCH: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
const INVALID_ARGUMENT: u32 = 3;
const UNIMPLEMENTED: u32 = 12;

/// `X509SVIDResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct Issued {
    #[prost(message, repeated, tag = "1")]
    pub svids: Vec<Svid>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub crl: Vec<Vec<u8>>,
    #[prost(btree_map = "string, bytes", tag = "3")]
    pub federated_bundles: BTreeMap<String, Vec<u8>>,
}

/// `X509SVID`.
#[derive(Clone, PartialEq, Message)]
pub struct Svid {
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    #[prost(bytes = "vec", tag = "2")]
    pub x509_svid: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub x509_svid_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub bundle: Vec<u8>,
    #[prost(string, tag = "5")]
    pub hint: String,
}

impl Svid {
    /// An SVID from PEM.
    pub fn from_pem(id: &str, certificate: &str, key: &str, bundle: &str) -> Self {
        Self {
            spiffe_id: id.to_owned(),
            x509_svid: der(certificate),
            x509_svid_key: der(key),
            bundle: der(bundle),
            hint: "the test's".to_owned(),
        }
    }
}

impl From<Svid> for Issued {
    fn from(svid: Svid) -> Self {
        Self { svids: vec![svid], ..Self::default() }
    }
}

/// The content of all PEM blocks, one after the other.
pub fn der(pem: &str) -> Vec<u8> {
    let (mut der, mut block) = (Vec::new(), String::new());
    for line in pem.lines() {
        match line {
            line if line.starts_with("-----BEGIN") => block.clear(),
            line if line.starts_with("-----END") => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(&block);
                der.extend(bytes.expect("base64 in PEM"));
            }
            line => block.push_str(line.trim()),
        }
    }
    der
}

/// How the agent answers a call.
#[derive(Debug, Clone)]
pub enum Answer {
    Issued(Issued),
    /// A message with this content.
    Bytes(Vec<u8>),
    /// A status other than OK, with its text.
    Status(u32, &'static str),
    /// A head, and nothing after it.
    Nothing,
    /// Bytes in place of HTTP/2.
    Raw(&'static [u8]),
}

impl From<Svid> for Answer {
    fn from(svid: Svid) -> Self {
        Self::Issued(svid.into())
    }
}

impl From<Issued> for Answer {
    fn from(issued: Issued) -> Self {
        Self::Issued(issued)
    }
}

/// An agent, in memory until it listens at a socket. Clones are the same agent.
#[derive(Clone)]
pub struct Agent(Arc<Shared>);

struct Shared {
    answer: watch::Sender<Answer>,
    calls: watch::Sender<usize>,
    /// `None` while the agent is away.
    connections: Mutex<Option<JoinSet<()>>>,
}

impl Agent {
    pub fn new(answer: impl Into<Answer>) -> Self {
        let (answer, calls) = (watch::Sender::new(answer.into()), watch::Sender::new(0));
        Self(Arc::new(Shared { answer, calls, connections: Mutex::new(Some(JoinSet::new())) }))
    }

    /// Answers differently from now on, on open calls too.
    pub fn say(&self, answer: impl Into<Answer>) {
        self.0.answer.send_replace(answer.into());
    }

    /// How many calls, or connections without one, there have been.
    pub fn calls(&self) -> usize {
        *self.0.calls.borrow()
    }

    /// Waits until there have been more calls than `before`.
    pub async fn called(&self, before: usize) {
        let mut calls = self.0.calls.subscribe();
        calls.wait_for(|calls| *calls > before).await.expect("the agent lives");
    }

    /// A connection in memory. Must be called on a runtime.
    ///
    /// # Errors
    /// The agent is away.
    pub fn connect(&self) -> io::Result<DuplexStream> {
        let (near, far) = duplex(64 * 1024);
        match self.spawn(self.0.clone().connection(far)) {
            true => Ok(near),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Closes all connections, and takes no more.
    pub fn leave(&self) {
        *self.connections() = None;
    }

    pub fn come_back(&self) {
        *self.connections() = Some(JoinSet::new());
    }

    /// Listens at `socket`, which must not exist, until the result is dropped. Must be called on a runtime.
    pub fn listen(&self, socket: &Path) -> Listening {
        let listener = UnixListener::bind(socket).expect("a socket of its own");
        let agent = self.clone();
        let task = tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                agent.spawn(agent.0.clone().connection(io));
            }
        });
        Listening { agent: self.clone(), socket: socket.to_owned(), task }
    }

    /// Whether the agent is there to do it.
    fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) -> bool {
        let mut connections = self.connections();
        let Some(connections) = &mut *connections else { return false };
        while connections.try_join_next().is_some() {}
        connections.spawn(connection);
        true
    }

    fn connections(&self) -> MutexGuard<'_, Option<JoinSet<()>>> {
        self.0.connections.lock().expect("no panic while it was locked")
    }
}

/// An agent at a socket. Its connections are closed and the socket is removed when this is dropped.
pub struct Listening {
    agent: Agent,
    socket: PathBuf,
    task: JoinHandle<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
        self.agent.come_back(); // without the connections of before
        std::fs::remove_file(&self.socket).unwrap_or_default();
    }
}

impl Shared {
    async fn connection(self: Arc<Self>, mut io: impl AsyncRead + AsyncWrite + Unpin) {
        let answer = self.answer.borrow().clone();
        if let Answer::Raw(bytes) = answer {
            self.calls.send_modify(|calls| *calls += 1);
            return drop(io.write_all(bytes).await);
        }
        let Ok(mut http2) = h2::server::handshake(io).await else { return };
        let mut calls = JoinSet::new();
        while let Some(Ok((request, respond))) = http2.accept().await {
            self.calls.send_modify(|calls| *calls += 1);
            calls.spawn(call(request, respond, self.answer.subscribe()));
        }
    }
}

/// Answers one call, until its client has left.
async fn call<T>(request: Request<T>, mut respond: SendResponse<Bytes>, mut answer: watch::Receiver<Answer>) {
    let has_field = request.headers().get("workload.spiffe.io").is_some_and(|field| field == "true");
    if request.uri().path() != FETCH || !has_field {
        let code = if has_field { UNIMPLEMENTED } else { INVALID_ARGUMENT };
        let mut head = head();
        head.headers_mut().extend(status(code, "no such call"));
        return drop(respond.send_response(head, true));
    }
    let Ok(mut stream) = respond.send_response(head(), false) else { return };
    loop {
        let now = answer.borrow_and_update().clone();
        let is_open = say(&mut stream, now);
        tokio::select! { // nothing is lost: the answer is read again
            changed = answer.changed(), if is_open => if changed.is_err() { return },
            _reset = std::future::poll_fn(|cx| stream.poll_reset(cx)) => return,
        }
    }
}

/// Says this on an open call. Whether the call is still open.
fn say(stream: &mut SendStream<Bytes>, answer: Answer) -> bool {
    match answer {
        Answer::Issued(issued) => stream.send_data(framed(&issued.encode_to_vec()), false).is_ok(),
        Answer::Bytes(bytes) => stream.send_data(framed(&bytes), false).is_ok(),
        Answer::Nothing => true,
        Answer::Status(code, text) => {
            drop(stream.send_trailers(status(code, text)));
            false
        }
        Answer::Raw(_) => {
            stream.send_reset(h2::Reason::INTERNAL_ERROR);
            false
        }
    }
}

fn head() -> Response<()> {
    Response::builder().header("content-type", "application/grpc").body(()).expect("a head")
}

fn status(code: u32, text: &'static str) -> HeaderMap {
    let field = HeaderName::from_static;
    HeaderMap::from_iter([
        (field("grpc-status"), HeaderValue::from(code)),
        (field("grpc-message"), HeaderValue::from_static(text)),
    ])
}

fn framed(message: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(5 + message.len());
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).expect("a message of less than 4 GiB"));
    bytes.extend_from_slice(message);
    bytes.into()
}
