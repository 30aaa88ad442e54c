//! `sync`: files beside the application that are kept as a source has them.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::authority::{authority, host_and_port, http_port, is_sendable_path};
use crate::tracing::HiddenText;

/// A file or a folder, and the source whose content it has.
#[derive(Debug, Clone, PartialEq)]
pub struct Sync {
    /// Lower-case letters, digits, `-` and `_`: the label of metrics, and the name on `/companions`.
    pub name: String,
    pub from: SyncUrl,
    /// The file, or the folder where the source is one.
    pub to: PathBuf,
    /// The time between two looks at a source that cannot tell of a change. `None`: [`SyncUrl::usual_interval`].
    pub every: Option<Duration>,
    /// The permissions of the files. A folder gets the right to enter where the files get the right to read.
    pub mode: u32,
    pub owner: Option<Owner>,
    pub token: Option<SyncToken>,
    pub check: Check,
    pub on_change: Option<OnChange>,
    /// Whether the sidecar is ready only when the first version is there. Default false.
    pub required: bool,
}

impl Sync {
    /// 0640: the group of the application reads it, and no other user, because a configuration often has passwords in it.
    pub const MODE: u32 = 0o640;
    /// 64: each has a connection to its source.
    pub const MOST: usize = 64;
    /// 5 s: the time for a check, and for what tells the application of a change.
    pub const PATIENCE: Duration = Duration::from_secs(5);
    /// While a check runs, no newer version is looked at.
    pub const LONGEST_PATIENCE: Duration = Duration::from_mins(1);
    /// Between two looks: sidecars in their thousands must not become a burden of one source.
    pub const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
}

/// The owner of files, by numbers: names need a user database, which images rarely have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub user: u32,
    pub group: Option<u32>,
}

/// What the source is asked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncToken {
    Text(HiddenText),
    /// Read before each request, so that a new token needs no reload.
    File(PathBuf),
}

/// What a version must pass. A folder passes where each of its files does; a command gets the whole folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Check {
    pub json: bool,
    pub yaml: bool,
    pub exec: Option<SyncCommand>,
}

impl Check {
    /// What stands for the path of the new version in the arguments of a command.
    pub const FILE: &str = "{file}";
}

/// A program with its arguments. No shell reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncCommand {
    pub words: Vec<String>,
    pub timeout: Duration,
}

/// How the application learns that there is a new version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OnChange {
    Signal { signal: SyncSignal, to: SignalTo },
    Http { call: HttpCall, timeout: Duration },
    Exec(SyncCommand),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignalTo {
    /// The processes with this name that were not started by one of that name, too.
    Process(String),
    /// The process whose number is in this file.
    PidFile(PathBuf),
}

/// The signals by which programs are told to read their files anew, or to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncSignal {
    Hup,
    Usr1,
    Usr2,
    Term,
    Int,
    Quit,
    Winch,
}

/// A request without content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCall {
    pub method: &'static str,
    pub url: WebUrl,
}

/// An address of HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebUrl {
    pub is_tls: bool,
    /// A name, or an IP address without brackets.
    pub host: String,
    pub port: u16,
    /// The path with its query.
    pub path: String,
}

/// Where the content comes from, and how the file spells that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncUrl {
    pub source: Source,
    written: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Consul(Store),
    Etcd(Store),
    Web(WebUrl),
    Files(Files),
}

/// A store of keys, and what is read of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    pub is_tls: bool,
    /// A name, or an IP address without brackets.
    pub host: String,
    pub port: u16,
    /// The key; of a folder, what its keys begin with: a text with a slash at its end.
    pub key: String,
    pub is_folder: bool,
    /// Consul: any server may answer, and not the leader alone.
    pub is_stale: bool,
}

/// A file of this host, or a folder of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    pub path: PathBuf,
    pub is_folder: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSyncUrl {
    #[error("does not begin with consul://, etcd://, http://, https:// or file:///")]
    Scheme,
    #[error("has user information before an @")]
    User,
    #[error("has no valid host and port")]
    Host,
    #[error("names no key")]
    NoKey,
    #[error("has a key that is not percent-encoded UTF-8")]
    Key,
    #[error("has a query that is not ?stale")]
    Query,
    #[error("has a fragment, or a character that requests cannot carry")]
    Path,
    #[error("is not the absolute path of a file")]
    File,
}

impl WebUrl {
    /// # Errors
    /// What is wrong with the text.
    pub fn new(text: &str) -> Result<Self, BadSyncUrl> {
        let (is_tls, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => return Err(BadSyncUrl::Scheme),
        };
        let (host, port, path) = server(rest)?;
        if !is_sendable_path(path) {
            return Err(BadSyncUrl::Path);
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { is_tls, host, port: port.unwrap_or_else(|| http_port(is_tls)), path })
    }

    /// The host and the port, as requests name them.
    pub fn authority(&self) -> String {
        authority(&self.host, self.port, http_port(self.is_tls))
    }
}

/// Without the query, which may have a credential in it.
impl fmt::Display for WebUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        let path = self.path.split('?').next().unwrap_or_default();
        write!(f, "{scheme}://{}{path}", self.authority())
    }
}

impl Store {
    const CONSUL_PORT: u16 = 8500;
    const ETCD_PORT: u16 = 2379;

    fn new(rest: &str, is_tls: bool, usual: u16) -> Result<Self, BadSyncUrl> {
        let (host, port, path) = server(rest)?;
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        if path.contains('#') || query.contains('#') {
            return Err(BadSyncUrl::Path);
        }
        if !matches!(query, "" | "stale") {
            return Err(BadSyncUrl::Query);
        }
        let key = decoded(path.strip_prefix('/').unwrap_or(path)).ok_or(BadSyncUrl::Key)?;
        if key.is_empty() {
            return Err(BadSyncUrl::NoKey);
        }
        let is_folder = key.ends_with('/');
        Ok(Self { is_tls, host, port: port.unwrap_or(usual), key, is_folder, is_stale: query == "stale" })
    }

    /// The host and the port, as requests name them.
    pub fn authority(&self) -> String {
        authority(&self.host, self.port, http_port(self.is_tls))
    }
}

impl SyncUrl {
    /// # Errors
    /// What is wrong with the text.
    pub fn new(text: &str) -> Result<Self, BadSyncUrl> {
        let (scheme, rest) = text.split_once("://").ok_or(BadSyncUrl::Scheme)?;
        let source = match scheme {
            "consul" | "consuls" => {
                Source::Consul(Store::new(rest, scheme == "consuls", Store::CONSUL_PORT)?)
            }
            "etcd" | "etcds" if rest.ends_with("?stale") => return Err(BadSyncUrl::Query),
            "etcd" | "etcds" => Source::Etcd(Store::new(rest, scheme == "etcds", Store::ETCD_PORT)?),
            "http" | "https" => Source::Web(WebUrl::new(text)?),
            "file" => Source::Files(Files::new(rest)?),
            _ => return Err(BadSyncUrl::Scheme),
        };
        let written = match &source {
            Source::Web(url) => url.to_string(),
            _ => text.to_owned(),
        };
        Ok(Self { source, written })
    }

    /// Whether there are many files.
    pub const fn is_folder(&self) -> bool {
        match &self.source {
            Source::Consul(store) | Source::Etcd(store) => store.is_folder,
            Source::Files(files) => files.is_folder,
            Source::Web(_) => false,
        }
    }

    /// Whether the source is asked again and again, because it cannot tell of a change.
    pub const fn is_polled(&self) -> bool {
        matches!(self.source, Source::Web(_) | Source::Files(_))
    }

    /// The time between two looks: 30 s for a server, half a second for files, which cost a `stat` each.
    pub const fn usual_interval(&self) -> Duration {
        match &self.source {
            Source::Files(_) => Duration::from_millis(500),
            _ => Duration::from_secs(30),
        }
    }
}

/// Of a URL of HTTP, without its query.
impl fmt::Display for SyncUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl Files {
    fn new(rest: &str) -> Result<Self, BadSyncUrl> {
        let path = decoded(rest).filter(|path| path.starts_with('/') && !path.contains('\0'));
        let path = path.ok_or(BadSyncUrl::File)?;
        let is_folder = path.ends_with('/');
        Ok(Self { path: path.into(), is_folder })
    }
}

/// The host, the port where one is written, and the rest of a URL after its scheme.
fn server(rest: &str) -> Result<(String, Option<u16>, &str), BadSyncUrl> {
    let (named, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if named.contains('@') {
        return Err(BadSyncUrl::User);
    }
    let (host, port) = host_and_port(named).ok_or(BadSyncUrl::Host)?;
    Ok((host, port, path))
}

/// A text without its percent-encoding. `None`: it is not UTF-8, or `%` is followed by something else than two digits.
fn decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? << 4 | digit()?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        SyncUrl::new(text).unwrap_or_else(|why| unreachable!("{text} {why}")).source
    }

    #[test]
    fn a_slash_at_the_end_makes_a_folder() {
        for (text, host, port, key, is_folder, is_stale) in [
            ("consul://consul:8500/app/settings", "consul", 8500, "app/settings", false, false),
            ("consul://[::1]/app/?stale", "::1", 8500, "app/", true, true),
            ("consuls://Consul:8501/a%20b", "consul", 8501, "a b", false, false),
        ] {
            let expected = Store {
                is_tls: text.starts_with("consuls"),
                host: host.to_owned(),
                port,
                key: key.to_owned(),
                is_folder,
                is_stale,
            };
            assert_eq!(source(text), Source::Consul(expected), "{text}");
        }
        assert!(
            matches!(source("etcd://e//app/"), Source::Etcd(Store { key, port: 2379, .. }) if key == "/app/")
        );
        assert!(SyncUrl::new("file:///etc/app/").unwrap().is_folder());
        assert!(!SyncUrl::new("file:///etc/app").unwrap().is_folder());
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        for (text, expected) in [
            ("consul", BadSyncUrl::Scheme),
            ("ftp://a/b", BadSyncUrl::Scheme),
            ("consul://a", BadSyncUrl::NoKey),
            ("consul://a/", BadSyncUrl::NoKey),
            ("consul://u:p@a/b", BadSyncUrl::User),
            ("consul://:8500/b", BadSyncUrl::Host),
            ("consul://a/b?dc=x", BadSyncUrl::Query),
            ("consul://a/b#c", BadSyncUrl::Path),
            ("consul://a/%zz", BadSyncUrl::Key),
            ("consul://a/%ff", BadSyncUrl::Key),
            ("etcd://a/b?stale", BadSyncUrl::Query),
            ("http://a/b c", BadSyncUrl::Path),
            ("file://etc/app", BadSyncUrl::File),
            ("file:///etc/%00", BadSyncUrl::File),
        ] {
            assert_eq!(SyncUrl::new(text).unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn the_query_of_a_web_address_is_sent_and_never_shown() {
        let url = SyncUrl::new("https://cfg.example/app.yaml?signature=secret").unwrap();
        assert_eq!(url.to_string(), "https://cfg.example/app.yaml");
        assert!(
            matches!(url.source, Source::Web(WebUrl { path, .. }) if path.ends_with("?signature=secret"))
        );
    }
}
