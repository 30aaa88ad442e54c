//! What each option adds to the rules without options, and what it removes.

use super::*;
use crate::options::{Mode, Networks, Ports};

/// Lines with `+` are added and lines with `-` are removed. All other lines stay, in their order.
fn difference(before: &[String], after: &[String]) -> Vec<String> {
    let taken = before.iter().filter(|line| !after.contains(line)).map(|line| format!("-{line}"));
    let added = after.iter().filter(|line| !before.contains(line)).map(|line| format!("+{line}"));
    let kept = |lines: &[String], other: &[String]| -> Vec<String> {
        lines.iter().filter(|line| other.contains(line)).cloned().collect()
    };
    assert_eq!(kept(before, after), kept(after, before), "the order of the lines that stay");
    taken.chain(added).collect()
}

struct Case {
    change: fn(&mut Options),
    nft: &'static [&'static str],
    v4: &'static [&'static str],
    v6: &'static [&'static str],
}

fn check(case: &Case) {
    let (none, some) = (rules(&Options::default()), rules(&with(case.change)));
    assert_eq!(difference(&in_nft(&none, &BOTH), &in_nft(&some, &BOTH)), case.nft);
    for (family, expected) in [(Family::V4, case.v4), (Family::V6, case.v6)] {
        let [none, some] = [&none, &some].map(|rules| in_iptables(rules, family));
        assert_eq!(difference(&none, &some), expected, "{family}");
    }
}

#[test]
fn the_sidecars_own_ports_and_user() {
    const INBOUND: &[&str] = &[
        "-PILLION_INBOUND -p tcp -m tcp --dport 15000 -j RETURN",
        "-PILLION_INBOUND -p tcp -m tcp --dport 15001 -j RETURN",
        "-PILLION_INBOUND -p tcp -m tcp --dport 15006 -j RETURN",
        "-PILLION_INBOUND -p tcp -m tcp --dport 15020 -j RETURN",
        "-PILLION_INBOUND -p tcp -m tcp --dport 15053 -j RETURN",
        "-PILLION_INBOUND -p tcp -j REDIRECT --to-ports 15006",
        "+PILLION_INBOUND -p tcp -m tcp --dport 1 -j RETURN",
        "+PILLION_INBOUND -p tcp -m tcp --dport 2 -j RETURN",
        "+PILLION_INBOUND -p tcp -m tcp --dport 3 -j RETURN",
        "+PILLION_INBOUND -p tcp -m tcp --dport 4 -j RETURN",
        "+PILLION_INBOUND -p tcp -m tcp --dport 5 -j RETURN",
        "+PILLION_INBOUND -p tcp -j REDIRECT --to-ports 2",
    ];
    let changed = rules(&with(|o| {
        (o.outbound_port, o.inbound_port, o.admin_port, o.metrics_port, o.dns_port) = (1, 2, 3, 4, 5);
    }));
    for family in BOTH {
        let lines =
            difference(&in_iptables(&rules(&Options::default()), family), &in_iptables(&changed, family));
        let inbound: Vec<_> = lines.iter().filter(|line| line.contains("INBOUND")).collect();
        assert_eq!(inbound, INBOUND.iter().collect::<Vec<_>>());
        assert!(lines.contains(&"+PILLION_OUTPUT -p tcp -j REDIRECT --to-ports 1".to_owned()), "{lines:?}");
    }
    check(&Case {
        change: |o| o.proxy_uid = 7,
        nft: &[
            "-output ip daddr != 127.0.0.0/8 oifname \"lo\" meta l4proto tcp meta skuid 1337 jump inbound",
            "-output ip6 daddr != ::1 oifname \"lo\" meta l4proto tcp meta skuid 1337 jump inbound",
            "-output meta skuid 1337 return",
            "+output ip daddr != 127.0.0.0/8 oifname \"lo\" meta l4proto tcp meta skuid 7 jump inbound",
            "+output ip6 daddr != ::1 oifname \"lo\" meta l4proto tcp meta skuid 7 jump inbound",
            "+output meta skuid 7 return",
        ],
        v4: &[
            "-PILLION_OUTPUT ! -d 127.0.0.0/8 -o lo -p tcp -m owner --uid-owner 1337 -j PILLION_INBOUND",
            "-PILLION_OUTPUT -m owner --uid-owner 1337 -j RETURN",
            "+PILLION_OUTPUT ! -d 127.0.0.0/8 -o lo -p tcp -m owner --uid-owner 7 -j PILLION_INBOUND",
            "+PILLION_OUTPUT -m owner --uid-owner 7 -j RETURN",
        ],
        v6: &[
            "-PILLION_OUTPUT ! -d ::1/128 -o lo -p tcp -m owner --uid-owner 1337 -j PILLION_INBOUND",
            "-PILLION_OUTPUT -m owner --uid-owner 1337 -j RETURN",
            "+PILLION_OUTPUT ! -d ::1/128 -o lo -p tcp -m owner --uid-owner 7 -j PILLION_INBOUND",
            "+PILLION_OUTPUT -m owner --uid-owner 7 -j RETURN",
        ],
    });
    check(&Case {
        change: |o| o.proxy_gid = Some(8),
        nft: &[
            "+output ip daddr != 127.0.0.0/8 oifname \"lo\" meta l4proto tcp meta skgid 8 jump inbound",
            "+output ip6 daddr != ::1 oifname \"lo\" meta l4proto tcp meta skgid 8 jump inbound",
            "+output meta skgid 8 return",
        ],
        v4: &[
            "+PILLION_OUTPUT ! -d 127.0.0.0/8 -o lo -p tcp -m owner --gid-owner 8 -j PILLION_INBOUND",
            "+PILLION_OUTPUT -m owner --gid-owner 8 -j RETURN",
        ],
        v6: &[
            "+PILLION_OUTPUT ! -d ::1/128 -o lo -p tcp -m owner --gid-owner 8 -j PILLION_INBOUND",
            "+PILLION_OUTPUT -m owner --gid-owner 8 -j RETURN",
        ],
    });
}

#[test]
fn ports_of_the_application() {
    const LEFT: &[&str] = &["+PILLION_INBOUND -p tcp -m tcp --dport 22 -j RETURN"];
    check(&Case {
        change: |o| o.exclude_inbound_ports = [22].into(),
        nft: &["+inbound tcp dport 22 return"],
        v4: LEFT,
        v6: LEFT,
    });
    const LISTED: &[&str] = &[
        "-PILLION_INBOUND -p tcp -j REDIRECT --to-ports 15006",
        "+PILLION_INBOUND -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 15006",
        "+PILLION_INBOUND -p tcp -m tcp --dport 443 -j REDIRECT --to-ports 15006",
    ];
    check(&Case {
        change: |o| o.inbound_ports = Ports::Only([443, 80].into()),
        nft: &[
            "-inbound meta l4proto tcp redirect to :15006",
            "+inbound tcp dport 80 redirect to :15006",
            "+inbound tcp dport 443 redirect to :15006",
        ],
        v4: LISTED,
        v6: LISTED,
    });
    const NONE: &[&str] = &["-PILLION_INBOUND -p tcp -j REDIRECT --to-ports 15006"];
    check(&Case {
        change: |o| o.inbound_ports = Ports::Only([].into()),
        nft: &["-inbound meta l4proto tcp redirect to :15006"],
        v4: NONE,
        v6: NONE,
    });
}

#[test]
fn options_for_the_destinations_of_the_application() {
    const PORT: &[&str] = &["+PILLION_OUTPUT -p tcp -m tcp --dport 3306 -j RETURN"];
    check(&Case {
        change: |o| o.exclude_outbound_ports = [3306].into(),
        nft: &["+output tcp dport 3306 return"],
        v4: PORT,
        v6: PORT,
    });
    check(&Case {
        change: |o| o.exclude_outbound = ["10.0.0.0/8", "fd00::1"].map(|n| n.parse().expect("one")).into(),
        nft: &["+output ip daddr 10.0.0.0/8 return", "+output ip6 daddr fd00::1 return"],
        v4: &["+PILLION_OUTPUT -d 10.0.0.0/8 -j RETURN"],
        v6: &["+PILLION_OUTPUT -d fd00::1/128 -j RETURN"],
    });
    check(&Case {
        change: |o| o.exclude_outbound = ["0.0.0.0/0", "::/0"].map(|n| n.parse().expect("one")).into(),
        nft: &["+output meta nfproto ipv4 return", "+output meta nfproto ipv6 return"],
        v4: &["+PILLION_OUTPUT -j RETURN"],
        v6: &["+PILLION_OUTPUT -j RETURN"],
    });
    check(&Case {
        change: |o| o.include_outbound = Networks::Only(["10.96.0.0/12".parse().expect("one")].into()),
        nft: &[
            "-output meta l4proto tcp redirect to :15001",
            "+output ip daddr 10.96.0.0/12 meta l4proto tcp redirect to :15001",
        ],
        v4: &[
            "-PILLION_OUTPUT -p tcp -j REDIRECT --to-ports 15001",
            "+PILLION_OUTPUT -d 10.96.0.0/12 -p tcp -j REDIRECT --to-ports 15001",
        ],
        v6: &["-PILLION_OUTPUT -p tcp -j REDIRECT --to-ports 15001"],
    });
}

#[test]
fn interfaces_and_dns() {
    const INTERFACES: &[&str] = &[
        "+PILLION_PREROUTING -i cali+ -j RETURN",
        "+PILLION_PREROUTING -i eth1 -j RETURN",
        "+PILLION_OUTPUT -o cali+ -j RETURN",
        "+PILLION_OUTPUT -o eth1 -j RETURN",
    ];
    check(&Case {
        change: |o| o.exclude_interfaces = ["eth1", "cali*"].map(|name| name.parse().expect("one")).into(),
        nft: &[
            "+prerouting iifname \"cali*\" return",
            "+prerouting iifname \"eth1\" return",
            "+output oifname \"cali*\" return",
            "+output oifname \"eth1\" return",
        ],
        v4: INTERFACES,
        v6: INTERFACES,
    });
    const DNS: &[&str] = &[
        "+PREROUTING -j PILLION_RAW_PREROUTING",
        "+OUTPUT -j PILLION_RAW_OUTPUT",
        "+PILLION_RAW_PREROUTING ! -i lo -p udp -m udp --sport 53 -j CT --zone 1",
        "+PILLION_RAW_OUTPUT ! -o lo -p udp -m owner --uid-owner 1337 -m udp --dport 53 -j CT --zone 1",
        "+PILLION_OUTPUT -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053",
        "+PILLION_OUTPUT -p tcp -m tcp --dport 53 -j REDIRECT --to-ports 15053",
    ];
    check(&Case {
        change: |o| o.dns = true,
        nft: &[
            "+raw_prerouting type filter hook prerouting priority -300; policy accept;",
            "+raw_prerouting iifname != \"lo\" udp sport 53 ct zone set 1",
            "+raw_output type filter hook output priority -300; policy accept;",
            "+raw_output oifname != \"lo\" meta skuid 1337 udp dport 53 ct zone set 1",
            "+output udp dport 53 redirect to :15053",
            "+output tcp dport 53 redirect to :15053",
        ],
        v4: DNS,
        v6: DNS,
    });
}

#[test]
fn tproxy_applies_to_connections_that_other_hosts_begin() {
    const MARKS: [&str; 2] = [
        "+PILLION_MANGLE_OUTPUT -p tcp -m conntrack --ctdir ORIGINAL -m mark --mark 0x539 \
         -j CONNMARK --set-xmark 0x539/0xffffffff",
        "+PILLION_MANGLE_OUTPUT -p tcp -m conntrack --ctdir REPLY -m connmark --mark 0x539 \
         -j MARK --set-xmark 0x539/0xffffffff",
    ];
    let options = with(|o| {
        o.mode = Mode::Tproxy;
        o.inbound_ports = Ports::Only([80].into());
        o.exclude_interfaces = ["eth1".parse().expect("one")].into();
    });
    let (none, some) = (rules(&with(|o| o.inbound_ports = Ports::Only([80].into()))), rules(&options));
    let lines = difference(&in_nft(&none, &BOTH), &in_nft(&some, &BOTH));
    assert_eq!(
        lines,
        [
            "-prerouting type nat hook prerouting priority -101; policy accept;",
            "-prerouting meta l4proto tcp fib daddr type local jump inbound",
            "+mangle_prerouting type filter hook prerouting priority -150; policy accept;",
            "+mangle_prerouting iifname \"lo\" return",
            "+mangle_prerouting meta l4proto tcp ct direction reply return",
            "+mangle_prerouting iifname \"eth1\" return",
            "+mangle_prerouting tcp dport 15000 return",
            "+mangle_prerouting tcp dport 15001 return",
            "+mangle_prerouting tcp dport 15006 return",
            "+mangle_prerouting tcp dport 15020 return",
            "+mangle_prerouting tcp dport 15053 return",
            "+mangle_prerouting tcp dport 80 fib daddr type local tproxy to :15006 accept",
            "+mangle_prerouting tcp dport 80 fib daddr type local reject with tcp reset",
            "+mangle_output type route hook output priority -150; policy accept;",
            "+mangle_output meta l4proto tcp ct direction original meta mark 0x00000539 ct mark set 0x00000539",
            "+mangle_output meta l4proto tcp ct direction reply ct mark 0x00000539 meta mark set 0x00000539",
            "+output meta mark 0x00000539 return",
            "+output oifname \"eth1\" return",
        ]
    );
    for (family, any) in [(Family::V4, "0.0.0.0"), (Family::V6, "::")] {
        let lines = difference(&in_iptables(&none, family), &in_iptables(&some, family));
        let tproxy = format!(
            "+PILLION_MANGLE_PREROUTING -p tcp -m tcp --dport 80 -m addrtype --dst-type LOCAL \
             -j TPROXY --on-port 15006 --on-ip {any} --tproxy-mark 0x0/0x0"
        );
        for line in [MARKS[0], MARKS[1], &tproxy, "+PILLION_OUTPUT -m mark --mark 0x539 -j RETURN"] {
            assert!(lines.iter().any(|one| one == line), "{line} in {lines:#?}");
        }
    }
}
