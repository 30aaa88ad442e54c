//! One rule, compiled, and whether it fits what is known.

use pillion_model::authorization::path::JudgedPath;
use pillion_model::authorization::{Action, Conditions, EncodedSlash, PathPattern, Rule};
use pillion_model::cluster::HostPattern;
use pillion_model::route::HeaderMatch;

use crate::{Asked, Facts};

pub(crate) struct Compiled {
    pub(crate) action: Action,
    pub(crate) when: Checked,
    not: Option<Checked>,
    needs_http: bool,
}

pub(crate) struct Checked {
    pub(crate) of: Conditions,
    pub(crate) paths: Box<[Path]>,
}

/// A pattern for paths, with the readings of its path.
pub(crate) struct Path {
    text: Box<str>,
    decoded: Box<[u8]>,
    plain: Box<[u8]>,
    pub(crate) is_below: bool,
}

/// How the index found a rule.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Found {
    /// Its paths, if it has any, are still to be compared.
    ByPeer,
    /// By the path of this number. Its readings are still to be compared.
    ByPath(u32),
}

/// The first condition that keeps a rule from matching.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misfit<'a> {
    /// It has conditions that only requests fit, and the connection is opaque.
    Opaque,
    From,
    Paths,
    /// One of its claims, or all of them without a verified token.
    Claims,
    Ports,
    Sources,
    Methods,
    Hosts,
    /// With the header's name.
    Header(&'a str),
    /// Its conditions fit, and those of `not` fit, too.
    Excepted,
}

/// How a condition is read where a fact is missing or has several readings.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// It fits only if it certainly does.
    Certain,
    /// It fits if it might.
    Possible,
}

impl Compiled {
    pub(crate) fn new(rule: &Rule) -> Self {
        Self {
            action: rule.action,
            when: Checked::new(&rule.when),
            not: rule.not.as_ref().map(Checked::new),
            needs_http: rule.needs_http(),
        }
    }

    /// The first condition that does not fit; `None`: the rule fits. This is slower than [`Self::fits`] with the index, and
    /// says why.
    pub(crate) fn misfit(&self, facts: &Facts<'_>) -> Option<Misfit<'_>> {
        let (when, not) = self.readings();
        if self.action == Action::Allow && self.needs_http && facts.request.is_none() {
            return Some(Misfit::Opaque);
        }
        let of = &self.when.of;
        let is_from = |peer| of.from.iter().any(|wanted| wanted.fits(peer));
        if !of.from.is_empty() && !facts.peer.is_some_and(is_from) {
            return Some(Misfit::From);
        }
        if !self.when.any_path_fits(facts, when) {
            return Some(Misfit::Paths);
        }
        if !self.when.claims_fit(facts).unwrap_or(false) {
            return Some(Misfit::Claims);
        }
        let besides = self.when.misfit_besides(facts, when);
        besides.or_else(|| self.excepts(facts, not).then_some(Misfit::Excepted))
    }

    /// How its conditions are read, and those of `not`.
    const fn readings(&self) -> (Reading, Reading) {
        match self.action {
            Action::Allow => (Reading::Certain, Reading::Possible),
            Action::Deny => (Reading::Possible, Reading::Certain),
        }
    }

    fn excepts(&self, facts: &Facts<'_>, reading: Reading) -> bool {
        self.not.as_ref().is_some_and(|excepted| excepted.fits(facts, reading))
    }

    /// Whether the rule fits. The index has found it by its peer, and perhaps by its path.
    pub(crate) fn fits(&self, facts: &Facts<'_>, found: Found) -> bool {
        let (when, not) = self.readings();
        if self.action == Action::Allow && self.needs_http && facts.request.is_none() {
            return false;
        }
        self.path_fits(facts, found, when)
            && self.when.claims_fit(facts).unwrap_or(false)
            && self.when.fits_besides(facts, when)
            && !self.excepts(facts, not)
    }

    fn path_fits(&self, facts: &Facts<'_>, found: Found, reading: Reading) -> bool {
        match found {
            Found::ByPeer => self.when.any_path_fits(facts, reading),
            Found::ByPath(nth) => {
                let path = facts.request.as_ref().and_then(|asked| asked.path);
                let wanted = self.when.paths.get(nth as usize);
                path.zip(wanted).is_some_and(|(path, wanted)| wanted.fits(path, reading))
            }
        }
    }
}

impl Checked {
    fn new(of: &Conditions) -> Self {
        Self { paths: of.paths.iter().map(Path::new).collect(), of: of.clone() }
    }

    fn fits(&self, facts: &Facts<'_>, reading: Reading) -> bool {
        let from = || match facts.peer {
            Some(peer) => self.of.from.iter().any(|wanted| wanted.fits(peer)),
            None => reading == Reading::Possible,
        };
        (self.of.from.is_empty() || from())
            && self.any_path_fits(facts, reading)
            && self.claims_fit(facts).unwrap_or(reading == Reading::Possible)
            && self.fits_besides(facts, reading)
    }

    /// `None`: there are conditions about claims, and no verified token.
    fn claims_fit(&self, facts: &Facts<'_>) -> Option<bool> {
        if self.of.claims.is_empty() {
            return Some(true); // as nearly always
        }
        let claims = facts.request.as_ref().and_then(|asked| asked.claims)?;
        Some(self.of.claims.iter().all(|wanted| claims.fit(wanted)))
    }

    fn any_path_fits(&self, facts: &Facts<'_>, reading: Reading) -> bool {
        self.paths.is_empty()
            || match facts.request.as_ref().and_then(|asked| asked.path) {
                Some(path) => self.paths.iter().any(|wanted| wanted.fits(path, reading)),
                None => reading == Reading::Possible,
            }
    }

    /// The first condition besides `from`, `paths` and `claims` that does not fit.
    fn misfit_besides(&self, facts: &Facts<'_>, reading: Reading) -> Option<Misfit<'_>> {
        let Conditions { from: _, methods, paths: _, ports, hosts, headers, sources, claims: _ } = &self.of;
        if !ports.is_empty() && !ports.contains(&facts.port) {
            return Some(Misfit::Ports);
        }
        if !sources.is_empty() && !sources.iter().any(|wanted| wanted.contains(facts.source)) {
            return Some(Misfit::Sources);
        }
        let Some(asked) = &facts.request else {
            let needs_request = !(methods.is_empty() && hosts.is_empty() && headers.is_empty());
            return (needs_request && reading == Reading::Certain).then_some(Misfit::Opaque);
        };
        if !methods.is_empty() && !methods.iter().any(|it| method_fits(it, asked.method, reading)) {
            return Some(Misfit::Methods);
        }
        if !hosts.is_empty() && !hosts.iter().any(|it| host_fits(it, asked, reading)) {
            return Some(Misfit::Hosts);
        }
        headers.iter().find(|it| !header_fits(it, asked, reading)).map(|it| Misfit::Header(&it.name))
    }

    /// Whether the conditions besides `from`, `paths` and `claims` fit.
    fn fits_besides(&self, facts: &Facts<'_>, reading: Reading) -> bool {
        let Conditions { from: _, methods, paths: _, ports, hosts, headers, sources, claims: _ } = &self.of;
        (ports.is_empty() || ports.contains(&facts.port))
            && (sources.is_empty() || sources.iter().any(|wanted| wanted.contains(facts.source)))
            && match &facts.request {
                Some(asked) => {
                    (methods.is_empty() || methods.iter().any(|it| method_fits(it, asked.method, reading)))
                        && (hosts.is_empty() || hosts.iter().any(|it| host_fits(it, asked, reading)))
                        && headers.iter().all(|it| header_fits(it, asked, reading))
                }
                None => {
                    let is_opaque = methods.is_empty() && hosts.is_empty() && headers.is_empty();
                    is_opaque || reading == Reading::Possible
                }
            }
    }
}

impl Path {
    fn new(of: &PathPattern) -> Self {
        let judged = JudgedPath::of(&of.path, EncodedSlash::Keep);
        let (decoded, plain) = judged.as_ref().map_or_else(
            |_| (of.path.as_bytes(), of.path.as_bytes()), // a pattern is checked when it is made
            |judged| (judged.decoded(), judged.plain()),
        );
        Self {
            text: of.path.as_str().into(),
            decoded: decoded.into(),
            plain: plain.into(),
            is_below: of.is_below,
        }
    }

    /// The segments by which the index finds it.
    pub(crate) fn segments(&self) -> impl Iterator<Item = &[u8]> {
        let path = if self.is_below {
            self.decoded.strip_suffix(b"/").unwrap_or(&self.decoded)
        } else {
            &self.decoded
        };
        path.split(|byte| *byte == b'/')
    }

    fn fits(&self, path: &JudgedPath<'_>, reading: Reading) -> bool {
        let fits =
            |wanted: &[u8], is: &[u8]| if self.is_below { is.starts_with(wanted) } else { is == wanted };
        match reading {
            Reading::Certain => {
                fits(self.text.as_bytes(), path.forwarded.as_bytes())
                    && fits(&self.decoded, path.decoded())
                    && fits(&self.plain, path.plain())
            }
            Reading::Possible => [Some(path.decoded()), Some(path.plain()), path.before_query()]
                .into_iter()
                .flatten()
                .any(|is| fits(&self.decoded, is)),
        }
    }
}

/// Some servers read `delete` as DELETE.
fn method_fits(wanted: &str, method: &str, reading: Reading) -> bool {
    match reading {
        Reading::Certain => wanted == method,
        Reading::Possible => wanted.eq_ignore_ascii_case(method),
    }
}

fn host_fits(wanted: &HostPattern, asked: &Asked<'_>, reading: Reading) -> bool {
    let Some((name, port)) = asked.host else { return reading == Reading::Possible };
    let port_fits = match (wanted.port, port) {
        (None, _) => true,
        (Some(_), None) => reading == Reading::Possible,
        (Some(wanted), Some(port)) => wanted == port,
    };
    port_fits && wanted.fits_name(name)
}

/// An application may read any of a header's values and, if it takes them for a list, any member of it or the whole list
/// (RFC 9110, 5.3). A header that it might not read at all may be absent, too.
fn header_fits(wanted: &HeaderMatch, asked: &Asked<'_>, reading: Reading) -> bool {
    let fits = |value: &[u8]| wanted.value.fits(std::iter::once(value));
    let (mut any, mut each, mut is_there, mut lines) = (false, true, false, 0);
    asked.headers.values(&wanted.name, &mut |value, is_certain| {
        let whole = fits(value);
        each &= whole;
        any = any || whole || reading == Reading::Possible && any_member(&wanted.name, value, fits);
        is_there |= is_certain;
        lines += 1;
    });
    if !is_there {
        let absent = wanted.value.fits(std::iter::empty());
        (any, each) = (any || absent, each && absent);
    }
    match reading {
        Reading::Certain => each,
        Reading::Possible => any || lines > 1 && fits(&joined(&wanted.name, asked)),
    }
}

/// 256 members of one value are tried; a value with more of them counts as one that has what a deny rule looks for. Each
/// member can cost a regular expression, and a head of 64 KiB has room for 65,000 members.
pub const MOST_MEMBERS: usize = 256;

/// Whether a member of the value fits, if the value is a list.
fn any_member(name: &str, value: &[u8], fits: impl Fn(&[u8]) -> bool) -> bool {
    let separator = if name == "cookie" { b';' } else { b',' };
    let members = value.split(|byte| *byte == separator).map(<[u8]>::trim_ascii);
    let mut members = members.filter(|member| !member.is_empty());
    members.by_ref().take(MOST_MEMBERS).any(fits) || members.next().is_some()
}

fn joined(name: &str, asked: &Asked<'_>) -> Vec<u8> {
    let mut list = Vec::new();
    asked.headers.values(name, &mut |value, _| {
        if !list.is_empty() {
            list.extend_from_slice(if name == "cookie" { b"; " } else { b", " });
        }
        list.extend_from_slice(value);
    });
    list
}
