use super::*;
use proptest::prelude::*;

fn duration(text: &str) -> Option<Duration> {
    Duration::parse(text).ok()
}

#[test]
fn a_text_that_is_not_a_duration_is_refused() {
    for text in
        ["", "s", "15", "5 m", "-1s", "1e3s", "1.s", ".5s", "1s ", "off", "0s", "400d", "1..5s", "1h?"]
    {
        assert_eq!(duration(text), None, "{text:?}");
    }
}

#[test]
fn durations_are_read_as_written() {
    let cases = [
        ("250ms", 250),
        ("15s", 15_000),
        ("1h", 3_600_000),
        ("1m30s", 90_000),
        ("1.5s", 1500),
        ("365d", 31_536_000_000),
    ];
    for (text, millis) in cases {
        assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
    }
}

#[test]
fn a_number_without_a_unit_gets_the_units_as_help() {
    let bad = Duration::parse("15").unwrap_err();
    assert_eq!(bad.help.as_deref(), Some("a duration has a unit: 15s or 15ms"));
}

#[test]
fn the_message_for_true_in_place_of_a_value_names_yaml_1_1() {
    for text in ["true", "on", "True"] {
        let bad = OffOr::<Duration>::parse(text).unwrap_err();
        assert!(bad.help.unwrap().contains("YAML 1.1"), "{text}");
    }
    for text in ["off", "false", "False"] {
        assert_eq!(OffOr::<Duration>::parse(text), Ok(OffOr::Off), "{text}");
    }
}

#[test]
fn sizes_and_shares() {
    assert_eq!(Size::parse("64KiB"), Ok(Size(65536)));
    assert_eq!(Size::parse("1.5MiB"), Ok(Size(1_572_864)));
    assert_eq!(Size::parse("65536"), Ok(Size(65536)));
    for text in ["", "64 KiB", "-1", "1.5", "64kib", "0.3KiB", "99999999GiB"] {
        assert!(Size::parse(text).is_err(), "{text:?}");
    }
    assert_eq!(Share::parse("20%"), Ok(Share(0.2)));
    assert_eq!(Share::parse("0.5%"), Ok(Share(0.005)));
    for text in ["", "20", "0.2", "101%", "-1%", "%", "20 %"] {
        assert!(Share::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn counts_keep_to_their_range_and_to_plain_digits() {
    assert_eq!(Count::<1, 10>::parse("10"), Ok(Count(10)));
    for text in ["0", "11", "+1", "-1", "01", "1.0", "0x1", "1_0", "99999999999999999999", ""] {
        assert!(Count::<1, 10>::parse(text).is_err(), "{text:?}");
    }
    assert_eq!(Port::parse("3306"), Ok(Port(3306)));
    assert!(Port::parse("0").is_err() && Port::parse("65536").is_err() && Port::parse("03306").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_a_word_panic(text in ".{0,40}") {
        drop(Duration::parse(&text));
        drop(OffOr::<Size>::parse(&text));
        drop(Share::parse(&text));
        drop(AutoOr::<Count<0, { u32::MAX }>>::parse(&text));
    }

    #[test]
    fn spelled_milliseconds_are_read_back_unchanged(millis in 1u64..10_000_000_000) {
        prop_assert_eq!(duration(&format!("{millis}ms")), Some(Duration::from_millis(millis)));
    }

    #[test]
    fn spelled_bytes_are_read_back_unchanged(bytes in 0u64..(1 << 53)) {
        prop_assert_eq!(Size::parse(&bytes.to_string()), Ok(Size(bytes)));
    }
}
