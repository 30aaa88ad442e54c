//! The parts of the pair benchmark, each a process: the origin, the load, the two relays of the floor, the two
//! sidecars.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pillion_model::cluster::UpstreamTls;
use pillion_model::identity::{Crl, Files, TlsPolicy, TlsVersion};
use pillion_tls::client::{AlpnOffer, ClientTls, Purpose};
use pillion_tls::identity::credentials::Credentials;
use pillion_tls::identity::issue::Ca;
use pillion_tls::server::{accept, server_config};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// One tick of `/proc/PID/stat` in microseconds.
const TICK_US: f64 = 10_000.0;
const POLICY: TlsPolicy = TlsPolicy { min_version: TlsVersion::Tls13, post_quantum: false };

/// A child process that has printed its address. It ends with its owner.
pub(crate) struct Part {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Part {
    /// Starts this program in another role.
    pub(crate) fn role(role: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(role).args(arguments);
        Self::start(command, "listening=")
    }

    fn start(mut command: Command, label: &str) -> anyhow::Result<Self> {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("a pipe")?).read_line(&mut line)?;
        let word = line.split_whitespace().find_map(|word| word.strip_prefix(label));
        let address = word.and_then(|word| word.parse().ok()).with_context(|| format!("it said {line:?}"))?;
        Ok(Self { child, address })
    }

    fn cpu_us(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
        ticks.sum::<f64>() * TICK_US
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The two processes between load and origin.
pub(crate) struct Relay {
    outbound: Part,
    inbound: Part,
}

impl Relay {
    pub(crate) fn floor(origin: SocketAddr, identities: &Identities) -> anyhow::Result<Self> {
        let inbound = Part::role("floor-in", &[&identities.folder("orders"), &origin.to_string()])?;
        let outbound = Part::role("floor-out", &[&identities.folder("web"), &inbound.address.to_string()])?;
        Ok(Self { outbound, inbound })
    }

    pub(crate) fn sidecars(
        origin: SocketAddr,
        identities: &Identities,
        protocol: &str,
    ) -> anyhow::Result<Self> {
        let tls = "workers: 1\ntls: { min_version: \"1.3\", post_quantum: off }";
        let ports = "admin: { listen: 127.0.0.1:0 }\nmetrics: { listen: 127.0.0.1:0 }";
        let inbound = format!(
            "{tls}\n{ports}\nidentity: {{ directory: orders }}\noutbound: off\n\
             inbound: {{ listen: 127.0.0.1:0, app: {origin} }}\n"
        );
        let inbound = identities.sidecar("in.yaml", &inbound, "inbound=")?;
        let outbound = format!(
            "{tls}\n{ports}\nidentity: {{ directory: web }}\ninbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\n\
             services: {{ orders: {{ listen: 127.0.0.1:0, endpoints: [\"{}\"], protocol: {protocol} }} }}\n",
            inbound.address
        );
        let outbound = identities.sidecar("out.yaml", &outbound, "service.orders=")?;
        Ok(Self { outbound, inbound })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.outbound.address
    }

    pub(crate) fn cpu_us(&self) -> f64 {
        self.outbound.cpu_us() + self.inbound.cpu_us()
    }
}

/// A folder with an identity for each side, removed when this is dropped.
pub(crate) struct Identities(PathBuf);

impl Identities {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("pillion-bench-{}", std::process::id()));
        let ca = Ca::generate("cluster.local")?;
        for name in ["web", "orders"] {
            let id = format!("spiffe://cluster.local/ns/default/sa/{name}").parse()?;
            let pem = ca.issue(&id, &[], Duration::from_secs(3600))?;
            let folder = folder.join(name);
            std::fs::create_dir_all(&folder)?;
            std::fs::write(folder.join("tls.crt"), pem.certificate)?;
            std::fs::write(folder.join("tls.key"), pem.key)?;
            std::fs::write(folder.join("ca.crt"), pem.bundle)?;
        }
        Ok(Self(folder))
    }

    fn folder(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn sidecar(&self, file: &str, text: &str, label: &str) -> anyhow::Result<Part> {
        let file = self.0.join(file);
        std::fs::write(&file, text)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
        command.arg("run").arg("-c").arg(file);
        Part::start(command, label)
    }
}

impl Drop for Identities {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// The number of requests that were answered over `connections` keep-alive connections, with one request in flight on
/// each.
pub(crate) fn load(target: SocketAddr, connections: usize, seconds: u64) -> anyhow::Result<u64> {
    let arguments = [target.to_string(), connections.to_string(), seconds.to_string()];
    let output = Command::new(std::env::current_exe()?).arg("load").args(arguments).output()?;
    String::from_utf8(output.stdout)?.trim().parse().context("the load printed no number")
}

/// Runs this program in the role of a part.
pub(crate) fn play(role: &str, arguments: &[String]) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let text = |index: usize| arguments.get(index).map_or("", String::as_str);
    match role {
        "origin" => runtime.block_on(origin()),
        "load" => runtime.block_on(drive(text(0).parse()?, text(1).parse()?, text(2).parse()?)),
        "floor-in" => runtime.block_on(floor_in(&credentials(text(0))?, text(1).parse()?)),
        "floor-out" => runtime.block_on(floor_out(&credentials(text(0))?, text(1).parse()?)),
        other => anyhow::bail!("no part is called {other}"),
    }
}

fn credentials(folder: &str) -> anyhow::Result<Credentials> {
    let path = |name: &str| PathBuf::from(folder).join(name);
    let (certificate, key, trust_bundle) = (path("tls.crt"), path("tls.key"), path("ca.crt"));
    Ok(Credentials::load(&Files {
        certificate,
        key,
        trust_bundle,
        crl: Crl::None,
        federation: BTreeMap::new(),
        trust_domain: None,
        max_connection_age: None,
    })?)
}

async fn listen() -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening={}", listener.local_addr()?);
    Ok(listener)
}

/// Answers every request with 1 KiB.
async fn origin() -> anyhow::Result<()> {
    let listener = listen().await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let body = Bytes::from_static(&[b'x'; 1024]);
        let service = service_fn(move |_: Request<Incoming>| {
            let response = Response::new(Full::new(body.clone()));
            async move { Ok::<_, Infallible>(response) }
        });
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
        );
    }
}

async fn drive(target: SocketAddr, connections: usize, seconds: u64) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let tasks: Vec<_> = (0..connections).map(|_| tokio::spawn(ask(target, end))).collect();
    let mut answered = 0;
    for task in tasks {
        answered += task.await??;
    }
    println!("{answered}");
    Ok(())
}

/// Sends one request after another. All responses have the size of the first one.
async fn ask(target: SocketAddr, end: Instant) -> anyhow::Result<u64> {
    let mut stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    let (mut answered, mut buffer) = (0, vec![0; 16 * 1024]);
    while Instant::now() < end {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await?;
        let mut filled = 0;
        while !is_whole(&buffer[..filled]) {
            let read = stream.read(&mut buffer[filled..]).await?;
            anyhow::ensure!(read > 0, "the connection was closed");
            filled += read;
        }
        anyhow::ensure!(buffer.starts_with(b"HTTP/1.1 200"), "an answer was not 200");
        answered += 1;
    }
    Ok(answered)
}

fn is_whole(answer: &[u8]) -> bool {
    answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .is_some_and(|head| answer.len() >= head + 4 + 1024)
}

/// Terminates TLS and relays bytes: the minimum of what the inbound sidecar does.
async fn floor_in(credentials: &Credentials, origin: SocketAddr) -> anyhow::Result<()> {
    let (config, listener) = (server_config(credentials, &POLICY)?, listen().await?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let config = config.clone();
        tokio::spawn(async move {
            let (mut near, ..) = accept(config, stream).await?;
            let mut far = TcpStream::connect(origin).await?;
            far.set_nodelay(true)?;
            copy_bidirectional(&mut near, &mut far).await?;
            anyhow::Ok(())
        });
    }
}

/// Originates TLS and relays bytes: the minimum of what the outbound sidecar does.
async fn floor_out(credentials: &Credentials, inbound: SocketAddr) -> anyhow::Result<()> {
    let mutual = UpstreamTls::Mutual { identities: Vec::new(), sni: None, trust_bundle: None };
    let tls = ClientTls::new(Some(credentials), &mutual, &POLICY, None, AlpnOffer::Http1)?;
    let (tls, listener) = (Arc::new(tls.context("mutual TLS")?), listen().await?);
    loop {
        let (mut near, _) = listener.accept().await?;
        near.set_nodelay(true)?;
        let tls = tls.clone();
        tokio::spawn(async move {
            let far = TcpStream::connect(inbound).await?;
            far.set_nodelay(true)?;
            let (mut far, _) = tls.connect(far, Purpose::Http).await?;
            copy_bidirectional(&mut near, &mut far).await?;
            anyhow::Ok(())
        });
    }
}
