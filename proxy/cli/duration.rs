//! Durations as arguments: a number and a unit.

use std::time::Duration;

/// A unit with its length.
pub(super) type Unit = (&'static str, Duration);

pub(super) const MILLISECOND: Unit = ("ms", Duration::from_millis(1));
pub(super) const SECOND: Unit = ("s", Duration::from_secs(1));
pub(super) const MINUTE: Unit = ("m", Duration::from_secs(60));
pub(super) const HOUR: Unit = ("h", Duration::from_secs(3600));
pub(super) const DAY: Unit = ("d", Duration::from_secs(86_400));

/// `None`: the text is not a whole number with one of these units, or it is zero or too large.
pub(super) fn duration(text: &str, units: &[Unit]) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, one) = units.iter().find(|(name, _)| *name == unit)?;
    let number: u64 = number.parse().ok()?;
    let milliseconds = number.checked_mul(u64::try_from(one.as_millis()).ok()?)?;
    (milliseconds > 0).then(|| Duration::from_millis(milliseconds))
}
