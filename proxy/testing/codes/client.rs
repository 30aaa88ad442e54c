//! The client of a scene: one request, over HTTP/1 or as a call of gRPC, and what came back.

use bytes::Bytes;
use h2::client::{self, SendRequest};
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::http2;
use super::super::mesh::{secs, settle};
use super::super::peer::{Message, Peer};
use pillion_base::net::memory::Pipe;
use pillion_testkit::http1;

/// The ID of the request by which its access line and its timeline are found.
pub(super) const ID: &str = "the-request";

/// What the client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Http,
    Grpc,
}

/// What the client asks.
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) id: &'a str,
    pub(super) host: &'a str,
    pub(super) path: &'a str,
    pub(super) fields: &'a [(&'a str, &'a str)],
}

pub(super) const PLAIN: Question<'static> =
    Question { id: ID, host: "orders", path: "/orders.Orders/List", fields: &[] };

/// What the client got.
#[derive(Debug)]
pub(super) enum Heard {
    Answer(Answer),
    /// The head of an answer with this status, and not all of the rest.
    Cut(u16),
    /// No head of an answer.
    Nothing,
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    fields: Vec<(String, String)>,
    pub(super) body: String,
    pub(super) has_trailers: bool,
}

impl Form {
    /// Asks over a new connection.
    pub(super) async fn ask(self, io: Pipe, question: Question<'_>) -> Heard {
        match self {
            Self::Http => over_http1(io, &question.head("GET", "")).await,
            Self::Grpc => call(&connected(io).await, question, "\0\0\0\0\0").await,
        }
    }

    /// Asks over a new connection, and leaves before an answer.
    pub(super) async fn ask_and_leave(self, io: Pipe) {
        match self {
            Self::Http => {
                let mut peer = Peer::new(io);
                peer.send(PLAIN.head("GET", "")).await;
                settle().await;
            }
            Self::Grpc => {
                let mut send = connected(io).await.ready().await.expect("a free stream");
                let (_answer, mut stream) = send.send_request(PLAIN.call(), false).expect("a stream");
                stream.send_data(Bytes::from_static(b"\0\0\0\0\0"), true).expect("an open stream");
                settle().await;
            }
        }
        settle().await;
    }

    /// Leaves amid its request.
    pub(super) async fn begin_and_leave(self, io: Pipe) {
        drop(tokio::time::timeout(secs(1), self.ask_and_stall(io)).await);
        settle().await;
    }

    /// Asks over a new connection with the beginning of a body, which goes on no further.
    pub(super) async fn ask_and_stall(self, io: Pipe) -> Heard {
        match self {
            Self::Http => {
                over_http1(io, &(PLAIN.head("POST", "content-length: 30\r\n") + "half of it")).await
            }
            Self::Grpc => {
                let mut send = connected(io).await.ready().await.expect("a free stream");
                let (answer, mut stream) = send.send_request(PLAIN.call(), false).expect("a stream");
                stream.send_data(Bytes::from_static(b"\0\0\0"), false).expect("the stream is open");
                read(answer).await
            }
        }
    }
}

impl Question<'_> {
    /// The head of a request of HTTP/1, with further fields as text.
    pub(super) fn head(&self, method: &str, more: &str) -> String {
        let Self { id, host, path, fields } = self;
        let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nx-request-id: {id}\r\n{fields}{more}\r\n")
    }

    /// The head of a call.
    fn call(&self) -> Request<()> {
        let uri = format!("http://{}{}", self.host, self.path);
        let own = [("content-type", "application/grpc"), ("te", "trailers"), ("x-request-id", self.id)];
        let mut request = Request::builder().method("POST").uri(uri);
        for (name, value) in own.iter().chain(self.fields) {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request")
    }
}

/// Sends bytes of HTTP/1, and reads one answer.
pub(super) async fn over_http1(io: Pipe, request: &str) -> Heard {
    let mut peer = Peer::new(io);
    drop(peer.try_send(request).await); // the answer may come before the last byte is read
    match peer.message().await {
        None => Heard::Nothing,
        Some(cut) if !cut.is_whole => Heard::Cut(cut.status().expect("a status")),
        Some(whole) => Heard::Answer(whole.into()),
    }
}

/// A connection of HTTP/2.
pub(super) async fn connected(io: Pipe) -> SendRequest<Bytes> {
    let (send, conn) = client::handshake(io).await.expect("bytes can be sent");
    tokio::spawn(conn);
    send
}

/// A connection of HTTP/2 whose client hears neither that it should go (GOAWAY) nor what asks whether it has heard it
/// (PING).
pub(super) async fn deaf(io: Pipe) -> SendRequest<Bytes> {
    let (near, far) = Pipe::pair(64 * 1024);
    let ((mut from, mut to), (mut said, mut heard)) = (tokio::io::split(io), tokio::io::split(far));
    tokio::spawn(async move { tokio::io::copy(&mut said, &mut to).await });
    tokio::spawn(async move {
        let mut head = [0; 9];
        while from.read_exact(&mut head).await.is_ok() {
            let [a, b, c, kind, ..] = head;
            let mut frame = head.to_vec();
            frame.resize(head.len() + u32::from_be_bytes([0, a, b, c]) as usize, 0);
            let rest = from.read_exact(&mut frame[head.len()..]).await;
            let is_kept = rest.is_ok() && ![PING, GOAWAY].contains(&kind);
            if is_kept && heard.write_all(&frame).await.is_err() {
                return;
            }
        }
    });
    connected(near).await
}

/// Types of frames (RFC 9113, 6).
const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// A call of gRPC with this message.
pub(super) async fn call(send: &SendRequest<Bytes>, question: Question<'_>, message: &'static str) -> Heard {
    let Ok(mut send) = send.clone().ready().await else { return Heard::Nothing };
    let (answer, mut stream) = send.send_request(question.call(), false).expect("a stream");
    drop(stream.send_data(Bytes::from_static(message.as_bytes()), true));
    read(answer).await
}

async fn read(answer: client::ResponseFuture) -> Heard {
    let Ok(answer) = answer.await else { return Heard::Nothing };
    let (head, mut stream) = answer.into_parts();
    let status = head.status.as_u16();
    let Ok(body) = http2::read_body(&mut stream).await else { return Heard::Cut(status) };
    let Ok(trailers) = stream.trailers().await else { return Heard::Cut(status) };
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    Heard::Answer(Answer {
        status,
        fields: head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        body: String::from_utf8_lossy(&body).into_owned(),
        has_trailers: trailers.is_some(),
    })
}

impl Answer {
    /// The only value of a field.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let mut all = self.fields.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        let first = all.next()?;
        assert!(all.next().is_none(), "several {name}: {self:?}");
        Some(&first.1)
    }

    /// `grpc-message`, decoded.
    pub(super) fn grpc_message(&self) -> Option<String> {
        let mut bytes = self.field("grpc-message")?.bytes();
        let mut text = Vec::new();
        while let Some(byte) = bytes.next() {
            let mut digit = || char::from(bytes.next().unwrap_or_default()).to_digit(16).expect("a digit");
            text.push(if byte == b'%' { (digit() * 16 + digit()) as u8 } else { byte });
        }
        Some(String::from_utf8(text).expect("UTF-8"))
    }
}

impl From<Message> for Answer {
    fn from(message: Message) -> Self {
        let fields = message.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        Self {
            status: message.status().expect("a status"),
            fields: fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            has_trailers: http1::headers(&message.head, "trailer").next().is_some(),
            body: message.body,
        }
    }
}
