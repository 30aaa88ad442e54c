//! A Consul that has a KV store alone: its paths, its index, and queries that wait for a change.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::backend::Task;
use super::wire::Wire;

pub(crate) struct Consul {
    pub(crate) address: SocketAddr,
    store: Arc<Mutex<Store>>,
    changes: watch::Sender<()>,
    serving: Option<Task>,
}

#[derive(Default)]
struct Store {
    index: u64,
    keys: BTreeMap<String, (Vec<u8>, u64)>,
    /// The indexes of keys that were removed.
    removed: BTreeMap<String, u64>,
    token: Option<String>,
    /// The paths of all questions.
    asked: Vec<String>,
}

impl Consul {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(super::backend::free()).await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let store = Store { index: 10, ..Store::default() };
        let mut consul = Self {
            address,
            store: Arc::new(Mutex::new(store)),
            changes: watch::channel(()).0,
            serving: None,
        };
        consul.serve(listener);
        consul
    }

    fn serve(&mut self, listener: TcpListener) {
        let (store, changes) = (self.store.clone(), self.changes.clone());
        let serving = async move {
            let mut connections = JoinSet::new(); // which end with the server
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(answer(Wire::new(stream), store.clone(), changes.subscribe()));
            }
        };
        self.serving = Some(Task(tokio::spawn(serving)));
    }

    /// Closes its port and every connection, as a process that is killed does.
    pub(crate) fn kill(&mut self) {
        self.serving = None;
    }

    pub(crate) async fn start_again(&mut self) {
        let address = self.address;
        let listener = super::eventually("the port is free again", async || {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.set_reuseaddr(true).expect("an option of every socket");
            socket.bind(address).ok()?;
            socket.listen(64).ok()
        });
        let listener = listener.await;
        self.serve(listener);
    }

    pub(crate) fn put(&self, key: &str, value: impl Into<Vec<u8>>) {
        self.change(|store| {
            store.keys.insert(key.to_owned(), (value.into(), store.index));
        });
    }

    /// Changes many keys at one index, as a transaction does.
    pub(crate) fn put_all(&self, keys: impl IntoIterator<Item = (String, String)>) {
        self.change(|store| {
            let index = store.index;
            store.keys.extend(keys.into_iter().map(|(key, value)| (key, (value.into_bytes(), index))));
        });
    }

    pub(crate) fn delete(&self, key: &str) {
        self.change(|store| {
            store.keys.remove(key);
            store.removed.insert(key.to_owned(), store.index);
        });
    }

    /// Begins to count anew, as a server does whose data was restored.
    pub(crate) fn reset_index(&self) {
        let mut store = self.store.lock();
        store.index = 2;
        store.removed.clear();
        store.keys.values_mut().for_each(|(_, index)| *index = 2);
        self.changes.send_replace(());
    }

    pub(crate) fn ask_for_token(&self, token: &str) {
        self.store.lock().token = Some(token.to_owned());
        self.changes.send_replace(());
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.store.lock().asked.clone()
    }

    fn change(&self, change: impl FnOnce(&mut Store)) {
        let mut store = self.store.lock();
        store.index += 1;
        change(&mut store);
        self.changes.send_replace(());
    }
}

impl Store {
    fn found(&self, key: &str, recurse: bool) -> (u64, Vec<serde_json::Value>) {
        let is_it = |name: &str| if recurse { name.starts_with(key) } else { name == key };
        let found = self.keys.iter().filter(|(name, _)| is_it(name));
        let (mut last, mut all) = (0, Vec::new());
        for (name, (value, index)) in found {
            last = last.max(*index);
            all.push(serde_json::json!({
                "LockIndex": 0, "Key": name, "Flags": 0, "Value": STANDARD.encode(value),
                "CreateIndex": index, "ModifyIndex": index,
            }));
        }
        let removed = self.removed.iter().filter(|(name, _)| is_it(name)).map(|(_, index)| *index).max();
        let index = last.max(removed.unwrap_or_default());
        (if index == 0 { self.index } else { index }, all)
    }
}

/// One question on a connection. One with an index is answered when something is newer, when the index has gone
/// backwards, or after its time.
async fn answer(mut wire: Wire, store: Arc<Mutex<Store>>, mut changes: watch::Receiver<()>) {
    let Some(question) = wire.message().await else { return };
    let path = question.head.split(' ').nth(1).unwrap_or_default().to_owned();
    let (key, query) = path.split_once('?').unwrap_or((&path, ""));
    let key = key.strip_prefix("/v1/kv/").unwrap_or_default().replace("%20", " ");
    let number = |name: &str| -> Option<u64> {
        query.split('&').find_map(|part| part.strip_prefix(name)?.trim_end_matches('s').parse().ok())
    };
    let asked: u64 = number("index=").unwrap_or_default();
    let patience = Duration::from_secs(number("wait=").unwrap_or(300));
    let recurse = query.split('&').any(|part| part == "recurse");
    let token = question.header("x-consul-token").map(str::to_owned);
    store.lock().asked.push(path.clone());
    let waiting = async {
        loop {
            changes.borrow_and_update();
            let (index, all) = store.lock().found(&key, recurse);
            let is_refused = store.lock().token.as_ref().is_some_and(|wanted| Some(wanted) != token.as_ref());
            if is_refused || asked == 0 || index != asked {
                return (index, all, is_refused);
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let answered = tokio::time::timeout(patience, waiting).await;
    let (index, all, is_refused) = answered.unwrap_or_else(|_elapsed| {
        let (index, all) = store.lock().found(&key, recurse);
        (index, all, false)
    });
    let (status, body) = match (is_refused, all.is_empty()) {
        (true, _) => ("403 Forbidden", "Permission denied".to_owned()),
        (false, true) => ("404 Not Found", String::new()),
        (false, false) => ("200 OK", serde_json::Value::from(all).to_string()),
    };
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nx-consul-index: {index}\r\ncontent-length: {length}\r\n\r\n");
    drop(wire.try_send(head + &body).await);
    drop(wire.half_close_if_open().await);
}
