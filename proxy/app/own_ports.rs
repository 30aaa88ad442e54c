//! The addresses of the admin and metrics ports. A reload cannot change them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use pillion_model::Config;
use tokio::sync::mpsc;

use super::bindings::{self, BindRequest, Bindings, Serves, Wanted};
use crate::admin::{AdminPort, Command, OwnPort, SEND_BUFFER};
use crate::listening::Role;
use crate::takeover::Inherited;
use pillion_base::net::{Bound, Network, Sharing};

pub(super) struct AdminPorts {
    network: Network,
    inherited: Inherited,
    visit: Arc<()>,
}

impl Serves for AdminPorts {
    type Use = OwnPort;
    type Port = AdminPort;

    fn may_become(from: &OwnPort, to: &OwnPort) -> bool {
        from == to
    }

    fn id(port: &AdminPort) -> u64 {
        port.id
    }

    fn role(use_: &OwnPort) -> Role {
        match use_ {
            OwnPort::Admin => Role::Admin,
            OwnPort::Metrics => Role::Metrics,
        }
    }

    fn bind(&self, request: &BindRequest<OwnPort>) -> io::Result<(SocketAddr, Vec<AdminPort>)> {
        let of = **request.use_.load();
        let mut all = self.inherited.listeners(&Self::role(&of), request.address)?;
        if all.is_empty() {
            all.push(self.network.bind(request.address, Sharing::Alone)?);
        }
        let address = all.first().map_or(Ok(request.address), Bound::address)?;
        all.iter().try_for_each(|bound| bound.limit_send_buffer(SEND_BUFFER))?;
        let port = |bound| AdminPort { id: request.id, of, bound, visit: self.visit.clone() };
        Ok((address, all.into_iter().map(port).collect()))
    }
}

/// The open addresses of the admin and metrics ports.
pub(crate) struct OwnPorts {
    bindings: Bindings<AdminPorts>,
    /// Cloned for each listener and each connection.
    visit: Arc<()>,
}

impl OwnPorts {
    /// Binds the addresses of `config`. The receiver is the argument of [`crate::admin::Admin::run`].
    ///
    /// # Errors
    /// An address cannot be bound.
    pub(crate) fn bind(
        network: &Network,
        inherited: &Inherited,
        config: &Config,
    ) -> anyhow::Result<(Self, mpsc::Receiver<Command>)> {
        let (commands, receiver) = bindings::channel();
        let visit = Arc::new(());
        let (network, inherited) = (network.clone(), inherited.clone());
        let ports = AdminPorts { network, inherited, visit: visit.clone() };
        let mut own = Bindings::new(ports, vec![commands]);
        let mut change = own.plan(&wanted(config))?;
        own.commit(&mut change);
        own.send(change);
        Ok((Self { bindings: own, visit }, receiver))
    }

    /// The addresses of one of the two kinds of ports.
    pub(crate) fn addresses(&self, of: OwnPort) -> Vec<SocketAddr> {
        self.bindings.addresses().filter(|(use_, _)| **use_ == of).map(|(_, address)| address).collect()
    }

    /// The addresses, to be opened, lent and closed.
    pub(super) const fn bindings(&mut self) -> &mut Bindings<AdminPorts> {
        &mut self.bindings
    }

    /// The number of listeners and connections.
    pub(super) fn under_way(&self) -> usize {
        const OWN: usize = 2; // of this value and of the kind of ports
        Arc::strong_count(&self.visit).saturating_sub(OWN)
    }

    #[cfg(test)]
    pub(crate) fn open(&mut self) {
        self.bindings.open();
    }
}

fn wanted(config: &Config) -> Vec<Wanted<OwnPort>> {
    let metrics = config.metrics.as_ref().map_or(&[][..], |metrics| &metrics.listen);
    let kinds = [
        ("admin.listen", OwnPort::Admin, &config.admin.listen[..]),
        ("metrics.listen", OwnPort::Metrics, metrics),
    ];
    let each = |(key, use_, listen): (&str, OwnPort, &[SocketAddr])| -> Vec<Wanted<OwnPort>> {
        listen.iter().map(|address| Wanted { key: key.to_owned(), use_, address: *address }).collect()
    };
    kinds.into_iter().flat_map(each).collect()
}
