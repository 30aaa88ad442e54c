//! A replica: HTTP/1 and HTTP/2, which answers each request with that request's token.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use parking_lot::Mutex;
use pillion_base::net::Prefixed;
use pillion_base::net::memory::Pipe;
use pillion_testkit::http1::{Reader, headers};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::plan::{Ask, Kind, Manner};
use super::world::World;
use crate::testing::http2::read_body;

pub(super) struct Origin {
    /// Which replica it is.
    number: usize,
    /// What the next so many answers are like.
    manner: Mutex<Option<(Manner, usize)>>,
    world: Arc<World>,
}

/// The body of a request, or of its answer.
pub(super) fn body(token: usize, is_answer: bool, size: usize) -> Vec<u8> {
    /// A prime, so that a piece that is lost or swapped is seen.
    const BLOCK: usize = 251;
    let salt = token * 2 + usize::from(is_answer);
    let block: Vec<u8> = (0..BLOCK).map(|at| (salt * 37 + at * (salt % 7 + 1)) as u8).collect();
    let mut all = block.repeat(size / BLOCK + 1);
    all.truncate(size);
    all
}

/// The body of an answer with an error.
pub(super) fn failure(token: usize) -> Vec<u8> {
    format!("failure of {token}").into_bytes()
}

type Io = Prefixed<Pipe>;

impl Origin {
    pub(super) fn new(number: usize, world: &Arc<World>) -> Arc<Self> {
        Arc::new(Self { number, manner: Mutex::default(), world: world.clone() })
    }

    pub(super) fn behave(&self, manner: Option<(Manner, usize)>) {
        *self.manner.lock() = manner;
    }

    /// The manner of the next answer.
    fn manner(&self) -> Option<Manner> {
        let mut next = self.manner.lock();
        let (manner, left) = next.as_mut()?;
        let manner = *manner;
        *left -= 1;
        if *left == 0 {
            *next = None;
        }
        Some(manner)
    }

    pub(super) async fn serve(self: Arc<Self>, pipe: Pipe) {
        let mut io = Prefixed::new(pipe);
        let mut first = [0; 3];
        if io.read_exact(&mut first).await.is_err() {
            return;
        }
        io.put_back(Bytes::copy_from_slice(&first));
        if &first == b"PRI" { self.serve_http2(io).await } else { self.serve_http1(Reader::new(io)).await }
    }

    async fn serve_http1(&self, mut reader: Reader<Io>) {
        while let Some(head) = reader.head().await {
            let Some(ask) = self.asked(head.split(' ').nth(1).unwrap_or_default()) else {
                if reader.io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
                    return;
                }
                continue;
            };
            self.check_head(&ask, headers(&head, "x-token").next());
            self.world.arrived(ask.token, self.number);
            let manner = self.manner();
            if matches!(manner, Some(Manner::Refuse)) {
                return;
            }
            if let Some(Manner::FailEarly(status)) = manner {
                let body = failure(ask.token);
                drop(write_http1(&mut reader.io, &ask, status, &body, body.len(), manner).await);
                return;
            }
            let request = reader.message_of(head).await;
            self.check_body(&ask, &request.body, request.is_whole);
            if !request.is_whole || matches!(manner, Some(Manner::HangUp)) {
                return;
            }
            let (status, body) = answer(&ask, manner).await;
            let end = broken(manner, body.len());
            let written = write_http1(&mut reader.io, &ask, status, &body, end, manner).await;
            if written.is_err() || end < body.len() || matches!(manner, Some(Manner::Last)) {
                return;
            }
        }
    }

    async fn serve_http2(self: Arc<Self>, io: Io) {
        let Ok(mut connection) = h2::server::handshake(io).await else { return };
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let manner = self.manner();
            match manner {
                Some(Manner::Refuse) => {
                    respond.send_reset(Reason::REFUSED_STREAM);
                    continue;
                }
                Some(Manner::HangUp) => return,
                Some(Manner::Last) => connection.graceful_shutdown(),
                _ => {}
            }
            tokio::spawn(self.clone().answer_http2(request, respond, manner));
        }
    }

    async fn answer_http2(
        self: Arc<Self>,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
        manner: Option<Manner>,
    ) {
        let Some(ask) = self.asked(request.uri().path()) else {
            drop(respond.send_response(Response::new(()), true));
            return;
        };
        self.check_head(&ask, request.headers().get("x-token").and_then(|value| value.to_str().ok()));
        self.world.arrived(ask.token, self.number);
        if let Some(Manner::FailEarly(status)) = manner {
            let body = failure(ask.token);
            return write_http2(respond, &ask, status, &body, body.len(), manner).await;
        }
        let mut stream = request.into_body();
        let Ok(came) = read_body(&mut stream).await else { return };
        self.check_body(&ask, &came, true);
        let (status, body) = answer(&ask, manner).await;
        write_http2(respond, &ask, status, &body, broken(manner, body.len()), manner).await;
    }

    /// The request for this path. `None`: a health check.
    fn asked(&self, path: &str) -> Option<Ask> {
        let token = path.strip_prefix("/ask/")?;
        let ask = token.parse().ok().and_then(|token| self.world.ask(token));
        if ask.is_none() {
            self.world.fault(format!("replica {} got a request that no client sent: {path}", self.number));
        }
        ask
    }

    fn check_head(&self, ask: &Ask, token: Option<&str>) {
        if token != Some(&*ask.token.to_string()) {
            self.world.fault(format!("request {} arrived with the token {token:?}", ask.token));
        }
    }

    /// A body that is whole for the replica must be what the client sent.
    fn check_body(&self, ask: &Ask, came: &[u8], is_whole: bool) {
        let sent = body(ask.token, false, ask.size);
        let is_right = if is_whole { came == sent } else { sent.starts_with(came) };
        if !is_right {
            let (token, came, sent) = (ask.token, came.len(), sent.len());
            self.world.fault(format!(
                "request {token} has another body: {came} of {sent} bytes, whole: {is_whole}"
            ));
        }
    }
}

async fn answer(ask: &Ask, manner: Option<Manner>) -> (u16, Vec<u8>) {
    match manner {
        Some(Manner::Fail(status)) => (status, failure(ask.token)),
        _ => {
            pause(manner).await;
            (200, body(ask.token, true, ask.answer_size))
        }
    }
}

async fn pause(manner: Option<Manner>) {
    if let Some(Manner::Slow(millis)) = manner {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
}

/// How many bytes of the body are sent.
fn broken(manner: Option<Manner>, size: usize) -> usize {
    match manner {
        Some(Manner::Break(after)) if after < size => after,
        _ => size,
    }
}

/// The pieces in which a body is sent.
fn pieces(body: &[u8], manner: Option<Manner>) -> std::slice::Chunks<'_, u8> {
    body.chunks(if matches!(manner, Some(Manner::Slow(_))) { body.len().div_ceil(3).max(1) } else { 9_000 })
}

async fn write_http1(
    io: &mut Io,
    ask: &Ask,
    status: u16,
    body: &[u8],
    end: usize,
    manner: Option<Manner>,
) -> std::io::Result<()> {
    let length = match ask.is_answer_chunked {
        true => "transfer-encoding: chunked".to_owned(),
        false => format!("content-length: {}", body.len()),
    };
    let last = if matches!(manner, Some(Manner::Last | Manner::FailEarly(_))) {
        "connection: close\r\n"
    } else {
        ""
    };
    let head = format!("HTTP/1.1 {status} Said\r\nx-token: {}\r\n{last}{length}\r\n\r\n", ask.token);
    io.write_all(head.as_bytes()).await?;
    for piece in pieces(&body[..end], manner) {
        pause(manner).await;
        match ask.is_answer_chunked {
            true => {
                let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
                io.write_all(&chunk).await?;
            }
            false => io.write_all(piece).await?,
        }
    }
    if ask.is_answer_chunked && end == body.len() {
        io.write_all(b"0\r\n\r\n").await?;
    }
    Ok(())
}

async fn write_http2(
    mut respond: SendResponse<Bytes>,
    ask: &Ask,
    status: u16,
    body: &[u8],
    end: usize,
    manner: Option<Manner>,
) {
    let mut head = Response::builder().status(status).header("x-token", ask.token);
    if ask.kind == Kind::Grpc {
        head = head.header("content-type", "application/grpc");
    } else if !ask.is_answer_chunked {
        head = head.header("content-length", body.len());
    }
    let Ok(mut stream) = respond.send_response(head.body(()).expect("a response"), false) else { return };
    for piece in pieces(&body[..end], manner) {
        pause(manner).await;
        if stream.send_data(Bytes::copy_from_slice(piece), false).is_err() {
            return;
        }
    }
    if end < body.len() {
        return stream.send_reset(Reason::INTERNAL_ERROR);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    drop(if ask.kind == Kind::Grpc {
        stream.send_trailers(trailers)
    } else {
        stream.send_data(Bytes::new(), true)
    });
}
