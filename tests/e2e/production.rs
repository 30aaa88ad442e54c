//! What operators do to running sidecars, one after the other in one run, while clients send requests at a fixed rate and
//! streams stay open: reloads of good, equal and bad files, endpoints added and removed, new certificates, takeovers of both
//! sidecars, and restarts of one of two replicas under `pillion exec`. No request fails, and no stream is cut.
//!
//! The short version runs everywhere; `tests/long/production.sh` runs the long one with a release build.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::support::application::application;
use crate::support::backend::{Task, free};
use crate::support::certs::{Authority, DAY, Secret, spiffe};
use crate::support::launched::binary;
use crate::support::load::{Load, Size};
use crate::support::program::Program;
use crate::support::sidecar::{Plan, Sidecar};
use crate::support::wire::Wire;
use crate::support::{Scratch, eventually, soon};

const COMMON: &str = "admin: { listen: 127.0.0.1:0 }\nmetrics: { listen: 127.0.0.1:0 }\ndrain: { delay: 5s, timeout: 10m }\nidentity: { directory: certs }\n";

/// How often each thing is done. Those other than reloads are spread evenly over the reloads.
struct Length {
    reloads: usize,
    takeovers: usize,
    rotations: usize,
    restarts: usize,
    load: Size,
}

impl Length {
    fn chosen() -> Self {
        let (few, many) =
            (Size { rate: 100, clients: 10, streams: 4 }, Size { rate: 2_000, clients: 50, streams: 200 });
        match std::env::var_os("PILLION_TEST_FULL") {
            None => Self { reloads: 9, takeovers: 2, rotations: 2, restarts: 2, load: few },
            Some(_) => Self { reloads: 200, takeovers: 20, rotations: 20, restarts: 20, load: many },
        }
    }

    /// Whether something that is done `times` times is due after this reload.
    const fn is_due(&self, times: usize, turn: usize) -> bool {
        (turn + 1) * times / self.reloads > turn * times / self.reloads
    }
}

/// One of two replicas: an application and its sidecar, run by `pillion exec`.
struct Replica {
    scratch: Scratch,
    app: u16,
    running: Option<Program>,
}

impl Replica {
    async fn start(authority: &Authority) -> (Self, SocketAddr) {
        let (scratch, inbound, app) = (Scratch::new(), free(), free().port());
        authority.issue_into(&scratch.path().join("certs"), "replicas");
        scratch.write(
            "pillion.yaml",
            format!(
                "{COMMON}outbound: off\ninbound: {{ listen: \"{inbound}\", app: \"127.0.0.1:{app}\", mtls: strict }}\n"
            ),
        );
        let mut replica = Self { scratch, app, running: None };
        replica.run().await;
        (replica, inbound)
    }

    async fn run(&mut self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/exec_app.py");
        let mut command = Command::new(binary());
        command.arg("exec").arg("-c").arg(self.scratch.path().join("pillion.yaml"));
        command.args(["--", "python3", "-u"]).arg(script).arg("serves").arg(self.app.to_string());
        let mut running = Program::start(command);
        while running.line().await != "started" {}
        self.running = Some(running);
    }

    /// Ends the sidecar as operators do, and the application with it.
    async fn end(&mut self) {
        let mut running = self.running.take().expect("a running replica");
        let pid = running.pid().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().is_ok_and(|status| status.success()));
        let ended = eventually("the end of the replica", async || running.exited()).await;
        assert_eq!(ended.code(), Some(0), "{}", running.errors());
    }
}

/// Requests to the replicas, one after the other.
struct Asking {
    stops: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Asking {
    fn start(port: SocketAddr) -> Self {
        let (stops, answers) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let failures = Arc::<Mutex<Vec<String>>>::default();
        let (told, counted, failed) = (stops.clone(), answers.clone(), failures.clone());
        let task = tokio::spawn(async move {
            let mut wire = None;
            while !told.load(Relaxed) {
                let mut to = match wire.take() {
                    Some(to) => to,
                    None => Wire::connect(port).await,
                };
                let sent = to.try_send(b"GET / HTTP/1.1\r\nhost: replicas\r\n\r\n").await;
                let answer = match sent {
                    Ok(()) => soon("an answer", to.message()).await,
                    Err(_) => None,
                };
                let Some(answer) = answer else {
                    // a sidecar asks with its last answer to connect again, and does not just close a connection in use
                    failed.lock().push("no answer".to_owned());
                    continue;
                };
                match answer.status() {
                    200 if answer.is_whole => counted.fetch_add(1, Relaxed),
                    _ => {
                        failed.lock().push(format!("{} {:?}", answer.head, answer.text()));
                        0
                    }
                };
                wire = (answer.header("connection") != Some("close")).then_some(to);
                tokio::time::sleep(Duration::from_millis(2)).await; // the rate, which decides no result
            }
        });
        Self { stops, answers, failures, task }
    }

    async fn goes_on(&self) {
        let before = self.answers.load(Relaxed);
        eventually("answers of a replica", async || (self.answers.load(Relaxed) > before + 20).then_some(()))
            .await;
    }

    async fn stop(self) -> (usize, Vec<String>) {
        self.stops.store(true, Relaxed);
        soon("the end of a client", self.task).await.expect("a client that did not panic");
        (self.answers.load(Relaxed), self.failures.lock().clone())
    }
}

/// A pair with mutual TLS, and what was there before it.
struct Mesh {
    authority: Authority,
    caller: Sidecar,
    application: Sidecar,
    secrets: [Secret; 2],
    /// The addresses of the application's sidecar.
    endpoints: Vec<SocketAddr>,
    replicas: [SocketAddr; 2],
    app: SocketAddr,
    former: Vec<Sidecar>,
    _app: Task,
}

impl Mesh {
    async fn start(authority: Authority, replicas: [SocketAddr; 2]) -> Self {
        let (app, task) = application().await;
        let plan = |yaml: String, account: &str| {
            let plan = Plan::exactly(&yaml).with_takeover();
            authority.issue_into(&plan.directory().join("certs"), account);
            plan
        };
        let application = plan(application_yaml(app, 0), "orders").start().await;
        let endpoints = application.inbounds();
        let caller = plan(caller_yaml(&endpoints, replicas, 0), "web").start().await;
        let secrets = [(&caller, "web"), (&application, "orders")].map(|(sidecar, account)| {
            Secret::of(sidecar.directory().join("certs"), &authority.issue(account))
        });
        Self {
            authority,
            caller,
            application,
            secrets,
            endpoints,
            replicas,
            app,
            former: Vec::new(),
            _app: task,
        }
    }

    const fn both(&self) -> [&Sidecar; 2] {
        [&self.caller, &self.application]
    }

    fn files(&self, version: usize) -> [String; 2] {
        [caller_yaml(&self.endpoints, self.replicas, version), application_yaml(self.app, version)]
    }

    /// Writes both files: one that is new, one that means the same, and one that is wrong, in turn.
    async fn reload(&self, turn: usize) {
        let (outcome, more) = match turn % 3 {
            0 => ("applied", ""),
            1 => ("unchanged", "# the same\n"),
            _ => ("refused", "inbund: off\n"),
        };
        for (sidecar, yaml) in self.both().into_iter().zip(self.files(turn / 3 + 1)) {
            let before = sidecar.reloads(outcome).await;
            sidecar.configure(&(yaml + more));
            sidecar.signal("HUP");
            sidecar.reloaded(outcome, before).await;
        }
    }

    async fn rotate(&mut self, turn: usize) {
        let ttl = DAY + Duration::from_mins(turn as u64 + 1);
        let both = [(&self.caller, "web"), (&self.application, "orders")];
        for ((sidecar, account), secret) in both.into_iter().zip(&mut self.secrets) {
            let end = not_after(sidecar).await;
            secret.swap(&self.authority.issue_for(account, ttl));
            eventually("the new certificate", async || (not_after(sidecar).await > end).then_some(())).await;
        }
    }

    /// Replaces both processes. Their files are good ones first, because a successor refuses a bad one, as any start does.
    async fn take_over(&mut self, turn: usize) {
        self.both().into_iter().zip(self.files(turn / 3 + 1)).for_each(|(one, yaml)| one.configure(&yaml));
        let next = [self.caller.successor().await, self.application.successor().await];
        for (next, former) in next.iter().zip(self.both()) {
            assert_eq!(addresses(&next.ready), addresses(&former.ready));
        }
        let [caller, application] = next;
        self.former.push(std::mem::replace(&mut self.caller, caller));
        self.former.push(std::mem::replace(&mut self.application, application));
    }
}

/// The words of a ready line. Two addresses that are written alike in the file may change places.
fn addresses(ready: &str) -> BTreeSet<&str> {
    ready.split([' ', '=', ',']).collect()
}

async fn not_after(sidecar: &Sidecar) -> f64 {
    sidecar.scrape().await.sum("pillion_certificate_not_after_timestamp_seconds", &[("use", "own")])
}

/// With each version an endpoint is added or removed.
fn caller_yaml(endpoints: &[SocketAddr], [one, other]: [SocketAddr; 2], version: usize) -> String {
    let listed: Vec<_> =
        endpoints.iter().skip(version % 2).map(|endpoint| format!("\"{endpoint}\"")).collect();
    let (orders, replicas, timeout) = (spiffe("orders"), spiffe("replicas"), 20 + version);
    format!(
        "{COMMON}inbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\nservices:\n  \
         orders: {{ listen: 127.0.0.1:0, endpoints: [{}], tls: \"{orders}\", timeout: {timeout}s }}\n  \
         replicas: {{ listen: 127.0.0.1:0, endpoints: [\"{one}\", \"{other}\"], tls: \"{replicas}\" }}\n",
        listed.join(", ")
    )
}

fn application_yaml(app: SocketAddr, version: usize) -> String {
    format!(
        "{COMMON}outbound: off\ninbound: {{ listen: [\"127.0.0.1:0\", \"127.0.0.1:0\"], app: \"{app}\", mtls: strict, \
         max_requests: {} }}\n",
        10_000 + version
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_operators_do_fails_no_request_and_cuts_no_stream() {
    let length = Length::chosen();
    let authority = Authority::new();
    let ((one, at_one), (other, at_other)) =
        (Replica::start(&authority).await, Replica::start(&authority).await);
    let mut replicas = [one, other];
    let mut mesh = Mesh::start(authority, [at_one, at_other]).await;
    let load = Load::start([mesh.caller.orders(), mesh.caller.outbound()], length.load).await;
    let asking = Asking::start(mesh.caller.address("service.replicas"));
    let began = Instant::now();
    let mut done = [0; 4];
    for turn in 0..length.reloads {
        mesh.reload(turn).await;
        done[0] += 1;
        if length.is_due(length.rotations, turn) {
            mesh.rotate(turn).await;
            done[1] += 1;
        }
        if length.is_due(length.takeovers, turn) {
            mesh.take_over(turn).await;
            done[2] += 1;
        }
        if length.is_due(length.restarts, turn) {
            let replica = &mut replicas[done[3] % 2];
            replica.end().await;
            replica.run().await;
            done[3] += 1;
        }
        asking.goes_on().await;
        load.goes_on(length.load.rate as usize / 2).await;
    }
    let took = began.elapsed();
    assert_eq!(done, [length.reloads, length.rotations, length.takeovers, length.restarts]);
    let (of_replicas, failures) = asking.stop().await;
    let tally = load.stop().await;
    let [one, other] = &mut replicas;
    tokio::join!(one.end(), other.end());
    println!(
        "{done:?} reloads, rotations, takeovers and restarts in {took:.1?}: {} answers, {of_replicas} of replicas, {} echoes on {} \
         streams, {} late, slowest {:?}",
        tally.answers.load(Relaxed),
        tally.echoes.load(Relaxed),
        tally.streams.load(Relaxed),
        tally.late.load(Relaxed),
        tally.slowest.lock(),
    );
    assert_eq!((&*tally.failures.lock(), failures), (&Vec::new(), Vec::new()));
    for mut one in mesh.former {
        assert_eq!(one.exit().await.code(), Some(0), "{}", one.errors());
        assert!(!one.errors().contains("drain timeout"), "{}", one.errors());
    }
}
