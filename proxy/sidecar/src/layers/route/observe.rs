//! Notes an inbound request while an operator records a policy.

use pillion_model::Direction;
use pillion_model::authorization::EncodedSlash;
use pillion_model::authorization::path::JudgedPath;

use super::authorize::path_of;
use crate::connection::Destination;
use crate::http::Call;
use crate::state::observed::Path;

/// Notes a request that goes to the application, with the path that the rules judge, or would judge.
#[cold]
pub(super) fn observe(call: &Call) {
    let (connection, worker) = (&call.common.exchange.connection, &call.common.exchange.worker);
    let Destination::Route(fixed) = &connection.destination else { return };
    if connection.direction != Direction::Inbound {
        return;
    }
    let snapshot = worker.state.load();
    let by = snapshot.inbound.as_ref().and_then(|side| side.authorization.as_ref());
    let (port, slash) = (
        snapshot.application_port(&fixed.key),
        by.map_or_else(EncodedSlash::default, |by| by.encoded_slash()),
    );
    let judged = path_of(&call.head).map(|path| JudgedPath::of(path, slash));
    let path = match &judged {
        None => Path::None,
        Some(Ok(path)) => Path::Judged(path),
        Some(Err(_)) => Path::Unclear,
    };
    let peer = connection.peer.as_ref().map(|peer| &peer.id);
    let (source, method) = (connection.downstream.ip().to_canonical(), call.head.method.as_str());
    worker.state.observation.note(|traffic| traffic.add_request(peer, source, port, method, path));
}
