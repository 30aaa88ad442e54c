//! Notes an inbound request while an operator records a policy.

use std::sync::Arc;

use pillion_model::authorization::EncodedSlash;
use pillion_model::authorization::path::JudgedPath;

use super::authorize::path_of;
use crate::http::Call;
use crate::state::authorization::Authorization;
use crate::state::observed::Path;

/// `by`: the rules, which have let the request through. It is noted with the path that they judge, or would judge.
#[cold]
pub(super) fn observe(call: &Call, by: Option<&Arc<Authorization>>, port: u16) {
    let connection = &call.common.exchange.connection;
    let slash = by.map_or_else(EncodedSlash::default, |by| by.encoded_slash());
    let judged = path_of(&call.head).map(|path| JudgedPath::of(path, slash));
    let path = match &judged {
        None => Path::None,
        Some(Ok(path)) => Path::Judged(path),
        Some(Err(_)) => Path::Unclear,
    };
    let peer = connection.peer.as_ref().map(|peer| &peer.id);
    let (source, method) = (connection.downstream.ip().to_canonical(), call.head.method.as_str());
    let observation = &call.common.exchange.worker.state.observation;
    observation.note(|traffic| traffic.add_request(peer, source, port, method, path));
}
