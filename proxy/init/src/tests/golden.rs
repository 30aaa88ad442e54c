//! The complete rules without any option, for each backend.

use super::*;

const NFT: &str = r#"add table inet pillion
delete table inet pillion
table inet pillion {
	chain inbound {
		tcp dport 15000 return
		tcp dport 15001 return
		tcp dport 15006 return
		tcp dport 15020 return
		tcp dport 15053 return
		meta l4proto tcp redirect to :15006
	}

	chain prerouting {
		type nat hook prerouting priority -101; policy accept;
		meta l4proto tcp fib daddr type local jump inbound
	}

	chain output {
		type nat hook output priority -101; policy accept;
		ip saddr 127.0.0.6 oifname "lo" return
		ip6 saddr ::6 oifname "lo" return
		ip daddr != 127.0.0.0/8 oifname "lo" meta l4proto tcp meta skuid 1337 jump inbound
		ip6 daddr != ::1 oifname "lo" meta l4proto tcp meta skuid 1337 jump inbound
		meta skuid 1337 return
		ip daddr 240.240.0.0/16 meta l4proto tcp redirect to :15001
		ip6 daddr fd9f:240::/64 meta l4proto tcp redirect to :15001
		oifname "lo" return
		meta l4proto tcp redirect to :15001
	}
}
"#;

/// A line that begins with `4` or `6` is in that IP version only.
const IPTABLES: &str = r"  *nat
  :PILLION_INBOUND - [0:0]
  :PILLION_PREROUTING - [0:0]
  :PILLION_OUTPUT - [0:0]
  -A PILLION_INBOUND -p tcp -m tcp --dport 15000 -j RETURN
  -A PILLION_INBOUND -p tcp -m tcp --dport 15001 -j RETURN
  -A PILLION_INBOUND -p tcp -m tcp --dport 15006 -j RETURN
  -A PILLION_INBOUND -p tcp -m tcp --dport 15020 -j RETURN
  -A PILLION_INBOUND -p tcp -m tcp --dport 15053 -j RETURN
  -A PILLION_INBOUND -p tcp -j REDIRECT --to-ports 15006
  -A PILLION_PREROUTING -p tcp -m addrtype --dst-type LOCAL -j PILLION_INBOUND
4 -A PILLION_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN
6 -A PILLION_OUTPUT -s ::6/128 -o lo -j RETURN
4 -A PILLION_OUTPUT ! -d 127.0.0.0/8 -o lo -p tcp -m owner --uid-owner 1337 -j PILLION_INBOUND
6 -A PILLION_OUTPUT ! -d ::1/128 -o lo -p tcp -m owner --uid-owner 1337 -j PILLION_INBOUND
  -A PILLION_OUTPUT -m owner --uid-owner 1337 -j RETURN
4 -A PILLION_OUTPUT -d 240.240.0.0/16 -p tcp -j REDIRECT --to-ports 15001
6 -A PILLION_OUTPUT -d fd9f:240::/64 -p tcp -j REDIRECT --to-ports 15001
  -A PILLION_OUTPUT -o lo -j RETURN
  -A PILLION_OUTPUT -p tcp -j REDIRECT --to-ports 15001
  -I PREROUTING -j PILLION_PREROUTING
  -I OUTPUT -j PILLION_OUTPUT
  COMMIT
";

#[test]
fn nft_gets_one_script_for_both_versions() {
    assert_eq!(nft::script(&rules(&Options::default()), &BOTH), NFT);
}

#[test]
fn without_ipv6_no_rule_names_ipv6() {
    let text = nft::script(&rules(&Options::default()), &[Family::V4]);
    let v4: String = NFT.split_inclusive('\n').filter(|line| !line.contains("ip6")).collect();
    assert_eq!(text, v4);
}

#[test]
fn iptables_gets_one_table_at_a_time() {
    let rules = rules(&Options::default());
    for (family, digit) in [(Family::V4, '4'), (Family::V6, '6')] {
        let ours = IPTABLES.lines().filter(|line| line.starts_with([' ', digit]));
        let expected: String = ours.map(|line| format!("{}\n", line.get(2..).expect("a column"))).collect();
        let wanted = iptables::Ours::of(&rules, Table::Nat, family);
        assert_eq!(iptables::change(Table::Nat, &iptables::Ours::default(), &wanted), expected);
        for table in [Table::Raw, Table::Mangle] {
            assert!(iptables::Ours::of(&rules, table, family).is_empty());
        }
    }
}

#[test]
fn names_of_chains_fit_into_the_kernels_28_bytes() {
    let options = with(|o| {
        o.dns = true;
        o.mode = crate::Mode::Tproxy;
    });
    for table in iptables::TABLES {
        for name in iptables::Ours::of(&rules(&options), table, Family::V4).chains {
            assert!(name.len() <= 28, "{name}");
        }
    }
}
