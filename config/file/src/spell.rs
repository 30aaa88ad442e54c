//! Spells values as the file would.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use pillion_model::policy::IdleTimeout;

/// Spells a time in the largest unit that divides it: `1h`, `90s` for `1m30s`, `250ms`.
pub(crate) fn duration(time: Duration) -> Value {
    let units = [("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000)];
    let nanos = time.as_nanos();
    let whole = units.into_iter().find(|(_, unit)| nanos > 0 && nanos.is_multiple_of(*unit));
    match whole {
        Some((name, unit)) => format!("{}{name}", nanos / unit),
        None if nanos == 0 => "0s".to_owned(),
        None => format!("{}us", nanos as f64 / 1e3),
    }
    .into()
}

/// One key applies to bodies and to tunnels, but without it their defaults differ.
pub(crate) fn idle(timeout: IdleTimeout) -> Value {
    match timeout {
        IdleTimeout::Off => "off".into(),
        IdleTimeout::Set(time) => duration(time),
        IdleTimeout::Default => {
            let [body, tunnel] = [IdleTimeout::BODY, IdleTimeout::TUNNEL].map(duration);
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            format!("{} ({} for TCP, upgrades and CONNECT)", text(&body), text(&tunnel)).into()
        }
    }
}

/// Spells a size as `64KiB`, or as plain bytes.
pub(crate) fn size(bytes: u64) -> Value {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.into_iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", bytes / unit).into(),
        None => bytes.into(),
    }
}

/// Spells a share as `20%`. It is rounded to millionths of a percent, as smaller parts are errors of floating point.
pub(crate) fn share(share: f64) -> Value {
    format!("{}%", (share * 1e8).round() / 1e6).into()
}

pub(crate) fn path(path: &Path) -> Value {
    path.display().to_string().into()
}
