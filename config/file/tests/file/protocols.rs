//! Keys of other protocols and of destinations: their values and their faults.

use pillion_config::Severity;
use pillion_model::cluster::UpstreamProtocol;
use pillion_model::listener::{AppProtocol, Mtls, RedirectTo, Unknown};

use crate::{bad, good, messages, warnings};

/// `LINE:COL MESSAGE. HELP` of the only fault.
fn the_fault(source: &str) -> String {
    let errors = bad(source);
    assert_eq!(errors.faults.len(), 1, "{errors}");
    let fault = &errors.faults[0];
    format!(
        "{}:{} {}. {}",
        fault.line,
        fault.column,
        fault.message,
        fault.help.as_deref().unwrap_or_default()
    )
}

#[test]
fn unknown_words_are_reported_at_their_place() {
    let cases = [
        (
            "inbound: { redirect_to: localhost }",
            "1:25 inbound.redirect_to is `localhost`, which is not one of original, loopback",
        ),
        (
            "inbound: { mtls: permisive }",
            "1:18 inbound.mtls is `permisive`, which is not one of strict, permissive, off",
        ),
        (
            "inbound: { protocol: udp }",
            "1:22 inbound.protocol is `udp`, which is not one of auto, http1, http2, tcp, tls",
        ),
        (
            "inbound:\n  ports:\n    3306: { protocol: off }\n",
            "3:23 inbound.ports.3306.protocol is `off`, which is not one of auto",
        ),
        (
            "inbound:\n  ports:\n    3306:\n      listen: [127.0.0.1]\n",
            "4:16 inbound.ports.3306.listen[0] is `127.0.0.1`, which is not an address. add the port",
        ),
        (
            "inbound:\n  ports:\n    3306:\n      listen: []\n",
            "4:15 inbound.ports.3306.listen is empty. write an address",
        ),
        (
            "outbound: { unknown: dney }",
            "1:22 outbound.unknown is `dney`, which is not one of passthrough, deny. did you mean deny?",
        ),
        (
            "services: { a: { endpoints: [10.0.0.1:80], protocol: tls } }",
            "1:54 services.a.protocol is `tls`, which is not one of auto, http1, http2, tcp",
        ),
        (
            "services: { a: { endpoints: [10.0.0.1:80], addresses: { ip: x } } }",
            "1:55 services.a.addresses must be an address or a network",
        ),
    ];
    for (source, expected) in cases {
        let message = the_fault(source);
        assert!(message.starts_with(expected), "{message}\nexpected {expected}");
    }
}

#[test]
fn an_identity_is_needed_wherever_mtls_is_on() {
    assert_eq!(
        messages(
            "inbound:\n  mtls: permissive\n  ports:\n    1: { mtls: strict }\n    2: { mtls: permissive }\n    3: { mtls: off }\n"
        ),
        [
            "2:9 inbound.mtls is permissive, but there is no `identity` to prove",
            "4:16 inbound.ports.1.mtls is strict, but there is no `identity` to prove",
            "5:16 inbound.ports.2.mtls is permissive, but there is no `identity` to prove",
        ]
    );
    // the identity is misspelt, so no message may say that it is missing
    assert_eq!(messages("identity: { direktory: a }\ninbound: { ports: { 1: { mtls: strict } } }").len(), 1);
}

#[test]
fn mistakes_in_addresses_are_reported_with_place_and_help() {
    let source = "\
services:
  a:
    endpoints: [10.0.0.1:80]
    addresses:
      - 10.96.1.7/24
      - 10.96.1.0/33
      - orders.shop:80
      - 10.96.0.10:0
";
    assert_eq!(
        messages(source),
        [
            "5:9 services.a.addresses[0] is `10.96.1.7/24`, an address within its network",
            "6:9 services.a.addresses[1] is `10.96.1.0/33`, with more bits than an address has",
            "7:9 services.a.addresses[2] is `orders.shop:80`, which is not an address or a network",
            "8:9 services.a.addresses[3] is `10.96.0.10:0`, whose port is 0",
        ]
    );
    assert!(bad(source).faults.iter().all(|fault| fault.help.is_some()));
    assert_eq!(
        the_fault("services: { a: { endpoints: [10.0.0.1:80], addresses: fd00::1/64 } }"),
        "1:55 services.a.addresses is `fd00::1/64`, an address within its network. \
         write fd00::/64 for the network, or fd00::1 for the one address"
    );
}

#[test]
fn an_address_means_one_service_however_it_is_written() {
    let source = "\
services:
  a: { endpoints: [10.0.0.1:80], addresses: [\"10.96.0.10:80\", 10.96.0.11, \"10.96.1.0/24\"] }
  b: { endpoints: [10.0.0.1:80], addresses: [10.96.0.11/32, 10.96.0.10] }
  c: { endpoints: [10.0.0.1:80], addresses: \"10.96.1.0/24\" }
  d: { endpoints: [10.0.0.1:80], addresses: [\"FD00::1\", \"[fd00:0::1]\"] }
";
    assert_eq!(
        messages(source),
        [
            "3:45 services.b.addresses has `10.96.0.11`, which means service a already",
            "4:45 services.c.addresses has `10.96.1.0/24`, which means service a already",
            "5:45 services.d.addresses has `fd00::1` twice",
        ]
    );
}

#[test]
fn a_network_within_the_network_of_another_service_is_no_fault() {
    let services = good(
        "services:\n  a: { endpoints: [10.0.0.1:80], addresses: [10.96.0.0/16, fd00::/64] }\n  \
         b: { endpoints: [10.0.0.1:80], addresses: [10.96.1.0/24, \"10.96.0.10:80\", \"[fd00::1]:80\", fd00::1] }\n",
    )
    .clusters;
    let written: Vec<String> = services[1].addresses.iter().map(ToString::to_string).collect();
    assert_eq!(written, ["10.96.1.0/24", "10.96.0.10:80", "[fd00::1]:80", "fd00::1"]);
    let to = "10.96.1.1:80".parse().unwrap();
    assert!(services[0].addresses[0].matches(to) && services[1].addresses[0].matches(to));
}

#[test]
fn an_address_to_which_no_connection_can_go_gives_a_warning() {
    let service =
        |addresses| format!("services: {{ a: {{ endpoints: [10.0.0.1:80], addresses: {addresses} }} }}");
    let messages = warnings(&service("[0.0.0.0, \"[::]:80\"]"));
    assert_eq!(messages.len(), 2);
    assert_eq!(
        (messages[0].severity, messages[0].column, messages[0].help.as_deref()),
        (Severity::Warning, 55, Some("every address is 0.0.0.0/0"))
    );
    assert_eq!(warnings(&service("[0.0.0.0/0, \"::/0\"]")), []);
}

#[test]
fn a_listener_of_a_port_that_collides_with_another_is_a_fault() {
    let source = "\
inbound:
  listen: 0.0.0.0:15006
  app: 127.0.0.1:8080
  ports:
    1: { listen: 127.0.0.1:15006 }
    2: { listen: [0.0.0.0:20002, 0.0.0.0:15020] }
    3: { listen: 127.0.0.1:20002 }
    4: { listen: \"[::]:20002\" }
services:
  a: { endpoints: [10.0.0.1:80], listen: 127.0.0.1:20002 }
";
    assert_eq!(
        messages(source),
        [
            "5:18 inbound.ports.1.listen has 127.0.0.1:15006, where inbound listens already (0.0.0.0:15006)",
            "6:18 inbound.ports.2.listen has 0.0.0.0:15020, where metrics listens already (0.0.0.0:15020)",
            "7:18 inbound.ports.3.listen has 127.0.0.1:20002, where inbound.ports.2 listens already (0.0.0.0:20002)",
            "10:42 services.a.listen has 127.0.0.1:20002, where inbound.ports.2 listens already (0.0.0.0:20002)",
        ]
    );
}

#[test]
fn a_listener_of_a_port_may_not_lead_to_the_sidecar_itself() {
    let cases = [
        (
            "inbound:\n  ports:\n    8443: { listen: 0.0.0.0:8443 }\n",
            "3:21 inbound.ports.8443.listen is for 127.0.0.1:8443, where inbound itself listens (0.0.0.0:8443)",
        ),
        (
            "inbound:\n  ports:\n    15006: { listen: 127.0.0.1:0 }\n",
            "3:22 inbound.ports.15006.listen is for 127.0.0.1:15006, where inbound itself listens (0.0.0.0:15006)",
        ),
        (
            "inbound:\n  app: 10.0.0.5:80\n  ports:\n    81: { listen: 10.0.0.5:81 }\n",
            "4:19 inbound.ports.81.listen is for 10.0.0.5:81, where inbound itself listens (10.0.0.5:81)",
        ),
        (
            "inbound:\n  app: 127.0.0.1:80\n  ports:\n    80: { listen: 0.0.0.0:80 }\n",
            "2:8 inbound.app is 127.0.0.1:80, where inbound itself listens (0.0.0.0:80)",
        ),
    ];
    for (source, expected) in cases {
        assert!(the_fault(source).starts_with(expected), "{}\nexpected {expected}", the_fault(source));
    }
    // the application's own address is allowed beside that of the sidecar
    good("inbound: { app: 127.0.0.1:80, ports: { 8443: { listen: 10.0.0.5:8443 } } }");
}

#[test]
fn ports_have_their_own_protocols_modes_and_listeners() {
    let inbound = good(
        "identity: { directory: c }\ninbound:\n  app: 127.0.0.1:8080\n  redirect_to: loopback\n  mtls: permissive\n  \
         protocol: tls\n  ports:\n    3306: { protocol: tcp, mtls: strict }\n    \"9090\": { mtls: off }\n    \
         8443: { listen: 127.0.0.1:0 }\n    8444: { protocol: tls, listen: [127.0.0.1:0, \"[::1]:0\"] }\n    5432:\n",
    )
    .inbound
    .unwrap();
    assert_eq!(
        (inbound.redirect_to, inbound.mtls, inbound.protocol),
        (RedirectTo::Loopback, Mtls::Permissive, AppProtocol::Tls)
    );
    let port = |port| &inbound.ports[&port];
    assert_eq!((port(3306).protocol, port(3306).mtls), (Some(AppProtocol::Tcp), Some(Mtls::Strict)));
    assert_eq!((port(9090).protocol, port(9090).mtls), (None, Some(Mtls::Off)));
    assert_eq!(port(8443).listen, ["127.0.0.1:0".parse().unwrap()]);
    assert_eq!((port(8444).listen.len(), port(8444).protocol), (2, Some(AppProtocol::Tls)));
    assert_eq!(port(5432), &Default::default());
}

#[test]
fn absent_keys_have_the_defaults_of_the_public_interface() {
    let config = good("services: { a: { endpoints: [10.0.0.1:80] } }");
    assert_eq!(config.inbound.unwrap().redirect_to, RedirectTo::Original);
    assert_eq!(config.outbound.unwrap().unknown, Unknown::Passthrough);
    assert_eq!(config.clusters[0].addresses, []);
    assert_eq!(good("outbound: { unknown: deny }").outbound.unwrap().unknown, Unknown::Deny);
    assert_eq!(
        good("inbound: { redirect_to: original }\noutbound: { unknown: passthrough }"),
        good("inbound: {}")
    );
}

/// The timeouts and retries of a TCP service have no effect, but `defaults` may have set them.
#[test]
fn a_tcp_service_may_have_the_keys_of_any_service() {
    let source = "services:\n  a: { endpoints: [10.0.0.1:80], protocol: tcp, addresses: 10.96.0.10, timeout: 1s, \
                  stream_idle_timeout: 2h, retry: { attempts: 1 } }\n";
    assert_eq!(warnings(source), []);
    let cluster = good(source).clusters.remove(0);
    assert_eq!(cluster.protocol, UpstreamProtocol::Tcp);
    assert_eq!(cluster.timeouts.stream_idle.tunnel(), Some(std::time::Duration::from_secs(7200)));
}
