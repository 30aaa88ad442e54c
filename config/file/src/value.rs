//! Small words of the file, parsed and checked: durations, sizes, shares, counts, on and off.
//!
//! Every leaf of the file is read as its text and never as YAML's number or boolean. So `1.10`, `0x10` and `off` mean
//! what they look like, with or without quotes.

use std::num::NonZeroUsize;
use std::time::Duration;

use pillion_model::listener::MaxMemory;
use pillion_model::policy::{Adaptive, HedgeAfter, IdleTimeout, Timeout};
use serde_json::Value;

use crate::schema::{Described, any_of, defined};
use crate::spell;

use pillion_model::text::shortened;

/// A leaf of the file, parsed from its text.
pub(crate) trait Word: Sized {
    /// For messages: "must be {EXPECTED}, not a list".
    const EXPECTED: &'static str;

    fn parse(text: &str) -> Result<Self, BadWord>;
}

/// A word that a key may hold: its value in the model, and its spelling in the file.
pub(crate) trait Leaf: Word + Described {
    type Value;

    fn value(self) -> Self::Value;

    fn spell(value: &Self::Value) -> Value;
}

/// Implements [`Leaf`] for types that are the same in the model.
macro_rules! leaves {
    ($($word:ty: $spell:expr),* $(,)?) => {$(
        impl crate::value::Leaf for $word {
            type Value = Self;

            fn value(self) -> Self {
                self
            }

            fn spell(value: &Self) -> serde_json::Value {
                let spell: fn(&Self) -> serde_json::Value = $spell;
                spell(value)
            }
        }
    )*};
}
pub(crate) use leaves;

/// Implements [`Leaf`] for types that wrap a value of the model.
macro_rules! wrapped_leaves {
    ($($word:ident: $value:ty, $spell:expr);* $(;)?) => {$(
        impl crate::value::Leaf for $word {
            type Value = $value;

            fn value(self) -> $value {
                self.0
            }

            fn spell(value: &$value) -> serde_json::Value {
                let spell: fn(&$value) -> serde_json::Value = $spell;
                spell(value)
            }
        }
    )*};
}
pub(crate) use wrapped_leaves;

/// Why a text is not a valid word for its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadWord {
    /// A predicate that is read after the key: "is `5 m`, which is not a duration".
    pub(crate) what: String,
    pub(crate) help: Option<String>,
    /// Whether messages must not quote the value.
    pub(crate) is_secret: bool,
}

impl BadWord {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), help: None, is_secret: false }
    }

    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// Adds help where there is none.
    pub(crate) fn or_help(self, help: &str) -> Self {
        Self { help: self.help.or_else(|| Some(help.to_owned())), ..self }
    }

    pub(crate) fn secret(self) -> Self {
        Self { is_secret: true, ..self }
    }

    /// The usual message. For `on` and `true` it has help about YAML 1.1.
    pub(crate) fn not(text: &str, expected: &str) -> Self {
        let bad = Self::new(format!("is `{}`, which is not {expected}", shortened(text)));
        match on_off(text) {
            Some(true) => Self::new(format!("is `{text}` where only {expected} makes sense")).help(YAML_1_1),
            _ => bad,
        }
    }

    pub(crate) fn not_yet(text: &str) -> Self {
        Self::new(format!("is `{}`, which is not supported yet", shortened(text)))
    }
}

pub(crate) const YAML_1_1: &str = "YAML 1.1 tools turn a bare on into true and off into false; write the value itself, quoted if a tool rewrites the file";

/// The words for on and off, each in the three spellings of YAML.
pub(crate) fn on_off(text: &str) -> Option<bool> {
    match text {
        "on" | "On" | "ON" | "true" | "True" | "TRUE" => Some(true),
        "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// `off` or a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OffOr<T> {
    Off,
    Set(T),
}

impl<T> OffOr<T> {
    fn set(self) -> Option<T> {
        match self {
            Self::Off => None,
            Self::Set(value) => Some(value),
        }
    }
}

impl<T: Leaf> Leaf for OffOr<T> {
    type Value = Option<T::Value>;

    fn value(self) -> Self::Value {
        self.set().map(T::value)
    }

    fn spell(value: &Self::Value) -> Value {
        value.as_ref().map_or_else(|| "off".into(), T::spell)
    }
}

impl<T: Word> Word for OffOr<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn parse(text: &str) -> Result<Self, BadWord> {
        match on_off(text) {
            Some(false) => Ok(Self::Off),
            Some(true) => Err(BadWord::not(text, &format!("`off` or {}", T::EXPECTED))),
            None => T::parse(text).map(Self::Set),
        }
    }
}

/// `auto` or a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AutoOr<T>(pub(crate) Option<T>);

impl<T: Leaf> Leaf for AutoOr<T> {
    type Value = Option<T::Value>;

    fn value(self) -> Self::Value {
        self.0.map(T::value)
    }

    fn spell(value: &Self::Value) -> Value {
        value.as_ref().map_or_else(|| "auto".into(), T::spell)
    }
}

/// A value that is optional in the model. No word stands for its absence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opt<T>(T);

impl<T: Word> Word for Opt<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn parse(text: &str) -> Result<Self, BadWord> {
        T::parse(text).map(Self)
    }
}

impl<T: Leaf> Leaf for Opt<T> {
    type Value = Option<T::Value>;

    fn value(self) -> Self::Value {
        Some(self.0.value())
    }

    fn spell(value: &Self::Value) -> Value {
        value.as_ref().map_or(Value::Null, T::spell)
    }
}

impl<T: Word> Word for AutoOr<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn parse(text: &str) -> Result<Self, BadWord> {
        match text {
            "auto" => Ok(Self(None)),
            _ => T::parse(text).map(|value| Self(Some(value))),
        }
    }
}

/// A year: no timer of a proxy needs more, and deadlines computed from it never overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// `250ms`, `15s`, `1m30s`, `1.5h`: more than zero, at most a year.
impl Word for Duration {
    const EXPECTED: &'static str = "a duration (250ms, 15s, 1h)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        let bad = || BadWord::not(text, "a duration").help(duration_help(text));
        let seconds = sum_of_parts(text).ok_or_else(bad)?;
        // rounded to whole microseconds, which a float still counts exactly within a year
        match Self::try_from_secs_f64(seconds).map(|_| Self::from_micros((seconds * 1e6).round() as u64)) {
            Ok(zero) if zero.is_zero() => Err(BadWord::new("is zero")
                .help("a duration is more than zero; where a key may be off, write off")),
            Ok(length) if length <= LONGEST => Ok(length),
            _ => Err(BadWord::new(format!("is `{}`, longer than a year", shortened(text)))),
        }
    }
}

/// A duration as the file spells it, such as `250ms`; above zero.
pub fn duration(text: &str) -> Option<Duration> {
    Duration::parse(text).ok()
}

/// A duration that may be zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pause(pub(crate) Duration);

impl Word for Pause {
    const EXPECTED: &'static str = Duration::EXPECTED;

    fn parse(text: &str) -> Result<Self, BadWord> {
        match sum_of_parts(text) {
            Some(0.0) => Ok(Self(Duration::ZERO)),
            _ => Duration::parse(text).map(Self),
        }
    }
}

/// A pause that may be `off`, which means zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delay(Duration);

impl Word for Delay {
    const EXPECTED: &'static str = Duration::EXPECTED;

    fn parse(text: &str) -> Result<Self, BadWord> {
        OffOr::<Pause>::parse(text)
            .map(|delay| Self(delay.set().map_or(Duration::ZERO, |Pause(delay)| delay)))
    }
}

impl Word for Timeout {
    const EXPECTED: &'static str = Duration::EXPECTED;

    fn parse(text: &str) -> Result<Self, BadWord> {
        OffOr::parse(text).map(|written| written.set().map_or(Self::Off, Self::Set))
    }
}

impl Word for Adaptive {
    const EXPECTED: &'static str = "gradient";

    fn parse(text: &str) -> Result<Self, BadWord> {
        match text {
            "gradient" => Ok(Self::Gradient),
            _ => Err(BadWord::not(text, "`off` or gradient")),
        }
    }
}

impl Word for HedgeAfter {
    const EXPECTED: &'static str = "a duration (200ms) or p95";

    fn parse(text: &str) -> Result<Self, BadWord> {
        match text {
            "p95" => Ok(Self::P95),
            _ => Duration::parse(text).map(Self::Time).map_err(|_bad| BadWord::not(text, Self::EXPECTED)),
        }
    }
}

impl Word for IdleTimeout {
    const EXPECTED: &'static str = Duration::EXPECTED;

    fn parse(text: &str) -> Result<Self, BadWord> {
        OffOr::parse(text).map(|written| written.set().map_or(Self::Off, Self::Set))
    }
}

impl Word for MaxMemory {
    const EXPECTED: &'static str = Size::EXPECTED;

    fn parse(text: &str) -> Result<Self, BadWord> {
        OffOr::<AutoOr<Size>>::parse(text).map(|written| match written {
            OffOr::Off => Self::Off,
            OffOr::Set(AutoOr(None)) => Self::Auto,
            OffOr::Set(AutoOr(Some(Size(bytes)))) => Self::Bytes(bytes),
        })
    }
}

leaves!(
    MaxMemory: |max| match max {
        Self::Auto => "auto".into(),
        Self::Off => "off".into(),
        Self::Bytes(bytes) => spell::size(*bytes),
    },
    Duration: |time| spell::duration(*time),
    Timeout: |timeout| OffOr::<Duration>::spell(&timeout.bound()),
    IdleTimeout: |timeout| spell::idle(*timeout),
    Adaptive: |adaptive| match adaptive {
        Self::Gradient => "gradient".into(),
    },
    HedgeAfter: |after| match after {
        Self::Time(time) => spell::duration(*time),
        Self::P95 => "p95".into(),
    },
    bool: |on| if *on { "on".into() } else { "off".into() },
);
wrapped_leaves!(
    Delay: Duration, |delay| spell::duration(*delay);
    Size: u64, |bytes| spell::size(*bytes);
    Share: f64, |share| spell::share(*share);
    Port: u16, |port| (*port).into();
    Text: String, |text| text.as_str().into();
);

fn duration_help(text: &str) -> String {
    match text.trim().parse::<f64>() {
        Ok(_) => format!("a duration has a unit: {0}s or {0}ms", text.trim()),
        Err(_) => "write it like 250ms, 15s, 1m30s or 1h".to_owned(),
    }
}

/// The sum in seconds. `None` for anything but one or more numbers with their units.
fn sum_of_parts(text: &str) -> Option<f64> {
    let mut rest = text;
    let mut sum = 0.0;
    while !rest.is_empty() {
        let (number, after) = leading_number(rest)?;
        let unit_end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        sum += number * seconds_in(unit)?;
        rest = after;
    }
    (!text.is_empty()).then_some(sum)
}

fn seconds_in(unit: &str) -> Option<f64> {
    Some(match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return None,
    })
}

/// Digits with at most one point between them, and the rest of the text. No sign, no exponent.
fn leading_number(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let whole = digits.starts_with(|c: char| c.is_ascii_digit()) && !digits.ends_with('.');
    whole.then_some(digits)?.parse().ok().map(|number| (number, rest))
}

/// A number of bytes: `65536`, `64KiB`, `1.5MiB`, `10MB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(crate) struct Size(pub(crate) u64);

impl Word for Size {
    const EXPECTED: &'static str = "a size (64KiB, 10MiB, or bytes)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        let bad = || BadWord::not(text, "a size").help("write it like 64KiB, 10MiB, or as plain bytes");
        let (number, unit) = leading_number(text).ok_or_else(bad)?;
        let bytes = number * bytes_in(unit).ok_or_else(bad)?;
        // above 2^53 a float no longer counts single bytes, and no body is 8 PiB long
        if bytes.fract() == 0.0 && bytes <= 9_007_199_254_740_992.0 {
            Ok(Self(bytes as u64))
        } else {
            Err(bad())
        }
    }
}

/// A size in the integer type of the model. A larger number becomes the largest of that type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bytes<T>(T);

macro_rules! counted_with {
    ($($type:ty),*) => {$(
        impl Word for Bytes<$type> {
            const EXPECTED: &'static str = Size::EXPECTED;

            fn parse(text: &str) -> Result<Self, BadWord> {
                Size::parse(text).map(|Size(bytes)| Self(bytes.try_into().unwrap_or(<$type>::MAX)))
            }
        }

        impl Leaf for Bytes<$type> {
            type Value = $type;

            fn value(self) -> $type {
                self.0
            }

            fn spell(bytes: &$type) -> Value {
                spell::size((*bytes).try_into().unwrap_or(u64::MAX))
            }
        }
    )*};
}
counted_with!(u32, usize);

fn bytes_in(unit: &str) -> Option<f64> {
    Some(match unit {
        "" | "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    })
}

/// A share: `20%` is 0.2. From 0 % to 100 %.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub(crate) struct Share(pub(crate) f64);

impl Word for Share {
    const EXPECTED: &'static str = "a share (20%)";

    fn parse(text: &str) -> Result<Self, BadWord> {
        let bad = || BadWord::not(text, "a share").help("write it like 20%, from 0% to 100%");
        let (percent, "%") = leading_number(text).ok_or_else(bad)? else { return Err(bad()) };
        if percent <= 100.0 { Ok(Self(percent / 100.0)) } else { Err(bad()) }
    }
}

/// A whole number from `LEAST` to `MOST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count<const LEAST: u32, const MOST: u32>(pub(crate) u32);

impl<const LEAST: u32, const MOST: u32> Word for Count<LEAST, MOST> {
    const EXPECTED: &'static str = "a whole number";

    fn parse(text: &str) -> Result<Self, BadWord> {
        match whole(text) {
            None => Err(BadWord::not(text, Self::EXPECTED)),
            Some(n) => {
                u32::try_from(n).ok().filter(|n| (LEAST..=MOST).contains(n)).map(Self).ok_or_else(|| {
                    BadWord::new(format!("is {n}, out of range")).help(format!("from {LEAST} to {MOST}"))
                })
            }
        }
    }
}

/// From 1 to 4,294,967,295.
pub(crate) type Positive = Count<1, { u32::MAX }>;

impl<const LEAST: u32, const MOST: u32> Leaf for Count<LEAST, MOST> {
    type Value = u32;

    fn value(self) -> u32 {
        self.0
    }

    fn spell(count: &u32) -> Value {
        (*count).into()
    }
}

/// A number of threads, from 1 to 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Threads(NonZeroUsize);

impl Word for Threads {
    const EXPECTED: &'static str = Count::<1, 1024>::EXPECTED;

    fn parse(text: &str) -> Result<Self, BadWord> {
        let Count(count) = Count::<1, 1024>::parse(text)?;
        Ok(Self(NonZeroUsize::new(count as usize).unwrap_or(NonZeroUsize::MIN)))
    }
}

wrapped_leaves!(Threads: NonZeroUsize, |threads| threads.get().into());

/// A number of digits only and without leading zeros: `007` was probably meant as something else.
pub(crate) fn whole(text: &str) -> Option<u64> {
    let canonical = text == "0" || !text.starts_with('0');
    (canonical && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// A port to listen on, from 1 to 65535. As a key of a map it may be quoted or not (`3306:`, `"3306":`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Port(pub(crate) u16);

impl Word for Port {
    const EXPECTED: &'static str = "a port";

    fn parse(text: &str) -> Result<Self, BadWord> {
        whole(text)
            .and_then(|n| u16::try_from(n).ok())
            .filter(|port| *port != 0)
            .map(Self)
            .ok_or_else(|| BadWord::not(text, "a port").help("from 1 to 65535"))
    }
}

impl Word for bool {
    const EXPECTED: &'static str = "on or off";

    fn parse(text: &str) -> Result<Self, BadWord> {
        on_off(text).ok_or_else(|| BadWord::not(text, "on or off"))
    }
}

/// Any text but an empty one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text(pub(crate) String);

impl Word for Text {
    const EXPECTED: &'static str = "a text";

    fn parse(text: &str) -> Result<Self, BadWord> {
        if text.is_empty() { Err(BadWord::new("is empty")) } else { Ok(Self(text.to_owned())) }
    }
}

impl<T: Described> Described for OffOr<T> {
    fn described() -> Option<Value> {
        any_of([defined("off"), T::described()])
    }
}

impl<T: Described> Described for AutoOr<T> {
    fn described() -> Option<Value> {
        any_of([Some(serde_json::json!({ "enum": ["auto"] })), T::described()])
    }
}

impl<T: Described> Described for Opt<T> {
    fn described() -> Option<Value> {
        T::described()
    }
}

#[cfg(test)]
mod tests;
