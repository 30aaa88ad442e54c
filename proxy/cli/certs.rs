//! `pillion certs`: a small CA on the command line, and a display of certificates.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use pillion_model::SpiffeId;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::duration::{DAY, HOUR, MINUTE, SECOND, duration};
use super::output::print;
use pillion_tls::identity::issue::{Ca, IssuedPem};
use pillion_tls::identity::{date, names, parse, unix_now};
use pillion_tls::{hex, sha256};

const CA_CERTIFICATE: &str = "ca.crt";
const CA_KEY: &str = "ca.key";

/// The modes of files: only the owner may read keys; everyone may read certificates.
const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;

#[derive(Debug, clap::Subcommand)]
pub enum Certs {
    /// Create a CA for one trust domain: writes ca.crt and ca.key
    Ca {
        /// The folder to write to; it is created where it does not exist
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// The trust domain of all certificates that this CA issues
        #[arg(long, value_name = "NAME", default_value = "cluster.local")]
        trust_domain: String,
        /// Replace a CA that is already there; certificates that the old one issued are no longer trusted
        #[arg(long)]
        force: bool,
    },
    /// Issue a workload's certificate: writes tls.crt, tls.key and ca.crt
    Issue {
        /// The folder with ca.crt and ca.key
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
        /// The identity of the workload, for example spiffe://cluster.local/ns/default/sa/web
        #[arg(long, value_name = "ID")]
        spiffe_id: SpiffeId,
        /// The folder to write to; it is created where it does not exist, and files in it are replaced
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// A host name or IP address, for clients that verify names; may be given several times
        #[arg(long, value_name = "NAME")]
        dns: Vec<String>,
        /// How long the certificate is valid, for example 90s, 30m, 24h or 7d; never longer than the CA's own
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = ttl)]
        ttl: Duration,
    },
    /// Print the identity, names, issuer and validity of certificates
    Inspect {
        /// The PEM files to read
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

impl Certs {
    /// # Errors
    /// The work could not be done. The text names the file.
    pub fn run(self) -> anyhow::Result<()> {
        print(&self.perform()?)
    }

    /// Does the work, and returns the text to print.
    fn perform(self) -> anyhow::Result<String> {
        match self {
            Self::Ca { out, trust_domain, force } => make_ca(&out, &trust_domain, force),
            Self::Issue { ca, spiffe_id, out, dns, ttl } => issue(&ca, &spiffe_id, &out, &dns, ttl),
            Self::Inspect { files } => inspect(&files),
        }
    }
}

fn make_ca(out: &Path, trust_domain: &str, force: bool) -> anyhow::Result<String> {
    let key = out.join(CA_KEY);
    if !force && key.symlink_metadata().is_ok() {
        bail!(
            "{} already exists and was not changed. Choose another --out, or pass --force to replace it: \
             every certificate it has issued is then no longer trusted",
            key.display()
        );
    }
    let ca = Ca::generate(trust_domain)?;
    make_folder(out)?;
    write(&key, &ca.key_pem(), SECRET)?;
    write(&out.join(CA_CERTIFICATE), ca.certificate_pem(), PUBLIC)?;
    Ok(format!(
        "wrote {} and {} for trust domain {trust_domain}\n",
        out.join(CA_CERTIFICATE).display(),
        key.display()
    ))
}

fn issue(ca: &Path, id: &SpiffeId, out: &Path, dns: &[String], ttl: Duration) -> anyhow::Result<String> {
    let issued = load_ca(ca)?.issue(id, dns, ttl)?;
    make_folder(out)?;
    write_issued(out, &issued)?;
    let out = out.display();
    Ok(format!("wrote {out}/tls.crt, {out}/tls.key and {out}/ca.crt for {id}\n"))
}

fn load_ca(folder: &Path) -> anyhow::Result<Ca> {
    let certificate = read(&folder.join(CA_CERTIFICATE))?;
    let key = read(&folder.join(CA_KEY))?;
    Ca::from_pem(&certificate, &key)
        .with_context(|| format!("{} does not hold a usable CA", folder.display()))
}

/// Replaces each file as a whole. A reader in between finds a certificate and a key that do not match, and notices it.
fn write_issued(out: &Path, issued: &IssuedPem) -> anyhow::Result<()> {
    write(&out.join("tls.key"), &issued.key, SECRET)?;
    write(&out.join("tls.crt"), &issued.certificate, PUBLIC)?;
    write(&out.join(CA_CERTIFICATE), &issued.bundle, PUBLIC)
}

fn inspect(files: &[PathBuf]) -> anyhow::Result<String> {
    let now = unix_now();
    let mut text = String::new();
    for file in files {
        inspect_file(&mut text, file, now)?;
    }
    Ok(text)
}

fn inspect_file(text: &mut String, file: &Path, now: i64) -> anyhow::Result<()> {
    let pem = read(file)?;
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("{} is not valid PEM", file.display()))?;
    if certificates.is_empty() {
        bail!("{} holds no certificate; expected a PEM block `BEGIN CERTIFICATE`", file.display());
    }
    for (index, der) in certificates.iter().enumerate() {
        let place = format!("{}, certificate {} of {}", file.display(), index + 1, certificates.len());
        let described = describe(der, now).with_context(|| place.clone())?;
        writeln!(text, "{place}\n{described}")?;
    }
    Ok(())
}

/// One certificate as lines of `name value`.
fn describe(der: &[u8], now: i64) -> anyhow::Result<String> {
    let certificate = parse(der)?;
    let names = HostNames::of(names(&certificate)?);
    let mut text = String::new();
    writeln!(text, "  SPIFFE ID  {}", or_none(&names.uris))?;
    writeln!(text, "  DNS names  {}", or_none(&names.hosts))?;
    writeln!(text, "  subject    {}", printable(&certificate.subject().to_string()))?;
    writeln!(text, "  issuer     {}", printable(&certificate.issuer().to_string()))?;
    writeln!(text, "  serial     {}", certificate.raw_serial_as_string())?;
    writeln!(text, "  valid      {}", validity(&certificate, now))?;
    writeln!(text, "  sha256     {}", hex(&sha256(der)))?;
    writeln!(text, "  CA         {}", if certificate.is_ca() { "yes" } else { "no" })?;
    Ok(text)
}

fn validity(certificate: &X509Certificate<'_>, now: i64) -> String {
    let (from, to) =
        (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp());
    let state = match to.saturating_sub(now) {
        _ if now < from => "not yet valid".to_owned(),
        left if left < 0 => "EXPIRED".to_owned(),
        left => format!("{} left", in_two_units(left)),
    };
    format!("{} to {} ({state})", date(from), date(to))
}

/// A time in its two largest units, which is precise enough for planning a rotation.
fn in_two_units(seconds: i64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes}m {}s", seconds % 60),
        (0, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// The alternative names, sorted by their kind: identities and host names.
struct HostNames {
    uris: Vec<String>,
    hosts: Vec<String>,
}

impl HostNames {
    fn of(names: &[GeneralName<'_>]) -> Self {
        let mut sorted = Self { uris: Vec::new(), hosts: Vec::new() };
        for name in names {
            match name {
                GeneralName::URI(uri) => sorted.uris.push(printable(uri)),
                GeneralName::DNSName(host) => sorted.hosts.push(printable(host)),
                GeneralName::IPAddress(bytes) => sorted.hosts.push(address(bytes)),
                _ => {}
            }
        }
        sorted
    }
}

fn address(bytes: &[u8]) -> String {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return std::net::Ipv4Addr::from(v4).to_string();
    }
    match <[u8; 16]>::try_from(bytes) {
        Ok(v6) => std::net::Ipv6Addr::from(v6).to_string(),
        Err(_) => hex(bytes),
    }
}

/// Removes control characters: the text of a certificate comes from a stranger and must not control the terminal.
fn printable(text: &str) -> String {
    match text {
        "" => "none".to_owned(),
        text => text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect(),
    }
}

fn or_none(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Parses `90s`, `30m`, `24h`, `7d`.
fn ttl(text: &str) -> Result<Duration, String> {
    duration(text, &[SECOND, MINUTE, HOUR, DAY])
        .ok_or_else(|| format!("{text:?} is not a duration; write it as 90s, 30m, 24h or 7d"))
}

/// 1 MiB, which is also the limit for loading credentials.
const MAX_FILE: u64 = 1024 * 1024;

fn read(path: &Path) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.len() as u64 > MAX_FILE {
        bail!("{} is larger than 1 MiB, the limit for certificate files", path.display());
    }
    String::from_utf8(bytes).with_context(|| format!("{} is not PEM text", path.display()))
}

fn make_folder(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create the folder {}", folder.display()))
}

/// Writes a new file beside the path and renames it: a running sidecar that watches the path never reads half a file,
/// and other users can never read the key.
fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let unfinished = path.with_added_extension("new");
    let written = write_new(&unfinished, text, mode).and_then(|()| fs::rename(&unfinished, path));
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        certs: Certs,
    }

    fn run(line: &str) -> anyhow::Result<String> {
        Line::try_parse_from(["certs"].into_iter().chain(line.split(' ')))?.certs.perform()
    }

    /// A folder for one test, removed when the test ends.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("pillion-certs-{test}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("a folder");
            Self(path)
        }

        fn text(&self, name: &str) -> String {
            fs::read_to_string(self.0.join(name)).expect("written")
        }

        fn mode(&self, name: &str) -> u32 {
            self.0.join(name).metadata().expect("written").permissions().mode() & 0o777
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).expect("cleaned up");
        }
    }

    const ID: &str = "--spiffe-id spiffe://cluster.local/ns/default/sa/web";

    fn issued(folder: &Folder) {
        let at = folder.0.display();
        run(&format!("ca --out {at}/ca --trust-domain cluster.local")).expect("a CA");
        run(&format!("issue --ca {at}/ca {ID} --out {at}/web --dns web.shop --dns 10.0.0.1 --ttl 30m"))
            .expect("issued");
    }

    #[test]
    fn an_existing_ca_is_replaced_only_with_force() {
        let folder = Folder::new("force");
        issued(&folder);
        let (at, before) = (folder.0.display(), folder.text("ca/ca.key"));
        let error = run(&format!("ca --out {at}/ca")).expect_err("not changed").to_string();
        assert!(error.contains("was not changed") && error.contains("--force"), "{error}");
        assert_eq!(folder.text("ca/ca.key"), before);
        run(&format!("ca --out {at}/ca --force")).expect("replaced");
        assert_ne!(folder.text("ca/ca.key"), before);
    }

    #[test]
    fn invalid_arguments_are_refused_before_anything_is_written() {
        let folder = Folder::new("words");
        let at = folder.0.display();
        for line in [
            format!("issue --ca {at} --spiffe-id web --out {at}/web"),
            format!("issue --ca {at} {ID} --out {at}/web --ttl 0h"),
            format!("issue --ca {at} {ID} --out {at}/web"),
            format!("ca --out {at}/ca --trust-domain Not/A/Domain"),
            format!("inspect {at}/absent.crt"),
        ] {
            run(&line).expect_err(&line);
        }
        assert_eq!(fs::read_dir(&folder.0).expect("a folder").count(), 0);
    }

    #[test]
    fn an_issued_certificate_can_be_loaded_and_keys_are_private() {
        let folder = Folder::new("issue");
        issued(&folder);
        let [certificate, key, trust_bundle] =
            ["tls.crt", "tls.key", "ca.crt"].map(|name| folder.0.join("web").join(name));
        let source = pillion_model::identity::Files {
            certificate,
            key,
            trust_bundle,
            crl: pillion_model::identity::Crl::None,
            federation: std::collections::BTreeMap::new(),
            trust_domain: None,
            max_connection_age: None,
        };
        let own = pillion_tls::identity::credentials::Credentials::load(&source).expect("usable");
        assert_eq!(own.id.as_str(), "spiffe://cluster.local/ns/default/sa/web");
        assert_eq!(
            (folder.mode("ca/ca.key"), folder.mode("web/tls.key"), folder.mode("web/tls.crt")),
            (0o600, 0o600, 0o644)
        );
        issued_again_over_it(&folder, &source);
    }

    fn issued_again_over_it(folder: &Folder, source: &pillion_model::identity::Files) {
        let (at, before) = (folder.0.display(), folder.text("web/tls.crt"));
        run(&format!("issue --ca {at}/ca {ID} --out {at}/web")).expect("issued");
        assert_ne!(folder.text("web/tls.crt"), before);
        pillion_tls::identity::credentials::Credentials::load(source).expect("a pair again");
    }

    #[test]
    fn inspect_shows_identity_names_and_validity() {
        let folder = Folder::new("inspect");
        issued(&folder);
        let file = |name: &str| folder.0.join(name);
        let text = inspect(&[file("web/tls.crt"), file("ca/ca.crt")]).expect("certificates");
        for words in [
            "SPIFFE ID  spiffe://cluster.local/ns/default/sa/web\n",
            "DNS names  web.shop, 10.0.0.1\n",
            "issuer     CN=Pillion CA of cluster.local\n",
            "m ",
            " left)\n",
            "CA         no\n",
            "SPIFFE ID  spiffe://cluster.local\n",
            "CA         yes\n",
        ] {
            assert!(text.contains(words), "{text}\n  should say {words:?}");
        }
        let error = inspect(&[file("web/tls.key")]).expect_err("a key").to_string();
        assert!(error.contains("holds no certificate"), "{error}");
    }

    #[test]
    fn openssl_agrees_with_the_chain() {
        if Command::new("openssl").arg("version").output().is_err() {
            eprintln!("skipped: no openssl");
            return;
        }
        let folder = Folder::new("openssl");
        issued(&folder);
        for purpose in ["sslserver", "sslclient"] {
            let mut openssl = Command::new("openssl");
            openssl.current_dir(folder.0.join("web")).args(["verify", "-x509_strict", "-purpose", purpose]);
            let output = openssl.args(["-CAfile", "ca.crt", "tls.crt"]).output().expect("openssl runs");
            assert!(output.status.success(), "{output:?}");
        }
    }

    #[test]
    fn names_in_a_certificate_cannot_control_the_terminal() {
        assert_eq!(printable("web\u{1b}[2J"), "web\u{fffd}[2J");
    }

    #[test]
    fn lifetimes_are_read_as_written() {
        for (text, seconds) in [("90s", 90), ("30m", 1800), ("24h", 86_400), ("7d", 604_800)] {
            assert_eq!(ttl(text), Ok(Duration::from_secs(seconds)));
        }
        for text in
            ["", "h", "24", "0h", "-1h", "1.5h", "1w", "99999999999999999999d", "9999999999999999999d", "1µ"]
        {
            ttl(text).expect_err(text);
        }
        for (seconds, text) in [(59, "0m 59s"), (5400, "1h 30m"), (90_000, "1d 1h")] {
            assert_eq!(in_two_units(seconds), text);
        }
    }
}
