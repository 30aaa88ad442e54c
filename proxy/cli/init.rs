//! `pillion init`: the redirect rules of this network namespace, from the command line.

use clap::CommandFactory as _;
use clap::error::ErrorKind;
use pillion_init::{Flags, Report, Wrong};

use super::output::{print, print_failure};

#[derive(Debug, clap::Args)]
pub struct Init {
    #[command(flatten)]
    flags: Flags,
    /// Print the commands as a shell script, and change nothing
    #[arg(long)]
    plan: bool,
    /// Remove what `pillion init` installed, whatever its options were, and nothing else; with --plan, print the commands
    #[arg(long)]
    undo: bool,
}

impl Init {
    pub fn run(self) -> anyhow::Result<()> {
        let Self { flags, plan, undo } = self;
        let options = flags.options().unwrap_or_else(|wrong| misused(&wrong));
        match (plan, undo) {
            (false, false) => print_report(&pillion_init::install(&options)?),
            (false, true) => print_report(&pillion_init::undo()?),
            (true, false) => show(pillion_init::plan(&options)?)?,
            (true, true) => show(pillion_init::plan_undo()?)?,
        }
        Ok(())
    }
}

/// Reports wrong usage and exits as clap does, with exit code 2.
fn misused(wrong: &Wrong) -> ! {
    let mut pillion = super::Cli::command();
    pillion.build(); // without this its commands do not know their full names
    let mut init = pillion.find_subcommand("init").cloned().unwrap_or(pillion);
    init.error(ErrorKind::ArgumentConflict, wrong).exit()
}

fn print_report(report: &Report) {
    for line in report {
        print_failure(&format!("pillion init: {line}"));
    }
}

fn show((script, report): (String, Report)) -> anyhow::Result<()> {
    print_report(&report);
    print(&script)
}
