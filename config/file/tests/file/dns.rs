//! The DNS proxy: its defaults, its forms, and addresses with which it would ask itself.

use std::net::SocketAddr;
use std::path::PathBuf;

use pillion_model::dns::{Dns, NameServers};

use crate::{bad, good, messages, warnings};

fn dns(keys: &str) -> Dns {
    good(&format!("dns: {{ {keys} }}")).dns.expect("a DNS proxy")
}

fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

#[test]
fn there_is_no_dns_proxy_unless_the_block_is_written() {
    assert_eq!(good("{}").dns, None);
    assert_eq!(good("dns: off").dns, None);
    let default = Dns {
        listen: addresses(&["127.0.0.1:15053", "[::1]:15053"]),
        upstream: NameServers::File("/etc/resolv.conf".into()),
        virtual_addresses: true,
    };
    assert_eq!(dns(""), default);
    let written = dns("listen: 127.0.0.1:53, virtual_addresses: off");
    assert_eq!((written.listen, written.virtual_addresses), (addresses(&["127.0.0.1:53"]), false));
}

#[test]
fn upstream_is_a_file_or_addresses_with_or_without_a_port() {
    let list = |texts: &[&str]| NameServers::List(addresses(texts));
    for (upstream, expected) in [
        ("/run/resolv.conf", NameServers::File("/run/resolv.conf".into())),
        ("resolv.conf", NameServers::File(PathBuf::from("/etc/pillion/resolv.conf"))),
        ("10.96.0.10", list(&["10.96.0.10:53"])),
        ("\"10.96.0.10:5353\"", list(&["10.96.0.10:5353"])),
        (
            "[10.96.0.10, \"fd00::10\", \"[fd00::11]:5353\"]",
            list(&["10.96.0.10:53", "[fd00::10]:53", "[fd00::11]:5353"]),
        ),
    ] {
        assert_eq!(dns(&format!("upstream: {upstream}")).upstream, expected, "{upstream}");
    }
}

#[test]
fn a_name_server_that_cannot_be_asked_is_a_fault_with_help() {
    for (upstream, place, help) in [
        ("[]", "1:18", "leave it out for /etc/resolv.conf"),
        ("[dns.example]", "1:19", "write an IP address"),
        ("\"dns.example:53\"", "1:18", "write an IP address"),
        ("10.96.0", "1:18", "write an IP address"),
        ("\"127.0.0.1:15053\"", "1:18", "the name servers that the DNS proxy should ask"),
        ("[10.96.0.10, \"[::1]:15053\"]", "1:31", "the name servers that the DNS proxy should ask"),
    ] {
        let errors = bad(&format!("dns: {{ upstream: {upstream} }}"));
        let [fault] = errors.faults.as_slice() else { unreachable!("{errors}") };
        assert_eq!(format!("{}:{}", fault.line, fault.column), place, "{errors}");
        assert!(fault.help.as_deref().unwrap_or_default().contains(help), "{errors}");
    }
    assert_eq!(
        messages("dns: { listen: 127.0.0.1:53, upstream: 127.0.0.1 }"),
        ["1:40 dns.upstream is 127.0.0.1:53, where the DNS proxy itself listens (127.0.0.1:53): a loop"]
    );
}

#[test]
fn a_wildcard_address_gives_a_warning_because_redirected_queries_get_no_answer() {
    for (listen, expected) in [
        ("0.0.0.0:15053", Some("write 127.0.0.1:15053")),
        ("[127.0.0.1:15053, \"[::]:15053\"]", Some("write [::1]:15053")),
        ("127.0.0.1:15053", None),
        ("10.0.0.1:53", None),
    ] {
        let all = warnings(&format!("dns: {{ listen: {listen}, upstream: 10.96.0.10 }}"));
        let warning = all.iter().find(|warning| warning.path == "dns.listen");
        let help = warning.and_then(|warning| warning.help.as_deref());
        assert_eq!(help.is_some(), expected.is_some(), "{listen}");
        assert!(help.unwrap_or_default().starts_with(expected.unwrap_or_default()), "{listen}: {help:?}");
    }
}

#[test]
fn a_dns_proxy_without_an_address_is_refused() {
    assert_eq!(messages("dns: { listen: [] }"), ["1:16 dns.listen is empty"]);
}

#[test]
fn the_dns_proxy_shares_no_address_with_another_listener() {
    assert_eq!(
        messages("dns: { listen: 127.0.0.1:15000 }"),
        ["1:16 dns.listen has 127.0.0.1:15000, where admin listens already (127.0.0.1:15000)"]
    );
}
