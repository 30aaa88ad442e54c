//! Whether the rules of the kernel bring connections to this sidecar.

use std::collections::BTreeSet;

use pillion_init::Redirects;

use super::Line;
use crate::listening::{Listening, Role};

const CHECK: &str = "redirect";
const INSTALL: &str = "run `pillion init` in this network namespace, if connections shall be captured";
const OTHER_PORTS: &str = "install the rules again with the sidecar's ports: `pillion init --outbound-port PORT --inbound-port PORT`";

pub(super) struct Redirect<'a> {
    /// The ports to which rules redirect, or why they cannot be read.
    pub(super) rules: Result<Redirects, String>,
    pub(super) listening: &'a [Listening],
    /// Whether a redirected connection has ever come, inbound and outbound.
    pub(super) seen: [bool; 2],
}

impl Redirect<'_> {
    /// The ports that the two sides listen on.
    fn ports(&self) -> [BTreeSet<u16>; 2] {
        let of = |wanted: &dyn Fn(&Role) -> bool| {
            let all = self.listening.iter().filter(|one| wanted(&one.role));
            all.map(|one| one.on.port()).collect::<BTreeSet<_>>()
        };
        [of(&|role| matches!(role, Role::Inbound | Role::Port(_))), of(&|role| *role == Role::Outbound)]
    }

    /// Whether connections to the application are brought to this sidecar.
    pub(super) fn captures_inbound(&self) -> bool {
        let [inbound, _] = self.ports();
        let [has_seen, _] = self.seen;
        has_seen || self.rules.as_ref().is_ok_and(|rules| !rules.all().is_disjoint(&inbound))
    }

    /// `None`: neither side listens.
    pub(super) fn judge(&self) -> Option<Line> {
        let ports = self.ports();
        if ports.iter().all(BTreeSet::is_empty) {
            return None;
        }
        Some(match &self.rules {
            Ok(rules) if rules.is_empty() => self.without_rules(),
            Ok(rules) => self.by_rules(rules, &ports),
            Err(why) => self.by_traffic(why),
        })
    }

    /// Judges by rules that exist. Those of other programs may lead to the sidecar in ways that are not read here, so beside
    /// them a connection that came counts too.
    fn by_rules(&self, rules: &Redirects, ports: &[BTreeSet<u16>; 2]) -> Line {
        let targets = rules.all();
        let leads = ports.each_ref().map(|ports| !targets.is_disjoint(ports));
        if leads == [false, false] {
            return self.led_elsewhere(rules, ports);
        }
        let [inbound, outbound] = std::array::from_fn(|side| {
            leads[side] || ports[side].is_empty() || self.seen[side] && !rules.foreign.is_empty()
        });
        let own = list(ports.iter().flatten().filter(|port| targets.contains(port)));
        match (inbound, outbound) {
            (true, true) => Line::good(CHECK, format!("the rules lead to port {own} of this sidecar")),
            (true, false) => Line::warning(
                CHECK,
                format!("the rules lead to port {own}: what the application sends is not captured"),
                OTHER_PORTS,
            ),
            (false, _) => Line::warning(
                CHECK,
                format!("the rules lead to port {own}: what others send to the application is not captured"),
                OTHER_PORTS,
            ),
        }
    }

    /// No rule leads to a port of the sidecar. Rules of other programs may be meant for something else.
    fn led_elsewhere(&self, rules: &Redirects, ports: &[BTreeSet<u16>; 2]) -> Line {
        let listens = list(ports.iter().flatten());
        if !rules.own.is_empty() {
            let to = list(rules.own.iter());
            let what = format!("pillion's rules lead to port {to}, and the sidecar listens on {listens}");
            return Line::bad(CHECK, what, OTHER_PORTS);
        }
        if self.seen != [false, false] {
            return self.by_traffic("");
        }
        let to = list(rules.foreign.iter());
        let what = format!(
            "only other programs have redirect rules, which lead to port {to}; the sidecar listens on {listens}, and no \
             redirected connection has come yet"
        );
        Line::warning(CHECK, what, INSTALL)
    }

    fn without_rules(&self) -> Line {
        let what = match self.seen {
            [false, false] => {
                "this network namespace has no redirect rules: only what is sent to the sidecar's own addresses comes here"
            }
            _ => {
                "this network namespace has no redirect rules any more, and redirected connections have come before"
            }
        };
        Line::warning(CHECK, what, INSTALL)
    }

    fn by_traffic(&self, why: &str) -> Line {
        match self.seen {
            [false, false] => Line::warning(
                CHECK,
                format!("no redirected connection has come yet, and the rules cannot be read: {why}"),
                "send a request, or list the rules as root: `nft list ruleset`",
            ),
            [true, true] => Line::good(CHECK, "redirected connections come on both sides"),
            [true, false] => Line::good(
                CHECK,
                "redirected connections come to the inbound side; none has come to the outbound side yet",
            ),
            [false, true] => Line::good(
                CHECK,
                "redirected connections come to the outbound side; none has come to the inbound side yet",
            ),
        }
    }
}

fn list<'p>(ports: impl Iterator<Item = &'p u16>) -> String {
    ports.map(u16::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Bad, Good, Warning};
    use super::*;

    fn own(ports: &[u16]) -> Redirects {
        Redirects { own: ports.iter().copied().collect(), ..Redirects::default() }
    }

    fn foreign(ports: &[u16]) -> Redirects {
        Redirects { foreign: ports.iter().copied().collect(), ..Redirects::default() }
    }

    fn judged(rules: Result<Redirects, &str>, seen: [bool; 2]) -> Line {
        let listening = [
            ("0.0.0.0:15006", Role::Inbound),
            ("127.0.0.1:15001", Role::Outbound),
            ("127.0.0.1:80", Role::Service("a".into())),
        ];
        let listening = listening.map(|(on, role)| Listening { on: on.parse().expect("an address"), role });
        let rules = rules.map_err(str::to_owned);
        Redirect { rules, listening: &listening, seen }.judge().expect("two sides")
    }

    #[test]
    fn rules_are_good_when_they_lead_to_both_sides_and_bad_when_they_lead_elsewhere() {
        for (targets, verdict, part) in [
            (&[15001, 15006][..], Good, "15006, 15001"),
            (&[15001], Warning, "send to the application is not captured"),
            (&[15006], Warning, "the application sends is not captured"),
            (&[1234], Bad, "lead to port 1234, and the sidecar listens on 15006, 15001"),
            (&[], Warning, "no redirect rules: only"),
        ] {
            let line = judged(Ok(own(targets)), [false, false]);
            assert!(line.verdict == verdict && line.what.contains(part), "{targets:?}: {line:?}");
        }
        assert!(judged(Ok(own(&[])), [true, false]).what.contains("any more"));
    }

    #[test]
    fn rules_of_other_programs_are_a_warning_at_most_and_good_where_a_connection_came() {
        for (rules, seen, verdict, part) in [
            (
                foreign(&[1234]),
                [false, false],
                Warning,
                "lead to port 1234; the sidecar listens on 15006, 15001",
            ),
            (foreign(&[1234]), [true, false], Good, "come to the inbound side"),
            (foreign(&[1234]), [true, true], Good, "both sides"),
            (foreign(&[15001]), [false, false], Warning, "send to the application is not captured"),
            (foreign(&[15001]), [true, false], Good, "15001"),
            (foreign(&[15001, 15006]), [false, false], Good, "15006, 15001"),
            (own(&[1234]), [true, true], Bad, "lead to port 1234"),
            (own(&[15001]), [true, false], Warning, "send to the application is not captured"),
            (
                Redirects { foreign: [9].into(), ..own(&[1234]) },
                [false, false],
                Bad,
                "lead to port 1234, and",
            ),
        ] {
            let shown = format!("{rules:?} {seen:?}");
            let line = judged(Ok(rules), seen);
            assert!(line.verdict == verdict && line.what.contains(part), "{shown}: {line:?}");
        }
    }

    #[test]
    fn rules_that_cannot_be_read_are_known_by_connections_that_came() {
        for (seen, verdict, part) in [
            ([true, true], Good, "both sides"),
            ([true, false], Good, "inbound side"),
            ([false, true], Good, "outbound side"),
            ([false, false], Warning, "cannot be read: no CAP_NET_ADMIN"),
        ] {
            let line = judged(Err("no CAP_NET_ADMIN"), seen);
            assert!(line.verdict == verdict && line.what.contains(part), "{seen:?}: {line:?}");
        }
    }

    #[test]
    fn a_sidecar_without_sides_has_no_line() {
        let rules = Ok(Redirects::default());
        assert_eq!(Redirect { rules, listening: &[], seen: [false; 2] }.judge(), None);
    }
}
