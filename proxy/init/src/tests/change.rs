//! From what is there to what shall be.

use super::*;
use crate::iptables::Ours;
use crate::machine::{Machine, Variant, Xtables};
use crate::options::Mode;
use crate::state::{State, Target, steps};
use crate::step::Step;

const NFT: Target = Target::Nft;
const IPTABLES: Target = Target::Iptables(Variant::Nft);
const LEGACY: Target = Target::Iptables(Variant::Legacy);

fn machine() -> Machine {
    Machine {
        has_nft: true,
        has_ip: true,
        iptables_nft: Some(Xtables::named("-nft")),
        iptables_legacy: Some(Xtables::named("-legacy")),
        has_net_admin: true,
        families: BOTH.into(),
    }
}

fn state(target: Target, options: &Options) -> State {
    State::of(&rules(options), target, &BOTH)
}

fn told(steps: &[Step]) -> Vec<String> {
    steps.iter().map(|step| step.to_string().lines().next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn nothing_runs_where_nothing_changes() {
    for target in [NFT, IPTABLES, LEGACY] {
        let there = state(target, &Options::default());
        assert_eq!(steps(&there, &there, &machine()), []);
    }
    assert_eq!(steps(&State::default(), &State::default(), &machine()), []);
}

#[test]
fn what_rules_stand_on_comes_before_them_and_goes_after_them() {
    let tproxy = state(NFT, &with(|o| o.mode = Mode::Tproxy));
    let pieces = [
        "ip -6 address add ::6/128 dev lo",
        "ip -4 route add local default dev lo table 133",
        "ip -6 route add local default dev lo table 133",
        "ip -4 rule add pref 133 fwmark 0x539 lookup 133",
        "ip -6 rule add pref 133 fwmark 0x539 lookup 133",
    ];
    let added = told(&steps(&State::default(), &tproxy, &machine()));
    assert_eq!(added, [&pieces[..], &["nft -f - <<'END'"]].concat());
    let removed = told(&steps(&tproxy, &State::default(), &machine()));
    let reversed = pieces.iter().rev().map(|piece| piece.replace(" add ", " del "));
    assert_eq!(removed, ["nft -f - <<'END'".to_owned()].into_iter().chain(reversed).collect::<Vec<_>>());
}

#[test]
fn new_rules_come_before_those_of_another_backend_go() {
    let from = state(LEGACY, &Options::default());
    let found = told(&steps(&from, &state(NFT, &Options::default()), &machine()));
    assert_eq!(
        found,
        [
            "nft -f - <<'END'",
            "iptables-legacy-restore -w 30 --noflush <<'END'",
            "ip6tables-legacy-restore -w 30 --noflush <<'END'",
        ]
    );
}

#[test]
fn every_step_can_be_taken_back() {
    let (redirect, tproxy) = (Options::default(), with(|o| (o.mode, o.dns) = (Mode::Tproxy, true)));
    for (from, to) in [(&redirect, &tproxy), (&tproxy, &redirect)] {
        for target in [NFT, IPTABLES, LEGACY] {
            let (from, to) = (state(target, from), state(LEGACY, to));
            for step in steps(&from, &to, &machine()) {
                let back = step.back.as_ref().unwrap_or_else(|| unreachable!("{step}"));
                assert_eq!(back.program, step.program);
            }
        }
    }
}

#[test]
fn what_iptables_prints_is_read_back_as_what_was_written() {
    let options = with(|o| (o.mode, o.dns) = (Mode::Tproxy, true));
    for (family, table) in BOTH.into_iter().flat_map(|family| iptables::TABLES.map(|table| (family, table))) {
        let ours = Ours::of(&rules(&options), table, family);
        assert_eq!(Ours::found(&saved(&ours, table), table), ours);
    }
}

/// Names that contain ours, jumps to ours from elsewhere, comments that quote us.
#[test]
fn rules_of_others_are_not_taken_for_ours() {
    let foreign = "*nat\n:OUTPUT ACCEPT [0:0]\n:PILLION_OUTPUT_OLD - [0:0]\n:MY_PILLION_OUTPUT - [0:0]\n\
                   :PILLION_RAW_OUTPUT - [0:0]\n\
                   -A OUTPUT -p tcp -j PILLION_OUTPUT\n-A OUTPUT -j PILLION_OUTPUT_OLD\n\
                   -A OUTPUT -m comment --comment \"-A OUTPUT -j PILLION_OUTPUT\" -j RETURN\n\
                   -A POSTROUTING -j PILLION_OUTPUT\n-A PILLION_OUTPUT_OLD -j RETURN\nCOMMIT\n";
    assert!(Ours::found(foreign, Table::Nat).is_empty(), "{:?}", Ours::found(foreign, Table::Nat));
}

#[test]
fn a_change_replaces_jumps_and_drops_chains_that_are_gone() {
    let chains = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let before = Ours {
        chains: chains(&["PILLION_PREROUTING", "PILLION_OUTPUT"]),
        jumps: chains(&["PREROUTING -j PILLION_PREROUTING", "OUTPUT -j PILLION_OUTPUT"]),
        rules: chains(&["PILLION_OUTPUT -j RETURN"]),
    };
    let after = Ours {
        chains: chains(&["PILLION_OUTPUT"]),
        jumps: chains(&["OUTPUT -j PILLION_OUTPUT"]),
        rules: chains(&["PILLION_OUTPUT -p tcp -j RETURN"]),
    };
    let text = iptables::change(Table::Nat, &before, &after);
    let expected = "*nat\n:PILLION_OUTPUT - [0:0]\n-D PREROUTING -j PILLION_PREROUTING\n-D OUTPUT -j PILLION_OUTPUT\n\
                    -F PILLION_PREROUTING\n-X PILLION_PREROUTING\n-A PILLION_OUTPUT -p tcp -j RETURN\n\
                    -I OUTPUT -j PILLION_OUTPUT\nCOMMIT\n";
    assert_eq!(text, expected);
}

#[test]
fn a_table_that_was_made_for_us_is_remembered_and_goes_with_us() {
    let slot = (Family::V4, Table::Nat);
    let fresh = State { absent: [slot].into(), ..State::default() };
    let install = steps(&fresh, &state(IPTABLES, &Options::default()), &machine());
    let notes = |steps: &[Step]| {
        steps.iter().filter(|step| step.to_string().contains(":PILLION_MADE_TABLE - [0:0]")).count()
    };
    assert_eq!(notes(&install), 1, "of IPv4 alone");
    let mut there = state(IPTABLES, &Options::default());
    let nat = there.iptables.get_mut(&(Variant::Nft, slot.0, slot.1)).expect("rules");
    *nat = nat.clone().making_table();
    assert_eq!(steps(&there, &state(IPTABLES, &Options::default()), &machine()), []);
    let deletes = |from: &State| {
        let steps = steps(from, &State::default(), &machine());
        steps.iter().any(|step| step.script.as_deref() == Some("delete table ip nat\n"))
    };
    assert!(!deletes(&there), "others have moved in");
    there.alone.insert(slot);
    assert!(deletes(&there));
}

#[test]
fn a_table_with_anything_of_others_is_not_ours_alone() {
    let ours = "table ip nat {\n\tchain PILLION_OUTPUT {\n\t\tmeta l4proto tcp counter packets 0 bytes 0 xt target \"REDIRECT\"\n\t}\n\
                \n\tchain PILLION_MADE_TABLE {\n\t}\n\
                \n\tchain OUTPUT {\n\t\ttype nat hook output priority -100; policy accept;\n\t\tcounter packets 3 bytes 180 jump PILLION_OUTPUT\n\t}\n}\n";
    assert!(iptables::is_alone(ours));
    for (place, theirs) in [
        ("policy accept", "policy drop"),
        ("\t\tcounter packets 3", "\t\tip daddr 10.0.0.1 return\n\t\tcounter packets 3"),
        ("chain OUTPUT {", "chain FOREIGN {\n\t}\n\n\tchain OUTPUT {"),
        ("table ip nat {\n", "table ip nat {\n\tset web {\n\t\ttype ipv4_addr\n\t}\n"),
    ] {
        assert!(!iptables::is_alone(&ours.replace(place, theirs)), "{theirs}");
    }
}
