//! `/listeners`: the addresses on which the sidecar listens, and what each is for.

use serde_json::{Value, json};

use super::console::Console;
use crate::listening::{Listening, Role};
use pillion_model::Direction;

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
