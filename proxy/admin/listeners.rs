//! `/listeners`: the addresses on which the sidecar listens, and what each is for.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::console::Console;
use pillion_model::Direction;

/// An address on which the sidecar listens, with its real port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listening {
    pub(crate) on: SocketAddr,
    pub(crate) role: Role,
}

/// What an address is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Role {
    Inbound,
    /// The listener of a single port of the application.
    Port(u16),
    Outbound,
    /// The port of a single service.
    Service(String),
    Admin,
    Metrics,
    Dns,
}

impl Role {
    pub(crate) const fn as_str(&self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Port(_) => "port",
            Self::Outbound => "outbound",
            Self::Service(_) => "service",
            Self::Admin => "admin",
            Self::Metrics => "metrics",
            Self::Dns => "dns",
        }
    }
}

pub(super) fn page(console: &Console) -> Value {
    let published = console.published();
    let redirected = &console.store.redirected;
    json!({
        "generation": console.store.load().generation,
        "listeners": published.listening.iter().map(listener).collect::<Vec<_>>(),
        "redirected_connections_seen": {
            "inbound": redirected.has_seen(Direction::Inbound),
            "outbound": redirected.has_seen(Direction::Outbound),
        },
    })
}

fn listener(of: &Listening) -> Value {
    let mut shown = json!({ "address": of.on.to_string(), "for": of.role.as_str() });
    match &of.role {
        Role::Port(port) => shown["port"] = (*port).into(),
        Role::Service(name) => shown["service"] = name.as_str().into(),
        _ => {}
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_has_its_address_and_what_it_is_for() {
        let shown = |on: &str, role| listener(&Listening { on: on.parse().expect("an address"), role });
        let expected = json!({ "address": "[::]:15006", "for": "inbound" });
        assert_eq!(shown("[::]:15006", Role::Inbound), expected);
        let expected = json!({ "address": "127.0.0.1:81", "for": "service", "service": "orders" });
        assert_eq!(shown("127.0.0.1:81", Role::Service("orders".to_owned())), expected);
        let expected = json!({ "address": "0.0.0.0:8443", "for": "port", "port": 8080 });
        assert_eq!(shown("0.0.0.0:8443", Role::Port(8080)), expected);
    }
}
