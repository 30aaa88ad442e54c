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
