//! Numbers, times and names as people read them in little room. The dashboard writes them alike.

/// For a value that is not known.
pub(super) const NOTHING: &str = "–";

pub(super) fn rate(per_second: f64) -> String {
    match per_second {
        rate if rate >= 100.0 => format!("{rate:.0}"),
        rate if rate >= 10.0 => format!("{rate:.1}"),
        rate => format!("{rate:.2}"),
    }
}

pub(super) fn percent(share: f64) -> String {
    match share * 100.0 {
        0.0 => "0 %".to_owned(),
        percent if percent < 1.0 => format!("{percent:.2} %"),
        percent => format!("{percent:.1} %"),
    }
}

pub(super) fn seconds(seconds: f64) -> String {
    match seconds {
        short if short < 0.001 => format!("{:.0} µs", short * 1e6),
        short if short < 0.01 => format!("{:.2} ms", short * 1e3),
        short if short < 1.0 => format!("{:.0} ms", short * 1e3),
        long => format!("{long:.2} s"),
    }
}

pub(super) fn count(number: u64) -> String {
    match number {
        0..=99_999 => number.to_string(),
        100_000..=9_999_999 => format!("{}k", number / 1000),
        _ => format!("{}M", number / 1_000_000),
    }
}

/// A span of time, in its two largest units. Years begin where days say nothing any more.
pub(super) fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (731.., ..) => format!("{} y {} d", days / 365, days % 365),
        (1.., ..) => format!("{days} d {hours} h"),
        (0, 1.., _) => format!("{hours} h {minutes} min"),
        (0, 0, 1..) => format!("{minutes} min {} s", seconds % 60),
        (0, 0, 0) => format!("{seconds} s"),
    }
}

/// A SPIFFE ID of Kubernetes as `NAMESPACE/ACCOUNT`.
pub(super) fn peer(id: &str) -> String {
    if id.is_empty() {
        return "(without identity)".to_owned();
    }
    let mut segments = id.rsplit('/');
    match [segments.next(), segments.next(), segments.next(), segments.next()] {
        [Some(account), Some("sa"), Some(namespace), Some("ns")] => format!("{namespace}/{account}"),
        _ => id.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_help() {
        assert_eq!([0.5, 12.34, 1234.5].map(rate), ["0.50", "12.3", "1234"]);
        assert_eq!([0.0, 0.0012, 0.5].map(percent), ["0 %", "0.12 %", "50.0 %"]);
        assert_eq!([0.00012, 0.0012, 0.012, 1.2].map(seconds), ["120 µs", "1.20 ms", "12 ms", "1.20 s"]);
        assert_eq!([99_999, 123_456, 12_345_678].map(count), ["99999", "123k", "12M"]);
        assert_eq!([59, 61, 3661, 90_000].map(span), ["59 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]);
    }

    #[test]
    fn a_peer_of_kubernetes_is_shortened() {
        assert_eq!(peer("spiffe://cluster.local/ns/shop/sa/web"), "shop/web");
        assert_eq!(
            (peer(""), peer("spiffe://x/y")),
            ("(without identity)".to_owned(), "spiffe://x/y".to_owned())
        );
    }
}
