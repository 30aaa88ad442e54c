//! The steps from an existing state to a new one.

use super::*;
use crate::iptables::Ours;
use crate::machine::{Machine, Variant, Xtables};
use crate::made::Made;
use crate::options::Mode;
use crate::rules::Hook;
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

fn described(steps: &[Step]) -> Vec<String> {
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
fn pieces_that_rules_need_are_added_before_and_removed_after_them() {
    let tproxy = state(NFT, &with(|o| o.mode = Mode::Tproxy));
    let pieces = [
        "ip -6 address add ::6/128 dev lo",
        "ip -4 route add local default dev lo table 133",
        "ip -6 route add local default dev lo table 133",
        "ip -4 rule add pref 133 fwmark 0x539 lookup 133",
        "ip -6 rule add pref 133 fwmark 0x539 lookup 133",
    ];
    let added = described(&steps(&State::default(), &tproxy, &machine()));
    assert_eq!(added, [&pieces[..], &["nft -f - <<'END'"]].concat());
    let removed = described(&steps(&tproxy, &State::default(), &machine()));
    let reversed = pieces.iter().rev().map(|piece| piece.replace(" add ", " del "));
    assert_eq!(removed, ["nft -f - <<'END'".to_owned()].into_iter().chain(reversed).collect::<Vec<_>>());
}

#[test]
fn new_rules_are_added_before_rules_of_another_backend_are_removed() {
    let from = state(LEGACY, &Options::default());
    let found = described(&steps(&from, &state(NFT, &Options::default()), &machine()));
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
fn every_step_can_be_undone() {
    let (redirect, tproxy) = (Options::default(), with(|o| (o.mode, o.dns) = (Mode::Tproxy, true)));
    for (from, to) in [(&redirect, &tproxy), (&tproxy, &redirect)] {
        for target in [NFT, IPTABLES, LEGACY] {
            let (from, to) = (state(target, from), state(LEGACY, to));
            for step in steps(&from, &to, &machine()) {
                let back: Vec<_> = step.back.iter().map(|back| &back.program).collect();
                assert_eq!(back, [&step.program], "{step}");
            }
        }
    }
}

#[test]
fn the_output_of_iptables_is_read_back_as_the_rules_that_were_written() {
    let options = with(|o| (o.mode, o.dns) = (Mode::Tproxy, true));
    for (family, table) in BOTH.into_iter().flat_map(|family| iptables::TABLES.map(|table| (family, table))) {
        let ours = Ours::of(&rules(&options), table, family);
        assert_eq!(Ours::found(&saved(&ours, table), table), ours);
    }
}

/// Names that contain our names, jumps to our chains from elsewhere, and comments that quote our rules.
#[test]
fn rules_of_other_programs_do_not_count_as_ours() {
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
fn tables_and_chains_created_for_us_are_recorded_and_removed_with_our_rules() {
    let (family, table) = (Family::V4, Table::Nat);
    let plain = state(IPTABLES, &Options::default());
    let cases: [(&[Made], &str); 2] = [
        (&[Made::Table], "delete table ip nat\n"),
        (&[Made::Entry(Hook::Output)], "delete chain ip nat OUTPUT\n"),
    ];
    for (made, deletion) in cases {
        let slots = made.iter().map(|made| (family, table, *made));
        let fresh = State { absent: slots.clone().collect(), ..State::default() };
        let install = steps(&fresh, &plain, &machine());
        let note = format!(":{} - [0:0]", made[0].note());
        assert_eq!(install.iter().filter(|step| step.to_string().contains(&note)).count(), 1, "IPv4 alone");

        let mut there = plain.clone();
        let nat = there.iptables.get_mut(&(Variant::Nft, family, table)).expect("rules");
        nat.chains.extend(made.iter().map(|made| made.note().to_owned()));
        assert_eq!(steps(&there, &plain, &machine()), [], "the record is still there");
        let deletes = |from: &State| {
            let steps = steps(from, &State::default(), &machine());
            steps.iter().any(|step| step.script.as_deref() == Some(deletion))
        };
        assert!(!deletes(&there), "another program uses it");
        there.free.extend(slots);
        assert!(deletes(&there));
    }
}

const LISTING: &str = "table ip nat {
\tchain PILLION_OUTPUT {
\t\tmeta l4proto tcp counter packets 0 bytes 0 xt target \"REDIRECT\"
\t}

\tchain PILLION_MADE_TABLE {
\t}

\tchain OUTPUT {
\t\ttype nat hook output priority -100; policy accept;
\t\tcounter packets 3 bytes 180 jump PILLION_OUTPUT
\t}
}
";

#[test]
fn tables_and_chains_that_other_programs_use_stay() {
    let output = Made::Entry(Hook::Output);
    assert!(Made::Table.is_free(LISTING) && output.is_free(LISTING));
    for (place, theirs, is_output_free) in [
        ("policy accept", "policy drop", false),
        ("\t\tcounter packets 3", "\t\tip daddr 10.0.0.1 return\n\t\tcounter packets 3", false),
        ("\t\tcounter packets 3", "\t\tcounter jump PILLION_OUTPUT_OLD\n\t\tcounter packets 3", false),
        ("\tchain OUTPUT {", "\tchain FOREIGN {\n\t}\n\n\tchain OUTPUT {", true),
        ("table ip nat {\n", "table ip nat {\n\tset web {\n\t\ttype ipv4_addr\n\t}\n", true),
    ] {
        let listing = LISTING.replace(place, theirs);
        assert!(!Made::Table.is_free(&listing), "{theirs}");
        assert_eq!(output.is_free(&listing), is_output_free, "{theirs}");
    }
    assert_eq!(Made::absent(None), [Made::Table]);
    assert_eq!(Made::absent(Some(LISTING)), [Made::Entry(Hook::Prerouting)]);
}
