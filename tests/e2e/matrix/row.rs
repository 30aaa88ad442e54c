//! The sidecars of one row, and its cells, one after the other.

use std::net::SocketAddr;

use http::Version;

use super::application::Application;
use super::caller::{Call, CallerResult};
use super::credentials::Credentials;
use super::{Caller, Cell, Door, Hop, Inbound, Mtls, Protocol, Way, expected, grpcio};
use crate::support::certs::{Authority, spiffe};
use crate::support::sidecar::{Plan, Sidecar};

pub(super) struct Row {
    protocol: Protocol,
    app: Application,
    /// The application's sidecars, in the order of [`Mtls::ALL`].
    inbound: [Sidecar; 3],
    /// The caller's sidecar, which has a service for each of these sidecars and each [`Hop`].
    caller: Sidecar,
    credentials: Credentials,
}

impl Row {
    /// An application of `version`, declared as `protocol`.
    pub(super) async fn start(version: Version, protocol: Protocol) -> Self {
        let (app, authority) = (Application::start(version).await, Authority::new());
        let plan = |mtls| plan(&app, protocol, mtls, &authority).start();
        let inbound = tokio::join!(plan(Mtls::Off), plan(Mtls::Permissive), plan(Mtls::Strict)).into();
        let caller = caller(services(&inbound)).identified(&authority, "web").start().await;
        Self { protocol, app, inbound, caller, credentials: Credentials::issued_by(&authority, "web") }
    }

    pub(super) async fn check(mut self) {
        let cells = self.cells();
        for (number, cell) in cells.iter().enumerate() {
            let id = format!("cell-{number}");
            let answer = self.call(cell, &id).await;
            self.check_arrival(cell, &id).await;
            cell.check(&id, &answer, &self.app.heard());
        }
        let asked = cells.into_iter().filter(grpcio::can_ask);
        let asked: Vec<_> = asked.map(|cell| (cell, self.entry(&cell))).collect();
        grpcio::check(&asked, &self.app).await;
    }

    fn cells(&self) -> Vec<Cell> {
        let (app, protocol) = (self.app.version, self.protocol);
        let inbound = Mtls::ALL.map(|mtls| Inbound { protocol, mtls });
        let ways = inbound
            .into_iter()
            .flat_map(|inbound| Way::into(inbound.mtls).into_iter().map(move |way| (inbound, way)));
        let cells = ways.flat_map(|(inbound, way)| {
            Caller::ALL.map(|caller| Cell { app, inbound: Some(inbound), way, caller })
        });
        cells.filter(|cell| cell.way.suits(cell.caller)).collect()
    }

    async fn call(&self, cell: &Cell, id: &str) -> CallerResult {
        let (to, host) = self.entry(cell);
        let call = Call { to, host: &host, id };
        match cell.way {
            Way::Tls(alpn) => cell.caller.calls_over_tls(&call, alpn, &self.credentials).await,
            Way::Plain | Way::Sidecar(..) => cell.caller.calls(&call).await,
        }
    }

    /// The address to which the caller connects, and the authority that it asks for.
    fn entry(&self, cell: &Cell) -> (SocketAddr, String) {
        let inbound = cell.inbound.expect("a row has the application's sidecars");
        match cell.way {
            Way::Sidecar(hop, door) => {
                let name = name(inbound.mtls, hop);
                (entry(&self.caller, door, &name), name)
            }
            Way::Plain | Way::Tls(_) => (self.inbound[inbound.mtls as usize].inbound(), "orders".to_owned()),
        }
    }

    /// The access log of the application's sidecar has this request once, with the version in which it came.
    async fn check_arrival(&mut self, cell: &Cell, id: &str) {
        let inbound = cell.inbound.expect("a row has the application's sidecars");
        let Some(version) = expected::of(cell).arriving else { return };
        let line = self.inbound[inbound.mtls as usize].log_line().await;
        let protocol = if version == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" };
        assert_eq!(
            (line["request_id"].as_str(), line["protocol"].as_str()),
            (Some(id), Some(protocol)),
            "{cell:?}: {line}"
        );
    }
}

fn plan(app: &Application, protocol: Protocol, mtls: Mtls, authority: &Authority) -> Plan {
    let keys = format!("protocol: {}, mtls: {}", protocol.key(), mtls.key());
    let plan = Plan::application(app.address, &keys);
    if mtls == Mtls::Off { plan } else { plan.identified(authority, "orders") }
}

fn services(inbound: &[Sidecar; 3]) -> impl Iterator<Item = String> {
    Mtls::ALL.into_iter().zip(inbound).flat_map(|(mtls, sidecar)| {
        let to = sidecar.inbound();
        Hop::into(mtls).into_iter().map(move |hop| service(&name(mtls, hop), to, hop))
    })
}

fn name(mtls: Mtls, hop: Hop) -> String {
    let way = if hop.is_mutual { "mutual" } else { "plain" };
    format!("{}-{way}-{}", mtls.key(), hop.protocol.key())
}

/// The lines of one service in the configuration.
pub(super) fn service(name: &str, endpoint: SocketAddr, hop: Hop) -> String {
    let tls = if hop.is_mutual { format!("\"{}\"", spiffe("orders")) } else { "off".to_owned() };
    let protocol = hop.protocol.key();
    format!(
        "  {name}: {{ listen: 127.0.0.1:0, endpoints: [\"{endpoint}\"], protocol: {protocol}, tls: {tls} }}\n"
    )
}

/// A caller's sidecar with these services.
pub(super) fn caller(services: impl Iterator<Item = String>) -> Plan {
    let services: String = services.collect();
    Plan::new(&format!("inbound: off\noutbound: {{ listen: 127.0.0.1:0 }}\nservices:\n{services}"))
}

/// The address at which a caller's sidecar takes requests for a service.
pub(super) fn entry(caller: &Sidecar, door: Door, service: &str) -> SocketAddr {
    match door {
        Door::ProxyPort => caller.outbound(),
        Door::OwnPort => {
            let kind = format!("service.{service}=");
            let found = caller.ready.split(' ').find_map(|word| word.strip_prefix(&kind));
            let found = found.unwrap_or_else(|| unreachable!("no {kind} in {}", caller.ready));
            found.parse().expect("an address")
        }
    }
}
