//! The sidecar's diagnostics on standard error, one record on each line, as text or as JSON.

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

/// The variable with a level or filter directives, such as `debug`, `pillion::tls=debug,info` or `debug,h2=debug`.
const VARIABLE: &str = "PILLION_LOG";
/// The variable with the format: `text` or `json`.
const FORMAT: &str = "PILLION_LOG_FORMAT";
/// Shows changes, and what needs an operator. Single requests are in the access log.
const DEFAULT: &str = "info";
/// The most bytes of a filter. No operator writes a longer one.
const LONGEST: usize = 1024;

const LEVELS: [&str; 6] = ["trace", "debug", "info", "warn", "error", "off"];

/// The filter of this process's log. It is empty as long as the log has not been started.
///
/// A filter costs nothing where nothing is logged: tracing asks the filter once for each call site, stores the answer,
/// and asks again after the filter changes.
static FILTER: OnceLock<Filter> = OnceLock::new();

struct Filter {
    set: Box<dyn Fn(Targets) -> Result<(), reload::Error> + Send + Sync>,
    /// The filter as the operator wrote it.
    asked: Mutex<String>,
}

/// The format of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Text,
    /// One object on each line, even if the message has several lines. The fields of an event are beside `message`.
    Json,
}

/// Why the filter was not changed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSet {
    #[error("{0}")]
    Bad(String),
    #[error("this process has not started its log")]
    NoLog,
}

/// Starts the log. The level is `level`, else that of `PILLION_LOG`, else `info`; the format is that of
/// `PILLION_LOG_FORMAT`, else text. A level or format that is not valid gives a warning, and the default is used. Later
/// calls change nothing.
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
    let quiet = FilterFn::new(|of: &Metadata<'_>| !is_library_warning(*of.level(), of.target()));
    if tracing_subscriber::registry().with(filter).with(quiet).with(lines).try_init().is_err() {
        tracing::debug!("the log had been started before");
    } else if FILTER.set(filters).is_err() {
        tracing::debug!("the filter of the log had been set before");
    }
    if format == Some(Format::Json) {
        // the default hook writes text of several lines, which is not a JSON record
        std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    }
    if let (Some(fault), Some(asked)) = (fault, asked) {
        tracing::warn!(asked, fault, "log level is not valid; logging at info");
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

/// Whether the log is JSON. Then everything else on standard error must be a record too, because its reader expects
/// JSON only.
pub fn is_json() -> bool {
    FILTER.get().is_some() && env::var(FORMAT).is_ok_and(|named| format(&named) == Some(Format::Json))
}

/// The current filter. `None` if this process has not started the log.
pub fn level() -> Option<String> {
    Some(FILTER.get()?.asked.lock().clone())
}

/// Replaces the filter of the log.
pub fn set_level(asked: &str) -> Result<(), NotSet> {
    let filter = parse(asked).map_err(NotSet::Bad)?;
    let set = FILTER.get().ok_or(NotSet::NoLog)?;
    (set.set)(filter).map_err(|_gone| NotSet::NoLog)?;
    asked.clone_into(&mut set.asked.lock());
    Ok(())
}

/// Whether the record is a warning of a library about a peer. Libraries log each such event, so a peer could cause a
/// million lines. The caller of the library gets the event as an error and logs it at a bounded rate.
fn is_library_warning(level: Level, target: &str) -> bool {
    const LIBRARIES: [&str; 6] = ["hickory_proto", "hickory_net", "h2", "hyper", "hyper_util", "rustls"];
    level == Level::WARN && LIBRARIES.contains(&target.split("::").next().unwrap_or_default())
}

/// Parses a filter more strictly than tracing's own parser, which would read a misspelt level as the name of a module
/// and log that module only.
fn parse(asked: &str) -> Result<Targets, String> {
    if asked.len() > LONGEST {
        return Err(format!("the level is longer than {LONGEST} bytes"));
    }
    for directive in asked.split(',') {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
        if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
            return Err(format!("`{}` is not a level", level.escape_debug()));
        }
        if level.eq_ignore_ascii_case("trace") && STATIC_MAX_LEVEL < LevelFilter::TRACE {
            return Err("`trace` is not in this build, whose most detailed level is `debug`".to_owned());
        }
    }
    let directives: Vec<String> = asked.split(',').map(own_only).collect();
    directives.join(",").parse().map_err(|error: tracing_subscriber::filter::ParseError| error.to_string())
}

/// Makes `debug` and `trace` without a target apply to the sidecar only. Records of its libraries about every frame
/// would hide the others; they are written if a directive names the library: `debug,h2=debug`.
fn own_only(directive: &str) -> String {
    match directive.to_ascii_lowercase().as_str() {
        "debug" | "trace" => format!("pillion={directive},info"),
        _ => directive.to_owned(),
    }
}

/// The filter, and the fault of the requested one if it is not valid.
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
    fn an_invalid_level_gives_a_fault_and_the_default_info() {
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
    fn a_later_level_may_be_a_level_or_a_list_of_filters() {
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
    fn warnings_of_the_dns_library_about_peers_are_not_logged() {
        for (level, target, expected) in [
            (Level::WARN, "hickory_proto::rr::rdata::opt", true),
            (Level::WARN, "hickory_net::udp::udp_client_stream", true),
            (Level::ERROR, "hickory_net::udp::udp_client_stream", false),
            (Level::DEBUG, "hickory_proto::rr::rdata::opt", false),
            (Level::WARN, "hickory_resolver::system_conf::unix", false),
            (Level::WARN, "pillion::dns", false),
        ] {
            assert_eq!(is_library_warning(level, target), expected, "{level} {target}");
        }
    }

    #[test]
    fn a13_warnings_of_libraries_about_single_connections_are_not_logged() {
        for (level, target, expected) in [
            (Level::WARN, "h2::proto::streams::streams", true),
            (Level::WARN, "hyper::proto::h2", true),
            (Level::WARN, "rustls::conn", true),
            (Level::ERROR, "h2", false),
            (Level::DEBUG, "h2::codec", false),
            (Level::WARN, "h2_like", false),
            (Level::WARN, "pillion_sidecar::http::h2_server", false),
        ] {
            assert_eq!(is_library_warning(level, target), expected, "{level} {target}");
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
    fn the_log_may_be_started_twice() {
        init(Some("warn"));
        init(Some("nonsense=x"));
    }
}
