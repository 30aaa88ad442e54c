//! Reloads and rotations, one after the other, while clients send requests at a fixed rate and streams stay open. No
//! request fails, and no stream is cut.
//!
//! The short version runs everywhere; `tests/long/reload.sh` runs the long one with a release build.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;

use crate::support::application::application;
use crate::support::backend::Task;
use crate::support::certs::{Authority, DAY, Secret, spiffe};
use crate::support::eventually;
use crate::support::load::{Load, Size};
use crate::support::sidecar::{Plan, Sidecar, own_kib};

/// The growth of memory that each sidecar may have from the moment when all streams are open.
const MOST_GROWTH_KIB: u64 = 16 * 1024;
/// The number of further descriptors: a connection for each pool that a stream still needs, and those that the pools
/// open and close.
const MORE_DESCRIPTORS: usize = 64;
const OWN_PAGES: &str = "admin: { listen: 127.0.0.1:0 }\nmetrics: { listen: 127.0.0.1:0 }\n";
const IDENTITY: &str = "identity: { directory: certs }\n";
/// Every fourth reload has no signal: the sidecars must notice the file themselves.
const LOOKED_AT: usize = 4;

/// How long a run is.
struct Length {
    reloads: usize,
    /// At most one rotation for each reload.
    rotations: usize,
    load: Size,
}

/// The kinds of files, each with the outcome of its reload.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good,
    Equal,
    Bad,
}

impl Kind {
    /// The kinds take turns.
    const fn of(turn: usize) -> Self {
        match turn % 3 {
            0 => Self::Good,
            1 => Self::Equal,
            _ => Self::Bad,
        }
    }

    /// The outcome when the same file is read again.
    const fn again(self) -> Self {
        match self {
            Self::Good | Self::Equal => Self::Equal,
            Self::Bad => Self::Bad,
        }
    }

    const fn outcome(self) -> &'static str {
        match self {
            Self::Good => "applied",
            Self::Equal => "unchanged",
            Self::Bad => "refused",
        }
    }
}

/// A caller and an application with mTLS between them, and the parts of their files that change.
struct Mesh {
    authority: Authority,
    caller: Sidecar,
    application: Sidecar,
    secrets: [Secret; 2],
    endpoints: Vec<SocketAddr>,
    app: SocketAddr,
    _app: Task,
}

impl Mesh {
    async fn start() -> Self {
        let authority = Authority::new();
        let (app, task) = application().await;
        let plan = Plan::exactly(&application_yaml(app, 0, "")).identified(&authority, "orders");
        let application = plan.start().await;
        let endpoints = application.inbounds();
        let plan = Plan::exactly(&caller_yaml(&endpoints, 0, "")).identified(&authority, "web");
        let caller = plan.start().await;
        let secrets = [(&caller, "web"), (&application, "orders")].map(|(sidecar, account)| {
            Secret::of(sidecar.directory().join("certs"), &authority.issue(account))
        });
        let mesh = Self { authority, caller, application, secrets, endpoints, app, _app: task };
        for sidecar in mesh.both() {
            eventually("the first swap", async || (generation(sidecar).await > 1).then_some(())).await;
        }
        mesh
    }

    const fn both(&self) -> [&Sidecar; 2] {
        [&self.caller, &self.application]
    }

    /// Writes both files, and waits for the expected outcome.
    async fn reload(&self, turn: usize) {
        let kind = Kind::of(turn);
        let before = self.reloads(kind).await;
        for (sidecar, yaml) in self.both().into_iter().zip(self.files(turn)) {
            sidecar.configure(&(yaml + IDENTITY));
        }
        if turn % LOOKED_AT != LOOKED_AT - 1 {
            self.both().into_iter().for_each(|sidecar| sidecar.signal("HUP"));
        }
        self.reloaded(kind, before).await;
    }

    fn files(&self, turn: usize) -> [String; 2] {
        let version = turn / 3 + 1; // an equal or an invalid file uses the version of the good one before it
        let mut files = [caller_yaml(&self.endpoints, version, ""), application_yaml(self.app, version, "")];
        let app = self.app;
        match (Kind::of(turn), version % 3) {
            (Kind::Good, _) => {}
            (Kind::Equal, _) => files.iter_mut().for_each(|file| *file += &format!("# turn {turn}\n")),
            (Kind::Bad, 0) => files.iter_mut().for_each(|file| *file += "}: [\n"),
            (Kind::Bad, 1) => files.iter_mut().for_each(|file| *file += "inbund: off\n"),
            (Kind::Bad, _) => {
                let taken = format!("  taken: {{ listen: \"{app}\", endpoints: [\"{app}\"] }}\n");
                files[0] = caller_yaml(&self.endpoints, version, &taken);
                let taken = format!("  ports: {{ 9: {{ listen: \"{app}\" }} }}\n");
                files[1] = application_yaml(app, version + version % 2, &taken);
            }
        }
        files
    }

    async fn reloads(&self, kind: Kind) -> [u32; 2] {
        let [caller, application] = self.both();
        [caller.reloads(kind.outcome()).await, application.reloads(kind.outcome()).await]
    }

    async fn reloaded(&self, kind: Kind, before: [u32; 2]) {
        for (sidecar, before) in self.both().into_iter().zip(before) {
            sidecar.reloaded(kind.outcome(), before).await;
        }
    }

    /// Installs new certificates: alternately all files at once, and one after the other with one of them half written
    /// for
    /// a while. `kind` is the kind of the configuration files at this moment.
    async fn rotate(&mut self, number: usize, kind: Kind) {
        let ttl = DAY + Duration::from_mins(number as u64 + 1);
        let issued = ["web", "orders"].map(|account| self.authority.issue_for(account, ttl));
        let ends = [not_after(&self.caller).await, not_after(&self.application).await];
        if number.is_multiple_of(2) {
            self.secrets.iter_mut().zip(&issued).for_each(|(secret, issued)| secret.swap(issued));
        } else {
            self.secrets.iter().zip(&issued).for_each(|(secret, issued)| secret.write_half(issued));
            let before = self.reloads(kind.again()).await;
            self.both().into_iter().for_each(|sidecar| sidecar.signal("HUP")); // a sidecar reads the certificates first
            self.reloaded(kind.again(), before).await;
            assert_eq!(ends, [not_after(&self.caller).await, not_after(&self.application).await]);
            self.secrets.iter().zip(&issued).for_each(|(secret, issued)| secret.write(issued));
        }
        for (sidecar, end) in self.both().into_iter().zip(ends) {
            eventually("the new certificate", async || (not_after(sidecar).await > end).then_some(())).await;
        }
    }

    fn own_kib(&self) -> [u64; 2] {
        self.both().map(|sidecar| own_kib(sidecar.pid()))
    }

    fn descriptors(&self) -> [usize; 2] {
        self.both().map(Sidecar::open_descriptors)
    }
}

async fn not_after(sidecar: &Sidecar) -> f64 {
    sidecar.scrape().await.sum("pillion_certificate_not_after_timestamp_seconds", &[("use", "own")])
}

async fn generation(sidecar: &Sidecar) -> u64 {
    let generation = sidecar.scrape().await.sum("pillion_config_generation", &[]);
    format!("{generation}").parse().expect("a whole number")
}

/// Each version has another timeout, another order of the endpoints with one of them removed, and a service with its
/// port that comes and goes.
fn caller_yaml(endpoints: &[SocketAddr], version: usize, more: &str) -> String {
    let (one, other) = (endpoints[0], endpoints[1]);
    let list = match version % 3 {
        0 => format!("\"{one}\", \"{other}\""),
        1 => format!("\"{other}\", \"{one}\""),
        _ => format!("\"{other}\""),
    };
    let (orders, timeout) = (spiffe("orders"), 20 + version);
    let extra = match version % 2 {
        1 => format!("  extra: {{ listen: 127.0.0.1:0, endpoints: [\"{one}\"], tls: \"{orders}\" }}\n"),
        _ => String::new(),
    };
    format!(
        "{OWN_PAGES}inbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\nservices:\n  orders: {{ listen: \
         127.0.0.1:0, endpoints: [{list}], tls: \"{orders}\", timeout: {timeout}s }}\n{extra}{more}"
    )
}

/// Each version has another limit, and a port that comes and goes.
fn application_yaml(app: SocketAddr, version: usize, more: &str) -> String {
    let limit = 10_000 + version;
    let extra = match version % 2 {
        1 => "  ports: { 9: { listen: 127.0.0.1:0 } }\n",
        _ => "",
    };
    format!(
        "{OWN_PAGES}outbound: off\ninbound:\n  listen: [\"127.0.0.1:0\", \"127.0.0.1:0\"]\n  app: \"{app}\"\n  \
         max_requests: {limit}\n{extra}{more}"
    )
}

async fn nothing_is_lost(length: &Length) {
    let mut mesh = Mesh::start().await;
    let ports = [mesh.caller.outbound(), mesh.caller.orders()];
    let load = Load::start(ports, length.load).await;
    let a_second = length.load.rate as usize;
    load.goes_on(2 * a_second).await;
    let (memory, descriptors, began) = (mesh.own_kib(), mesh.descriptors(), Instant::now());

    let mut looks = 0;
    for turn in 0..length.reloads {
        mesh.reload(turn).await;
        let rotated = turn * length.rotations / length.reloads;
        if (turn + 1) * length.rotations / length.reloads > rotated {
            mesh.rotate(rotated, Kind::of(turn)).await;
            looks += 1;
        }
        load.goes_on(a_second / 10).await;
    }
    assert_eq!(looks, length.rotations);
    let took = began.elapsed();

    let good = u32::try_from(length.reloads.div_ceil(3)).expect("fewer");
    assert_eq!(mesh.reloads(Kind::Good).await, [good; 2], "each good file is put to work once");
    eventually("descriptors of pools that are gone", async || {
        let now = mesh.descriptors();
        let few = now.iter().zip(descriptors).all(|(now, before)| *now <= before + MORE_DESCRIPTORS);
        few.then_some(())
    })
    .await;
    let after = (mesh.own_kib(), mesh.descriptors());
    let retries = mesh.caller.scrape().await.sum("pillion_retries_total", &[]).abs(); // no series: -0
    let tally = load.stop().await;
    let failures = tally.failures.lock();
    println!(
        "{} reloads and {} rotations of both sidecars in {took:.1?}: {} answers, {} failures, {} late, slowest {:.1?} \
         after its time, {retries} retries; {} echoes on {} streams; memory {memory:?} KiB, then {:?}; descriptors \
         {descriptors:?}, then {:?} (caller, application)",
        length.reloads,
        length.rotations,
        tally.answers.load(Relaxed),
        failures.len(),
        tally.late.load(Relaxed),
        tally.slowest.lock(),
        tally.echoes.load(Relaxed),
        tally.streams.load(Relaxed),
        after.0,
        after.1,
    );
    assert!(failures.is_empty(), "{failures:#?}");
    for (before, after) in memory.into_iter().zip(after.0) {
        assert!(after < before + MOST_GROWTH_KIB, "{before} KiB, then {after} KiB");
    }
}

/// Runs briefly, or with `PILLION_TEST_FULL=1` long enough to show growth; that needs a release build.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_and_rotations_lose_no_request_and_cut_no_stream() {
    let length = match std::env::var_os("PILLION_TEST_FULL") {
        None => Length { reloads: 12, rotations: 6, load: Size { rate: 200, clients: 10, streams: 10 } },
        Some(_) => {
            Length { reloads: 200, rotations: 100, load: Size { rate: 1000, clients: 50, streams: 100 } }
        }
    };
    nothing_is_lost(&length).await;
}
