//! Why rules could not be installed or removed, and what to do about it.

use std::fmt;

use crate::options::Backend;
use crate::state::Target;
use crate::step::FailedStep;

/// Unless the message says otherwise, nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    NotCapable,
    /// Another run is at work in this network namespace.
    Busy,
    NoProgram(Backend),
    NoIp,
    /// Every rule set that could be used refused the rules.
    Refused(Vec<FailedRuleSet>),
    /// A command failed while rules were being removed.
    Stuck {
        failed: FailedStep,
        back: Vec<FailedStep>,
    },
}

/// An attempt in one rule set, with the command that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedRuleSet {
    pub(crate) target: Target,
    pub(crate) failed: FailedStep,
    /// Commands that failed while the finished steps were being undone.
    pub(crate) back: Vec<FailedStep>,
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotCapable => f.write_str(
                "the rules of a network namespace need CAP_NET_ADMIN, and this process does not have it. \
                 Run `pillion init` as root with NET_ADMIN, as an init container with \
                 `securityContext: { runAsUser: 0, capabilities: { add: [NET_ADMIN, NET_RAW] } }`; \
                 `pillion init --plan` needs none",
            ),
            Self::Busy => f.write_str(
                "another `pillion init` has been running in this network namespace for 30 s; run this again when \
                 it has ended",
            ),
            Self::NoProgram(backend) => f.write_str(missing(*backend)),
            Self::NoIp => f.write_str(
                "`ip` is not installed, which adds the address ::6 to lo and, in mode tproxy, routes; \
                 install the package iproute2",
            ),
            Self::Refused(attempts) => {
                for (index, attempt) in attempts.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "\n" };
                    write!(f, "{separator}{attempt}")?;
                }
                Ok(())
            }
            Self::Stuck { failed, back } => {
                let state = if back.is_empty() { "Nothing was removed.".to_owned() } else { left_behind(back) };
                write!(f, "{failed}. {state} Help: if a rule that pillion did not install jumps to a chain of ~")?;
                f.write_str("pillion's (PILLION_…), remove that rule first")
            }
        }
    }
}

const fn missing(backend: Backend) -> &'static str {
    match backend {
        Backend::Auto => {
            "neither nft nor iptables is installed; install the package nftables (or iptables), and iproute2"
        }
        Backend::Nft => "nft is not installed; install the package nftables, or leave out --backend",
        Backend::Iptables => {
            "iptables-restore and iptables-save are not installed, or not for IPv6 as well; install the package \
             iptables, or leave out --backend"
        }
        Backend::IptablesNft => {
            "iptables-nft-restore and iptables-nft-save are not installed, or not for IPv6 as well; install the \
             package iptables, or leave out --backend"
        }
        Backend::IptablesLegacy => {
            "iptables-legacy-restore and iptables-legacy-save are not installed, or not for IPv6 as well; install \
             the package iptables (Alpine: iptables-legacy), or leave out --backend"
        }
    }
}

impl fmt::Display for FailedStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` failed: {}", self.command, self.said)
    }
}

impl FailedRuleSet {
    /// Whether no other rule set needs to be tried: either something was left behind that would disturb another
    /// attempt, or the failed command was not about rules.
    pub(crate) fn is_final(&self) -> bool {
        !self.back.is_empty() || self.failed.command.starts_with("ip ")
    }
}

impl fmt::Display for FailedRuleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}. {}", self.target, self.failed, left_behind(&self.back))?;
        hint(f, &self.failed.said)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nft => "nft",
            Self::Iptables(crate::machine::Variant::Nft) => "iptables-nft",
            Self::Iptables(crate::machine::Variant::Legacy) => "iptables-legacy",
        })
    }
}

fn left_behind(back: &[FailedStep]) -> String {
    if back.is_empty() {
        return "No change is left behind.".to_owned();
    }
    let failed: Vec<_> = back.iter().map(ToString::to_string).collect();
    format!(
        "Undoing the finished steps failed too ({}); `pillion init --undo` removes it.",
        failed.join("; ")
    )
}

const PRIVILEGES: &str = "run as root with NET_ADMIN and NET_RAW in the namespace's own user namespace";
const FEATURES: &str = "the kernel lacks a feature that the rules use: load its module on the node (nft: nft_redir \
                        nft_fib_inet nft_ct nft_tproxy; iptables: xt_REDIRECT xt_owner xt_addrtype xt_TPROXY \
                        xt_connmark xt_CT), or try another --backend";

const LOCK_FILE: &str = "iptables-legacy keeps a lock in /run: mount an emptyDir there";

/// Texts in the output of programs, and their usual cause. The first that matches is used.
const HINTS: [(&str, &str); 12] = [
    ("Operation not permitted", PRIVILEGES),
    ("you must be root", PRIVILEGES),
    ("Read-only file system", LOCK_FILE),
    ("can't open lock file", LOCK_FILE),
    (
        "xtables lock",
        "another program holds the lock of iptables; run this again when that program has ended",
    ),
    ("No such file or directory", FEATURES),
    ("not supported", FEATURES),
    (
        "unable to initialize table",
        "add the capability NET_RAW, which iptables-legacy needs too, or try another --backend",
    ),
    (
        "IPv6 is disabled on this device",
        "turn IPv6 on for loopback: sysctl -w net.ipv6.conf.lo.disable_ipv6=0",
    ),
    ("device is not up", "ip link set lo up"),
    ("File exists", "another program uses the routing table 133: see `ip route show table 133`"),
    // iptables-legacy says no more than this.
    ("restore: line", FEATURES),
];

fn hint(f: &mut fmt::Formatter<'_>, said: &str) -> fmt::Result {
    match HINTS.iter().find(|(words, _)| said.contains(words)) {
        Some((_, what)) => write!(f, " Help: {what}"),
        None => Ok(()),
    }
}
