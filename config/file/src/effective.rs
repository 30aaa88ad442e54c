//! The effective configuration: every key of a [`Config`] with its value as the file would spell it, and the origin of
//! the value.
//!
//! This is for people who inspect a running sidecar. It holds no secrets: keys name the paths of secret files, and
//! those files are never read here. A key that holds a secret itself spells it as `(hidden)`. Values of environment
//! variables are shown for all other keys.

use crate::keys::{FILE, INBOUND, SERVICE, tell_route};
use crate::page::{Page, Scopes, Setting};
use crate::place::Tree;
use pillion_model::Config;

/// The file from which a configuration was read.
#[derive(Debug, Clone, Copy)]
pub struct Written<'a> {
    /// The name of the file, as origins show it.
    pub name: &'a str,
    pub text: &'a str,
}

/// Which keys a caller wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// At most `most` keys, after the first `from` keys.
    Page { from: usize, most: usize },
    /// The keys of one service.
    Service(&'a str),
    /// The keys of the route of this number, from 0.
    Route(usize),
    /// The keys of `inbound`.
    Inbound,
}

/// Every key of `config`, in the order of the reference page. `written` is the file from which it was read. `flags` are
/// pairs of a key that the command line set and its flag (`inbound.app`, `--app`).
///
/// This parses the file again to find the origins, so it must not run on a hot path.
pub fn effective(
    config: &Config,
    written: Option<Written<'_>>,
    flags: &[(&'static str, &'static str)],
) -> Vec<Setting> {
    effective_part(config, written, flags, Part::Page { from: 0, most: usize::MAX }).0
}

/// A part of the settings of [`effective()`], and the total number of settings. A service or a route that does not exist has none.
pub fn effective_part(
    config: &Config,
    written: Option<Written<'_>>,
    flags: &[(&'static str, &'static str)],
    part: Part<'_>,
) -> (Vec<Setting>, usize) {
    let source = written.map(|written| written.text.strip_prefix('\u{feff}').unwrap_or(written.text));
    let tree = source.and_then(|source| Tree::read(source).ok()).unwrap_or_default();
    let (root, file) = (Scopes::new(&tree), written.map_or("", |written| written.name));
    let mut page = Page::new(file, flags);
    match part {
        Part::Page { from, most } => {
            page.keep(from, most);
            FILE.tell(config, &root, &mut page);
        }
        Part::Service(name) => {
            let found = config.clusters.iter().find(|cluster| cluster.name == name);
            found.into_iter().for_each(|cluster| SERVICE.tell(cluster, &root.service(name), &mut page));
        }
        Part::Route(nth) => {
            let found = config.routes.get(nth);
            found.into_iter().for_each(|route| tell_route(nth, route, &root, &mut page));
        }
        Part::Inbound => {
            let found = config.inbound.as_ref();
            found.into_iter().for_each(|inbound| INBOUND.tell(inbound, &root.key("inbound"), &mut page));
        }
    }
    page.finish()
}

#[cfg(test)]
mod tests;
