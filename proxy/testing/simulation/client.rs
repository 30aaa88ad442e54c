//! Clients over HTTP/1 and HTTP/2, which check every answer.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use pillion_base::net::memory::{MemoryNetwork, Pipe};
use pillion_testkit::http1::{Message, Reader};
use tokio::io::{AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::time::{Instant, timeout};

use super::link::Hop;
use super::origin::{body, failure};
use super::plan::{Ask, Caller, Kind, TIMEOUT};
use super::world::World;

/// The network is healed after four seconds. After that nothing may take longer than the timeouts of a policy
/// together, and three seconds of silence in each direction.
const BOUND: Duration = Duration::from_secs(30);

/// How a client reaches the sidecar.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) memory: MemoryNetwork,
    pub(super) sidecar: SocketAddr,
    pub(super) hop: Arc<Hop>,
    pub(super) world: Arc<World>,
    /// Nothing happens to its connections, and nothing delays them.
    pub(super) is_clean: bool,
}

/// An answer, as far as it came.
struct Answer {
    status: u16,
    token: Option<String>,
    /// It has a header with which a sidecar says why it answers.
    has_reason: bool,
    body: Vec<u8>,
    is_whole: bool,
}

impl Client {
    pub(super) async fn play(self, caller: Caller) {
        if caller.is_http2 { self.play_http2(caller.asks).await } else { self.play_http1(caller.asks).await }
    }

    async fn connect(&self) -> Pipe {
        let server = self.memory.connect(self.sidecar).await.expect("the sidecar listens");
        let (near, far) = Pipe::pair(64 * 1024);
        tokio::spawn(self.hop.clone().carry(far, server));
        near
    }

    async fn play_http1(self, asks: Vec<Ask>) {
        let mut open: Option<Http1> = None;
        for ask in asks {
            tokio::time::sleep(Duration::from_millis(ask.after)).await;
            let mut connection = match open.take() {
                Some(connection) => connection,
                None => Http1::new(self.connect().await),
            };
            self.world.sent(ask.token);
            let is_reusable = self.watched(&ask, connection.ask(&ask, &self)).await.unwrap_or(false);
            open = is_reusable.then_some(connection);
        }
    }

    async fn play_http2(self, asks: Vec<Ask>) {
        let mut open: Option<SendRequest<Bytes>> = None;
        let mut running = Vec::new();
        for ask in asks {
            tokio::time::sleep(Duration::from_millis(ask.after)).await;
            let ready = match open.take() {
                Some(send) => send.ready().await.ok(),
                None => None,
            };
            let Some(send) = (match ready {
                Some(send) => Some(send),
                None => self.handshake().await,
            }) else {
                continue;
            };
            open = Some(send.clone());
            let client = self.clone();
            running.push(tokio::spawn(async move {
                client.world.sent(ask.token);
                client.watched(&ask, client.ask_http2(&ask, send)).await.unwrap_or_default();
            }));
        }
        for request in running {
            if request.await.is_err() {
                self.world.fault("a client panicked".to_owned());
            }
        }
    }

    /// `None`: the connection broke.
    async fn handshake(&self) -> Option<SendRequest<Bytes>> {
        let io = self.connect().await;
        let (send, connection) = timeout(BOUND, h2::client::handshake(io)).await.ok()?.ok()?;
        tokio::spawn(connection);
        Some(send)
    }

    /// Notes how a request ends, within bounds.
    async fn watched<T>(&self, ask: &Ask, asking: impl Future<Output = (String, bool, T)>) -> Option<T> {
        let patience = ask.patience.map_or(BOUND, Duration::from_millis);
        match timeout(patience, asking).await {
            Ok((how, is_answer, result)) => {
                self.world.ended(ask.token, &how, is_answer);
                Some(result)
            }
            Err(_) => {
                if ask.patience.is_none() {
                    self.world.fault(format!("request {} still waits after {BOUND:?}", ask.token));
                }
                self.world.ended(ask.token, "its client gives up", false);
                None
            }
        }
    }

    async fn ask_http2(&self, ask: &Ask, mut send: SendRequest<Bytes>) -> (String, bool, ()) {
        let (began, sent) = (Instant::now(), send.send_request(request(ask), ask.size == 0));
        let Ok((response, mut stream)) = sent else { return ("not sent".to_owned(), false, ()) };
        let all = body(ask.token, false, ask.size);
        let sending = async {
            let pieces = all.chunks(4_000).collect::<Vec<_>>();
            for (nth, piece) in pieces.iter().enumerate() {
                tokio::time::sleep(Duration::from_millis(ask.pace)).await;
                if stream.send_data(Bytes::copy_from_slice(piece), nth + 1 == pieces.len()).is_err() {
                    return;
                }
            }
        };
        let receiving = async {
            let response = response.await?;
            self.check_time(ask, began);
            read_http2(ask, response).await
        };
        let (mut sending, mut receiving) = (pin!(sending), pin!(receiving));
        let answer = tokio::select! { // what is not sent yet goes on below
            biased;
            answer = &mut receiving => answer,
            () = &mut sending => receiving.await,
        };
        match answer {
            Ok(answer) => (self.check(ask, &answer), true, ()),
            Err(error) => (format!("{error}"), false, ()),
        }
    }

    /// The answer to a request that was complete at once has begun within its timeout.
    fn check_time(&self, ask: &Ask, began: Instant) {
        let took = began.elapsed();
        if ask.size == 0 && self.is_clean && took > Duration::from_millis(TIMEOUT + 100) {
            self.world.fault(format!("request {} had no answer for {took:?}", ask.token));
        }
    }

    /// Says what came. It must be an answer to this request, and nothing may be missing without a sign of it.
    fn check(&self, ask: &Ask, answer: &Answer) -> String {
        let Answer { status, token, has_reason, body: came, is_whole } = answer;
        let said = format!("{status}, {} bytes, whole: {is_whole}", came.len());
        let Some(token) = token else {
            if !has_reason {
                self.world.fault(format!("request {} has an answer that no replica sent: {said}", ask.token));
            }
            return format!("the sidecar answers {said}");
        };
        if *token != ask.token.to_string() {
            self.world.fault(format!("request {} has the answer of {token}: {said}", ask.token));
        }
        let right = if *status == 200 { body(ask.token, true, ask.answer_size) } else { failure(ask.token) };
        let is_right = if *is_whole { *came == right } else { right.starts_with(came) };
        if !is_right {
            self.world.fault(format!("the answer of {} is not the one that was sent: {said}", ask.token));
        }
        format!("a replica answers {said}")
    }
}

fn request(ask: &Ask) -> Request<()> {
    let request = Request::builder().method(method(ask.kind)).uri(format!("http://orders/ask/{}", ask.token));
    let mut request = request.header("x-token", ask.token).header("x-key", ask.key);
    match ask.kind {
        Kind::Grpc => request = request.header("content-type", "application/grpc").header("te", "trailers"),
        Kind::Keyed => request = request.header("idempotency-key", ask.token),
        _ => {}
    }
    if !ask.is_chunked && ask.size > 0 {
        request = request.header("content-length", ask.size);
    }
    request.body(()).expect("a request")
}

async fn read_http2(ask: &Ask, response: http::Response<h2::RecvStream>) -> Result<Answer, h2::Error> {
    let (head, mut stream) = response.into_parts();
    let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let has_reason = text("proxy-status").is_some() || text("grpc-status").is_some();
    let mut answer = Answer {
        status: head.status.as_u16(),
        token: text("x-token"),
        has_reason,
        body: Vec::new(),
        is_whole: false,
    };
    while let Some(data) = stream.data().await {
        let Ok(data) = data else { return Ok(answer) };
        stream.flow_control().release_capacity(data.len())?;
        answer.body.extend_from_slice(&data);
    }
    let Ok(trailers) = stream.trailers().await else { return Ok(answer) };
    let status = trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
    answer.is_whole =
        ask.kind != Kind::Grpc || answer.token.is_none() || status.is_some_and(|status| status == "0");
    Ok(answer)
}

/// A connection of HTTP/1 to the sidecar.
struct Http1 {
    reader: Reader<ReadHalf<Pipe>>,
    writer: WriteHalf<Pipe>,
}

impl Http1 {
    fn new(io: Pipe) -> Self {
        let (reader, writer) = tokio::io::split(io);
        Self { reader: Reader::new(reader), writer }
    }

    /// Says how it ended, whether there was an answer, and whether the connection can be used again.
    async fn ask(&mut self, ask: &Ask, client: &Client) -> (String, bool, bool) {
        let (began, Self { reader, writer }) = (Instant::now(), self);
        let (mut sending, mut receiving) =
            (pin!(send(writer, ask)), pin!(receive(reader, ask, client, began)));
        let (message, is_sent) = tokio::select! { // a body of which the sidecar has read enough is not sent on
            biased;
            message = &mut receiving => (message, false),
            is_sent = &mut sending => (receiving.await, is_sent),
        };
        let Some(message) = message else { return ("the connection closes".to_owned(), false, false) };
        let closes = message.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let answer = Answer {
            status: message.status(),
            token: message.header("x-token").map(str::to_owned),
            has_reason: message.header("proxy-status").is_some(),
            is_whole: message.is_whole,
            body: message.body,
        };
        (client.check(ask, &answer), true, is_sent && answer.is_whole && !closes)
    }
}

/// Whether all was sent.
async fn send(writer: &mut WriteHalf<Pipe>, ask: &Ask) -> bool {
    let key =
        if ask.kind == Kind::Keyed { format!("idempotency-key: {}\r\n", ask.token) } else { String::new() };
    let length = match ask.kind {
        Kind::Get => String::new(),
        _ if ask.is_chunked => "transfer-encoding: chunked\r\n".to_owned(),
        _ => format!("content-length: {}\r\n", ask.size),
    };
    let (method, token, shared) = (method(ask.kind), ask.token, ask.key);
    let mut next =
        format!("{method} /ask/{token} HTTP/1.1\r\nhost: orders\r\nx-token: {token}\r\nx-key: {shared}\r\n{key}{length}\r\n")
            .into_bytes();
    for piece in body(token, false, ask.size).chunks(4_000) {
        match ask.is_chunked {
            true => next.extend([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()),
            false => next.extend(piece),
        }
        if writer.write_all(&next).await.is_err() {
            return false;
        }
        next.clear();
        tokio::time::sleep(Duration::from_millis(ask.pace)).await;
    }
    if ask.is_chunked && ask.kind != Kind::Get {
        next.extend(b"0\r\n\r\n");
    }
    writer.write_all(&next).await.is_ok()
}

/// The final answer.
async fn receive(
    reader: &mut Reader<ReadHalf<Pipe>>,
    ask: &Ask,
    client: &Client,
    began: Instant,
) -> Option<Message> {
    loop {
        let head = reader.head().await?;
        if !head.starts_with("HTTP/1.1 1") {
            client.check_time(ask, began);
            return Some(reader.message_of(head).await);
        }
    }
}

const fn method(kind: Kind) -> &'static str {
    match kind {
        Kind::Get => "GET",
        Kind::Put => "PUT",
        Kind::Post | Kind::Keyed | Kind::Grpc => "POST",
    }
}
