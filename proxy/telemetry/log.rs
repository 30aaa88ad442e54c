//! The sidecar's own log: diagnostics on standard error, one line each.

use std::env;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// Level or filter directives, such as `debug` or `pillion::tls=debug,info`.
const VARIABLE: &str = "PILLION_LOG";
/// What changed and what will need a human; single requests stand in the access log.
const DEFAULT: &str = "info";

/// Starts the log: at `level`, else as `PILLION_LOG` says, else at `info`. A level that cannot be understood is
/// `info` with a warning. Later calls change nothing.
pub fn init(level: Option<&str>) {
    let asked =
        level.map(str::to_owned).or_else(|| env::var(VARIABLE).ok()).filter(|asked| !asked.is_empty());
    let (filter, fault) = filter(asked.as_deref());
    let log = tracing_subscriber::fmt()
        .compact()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .with_env_filter(filter)
        .finish();
    if log.try_init().is_err() {
        tracing::debug!("the log was started before");
    }
    if let (Some(fault), Some(asked)) = (fault, asked) {
        tracing::warn!(asked, fault, "log level not understood; logging at info");
    }
}

/// The filter, and what was wrong with what was asked for.
fn filter(asked: Option<&str>) -> (EnvFilter, Option<String>) {
    match EnvFilter::try_new(asked.unwrap_or(DEFAULT)) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(DEFAULT), Some(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_not_understood_logs_at_info_and_says_so() {
        let cases =
            [(None, "info", false), (Some("pillion=wat"), "info", true), (Some("debug"), "debug", false)];
        for (asked, expected, faulty) in cases {
            let (filter, fault) = filter(asked);
            assert_eq!((filter.to_string().as_str(), fault.is_some()), (expected, faulty), "{asked:?}");
        }
    }

    #[test]
    fn it_may_be_started_twice() {
        init(Some("warn"));
        init(Some("nonsense=x"));
    }
}
