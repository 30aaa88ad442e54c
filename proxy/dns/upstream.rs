//! The name servers: those that the configuration lists, or those of a file that may change at any time.

use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hickory_resolver::system_conf::parse_resolv_conf;
use pillion_model::dns::NameServers;
use tokio::time::Instant;

use pillion_base::net::own::OwnListeners;
use pillion_tls::files::{Content, Looked};

/// The most bytes that are read of the file: 64 KiB hold a thousand search domains.
const LONGEST: u64 = 64 * 1024;

/// The most servers of the file that are asked; glibc has the same limit.
const MOST_SERVERS: usize = 3;

/// How long one server may take. Clients wait 5 s (glibc's default), and the next server needs some of that time.
const SHORTEST_TIMEOUT: Duration = Duration::from_secs(1);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3);

/// The most rounds through all servers.
const MOST_ATTEMPTS: usize = 3;

/// The file is checked when there is a query to forward, and not more often than this.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The file of this system.
const RESOLV_CONF: &str = "/etc/resolv.conf";
const DNS_PORT: u16 = 53;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Servers {
    /// The servers in the order in which they are asked. Never empty.
    pub(crate) all: Vec<SocketAddr>,
    /// How long one server may take.
    pub(crate) timeout: Duration,
    pub(crate) attempts: usize,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    #[error("{path} cannot be read", path = .0.display())]
    Unreadable(PathBuf, #[source] io::Error),
    #[error("{path}: {1}; write `nameserver ADDRESS` there, or the addresses as dns.upstream", path = .0.display())]
    Unusable(PathBuf, String),
    #[error("{from} names {server}, where the DNS proxy itself listens: a loop")]
    Loop { from: String, server: SocketAddr },
}

#[derive(Debug)]
pub(crate) struct Upstream {
    servers: Arc<Servers>,
    /// `None`: the configuration lists the servers.
    file: Option<Followed>,
}

#[derive(Debug)]
struct Followed {
    path: PathBuf,
    looked: Looked,
    content: Content,
    looked_at: Option<Instant>,
    own: OwnListeners,
}

impl Upstream {
    /// `own` are the addresses on which the DNS proxy listens.
    ///
    /// # Errors
    /// The file names no server, or a server is the DNS proxy itself.
    pub(crate) fn new(of: &NameServers, own: OwnListeners, now: SystemTime) -> Result<Self, UpstreamError> {
        match of {
            NameServers::List(all) => {
                refuse_loop("dns.upstream", all, &own)?;
                let servers = Servers { all: all.clone(), timeout: Duration::from_secs(2), attempts: 2 };
                Ok(Self { servers: Arc::new(servers), file: None })
            }
            NameServers::File(path) => {
                let mut looked = Looked::new(path, LONGEST);
                let content = looked.look(now); // looked at before it is read, so that a later write is noticed
                let servers = Arc::new(of_file(path, &own)?);
                let file = Followed { path: path.clone(), looked, content, looked_at: None, own };
                Ok(Self { servers, file: Some(file) })
            }
        }
    }

    pub(crate) const fn servers(&self) -> &Arc<Servers> {
        &self.servers
    }

    /// Whether the file has new servers. A file that cannot be used is logged once, and the former servers are kept.
    pub(crate) fn look(&mut self, at: Instant, now: SystemTime) -> bool {
        let Some(file) = &mut self.file else { return false };
        if file.looked_at.is_some_and(|last| at.duration_since(last) < LOOK_EVERY) {
            return false;
        }
        file.looked_at = Some(at);
        let content = file.looked.look(now);
        if std::mem::replace(&mut file.content, content) == content {
            return false;
        }
        match of_file(&file.path, &file.own) {
            Ok(servers) if servers == *self.servers => false,
            Ok(servers) => {
                tracing::info!(file = %file.path.display(), servers = ?servers.all, "name servers have changed");
                self.servers = Arc::new(servers);
                true
            }
            Err(why) => {
                tracing::warn!(
                    error = &why as &dyn std::error::Error,
                    "the file cannot be used; the former name servers stay in use"
                );
                false
            }
        }
    }
}

fn of_file(path: &Path, own: &OwnListeners) -> Result<Servers, UpstreamError> {
    let text = read(path).map_err(|error| UpstreamError::Unreadable(path.to_owned(), error))?;
    let servers = parse(&text).map_err(|why| UpstreamError::Unusable(path.to_owned(), why))?;
    refuse_loop(&path.display().to_string(), &servers.all, own)?;
    Ok(servers)
}

/// # Errors
/// One of the servers is a listener of the DNS proxy.
pub(crate) fn refuse_loop(
    from: &str,
    servers: &[SocketAddr],
    own: &OwnListeners,
) -> Result<(), UpstreamError> {
    match servers.iter().find(|server| own.contains(**server)) {
        Some(server) => Err(UpstreamError::Loop { from: from.to_owned(), server: *server }),
        None => Ok(()),
    }
}

/// The servers of the sidecar's own resolver; empty if the file cannot be used.
pub(crate) fn system_servers() -> Vec<SocketAddr> {
    servers_in(Path::new(RESOLV_CONF))
}

/// The servers that a file in the format of `/etc/resolv.conf` names; empty if it cannot be used.
pub(crate) fn servers_in(file: &Path) -> Vec<SocketAddr> {
    let servers = read(file).ok().and_then(|text| parse(&text).ok());
    servers.map_or_else(Vec::new, |servers| servers.all)
}

fn parse(text: &[u8]) -> Result<Servers, String> {
    let (config, options) = parse_resolv_conf(text).map_err(|error| error.to_string())?;
    let all = config.name_servers.iter().take(MOST_SERVERS);
    Ok(Servers {
        all: all.map(|server| SocketAddr::new(server.ip, DNS_PORT)).collect(),
        timeout: options.timeout.clamp(SHORTEST_TIMEOUT, LONGEST_TIMEOUT),
        attempts: options.attempts.clamp(1, MOST_ATTEMPTS),
    })
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(LONGEST).read_to_end(&mut text)?;
    Ok(text)
}
