//! Drives both roles with bytes in memory, as the shells do with sockets, and notes the messages that they read.

use http::{Method, StatusCode};
use pillion_http1::{
    After, Client, EndOfInput, Error, Fault, Fields, FromClient, FromUpstream, Length, Limits, RequestHead,
    ResponseHead, Server,
};

/// A message as it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// The method and the target, or the status and the reason.
    pub first: String,
    pub host: String,
    pub fields: Vec<(String, String)>,
    pub content: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

pub fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

pub fn pairs(fields: &Fields) -> Vec<(String, String)> {
    fields.iter().map(|(name, value)| (text(name), text(value))).collect()
}

impl Message {
    fn of_request(head: &RequestHead) -> Self {
        let first = format!("{} {}", head.method, head.target());
        Self { first, host: head.authority().to_owned(), fields: pairs(&head.fields), ..Self::default() }
    }

    pub fn of_answer(head: &ResponseHead) -> Self {
        let first = format!("{} {}", head.status.as_u16(), text(head.reason()));
        Self { first, fields: pairs(&head.fields), ..Self::default() }
    }

    pub fn content(&self) -> String {
        text(&self.content)
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }
}

/// A server that answers each complete request with an empty 200.
#[derive(Debug, Default)]
pub struct Served {
    pub server: Server,
    pub limits: Limits,
    pub buffer: Vec<u8>,
    pub requests: Vec<Message>,
    /// The request that has begun.
    pub current: Option<Message>,
    pub fault: Option<Fault>,
    /// Why no further request is read.
    pub after: Option<After>,
    pub written: Vec<u8>,
    /// The number of calls of `read`.
    pub reads: usize,
}

impl Served {
    pub fn of(bytes: &[u8]) -> Self {
        let mut served = Self::default();
        served.feed(bytes);
        served
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        while self.fault.is_none() && self.after.is_none() && self.step() {}
    }

    fn step(&mut self) -> bool {
        self.reads += 1;
        let (used, event) = match self.server.read(&self.buffer, &self.limits) {
            Ok(read) => read,
            Err(Error::Request(fault)) => {
                self.fault = Some(fault);
                return false;
            }
            Err(other) => panic!("{other}"),
        };
        self.buffer.drain(..used);
        match event {
            FromClient::More => return false,
            FromClient::Head(head) => {
                self.current = Some(Message::of_request(&head));
                if head.length.is_empty() {
                    self.answer();
                }
            }
            FromClient::Data(length) => {
                let data = self.buffer.drain(..length);
                self.current.as_mut().unwrap().content.extend(data);
            }
            FromClient::Trailers(trailers) => self.current.as_mut().unwrap().trailers = pairs(&trailers),
            FromClient::End => self.answer(),
        }
        true
    }

    fn answer(&mut self) {
        self.requests.push(self.current.take().unwrap());
        let (fields, out) = (Fields::default(), &mut self.written);
        self.server.write_head(StatusCode::OK, None, &fields, Length::Empty, out).unwrap();
        match self.server.after() {
            Some(After::Next) => self.server.next(),
            other => self.after = other,
        }
    }

    /// What the end of the client's bytes means in the current state.
    pub fn end(&mut self) -> EndOfInput {
        self.server.read_end()
    }
}

/// The only request of these bytes, which must be complete.
pub fn request(bytes: impl AsRef<[u8]>) -> Result<Message, Fault> {
    let mut served = Served::of(bytes.as_ref());
    match served.fault {
        Some(fault) => Err(fault),
        None if served.requests.len() == 1 => Ok(served.requests.remove(0)),
        None => panic!("{} requests in {}", served.requests.len(), text(bytes.as_ref())),
    }
}

pub fn status_of(fault: Fault) -> u16 {
    Error::Request(fault).status()
}

/// A client that has sent one request.
#[derive(Debug, Default)]
pub struct Asking {
    pub client: Client,
    pub limits: Limits,
    pub buffer: Vec<u8>,
    pub interim: Vec<Message>,
    pub answer: Option<Message>,
    pub length: Option<Length>,
    pub is_whole: bool,
    pub is_switched: bool,
    pub fault: Option<Fault>,
    pub written: Vec<u8>,
    pub reads: usize,
}

impl Asking {
    pub fn new(method: &str) -> Self {
        let mut fields = Fields::default();
        fields.append_named(b"Host", b"a").unwrap();
        Self::with(method, &fields, Length::Empty)
    }

    pub fn with(method: &str, fields: &Fields, length: Length) -> Self {
        let mut asking = Self::default();
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        asking.client.write_head(&method, "/", fields, length, &mut asking.written).unwrap();
        asking
    }

    pub fn answered(method: &str, answer: impl AsRef<[u8]>) -> Self {
        let mut asking = Self::new(method);
        asking.feed(answer.as_ref());
        asking
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        while self.fault.is_none() && !self.is_whole && !self.is_switched && self.step() {}
    }

    fn step(&mut self) -> bool {
        self.reads += 1;
        let (used, event) = match self.client.read(&self.buffer, &self.limits) {
            Ok(read) => read,
            Err(Error::Answer(fault)) => {
                self.fault = Some(fault);
                return false;
            }
            Err(other) => panic!("{other}"),
        };
        self.buffer.drain(..used);
        match event {
            FromUpstream::More => return false,
            FromUpstream::Interim(head) => self.interim.push(Message::of_answer(&head)),
            FromUpstream::Head(head) => {
                self.answer = Some(Message::of_answer(&head));
                self.length = Some(head.length);
                self.is_whole = head.length.is_empty();
            }
            FromUpstream::Switched(head) => {
                self.answer = Some(Message::of_answer(&head));
                self.is_switched = true;
            }
            FromUpstream::Data(length) => {
                let data = self.buffer.drain(..length);
                self.answer.as_mut().unwrap().content.extend(data);
            }
            FromUpstream::Trailers(trailers) => self.answer.as_mut().unwrap().trailers = pairs(&trailers),
            FromUpstream::End => self.is_whole = true,
        }
        true
    }

    pub fn end(&mut self) -> EndOfInput {
        let ended = self.client.read_end();
        self.is_whole |= ended == EndOfInput::Whole;
        ended
    }
}

/// The answer to a request with this method, which must be complete when the upstream has ended.
pub fn answer(method: &str, bytes: impl AsRef<[u8]>) -> Result<Message, Fault> {
    let mut asking = Asking::answered(method, &bytes);
    if let Some(fault) = asking.fault {
        return Err(fault);
    }
    if !asking.is_whole {
        assert_eq!(asking.end(), EndOfInput::Whole, "{}", text(bytes.as_ref()));
    }
    Ok(asking.answer.unwrap())
}
