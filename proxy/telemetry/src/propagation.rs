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
mod tests;
