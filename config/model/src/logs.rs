//! The log shipper: which files it reads, what their lines mean, and where their records go.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::authority::{authority, host_and_port, http_port, is_sendable_path};
use crate::pattern::Pattern;
use crate::tracing::HiddenText;

#[derive(Debug, Clone, PartialEq)]
pub struct Logs {
    pub sources: Vec<Source>,
    /// Every sink gets every record, at its own pace.
    pub sinks: Vec<Sink>,
    /// The folder in which is kept how far each file was delivered.
    pub checkpoint: PathBuf,
    pub batch: Batch,
    /// The memory for all sinks together, in bytes. What does not fit waits in the files.
    pub memory: u64,
}

impl Logs {
    /// The most sources, and the most sinks.
    pub const MOST: usize = 16;
    /// The least memory for each sink: a batch, what is sent of the one before, and a line of the longest kind.
    pub const LEAST_MEMORY: u64 = 1024 * 1024;
    pub const MOST_MEMORY: u64 = 1024 * 1024 * 1024;
}

/// No sources and no sinks.
impl Default for Logs {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            sinks: Vec::new(),
            checkpoint: PathBuf::from("/var/lib/pillion/logs"),
            batch: Batch::default(),
            memory: 8 * 1024 * 1024,
        }
    }
}

/// Records that are sent together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// In bytes, as the sink gets them.
    pub max: u64,
    /// How long a record waits for others.
    pub every: Duration,
}

impl Batch {
    pub const LEAST: u64 = 16 * 1024;
    pub const MOST: u64 = 64 * 1024 * 1024;
}

/// 1 MiB has some thousand lines, which one request carries well. After a second a record is looked for.
impl Default for Batch {
    fn default() -> Self {
        Self { max: 1024 * 1024, every: Duration::from_secs(1) }
    }
}

/// Files of one kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    pub name: String,
    /// Globs, each of which begins with a slash.
    pub files: Vec<String>,
    pub format: LineFormat,
    /// What the first line of several fits. A line that does not fit belongs to the one before.
    pub starts: Option<Pattern>,
    /// Added to each record: names and values.
    pub fields: Vec<(String, String)>,
    /// Records whose text has one of these are left out.
    pub drop: Vec<Pattern>,
}

impl Source {
    pub const MOST_FIELDS: usize = 32;

    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            files: Vec::new(),
            format: LineFormat::Auto,
            starts: None,
            fields: Vec::new(),
            drop: Vec::new(),
        }
    }
}

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineFormat {
    /// JSON where a line is an object, else text.
    Auto,
    Json,
    Text,
    Logfmt,
    /// The container runtime interface of Kubernetes, with JSON or text inside.
    Cri,
}

/// Where records go.
#[derive(Debug, Clone, PartialEq)]
pub struct Sink {
    pub name: String,
    pub to: Destination,
    /// What each request carries besides: names in lower case, and values.
    pub headers: Vec<(String, HiddenText)>,
    /// The authorities that may have signed the server's certificate. `None`: those of the system.
    pub trust_bundle: Option<PathBuf>,
}

impl Sink {
    pub const MOST_HEADERS: usize = 16;
    pub const MOST_LABELS: usize = 8;
}

#[derive(Debug, Clone, PartialEq)]
pub enum Destination {
    Elasticsearch {
        url: SinkUrl,
        index: IndexName,
    },
    Loki {
        url: SinkUrl,
        labels: Vec<String>,
    },
    /// OpenTelemetry's protocol over HTTP.
    Otlp {
        url: SinkUrl,
    },
    /// RFC 5424.
    Syslog {
        url: SyslogUrl,
    },
    Mongodb {
        url: MongodbUrl,
        database: String,
        collection: String,
    },
    /// JSON objects, each in a line.
    Http {
        url: SinkUrl,
    },
}

impl Destination {
    /// The labels of Loki's streams where none are written.
    pub const LABELS: [&str; 3] = ["workload", "namespace", "source"];

    /// Whether it is asked over HTTP, so that headers can be sent.
    pub const fn is_http(&self) -> bool {
        !matches!(self, Self::Syslog { .. } | Self::Mongodb { .. })
    }

    /// The server: whether it is asked over TLS, its host without brackets, and its port.
    pub fn server(&self) -> (bool, &str, u16) {
        match self {
            Self::Elasticsearch { url, .. }
            | Self::Loki { url, .. }
            | Self::Otlp { url }
            | Self::Http { url } => (url.is_tls, &url.host, url.port),
            Self::Syslog { url } => (url.over == SyslogOver::Tls, &url.host, url.port),
            Self::Mongodb { url, .. } => (url.is_tls, &url.host, url.port),
        }
    }
}

/// Why a text is no address of a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSinkUrl {
    /// With those that it may begin with.
    #[error("does not begin with {0}")]
    Scheme(&'static str),
    #[error("has user information before an @")]
    User,
    #[error("has no valid host and port")]
    Host,
    #[error("has a fragment, or a character that requests cannot carry")]
    Path,
    #[error("has a path or a query, which has no meaning here")]
    NoPath,
    #[error("names several servers, which is not supported yet")]
    Several,
    #[error("is of a kind that is not supported yet")]
    NotYet,
}

/// An address over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkUrl {
    pub is_tls: bool,
    /// A name, or an IP address without brackets.
    pub host: String,
    pub port: u16,
    /// As it is written, without a slash at its end; with the query.
    pub path: String,
}

impl SinkUrl {
    /// # Errors
    /// What is wrong with the text.
    pub fn new(text: &str) -> Result<Self, BadSinkUrl> {
        let (is_tls, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ if text.starts_with("grpc://") || text.starts_with("grpcs://") => {
                return Err(BadSinkUrl::NotYet);
            }
            _ => return Err(BadSinkUrl::Scheme("http:// or https://")),
        };
        let (named, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (host, port) = named_server(named)?;
        if !is_sendable_path(path) {
            return Err(BadSinkUrl::Path);
        }
        let path = path.trim_end_matches('/').to_owned();
        Ok(Self { is_tls, host, port: port.unwrap_or_else(|| http_port(is_tls)), path })
    }

    /// The host and the port, as requests name them.
    pub fn authority(&self) -> String {
        authority(&self.host, self.port, http_port(self.is_tls))
    }

    /// The path below which `signal` is, which is not repeated where the URL has it.
    pub fn path_to(&self, signal: &str) -> String {
        let base = self.path.strip_suffix(signal).unwrap_or(&self.path);
        format!("{base}{signal}")
    }
}

impl fmt::Display for SinkUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

fn named_server(named: &str) -> Result<(String, Option<u16>), BadSinkUrl> {
    if named.contains('@') {
        return Err(BadSinkUrl::User);
    }
    host_and_port(named).ok_or(BadSinkUrl::Host)
}

/// A receiver of syslog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyslogUrl {
    pub over: SyslogOver,
    /// A name, or an IP address without brackets.
    pub host: String,
    pub port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyslogOver {
    Udp,
    /// With octet counting (RFC 6587).
    Tcp,
    /// RFC 5425.
    Tls,
}

impl SyslogOver {
    const ALL: [(&str, Self, u16); 3] =
        [("udp", Self::Udp, 514), ("tcp", Self::Tcp, 601), ("tls", Self::Tls, 6514)];

    /// The word before `://`, and the usual port.
    fn spelled(self) -> (&'static str, u16) {
        let known = Self::ALL.into_iter().find(|(_, over, _)| *over == self);
        known.map_or(("tcp", 601), |(word, _, port)| (word, port))
    }
}

impl SyslogUrl {
    /// # Errors
    /// What is wrong with the text.
    pub fn new(text: &str) -> Result<Self, BadSinkUrl> {
        let bad = BadSinkUrl::Scheme("tcp://, udp:// or tls://");
        let (scheme, rest) = text.split_once("://").ok_or(bad)?;
        let known = SyslogOver::ALL.into_iter().find(|(word, ..)| *word == scheme);
        let (_, over, usual) = known.ok_or(bad)?;
        let named = rest.strip_suffix('/').unwrap_or(rest);
        if named.contains(['/', '?', '#']) {
            return Err(BadSinkUrl::NoPath);
        }
        let (host, port) = named_server(named)?;
        Ok(Self { over, host, port: port.unwrap_or(usual) })
    }
}

impl fmt::Display for SyslogUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, usual) = self.over.spelled();
        write!(f, "{scheme}://{}", authority(&self.host, self.port, usual))
    }
}

/// A server of MongoDB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MongodbUrl {
    pub is_tls: bool,
    /// A name, or an IP address without brackets.
    pub host: String,
    pub port: u16,
}

impl MongodbUrl {
    const PORT: u16 = 27017;

    /// # Errors
    /// What is wrong with the text.
    pub fn new(text: &str) -> Result<Self, BadSinkUrl> {
        if text.starts_with("mongodb+srv://") {
            return Err(BadSinkUrl::NotYet);
        }
        let rest = text.strip_prefix("mongodb://").ok_or(BadSinkUrl::Scheme("mongodb://"))?;
        let (named, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let is_tls = match path.trim_start_matches('/') {
            "" => false,
            "?tls=true" | "?ssl=true" => true,
            _ => return Err(BadSinkUrl::NoPath),
        };
        if named.contains(',') {
            return Err(BadSinkUrl::Several);
        }
        let (host, port) = named_server(named)?;
        Ok(Self { is_tls, host, port: port.unwrap_or(Self::PORT) })
    }
}

impl fmt::Display for MongodbUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mongodb://{}", authority(&self.host, self.port, Self::PORT))?;
        if self.is_tls { f.write_str("/?tls=true") } else { Ok(()) }
    }
}

/// The name of an index, with the date of the record in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexName(Vec<IndexPart>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexPart {
    Text(String),
    Year,
    Month,
    Day,
    Hour,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadIndexName {
    #[error("is empty or has more than 200 characters")]
    Length,
    #[error("has an upper-case letter, a space or another character that indices cannot have")]
    Character,
    #[error("has a % that is not %Y, %m, %d or %H")]
    Percent,
    #[error("begins with -, _ or +")]
    Beginning,
}

impl IndexName {
    /// # Errors
    /// What is wrong with the text.
    pub fn new(text: &str) -> Result<Self, BadIndexName> {
        if text.is_empty() || text.len() > 200 {
            return Err(BadIndexName::Length);
        }
        if text.starts_with(['-', '_', '+']) {
            return Err(BadIndexName::Beginning);
        }
        let mut pieces = text.split('%');
        let mut parts = text_part(pieces.next().unwrap_or_default())?;
        for piece in pieces {
            parts.push(match piece.as_bytes().first() {
                Some(b'Y') => IndexPart::Year,
                Some(b'm') => IndexPart::Month,
                Some(b'd') => IndexPart::Day,
                Some(b'H') => IndexPart::Hour,
                _ => return Err(BadIndexName::Percent),
            });
            parts.append(&mut text_part(piece.get(1..).unwrap_or_default())?);
        }
        Ok(Self(parts))
    }

    pub fn parts(&self) -> &[IndexPart] {
        &self.0
    }
}

/// A text between dates. An empty one is left out.
fn text_part(text: &str) -> Result<Vec<IndexPart>, BadIndexName> {
    let is_taken = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.+".contains(c);
    match text.chars().all(is_taken) {
        false => Err(BadIndexName::Character),
        true => Ok((!text.is_empty()).then(|| IndexPart::Text(text.to_owned())).into_iter().collect()),
    }
}

impl fmt::Display for IndexName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            IndexPart::Text(text) => f.write_str(text),
            IndexPart::Year => f.write_str("%Y"),
            IndexPart::Month => f.write_str("%m"),
            IndexPart::Day => f.write_str("%d"),
            IndexPart::Hour => f.write_str("%H"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_sink_has_a_scheme_a_host_and_a_path() {
        for (text, expected, path) in [
            ("http://elasticsearch:9200", "http://elasticsearch:9200", "/_bulk"),
            ("https://Search.example/logs/", "https://search.example/logs", "/logs/_bulk"),
            ("http://[fd00::1]:80/a", "http://[fd00::1]/a", "/a/_bulk"),
            ("http://a/_bulk", "http://a/_bulk", "/_bulk"),
        ] {
            let url = SinkUrl::new(text).unwrap();
            assert_eq!(
                (url.to_string().as_str(), url.path_to("/_bulk").as_str()),
                (expected, path),
                "{text}"
            );
            assert_eq!(SinkUrl::new(&url.to_string()), Ok(url));
        }
        for (text, expected) in [
            ("elasticsearch:9200", BadSinkUrl::Scheme("http:// or https://")),
            ("http://a:b@c", BadSinkUrl::User),
            ("http://", BadSinkUrl::Host),
            ("grpc://a", BadSinkUrl::NotYet),
            ("http://a/ b", BadSinkUrl::Path),
        ] {
            assert_eq!(SinkUrl::new(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn a_receiver_of_syslog_has_a_usual_port() {
        for (text, expected, port) in [
            ("tcp://logs", "tcp://logs", 601),
            ("udp://10.0.0.1:514/", "udp://10.0.0.1", 514),
            ("tls://logs:6515", "tls://logs:6515", 6515),
        ] {
            let url = SyslogUrl::new(text).unwrap();
            assert_eq!((url.to_string().as_str(), url.port), (expected, port));
        }
        assert_eq!(SyslogUrl::new("tcp://logs/x"), Err(BadSinkUrl::NoPath));
        assert!(matches!(SyslogUrl::new("http://logs"), Err(BadSinkUrl::Scheme(_))));
    }

    #[test]
    fn a_server_of_mongodb_is_a_single_one_without_a_password() {
        for text in ["mongodb://mongo", "mongodb://mongo:27018", "mongodb://mongo/?tls=true"] {
            assert_eq!(MongodbUrl::new(text).unwrap().to_string(), text);
        }
        for (text, expected) in [
            ("mongodb+srv://mongo", BadSinkUrl::NotYet),
            ("mongodb://a:b@mongo", BadSinkUrl::User),
            ("mongodb://a,b", BadSinkUrl::Several),
            ("mongodb://a/logs", BadSinkUrl::NoPath),
        ] {
            assert_eq!(MongodbUrl::new(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn the_name_of_an_index_may_have_a_date() {
        for text in ["app", "app-%Y.%m.%d", "app-%Y-%m-%d-%H-x"] {
            assert_eq!(IndexName::new(text).unwrap().to_string(), text);
        }
        for (text, expected) in [
            ("", BadIndexName::Length),
            ("App", BadIndexName::Character),
            ("app %Y", BadIndexName::Character),
            ("app-%Y A", BadIndexName::Character),
            ("app-%y", BadIndexName::Percent),
            ("app-%", BadIndexName::Percent),
            ("_app", BadIndexName::Beginning),
        ] {
            assert_eq!(IndexName::new(text), Err(expected), "{text}");
        }
    }
}
