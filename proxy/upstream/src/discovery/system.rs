//! The resolver configuration of this host, read from its files.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hickory_resolver::config::{ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::Name;
use hickory_resolver::{Hosts, TokioResolver, system_conf};

/// Bytes that are read of each file. 1 MiB has room for about ten thousand hosts.
const LONGEST: u64 = 1024 * 1024;

/// The number of servers that are asked, as in glibc.
const MOST_SERVERS: usize = 3;

/// The bounds of the time that one server has for a question with its repetitions. resolv.conf's `timeout` is limited
/// to them, because glibc's 5 s would leave no time for the last server.
const SHORTEST_TIMEOUT: Duration = Duration::from_secs(1);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3);

/// The time within which all servers are asked. Half a second less than [`super::names`] waits for a look-up.
pub(super) const FOR_ALL: Duration = Duration::from_millis(4500);

#[derive(Debug, Clone)]
pub struct Files {
    pub resolv_conf: PathBuf,
    pub hosts: PathBuf,
    /// The port of the servers: 53, except in tests.
    pub port: u16,
}

/// The change time and size of each file. They show whether a file has changed or is missing.
pub(super) type Stamp = [Option<(SystemTime, u64)>; 2];

pub(super) struct System {
    pub(super) hosts: Hosts,
    /// The servers, or why there are none.
    pub(super) servers: Result<Servers, String>,
}

#[derive(Debug, Clone)]
pub(super) struct Servers {
    pub(super) ndots: usize,
    pub(super) search: Vec<Name>,
    /// In the order of the file.
    pub(super) all: Vec<Server>,
}

#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) address: IpAddr,
    pub(super) resolver: TokioResolver,
}

impl Files {
    pub(super) fn system() -> Self {
        Self { resolv_conf: "/etc/resolv.conf".into(), hosts: "/etc/hosts".into(), port: 53 }
    }

    pub(super) fn stamp(&self) -> Stamp {
        [stamp(&self.resolv_conf), stamp(&self.hosts)]
    }

    /// Reads both files. It never fails as a whole: the hosts file is used without servers, and the servers in `before`
    /// are kept when resolv.conf cannot be read or lists none, as it may while it is being written.
    pub(super) fn read(&self, before: Option<&System>) -> System {
        let servers = self.servers();
        let servers = match (servers, before.and_then(|before| before.servers.as_ref().ok())) {
            (Err(why), Some(known)) => {
                tracing::warn!(%why, "keeping the DNS servers known before");
                Ok(known.clone())
            }
            (servers, _) => servers,
        };
        System { hosts: self.hosts(), servers }
    }

    fn servers(&self) -> Result<Servers, String> {
        let unusable = |why: &dyn std::fmt::Display| format!("{}: {why}", self.resolv_conf.display());
        let text = read(&self.resolv_conf).map_err(|error| unusable(&error))?;
        let (config, options) = system_conf::parse_resolv_conf(text).map_err(|error| unusable(&error))?;
        let servers = config.name_servers.get(..MOST_SERVERS).unwrap_or(&config.name_servers);
        let patience = options.timeout.clamp(SHORTEST_TIMEOUT, LONGEST_TIMEOUT);
        let all = servers.iter();
        let all: Result<Vec<Server>, String> = all
            .map(|server| {
                let mut server = server.clone();
                server.connections.iter_mut().for_each(|connection| connection.port = self.port);
                let (address, config) = (server.ip, ResolverConfig::from_name_servers(vec![server]));
                let resolver = resolver(config, patience, &options);
                resolver.map(|resolver| Server { address, resolver }).map_err(|error| unusable(&error))
            })
            .collect();
        Ok(Servers { ndots: options.ndots, search: search(&config), all: all? })
    }

    fn hosts(&self) -> Hosts {
        let mut hosts = Hosts::default();
        let text = match read(&self.hosts) {
            Ok(text) => text,
            Err(error) => {
                tracing::debug!(%error, file = %self.hosts.display(), "hosts cannot be read");
                return hosts;
            }
        };
        if let Err(error) = hosts.read_hosts_conf(text.as_slice()) {
            tracing::debug!(%error, file = %self.hosts.display(), "hosts are understood in part");
        }
        hosts
    }
}

/// The search domains. Without `search` or `domain` this is the domain of the host's own name.
fn search(config: &ResolverConfig) -> Vec<Name> {
    if config.search.is_empty() { config.domain.iter().cloned().collect() } else { config.search.clone() }
}

/// The time after which the next one of so many servers is asked too, while one is silent.
pub(super) fn head_start(for_all: Duration, servers: usize) -> Duration {
    for_all / u32::try_from(servers.max(1)).unwrap_or(u32::MAX)
}

fn resolver(
    config: ResolverConfig,
    patience: Duration,
    said: &ResolverOpts,
) -> Result<TokioResolver, impl std::fmt::Display> {
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.timeout = patience;
    options.edns0 = said.edns0;
    options.attempts = 0; // no further attempts: a question is repeated within its time, and a failed look-up is repeated later
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never; // `Resolver` reads it before it asks a server
    builder.build()
}

fn stamp(file: &Path) -> Option<(SystemTime, u64)> {
    let found = fs::metadata(file).ok()?;
    Some((found.modified().ok()?, found.len()))
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(file)?.take(LONGEST).read_to_end(&mut text)?;
    Ok(text)
}

impl std::fmt::Debug for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("System").field("servers", &self.servers).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::names;
    use super::*;

    #[test]
    fn the_last_of_three_servers_is_asked_within_the_time_of_a_look_up() {
        for servers in 1..=MOST_SERVERS {
            let before_last = head_start(FOR_ALL, servers) * u32::try_from(servers - 1).unwrap();
            let left = names::PATIENCE - before_last;
            assert!(left >= Duration::from_millis(2000), "{servers} servers leave {left:?} for the last one");
        }
    }
}
