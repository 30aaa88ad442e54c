//! `dns`: the DNS proxy.

use pillion_model::dns::{Dns, NameServers};

use super::Surroundings;
use super::listener::listen;
use crate::file;
use crate::shape::Typed;
use crate::value::OffOr;

pub(super) fn dns(file: Option<OffOr<file::Dns>>, around: &Surroundings<'_>) -> Option<Dns> {
    let file = file?.set()?;
    let default = Dns::default();
    Some(Dns {
        listen: listen(file.listen, default.listen),
        upstream: match file.upstream {
            None => default.upstream,
            Some(file::NameServers::File(path)) => NameServers::File(around.folder.join(path)),
            Some(file::NameServers::List(servers)) => NameServers::List(servers),
        },
        virtual_addresses: file.virtual_addresses.map_or(default.virtual_addresses, |Typed(on)| on),
    })
}
