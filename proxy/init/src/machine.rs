//! The properties of this machine and this network namespace: programs, the capability, IP versions.
//!
//! They are read from the file system alone, so that a plan needs no privilege.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::words::Family;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) has_nft: bool,
    pub(crate) has_ip: bool,
    /// The two variants of iptables, each if it is installed.
    pub(crate) iptables_nft: Option<Xtables>,
    pub(crate) iptables_legacy: Option<Xtables>,
    pub(crate) has_net_admin: bool,
    pub(crate) families: Vec<Family>,
}

/// The two rule sets of the kernel to which programs called iptables give access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Variant {
    Nft,
    Legacy,
}

/// The programs of one variant, by the suffix after `iptables` in their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Xtables {
    suffix: &'static str,
}

impl Xtables {
    pub(crate) const fn named(suffix: &'static str) -> Self {
        Self { suffix }
    }

    pub(crate) fn program(&self, family: Family, what: &str) -> String {
        let name = if family == Family::V4 { "iptables" } else { "ip6tables" };
        format!("{name}{}-{what}", self.suffix)
    }

    /// Finds the variant under its own name, or under the plain name if that is this variant. Without its programs for
    /// IPv6 a variant does not count, because rules for IPv4 alone would let IPv6 pass uncaptured.
    fn installed(variant: Variant, families: &[Family]) -> Option<Self> {
        let suffix = match variant {
            Variant::Nft => "-nft",
            Variant::Legacy => "-legacy",
        };
        [suffix, ""].into_iter().map(Self::named).find(|found| {
            let programs = families
                .iter()
                .flat_map(|family| ["restore", "save"].map(|what| found.program(*family, what)));
            programs.into_iter().all(|program| find(&program).is_some())
                && (!found.suffix.is_empty() || plain_is() == Some(variant))
        })
    }
}

/// The variant of the program `iptables`, as its version tells. Old releases, from before there were two variants, do
/// not tell it.
fn plain_is() -> Option<Variant> {
    let output = Command::new(find("iptables-restore")?).arg("--version").output().ok()?;
    let is_nft = String::from_utf8_lossy(&output.stdout).contains("nf_tables");
    Some(if is_nft { Variant::Nft } else { Variant::Legacy })
}

impl Machine {
    pub(crate) fn look() -> Self {
        let families = families();
        Self {
            has_nft: find("nft").is_some(),
            has_ip: find("ip").is_some(),
            iptables_nft: Xtables::installed(Variant::Nft, &families),
            iptables_legacy: Xtables::installed(Variant::Legacy, &families),
            has_net_admin: has_net_admin(&fs::read_to_string("/proc/self/status").unwrap_or_default()),
            families,
        }
    }

    pub(crate) const fn xtables(&self, variant: Variant) -> Option<&Xtables> {
        match variant {
            Variant::Nft => self.iptables_nft.as_ref(),
            Variant::Legacy => self.iptables_legacy.as_ref(),
        }
    }

    pub(crate) fn has_v6(&self) -> bool {
        self.families.contains(&Family::V6)
    }
}

/// The path of a program: in PATH, or in the usual folders if PATH is not set.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// The bit of `CAP_NET_ADMIN` (capabilities(7)).
const NET_ADMIN: u32 = 12;

pub(crate) fn has_net_admin(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bits.is_some_and(|bits| bits >> NET_ADMIN & 1 == 1)
}

/// The IP versions of the namespace. IPv6 counts as absent only if no interface has it now or will have it: one
/// interface with an address can be reached, whatever the others have.
fn families() -> Vec<Family> {
    let is_on = |of: &Path| fs::read_to_string(of.join("disable_ipv6")).is_ok_and(|text| text.trim() == "0");
    let all = Path::new("/proc/sys/net/ipv6/conf/all");
    // `default` holds for interfaces that are added later
    let interfaces = fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten();
    let mut interfaces = interfaces.map(|entry| entry.path()).filter(|path| path != all);
    let has_address = fs::read_to_string("/proc/net/if_inet6").is_ok_and(|text| !text.trim().is_empty());
    let has_v6 = has_address || is_on(all) && interfaces.any(|interface| is_on(&interface));
    [Family::V4].into_iter().chain(has_v6.then_some(Family::V6)).collect()
}

/// Whether `lo` has the IPv6 address from which the sidecar connects to the application.
pub(crate) fn has_own_address() -> bool {
    is_there(&fs::read_to_string("/proc/net/if_inet6").unwrap_or_default())
}

fn is_there(addresses: &str) -> bool {
    let own = format!("{:032x}", u128::from(crate::SELF_V6));
    addresses.lines().any(|line| line.starts_with(&own) && line.ends_with(" lo"))
}

/// The tables that iptables-legacy has in this namespace. Asking the program for another table would create it.
pub(crate) fn legacy_tables(family: Family) -> Vec<String> {
    let file = match family {
        Family::V4 => "/proc/net/ip_tables_names",
        Family::V6 => "/proc/net/ip6_tables_names",
    };
    fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capability_is_read_from_the_effective_set() {
        let status = |bits: &str| format!("Name:\tinit\nCapPrm:\t000001ffffffffff\nCapEff:\t{bits}\n");
        assert!(has_net_admin(&status("000001ffffffffff")));
        assert!(has_net_admin(&status("0000000000001000")));
        assert!(!has_net_admin(&status("000001ffffffefff")));
        assert!(!has_net_admin(&status("0000000000000000")));
        assert!(!has_net_admin(""));
    }

    #[test]
    fn the_own_address_is_found_on_loopback_only() {
        let loopback = "00000000000000000000000000000001 01 80 10 80       lo\n";
        assert!(!is_there(loopback));
        assert!(is_there(&format!("{loopback}00000000000000000000000000000006 01 80 00 80       lo\n")));
        assert!(!is_there("00000000000000000000000000000006 02 80 00 80     eth0\n"));
    }
}
