//! Whole runs of the proxy that a seed decides: traffic, faults of the network, and changes of the configuration.
//!
//! [`plan`] says what a seed means. A run has one sidecar before several replicas, or a sidecar before each replica too
//! ([`origin`]). Clients ([`client`]) and replicas reach the sidecars through links that hold back, delay, cut and reset
//! ([`link`]). [`world`] knows every request, and notes each broken invariant. CONTRIBUTING.md says how to repeat a
//! seed, docs/reliability.md what is checked.
//!
//! Deliberately absent: TLS, whose keys are random, so that a byte position would not be the same in two runs; and opaque
//! bytes.

mod client;
mod link;
mod origin;
mod plan;
mod world;

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use pillion_model::{Endpoint, EndpointUpdate};
use tokio::task::JoinHandle;

use super::mesh::{self, Mesh, Sidecar, at, pass};
use client::Client;
use link::{Hop, Target};
use origin::Origin;
use plan::{Event, Place, Plan};
use world::World;

/// How many seeds are played without `PILLION_SEEDS`.
const SEEDS: u64 = 1_000;

/// The command that plays one seed and prints what happens.
const COMMAND: &str = "cargo test --lib -p pillion-process simulation::one_seed -- --nocapture";

/// The result of a run.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    hash: u64,
    faults: Vec<String>,
}

struct Run {
    plan: Plan,
    mesh: Mesh,
    sidecar: Sidecar,
    /// The sidecars before the replicas. They live as long as the run.
    applications: Vec<Sidecar>,
    /// Addresses by level (0: replicas, 1: the sidecars before them), then by replica.
    doors: Vec<Vec<Door>>,
    origins: Vec<Arc<Origin>>,
    policy: usize,
    members: u32,
    world: Arc<World>,
}

/// An address at which a replica, or its sidecar, is reached.
struct Door {
    address: SocketAddr,
    hop: Arc<Hop>,
    target: Target,
    /// `None`: the address refuses connections.
    listening: Option<JoinHandle<()>>,
}

impl Door {
    fn open(&mut self, mesh: &Mesh) {
        if self.listening.is_none() {
            self.listening = Some(link::listen(&mesh.memory, self.address, &self.hop, &self.target));
        }
    }

    async fn close(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
            drop(listening.await);
        }
    }
}

fn replica_address(plan: &Plan, replica: usize) -> SocketAddr {
    match plan.has_both_families && replica % 2 == 1 {
        true => at(&format!("[2001:db8::{}]:80", replica + 1)),
        false => at(&format!("10.0.0.{}:80", replica + 1)),
    }
}

fn sidecar_address(plan: &Plan, replica: usize) -> SocketAddr {
    match plan.has_both_families && replica % 2 == 1 {
        true => at(&format!("[2001:db8:1::{}]:15006", replica + 1)),
        false => at(&format!("10.1.0.{}:15006", replica + 1)),
    }
}

impl Run {
    fn new(seed: u64, is_loud: bool) -> Self {
        let plan = Plan::of(seed);
        let (mesh, world) = (Mesh::default(), Arc::new(World::new(&plan, is_loud)));
        let origins: Vec<_> = (0..plan.replicas).map(|nth| Origin::new(nth, &world)).collect();
        let mut doors = vec![replicas(&plan, &origins, &world)];
        let mut applications = Vec::new();
        if plan.has_pairs {
            applications = (0..plan.replicas).map(|nth| application(&mesh, &plan, nth)).collect();
            let all = applications.iter().enumerate();
            doors.push(all.map(|(nth, app)| before(&plan, nth, app, &world)).collect());
        }
        doors.iter_mut().flatten().for_each(|door| door.open(&mesh));
        let members = (1 << plan.replicas) - 1;
        let sidecar = mesh.sidecar(&file(&plan, 0, members, true), None);
        let run = Self { plan, mesh, sidecar, applications, doors, origins, policy: 0, members, world };
        run.learn();
        run
    }

    async fn play(mut self) -> Outcome {
        let clients = self.clients();
        let started = tokio::time::Instant::now();
        for (millis, event) in std::mem::take(&mut self.plan.events) {
            tokio::time::sleep_until(started + Duration::from_millis(millis)).await;
            self.world.note(&format!("{event:?}"));
            self.happen(event).await;
            self.check_gauges();
        }
        tokio::time::sleep_until(started + Duration::from_millis(4_000)).await;
        self.heal().await;
        for client in clients {
            if client.await.is_err() {
                self.world.fault("a client panicked".to_owned());
            }
        }
        pass(20).await;
        self.recover().await;
        self.reload(false); // a check is a connection
        pass(70).await;
        self.check_quiet();
        let (hash, mut faults) = self.world.result();
        faults.extend((0..panics()).map(|_| "a task panicked".to_owned()));
        Outcome { hash, faults }
    }

    fn clients(&self) -> Vec<JoinHandle<()>> {
        let callers = self.plan.callers.iter().enumerate();
        callers
            .map(|(nth, caller)| {
                let hop = Hop::new(format!("client {nth}"), None, caller.cut, &self.world);
                tokio::spawn(self.client(hop, caller.cut.is_none()).play(caller.clone()))
            })
            .collect()
    }

    fn client(&self, hop: Arc<Hop>, is_clean: bool) -> Client {
        let (memory, sidecar) = (self.mesh.memory.clone(), self.sidecar.address());
        Client { memory, sidecar, hop, world: self.world.clone(), is_clean }
    }

    async fn happen(&mut self, event: Event) {
        match event {
            Event::Die(place) => {
                let door = self.door(place);
                door.close().await;
                door.hop.reset();
            }
            Event::Vanish(place) => {
                let address = self.door(place).address;
                self.door(place).close().await;
                self.mesh.memory.black_hole(address);
                let hop = &self.door(place).hop;
                [plan::Way::There, plan::Way::Back].iter().for_each(|way| hop.hold(*way));
            }
            Event::Return(Place { replica, level }) => {
                let door = &mut self.doors[level][replica];
                door.hop.heal();
                door.open(&self.mesh);
            }
            Event::Hold(place, way) => self.door(place).hop.hold(way),
            Event::Delay(place, millis) => self.door(place).hop.delay(millis),
            Event::Cut(place, cut) => self.door(place).hop.cut(cut),
            Event::Behave(replica, manner, answers) => self.origins[replica].behave(Some((manner, answers))),
            Event::Reload(policy) => {
                self.policy = policy;
                self.reload(true);
            }
            Event::Members(members) => {
                self.members = members;
                if self.plan.learns { self.learn() } else { self.reload(true) }
            }
        }
    }

    fn door(&mut self, place: Place) -> &mut Door {
        &mut self.doors[place.level][place.replica]
    }

    fn reload(&mut self, is_checked: bool) {
        let text = file(&self.plan, self.policy, self.members, is_checked);
        if let Err(error) = self.sidecar.reload(&text) {
            self.world.fault(format!("a good file is refused: {error:#}"));
        }
    }

    fn learn(&self) {
        if self.plan.learns {
            let endpoints = members(&self.plan, self.members);
            self.sidecar.controller.learn(EndpointUpdate::known("orders", endpoints));
        }
    }

    async fn heal(&mut self) {
        self.world.note("everything is healed");
        for door in self.doors.iter_mut().flatten() {
            door.hop.heal();
            door.open(&self.mesh);
        }
        self.origins.iter().for_each(|origin| origin.behave(None));
    }

    /// Two more requests, which must succeed, since nothing is wrong any more, and go to the replicas that the policy
    /// says.
    async fn recover(&self) {
        let asks = self.world.farewells();
        let hop = Hop::new("the last client".to_owned(), None, None, &self.world);
        let before = self.succeeded();
        let tokens: Vec<_> = asks.iter().map(|ask| ask.token).collect();
        self.client(hop, true).play(plan::Caller { is_http2: false, cut: None, asks }).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        if self.succeeded() != before + 2 {
            self.world.fault("a request does not succeed although everything is healed".to_owned());
        }
        let policy = &self.plan.policies[self.policy];
        if policy.has_slow_start {
            return; // the first of the two may be the probe of an endpoint, which then gets a part of its share
        }
        let places: Vec<_> = tokens.into_iter().filter_map(|token| self.world.place(token)).collect();
        let levels = self.plan.levels.iter().enumerate();
        let first = levels.filter(|(nth, _)| self.members & (1 << nth) != 0).map(|(_, level)| *level).min();
        if places.iter().any(|place| self.plan.levels.get(*place).copied() != first) {
            self.world.fault(format!("replicas {places:?} get requests, and the first level is {first:?}"));
        }
        if policy.is_hashed && places.first() != places.last() {
            self.world.fault(format!("requests with the same key go to the replicas {places:?}"));
        }
    }

    fn succeeded(&self) -> u64 {
        self.sidecar.sum("pillion_requests_total direction=outbound status=200")
    }

    /// While traffic goes on: no gauge has gone below zero, and the limit of requests is between those of all policies.
    fn check_gauges(&self) {
        for (name, value) in gauges(&self.sidecar, &HELD) {
            if value < 0.0 {
                self.world.fault(format!("{name} is {value}"));
            }
        }
        for (name, value) in gauges(&self.sidecar, &["pillion_circuit_breaker_limit{"]) {
            if name.contains("limit=\"requests\"") && !(6.0..=1024.0).contains(&value) {
                self.world.fault(format!("{name} is {value}"));
            }
        }
    }

    /// At the end, when all is quiet: nothing is held, and each request was counted once.
    fn check_quiet(&self) {
        for sidecar in std::iter::once(&self.sidecar).chain(&self.applications) {
            // Health checks are off by now, and what was idle is closed.
            for (name, value) in gauges(sidecar, &HELD).filter(|(_, value)| *value != 0.0) {
                self.world.fault(format!("{name} is {value} when all is quiet"));
            }
        }
        for door in self.doors.iter().flatten().filter(|door| door.hop.open() > 0) {
            self.world.fault(format!("{}: {} connections are still open", door.hop.name, door.hop.open()));
        }
        for token in self.world.unended() {
            self.world.fault(format!("request {token} did not end once"));
        }
        let (least, most) = self.world.counted();
        let counted = self.sidecar.sum("pillion_requests_total direction=outbound service=orders");
        if !(least..=most).contains(&counted) {
            self.world.fault(format!("{counted} requests are counted, and there were {least} to {most}"));
        }
        self.world.note(&format!("{counted} requests were counted"));
    }
}

/// The gauges of what is held: permits, requests and connections.
const HELD: [&str; 3] =
    ["pillion_circuit_breaker_used{", "pillion_requests_active{", "pillion_connections_active{"];

/// The series whose names begin with one of `names`, and their values.
fn gauges(sidecar: &Sidecar, names: &[&str]) -> impl Iterator<Item = (String, f64)> {
    let text = sidecar.metrics.encode();
    let lines: Vec<_> = text.lines().filter(|line| names.iter().any(|name| line.starts_with(name))).collect();
    let value = |line: &&str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    lines.iter().filter_map(value).collect::<Vec<_>>().into_iter()
}

fn replicas(plan: &Plan, origins: &[Arc<Origin>], world: &Arc<World>) -> Vec<Door> {
    let door = |(nth, origin): (usize, &Arc<Origin>)| {
        let hop = Hop::new(format!("to replica {nth}"), Some(0), None, world);
        let target = Target::Replica(origin.clone());
        Door { address: replica_address(plan, nth), hop, target, listening: None }
    };
    origins.iter().enumerate().map(door).collect()
}

fn application(mesh: &Mesh, plan: &Plan, replica: usize) -> Sidecar {
    let app = replica_address(plan, replica);
    mesh.application(&format!("app: \"{app}\""))
}

/// The way to the sidecar before a replica.
fn before(plan: &Plan, replica: usize, application: &Sidecar, world: &Arc<World>) -> Door {
    let hop = Hop::new(format!("to sidecar {replica}"), Some(1), None, world);
    let target = Target::Sidecar(application.address());
    Door { address: sidecar_address(plan, replica), hop, target, listening: None }
}

/// The endpoints whose bit is set.
fn members(plan: &Plan, members: u32) -> Vec<Endpoint> {
    let address = if plan.has_pairs { sidecar_address } else { replica_address };
    let of = |(nth, level): (usize, &plan::Level)| Endpoint {
        zone: Some(level.zone().into()),
        priority: level.priority(),
        ..Endpoint::at(address(plan, nth))
    };
    plan.levels.iter().enumerate().filter(|(nth, _)| members & (1 << nth) != 0).map(of).collect()
}

/// As an element of the list `endpoints`.
fn written(of: &Endpoint) -> String {
    let zone = of.zone.as_deref().unwrap_or_default();
    format!("{{ address: \"{}\", zone: {zone}, priority: {} }}", of.address, of.priority)
}

fn file(plan: &Plan, policy: usize, of: u32, is_checked: bool) -> String {
    let policy = &plan.policies[policy];
    let check = if is_checked { policy.health_check } else { "off" };
    let endpoints = match plan.learns {
        true => "{ dns: \"orders:80\" }".to_owned(),
        false => format!("[{}]", members(plan, of).iter().map(written).collect::<Vec<_>>().join(", ")),
    };
    let text = mesh::caller(&format!("endpoints: {endpoints}, {}, health_check: {check}", policy.yaml));
    format!("workload: {{ zone: {} }}\n{text}", plan::ZONE)
}

thread_local! {
    static PANICS: Cell<u64> = const { Cell::new(0) };
}

/// The panics of this thread since the last call. A runtime catches those of tasks.
fn panics() -> u64 {
    PANICS.take()
}

fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |about| {
            PANICS.set(PANICS.get() + 1);
            before(about);
        }));
    });
}

/// Plays a seed on a runtime of its own, on this thread.
fn run(seed: u64, is_loud: bool) -> Outcome {
    count_panics();
    panics();
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async { Box::pin(Run::new(seed, is_loud).play()).await })
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

/// Plays all seeds, on as many threads as the machine has processors. Returns those with faults.
fn run_all(seeds: std::ops::Range<u64>) -> Vec<(u64, Vec<String>)> {
    let (next, failed) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()));
    let play = || {
        while let Some(seed) = Some(next.fetch_add(1, Relaxed)).filter(|seed| *seed < seeds.end) {
            let outcome = run(seed, false);
            if !outcome.faults.is_empty() {
                failed.lock().expect("no panic here").push((seed, outcome.faults));
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        for _ in 0..threads {
            scope.spawn(play);
        }
    });
    let mut failed = failed.into_inner().expect("no panic here");
    failed.sort();
    failed
}

#[test]
fn every_seed_keeps_every_invariant() {
    let (first, count) = (number("PILLION_SEED").unwrap_or(0), number("PILLION_SEEDS").unwrap_or(SEEDS));
    let started = std::time::Instant::now();
    let failed = run_all(first..first + count);
    for (seed, faults) in failed.iter().take(10) {
        println!("PILLION_SEED={seed} {COMMAND}\n    {}", faults.join("\n    "));
    }
    println!("{count} seeds, {} with faults, {:?}", failed.len(), started.elapsed());
    assert!(failed.is_empty(), "{} of {count} seeds break an invariant", failed.len());
}

/// With `PILLION_SEED` it plays that seed and prints what happens.
#[test]
fn one_seed() {
    let Some(seed) = number("PILLION_SEED") else { return };
    let plan = Plan::of(seed);
    println!("{plan:#?}");
    let outcome = run(seed, true);
    println!("hash {:016x}", outcome.hash);
    assert_eq!(outcome.faults, Vec::<String>::new(), "seed {seed}");
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in 0..40 {
        assert_eq!(run(seed, false), run(seed, false), "seed {seed}");
    }
}
