//! Sidecars on an in-memory network, on the runtime of the test.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pillion_model::Config;
use pillion_model::cluster::UpstreamTls;
use pillion_model::identity::{TlsPolicy, TlsVersion};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::peer::Peer;
use crate::app::{Addresses, App, Applied, Controller};
use pillion_base::drain::Drain;
use pillion_base::net::Network;
use pillion_base::net::memory::{MemoryNetwork, Pipe};
use pillion_telemetry::Metrics;
use pillion_tls::client::{AlpnOffer, ClientTls, Purpose};
use pillion_tls::identity::credentials::Credentials;
use pillion_tls::identity::issue::{Ca, CertificateRequest, IssuedPem};
use pillion_tls::provider;

/// Where tests put their back-ends.
pub(super) const A: &str = "10.0.0.1:80";
pub(super) const B: &str = "10.0.0.2:80";
pub(super) const C: &str = "10.0.0.3:80";

#[derive(Clone, Default)]
pub(super) struct Mesh {
    pub(super) memory: MemoryNetwork,
}

pub(super) struct Sidecar {
    memory: MemoryNetwork,
    pub(super) controller: Controller,
    /// As it started.
    pub(super) addresses: Addresses,
    pub(super) metrics: Arc<Metrics>,
    pub(super) drain: Drain,
}

impl Mesh {
    /// The caller's sidecar, with one service called `orders`.
    pub(super) fn caller(&self, orders: &str) -> Sidecar {
        self.sidecar(&caller(orders), None)
    }

    /// The application's sidecar. `inbound` is the content of its block, without the listening address.
    pub(super) fn application(&self, inbound: &str) -> Sidecar {
        self.sidecar(&application(inbound), None)
    }

    pub(super) fn sidecar(&self, yaml: &str, credentials: Option<Credentials>) -> Sidecar {
        self.start(&parse(yaml), credentials).expect("a sidecar that can start")
    }

    pub(super) fn start(&self, config: &Config, credentials: Option<Credentials>) -> anyhow::Result<Sidecar> {
        let app = App::build_on(Network::Memory(self.memory.clone()), config.clone(), credentials)?;
        let (controller, metrics, drain) = app.start_here();
        let addresses = controller.addresses();
        Ok(Sidecar { memory: self.memory.clone(), controller, addresses, metrics, drain })
    }

    pub(super) fn black_hole(&self, address: &str) {
        self.memory.black_hole(at(address));
    }
}

impl Sidecar {
    /// Applies another configuration to the sidecar.
    pub(super) fn reload(&mut self, yaml: &str) -> anyhow::Result<Applied> {
        let applied = self.controller.apply(&Arc::new(parse(yaml)));
        self.addresses = self.controller.addresses();
        applied
    }

    /// Checks the identity files, which do not change between two checks. Returns whether they held something new.
    pub(super) fn look_at_identity(&mut self) -> anyhow::Result<bool> {
        self.look_at_identity_at(SystemTime::now())
    }

    pub(super) fn look_at_identity_at(&mut self, now: SystemTime) -> anyhow::Result<bool> {
        let looks = [self.controller.look_at_identity(now)?, self.controller.look_at_identity(now)?];
        Ok(looks.contains(&true))
    }

    /// Checks the files of services' TLS, which do not change between two checks. Returns whether something was put to
    /// use, and the places whose new content was refused.
    pub(super) fn look_at_material(&mut self) -> (bool, Vec<String>) {
        let now = SystemTime::now();
        let looks = [self.controller.look_at_material(now), self.controller.look_at_material(now)];
        let is_new = looks.iter().any(|(is_new, _)| *is_new);
        (is_new, looks.into_iter().flat_map(|(_, refused)| refused).map(|why| why.to_string()).collect())
    }

    /// Gives the sidecar other credentials.
    pub(super) fn rotate(&mut self, credentials: Credentials) -> anyhow::Result<()> {
        self.controller.rotate(credentials)
    }

    /// A connection to the sidecar's first port.
    pub(super) async fn client(&self) -> Peer {
        Peer::new(self.memory.connect(self.address()).await.expect("the sidecar listens"))
    }

    /// A connection whose destination is known without any bytes: to the first service's own port, otherwise to the
    /// first port.
    pub(super) async fn direct_client(&self) -> Peer {
        let own = self.addresses.services.first().map_or_else(|| self.address(), |(_, own)| *own);
        Peer::new(self.memory.connect(own).await.expect("the sidecar listens"))
    }

    /// A redirected connection with this original destination.
    pub(super) async fn redirected(&self, original: &str) -> Peer {
        let io = self.memory.redirect(at(original), self.address()).await;
        Peer::new(io.expect("the sidecar listens"))
    }

    pub(super) fn address(&self) -> SocketAddr {
        let mut addresses = self.addresses.outbound.iter().chain(&self.addresses.inbound);
        *addresses.next().expect("a side that listens")
    }

    /// The sum of the series that a line such as `pillion_retries_total outcome=replaced` describes.
    pub(super) fn sum(&self, series: &str) -> u64 {
        sum(&self.metrics, series)
    }
}

pub(super) fn sum(metrics: &Metrics, series: &str) -> u64 {
    let mut words = series.split_whitespace();
    let name = words.next().expect("a name");
    let wanted: Vec<String> = words
        .map(|word| word.split_once('=').expect("label=value"))
        .map(|(label, value)| format!("{label}=\"{value}\""))
        .collect();
    let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    let text = metrics.encode();
    let lines = text.lines().filter(of_name).filter(|line| wanted.iter().all(|label| line.contains(label)));
    let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
    lines.filter_map(value).sum::<f64>() as u64
}

pub(super) fn caller(orders: &str) -> String {
    format!(
        "{COMMON}inbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\nservices:\n  orders: {{ {orders} }}\n"
    )
}

pub(super) fn application(inbound: &str) -> String {
    application_at("127.0.0.1:0", inbound)
}

pub(super) fn application_at(listen: &str, inbound: &str) -> String {
    format!("{COMMON}outbound: off\ninbound: {{ listen: {listen}, {inbound} }}\n")
}

const COMMON: &str = "workers: 1\nadmin: { listen: 127.0.0.1:0 }\nmetrics: off\n";

/// These files are never read: the credentials come with the call.
pub(super) const IDENTITY: &str = "identity: { directory: in-memory }\n";

/// One CA, a caller called `web`, and sidecars of `orders`.
pub(super) struct Pair {
    pub(super) mesh: Mesh,
    pub(super) ca: Ca,
}

impl Pair {
    pub(super) fn new() -> Self {
        Self { mesh: Mesh::default(), ca: Ca::generate("cluster.local").expect("a CA") }
    }

    pub(super) fn application(&self, listen: &str, app: &str) -> Sidecar {
        self.application_as(listen, app, identity(&self.ca, "orders"))
    }

    pub(super) fn application_as(&self, listen: &str, app: &str, own: Credentials) -> Sidecar {
        let yaml = application_at(listen, &format!("app: {app}"));
        self.mesh.sidecar(&(yaml + IDENTITY), Some(own))
    }

    /// `inbound` is the content of its block, without the listening address.
    pub(super) fn application_of(&self, listen: &str, inbound: &str) -> Sidecar {
        self.mesh.sidecar(&(application_at(listen, inbound) + IDENTITY), Some(identity(&self.ca, "orders")))
    }

    pub(super) fn caller(&self, orders: &str) -> Sidecar {
        self.caller_as(orders, identity(&self.ca, "web"))
    }

    pub(super) fn caller_as(&self, orders: &str, own: Credentials) -> Sidecar {
        self.mesh.sidecar(&(caller(orders) + IDENTITY), Some(own))
    }

    /// A connection of `web` to the sidecar of `orders` at this address: the bytes inside mTLS.
    pub(super) async fn peer(&self, address: &str, purpose: Purpose) -> Peer {
        let io = self.mesh.memory.connect(at(address)).await.expect("the sidecar listens");
        self.shaken(io, purpose).await
    }

    /// Like [`Self::peer`], over a connection that exists already.
    pub(super) async fn shaken(&self, io: Pipe, purpose: Purpose) -> Peer {
        self.shaken_as("web", io, purpose).await
    }

    /// Like [`Self::peer`], as another account.
    pub(super) async fn peer_as(&self, account: &str, address: &str, purpose: Purpose) -> Peer {
        let io = self.mesh.memory.connect(at(address)).await.expect("the sidecar listens");
        self.shaken_as(account, io, purpose).await
    }

    async fn shaken_as(&self, account: &str, io: Pipe, purpose: Purpose) -> Peer {
        let tls = client_tls(&identity(&self.ca, account));
        let (mut io, _alpn) = tls.connect(io, purpose).await.expect("a handshake");
        let (near, mut far) = Pipe::pair(1024 * 1024);
        tokio::spawn(async move { tokio::io::copy_bidirectional(&mut far, &mut io).await });
        Peer::new(near)
    }
}

/// How a caller with this identity calls `orders`.
pub(super) fn client_tls(own: &Credentials) -> ClientTls {
    let identities = vec![ORDERS_ID.parse().expect("an identity")];
    let tls = UpstreamTls::Mutual { identities, sni: None, trust_bundle: None };
    let policy = TlsPolicy { min_version: TlsVersion::Tls12, post_quantum: false };
    let tls = ClientTls::new(Some(own), &tls, &policy, None, AlpnOffer::Auto);
    tls.expect("a client config").expect("not plaintext")
}

pub(super) const ORDERS_ID: &str = "spiffe://cluster.local/ns/default/sa/orders";
/// The identity that the sidecar of `orders` must have.
pub(super) const ORDERS: &str = "tls: \"spiffe://cluster.local/ns/default/sa/orders\"";

#[allow(clippy::panic)] // a test whose own text is wrong
pub(super) fn parse(yaml: &str) -> Config {
    match pillion_config::parse(yaml, Path::new("")) {
        Ok((config, _warnings)) => config,
        Err(faults) => panic!("{faults}\n{yaml}"),
    }
}

pub(super) fn at(address: &str) -> SocketAddr {
    address.parse().expect("an address")
}

/// The credentials of a sidecar, by the name of its service account.
pub(super) fn identity(ca: &Ca, account: &str) -> Credentials {
    let id = format!("spiffe://cluster.local/ns/default/sa/{account}").parse().expect("an identity");
    let issued = ca.issue(&id, &[], Duration::from_secs(86_400)).expect("a certificate");
    issued.credentials().expect("credentials")
}

/// The files of an account whose certificate expired long ago.
pub(super) fn expired_files(ca: &Ca, account: &str) -> IssuedPem {
    let [not_before, not_after] = LONG_AGO.map(|at| OffsetDateTime::from_unix_timestamp(at).expect("a time"));
    let uris = vec![format!("spiffe://cluster.local/ns/default/sa/{account}")];
    ca.sign(&CertificateRequest { uris, hosts: Vec::new(), not_before, not_after }).expect("signed")
}

/// Expired credentials, as if they had been loaded while they were valid.
pub(super) fn expired(ca: &Ca, account: &str) -> Credentials {
    let pem = expired_files(ca, account);
    let chain = vec![CertificateDer::from_pem_slice(pem.certificate.as_bytes()).expect("PEM")];
    let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).expect("PEM");
    let key = CertifiedKey::from_der(chain, key, &provider::any()).expect("a pair");
    let [not_before, not_after] = LONG_AGO;
    Credentials { key: Arc::new(key), not_before, not_after, ..identity(ca, account) }
}

/// The first day of Unix time.
const LONG_AGO: [i64; 2] = [0, 86_400];

pub(super) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) async fn pass(seconds: u64) {
    tokio::time::sleep(secs(seconds)).await;
}

/// Lets every task do what it can do without a long passage of time.
pub(super) async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// Time since it was started.
pub(super) struct Watch(Instant);

impl Watch {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    /// In whole seconds, rounded to the nearest.
    pub(super) fn seconds(&self) -> u64 {
        (self.0.elapsed() + Duration::from_millis(500)).as_secs()
    }
}
