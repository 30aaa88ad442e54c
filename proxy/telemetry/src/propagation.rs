//! The headers by which programs tell each other of a trace: W3C Trace Context and Zipkin's B3. They are read strictly,
//! and written.
//!
//! Pure: random numbers arrive as an argument. `pillion_sidecar::traces` finds the headers in a head.

use std::fmt;
use std::num::NonZeroU64;

use pillion_model::tracing::Propagation;

/// The ID of a trace, 16 bytes, in two halves. It is never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u64; 2]);

/// The ID of a span within its trace. It is never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(NonZeroU64);

/// What the caller of a request has told of its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The trace, and the caller's span in it. `None`: the caller has told its decision alone, as B3 allows.
    pub of: Option<(TraceId, SpanId)>,
    /// Whether the trace is recorded. `None`: that is not decided yet.
    pub is_sampled: Option<bool>,
    /// B3's debug flag: the trace is recorded whatever samplers say.
    is_debug: bool,
    /// W3C's second flag: the last 56 bits of the trace's ID are random.
    is_random: bool,
    /// `traceparent` is as this sidecar writes it: the version 00, and no flags but the two that are known.
    is_current: bool,
}

/// The trace of one request, and the span of this sidecar in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    pub trace: TraceId,
    /// The span of the whole request.
    pub span: SpanId,
    /// The caller's span.
    pub parent: Option<SpanId>,
    /// The headers that are written.
    pub formats: Formats,
    pub is_sampled: bool,
    is_debug: bool,
    is_random: bool,
    /// The caller's `traceparent` goes on as it is. The trace is not recorded, so there is no span of this sidecar that an
    /// ID in it could name.
    pub keeps_parent: bool,
}

/// Which headers are read and written: a set of the three below.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Formats(u8);

/// Decides by the ID which traces are recorded, so that all sidecars with the same share decide alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampler {
    /// The last 56 bits of the ID, which are random by the W3C's standard, are below it.
    below: u64,
}

impl Formats {
    pub const W3C: Self = Self(1);
    pub const B3: Self = Self(1 << 1);
    pub const B3_MULTI: Self = Self(1 << 2);

    pub fn of(all: &[Propagation]) -> Self {
        let bits = all.iter().map(|of| match of {
            Propagation::W3c => Self::W3C,
            Propagation::B3 => Self::B3,
            Propagation::B3Multi => Self::B3_MULTI,
        });
        Self(bits.fold(0, |all, Self(bit)| all | bit))
    }

    /// Whether any of `these` is in the set.
    pub const fn has(self, these: Self) -> bool {
        self.0 & these.0 != 0
    }

    /// Whether any of Zipkin's headers is used. Both forms are read then, and none of a caller is left in the request.
    pub const fn has_b3(self) -> bool {
        self.has(Self(Self::B3.0 | Self::B3_MULTI.0))
    }

    /// The set as a number, by which workers share it.
    pub const fn bits(self) -> u8 {
        self.0
    }

    pub const fn of_bits(bits: u8) -> Self {
        Self(bits)
    }
}

impl Sampler {
    /// 56 bits.
    const RANGE: u64 = 1 << 56;

    pub fn of(share: f64) -> Self {
        Self { below: if share < 1.0 { (share * Self::RANGE as f64) as u64 } else { Self::RANGE } }
    }

    pub const fn takes(self, trace: TraceId) -> bool {
        let TraceId([_, low]) = trace;
        low % Self::RANGE < self.below
    }

    /// The sampler as a number, by which workers share it.
    pub const fn bits(self) -> u64 {
        self.below
    }

    pub const fn of_bits(below: u64) -> Self {
        Self { below }
    }
}

impl TraceContext {
    /// Goes on with the trace of the caller, or begins one. The decision is the caller's where the caller has made one.
    pub fn begin(
        caller: Option<Caller>,
        sampler: Sampler,
        formats: Formats,
        mut draw: impl FnMut() -> u64,
    ) -> Self {
        let Some(Caller { of: Some((trace, parent)), is_sampled, is_debug, is_random, is_current }) = caller
        else {
            let [high, low] = [draw(), draw() | 1 << 63];
            let trace = TraceId([high, low]);
            let decided = caller.and_then(|caller| caller.is_sampled);
            return Self {
                trace,
                span: SpanId::mixed(high),
                parent: None,
                formats,
                is_sampled: decided.unwrap_or_else(|| sampler.takes(trace)),
                is_debug: caller.is_some_and(|caller| caller.is_debug),
                is_random: true,
                keeps_parent: false,
            };
        };
        let is_sampled = is_sampled.unwrap_or_else(|| sampler.takes(trace));
        let keeps_parent = is_current && !is_sampled && formats == Formats::W3C;
        let span = if keeps_parent { parent } else { SpanId::mixed(draw()) };
        Self { trace, span, parent: Some(parent), formats, is_sampled, is_debug, is_random, keeps_parent }
    }

    /// The context of a copy of the request, whose span is inside the one of this request.
    #[must_use]
    pub fn beside(&self, drawn: u64) -> Self {
        Self { span: SpanId::mixed(drawn), parent: Some(self.span), ..*self }
    }

    /// The span of the attempt with this number. It is derived, so that nothing is kept for each attempt.
    pub fn attempt(&self, number: u32) -> SpanId {
        /// The fractional part of the golden ratio: numbers in a row become far apart.
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        SpanId::mixed(self.span.0.get().wrapping_add(STEP.wrapping_mul(u64::from(number) + 1)))
    }

    /// `traceparent` for the next hop.
    pub fn traceparent(&self, span: SpanId) -> [u8; 55] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        let [high, low] = self.trace.0;
        for (at, number) in [(3, high), (19, low), (36, span.0.get())] {
            if let Some(place) = text.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
                *place = hex(number);
            }
        }
        if let Some(last) = text.last_mut() {
            *last += self.flags();
        }
        text
    }

    /// W3C's flags of the trace. Others than these two are not known, and are not passed on.
    pub const fn flags(&self) -> u8 {
        (self.is_sampled as u8 * SAMPLED) | (self.is_random as u8 * RANDOM)
    }

    /// `b3` for the next hop.
    pub fn b3(&self, span: SpanId) -> String {
        format!("{}-{span}-{}", self.trace, self.b3_decision())
    }

    /// The names and values of B3's older headers for the next hop.
    pub fn b3_multi(&self, span: SpanId) -> impl Iterator<Item = (&'static str, String)> {
        let decision = match self.b3_decision() {
            "d" => (B3_FLAGS, "1"),
            decision => (B3_SAMPLED, decision),
        };
        let ids = [(B3_TRACE, self.trace.to_string()), (B3_SPAN, span.to_string())];
        let parent = [(B3_PARENT, self.span.to_string()), (decision.0, decision.1.to_owned())];
        ids.into_iter().chain(parent)
    }

    const fn b3_decision(&self) -> &'static str {
        match (self.is_sampled, self.is_debug) {
            (true, true) => "d",
            (true, false) => "1",
            (false, _) => "0",
        }
    }
}

/// W3C's flag of a trace that is recorded.
const SAMPLED: u8 = 1;
/// W3C's flag of a trace whose ID ends with 56 random bits (Trace Context, level 2). It goes on as the caller has set it.
const RANDOM: u8 = 2;

pub const B3: &str = "b3";
pub const B3_TRACE: &str = "x-b3-traceid";
pub const B3_SPAN: &str = "x-b3-spanid";
pub const B3_PARENT: &str = "x-b3-parentspanid";
pub const B3_SAMPLED: &str = "x-b3-sampled";
pub const B3_FLAGS: &str = "x-b3-flags";

/// Whether a field with this name is one of Zipkin's, in any case.
pub fn is_b3(name: &[u8]) -> bool {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    match name.len() {
        2 => is(B3),
        10 => is(B3_FLAGS),
        11 => is(B3_SPAN),
        12 => is(B3_TRACE) || is(B3_SAMPLED),
        17 => is(B3_PARENT),
        _ => false,
    }
}

/// Reads `traceparent` (W3C Trace Context, 3.2). Later versions are read by the fields of version 00, as it demands.
pub fn traceparent(value: &[u8]) -> Option<Caller> {
    let (text, rest) = value.split_first_chunk::<55>()?;
    let (version, [trace_at @ .., b'-'], span_at, [b'-', flags @ ..]) = fields(text)? else { return None };
    let version = byte_of_hex(version)?;
    match (version, rest) {
        (0xff, _) | (0, [_, ..]) => return None,
        (_, []) | (_, [b'-', ..]) => {}
        _ => return None,
    }
    let of = (TraceId::parsed(trace_at)?, SpanId::parsed(span_at)?);
    let flags = byte_of_hex(flags)?;
    Some(Caller {
        of: Some(of),
        is_sampled: Some(flags & SAMPLED != 0),
        is_debug: false,
        is_random: flags & RANDOM != 0,
        is_current: version == 0 && flags & !(SAMPLED | RANDOM) == 0,
    })
}

type ParentFields<'a> = (&'a [u8; 2], &'a [u8; 33], &'a [u8; 16], &'a [u8; 3]);

/// `VERSION-TRACE-SPAN-FLAGS`: the parts, of which the second has a dash behind it, and the last one before it.
fn fields(text: &[u8; 55]) -> Option<ParentFields<'_>> {
    let (version, rest) = text.split_first_chunk::<2>()?;
    let rest = rest.strip_prefix(b"-")?;
    let (trace, rest) = rest.split_first_chunk::<33>()?;
    let (span, rest) = rest.split_first_chunk::<16>()?;
    Some((version, trace, span, rest.first_chunk::<3>()?))
}

/// Whether the values of `tracestate`, of one header or of several, are well formed (W3C Trace Context, 3.3).
pub fn is_tracestate<'v>(values: impl Iterator<Item = &'v [u8]>) -> bool {
    /// The most entries of a list.
    const MOST: usize = 32;
    let mut keys: [&[u8]; MOST] = [&[]; MOST];
    let mut known = 0;
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    for entry in values.flat_map(|value| value.split(|byte| *byte == b',')) {
        let entry = trimmed(entry, is_blank);
        if entry.is_empty() {
            continue; // empty entries are allowed
        }
        let Some(key) = key_of_entry(entry) else { return false };
        let Some(place) = keys.get_mut(known) else { return false };
        *place = key;
        if keys.iter().take(known).any(|other| *other == key) {
            return false;
        }
        known += 1;
    }
    true
}

fn trimmed(text: &[u8], is_blank: impl Fn(&u8) -> bool) -> &[u8] {
    let begin = text.iter().position(|byte| !is_blank(byte)).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| !is_blank(byte)).map_or(begin, |last| last + 1);
    text.get(begin..end).unwrap_or_default()
}

/// The key of an entry that is well formed.
fn key_of_entry(entry: &[u8]) -> Option<&[u8]> {
    /// The longest key, and the longest value.
    const LONGEST: usize = 256;
    let (key, value) = entry.split_at(entry.iter().position(|byte| *byte == b'=')?);
    let value = value.get(1..)?;
    let begins = key.first().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let is_of_key = |byte: &u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'*' | b'/' | b'@')
    };
    let is_of_value = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'=');
    let is_key = begins && key.len() <= LONGEST && key.iter().all(is_of_key);
    let is_value = (1..=LONGEST).contains(&value.len()) && value.iter().all(is_of_value);
    (is_key && is_value).then_some(key)
}

/// Reads `b3`: `TRACE-SPAN`, `TRACE-SPAN-DECISION`, `TRACE-SPAN-DECISION-PARENT`, or `DECISION`.
pub fn b3(value: &[u8]) -> Option<Caller> {
    let mut parts = value.split(|byte| *byte == b'-');
    let (first, span, decision, parent) = (parts.next()?, parts.next(), parts.next(), parts.next());
    if parts.next().is_some() || parent.is_some_and(|parent| SpanId::read(parent).is_none()) {
        return None;
    }
    let (is_sampled, is_debug) = match span.map_or(Some(first), |_| decision) {
        None => (None, false),
        Some(b"0") => (Some(false), false),
        Some(b"1") => (Some(true), false),
        Some(b"d") => (Some(true), true),
        Some(_) => return None,
    };
    let of = match span {
        None => None,
        Some(span) => Some((TraceId::read(first)?, SpanId::read(span)?)),
    };
    Some(Caller::of_b3(of, is_sampled, is_debug))
}

/// The values of B3's older headers.
#[derive(Debug, Clone, Copy, Default)]
pub struct B3Fields<'a> {
    pub trace: Option<&'a [u8]>,
    pub span: Option<&'a [u8]>,
    pub sampled: Option<&'a [u8]>,
    pub flags: Option<&'a [u8]>,
}

/// Reads B3's older headers. `None`: there are none, or one of them is not well formed.
pub fn b3_multi(of: B3Fields<'_>) -> Option<Caller> {
    let is_debug = match of.flags {
        None | Some(b"0") => false,
        Some(b"1") => true,
        Some(_) => return None,
    };
    let is_sampled = match of.sampled {
        _ if is_debug => Some(true),
        None => None,
        Some(b"1" | b"true") => Some(true), // the word is that of old programs
        Some(b"0" | b"false") => Some(false),
        Some(_) => return None,
    };
    let of = match (of.trace, of.span) {
        (None, None) if is_sampled.is_none() => return None,
        (None, None) => None,
        (trace, span) => Some((TraceId::read(trace?)?, SpanId::read(span?)?)),
    };
    Some(Caller::of_b3(of, is_sampled, is_debug))
}

impl Caller {
    /// B3 does not say whether an ID is random.
    const fn of_b3(of: Option<(TraceId, SpanId)>, is_sampled: Option<bool>, is_debug: bool) -> Self {
        Self { of, is_sampled, is_debug, is_random: false, is_current: false }
    }
}

impl TraceId {
    /// The length of its text.
    pub const DIGITS: usize = 32;

    /// `None`: it is not 32 hexadecimal digits in lower case, or zero.
    #[inline(always)]
    fn parsed(text: &[u8; 32]) -> Option<Self> {
        let (high, low) = text.split_first_chunk::<16>()?;
        Self::of(number(high)?, number(low.first_chunk()?)?)
    }

    /// Reads 32 digits, or 16 as B3 allows.
    pub(crate) fn read(text: &[u8]) -> Option<Self> {
        match <&[u8; 16]>::try_from(text) {
            Ok(low) => Self::of(0, number(low)?),
            Err(_) => Self::parsed(text.try_into().ok()?),
        }
    }

    fn of(high: u64, low: u64) -> Option<Self> {
        (high != 0 || low != 0).then_some(Self([high, low]))
    }

    pub fn bytes(self) -> [u8; 16] {
        let [high, low] = self.0;
        (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
    }

    /// The digits.
    pub fn text(self) -> [u8; 32] {
        let [high, low] = self.0.map(hex);
        let mut text = [0; 32];
        let (first, second) = text.split_at_mut(high.len());
        first.copy_from_slice(&high); // byte by byte it would take ten times as many instructions
        second.copy_from_slice(&low);
        text
    }
}

impl SpanId {
    /// `None`: it is not 16 hexadecimal digits in lower case, or zero.
    #[inline(always)]
    fn parsed(text: &[u8; 16]) -> Option<Self> {
        NonZeroU64::new(number(text)?).map(Self)
    }

    fn read(text: &[u8]) -> Option<Self> {
        Self::parsed(text.try_into().ok()?)
    }

    /// Mixes the bits of a number (the last step of SplitMix64).
    fn mixed(number: u64) -> Self {
        let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self(NonZeroU64::new(number ^ number >> 31).unwrap_or(NonZeroU64::MIN))
    }

    pub const fn bytes(self) -> [u8; 8] {
        self.0.get().to_be_bytes()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [high, low] = self.0;
        write!(f, "{high:016x}{low:016x}")
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One in each byte of a word.
const EACH: u64 = 0x0101_0101_0101_0101;

/// The number of 16 digits in lower case.
#[inline(always)] // the numbers of one header share their constants
fn number(text: &[u8; 16]) -> Option<u64> {
    let (high, low) = text.split_first_chunk::<8>()?;
    let (high, is_high) = half(u64::from_be_bytes(*high));
    let (low, is_low) = half(u64::from_be_bytes(*low.first_chunk()?));
    (is_high && is_low).then_some(high << 32 | low)
}

/// The number of the eight digits in a word, all at once, and whether each byte is a digit. A digit of the alphabet has
/// the bit 0x40, and lacks 9 in its lower four bits.
#[inline(always)]
const fn half(word: u64) -> (u64, bool) {
    const LOW: u64 = EACH * 0x0f;
    const SIXES: u64 = EACH * 6;
    const CARRIES: u64 = EACH * 0x10;
    let is_letter = (word >> 6) & EACH;
    let digits = (word & LOW) + is_letter * 9;
    // the upper four bits are 3 before a decimal digit, and 6 before a letter
    let of_kind = (word & !LOW) ^ ((EACH + is_letter) * 0x30);
    // a digit is below 16, and the letters' are those from 10 on
    let of_range = (digits & CARRIES) | ((((digits + SIXES) >> 4) & EACH) ^ is_letter);
    let bytes = (digits | (digits >> 4)) & 0x00ff_00ff_00ff_00ff;
    let pairs = (bytes | (bytes >> 8)) & 0x0000_ffff_0000_ffff;
    ((pairs | (pairs >> 16)) & 0xffff_ffff, of_kind | of_range == 0)
}

fn byte_of_hex(text: &[u8; 2]) -> Option<u8> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let [high, low] = text.map(digit);
    Some(high? << 4 | low?)
}

/// The 16 digits of a number: each half byte is moved to a byte of its own, and all become digits at once.
fn hex(number: u64) -> [u8; 16] {
    let [high, low] = [number >> 32, number & 0xffff_ffff].map(|half| {
        let spread = (half << 16 | half) & 0x0000_ffff_0000_ffff;
        let spread = (spread << 8 | spread) & 0x00ff_00ff_00ff_00ff;
        let spread = (spread << 4 | spread) & 0x0f0f_0f0f_0f0f_0f0f;
        let is_letter = (spread + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
        spread + 0x3030_3030_3030_3030 + is_letter * u64::from(b'a' - b'0' - 10)
    });
    (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn of(caller: Option<Caller>) -> Option<(String, String, Option<bool>)> {
        let caller = caller?;
        let (trace, span) = caller.of?;
        Some((trace.to_string(), span.to_string(), caller.is_sampled))
    }

    fn known(is_sampled: Option<bool>) -> Option<(String, String, Option<bool>)> {
        Some((TRACE.to_owned(), SPAN.to_owned(), is_sampled))
    }

    #[test]
    fn traceparent_is_read_as_the_standard_says() {
        let good = format!("00-{TRACE}-{SPAN}");
        for (value, expected) in [
            (format!("{good}-01"), known(Some(true))),
            (format!("{good}-00"), known(Some(false))),
            (format!("{good}-ff"), known(Some(true))),
            (format!("cc-{TRACE}-{SPAN}-01"), known(Some(true))),
            (format!("cc-{TRACE}-{SPAN}-01-what-the-future-adds"), known(Some(true))),
            (format!("cc-{TRACE}-{SPAN}-01.x"), None),
            (format!("{good}-01-more"), None),
            (format!("{good}-01 "), None),
            (format!("{good}-1"), None),
            (format!("{good}-0g"), None),
            (format!("{good}-0A"), None),
            (format!("ff-{TRACE}-{SPAN}-01"), None),
            (format!("0-{TRACE}-{SPAN}-01"), None),
            (format!("00_{TRACE}-{SPAN}-01"), None),
            (format!("00-{TRACE}_{SPAN}-01"), None),
            (format!("00-{TRACE}-{SPAN}_01"), None),
            (format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), None),
            (format!("00-{}-{SPAN}-01", "0".repeat(32)), None),
            (format!("00-{TRACE}-{}-01", "0".repeat(16)), None),
            (String::new(), None),
        ] {
            assert_eq!(of(traceparent(value.as_bytes())), expected, "{value}");
        }
    }

    #[test]
    fn the_flag_of_random_ids_is_that_of_the_caller_and_is_set_for_a_trace_that_begins_here() {
        let told = |flags: &str| {
            let caller = traceparent(format!("00-{TRACE}-{SPAN}-{flags}").as_bytes());
            TraceContext::begin(caller, Sampler::of(0.0), Formats::W3C, || 7).flags()
        };
        let all = ["00", "01", "02", "03", "fd", "ff"].map(told);
        assert_eq!(all, [0, 1, 2, 3, 1, 3], "flags that are not known are not passed on");
        let begun = |caller| TraceContext::begin(caller, Sampler::of(1.0), Formats::W3C, || 7).flags();
        assert_eq!(begun(None), 3);
        assert_eq!(begun(b3(format!("{TRACE}-{SPAN}-1").as_bytes())), 1, "B3 does not say it");
        assert_eq!(begun(b3(b"0")), 2);
    }

    #[test]
    fn a_tracestate_that_is_not_well_formed_is_found() {
        let is_good = |values: &[&str]| is_tracestate(values.iter().map(|value| value.as_bytes()));
        let many = |most: usize| (0..most).map(|key| format!("k{key}=v")).collect::<Vec<_>>().join(",");
        for good in [
            &["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"][..],
            &["a=1", "b=2"],
            &["a=1 , ,\tb= 2"],
            &["fw529a3039@dt=FfAgcA, 1a@b=x"],
            &[""],
            &[&many(32)],
        ] {
            assert!(is_good(good), "{good:?}");
        }
        for bad in [
            &["a"][..],
            &["a="],
            &["=1"],
            &["A=1"],
            &["a b=1"],
            &["a=1=2"],
            &["a=é"],
            &["a=1,a=2"],
            &["a=1", "a=2"],
            &["_a=1"],
            &[&many(33)],
            &[&format!("{}=1", "a".repeat(257))],
            &[&format!("a={}", "1".repeat(257))],
        ] {
            assert!(!is_good(bad), "{bad:?}");
        }
    }

    #[test]
    fn b3_is_read_in_all_its_forms() {
        let short = Some(("0".repeat(16) + "a3ce929d0e0e4736", SPAN.to_owned(), None));
        for (value, expected) in [
            (format!("{TRACE}-{SPAN}"), known(None)),
            (format!("{TRACE}-{SPAN}-1"), known(Some(true))),
            (format!("{TRACE}-{SPAN}-0"), known(Some(false))),
            (format!("{TRACE}-{SPAN}-d"), known(Some(true))),
            (format!("{TRACE}-{SPAN}-1-{SPAN}"), known(Some(true))),
            (format!("a3ce929d0e0e4736-{SPAN}"), short),
            (format!("{TRACE}-{SPAN}-2"), None),
            (format!("{TRACE}-{SPAN}-1-"), None),
            (format!("{TRACE}-{SPAN}-1-{SPAN}-"), None),
            (format!("{TRACE}-{}", "0".repeat(16)), None),
            (format!("{}-{SPAN}", TRACE.to_uppercase()), None),
            (format!("{TRACE}0-{SPAN}"), None),
            (TRACE.to_owned(), None),
        ] {
            assert_eq!(of(b3(value.as_bytes())), expected, "{value}");
        }
        let decision = |value: &str| b3(value.as_bytes()).map(|caller| (caller.of, caller.is_sampled));
        assert_eq!(decision("0"), Some((None, Some(false))));
        assert_eq!(decision("d"), Some((None, Some(true))));
        assert_eq!(decision(""), None);
    }

    #[test]
    fn the_older_headers_of_b3_are_read_together() {
        let all = |trace, span, sampled, flags| B3Fields { trace, span, sampled, flags };
        let (trace, span) = (Some(TRACE.as_bytes()), Some(SPAN.as_bytes()));
        let one = Some(&b"1"[..]);
        assert_eq!(of(b3_multi(all(trace, span, None, None))), known(None));
        assert_eq!(of(b3_multi(all(trace, span, one, None))), known(Some(true)));
        assert_eq!(of(b3_multi(all(trace, span, Some(b"false"), None))), known(Some(false)));
        assert_eq!(of(b3_multi(all(trace, span, Some(b"0"), one))), known(Some(true)), "debug");
        assert_eq!(of(b3_multi(all(trace, span, Some(b"yes"), None))), None);
        assert_eq!(of(b3_multi(all(trace, None, one, None))), None);
        assert_eq!(b3_multi(B3Fields::default()), None);
        assert_eq!(b3_multi(all(None, None, one, None)).and_then(|caller| caller.is_sampled), Some(true));
    }

    #[test]
    fn a_decision_of_the_caller_is_kept_and_the_share_decides_otherwise() {
        let (never, always) = (Sampler::of(0.0), Sampler::of(1.0));
        let mut numbers = 1..;
        let mut draw = || numbers.next().unwrap_or_default();
        let told = format!("00-{TRACE}-{SPAN}-01");
        let mut begin = |caller, sampler| TraceContext::begin(caller, sampler, Formats::default(), &mut draw);
        let context = begin(traceparent(told.as_bytes()), never);
        assert!(context.is_sampled && context.trace.to_string() == TRACE);
        assert_eq!(context.parent.map(|span| span.to_string()).as_deref(), Some(SPAN));
        assert!(!begin(b3(b"0"), always).is_sampled);
        assert!(begin(None, always).is_sampled && !begin(None, never).is_sampled);
        assert!(begin(None, always).parent.is_none());
    }

    #[test]
    fn the_share_of_traces_is_that_of_the_configuration() {
        let half = Sampler::of(0.5);
        let random = (0..10_000).filter(|_| half.takes(TraceId([0, fastrand::u64(..)]))).count();
        assert!((4_500..5_500).contains(&random), "{random}");
    }

    #[test]
    fn each_attempt_has_a_span_of_its_own_inside_the_same_trace() {
        let context = TraceContext::begin(None, Sampler::of(1.0), Formats::default(), || 7);
        let mut all: Vec<SpanId> = (0..1_000).map(|number| context.attempt(number)).collect();
        all.push(context.span);
        all.push(context.beside(8).span);
        let different: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
        assert_eq!(context.attempt(3), context.attempt(3));
    }

    proptest! {
        /// The number of eight digits is that of the standard library, which also takes capital letters and a sign.
        #[test]
        fn eight_digits_are_read_at_once(word: u64, digits in "[0-9a-f]{8}", at in 0..8_usize) {
            let expected = |text: &[u8; 8]| {
                let is_good = text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
                let text = std::str::from_utf8(text).ok().filter(|_| is_good)?;
                u64::from_str_radix(text, 16).ok()
            };
            let read = |text: &[u8; 8]| {
                let (number, is_good) = half(u64::from_be_bytes(*text));
                is_good.then_some(number)
            };
            let good = *digits.as_bytes().first_chunk::<8>().unwrap();
            prop_assert_eq!(read(&good), expected(&good));
            prop_assert_eq!(read(&word.to_be_bytes()), expected(&word.to_be_bytes()));
            for byte in 0..=u8::MAX {
                let mut near = good;
                near[at] = byte;
                prop_assert_eq!(read(&near), expected(&near), "{}", byte);
            }
        }

        #[test]
        fn what_is_written_is_read_back(
            [high, low, seed] in any::<[u64; 3]>(),
            (is_sampled, is_debug) in any::<(bool, bool)>(),
            attempt in any::<u32>(),
        ) {
            prop_assume!(high != 0 || low != 0);
            let trace = TraceId([high, low]);
            let caller = Caller::of_b3(None, Some(is_sampled), is_debug && is_sampled);
            let context = TraceContext { trace, ..TraceContext::begin(Some(caller), Sampler::of(0.0), Formats::default(), || seed) };
            let span = context.attempt(attempt);
            let expected = Some((trace.to_string(), span.to_string(), Some(is_sampled)));
            prop_assert_eq!(of(traceparent(&context.traceparent(span))), expected.clone());
            prop_assert_eq!(of(b3(context.b3(span).as_bytes())), expected.clone());
            let fields: Vec<_> = context.b3_multi(span).collect();
            let find = |name: &str| fields.iter().find(|(known, _)| *known == name).map(|(_, value)| &**value);
            let multi = B3Fields {
                trace: find(B3_TRACE).map(str::as_bytes),
                span: find(B3_SPAN).map(str::as_bytes),
                sampled: find(B3_SAMPLED).map(str::as_bytes),
                flags: find(B3_FLAGS).map(str::as_bytes),
            };
            prop_assert_eq!(of(b3_multi(multi)), expected);
            prop_assert_eq!(trace.text().to_vec(), trace.to_string().into_bytes());
            prop_assert!(fields.iter().all(|(name, _)| is_b3(name.as_bytes())));
        }

        /// One byte that differs leaves a value that is read as what it says, or is refused.
        #[test]
        fn any_bytes_are_read_without_a_panic(mut bytes: Vec<u8>, at in 0..55_usize, byte: u8) {
            let mut near = format!("00-{TRACE}-{SPAN}-01").into_bytes();
            near[at] = byte;
            if let Some(caller) = traceparent(&near) {
                let (trace, span) = caller.of.unwrap();
                let context = TraceContext { trace, ..TraceContext::begin(None, Sampler::of(0.0), Formats::default(), || 1) };
                let said = context.traceparent(span);
                prop_assert_eq!(&said[2..52], &near[2..52]);
            }
            bytes.truncate(200);
            let all = Some(&bytes[..]);
            let _ = (traceparent(&bytes), b3(&bytes), is_tracestate(all.into_iter()), is_b3(&bytes));
            let _ = b3_multi(B3Fields { trace: all, span: all, sampled: all, flags: all });
        }
    }
}
