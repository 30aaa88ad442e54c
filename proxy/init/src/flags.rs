//! The options as flags of a command line.

use clap::builder::RangedI64ValueParser;

use crate::options::{Backend, Mode, Networks, Options, Ports, port};
use crate::words::{Cidr, Interface, Wrong};

#[derive(Debug, clap::Args)]
pub struct Flags {
    /// How connections of others come in: redirect; or tproxy, which keeps the client's address towards the
    /// application and needs NET_ADMIN in the sidecar
    #[arg(long, value_name = "MODE", default_value = "redirect")]
    mode: Mode,
    /// Where the rules go: auto (what kernel and machine have), nft, iptables, iptables-nft or iptables-legacy
    #[arg(long, value_name = "BACKEND", default_value = "auto")]
    backend: Backend,
    /// The sidecar's port for what the application calls
    #[arg(long, value_name = "PORT", default_value = "15001", value_parser = port)]
    outbound_port: u16,
    /// The sidecar's port for what others call
    #[arg(long, value_name = "PORT", default_value = "15006", value_parser = port)]
    inbound_port: u16,
    /// The sidecar's admin port, never captured
    #[arg(long, value_name = "PORT", default_value = "15000", value_parser = port)]
    admin_port: u16,
    /// The sidecar's metrics port, never captured
    #[arg(long, value_name = "PORT", default_value = "15020", value_parser = port)]
    metrics_port: u16,
    /// The sidecar's port for DNS, never captured
    #[arg(long, value_name = "PORT", default_value = "15053", value_parser = port)]
    dns_port: u16,
    /// The sidecar's user, whose connections are left alone
    #[arg(long, value_name = "UID", default_value = "1337", value_parser = id())]
    proxy_uid: u32,
    /// A group whose connections are left alone too
    #[arg(long, value_name = "GID", value_parser = id())]
    proxy_gid: Option<u32>,
    /// The application's ports to capture: *, none, or a list
    #[arg(long, value_name = "PORTS", default_value = "*", value_delimiter = ',')]
    inbound_ports: Vec<String>,
    /// The application's ports to leave alone
    #[arg(long, value_name = "PORTS", value_delimiter = ',', value_parser = port)]
    exclude_inbound_ports: Vec<u16>,
    /// Ports of others to leave alone
    #[arg(long, value_name = "PORTS", value_delimiter = ',', value_parser = port)]
    exclude_outbound_ports: Vec<u16>,
    /// Networks of others to leave alone
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    exclude_outbound_cidrs: Vec<Cidr>,
    /// Networks of others to capture: *, none, or a list
    #[arg(long, value_name = "CIDRS", default_value = "*", value_delimiter = ',')]
    include_outbound_cidrs: Vec<String>,
    /// Interfaces whose connections are left alone, by name or beginning (cali*)
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    exclude_interfaces: Vec<Interface>,
    /// Bring port 53, over UDP and TCP, to the sidecar's DNS port
    #[arg(long)]
    dns: bool,
}

impl Flags {
    /// # Errors
    /// A value in a list is invalid, or options contradict each other.
    pub fn options(self) -> Result<Options, Wrong> {
        let options = Options {
            mode: self.mode,
            backend: self.backend,
            outbound_port: self.outbound_port,
            inbound_port: self.inbound_port,
            admin_port: self.admin_port,
            metrics_port: self.metrics_port,
            dns_port: self.dns_port,
            proxy_uid: self.proxy_uid,
            proxy_gid: self.proxy_gid,
            inbound_ports: Ports::of(&self.inbound_ports)?,
            exclude_inbound_ports: self.exclude_inbound_ports.into_iter().collect(),
            exclude_outbound_ports: self.exclude_outbound_ports.into_iter().collect(),
            include_outbound: Networks::of(&self.include_outbound_cidrs)?,
            exclude_outbound: self.exclude_outbound_cidrs.into_iter().collect(),
            exclude_interfaces: self.exclude_interfaces.into_iter().collect(),
            dns: self.dns,
        };
        options.check()?;
        Ok(options)
    }
}

/// The largest number is not an ID: for setuid(2) it means "no change".
fn id() -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(..i64::from(u32::MAX))
}
