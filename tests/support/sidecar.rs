//! The built binary with a configuration of the test, started, watched and ended.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::certs::{Authority, spiffe};
use super::launched::binary;
use super::metrics::Scrape;
use super::wire::Wire;
use super::{Scratch, eventually, soon};

const FILE: &str = "pillion.yaml";
const TAKEOVER: &str = "takeover.sock";

/// A sidecar that is not started yet.
pub(crate) struct Plan {
    scratch: Scratch,
    yaml: String,
    environment: Vec<(&'static str, PathBuf)>,
    has_takeover: bool,
    /// Another build than the one to test.
    build: Option<PathBuf>,
}

impl Plan {
    /// Exactly this configuration, and nothing else.
    pub(crate) fn exactly(yaml: &str) -> Self {
        Self {
            scratch: Scratch::new(),
            yaml: yaml.to_owned(),
            environment: Vec::new(),
            has_takeover: false,
            build: None,
        }
    }

    /// This configuration, with admin and metrics on free ports.
    pub(crate) fn new(yaml: &str) -> Self {
        Self::exactly(&format!(
            "admin: {{ listen: 127.0.0.1:0 }}\nmetrics: {{ listen: 127.0.0.1:0 }}\n\
             access_log: {{ path: stdout }}\n{yaml}\n"
        ))
    }

    /// A caller's sidecar with one service, `orders`, which has a port of its own.
    pub(crate) fn caller(orders: &str) -> Self {
        Self::new(&format!(
            "inbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\n\
             services:\n  orders: {{ listen: 127.0.0.1:0, {orders} }}"
        ))
    }

    /// A caller's sidecar whose service has one endpoint.
    pub(crate) fn calling(endpoint: SocketAddr, orders: &str) -> Self {
        let comma = if orders.is_empty() { "" } else { ", " };
        Self::caller(&format!("endpoints: [\"{endpoint}\"]{comma}{orders}"))
    }

    /// An application's sidecar.
    pub(crate) fn application(app: SocketAddr, inbound: &str) -> Self {
        let comma = if inbound.is_empty() { "" } else { ", " };
        Self::new(&format!(
            "outbound: off\ninbound: {{ listen: 127.0.0.1:0, app: \"{app}\"{comma}{inbound} }}"
        ))
    }

    /// Gives it a certificate.
    pub(crate) fn identified(mut self, authority: &Authority, account: &str) -> Self {
        authority.issue_into(&self.scratch.path().join("certs"), account);
        self.yaml.push_str("identity: { directory: certs }\n");
        self
    }

    /// The sidecar's certificate, as PEM.
    pub(crate) fn certificate(&self) -> Vec<u8> {
        std::fs::read(self.scratch.path().join("certs/tls.crt")).expect("a certificate of its own")
    }

    /// The directory of its files.
    pub(crate) fn directory(&self) -> &Path {
        self.scratch.path()
    }

    pub(crate) fn with(mut self, yaml: &str) -> Self {
        self.yaml.push_str(yaml);
        self.yaml.push('\n');
        self
    }

    /// Sets a variable of its environment.
    pub(crate) fn env(mut self, name: &'static str, value: &Path) -> Self {
        self.environment.push((name, value.to_owned()));
        self
    }

    /// Runs another build of the program, which may be of an earlier version.
    pub(crate) fn built_as(mut self, build: Option<&Path>) -> Self {
        self.build = build.map(Path::to_owned);
        self
    }

    /// The socket at which it will wait for its successor.
    pub(crate) fn takeover(&self) -> PathBuf {
        self.scratch.path().join(TAKEOVER)
    }

    /// Lets it wait for a successor ([`Sidecar::successor`]).
    pub(crate) fn with_takeover(mut self) -> Self {
        self.has_takeover = true;
        self
    }

    pub(crate) async fn start(self) -> Sidecar {
        let config = self.scratch.write(FILE, &self.yaml);
        let mut command = Command::new(self.build.clone().unwrap_or_else(binary));
        command.envs(self.environment);
        command.args(["run", "-c"]).arg(config);
        if self.build.is_none() {
            command.arg("--core-dumps"); // so that an ordinary user can read /proc/PID/fd
        }
        if self.has_takeover {
            command.arg("--takeover").arg(self.scratch.path().join(TAKEOVER));
        }
        Starting::new(command, Arc::new(self.scratch)).ready().await
    }
}

/// A sidecar that has not said yet that it is ready.
pub(crate) struct Starting {
    child: Option<Child>,
    lines: mpsc::UnboundedReceiver<String>,
    errors: Arc<Mutex<String>>,
    scratch: Arc<Scratch>,
}

impl Starting {
    pub(crate) fn new(mut command: Command, scratch: Arc<Scratch>) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the built binary starts");
        let lines = lines(child.stdout.take().expect("a pipe"));
        let errors = collect(child.stderr.take().expect("a pipe"));
        Self { child: Some(child), lines, errors, scratch }
    }

    pub(crate) async fn ready(mut self) -> Sidecar {
        let first = soon("the ready line", self.lines.recv()).await;
        let ready = first.unwrap_or_else(|| unreachable!("no ready line; {}", self.errors.lock()));
        Sidecar {
            addresses: addresses(&ready),
            child: self.child.take().expect("a running process"),
            lines: std::mem::replace(&mut self.lines, mpsc::unbounded_channel().1),
            errors: self.errors.clone(),
            scratch: self.scratch.clone(),
            status: None,
            ready,
        }
    }

    /// Waits for its end without a ready line. Returns its exit code and its log.
    pub(crate) async fn refused(mut self) -> (Option<i32>, String) {
        let line = soon("the end of its output", self.lines.recv()).await;
        assert!(line.is_none(), "{line:?}");
        let child = self.child.as_mut().expect("a running process");
        let ended =
            eventually("the end of the process", async || child.try_wait().expect("a child of ours")).await;
        let is_read = || Arc::strong_count(&self.errors) == 1; // the thread that reads the log has ended
        eventually("the end of its log", async || is_read().then_some(())).await;
        (ended.code(), self.errors.lock().clone())
    }

    /// Waits until its log contains this text.
    pub(crate) async fn has_said(&self, text: &str) {
        eventually(text, async || self.errors.lock().contains(text).then_some(())).await;
    }

    /// Waits until its log contains one of these texts, and tells which.
    pub(crate) async fn has_said_one_of(&self, texts: [&str; 2]) -> usize {
        let which = async || texts.iter().position(|text| self.errors.lock().contains(text));
        eventually(&texts.join(" or "), which).await
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.as_ref().expect("a running process"), name);
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn signal(child: &Child, name: &str) {
    let kill = format!("kill -{name} {}", child.id());
    let sent = Command::new("sh").args(["-c", &kill]).status();
    assert!(sent.is_ok_and(|status| status.success()), "{kill}");
}

/// A running process, which is killed at the end of the test.
pub(crate) struct Sidecar {
    child: Child,
    /// The ready line.
    pub(crate) ready: String,
    addresses: HashMap<String, Vec<SocketAddr>>,
    lines: mpsc::UnboundedReceiver<String>,
    errors: Arc<Mutex<String>>,
    status: Option<ExitStatus>,
    scratch: Arc<Scratch>,
}

impl Sidecar {
    pub(crate) fn address(&self, kind: &str) -> SocketAddr {
        let found = self.addresses.get(kind).and_then(|all| all.first());
        *found.unwrap_or_else(|| unreachable!("no {kind} in {}", self.ready))
    }

    pub(crate) fn inbound(&self) -> SocketAddr {
        self.address("inbound")
    }

    /// The addresses of `inbound.listen`.
    pub(crate) fn inbounds(&self) -> Vec<SocketAddr> {
        self.addresses.get("inbound").cloned().unwrap_or_default()
    }

    pub(crate) fn outbound(&self) -> SocketAddr {
        self.address("outbound")
    }

    pub(crate) fn dns(&self) -> SocketAddr {
        self.address("dns")
    }

    /// The service's own port of `orders`.
    pub(crate) fn orders(&self) -> SocketAddr {
        self.address("service.orders")
    }

    pub(crate) fn metrics(&self) -> SocketAddr {
        self.address("metrics")
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.address("admin")
    }

    pub(crate) async fn scrape(&self) -> Scrape {
        Scrape::of(self.metrics()).await
    }

    /// The status and the text of a page of the metrics port.
    pub(crate) async fn page(&self, path: &str) -> (u16, String) {
        let answer = Wire::connect(self.metrics()).await.get("pillion", path).await;
        (answer.status(), answer.text())
    }

    /// Waits until this many requests with these labels have been counted.
    pub(crate) async fn counted(&self, requests: u32, labels: &[(&str, &str)]) {
        let what = format!("{requests} requests with {labels:?}");
        let wanted = f64::from(requests);
        eventually(&what, async || {
            let counted = self.scrape().await.sum("pillion_requests_total", labels);
            assert!(counted <= wanted, "{what}: {counted} were counted");
            (counted == wanted).then_some(())
        })
        .await;
    }

    /// The directory of its files.
    pub(crate) fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// The content of its configuration file.
    pub(crate) fn configuration(&self) -> String {
        std::fs::read_to_string(self.directory().join(FILE)).expect("a file of its own")
    }

    /// Replaces its configuration file.
    pub(crate) fn configure(&self, yaml: &str) {
        let next = self.scratch.write("next.yaml", yaml);
        std::fs::rename(next, self.directory().join(FILE)).expect("the test's directory can be written");
    }

    /// The number of reloads with this outcome.
    pub(crate) async fn reloads(&self, outcome: &str) -> u32 {
        let count = self.scrape().await.sum("pillion_config_reloads_total", &[("outcome", outcome)]);
        format!("{count}").parse().expect("a whole number")
    }

    /// Waits until more than `before` reloads have had this outcome.
    pub(crate) async fn reloaded(&self, outcome: &str, before: u32) {
        let what = format!("a reload that is {outcome}");
        eventually(&what, async || (self.reloads(outcome).await > before).then_some(())).await;
    }

    pub(crate) fn open_descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("a running process").count()
    }

    /// The next line of standard output, which is a line of the access log.
    pub(crate) async fn log_line(&mut self) -> serde_json::Value {
        let line = soon("a line of the access log", self.lines.recv()).await.expect("a running sidecar");
        serde_json::from_str(&line).unwrap_or_else(|error| unreachable!("{error}: {line}"))
    }

    /// The resident memory in KiB, as the kernel counts it.
    pub(crate) fn rss_kib(&self) -> u64 {
        rss_kib(self.child.id())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// The socket at which it waits for its successor.
    pub(crate) fn takeover(&self) -> PathBuf {
        self.scratch.path().join(TAKEOVER)
    }

    /// Starts a successor with the same file, by `prefix` if that is a command.
    pub(crate) fn succeed_by(&self, prefix: Option<Command>) -> Starting {
        let mut command = match prefix {
            None => Command::new(binary()),
            Some(mut prefix) => {
                prefix.arg(binary());
                prefix
            }
        };
        command.args(["run", "--core-dumps", "-c"]).arg(self.scratch.path().join(FILE));
        command.arg("--takeover").arg(self.takeover());
        Starting::new(command, self.scratch.clone())
    }

    /// A successor that has taken over.
    pub(crate) async fn successor(&self) -> Self {
        self.succeed_by(None).ready().await
    }

    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.status = self.status.or_else(|| self.child.try_wait().expect("a child of ours"));
        self.status
    }

    pub(crate) async fn exit(&mut self) -> ExitStatus {
        eventually("the end of the process", async || self.exited()).await
    }

    /// Waits until this text is in its log.
    pub(crate) async fn has_logged(&self, text: &str) {
        eventually(text, async || self.errors().contains(text).then_some(())).await;
    }

    /// What it wrote to standard error.
    pub(crate) fn errors(&self) -> String {
        self.errors.lock().clone()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("{}\n{}", self.ready, self.errors());
        }
    }
}

pub(crate) fn open_descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a running process").count()
}

pub(crate) fn rss_kib(pid: u32) -> u64 {
    memory_kib(pid, "VmRSS:")
}

/// The resident memory in KiB without the pages of files: those of the program come and go.
pub(crate) fn own_kib(pid: u32) -> u64 {
    memory_kib(pid, "RssAnon:")
}

/// One of the sizes in the status of a process, in KiB: `VmHWM:` is the most resident memory so far, `RssFile:` what is
/// mapped of files.
pub(crate) fn memory_kib(pid: u32, which: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix(which)).expect("a size of a process");
    line.split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("a number of KiB")
}

/// `ready inbound=ADDR,ADDR outbound=…`
fn addresses(ready: &str) -> HashMap<String, Vec<SocketAddr>> {
    let words = ready.strip_prefix("ready ").unwrap_or_else(|| unreachable!("not a ready line: {ready}"));
    let kind = |word: &str| {
        let (kind, list) = word.split_once('=').expect("KIND=ADDRESS");
        let list = list.split(',').map(|address| address.parse().expect("an address")).collect();
        (kind.to_owned(), list)
    };
    words.split(' ').map(kind).collect()
}

/// Reads a pipe on a thread of its own: a full pipe would stop the sidecar's log.
fn lines(pipe: impl Read + Send + 'static) -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            drop(sender.send(line)); // keep reading even when the receiver is gone
        }
    });
    receiver
}

fn collect(pipe: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let collected = Arc::new(Mutex::new(String::new()));
    let to = collected.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let mut to = to.lock();
            to.push_str(&line);
            to.push('\n');
        }
    });
    collected
}

/// A caller `web` and an application `orders`, with mTLS between their sidecars.
pub(crate) struct Pair {
    pub(crate) caller: Sidecar,
    pub(crate) application: Sidecar,
}

impl Pair {
    /// A pair with this `drain` on both sides.
    pub(crate) async fn ending(app: SocketAddr, orders: &str, drain: &str) -> Self {
        let authority = Authority::new();
        let application =
            Plan::application(app, "").with(drain).identified(&authority, "orders").start().await;
        let comma = if orders.is_empty() { "" } else { ", " };
        let orders = format!("tls: \"{}\"{comma}{orders}", spiffe("orders"));
        let caller = Plan::calling(application.inbound(), &orders).with(drain).identified(&authority, "web");
        Self { caller: caller.start().await, application }
    }

    /// `orders` is the content of the service, `inbound` of the application's side.
    pub(crate) async fn start(app: SocketAddr, orders: &str, inbound: &str) -> Self {
        let authority = Authority::new();
        let application = Plan::application(app, inbound).identified(&authority, "orders").start().await;
        let comma = if orders.is_empty() { "" } else { ", " };
        let orders = format!("tls: \"{}\"{comma}{orders}", spiffe("orders"));
        let caller = Plan::calling(application.inbound(), &orders).identified(&authority, "web");
        Self { caller: caller.start().await, application }
    }
}
