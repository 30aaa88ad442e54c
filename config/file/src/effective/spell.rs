//! Values as the file spells them.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::words::{CONDITIONS, Choice, GRPC};
use pillion_model::policy::RetryCondition;

/// `1h`, `1m30s` as `90s`, `250ms`: the largest unit that leaves no rest.
pub(super) fn duration(time: Duration) -> Value {
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

pub(super) fn or_off<T>(value: Option<T>, spell: impl FnOnce(T) -> Value) -> Value {
    value.map_or_else(|| "off".into(), spell)
}

/// `64KiB`, or plain bytes.
pub(super) fn size(bytes: u64) -> Value {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.into_iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", bytes / unit).into(),
        None => bytes.into(),
    }
}

/// `20%`; millionths of a percent are noise of floating point.
pub(super) fn share(share: f64) -> Value {
    format!("{}%", (share * 1e8).round() / 1e6).into()
}

pub(super) fn path(path: &Path) -> Value {
    path.display().to_string().into()
}

/// The word of a choice.
pub(super) fn word<T: Choice + PartialEq>(chosen: &T) -> Value {
    T::WORDS.iter().find(|(_, meant)| meant == chosen).map_or(Value::Null, |(word, _)| (*word).into())
}

pub(super) fn condition(condition: RetryCondition) -> Value {
    match condition {
        RetryCondition::Status(status) => status.into(),
        RetryCondition::Grpc(number) => GRPC
            .iter()
            .find(|(_, grpc)| *grpc == number)
            .map_or_else(|| number.into(), |(name, _)| (*name).into()),
        named => CONDITIONS
            .iter()
            .find(|(_, meant)| *meant == named)
            .map_or(Value::Null, |(name, _)| (*name).into()),
    }
}
