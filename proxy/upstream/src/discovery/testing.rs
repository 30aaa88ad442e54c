//! A DNS server on loopback, with UDP and TCP on one port, whose answers a test chooses.
#![allow(clippy::unwrap_used, reason = "a test may panic when its environment fails")]

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::Resolver;
use super::system::Files;

/// The time to live of the server's records, unless a test sets another one.
pub const LIFETIME: Duration = Duration::from_secs(30);

/// What the server does with a question.
#[derive(Debug, Clone)]
pub enum Script {
    Records(Vec<IpAddr>),
    /// SRV records: priority, weight, port and target.
    Services(Vec<(u16, u16, u16, &'static str)>),
    Code(ResponseCode),
    Silent,
    /// The addresses after this time, over UDP.
    Slow(Duration, Vec<IpAddr>),
    /// Truncated over UDP, complete over TCP.
    Truncated(Vec<IpAddr>),
}

/// Keyed by lower-case absolute name and record type. Other names do not exist.
type Zone = HashMap<(String, RecordType), Script>;

#[derive(Debug, Default)]
struct ServerState {
    zone: Mutex<Zone>,
    asked: Mutex<Vec<String>>,
    one_more: Notify,
    /// The time to live of all records in seconds, plus one; 0: not set.
    lifetime: AtomicU32,
}

#[derive(Debug)]
pub struct DnsServer {
    pub address: SocketAddr,
    state: Arc<ServerState>,
    tasks: JoinSet<()>,
}

impl DnsServer {
    pub async fn start() -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        Self::on(udp, tcp, Arc::default())
    }

    /// A server, and sockets at the same port of these addresses that stay silent.
    pub async fn beside(silent: &[&str]) -> (Self, Vec<UdpSocket>) {
        loop {
            let server = Self::start().await;
            let mut sockets = Vec::new();
            for ip in silent {
                // the port may be taken at another address: then the next server has another one
                sockets.extend(UdpSocket::bind((*ip, server.address.port())).await);
            }
            if sockets.len() == silent.len() {
                return (server, sockets);
            }
        }
    }

    /// Closes all connections, and starts again on the same port with the same answers.
    pub async fn restart(self) -> Self {
        let Self { address, state, mut tasks } = self;
        tasks.shutdown().await;
        let udp = UdpSocket::bind(address).await.unwrap();
        let tcp = TcpListener::bind(address).await.unwrap();
        Self::on(udp, tcp, state)
    }

    fn on(udp: UdpSocket, tcp: TcpListener, state: Arc<ServerState>) -> Self {
        let address = udp.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(over_udp(udp, Arc::clone(&state)));
        tasks.spawn(over_tcp(tcp, Arc::clone(&state)));
        Self { address, state, tasks }
    }

    /// Sets the script for A and AAAA. Each takes the addresses of its family; a family without addresses gets an empty
    /// answer.
    pub fn say(&self, name: &str, script: &Script) {
        self.say_of(name, RecordType::A, script.clone());
        self.say_of(name, RecordType::AAAA, script.clone());
    }

    pub fn say_of(&self, name: &str, family: RecordType, script: Script) {
        self.state.zone.lock().insert((name.into(), family), script);
    }

    /// Sets the time to live of all records from now on.
    pub fn set_lifetime(&self, seconds: u32) {
        self.state.lifetime.store(seconds + 1, Relaxed);
    }

    /// The questions so far, as `A name.`, in order of arrival.
    pub fn asked(&self) -> Vec<String> {
        self.state.asked.lock().clone()
    }

    pub async fn heard_more_than(&self, questions: usize) {
        loop {
            let one_more = self.state.one_more.notified();
            if self.state.asked.lock().len() > questions {
                return;
            }
            one_more.await;
        }
    }

    /// A resolver that uses this server, with these further lines in resolv.conf and in hosts.
    pub fn resolver(&self, resolv_conf: &str, hosts: &str) -> (Resolver, Folder) {
        let folder = Folder::new();
        std::fs::write(folder.0.join("hosts"), hosts).unwrap();
        let resolv_conf = format!("nameserver {}\n{resolv_conf}\n", self.address.ip());
        std::fs::write(folder.0.join("resolv.conf"), resolv_conf).unwrap();
        (Resolver::of(folder.files(self.address.port())), folder)
    }
}

/// A folder that is removed at the end of the test.
#[derive(Debug)]
pub struct Folder(pub PathBuf);

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("pillion-dns-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn files(&self, port: u16) -> Files {
        Files { resolv_conf: self.0.join("resolv.conf"), hosts: self.0.join("hosts"), port }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

impl ServerState {
    /// How long the answer to a question takes, if it takes long.
    fn pause(&self, question: &[u8]) -> Option<Duration> {
        let question = Message::from_vec(question).unwrap();
        let query = question.queries.first().unwrap();
        let key = (query.name().to_string().to_lowercase(), query.query_type());
        match self.zone.lock().get(&key) {
            Some(Script::Slow(pause, _)) => Some(*pause),
            _ => None,
        }
    }

    /// `None` when the server stays silent.
    fn answer(&self, question: &[u8], udp: bool) -> Option<Vec<u8>> {
        let question = Message::from_vec(question).unwrap();
        let query = question.queries.first().unwrap().clone();
        let name = query.name().to_string().to_lowercase();
        let family = query.query_type();
        self.asked.lock().push(format!("{family} {name}"));
        self.one_more.notify_waiters();
        let script = self.zone.lock().get(&(name, family)).cloned();
        let mut answer = Message::response(question.metadata.id, OpCode::Query);
        answer.metadata.recursion_available = true;
        answer.add_query(query.clone());
        let lifetime = self.lifetime.load(Relaxed).checked_sub(1).unwrap_or(LIFETIME.as_secs() as u32);
        let mut services = Vec::new();
        let addresses = match script.unwrap_or(Script::Code(ResponseCode::NXDomain)) {
            Script::Silent => return None,
            Script::Code(code) => {
                answer.metadata.response_code = code;
                Vec::new()
            }
            Script::Services(all) => {
                services = all;
                Vec::new()
            }
            Script::Truncated(_) if udp => {
                answer.metadata.truncation = true;
                Vec::new()
            }
            Script::Truncated(addresses) | Script::Records(addresses) | Script::Slow(_, addresses) => {
                addresses
            }
        };
        let of_family = addresses.into_iter().filter(|ip| ip.is_ipv4() == (family == RecordType::A));
        answer.add_answers(
            of_family.map(|ip| Record::from_rdata(query.name().clone(), lifetime, RData::from(ip))),
        );
        answer.add_answers(services.into_iter().map(|(priority, weight, port, target)| {
            let target = Name::from_str_relaxed(target).unwrap();
            let data = RData::SRV(SRV::new(priority, weight, port, target));
            Record::from_rdata(query.name().clone(), lifetime, data)
        }));
        Some(answer.to_vec().unwrap())
    }
}

async fn over_udp(socket: UdpSocket, state: Arc<ServerState>) {
    let (socket, mut late, mut question) = (Arc::new(socket), JoinSet::new(), [0; 1500]);
    loop {
        let (length, from) = socket.recv_from(&mut question).await.unwrap();
        let pause = state.pause(&question[..length]);
        match (state.answer(&question[..length], true), pause) {
            (Some(answer), Some(pause)) => {
                let socket = Arc::clone(&socket);
                late.spawn(async move {
                    tokio::time::sleep(pause).await;
                    drop(socket.send_to(&answer, from).await); // the client may have gone
                });
            }
            (Some(answer), None) => drop(socket.send_to(&answer, from).await.unwrap()),
            (None, _) => {}
        }
    }
}

async fn over_tcp(listener: TcpListener, state: Arc<ServerState>) {
    let mut connections = JoinSet::new();
    loop {
        let (connection, _) = listener.accept().await.unwrap();
        connections.spawn(over_connection(connection, Arc::clone(&state)));
    }
}

async fn over_connection(mut connection: TcpStream, state: Arc<ServerState>) {
    while let Ok(length) = connection.read_u16().await {
        let mut question = vec![0; length.into()];
        connection.read_exact(&mut question).await.unwrap();
        if let Some(answer) = state.answer(&question, false) {
            connection.write_u16(answer.len().try_into().unwrap()).await.unwrap();
            connection.write_all(&answer).await.unwrap();
        }
    }
}
