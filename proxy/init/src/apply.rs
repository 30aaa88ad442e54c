//! Installs, removes and plans rules: looks at the machine, chooses a rule set, runs the commands.

use std::fmt::Write as _;

use crate::error::{Error, FailedRuleSet};
use crate::found::{has_foreign_legacy, state, unreadable_rule_sets};
use crate::lock;
use crate::machine::{Machine, Variant};
use crate::nft;
use crate::options::{Backend, Mode, Options};
use crate::rules::{RuleSet, rules};
use crate::state::{State, Target, steps};
use crate::step::{Step, run_all};

/// What was done, in lines for the operator.
pub type Report = Vec<String>;

/// Installs the rules of the options, all of them or none. Rules that an earlier run installed are replaced.
pub fn install(options: &Options) -> Result<Report, Error> {
    let machine = capable()?;
    let _alone = lock::namespace()?;
    let rules = rules(options);
    let found = state(&machine);
    let mut attempts = Vec::new();
    for (target, why) in targets(options.backend, &machine, &rules)? {
        let wanted = State::of(&rules, target, &machine.families);
        let steps = steps(&found, &wanted, &machine);
        needs_ip(&steps, &machine)?;
        match run_all(&steps) {
            Ok(()) => return Ok(installed(options, target, &why, &machine, steps.is_empty())),
            Err((failed, back)) => attempts.push(FailedRuleSet { target, failed, back }),
        }
        if attempts.last().is_some_and(FailedRuleSet::is_final) {
            break;
        }
    }
    Err(Error::Refused(attempts))
}

/// Removes the rules that any earlier run installed, from every rule set. Other rules stay.
pub fn undo() -> Result<Report, Error> {
    let machine = capable()?;
    let _alone = lock::namespace()?;
    let found = state(&machine);
    let mut report = unreadable_rule_sets(&machine);
    if found.is_empty() {
        report.push("this network namespace has no rules of pillion; nothing changed".to_owned());
        return Ok(report);
    }
    let steps = steps(&found, &State::default(), &machine);
    needs_ip(&steps, &machine)?;
    run_all(&steps).map_err(|(failed, back)| Error::Stuck { failed, back })?;
    report.extend(found.describe().into_iter().map(|what| format!("removed {what}")));
    Ok(report)
}

/// A shell script with the commands that `install` would run, and remarks on it. Without CAP_NET_ADMIN the rules of the
/// namespace cannot be read, and the script assumes that there are none.
pub fn plan(options: &Options) -> Result<(String, Report), Error> {
    let machine = Machine::look();
    let rules = rules(options);
    let Some((target, why)) = targets(options.backend, &machine, &rules)?.into_iter().next() else {
        return Err(Error::NoProgram(options.backend));
    };
    let wanted = State::of(&rules, target, &machine.families);
    let found = if machine.has_net_admin { state(&machine) } else { State::default() };
    let planned = steps(&found, &wanted, &machine);
    needs_ip(&planned, &machine)?;
    let mut report = vec![chosen(target, &why)];
    report.extend(left_out(&machine));
    if !machine.has_net_admin {
        report.push(
            "without CAP_NET_ADMIN existing rules cannot be read; this script assumes that there are none"
                .to_owned(),
        );
    }
    if planned.is_empty() {
        report.push(
            "all rules are in place: a run would change nothing, so the script is a comment".to_owned(),
        );
        return Ok((comment(&script(&steps(&State::default(), &wanted, &machine))), report));
    }
    Ok((script(&planned), report))
}

/// A shell script with the commands that `undo` would run.
pub fn plan_undo() -> Result<(String, Report), Error> {
    let machine = capable()?;
    let found = state(&machine);
    let planned = steps(&found, &State::default(), &machine);
    let report = found.is_empty().then(|| "this network namespace has no rules of pillion".to_owned());
    Ok((script(&planned), report.into_iter().collect()))
}

fn script(steps: &[Step]) -> String {
    steps.iter().fold(String::new(), |mut text, step| {
        _ = write!(text, "{step}");
        text
    })
}

/// Turns the script into comments, which a shell ignores.
fn comment(script: &str) -> String {
    script.lines().fold(String::new(), |mut text, line| {
        _ = writeln!(text, "# {line}");
        text
    })
}

fn capable() -> Result<Machine, Error> {
    let machine = Machine::look();
    if machine.has_net_admin { Ok(machine) } else { Err(Error::NotCapable) }
}

fn needs_ip(steps: &[Step], machine: &Machine) -> Result<(), Error> {
    if !machine.has_ip && steps.iter().any(|step| step.program == "ip") { Err(Error::NoIp) } else { Ok(()) }
}

/// The rule sets to install in, best first, each with the reason. There is more than one only if the operator leaves
/// the choice to us.
fn targets(asked: Backend, machine: &Machine, rules: &RuleSet) -> Result<Vec<(Target, String)>, Error> {
    let is_there = |target: &Target| match target {
        Target::Nft => machine.has_nft,
        Target::Iptables(variant) => machine.xtables(*variant).is_some(),
    };
    let by_flag =
        |targets: &[Target]| targets.iter().map(|target| (*target, "as asked".to_owned())).collect();
    let wished: Vec<(Target, String)> = match asked {
        Backend::Auto => preferred(machine, rules),
        Backend::Nft => by_flag(&[Target::Nft]),
        Backend::IptablesNft => by_flag(&[Target::Iptables(Variant::Nft)]),
        Backend::IptablesLegacy => by_flag(&[Target::Iptables(Variant::Legacy)]),
        Backend::Iptables => either_iptables(machine),
    };
    let present: Vec<_> = wished.into_iter().filter(|(target, _)| is_there(target)).collect();
    if present.is_empty() { Err(Error::NoProgram(asked)) } else { Ok(present) }
}

const NFT: Target = Target::Nft;
const IPTABLES_NFT: Target = Target::Iptables(Variant::Nft);
const IPTABLES_LEGACY: Target = Target::Iptables(Variant::Legacy);

fn either_iptables(machine: &Machine) -> Vec<(Target, String)> {
    if machine.has_net_admin && has_foreign_legacy(machine) {
        let why = "this namespace has rules of this kind already";
        return vec![
            (IPTABLES_LEGACY, why.to_owned()),
            (IPTABLES_NFT, "iptables-legacy does not work here".to_owned()),
        ];
    }
    vec![
        (IPTABLES_NFT, "it works here".to_owned()),
        (IPTABLES_LEGACY, "iptables-nft is absent or does not work here".to_owned()),
    ]
}

/// Prefers nft. If the namespace has rules in iptables-legacy, that is preferred, so that all rules stay in one rule
/// set.
fn preferred(machine: &Machine, rules: &RuleSet) -> Vec<(Target, String)> {
    let iptables = either_iptables(machine);
    let has_legacy = iptables.first().is_some_and(|(target, _)| *target == IPTABLES_LEGACY);
    let nft = (NFT, "nft is here and the kernel takes the rules".to_owned());
    match nft_works(machine, rules) {
        Ok(()) if has_legacy => iptables.into_iter().chain([nft]).collect(),
        Ok(()) => [nft].into_iter().chain(iptables).collect(),
        Err(_) if has_legacy => iptables,
        Err(reason) => {
            iptables.into_iter().map(|(target, why)| (target, format!("{reason}; {why}"))).collect()
        }
    }
}

/// Whether the kernel accepts the rules. The kernel is asked, if this process is allowed to.
fn nft_works(machine: &Machine, rules: &RuleSet) -> Result<(), String> {
    if !machine.has_nft {
        return Err("nft is not installed".to_owned());
    }
    if !machine.has_net_admin {
        return Ok(());
    }
    let check = Step::new("nft", &["--check", "-f", "-"]).reading(nft::script(rules, &machine.families));
    check.run().map(drop).map_err(|failed| format!("nft does not work here ({})", failed.said))
}

fn chosen(target: Target, why: &str) -> String {
    format!("backend {target}: {why}")
}

fn left_out(machine: &Machine) -> Option<String> {
    (!machine.has_v6()).then(|| "there are no rules for IPv6: this network namespace has no IPv6".to_owned())
}

fn installed(options: &Options, target: Target, why: &str, machine: &Machine, unchanged: bool) -> Report {
    let versions = if machine.has_v6() { "IPv4 and IPv6" } else { "IPv4" };
    let mode = match options.mode {
        Mode::Redirect => "redirect",
        Mode::Tproxy => "tproxy",
    };
    let what = match unchanged {
        true => "were in place already; nothing changed".to_owned(),
        false => "are installed".to_owned(),
    };
    let mut report = vec![chosen(target, why)];
    report.extend(left_out(machine));
    report.extend(unreadable_rule_sets(machine));
    report.push(format!("the rules of mode {mode} for {versions} {what}"));
    report
}
