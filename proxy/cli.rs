//! The command line: its commands and what they run.

mod admin;
pub mod bench;
pub mod certs;
pub mod check;
mod client;
pub mod completions;
pub mod demo;
pub mod drain;
mod duration;
mod ending;
pub mod exec;
mod explain;
pub mod init;
pub mod inject;
mod lines;
mod load;
mod output;
pub mod policy;
mod port;
pub mod run;
pub mod tap;
mod timeline;
pub mod top;
mod upgrade;
pub mod wait;
pub mod webhook;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::app::with_causes;
use crate::explained::BadQuestion;
use exec::NotStarted;
use output::{ReaderGone, print, print_failure};

/// The exit code of work that failed and of an invalid configuration.
const FAILED: u8 = 1;
/// The exit code of wrong usage, which clap has, too.
const WRONG_USAGE: u8 = 2;

#[derive(Debug, Parser)]
#[command(
    name = "pillion",
    version,
    about = "Pillion is a service-mesh sidecar proxy: one binary that runs beside one application."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole mesh on this machine, without any configuration
    Demo(demo::Demo),
    /// Run the sidecar
    Run(run::Run),
    /// Check a configuration file and print all of its faults, or what is around a running sidecar
    Check(check::Check),
    /// Print the JSON Schema of the configuration file, for editors
    Schema,
    /// Install the firewall rules that redirect this network namespace's connections to the sidecar
    Init(init::Init),
    /// Add the sidecar to Kubernetes manifests
    Inject(inject::Inject),
    /// Add the sidecar to pods when they are created: an admission webhook of Kubernetes
    Webhook(webhook::WebhookArgs),
    /// Create and inspect certificates, with a small CA for development and tests
    #[command(subcommand)]
    Certs(certs::Certs),
    /// Say what would happen to a request, and why
    Explain(explain::Explain),
    /// Write authorization rules for the traffic of a running sidecar
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Print the requests of a running sidecar as they end
    Tap(tap::TapArgs),
    /// Show a running sidecar live in the terminal: who calls, whom it calls, and what fails
    Top(top::Top),
    /// Drain the inbound side of a running sidecar, before its application ends; what a preStop hook runs
    Drain(drain::Drain),
    /// Run an application beside a sidecar, from when the sidecar is ready until the application ends
    Exec(exec::Exec),
    /// Wait until the sidecar beside it is ready
    Wait(wait::Wait),
    /// Send requests on a schedule that does not wait for answers, and report latencies
    Bench(bench::Bench),
    /// Print what a shell needs to complete commands and flags
    Completions(completions::Completions),
    /// Words of the interface that are not built yet are known, and refused.
    #[command(external_subcommand)]
    Other(Vec<String>),
}

/// The text for a command line without arguments.
const HELP: &str = "\
pillion: a service-mesh sidecar proxy, one binary beside one application

  pillion demo            run a whole mesh on this machine, without any configuration
  pillion run -c FILE     run the sidecar
  pillion check -c FILE   check a configuration file and print all of its faults

`pillion --help` lists every command.
";

/// Names of commands that are planned and do not exist yet.
const PLANNED: [&str; 1] = ["import"];

/// The command line as clap knows it, for completions and manual pages.
#[doc(hidden)]
pub fn command() -> clap::Command {
    use clap::CommandFactory as _;
    Cli::command()
}

/// Runs the command of the command line.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        None => print(HELP),
        Some(Command::Demo(demo)) => demo.run(),
        Some(Command::Run(run)) => run.run(),
        Some(Command::Check(check)) => check.run(),
        Some(Command::Schema) => print(&pillion_config::json_schema()),
        Some(Command::Init(init)) => init.run(),
        Some(Command::Inject(inject)) => inject.run(),
        Some(Command::Webhook(webhook)) => webhook.run(),
        Some(Command::Certs(certs)) => certs.run(),
        Some(Command::Explain(explain)) => explain.run(),
        Some(Command::Policy(policy)) => policy.run(),
        Some(Command::Tap(tap)) => tap.run(),
        Some(Command::Top(top)) => top.run(),
        Some(Command::Drain(drain)) => drain.run(),
        Some(Command::Exec(exec)) => return exit_code(exec.run()),
        Some(Command::Wait(wait)) => wait.run(),
        Some(Command::Bench(bench)) => bench.run(),
        Some(Command::Completions(completions)) => completions.run(),
        Some(Command::Other(words)) => return unknown(&words),
    };
    exit_code(result.map(|()| ExitCode::SUCCESS))
}

/// Prints why a command failed, and returns the exit code.
fn exit_code(result: anyhow::Result<ExitCode>) -> ExitCode {
    let error = match result {
        Ok(code) => return code,
        Err(error) if error.is::<ReaderGone>() => return ExitCode::SUCCESS,
        Err(error) => error,
    };
    print_failure(&with_causes(&error));
    match error.downcast_ref::<NotStarted>() {
        Some(not_started) => ExitCode::from(not_started.code()),
        None if error.is::<BadQuestion>() => ExitCode::from(WRONG_USAGE),
        None => ExitCode::from(FAILED),
    }
}

fn unknown(words: &[String]) -> ExitCode {
    let word = words.first().map_or("", String::as_str);
    match PLANNED.contains(&word) {
        true => print_failure(&format!("pillion {word} is not supported yet")),
        false => {
            print_failure(&format!("pillion has no command `{word}`; `pillion --help` lists what there is"))
        }
    }
    ExitCode::from(WRONG_USAGE)
}
