//! An API server of Kubernetes for tests, over any byte stream: EndpointSlices and Services in lists with pages, and in
//! watches with bookmarks. It can refuse, forget its history, send events of failure, cut connections and be silent.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

const SERVICE: &str = "kubernetes.io/service-name";

/// The server. Clones are the same server.
#[derive(Clone)]
pub struct ApiServer {
    state: Arc<Mutex<State>>,
    changes: watch::Sender<u64>,
}

struct State {
    version: u64,
    /// By kind (`endpointslices`), namespace and name.
    objects: BTreeMap<(String, String, String), Value>,
    /// The version, kind and namespace of each event. A bookmark is for all kinds.
    history: Vec<(u64, String, String, Value)>,
    /// Versions before this one are forgotten.
    oldest: u64,
    /// Counts the orders to end watches, and has the last one.
    ended: (u64, Ending),
    questions: Vec<Question>,
    faults: Faults,
}

/// How watches are ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// As the server does after a while.
    Closed,
    /// The connection is closed within an event.
    Cut,
    /// An event of failure with this code.
    Failed(u16),
    /// These bytes come in place of an event.
    Bytes(String),
}

/// What the server does wrong.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Questions whose path contains the text get this status.
    pub refuses: Option<(&'static str, u16)>,
    /// Questions get these bytes as their whole answer.
    pub answers: Option<String>,
    /// Questions are read and never answered.
    pub is_silent: bool,
    /// Answers come in pieces of so many bytes. 0: each in one.
    pub piece: usize,
    /// A page has no more objects, whatever the client asks for. 0: as many as it asks for.
    pub page: usize,
    /// Who does not have this token gets 401.
    pub token: Option<String>,
}

/// A question that was asked.
#[derive(Debug, Clone)]
pub struct Question {
    /// The path, without the query.
    pub path: String,
    /// The query, decoded.
    pub query: BTreeMap<String, String>,
    pub authorization: Option<String>,
}

impl Question {
    pub fn is_watch(&self) -> bool {
        self.query.contains_key("watch")
    }
}

impl Default for ApiServer {
    fn default() -> Self {
        let state = State {
            version: 100,
            objects: BTreeMap::new(),
            history: Vec::new(),
            oldest: 0,
            ended: (0, Ending::Closed),
            questions: Vec::new(),
            faults: Faults::default(),
        };
        Self { state: Arc::new(Mutex::new(state)), changes: watch::Sender::new(0) }
    }
}

/// An EndpointSlice with one port, whose endpoints are ready.
pub fn slice(name: &str, service: &str, port: u16, ips: &[&str]) -> Value {
    let endpoints = ips.iter().map(|ip| json!({ "addresses": [ip], "conditions": { "ready": true } }));
    slice_of(name, service, json!([{ "name": "http", "protocol": "TCP", "port": port }]), endpoints.collect())
}

/// An EndpointSlice.
pub fn slice_of(name: &str, service: &str, ports: Value, endpoints: Value) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": name, "namespace": "shop", "uid": "1", "labels": { (SERVICE): service, "x": "{\"}" },
            "managedFields": [{ "manager": "kube-controller-manager", "fieldsV1": { "f:endpoints": {} } }],
        },
        "endpoints": endpoints, "ports": ports,
    })
}

/// A Service with one port called `http`.
pub fn service(name: &str, port: u16) -> Value {
    let ports = json!([{ "name": "http", "protocol": "TCP", "port": port, "targetPort": "web" }]);
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "shop" },
        "spec": { "type": "ClusterIP", "clusterIP": "10.96.0.9", "ports": ports },
    })
}

impl ApiServer {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panicked with it")
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.lock());
        self.changes.send_modify(|count| *count += 1);
        changed
    }

    /// Creates or replaces an object of `shop`.
    pub fn apply(&self, object: Value) {
        self.apply_in("shop", object);
    }

    pub fn apply_in(&self, namespace: &str, mut object: Value) {
        let kind = match object["kind"].as_str() {
            Some("Service") => "services",
            _ => "endpointslices",
        };
        self.change(|state| {
            state.version += 1;
            object["metadata"]["resourceVersion"] = json!(state.version.to_string());
            let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
            let key = (kind.to_owned(), namespace.to_owned(), name);
            let before = state.objects.insert(key, object.clone());
            let of = if before.is_some() { "MODIFIED" } else { "ADDED" };
            let event = json!({ "type": of, "object": object });
            state.history.push((state.version, kind.to_owned(), namespace.to_owned(), event));
        });
    }

    /// Deletes an object of `shop`.
    pub fn delete(&self, kind: &str, name: &str) {
        self.change(|state| {
            let key = (kind.to_owned(), "shop".to_owned(), name.to_owned());
            let Some(mut object) = state.objects.remove(&key) else { return };
            state.version += 1;
            object["metadata"]["resourceVersion"] = json!(state.version.to_string());
            let event = json!({ "type": "DELETED", "object": object });
            state.history.push((state.version, kind.to_owned(), "shop".to_owned(), event));
        });
    }

    /// Sends a bookmark to all watches.
    pub fn bookmark(&self) {
        self.change(|state| {
            state.version += 1;
            let meta = json!({ "resourceVersion": state.version.to_string() });
            let event = json!({ "type": "BOOKMARK", "object": { "metadata": meta } });
            state.history.push((state.version, String::new(), String::new(), event));
        });
    }

    /// Forgets what has happened so far, so that older versions than the present one get 410.
    pub fn compact(&self) {
        self.change(|state| {
            state.oldest = state.version;
            state.history.clear();
        });
    }

    /// Ends all watches.
    pub fn end_watches(&self, ending: Ending) {
        self.change(|state| state.ended = (state.ended.0 + 1, ending));
    }

    /// Changes what the server does wrong, for questions that are asked from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.change(|state| state.faults = faults);
    }

    /// The questions so far.
    pub fn questions(&self) -> Vec<Question> {
        self.lock().questions.clone()
    }

    /// The first questions of lists of these objects.
    pub fn lists(&self, kind: &str) -> usize {
        let is_list = |question: &&Question| {
            question.path.ends_with(kind) && !question.is_watch() && !question.query.contains_key("continue")
        };
        self.lock().questions.iter().filter(is_list).count()
    }

    /// Serves the questions of a connection to its end.
    ///
    /// # Errors
    /// The client has gone.
    pub async fn serve<IO: AsyncRead + AsyncWrite + Unpin>(&self, mut io: IO) -> io::Result<()> {
        while let Some(question) = read(&mut io).await? {
            let faults = self.lock().faults.clone();
            self.change(|state| state.questions.push(question.clone()));
            if faults.is_silent {
                return std::future::pending().await;
            }
            if let Some(answer) = &faults.answers {
                return write(&mut io, answer.as_bytes(), faults.piece).await;
            }
            if let Some(status) = faults.refusal(&question) {
                answer(&mut io, status, &refusal(status), faults.piece).await?;
            } else if question.is_watch() {
                return self.watch(&mut io, &question, faults.piece).await;
            } else {
                let (status, body) = self.list(&question, faults.page);
                answer(&mut io, status, &body, faults.piece).await?;
            }
        }
        Ok(())
    }

    fn list(&self, question: &Question, most: usize) -> (u16, Value) {
        let state = self.lock();
        let (kind, namespace) = question.of();
        let limit = question.query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
        let limit = if most == 0 { limit } else { limit.min(most) };
        let (version, after) = match question.query.get("continue").and_then(|token| token.split_once('/')) {
            Some((version, after)) => (version.parse().expect("a token of ours"), after.to_owned()),
            None => (state.version, String::new()),
        };
        if version < state.oldest {
            return (410, refusal(410));
        }
        let all = state.objects.iter().filter(|((of, within, name), object)| {
            *of == kind && *within == namespace && *name > after && question.selects(object)
        });
        let all: Vec<_> = all.map(|((_, _, name), object)| (name, object)).collect();
        let page = all.get(..limit.min(all.len())).unwrap_or_default();
        let next = match page.last() {
            Some((name, _)) if page.len() < all.len() => format!("{version}/{name}"),
            _ => String::new(),
        };
        let items: Vec<_> = page.iter().map(|(_, object)| object).collect();
        (
            200,
            json!({ "metadata": { "resourceVersion": version.to_string(), "continue": next }, "items": items }),
        )
    }

    async fn watch<IO: AsyncWrite + Unpin>(
        &self,
        io: &mut IO,
        question: &Question,
        piece: usize,
    ) -> io::Result<()> {
        let number = |key: &str| question.query.get(key).and_then(|text| text.parse::<u64>().ok());
        let (mut version, (kind, namespace)) = (number("resourceVersion").unwrap_or(0), question.of());
        let end = Instant::now() + Duration::from_secs(number("timeoutSeconds").unwrap_or(3600));
        let (mut changes, ended) = (self.changes.subscribe(), self.lock().ended.0);
        if version < self.lock().oldest {
            return answer(io, 410, &refusal(410), piece).await;
        }
        io.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
        )
        .await?;
        loop {
            let (events, ending) = {
                let state = self.lock();
                let is_new = |(at, of, within, event): &&(u64, String, String, Value)| {
                    let is_of_it = *of == kind && *within == namespace && question.selects(&event["object"]);
                    *at > version && (of.is_empty() || is_of_it)
                };
                let events: Vec<_> = state.history.iter().filter(is_new).cloned().collect();
                (events, (state.ended.0 > ended).then(|| state.ended.1.clone()))
            };
            for (at, _, _, event) in events {
                version = at;
                chunks(io, format!("{event}\n").as_bytes(), piece).await?;
            }
            match ending {
                None => {}
                Some(Ending::Closed) => return io.write_all(b"0\r\n\r\n").await,
                Some(Ending::Cut) => return chunks(io, b"{\"type\":\"ADDED\",\"obj", piece).await,
                Some(Ending::Failed(code)) => {
                    let event = json!({ "type": "ERROR", "object": refusal(code) });
                    chunks(io, format!("{event}\n").as_bytes(), piece).await?;
                    return io.write_all(b"0\r\n\r\n").await;
                }
                Some(Ending::Bytes(bytes)) => {
                    chunks(io, bytes.as_bytes(), piece).await?;
                    return io.write_all(b"0\r\n\r\n").await;
                }
            }
            if timeout_at(end, changes.changed()).await.is_err() {
                return io.write_all(b"0\r\n\r\n").await;
            }
        }
    }
}

impl Faults {
    fn refusal(&self, question: &Question) -> Option<u16> {
        let refused = self.refuses.filter(|(path, _)| question.path.contains(path)).map(|(_, status)| status);
        let token = self.token.as_ref().map(|token| format!("Bearer {token}"));
        let is_unknown = token.is_some() && token != question.authorization;
        refused.or_else(|| is_unknown.then_some(401))
    }
}

impl Question {
    /// The kind and the namespace of the objects.
    fn of(&self) -> (String, String) {
        let mut parts = self.path.rsplit('/').map(str::to_owned);
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
    }

    fn selects(&self, object: &Value) -> bool {
        let named = |key: &str| self.query.get(key).map(String::as_str);
        let is_service = match named("labelSelector") {
            None => true,
            Some(selector) => {
                let list =
                    selector.strip_prefix(&format!("{SERVICE} in (")).and_then(|rest| rest.strip_suffix(')'));
                let service = object["metadata"]["labels"][SERVICE].as_str();
                list.expect("a selector of ours").split(',').any(|name| Some(name) == service)
            }
        };
        let is_named = named("fieldSelector").is_none_or(|selector| {
            selector.strip_prefix("metadata.name=") == object["metadata"]["name"].as_str()
        });
        is_service && is_named
    }
}

fn refusal(code: u16) -> Value {
    let (reason, message) = match code {
        401 => ("Unauthorized", "Unauthorized"),
        403 => {
            ("Forbidden", "endpointslices is forbidden: User \"system:serviceaccount:shop:web\" cannot list")
        }
        410 => ("Expired", "too old resource version: 1 (9)"),
        _ => ("InternalError", "it has failed"),
    };
    json!({ "kind": "Status", "status": "Failure", "message": message, "reason": reason, "code": code })
}

async fn read<IO: AsyncRead + Unpin>(io: &mut IO) -> io::Result<Option<Question>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match io.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(end) if end.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(broken) => return Err(broken),
        }
    }
    let head = String::from_utf8(head).expect("text");
    let target = head.split(' ').nth(1).expect("a target").to_owned();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let authorization = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("authorization").then(|| value.to_owned())
    });
    Ok(Some(Question {
        path: path.to_owned(),
        query: pairs.map(|(key, value)| (decoded(key), decoded(value))).collect(),
        authorization,
    }))
}

/// A part of a query as forms are encoded.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit =
                    || rest.next().and_then(|byte| char::from(byte).to_digit(16)).expect("a digit");
                u8::try_from(digit() * 16 + digit()).expect("two digits")
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).expect("text")
}

async fn answer<IO: AsyncWrite + Unpin>(
    io: &mut IO,
    status: u16,
    body: &Value,
    piece: usize,
) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status} It\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    io.write_all(head.as_bytes()).await?;
    chunks(io, body.to_string().as_bytes(), piece).await?;
    io.write_all(b"0\r\n\r\n").await
}

/// Writes the bytes as chunks of this length.
async fn chunks<IO: AsyncWrite + Unpin>(io: &mut IO, bytes: &[u8], piece: usize) -> io::Result<()> {
    for part in bytes.chunks(if piece == 0 { bytes.len().max(1) } else { piece }) {
        write(io, format!("{:x}\r\n", part.len()).as_bytes(), piece).await?;
        write(io, part, piece).await?;
        write(io, b"\r\n", piece).await?;
    }
    Ok(())
}

async fn write<IO: AsyncWrite + Unpin>(io: &mut IO, bytes: &[u8], piece: usize) -> io::Result<()> {
    for part in bytes.chunks(if piece == 0 { bytes.len().max(1) } else { piece }) {
        io.write_all(part).await?;
        io.flush().await?;
    }
    Ok(())
}
