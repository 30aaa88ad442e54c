//! Which addresses are listened on, for what, and how that changes: bound once for each worker, and before anything
//! else of a new configuration takes effect.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Once, Weak};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use pillion_model::Config;

use pillion_base::net::has_no_ipv6;
use pillion_base::net::{Bound, Network, Sharing};
use pillion_model::Direction;

/// Where the sidecar listens. Port 0 in the configuration is a real port here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    pub inbound: Vec<SocketAddr>,
    pub outbound: Vec<SocketAddr>,
    pub admin: Vec<SocketAddr>,
    pub metrics: Vec<SocketAddr>,
    pub dns: Vec<SocketAddr>,
    /// Services' own ports, by name.
    pub services: Vec<(String, SocketAddr)>,
    /// Listeners of single ports of the application, by port.
    pub ports: Vec<(u16, SocketAddr)>,
}

/// What is served at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Use {
    /// With the application's port whose own listener it is.
    Inbound(Option<u16>),
    Outbound,
    /// A service's own port.
    Service(Arc<str>),
}

impl Use {
    pub(super) const fn direction(&self) -> Direction {
        match self {
            Self::Inbound(_) => Direction::Inbound,
            Self::Outbound | Self::Service(_) => Direction::Outbound,
        }
    }
}

/// A bound address on its way to a worker.
pub(super) struct Port {
    pub(super) id: u64,
    pub(super) bound: Bound,
    /// A reload may change it, but for its direction.
    pub(super) use_: Arc<ArcSwap<Use>>,
}

/// A line of the configuration.
struct Wanted {
    what: String,
    use_: Use,
    address: SocketAddr,
}

#[derive(Clone)]
struct Open {
    id: u64,
    use_: Arc<ArcSwap<Use>>,
    wanted: SocketAddr,
    /// `None`: left out, as this kernel has no IPv6.
    bound: Option<SocketAddr>,
}

impl Open {
    /// The same line, or the same address for something else.
    fn serves(&self, wanted: &Wanted, exactly: bool) -> bool {
        let use_ = self.use_.load();
        let same_use = match exactly {
            true => **use_ == wanted.use_,
            false => use_.direction() == wanted.use_.direction() && wanted.address.port() != 0,
        };
        same_use && self.wanted == wanted.address
    }
}

/// Everything that is listened on but admin and metrics.
pub(super) struct Listeners {
    network: Network,
    workers: usize,
    open: Vec<Open>,
    /// No longer wanted, and perhaps not closed by every worker yet.
    closing: Vec<(SocketAddr, Weak<ArcSwap<Use>>)>,
    last_id: u64,
}

/// From one configuration's listeners to the next one's: bound, and not yet in use.
#[derive(Default)]
pub(super) struct Change {
    open: Vec<Open>,
    /// What open ones will be used for.
    uses: Vec<(Arc<ArcSwap<Use>>, Use)>,
    last_id: u64,
    /// For each worker.
    pub(super) opened: Vec<Vec<Port>>,
    pub(super) closed: Vec<u64>,
}

impl Listeners {
    pub(super) const fn new(network: Network, workers: usize) -> Self {
        Self { network, workers, open: Vec::new(), closing: Vec::new(), last_id: 0 }
    }

    /// Binds what `config` wants and nobody has bound yet.
    ///
    /// # Errors
    /// An address that cannot be bound. Nothing has changed then.
    pub(super) fn plan(&self, config: &Config) -> anyhow::Result<Change> {
        let (wanted, own) = (wanted(config), self.own());
        let mut left: Vec<Open> = self.open.clone();
        let mut take = |wanted: &Wanted, exactly| {
            let at = left.iter().position(|open| open.serves(wanted, exactly))?;
            Some(left.swap_remove(at))
        };
        let mut kept: Vec<Option<Open>> = wanted.iter().map(|wanted| take(wanted, true)).collect();
        for (kept, wanted) in kept.iter_mut().zip(&wanted).filter(|(kept, _)| kept.is_none()) {
            *kept = take(wanted, false);
        }
        let mut change = Change {
            open: Vec::new(),
            uses: Vec::new(),
            last_id: self.last_id,
            opened: (0..self.workers).map(|_| Vec::new()).collect(),
            closed: left.into_iter().map(|open| open.id).collect(),
        };
        for (wanted, kept) in wanted.iter().zip(kept) {
            match kept {
                Some(open) => change.keep(open, &wanted.use_),
                None => change.bind(&self.network, wanted, &own)?,
            }
        }
        refuse_deaf(&wanted, &change.open)?;
        Ok(change)
    }

    /// What they are used for changes with [`Change::use_now`].
    pub(super) fn commit(&mut self, change: &mut Change) {
        let before = std::mem::replace(&mut self.open, std::mem::take(&mut change.open));
        let closed = before.iter().filter(|open| change.closed.contains(&open.id));
        self.closing.retain(|(_, use_)| use_.strong_count() > 0);
        self.closing.extend(closed.filter_map(|open| Some((open.bound?, Arc::downgrade(&open.use_)))));
        self.last_id = change.last_id;
    }

    /// Where the workers listen now, or still do.
    fn own(&self) -> Vec<SocketAddr> {
        let closing = self.closing.iter().filter(|(_, use_)| use_.strong_count() > 0);
        let open = self.open.iter().filter_map(|open| open.bound);
        open.chain(closing.map(|(address, _)| *address)).collect()
    }

    /// But for admin, metrics and DNS.
    pub(super) fn addresses(&self) -> Addresses {
        addresses(self.open.iter())
    }
}

impl Change {
    pub(super) fn use_now(&mut self) {
        for (cell, use_) in self.uses.drain(..) {
            cell.store(Arc::new(use_));
        }
    }

    fn keep(&mut self, open: Open, use_: &Use) {
        if **open.use_.load() != *use_ {
            self.uses.push((open.use_.clone(), use_.clone()));
        }
        self.open.push(open);
    }

    /// `own`: where the workers listen now.
    fn bind(&mut self, network: &Network, wanted: &Wanted, own: &[SocketAddr]) -> anyhow::Result<()> {
        let (mut address, mut bound_to) = (wanted.address, None);
        let mut sharing = match self.opened.len() {
            0 | 1 => Sharing::Alone,
            // What is only for somebody else now was bound by nobody but this sidecar.
            _ if own.iter().any(|own| covers(*own, address)) => Sharing::Joining,
            _ => Sharing::First,
        };
        let use_ = Arc::new(ArcSwap::from_pointee(wanted.use_.clone()));
        self.last_id += 1;
        for ports in &mut self.opened {
            let bound = match network.bind(address, sharing) {
                Err(error) if address.is_ipv6() && has_no_ipv6(&error) => {
                    tracing::info!(%address, "{}: left out, this kernel has no IPv6", wanted.what);
                    break;
                }
                bound => bound.with_context(|| format!("{}: cannot listen on {address}", wanted.what))?,
            };
            if use_.load().direction() == Direction::Inbound {
                take_tproxy(&bound);
            }
            address = bound.address()?; // the first worker settles what port 0 means
            bound_to = Some(address);
            sharing = Sharing::Joining;
            ports.push(Port { id: self.last_id, bound, use_: use_.clone() });
        }
        self.open.push(Open { id: self.last_id, use_, wanted: wanted.address, bound: bound_to });
        Ok(())
    }
}

/// Whether who listens on `own` hears what comes to `wanted`.
fn covers(own: SocketAddr, wanted: SocketAddr) -> bool {
    let is_same = own.port() == wanted.port() && own.is_ipv4() == wanted.is_ipv4();
    is_same && wanted.port() != 0 && (own.ip() == wanted.ip() || own.ip().is_unspecified())
}

/// Where the process may; told once.
fn take_tproxy(bound: &Bound) {
    static TOLD: Once = Once::new();
    let taken = bound.take_tproxy();
    TOLD.call_once(|| match taken {
        Ok(()) => tracing::debug!("inbound connections may come by TPROXY, too: the application sees their clients' addresses"),
        Err(why) => tracing::debug!(%why, "inbound connections may come redirected, but not by TPROXY, which needs CAP_NET_ADMIN"),
    });
}

/// In the order of the configuration.
fn wanted(config: &Config) -> Vec<Wanted> {
    let mut all = Vec::new();
    let mut want = |what: String, use_: &Use, listen: &[SocketAddr]| {
        let each =
            |address: &SocketAddr| Wanted { what: what.clone(), use_: use_.clone(), address: *address };
        all.extend(listen.iter().map(each));
    };
    if let Some(inbound) = &config.inbound {
        want("inbound.listen".to_owned(), &Use::Inbound(None), &inbound.listen);
        for (&port, single) in &inbound.ports {
            want(format!("inbound.ports.{port}.listen"), &Use::Inbound(Some(port)), &single.listen);
        }
    }
    if let Some(outbound) = &config.outbound {
        want("outbound.listen".to_owned(), &Use::Outbound, &outbound.listen);
    }
    for cluster in &config.clusters {
        let use_ = Use::Service(cluster.name.as_str().into());
        want(format!("services.{}.listen", cluster.name), &use_, &cluster.listen);
    }
    all
}

/// A `listen` of which nothing is left is no listener.
fn refuse_deaf(wanted: &[Wanted], open: &[Open]) -> anyhow::Result<()> {
    let hears = |what: &str| {
        wanted.iter().zip(open).any(|(wanted, open)| wanted.what == what && open.bound.is_some())
    };
    match wanted.iter().find(|wanted| !hears(&wanted.what)) {
        Some(deaf) => anyhow::bail!("{}: no address could be bound", deaf.what),
        None => Ok(()),
    }
}

fn addresses<'a>(open: impl Iterator<Item = &'a Open>) -> Addresses {
    let mut addresses = Addresses::default();
    for (open, bound) in open.filter_map(|open| Some((open, open.bound?))) {
        match &**open.use_.load() {
            Use::Inbound(None) => addresses.inbound.push(bound),
            Use::Inbound(Some(port)) => addresses.ports.push((*port, bound)),
            Use::Outbound => addresses.outbound.push(bound),
            Use::Service(name) => addresses.services.push((name.to_string(), bound)),
        }
    }
    addresses
}

impl Addresses {
    /// All of them, whatever they are for.
    pub(super) fn all(&self) -> Vec<SocketAddr> {
        let kinds = [&self.inbound, &self.outbound, &self.admin, &self.metrics, &self.dns];
        let own = kinds.into_iter().flatten().copied();
        let services = self.services.iter().map(|(_, address)| *address);
        own.chain(services).chain(self.ports.iter().map(|(_, address)| *address)).collect()
    }
}

/// `inbound=127.0.0.1:15006 outbound=…`: kinds that are there, several addresses of one kind joined by commas.
impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            ("inbound", &self.inbound),
            ("outbound", &self.outbound),
            ("admin", &self.admin),
            ("metrics", &self.metrics),
            ("dns", &self.dns),
        ];
        let mut words = Vec::new();
        for (kind, addresses) in kinds.into_iter().filter(|(_, addresses)| !addresses.is_empty()) {
            let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            words.push(format!("{kind}={}", list.join(",")));
        }
        words.extend(self.services.iter().map(|(name, address)| format!("service.{name}={address}")));
        words.extend(self.ports.iter().map(|(port, address)| format!("port.{port}={address}")));
        f.write_str(&words.join(" "))
    }
}
