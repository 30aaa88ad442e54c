//! `pillion check`: reports the faults of a configuration file, and files that it names but that do not exist; or what is
//! wrong around a running sidecar.

mod live;

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use pillion_config::{Errors, Fault, Origin, Provenance, Setting, Severity};

use super::admin::{AdminPort, USUAL};
use super::output::print;

#[derive(Debug, Args)]
pub struct Check {
    /// The configuration file to check
    #[arg(short, long, value_name = "FILE", required_unless_present = "live", conflicts_with = "live")]
    config: Option<PathBuf>,
    /// Check what is around a running sidecar, which has its admin port at URL: redirect rules, certificates, clock, name
    /// servers, endpoints, the application
    #[arg(long, value_name = "URL", num_args = 0..=1, default_missing_value = USUAL)]
    live: Option<AdminPort>,
    /// Print JSON
    #[arg(long, requires = "live")]
    json: bool,
}

impl Check {
    /// # Errors
    /// The file is invalid, or a check has failed.
    pub fn run(self) -> anyhow::Result<()> {
        match (&self.live, &self.config) {
            (Some(admin), _) => live::check(admin, self.json),
            (None, Some(file)) => check(file),
            (None, None) => Ok(()), // clap asks for one of them
        }
    }
}

/// # Errors
/// The file is invalid. The text has all faults.
fn check(file: &Path) -> anyhow::Result<()> {
    let (config, mut warnings) = pillion_config::load(file)?;
    warnings.extend(missing(&pillion_config::effective_in(&config, file, &[])));
    warnings.sort_by_key(|warning| (warning.line, warning.column));
    let name = file.display().to_string();
    if !warnings.is_empty() {
        let source = fs::read_to_string(file).unwrap_or_default();
        print(&format!("{}\n", Errors::new(&name, source, warnings)))?;
    }
    print(&format!("{name}: valid\n"))
}

/// A warning for each file or folder that is named and does not exist. This is no error, because it may be created
/// before the sidecar starts.
fn missing(settings: &[Setting]) -> Vec<Fault> {
    let mut all: Vec<Fault> = Vec::new();
    for setting in settings {
        let Some((what, then)) = absence(setting, Path::exists) else { continue };
        let message = format!("{}: {what}", setting.key);
        let (line, column) = place(&setting.from);
        // a missing folder with certificate, key and bundle is reported once
        if !all
            .iter()
            .any(|fault| (fault.line, fault.column) == (line, column) && fault.message.ends_with(&what))
        {
            let (severity, path, help) = (Severity::Warning, setting.key.clone(), Some(then.to_owned()));
            all.push(Fault { severity, path, line, column, message, help });
        }
    }
    all
}

/// How the address of a Workload API begins, which is a socket and no file.
const SOCKET: &str = "unix://";
const WAITS: &str = "the sidecar is not ready until it exists";
const AGENT: &str = "the sidecar is not ready until an agent listens there";
const REFUSES: &str = "the sidecar does not start without it";

/// The file or folder of a setting that is missing or cannot be used, and the consequence.
fn absence(setting: &Setting, exists: impl Fn(&Path) -> bool) -> Option<(String, &'static str)> {
    let text = setting.value.as_str()?;
    let path = Path::new(text.strip_prefix(SOCKET).unwrap_or(text));
    let (is_file, then) = match &*setting.key {
        "identity.workload_api" => (true, AGENT),
        "identity.certificate" | "identity.key" | "identity.trust_bundle" | "identity.crl" => (true, WAITS),
        "inbound.authorization.jwt.jwks.file" => (true, REFUSES),
        "access_log.path" => (false, REFUSES), // the file is created
        "dns.upstream" => (true, REFUSES),
        key if is_of_tls(key) && setting.value != "system" => (true, REFUSES),
        _ => return None,
    };
    if then == AGENT && path.metadata().is_ok_and(|of| !of.file_type().is_socket()) {
        return Some((format!("{} is not a socket", path.display()), then));
    }
    if text != "stdout" && path.is_dir() {
        return Some((format!("{} is a folder, not a file", path.display()), then));
    }
    // `stdout`, and `certs/ca.crl (where it exists)`, are not paths that must exist
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty())?;
    if !exists(folder) {
        return Some((format!("the folder {} does not exist", folder.display()), then));
    }
    let is_optional = text.ends_with(" (where it exists)");
    (is_file && !is_optional && !exists(path)).then(|| (format!("{} does not exist", path.display()), then))
}

/// Whether a key names a file for the TLS of a service or of a port.
fn is_of_tls(key: &str) -> bool {
    key.rsplit_once('.').is_some_and(|(block, name)| {
        let block = block.split_once('[').map_or(block, |(list, _)| list);
        block.ends_with(".tls") && matches!(name, "certificate" | "key" | "trust_bundle")
    })
}

const fn place(from: &Provenance) -> (usize, usize) {
    match from {
        Provenance::File(Origin { line, column, .. }) | Provenance::Defaults(Origin { line, column, .. }) => {
            (*line, *column)
        }
        Provenance::Default | Provenance::Flag(_) => (1, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(text: &str) -> Vec<String> {
        let (config, _) = pillion_config::parse(text, Path::new("/nowhere")).expect("a good file");
        let written = pillion_config::Written { name: "p.yaml", text };
        missing(&pillion_config::effective(&config, Some(written), &[]))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn c11_missing_folders_and_files_give_warnings_at_their_keys() {
        let waits = "help: the sidecar is not ready until it exists";
        let refuses = "help: the sidecar does not start without it";
        assert_eq!(
            messages("identity: { directory: certs }\naccess_log: { path: logs/access.log }\n"),
            [
                format!(
                    "1:24: warning: identity.certificate: the folder /nowhere/certs does not exist. {waits}"
                ),
                format!("2:21: warning: access_log.path: the folder /nowhere/logs does not exist. {refuses}"),
            ]
        );
        assert_eq!(
            messages(
                "services:\n  a: { endpoints: [10.0.0.1:80], tls: { mode: simple, sni: a, trust_bundle: /ca.pem } }\n"
            ),
            [format!("2:77: warning: services.a.tls.trust_bundle: /ca.pem does not exist. {refuses}")]
        );
        assert_eq!(
            messages("dns: { upstream: /nowhere.conf }\naccess_log: { path: /a.log }\n"),
            [format!("1:18: warning: dns.upstream: /nowhere.conf does not exist. {refuses}")]
        );
        let agent = "help: the sidecar is not ready until an agent listens there";
        for (socket, what) in [
            ("/nowhere/agent.sock", "the folder /nowhere does not exist"),
            ("/nowhere.sock", "/nowhere.sock does not exist"),
            ("/proc/version", "/proc/version is not a socket"),
            ("/proc", "/proc is not a socket"),
        ] {
            assert_eq!(
                messages(&format!("identity: {{ workload_api: unix://{socket} }}\n")),
                [format!("1:27: warning: identity.workload_api: {what}. {agent}")]
            );
        }
        for folder in ["/", "/proc"] {
            assert_eq!(
                messages(&format!("access_log: {{ path: {folder} }}\n")),
                [format!("1:21: warning: access_log.path: {folder} is a folder, not a file. {refuses}")]
            );
        }
        for good in ["{}", "access_log: { path: stdout }", "dns: { upstream: [10.0.0.1:53] }"] {
            assert_eq!(messages(good), [""; 0], "{good}");
        }
    }
}
