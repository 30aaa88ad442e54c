//! `/config`: the effective configuration, with the origin of each value. It is a flat list, which is easy to search.
//! It is shown in pages or for one service, because ten thousand services have half a million values.

use std::time::{SystemTime, UNIX_EPOCH};

use pillion_config::{Part, Setting, Written, effective_part};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::console::{Published, Refusal};

/// Values on a page if the request does not say how many: a usual file fits on one page, which has some 100 KB.
const DEFAULT_VALUES_PER_PAGE: usize = 1000;
/// The most values on a page: a page is built in memory.
const MAX_VALUES_PER_PAGE: usize = 10_000;

/// The part of the configuration that a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Selection {
    /// Pages count from 1.
    Page {
        page: usize,
        limit: usize,
    },
    Service(String),
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no service called \"{0}\"")]
pub(super) struct NoSuchService(pub(super) String);

impl Selection {
    /// Parses a query: `page=2&limit=500`, or `service=NAME`. The names of services need no decoding.
    ///
    /// # Errors
    /// Returns a sentence that says what to ask for instead.
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let (mut page, mut limit, mut service) = (None, None, None);
        for word in query.split('&').filter(|word| !word.is_empty()) {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let number = |most| match value.parse::<usize>() {
                Ok(number) if (1..=most).contains(&number) => Ok(Some(number)),
                _ => Err(format!("{name} is a number from 1 to {most}")),
            };
            match name {
                "page" => page = number(usize::MAX / MAX_VALUES_PER_PAGE)?,
                "limit" => limit = number(MAX_VALUES_PER_PAGE)?,
                "service" => service = Some(value.to_owned()),
                _ => return Err("the parameters are page, limit and service".to_owned()),
            }
        }
        match (service, page.or(limit)) {
            (Some(_), Some(_)) => {
                Err("all values of a service are on one page: leave out page and limit".to_owned())
            }
            (Some(service), None) => Ok(Self::Service(service)),
            (None, _) => {
                Ok(Self::Page { page: page.unwrap_or(1), limit: limit.unwrap_or(DEFAULT_VALUES_PER_PAGE) })
            }
        }
    }

    fn part(&self) -> Part<'_> {
        match self {
            Self::Page { page, limit } => Part::Page { from: (page - 1) * limit, most: *limit },
            Self::Service(name) => Part::Service(name),
        }
    }

    /// The link to the values after this page; `all` is the number of values.
    fn next(&self, all: usize) -> Option<String> {
        match self {
            Self::Page { page, limit } if page * limit < all => {
                Some(format!("/config?page={}&limit={limit}", page + 1))
            }
            Self::Page { .. } | Self::Service(_) => None,
        }
    }
}

/// `generation` is that of the snapshot that the data path uses.
pub(super) fn page(
    published: &Published,
    generation: u64,
    asked: &Selection,
) -> Result<Value, NoSuchService> {
    let file = published.file.as_ref().map(|file| file.display().to_string());
    let written = file.as_deref().zip(published.text.as_deref()).map(|(name, text)| Written { name, text });
    let (settings, all) = effective_part(&published.config, written, &published.flags, asked.part());
    if let (Selection::Service(name), 0) = (asked, all) {
        return Err(NoSuchService(name.clone()));
    }
    Ok(json!({
        "generation": generation,
        "loaded_at": published.loaded_at.and_then(moment),
        "file": file,
        "last_refusal": published.latest_refusal().map(refusal),
        "total": all,
        "next": asked.next(all),
        "values": settings.into_iter().map(shown).collect::<Vec<_>>(),
    }))
}

/// What was loaded when, without the values.
pub(super) fn summary(published: &Published, generation: u64) -> Value {
    json!({
        "generation": generation,
        "loaded_at": published.loaded_at.and_then(moment),
        "file": published.file.as_ref().map(|file| file.display().to_string()),
        "last_refusal": published.latest_refusal().map(refusal),
    })
}

fn shown(Setting { key, value, from }: Setting) -> Value {
    json!({ "key": key, "value": value, "from": from.to_string() })
}

pub(super) fn refusal(refusal: &Refusal) -> Value {
    json!({ "at": moment(refusal.at), "why": refusal.why })
}

/// A time such as `2026-11-21T11:00:00Z`, to the second. Null if it has no date in the calendar.
fn moment(at: SystemTime) -> Option<String> {
    let seconds = i64::try_from(at.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()?;
    OffsetDateTime::from_unix_timestamp(seconds).ok()?.format(&Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    fn published(text: &str) -> Published {
        let (config, _) = pillion_config::parse(text, std::path::Path::new("")).expect("a good file");
        Published {
            loaded_at: Some(UNIX_EPOCH + Duration::from_secs(1_795_258_800)),
            file: Some("p.yaml".into()),
            config: Arc::new(config),
            text: Some(text.into()),
            last_refusal: Some(Refusal { at: UNIX_EPOCH, why: "p.yaml:1:1: error: no".into() }),
            ..Published::default()
        }
    }

    fn many() -> Published {
        let services = (0..100).map(|nth| format!("  s{nth}: {{ endpoints: [\"10.0.0.1:{}\"] }}\n", nth + 1));
        published(&services.fold("inbound: off\nservices:\n".to_owned(), |text, service| text + &service))
    }

    fn keys(page: &Value) -> Vec<String> {
        let values = page["values"].as_array().expect("a list");
        values.iter().map(|value| value["key"].as_str().expect("a text").to_owned()).collect()
    }

    #[test]
    fn the_page_has_generation_file_refusal_and_every_value_with_its_origin() {
        let published = published("inbound: off\nservices:\n  orders: { endpoints: [\"10.0.0.1:80\"] }\n");
        let page = page(&published, 3, &Selection::Page { page: 1, limit: DEFAULT_VALUES_PER_PAGE })
            .expect("a page");
        assert_eq!((&page["generation"], &page["file"]), (&json!(3), &json!("p.yaml")));
        assert_eq!(page["loaded_at"], "2026-11-21T11:00:00Z");
        assert_eq!(
            page["last_refusal"],
            json!({ "at": "1970-01-01T00:00:00Z", "why": "p.yaml:1:1: error: no" })
        );
        let endpoint =
            json!({ "key": "services.orders.endpoints[0]", "value": "10.0.0.1:80", "from": "p.yaml:3:25" });
        assert!(page["values"].as_array().expect("a list").contains(&endpoint), "{page:#}");
        assert_eq!((&page["next"], &page["total"]), (&Value::Null, &json!(keys(&page).len())));
    }

    #[test]
    fn c18_the_pages_together_have_every_value_and_each_links_to_the_next() {
        let published = many();
        let whole = keys(
            &page(&published, 1, &Selection::Page { page: 1, limit: MAX_VALUES_PER_PAGE }).expect("a page"),
        );
        let (mut together, mut query) = (Vec::new(), "limit=700".to_owned());
        loop {
            let page = page(&published, 1, &Selection::parse(&query).expect("a good query")).expect("a page");
            assert!(keys(&page).len() <= 700);
            together.extend(keys(&page));
            match page["next"].as_str() {
                Some(next) => query = next.strip_prefix("/config?").expect("a link to this page").to_owned(),
                None => break,
            }
        }
        assert_eq!(together, whole);
        assert!(whole.len() > 3000, "{}", whole.len());
        let beyond = page(&published, 1, &Selection::Page { page: 99, limit: MAX_VALUES_PER_PAGE })
            .expect("an empty page");
        assert_eq!((keys(&beyond).len(), &beyond["next"]), (0, &Value::Null));
    }

    #[test]
    fn c18_one_service_is_shown_alone_with_all_its_values() {
        let published = many();
        let asked = Selection::parse("service=s7").expect("a good query");
        let page = page(&published, 1, &asked).expect("a service of this name");
        assert!(keys(&page).iter().all(|key| key.starts_with("services.s7.")));
        let own = json!({ "key": "services.s7.endpoints[0]", "value": "10.0.0.1:8", "from": "p.yaml:10:21" });
        assert!(page["values"].as_array().expect("a list").contains(&own), "{page:#}");
        let unknown =
            super::page(&published, 1, &Selection::Service("s100".into())).expect_err("no such service");
        assert_eq!(unknown.to_string(), "there is no service called \"s100\"");
    }

    #[test]
    fn a_query_that_is_not_valid_gets_a_sentence_with_the_valid_form() {
        for (query, words) in [
            ("page=0", "page is a number from 1"),
            ("page=x", "page is a number from 1"),
            ("limit=10001", "limit is a number from 1 to 10000"),
            ("limit", "limit is a number"),
            ("page=99999999999999999999", "page is a number"),
            ("services=a", "the parameters are page, limit and service"),
            ("service=a&page=2", "all values of a service are on one page"),
        ] {
            assert!(Selection::parse(query).expect_err(query).starts_with(words), "{query}");
        }
        assert_eq!(
            Selection::parse("&page=3&"),
            Ok(Selection::Page { page: 3, limit: DEFAULT_VALUES_PER_PAGE })
        );
    }
}
