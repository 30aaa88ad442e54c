//! The sidecar itself: whether it is ready, whether its last configuration was accepted, and its descriptors.

use super::Line;
use pillion_base::net::descriptors::why_too_few;

/// With this share of its descriptors open, a sidecar is busy beyond what it was given, and a wave of connections takes the
/// rest.
const MANY: f64 = 0.7;
/// With this share connections will soon wait or be refused.
const NEARLY_ALL: f64 = 0.9;

const RAISE: &str = "raise the limit of open files (ulimit -n, LimitNOFILE, or the container's ulimits)";

pub(super) fn ready(why_not: Option<&str>) -> Line {
    const CHECK: &str = "ready";
    match why_not {
        None => Line::good(CHECK, "the sidecar is ready"),
        Some("draining") => {
            Line::warning(CHECK, "the sidecar is draining", "wait for its end, or start another one")
        }
        Some(why) => {
            Line::bad(CHECK, format!("the sidecar is not ready: {why}"), "its log says what it waits for")
        }
    }
}

pub(super) fn configuration(refusal: Option<&str>) -> Line {
    const CHECK: &str = "configuration";
    match refusal {
        None => Line::good(CHECK, "the last configuration is in use"),
        Some(why) => {
            let first = why.lines().next().unwrap_or_default();
            Line::warning(
                CHECK,
                format!("a later one was refused, and the former one is in use: {first}"),
                "correct the file (`pillion check -c FILE` prints every fault), or the certificates",
            )
        }
    }
}

pub(super) fn descriptors(open: Option<u64>, most: Option<u64>) -> Line {
    const CHECK: &str = "descriptors";
    let (Some(open), Some(most)) = (open, most) else {
        return Line::warning(
            CHECK,
            "the number of open descriptors is not known",
            "mount /proc in the container",
        );
    };
    let what = format!("{open} of {most} descriptors are open");
    match open as f64 / most.max(1) as f64 {
        share if share >= NEARLY_ALL => Line::bad(CHECK, what, RAISE),
        share if share >= MANY => Line::warning(CHECK, what, RAISE),
        _ => match why_too_few(most) {
            Some(_) => Line::warning(CHECK, format!("{what}, and each proxied connection takes two"), RAISE),
            None => Line::good(CHECK, what),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{self, Bad, Good, Warning};
    use super::*;

    #[test]
    fn a_sidecar_that_is_not_ready_says_why() {
        assert_eq!(ready(None).verdict, Good);
        assert_eq!(ready(Some("draining")).verdict, Warning);
        let line = ready(Some("waiting for certificates: certs/tls.crt does not exist"));
        assert!(line.verdict == Bad && line.what.contains("certs/tls.crt"), "{line:?}");
    }

    #[test]
    fn a_refused_configuration_is_a_warning_with_its_first_line() {
        assert_eq!(configuration(None).verdict, Good);
        let line = configuration(Some("p.yaml:1:1: error: no\n 1 | x"));
        assert!(line.verdict == Warning && line.what.ends_with("p.yaml:1:1: error: no"), "{line:?}");
    }

    #[test]
    fn descriptors_are_judged_by_their_share_and_by_their_limit() {
        let of = |open: u64, most: u64| descriptors(Some(open), Some(most)).verdict;
        assert_eq!([of(10, 65_536), of(45_900, 65_536), of(58_990, 65_536)], [Good, Warning, Bad]);
        assert_eq!(of(10, 1024), Warning, "few");
        assert_eq!(descriptors(None, Some(1)).verdict, Verdict::Warning);
    }
}
