//! Measures the cost of the control plane with many services: `cargo bench --bench control [-- SERVICES [ROUTES]]`, by
//! default 10,000 services of three endpoints and 2,000 routes.
//!
//! The sidecar is the built binary. It runs once in plaintext and once with an identity, so that every service has
//! mutual TLS. The output has: the start; the memory at rest; a reload that changes one service; the longest response
//! during each reload (the median over all reloads and the highest value, beside those of equal times without a reload:
//! the difference is the cost of a reload for a request, the rest is noise of the machine); the memory after the
//! reloads; the size of `/config`; and the CPU time of one update of endpoints, which is measured inside this process.

use std::fmt;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use pillion_tls::identity::issue::Ca;

/// The time in which the allocator returns memory that a start or a reload needed only briefly.
const CALM: Duration = Duration::from_secs(5);
const RELOADS: usize = 20;
/// A reload must not delay any request in flight for longer.
const BOUND: Duration = Duration::from_millis(5);
/// The pause between two requests of a client: the machine has two cores, and the clients must not dominate the
/// measurement.
const PAUSE: Duration = Duration::from_millis(1);
const CLIENTS: usize = 2;
/// The number of updates is large, because the kernel counts the CPU time of a thread in milliseconds.
const UPDATES: u32 = 200_000;

fn main() -> anyhow::Result<()> {
    let numbers: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let services = numbers.first().copied().unwrap_or(10_000);
    let routes = numbers.get(1).copied().unwrap_or(2_000);
    println!("{services} services of three endpoints, {routes} routes");
    let origin = origin()?;
    for has_identity in [false, true] {
        println!("{}", if has_identity { "with an identity" } else { "plaintext" });
        Scene::new(services, routes, origin, has_identity)?.play()?;
    }
    update_endpoints(services)
}

/// A folder with the two configurations that alternate.
struct Scene {
    folder: PathBuf,
    texts: [String; 2],
}

impl Scene {
    fn new(services: usize, routes: usize, origin: SocketAddr, has_identity: bool) -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("pillion-control-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let mut head = "workers: 1\ninbound: off\noutbound: { listen: 127.0.0.1:0 }\n\
                        admin: { listen: 127.0.0.1:0 }\nmetrics: { listen: 127.0.0.1:0 }\n"
            .to_owned();
        if has_identity {
            let (ca, id) =
                (Ca::generate("cluster.local")?, "spiffe://cluster.local/ns/default/sa/web".parse()?);
            let pem = ca.issue(&id, &[], Duration::from_secs(3600))?;
            fs::write(folder.join("tls.crt"), pem.certificate)?;
            fs::write(folder.join("tls.key"), pem.key)?;
            fs::write(folder.join("ca.crt"), pem.bundle)?;
            head += "identity: { directory: . }\n";
        }
        let texts = ["15s", "16s"].map(|timeout| head.clone() + &text(services, routes, origin, timeout));
        Ok(Self { folder, texts })
    }

    fn play(&self) -> anyhow::Result<()> {
        let file = self.folder.join("pillion.yaml");
        fs::write(&file, &self.texts[0])?;
        let began = Instant::now();
        let sidecar = Sidecar::start(&file)?;
        println!("  start                {:8.0} ms, {:.0} ms of CPU", ms(began.elapsed()), sidecar.cpu_ms());
        std::thread::sleep(CALM);
        println!("  at rest              {:8.1} MB", sidecar.memory("VmRSS")?);
        let mut reloads = Vec::new();
        let (loaded, quiet) = sidecar.longest_answers(|nth| {
            fs::write(&file, &self.texts[(nth + 1) % 2])?;
            reloads.push(sidecar.reload()?);
            Ok(())
        })?;
        reloads.sort_by(f64::total_cmp);
        let (least, middle, most) = (reloads[0], reloads[RELOADS / 2], reloads[RELOADS - 1]);
        println!("  reload of one change {middle:8.0} ms of CPU ({least:.0} to {most:.0})");
        println!("  longest answer       {loaded} while a reload goes on");
        println!("                       {quiet} without one");
        std::thread::sleep(CALM);
        let (rest, peak) = (sidecar.memory("VmRSS")?, sidecar.memory("VmHWM")?);
        println!("  after {RELOADS} reloads     {rest:8.1} MB, {peak:.1} MB at the highest");
        for path in ["/config", "/config?service=service-7"] {
            let began = Instant::now();
            let size = sidecar.ask("GET", path)?.len();
            println!("  {path:26} {size:8} bytes in {:.0} ms", ms(began.elapsed()));
        }
        Ok(())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// The configuration. `service-0` has the real endpoint; the timeout of the service in the middle changes with each
/// reload.
fn text(services: usize, routes: usize, origin: SocketAddr, timeout: &str) -> String {
    let mut text = format!(
        "services:\n  service-0: {{ tls: off, endpoints: [\"{origin}\"] }}\n  changing: {{ endpoints: [10.0.0.1:80], \
         timeout: {timeout} }}\n"
    );
    for nth in 1..services.saturating_sub(1) {
        let network = format!("10.{}.{}", nth >> 8 & 255, nth & 255);
        text +=
            &format!("  service-{nth}: {{ endpoints: [{network}.1:80, {network}.2:80, {network}.3:80] }}\n");
    }
    text += if routes > 0 { "routes:\n" } else { "" };
    for nth in 1..=routes {
        let most = services.saturating_sub(1).max(1);
        let (host, to) = (nth % most, (nth + 1) % most);
        text += &format!(
            "  - {{ name: route-{nth}, hosts: [service-{host}], match: {{ path: {{ prefix: /v2 }} }}, to: service-{to} }}\n"
        );
    }
    text
}

struct Sidecar {
    child: Child,
    outbound: SocketAddr,
    admin: SocketAddr,
}

impl Sidecar {
    fn start(file: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
        let command = command.arg("run").arg("-c").arg(file).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("a pipe")?).read_line(&mut line)?;
        let address = |label: &str| {
            let word = line.split_whitespace().find_map(|word| word.strip_prefix(label));
            word.and_then(|word| word.parse().ok()).with_context(|| format!("it said {line:?}"))
        };
        let (outbound, admin) = (address("outbound=")?, address("admin=")?);
        Ok(Self { child, outbound, admin })
    }

    /// The CPU time of the process's first thread, which applies configurations.
    fn cpu_ms(&self) -> f64 {
        let id = self.child.id();
        on_cpu_ms(&format!("/proc/{id}/task/{id}/schedstat"))
    }

    /// A value of `/proc/PID/status` in megabytes.
    fn memory(&self, what: &str) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(what)).context("a line of this name")?;
        let kib: f64 = line.trim_matches([':', ' ', '\t']).trim_end_matches(" kB").trim().parse()?;
        Ok(kib / 1024.0)
    }

    fn ask(&self, method: &str, path: &str) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(self.admin)?;
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        anyhow::ensure!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        Ok(answer)
    }

    /// Reloads, and returns the CPU time in milliseconds.
    fn reload(&self) -> anyhow::Result<f64> {
        let before = self.cpu_ms();
        let answer = self.ask("POST", "/reload")?;
        anyhow::ensure!(answer.contains("reloaded"), "{answer}");
        Ok(self.cpu_ms() - before)
    }

    /// The longest response during each reload, and during times of equal length without a reload. `reload` gets the
    /// number of the reload.
    fn longest_answers(
        &self,
        mut reload: impl FnMut(usize) -> anyhow::Result<()>,
    ) -> anyhow::Result<(Longest, Longest)> {
        let over = AtomicBool::new(false);
        let (mut loaded, mut quiet) = (Vec::new(), Vec::new());
        let answers = std::thread::scope(|scope| {
            let clients: Vec<_> =
                (0..CLIENTS).map(|_| scope.spawn(|| ask_until(self.outbound, &over))).collect();
            let done: anyhow::Result<()> = (0..RELOADS).try_for_each(|nth| {
                let began = Instant::now();
                reload(nth)?;
                let took = began.elapsed();
                loaded.push(began..began + took);
                std::thread::sleep(10 * PAUSE);
                let began = Instant::now();
                std::thread::sleep(took);
                quiet.push(began..began + took);
                Ok(())
            });
            over.store(true, Relaxed);
            let mut answers = Vec::new();
            for client in clients {
                answers.extend(client.join().map_err(|_panicked| anyhow::anyhow!("a client panicked"))??);
            }
            done.map(|()| answers)
        })?;
        Ok((Longest::during(&loaded, &answers), Longest::during(&quiet, &answers)))
    }
}

/// The longest response in each of some times.
struct Longest {
    sorted: Vec<Duration>,
    /// Responses that took longer than [`BOUND`].
    above: usize,
    answers: usize,
}

impl Longest {
    fn during(times: &[Range<Instant>], answers: &[Range<Instant>]) -> Self {
        let (mut sorted, mut above, mut count) = (Vec::new(), 0, 0);
        for time in times {
            let within = answers.iter().filter(|answer| answer.start < time.end && time.start < answer.end);
            let took: Vec<_> = within.map(|answer| answer.end - answer.start).collect();
            above += took.iter().filter(|took| **took > BOUND).count();
            count += took.len();
            sorted.push(took.into_iter().max().unwrap_or_default());
        }
        sorted.sort();
        Self { sorted, above, answers: count }
    }
}

impl fmt::Display for Longest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sorted, above, answers } = self;
        let (middle, highest) = (sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
        write!(
            f,
            "{:8.2} ms (median of {}), {:.1} ms at the highest; ",
            ms(middle),
            sorted.len(),
            ms(highest)
        )?;
        write!(f, "{above} of {answers} answers took more than {} ms", BOUND.as_millis())
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The times of all requests and responses of one client, until `over` is set.
fn ask_until(outbound: SocketAddr, over: &AtomicBool) -> anyhow::Result<Vec<Range<Instant>>> {
    let mut stream = TcpStream::connect(outbound)?;
    stream.set_nodelay(true)?;
    let mut answers = Vec::new();
    let mut answer = vec![0; 4096];
    while !over.load(Relaxed) {
        let began = Instant::now();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: service-0\r\n\r\n")?;
        let mut read = 0;
        while !answer[..read].ends_with(b"\r\n\r\nok") {
            let more = stream.read(&mut answer[read..])?;
            anyhow::ensure!(more > 0, "a connection was closed");
            read += more;
        }
        anyhow::ensure!(answer.starts_with(b"HTTP/1.1 200"), "an answer was not 200");
        answers.push(began..Instant::now());
        std::thread::sleep(PAUSE);
    }
    Ok(answers)
}

/// A server that answers `ok` to everything, with a thread for each connection.
fn origin() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().filter_map(Result::ok) {
            std::thread::spawn(move || serve(stream));
        }
    });
    Ok(address)
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut request, mut read) = (vec![0; 4096], 0);
    loop {
        let more = stream.read(&mut request[read..])?;
        if more == 0 {
            return Ok(());
        }
        read += more;
        if request[..read].ends_with(b"\r\n\r\n") {
            read = 0;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")?;
        }
    }
}

/// Replaces the endpoints of one service again and again, beside all other services.
fn update_endpoints(services: usize) -> anyhow::Result<()> {
    let mut update = pillion::bench::endpoint_updates(services).context("a sidecar of many services")?;
    let own = "/proc/thread-self/schedstat";
    let before = on_cpu_ms(own);
    (0..UPDATES).for_each(|_| update());
    let each = (on_cpu_ms(own) - before) * 1000.0 / f64::from(UPDATES);
    println!("update of one service's three endpoints: {each:.1} us of CPU");
    Ok(())
}

fn on_cpu_ms(schedstat: &str) -> f64 {
    let text = fs::read_to_string(schedstat).unwrap_or_default();
    let nanos = text.split_whitespace().next().and_then(|first| first.parse::<f64>().ok());
    nanos.map_or(f64::NAN, |nanos| nanos / 1e6)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
