//! An application without a sidecar: the caller's sidecar uses the version that the service declares.

use http::Version;

use super::application::Application;
use super::caller::Call;
use super::row::{caller, entry, service};
use super::{Caller, Cell, Door, Hop, Protocol, Way, grpcio};

const HOPS: [Hop; 3] = [hop(Protocol::Auto), hop(Protocol::Http1), hop(Protocol::Http2)];

const DOORS: [Door; 2] = [Door::ProxyPort, Door::OwnPort];

const fn hop(protocol: Protocol) -> Hop {
    Hop { is_mutual: false, protocol }
}

#[tokio::test]
async fn an_http1_application_without_a_sidecar() {
    check(Version::HTTP_11).await;
}

#[tokio::test]
async fn an_http2_application_without_a_sidecar() {
    check(Version::HTTP_2).await;
}

async fn check(version: Version) {
    let app = Application::start(version).await;
    let services = HOPS.map(|hop| service(hop.protocol.key(), app.address, hop));
    let sidecar = caller(services.into_iter()).start().await;
    let mut asked = Vec::new();
    for (hop, door, cell) in cells(version) {
        let name = hop.protocol.key();
        let to = entry(&sidecar, door, name);
        let id = format!("{name}-{door:?}-{:?}", cell.caller);
        let answer = cell.caller.calls(&Call { to, host: name, id: &id }).await;
        cell.check(&id, &answer, &app.heard());
        asked.push((cell, (to, name.to_owned())));
    }
    asked.retain(|(cell, _)| grpcio::can_ask(cell));
    grpcio::check(&asked, &app).await;
}

fn cells(app: Version) -> impl Iterator<Item = (Hop, Door, Cell)> {
    let ways = HOPS.into_iter().flat_map(|hop| DOORS.map(|door| (hop, door)));
    ways.flat_map(move |(hop, door)| {
        let cell = |caller| Cell { app, inbound: None, way: Way::Sidecar(hop, door), caller };
        Caller::ALL.map(|caller| (hop, door, cell(caller)))
    })
}
