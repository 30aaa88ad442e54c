use std::path::Path;

use proptest::prelude::*;

use super::*;

fn config(inbound: &str, tls: &str) -> Config {
    let file = format!(
        "identity: {{ directory: certs }}\ninbound: {{ {inbound} }}\n\
         services: {{ orders: {{ endpoints: [10.0.0.1:80], tls: {tls} }} }}\n"
    );
    pillion_config::parse(&file, Path::new("")).expect("a good file").0
}

/// The blocks `inbound` of before and after, and how each of the warnings begins.
fn warn_as_expected(table: &[(&str, &str, &[&str])]) {
    for (now, next, expected) in table {
        let warnings = weakened(&config(now, "mutual"), &config(next, "mutual"));
        assert_eq!(warnings.len(), expected.len(), "{now} to {next}: {warnings:?}");
        for (warning, expected) in warnings.iter().zip(*expected) {
            assert!(warning.starts_with(expected), "{now} to {next}: {warning}");
        }
    }
}

#[test]
fn c1_weaker_mtls_gives_a_warning_for_all_ports_for_single_ports_and_for_services() {
    let table: [(&str, &str, &[&str]); 8] = [
        ("mtls: strict", "mtls: permissive", &["inbound.mtls: permissive instead of strict"]),
        ("", "mtls: off", &["inbound.mtls: off instead of strict"]),
        ("mtls: permissive", "mtls: off", &["inbound.mtls: off instead of permissive"]),
        ("mtls: permissive", "mtls: strict", &[]),
        ("", "ports: { 80: { mtls: off } }", &["inbound.ports.80.mtls: off instead of strict"]),
        (
            "mtls: permissive, ports: { 80: { mtls: strict } }",
            "mtls: permissive",
            &["inbound.ports.80.mtls: permissive instead of strict"],
        ),
        (
            "mtls: strict, ports: { 80: { mtls: strict } }",
            "mtls: off, ports: { 80: { mtls: permissive } }",
            &["inbound.mtls: off instead of strict", "inbound.ports.80.mtls: permissive instead of strict"],
        ),
        ("ports: { 80: { mtls: off } }", "ports: { 80: { mtls: strict } }", &[]),
    ];
    for (now, next, expected) in table {
        assert_eq!(weakened(&config(now, "mutual"), &config(next, "mutual")), expected, "{now} to {next}");
    }
    assert_eq!(
        weakened(&config("", "mutual"), &config("", "off")),
        ["services.orders.tls: off instead of mutual"]
    );
    assert_eq!(weakened(&config("", "off"), &config("", "mutual")), [""; 0]);
}

#[test]
fn c1_a_change_from_http_to_opaque_gives_a_warning_for_all_ports_and_for_single_ports() {
    let table: [(&str, &str, &[&str]); 6] = [
        ("protocol: http1", "protocol: tcp", &["inbound.protocol: tcp instead of http1"]),
        ("", "ports: { 80: { protocol: tls } }", &["inbound.ports.80.protocol: tls instead of auto"]),
        (
            "protocol: tcp, ports: { 80: { protocol: http2 } }",
            "protocol: tcp",
            &["inbound.ports.80.protocol: tcp instead of http2"],
        ),
        ("protocol: tcp", "protocol: http1", &[]),
        ("protocol: tcp", "protocol: tls", &[]),
        ("protocol: http1", "protocol: auto", &[]),
    ];
    warn_as_expected(&table);
}

#[test]
fn a_listener_that_admits_clients_outside_the_mesh_or_loses_its_tls_gives_a_warning() {
    const TLS: &str = "ports: { 80: { listen: \"0.0.0.0:443\", tls: { certificate: a, key: b } } }";
    const PLAIN: &str = "ports: { 80: { listen: \"0.0.0.0:443\" } }";
    let table: [(&str, &str, &[&str]); 8] = [
        ("", TLS, &["inbound.ports.80.tls: clients outside the mesh are admitted at its listeners"]),
        (PLAIN, TLS, &["inbound.ports.80.tls: clients outside the mesh are admitted at its listeners"]),
        ("mtls: off", &format!("mtls: off, {TLS}"), &[]),
        (
            &format!("mtls: off, {TLS}"),
            &format!("mtls: off, {PLAIN}"),
            &["inbound.ports.80.tls: there is none any more"],
        ),
        (
            &format!("mtls: permissive, {TLS}"),
            &format!("mtls: permissive, {PLAIN}"),
            &["inbound.ports.80.tls: there is none any more"],
        ),
        (TLS, PLAIN, &[]),
        (TLS, "", &[]),
        (TLS, TLS, &[]),
    ];
    warn_as_expected(&table);
}

#[test]
fn weaker_authorization_gives_a_warning() {
    const DENIALS: &str = "{ default: allow, rules: [{ name: a, action: deny, ports: [80] }, { name: b, action: deny, ports: [81] }] }";
    const TOKENS: &str = "{ jwt: { issuer: a, audiences: b, jwks: { file: c } } }";
    const OPTIONAL: &str = "{ jwt: { issuer: a, audiences: b, jwks: { file: c }, required: off } }";
    let block = |text: &str| config(&format!("authorization: {text}"), "mutual");
    let table = [
        ("{}", "off", "inbound.authorization: there are no rules any more"),
        ("{}", "{ mode: audit }", "inbound.authorization.mode: audit instead of enforce"),
        ("{}", "{ default: allow }", "inbound.authorization.default: allow instead of deny"),
        ("{}", "{ rules: [{ name: a }] }", ""),
        ("{}", "{ encoded_slash: keep }", "inbound.authorization.encoded_slash: keep instead of reject"),
        ("{ encoded_slash: keep }", "{}", ""),
        (TOKENS, "{}", "inbound.authorization.jwt: no token is verified any more"),
        (TOKENS, OPTIONAL, "inbound.authorization.jwt.required: off instead of on"),
        (OPTIONAL, TOKENS, ""),
        (
            TOKENS,
            "{ jwt: { issuer: x, audiences: b, jwks: { file: c } } }",
            "inbound.authorization.jwt.issuer: tokens of x are accepted, in place of those of a",
        ),
        (
            TOKENS,
            "{ jwt: { issuer: a, audiences: [b, x], jwks: { file: c } } }",
            "inbound.authorization.jwt.audiences: tokens for x are accepted too",
        ),
        ("{ jwt: { issuer: a, audiences: [b, x], jwks: { file: c } } }", TOKENS, ""),
        (
            TOKENS,
            "{ jwt: { issuer: a, audiences: b, jwks: { file: x } } }",
            "inbound.authorization.jwt.jwks: another source",
        ),
        (
            "{ jwt: { issuer: a, audiences: b, jwks: { url: \"https://a/\" } } }",
            "{ jwt: { issuer: a, audiences: b, jwks: { url: \"https://a/\", refresh: 1m } } }",
            "",
        ),
        (
            "{ ext_authz: { http: \"http://127.0.0.1:1/\", with_body: 1KiB } }",
            "{ ext_authz: { http: \"http://127.0.0.1:1/\" } }",
            "inbound.authorization.ext_authz.with_body: off",
        ),
        (
            "{ ext_authz: { http: \"http://127.0.0.1:1/\" } }",
            "{}",
            "inbound.authorization.ext_authz: no external authorizer is asked any more",
        ),
        (
            "{ ext_authz: { http: \"http://127.0.0.1:1/\" } }",
            "{ ext_authz: { http: \"http://127.0.0.1:1/\", on_error: allow } }",
            "inbound.authorization.ext_authz.on_error: allow instead of deny",
        ),
        (
            "{ ext_authz: { http: \"http://127.0.0.1:1/\" } }",
            "{ ext_authz: { http: \"http://127.0.0.1:1/x\" } }",
            "inbound.authorization.ext_authz: http://127.0.0.1:1/x is asked instead of http://127.0.0.1:1",
        ),
        (
            "{ ext_authz: { http: \"http://127.0.0.1:1/\" } }",
            "{ ext_authz: { grpc: \"127.0.0.1:1\" } }",
            "inbound.authorization.ext_authz: 127.0.0.1:1 is asked instead of http://127.0.0.1:1",
        ),
        (
            "{ ext_authz: { grpc: \"127.0.0.1:1\", send_headers: [cookie, x-team] } }",
            "{ ext_authz: { grpc: \"127.0.0.1:1\", send_headers: [cookie, x-other] } }",
            "inbound.authorization.ext_authz.send_headers: the authorizer does not get `x-team` any more",
        ),
        (
            "{ ext_authz: { grpc: \"127.0.0.1:1\", send_headers: [cookie] } }",
            "{ ext_authz: { grpc: \"127.0.0.1:1\", send_headers: [x-team, cookie], timeout: 1s } }",
            "",
        ),
        (
            DENIALS,
            "{ default: allow }",
            "inbound.authorization.rules: no deny rule is called `a` any more, and so for 1 more",
        ),
        (
            DENIALS,
            "{ default: allow, rules: [{ name: a }, { name: b, action: deny, ports: [81] }] }",
            "inbound.authorization.rules: no deny rule is called `a` any more",
        ),
        (
            DENIALS,
            "{ default: allow, rules: [{ name: b, action: deny }, { name: a, action: deny }, { name: c }] }",
            "",
        ),
        ("{ mode: audit }", "off", ""),
        ("{ mode: audit }", "{}", ""),
        ("off", "{}", ""),
    ];
    for (now, next, expected) in table {
        let warnings = weakened(&block(now), &block(next));
        let is_expected = if expected.is_empty() { warnings.is_empty() } else { warnings.len() == 1 };
        assert!(
            is_expected && warnings.iter().all(|it| it.starts_with(expected)),
            "{now} to {next}: {warnings:?}"
        );
    }
    let now = "{ ext_authz: { http: \"http://127.0.0.1:1/\", with_body: 1KiB, send_headers: [a] } }";
    let next = "{ ext_authz: { grpc: \"127.0.0.1:2\", on_error: allow, send_headers: [b] } }";
    let warnings = weakened(&block(now), &block(next));
    assert_eq!(warnings.len(), 4, "each of several is told: {warnings:?}");
}

fn outbound(unknown: &str, services: &str) -> Config {
    let file = format!(
        "identity: {{ directory: certs }}\noutbound: {{ unknown: {unknown} }}\nservices: {{ {services} }}\n"
    );
    pillion_config::parse(&file, Path::new("")).expect("a good file").0
}

fn service(name: &str, more: &str) -> String {
    format!("{name}: {{ endpoints: [10.0.0.1:80], {more} }}")
}

#[test]
fn c1_a_destination_that_no_service_protects_any_more_gives_a_warning() {
    let whole = "hosts: [orders, orders.shop], addresses: [10.96.0.10:80]";
    let now = service("orders", whole);
    let warnings_of =
        |unknown: &str, next: &str| weakened(&outbound(unknown, &now), &outbound(unknown, next));
    for (next, words) in [
        (String::new(), "orders belongs to no service any more"),
        (
            service("orders", "hosts: [orders], addresses: [10.96.0.10:80]"),
            "orders.shop belongs to no service",
        ),
        (service("orders", "hosts: [orders, orders.shop]"), "10.96.0.10:80 belongs to no service"),
        (
            service("other", &format!("{whole}, tls: off")),
            "orders belongs to other now: tls: off instead of mutual",
        ),
        (
            service("other", "hosts: [orders, \"*.shop\"], addresses: [10.96.0.0/16], tls: off"),
            "orders belongs to other now",
        ),
    ] {
        let warnings = warnings_of("passthrough", &next);
        assert!(matches!(&warnings[..], [one] if one.contains(words)), "{next}: {warnings:?}");
    }
    for next in [
        now.clone(),
        service("renamed", whole),
        service("wide", "hosts: [orders, \"*.shop\"], addresses: [10.96.0.0/16]"),
    ] {
        assert_eq!(warnings_of("passthrough", &next), [""; 0], "{next}");
    }
    assert_eq!(warnings_of("deny", ""), [""; 0], "it is denied");
    assert_eq!(
        weakened(&outbound("passthrough", &service("a", "tls: off")), &outbound("passthrough", "")),
        [""; 0]
    );
}

#[test]
fn c1_a_part_of_a_destination_that_moves_to_a_less_protected_service_gives_a_warning() {
    let shop = service("shop", "hosts: [\"*.shop\"], addresses: [10.0.0.0/8]");
    let warnings_of = |more: &str| {
        let next = format!("{shop}, {}", service("pay", more));
        weakened(&outbound("passthrough", &shop), &outbound("passthrough", &next))
    };
    assert_eq!(
        warnings_of("hosts: [pay.shop], tls: off"),
        ["services.pay: pay.shop belonged to shop before: tls: off instead of mutual"]
    );
    assert_eq!(
        warnings_of("addresses: [10.1.0.0/16], tls: off"),
        ["services.pay: 10.1.0.0/16 belonged to shop before: tls: off instead of mutual"]
    );
    for more in
        ["hosts: [pay.shop], addresses: [10.1.0.0/16]", "hosts: [pay], addresses: [11.0.0.0/8], tls: off"]
    {
        assert_eq!(warnings_of(more), [""; 0], "{more}");
    }
}

/// The owner of a destination, found by comparing it with every pattern.
fn compared<'a, P: PartialEq>(
    all: &[(P, &'a Cluster)],
    one: &P,
    is_of: impl Fn(&P) -> bool,
    length: impl Fn(&P) -> (usize, bool),
) -> Option<&'a Cluster> {
    let exact = all.iter().rfind(|(of, _)| of == one);
    let wide = || all.iter().filter(|(of, _)| is_of(of)).max_by_key(|(of, _)| length(of));
    exact.or_else(wide).map(|(_, of)| *of)
}

fn compared_host<'a>(all: &[(HostPattern, &'a Cluster)], host: &HostPattern) -> Option<&'a Cluster> {
    let is_of = |wide: &HostPattern| {
        let is_below = host.name.strip_suffix(&wide.name).is_some_and(|rest| rest.ends_with('.'));
        let is_same = host.name == wide.name && host.wildcard == wide.wildcard;
        (is_same || (wide.wildcard && is_below)) && wide.port.is_none_or(|port| Some(port) == host.port)
    };
    compared(all, host, is_of, |of| (of.name.len(), of.port.is_some()))
}

fn compared_address<'a>(
    all: &[(AddressPattern, &'a Cluster)],
    address: &AddressPattern,
) -> Option<&'a Cluster> {
    let is_of = |wide: &AddressPattern| {
        let is_within = wide.prefix <= address.prefix && wide.contains(address.network);
        is_within && wide.port.is_none_or(|port| Some(port) == address.port)
    };
    compared(all, address, is_of, |of| (of.prefix.into(), of.port.is_some()))
}

fn host_pattern() -> impl Strategy<Value = HostPattern> {
    let name = prop::sample::select(vec!["a", "b.a", "c.b.a", "ba", "x.ba", "b"]);
    (name, any::<bool>(), prop::option::of(80..82_u16)).prop_map(|(name, wildcard, port)| HostPattern {
        name: name.to_owned(),
        wildcard,
        port,
    })
}

fn address_pattern() -> impl Strategy<Value = AddressPattern> {
    let prefix = prop::sample::select(vec![0, 8, 15, 16, 24, 31, 32]);
    let network = prop::sample::select(vec!["10.1.0.0", "10.0.0.1", "10.1.2.3", "fd00::1"]);
    (network, prefix, prop::option::of(80..82_u16)).prop_map(|(network, prefix, port)| {
        let network = AddressPattern::first(network.parse().unwrap(), prefix);
        AddressPattern { network, prefix, port }
    })
}

proptest! {
    #[test]
    fn c1_the_owner_of_a_destination_is_the_one_that_a_comparison_with_all_finds(
        hosts in prop::collection::vec(host_pattern(), 0..12),
        addresses in prop::collection::vec(address_pattern(), 0..12),
        host in host_pattern(),
        address in address_pattern(),
    ) {
        let mut config = outbound("deny", &service("a", ""));
        let template = config.clusters.remove(0);
        let pairs = hosts.iter().map(|host| (Some(host), None));
        for (nth, (host, address)) in pairs.chain(addresses.iter().map(|of| (None, Some(of)))).enumerate() {
            config.clusters.push(Cluster {
                name: nth.to_string(),
                hosts: host.into_iter().cloned().collect(),
                addresses: address.into_iter().copied().collect(),
                ..template.clone()
            });
        }
        let name = |of: Option<&Cluster>| of.map(|of| of.name.clone());
        let (of_hosts, of_addresses) = config.clusters.split_at(hosts.len());
        let all_hosts: Vec<_> = hosts.iter().cloned().zip(of_hosts).collect();
        let all_addresses: Vec<_> = addresses.iter().copied().zip(of_addresses).collect();
        let owners = Owners::of(&config);
        prop_assert_eq!(name(owners.host(&host)), name(compared_host(&all_hosts, &host)));
        prop_assert_eq!(name(owners.address(&address)), name(compared_address(&all_addresses, &address)));
    }
}

#[test]
fn c1_the_owner_of_a_host_is_found_in_few_steps_among_ten_thousand_wildcards() {
    let mut config = outbound("deny", &service("orders", ""));
    config.clusters[0].hosts = (0..10_000)
        .map(|nth| HostPattern { name: format!("n{nth}.shop"), wildcard: true, port: None })
        .collect();
    let owners = Owners::of(&config);
    for nth in 0..10_000 {
        let host = HostPattern { port: Some(80), ..HostPattern::exact(&format!("a.n{nth}.shop")) };
        assert_eq!(owners.host(&host).map(|of| of.name.as_str()), Some("orders"), "{host}");
        assert_eq!(host_patterns(&host).count(), 6, "three names, with the port and without");
    }
    let all_ports = HostPattern { name: "n1.shop".to_owned(), wildcard: true, port: None };
    let questions: Vec<_> = host_patterns(&all_ports).collect();
    assert_eq!(questions, [("n1.shop", true, None), ("shop", true, None)]);
}

#[test]
fn c1_passing_unknown_destinations_through_gives_a_warning() {
    let (deny, pass) = (outbound("deny", ""), outbound("passthrough", ""));
    assert_eq!(weakened(&deny, &pass), ["outbound.unknown: passthrough instead of deny"]);
    assert_eq!(weakened(&pass, &deny), [""; 0]);
}

#[test]
fn c1_accepting_more_servers_for_a_service_gives_a_warning() {
    let (one, two) = ("spiffe://a/ns/x/sa/one", "spiffe://a/ns/x/sa/two");
    let mutual = |more: &str| format!("{{ mode: mutual, {more} }}");
    let both = format!("identities: [{one}, {two}]");
    for (now, next, expected) in [
        (format!("\"{one}\""), "mutual".to_owned(), Some("any identity of the trust domain")),
        (format!("\"{one}\""), mutual(&both), Some("sa/two is accepted besides")),
        (mutual(&both), format!("\"{one}\""), None),
        ("mutual".to_owned(), format!("\"{one}\""), None),
        (mutual("trust_bundle: own.pem"), "mutual".to_owned(), Some("trusts the mesh's authorities")),
        ("mutual".to_owned(), mutual("trust_bundle: own.pem"), None),
    ] {
        let tls = |tls: &str| outbound("deny", &service("orders", &format!("tls: {tls}")));
        let warnings = weakened(&tls(&now), &tls(&next));
        match expected {
            None => assert_eq!(warnings, [""; 0], "{now} to {next}"),
            Some(words) => {
                assert!(
                    matches!(&warnings[..], [one] if one.contains(words)),
                    "{now} to {next}: {warnings:?}"
                );
            }
        }
    }
}

#[test]
fn c1_weaker_tls_settings_of_the_whole_sidecar_give_a_warning() {
    let config =
        |more: &str| pillion_config::parse(&format!("{more}\n"), Path::new("")).expect("a good file").0;
    let files = "certificate: a, key: b, trust_bundle: c";
    let (with, without) = (format!("identity: {{ {files}, crl: d }}"), format!("identity: {{ {files} }}"));
    let warnings = weakened(&config(&with), &config(&without));
    assert!(matches!(&warnings[..], [one] if one.contains("no revocation list any more")), "{warnings:?}");
    let federated = format!("identity: {{ {files}, federation: {{ partner.example: d }} }}");
    let warnings = weakened(&config(&without), &config(&federated));
    assert_eq!(warnings, ["identity.federation: workloads of partner.example are admitted too"]);
    assert_eq!(weakened(&config(&federated), &config(&without)), [""; 0]);
    let (strong, weak) = ("tls: { min_version: \"1.3\" }", "tls: { post_quantum: off }");
    assert_eq!(
        weakened(&config(strong), &config(weak)),
        ["tls.min_version: 1.2 instead of 1.3", "tls.post_quantum: off instead of prefer"]
    );
    assert_eq!(weakened(&config(weak), &config(strong)), [""; 0]);
}

#[test]
fn a_memory_limit_that_is_turned_off_is_told() {
    let of = |limits: &str| pillion_config::parse(limits, Path::new("")).expect("a good file").0;
    let [auto, off] = ["auto", "off"].map(|max| of(&format!("limits: {{ max_memory: {max} }}\n")));
    assert!(weakened(&auto, &off).iter().any(|what| what.starts_with("limits.max_memory: off")));
    assert_eq!(weakened(&off, &auto), Vec::<String>::new());
}
