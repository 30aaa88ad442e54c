//! `POST /cache/purge`: forgets stored answers of a service.

use pillion_cache::key::Pattern;
use serde_json::{Value, json};

use super::console::Console;

/// Which answers are to be forgotten.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    service: String,
    pattern: Pattern,
}

impl Wanted {
    /// # Errors
    /// Returns a sentence that says what to ask for instead.
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        const TAKES: &str =
            "the parameters are service=NAME, and path=/x, or path=/x* for all paths that begin so";
        let (mut service, mut path) = (None, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let place = match &*name {
                "service" => &mut service,
                "path" => &mut path,
                _ => return Err(format!("there is no parameter \"{name}\": {TAKES}")),
            };
            if place.replace(value.into_owned()).is_some() {
                return Err(format!("{name} stands twice: {TAKES}"));
            }
        }
        let service = service.ok_or_else(|| format!("service is missing: {TAKES}"))?;
        let pattern = match path {
            None => Pattern::All,
            Some(path) if path.starts_with('/') || path == "*" => Pattern::parse(&path),
            Some(path) => return Err(format!("path is \"{path}\", and a path begins with /: {TAKES}")),
        };
        Ok(Self { service, pattern })
    }
}

/// Forgets the answers, and those that are on their way.
///
/// # Errors
/// Returns a sentence: there is no such service, or it has no cache.
pub(super) fn purge(console: &Console, wanted: &Wanted) -> Result<Value, String> {
    let (name, snapshot) = (&*wanted.service, console.store.load());
    let Some(route) = snapshot.services.get(name) else {
        return Err(format!("there is no service \"{name}\""));
    };
    let Some(cache) = route.cluster.cache() else {
        return Err(format!("the service \"{name}\" has no cache (services.{name}.cache is off)"));
    };
    let purged = cache.purge(&wanted.pattern);
    tracing::info!(service = name, purged, "stored answers were purged");
    Ok(json!({ "service": name, "purged": purged }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_a_service_and_perhaps_a_path() {
        let pattern = |query| Wanted::parse(query).map(|wanted| (wanted.service, wanted.pattern));
        assert_eq!(pattern("service=a"), Ok(("a".to_owned(), Pattern::All)));
        assert_eq!(pattern("service=a&path=%2Fx%3Fy"), Ok(("a".to_owned(), Pattern::parse("/x?y"))));
        assert_eq!(pattern("path=/x*&service=a"), Ok(("a".to_owned(), Pattern::parse("/x*"))));
        for (query, why) in [
            ("", "service is missing"),
            ("service=a&path=x", "a path begins with /"),
            ("service=a&service=b", "service stands twice"),
            ("service=a&host=b", "there is no parameter \"host\""),
        ] {
            assert!(pattern(query).is_err_and(|found| found.contains(why)), "{query}");
        }
    }
}
