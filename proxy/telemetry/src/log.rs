//! The sidecar's own log: diagnostics on standard error, one line each, as text or as JSON.

use std::env;
use std::sync::OnceLock;

use parking_lot::Mutex;
use tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};
use tracing::{Level, Metadata};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{FilterFn, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, reload};

/// Level or filter directives, such as `debug`, `pillion::tls=debug,info` or `debug,h2=debug`.
const VARIABLE: &str = "PILLION_LOG";
/// `text` or `json`.
const FORMAT: &str = "PILLION_LOG_FORMAT";
/// What changed and what will need a human; single requests stand in the access log.
const DEFAULT: &str = "info";
/// Bytes of a filter; longer ones are no filter that a person wrote.
const LONGEST: usize = 1024;

const LEVELS: [&str; 6] = ["trace", "debug", "info", "warn", "error", "off"];

/// The filter of the log that this process writes, as long as it has one.
///
/// A changed filter costs nothing where nothing is logged: tracing asks it about each call site once, keeps the
/// answer, and asks again when the filter was changed.
static FILTER: OnceLock<Filter> = OnceLock::new();

struct Filter {
    set: Box<dyn Fn(Targets) -> Result<(), reload::Error> + Send + Sync>,
    /// As somebody wrote it.
    asked: Mutex<String>,
}

/// How a record is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Text,
    /// One object a line, also where a message has several lines. The fields of an event stand beside `message`.
    Json,
}

/// Why the log goes on as it did.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSet {
    #[error("{0}")]
    Bad(String),
    #[error("this process has no log of its own")]
    NoLog,
}

/// Starts the log: at `level`, else as `PILLION_LOG` says, else at `info`; in the format that `PILLION_LOG_FORMAT` names,
/// else as text. A level or a format that cannot be understood is the default with a warning. Later calls change nothing.
pub fn init(level: Option<&str>) {
    let asked =
        level.map(str::to_owned).or_else(|| env::var(VARIABLE).ok()).filter(|asked| !asked.is_empty());
    let (filter, fault) = filter(asked.as_deref());
    let (filter, handle) = reload::Layer::new(filter);
    let named = env::var(FORMAT).unwrap_or_default();
    let format = format(&named);
    let lines = fmt::layer().with_ansi(false).with_writer(std::io::stderr);
    let lines = match format.unwrap_or(Format::Text) {
        Format::Text => lines.compact().boxed(),
        Format::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    };
    let in_force = asked.clone().filter(|_| fault.is_none()).unwrap_or_else(|| DEFAULT.to_owned());
    let filters = Filter { set: Box::new(move |filter| handle.reload(filter)), asked: Mutex::new(in_force) };
    let quiet = FilterFn::new(|of: &Metadata<'_>| !is_chatter(*of.level(), of.target()));
    if tracing_subscriber::registry().with(filter).with(quiet).with(lines).try_init().is_err() {
        tracing::debug!("the log was started before");
    } else if FILTER.set(filters).is_err() {
        tracing::debug!("the log's filter was known before");
    }
    if format == Some(Format::Json) {
        // The usual hook writes text of several lines.
        std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    }
    if let (Some(fault), Some(asked)) = (fault, asked) {
        tracing::warn!(asked, fault, "log level not understood; logging at info");
    }
    if format.is_none() {
        tracing::warn!(asked = named, "{FORMAT} is neither `text` nor `json`; logging as text");
    }
}

/// `None`: there is no such format.
fn format(named: &str) -> Option<Format> {
    match named {
        "" | "text" => Some(Format::Text),
        "json" => Some(Format::Json),
        _ => None,
    }
}

/// Whether what goes to standard error beside the log must be a record of it: who reads JSON reads nothing else.
pub fn is_json() -> bool {
    FILTER.get().is_some() && env::var(FORMAT).is_ok_and(|named| format(&named) == Some(Format::Json))
}

/// The filter in force; `None` where somebody else logs.
pub fn level() -> Option<String> {
    Some(FILTER.get()?.asked.lock().clone())
}

/// From now on the log is filtered so.
pub fn set_level(asked: &str) -> Result<(), NotSet> {
    let filter = parse(asked).map_err(NotSet::Bad)?;
    let set = FILTER.get().ok_or(NotSet::NoLog)?;
    (set.set)(filter).map_err(|_gone| NotSet::NoLog)?;
    asked.clone_into(&mut set.asked.lock());
    Ok(())
}

/// Libraries warn of what a peer does, once for each time: whoever does it a million times would write a million lines.
/// It is an error to whoever called them, and told there at a bounded rate.
fn is_chatter(level: Level, target: &str) -> bool {
    const LIBRARIES: [&str; 6] = ["hickory_proto", "hickory_net", "h2", "hyper", "hyper_util", "rustls"];
    level == Level::WARN && LIBRARIES.contains(&target.split("::").next().unwrap_or_default())
}

/// Stricter than the filter's own reader, which takes a misspelt level for the name of a module, and would log
/// that alone.
fn parse(asked: &str) -> Result<Targets, String> {
    if asked.len() > LONGEST {
        return Err(format!("the level is longer than {LONGEST} bytes"));
    }
    for directive in asked.split(',') {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
        if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
            return Err(format!("`{}` is no level", level.escape_debug()));
        }
        if level.eq_ignore_ascii_case("trace") && STATIC_MAX_LEVEL < LevelFilter::TRACE {
            return Err("`trace` is not in this build: it logs `debug` at most".to_owned());
        }
    }
    let directives: Vec<String> = asked.split(',').map(own_only).collect();
    directives.join(",").parse().map_err(|error: tracing_subscriber::filter::ParseError| error.to_string())
}

/// `debug` and `trace` alone are about the sidecar. What its libraries say of every frame would bury that; it is
/// written where they are named: `debug,h2=debug`.
fn own_only(directive: &str) -> String {
    match directive.to_ascii_lowercase().as_str() {
        "debug" | "trace" => format!("pillion={directive},info"),
        _ => directive.to_owned(),
    }
}

/// The filter, and what was wrong with what was asked for.
fn filter(asked: Option<&str>) -> (Targets, Option<String>) {
    match parse(asked.unwrap_or(DEFAULT)) {
        Ok(filter) => (filter, None),
        Err(error) => (Targets::new().with_default(Level::INFO), Some(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_not_understood_logs_at_info_and_says_so() {
        let cases =
            [(None, "info", false), (Some("pillion=wat"), "info", true), (Some("warn"), "warn", false)];
        for (asked, expected, faulty) in cases {
            let (filter, fault) = filter(asked);
            assert_eq!((filter.to_string().as_str(), fault.is_some()), (expected, faulty), "{asked:?}");
        }
    }

    #[test]
    fn c7_debug_is_about_the_sidecar_and_about_libraries_where_they_are_named() {
        let filter = |asked| parse(asked).expect("a filter");
        for (asked, target, level, expected) in [
            ("debug", "pillion::dispatch", Level::DEBUG, true),
            ("DEBUG", "pillion_config::load", Level::DEBUG, true),
            ("debug", "h2::codec", Level::DEBUG, false),
            ("debug", "hyper::proto", Level::DEBUG, false),
            ("debug", "hickory_resolver::system_conf", Level::WARN, true),
            ("debug,h2=debug", "h2::codec", Level::DEBUG, true),
            ("debug,h2=debug", "hyper::proto", Level::DEBUG, false),
            ("info,pillion::tls=debug", "pillion::tls::server", Level::DEBUG, true),
            ("info,pillion::tls=debug", "pillion::dispatch", Level::DEBUG, false),
        ] {
            assert_eq!(filter(asked).would_enable(target, &level), expected, "{asked} {target} {level}");
        }
    }

    #[test]
    fn a_level_set_later_is_a_level_or_a_list_of_filters() {
        for asked in ["debug", "OFF", "info,pillion::tls=debug", "pillion=trace,off"] {
            assert!(parse(asked).is_ok(), "{asked}");
        }
        for asked in [
            "",
            "wat",
            "debugg",
            "pillion",
            "pillion=wat",
            "warn,[span]=wat",
            "info,",
            "info,=",
            &"x".repeat(2000),
        ] {
            assert!(parse(asked).is_err(), "{asked}");
        }
    }

    #[test]
    fn what_peers_write_to_the_dns_library_is_no_warning() {
        for (level, target, expected) in [
            (Level::WARN, "hickory_proto::rr::rdata::opt", true),
            (Level::WARN, "hickory_net::udp::udp_client_stream", true),
            (Level::ERROR, "hickory_net::udp::udp_client_stream", false),
            (Level::DEBUG, "hickory_proto::rr::rdata::opt", false),
            (Level::WARN, "hickory_resolver::system_conf::unix", false),
            (Level::WARN, "pillion::dns", false),
        ] {
            assert_eq!(is_chatter(level, target), expected, "{level} {target}");
        }
    }

    #[test]
    fn a13_what_a_library_warns_of_each_connection_is_not_written() {
        for (level, target, expected) in [
            (Level::WARN, "h2::proto::streams::streams", true),
            (Level::WARN, "hyper::proto::h2", true),
            (Level::WARN, "rustls::conn", true),
            (Level::ERROR, "h2", false),
            (Level::DEBUG, "h2::codec", false),
            (Level::WARN, "h2_like", false),
            (Level::WARN, "pillion_sidecar::http::h2_server", false),
        ] {
            assert_eq!(is_chatter(level, target), expected, "{level} {target}");
        }
    }

    #[test]
    fn a_format_is_text_or_json() {
        for (named, expected) in [
            ("", Some(Format::Text)),
            ("text", Some(Format::Text)),
            ("json", Some(Format::Json)),
            ("JSON", None),
            ("logfmt", None),
        ] {
            assert_eq!(format(named), expected, "{named:?}");
        }
    }

    #[test]
    fn it_may_be_started_twice() {
        init(Some("warn"));
        init(Some("nonsense=x"));
    }
}
