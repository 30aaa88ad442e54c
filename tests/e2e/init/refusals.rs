//! Where `pillion init` cannot do its work, it names what is missing and what to do, and leaves the namespace
//! unchanged.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{everything, hosts, init, init_behind, refused, rules, shell, text};
use crate::support::Scratch;
use crate::support::namespace::{Hosts, Namespace};

/// A folder with these programs and no others, for `PATH`.
struct Programs(Scratch);

const NFT: &[&str] = &["nft"];
const IP: &[&str] = &["ip"];
const IPTABLES_NFT: &[&str] =
    &["iptables-nft-restore", "iptables-nft-save", "ip6tables-nft-restore", "ip6tables-nft-save"];
const IPTABLES_LEGACY: &[&str] =
    &["iptables-legacy-restore", "iptables-legacy-save", "ip6tables-legacy-restore", "ip6tables-legacy-save"];

impl Programs {
    fn of(groups: &[&[&str]]) -> Self {
        let programs = Self(Scratch::new());
        for program in groups.iter().copied().flatten() {
            symlink(there(program), programs.0.path().join(program)).expect("a link");
        }
        programs
    }

    /// A program that only prints an error.
    fn broken(self, program: &str, complaint: &str) -> Self {
        let path = self.0.path().join(program);
        drop(std::fs::remove_file(&path));
        std::fs::write(&path, format!("#!/bin/sh\necho '{complaint}' >&2\nexit 1\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
        self
    }

    fn enter(&self, host: &Namespace) -> Command {
        let mut command = host.enter();
        command.args(["env", &format!("PATH={}", self.0.path().display())]);
        command
    }
}

fn there(program: &str) -> PathBuf {
    let folders = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let found = folders.into_iter().map(|folder| Path::new(folder).join(program)).find(|path| path.exists());
    found.unwrap_or_else(|| unreachable!("{program} is installed"))
}

fn says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "{said:?} should say {word:?}");
    }
}

#[tokio::test]
async fn without_the_capability() {
    let Some(Hosts { pod, world: _world }) = hosts() else { return };
    let before = everything(&pod).await;
    for words in [&[][..], &["--undo"], &["--backend", "iptables"]] {
        let mut powerless = pod.enter();
        powerless.args(["--bounding-set=-net_admin", "--inh-caps=-net_admin"]);
        says(&refused(powerless, words).await, &["CAP_NET_ADMIN", "as root", "init container"]);
    }
    assert_eq!(everything(&pod).await, before);
}

#[tokio::test]
async fn without_a_program() {
    let Some(Hosts { pod, world: _world }) = hosts() else { return };
    let before = everything(&pod).await;
    type Words = &'static [&'static str];
    let cases: [(&[Words], Words, Words); 5] = [
        (&[IP], &[], &["neither nft nor iptables", "nftables", "iproute2"]),
        (&[IP, IPTABLES_NFT], &["--backend", "nft"], &["nft is not installed", "package nftables"]),
        (&[IP, NFT], &["--backend", "iptables"], &["iptables-restore", "package iptables"]),
        (&[IP, &["iptables-nft-restore", "iptables-nft-save"]], &[], &["neither nft nor iptables"]),
        (&[NFT], &[], &["`ip` is not installed", "package iproute2"]),
    ];
    for (programs, words, expected) in cases {
        let programs = Programs::of(programs);
        says(&refused(programs.enter(&pod), words).await, expected);
        assert_eq!(everything(&pod).await, before, "{words:?}");
    }
}

#[tokio::test]
async fn without_nft_iptables_is_used_and_reported() {
    let cases: [(&[&[&str]], &str); 3] = [
        (&[IP, IPTABLES_NFT], "backend iptables-nft: nft is not installed; it works here"),
        (&[IP, IPTABLES_NFT, IPTABLES_LEGACY], "backend iptables-nft: nft is not installed; it works here"),
        (
            &[IP, IPTABLES_LEGACY],
            "backend iptables-legacy: nft is not installed; iptables-nft is absent or does not work here",
        ),
    ];
    for (programs, expected) in cases {
        let Some(Hosts { pod, world: _world }) = hosts() else { return };
        let output = init_behind(Programs::of(programs).enter(&pod), &[]).await;
        says(&text(&output.stderr), &[expected, "are installed"]);
        assert!(output.status.success() && everything(&pod).await.contains("PILLION_OUTPUT"));
    }
}

/// The error has the program's own text and what to do. Where the backend is not given, another one is tried.
#[tokio::test]
async fn a_missing_feature_of_the_kernel_is_named() {
    let Some(Hosts { pod, world: _world }) = hosts() else { return };
    let before = everything(&pod).await;
    let complaint = "Error: Could not process rule: Operation not supported";
    let broken = Programs::of(&[IP]).broken("nft", complaint);
    let said = refused(broken.enter(&pod), &["--backend", "nft"]).await;
    says(&said, &[complaint, "No change is left behind", "nft_redir"]);
    assert_eq!(everything(&pod).await, before);

    let open = Programs::of(&[IP, IPTABLES_NFT]).broken("nft", complaint);
    let output = init_behind(open.enter(&pod), &[]).await;
    says(
        &text(&output.stderr),
        &["backend iptables-nft: nft does not work here", complaint, "are installed"],
    );
}

/// A step fails after others succeeded: IPv6 after IPv4, the rules after routing. The finished steps are undone.
#[tokio::test]
async fn a_failure_half_way_leaves_nothing() {
    let programs = || Programs::of(&[IP, NFT, IPTABLES_NFT, IPTABLES_LEGACY]);
    for variant in ["nft", "legacy"] {
        let Some(Hosts { pod, world }) = hosts() else { return };
        let backend = format!("iptables-{variant}");
        let words = ["--mode", "tproxy", "--dns", "--backend", &backend];
        // The legacy tables stay once they were used; those of nftables are removed.
        for host in [&pod, &world] {
            let tables = "for t in raw mangle nat; do iptables-legacy -w 30 -t $t -S; ip6tables-legacy -w 30 -t $t -S; done";
            shell(host, tables).await;
        }
        init(&world, &["--backend", &backend]).await;
        let nothing = everything(&pod).await;
        for host in [&pod, &world] {
            let before = rules(host).await;
            for family in ["ip6tables", "iptables"] {
                let program = format!("{family}-{variant}-restore");
                let broken = programs().broken(&program, "no such luck");
                let said = refused(broken.enter(host), &words).await;
                says(&said, &[&program, "no such luck", "No change is left behind"]);
                assert_eq!(rules(host).await, before, "{program}");
            }
        }
        assert_eq!(everything(&pod).await, nothing, "{backend}");
    }
}

/// Each requirement is missing once, and the error says what to do.
#[tokio::test]
async fn each_missing_requirement_is_named() {
    let cases: [(&str, &[&str], &str); 3] = [
        ("sysctl -qw net.ipv6.conf.lo.disable_ipv6=1", &[], "net.ipv6.conf.lo.disable_ipv6=0"),
        ("ip link set lo down", &["--mode", "tproxy"], "ip link set lo up"),
        (
            "ip route add default dev lo table 133",
            &["--mode", "tproxy"],
            "another program uses the routing table 133",
        ),
    ];
    for (there, words, expected) in cases {
        let Some(Hosts { pod, world: _world }) = hosts() else { return };
        shell(&pod, there).await;
        let before = everything(&pod).await;
        let said = refused(pod.enter(), words).await;
        says(&said, &["`ip ", "No change is left behind", expected]);
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(everything(&pod).await, before, "{there}");
    }
}

#[tokio::test]
async fn without_raw_sockets() {
    let Some(Hosts { pod, world: _world }) = hosts() else { return };
    for (backend, works) in [("nft", true), ("iptables-nft", true), ("iptables-legacy", false)] {
        let mut weak = pod.enter();
        weak.args(["--bounding-set=-net_raw", "--inh-caps=-net_raw"]);
        let output = init_behind(weak, &["--backend", backend]).await;
        assert_eq!(output.status.success(), works, "{backend}: {}", text(&output.stderr));
        says(&text(&output.stderr), &[if works { "are installed" } else { "add the capability NET_RAW" }]);
    }
}

#[tokio::test]
async fn rules_of_a_missing_program_are_reported_as_unreadable() {
    let Some(Hosts { pod, world: _world }) = hosts() else { return };
    assert!(init_behind(pod.enter(), &[]).await.status.success());
    let output = init_behind(Programs::of(&[IP, IPTABLES_NFT]).enter(&pod), &["--undo"]).await;
    says(
        &text(&output.stderr),
        &["nft is not installed here: rules that were installed with it cannot be found, and stay"],
    );
}

#[tokio::test]
async fn unknown_options_are_wrong_usage() {
    let Some(Hosts { pod, world: _world }) = hosts() else { return };
    let before = everything(&pod).await;
    let cases: [(&[&str], &str); 15] = [
        (&["--mode", "nat"], "redirect or tproxy"),
        (&["--backend", "ebtables"], "auto, nft, iptables"),
        (&["--outbound-port", "0"], "port 0 is not a valid port"),
        (&["--inbound-ports", "*,80"], "* means all, so it must be the only value"),
        (&["--inbound-ports", "8080,15020"], "a port of the sidecar (--metrics-port)"),
        (&["--inbound-ports", "80", "--exclude-inbound-ports", "80"], "write it in one"),
        (&["--exclude-outbound-cidrs", "10.0.0.1/8"], "the network is 10.0.0.0/8"),
        (&["--exclude-interfaces", "lo"], "loopback is never captured"),
        (&["--dns", "--exclude-outbound-ports", "53"], "write one of both"),
        (&["--redirect-everything"], "unexpected argument"),
        (&["--inbound-ports", "80-90"], "--inbound-ports: \"80-90\" is not a port"),
        (&["--include-outbound-cidrs", ""], "init [OPTIONS]"),
        (&["--exclude-outbound-cidrs", "::ffff:10.0.0.0/104"], "use IPv4"),
        (&["--exclude-interfaces", "fifteen-letters*"], "is not an interface"),
        (&["--proxy-uid", "4294967295"], "4294967295"),
    ];
    for (words, expected) in cases {
        let output = init_behind(pod.enter(), words).await;
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        says(&text(&output.stderr), &[expected]);
    }
    assert_eq!(everything(&pod).await, before);
}
