//! A port of a running sidecar, as the command line names it: an URL with a host, a port and no path.

use std::fmt;
use std::str::FromStr;

use http::header::HOST;
use http::request::Builder;
use http::uri::Authority;
use http::{Method, Request};
use pillion_base::net::Network;
use pillion_upstream::discovery::names;

use super::client::Client;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port(Authority);

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
        let authority = rest.and_then(|rest| Authority::from_str(rest).ok());
        let usable = |of: &Authority| of.port_u16().is_some() && !of.as_str().contains('@');
        authority.filter(usable).map(Self).ok_or_else(|| {
            "write the address of the sidecar's port, such as http://127.0.0.1:15000".to_owned()
        })
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.0)
    }
}

impl Port {
    /// A request for `target`, which is path and query.
    pub(super) fn request(&self, method: Method, target: &str) -> Builder {
        Request::builder().method(method).uri(target).header(HOST, self.0.as_str())
    }

    /// Connects to the first address that accepts a connection.
    pub(super) async fn connect(&self) -> anyhow::Result<Client> {
        let mut failed = None;
        let host = self.0.host().trim_matches(['[', ']']);
        let port = self.0.port_u16().unwrap_or_default(); // a port is required above
        for address in names::addresses(&Network::Os, host, port).await? {
            match Client::connect(address).await {
                Ok(client) => return Ok(client),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| anyhow::anyhow!("the name has no address")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_url_with_a_port_and_no_path() {
        for (text, expected) in [
            ("http://127.0.0.1:15000", Some("http://127.0.0.1:15000")),
            ("http://[::1]:15000/", Some("http://[::1]:15000")),
            ("http://localhost:1", Some("http://localhost:1")),
            ("127.0.0.1:15000", None),
            ("https://127.0.0.1:15000", None),
            ("http://127.0.0.1", None),
            ("http://127.0.0.1:15000/config", None),
            ("http://a@127.0.0.1:15000", None),
            ("", None),
        ] {
            let parsed = text.parse::<Port>();
            assert_eq!(parsed.map(|port| port.to_string()).ok().as_deref(), expected, "{text}");
        }
    }
}
