//! `/config`: what this sidecar was told in the end, and where each value came from. Flat, so that it can be searched.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::console::{Refusal, Told};

/// `generation`: of the snapshot that is read by the data path.
pub(super) fn page(told: &Told, generation: u64) -> Value {
    let settings = told.settings.iter().map(|setting| {
        (setting.key.clone(), json!({ "value": setting.value, "from": setting.from.to_string() }))
    });
    json!({
        "generation": generation,
        "loaded_at": told.loaded_at.and_then(moment),
        "file": told.file.as_ref().map(|file| file.display().to_string()),
        "last_refusal": told.latest_refusal().map(refusal),
        "values": settings.collect::<Map<_, _>>(),
    })
}

pub(super) fn refusal(refusal: &Refusal) -> Value {
    json!({ "at": moment(refusal.at), "why": refusal.why })
}

/// `2026-11-21T11:00:00Z`, to the second; null for what no calendar knows.
fn moment(at: SystemTime) -> Option<String> {
    let seconds = i64::try_from(at.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()?;
    OffsetDateTime::from_unix_timestamp(seconds).ok()?.format(&Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_names_generation_file_refusal_and_every_value_with_its_origin() {
        let text = "inbound: off\nservices:\n  orders: { endpoints: [\"10.0.0.1:80\"] }\n";
        let (config, _) = pillion_config::parse(text, std::path::Path::new("")).expect("a good file");
        let written = pillion_config::Written { name: "p.yaml", text };
        let told = Told {
            loaded_at: Some(UNIX_EPOCH + Duration::from_secs(1_795_258_800)),
            file: Some("p.yaml".into()),
            settings: pillion_config::effective(&config, Some(written), &[]),
            last_refusal: Some(Refusal { at: UNIX_EPOCH, why: "p.yaml:1:1: error: no".into() }),
            certificates_refused: None,
            credentials: Vec::new(),
        };
        let page = page(&told, 3);
        assert_eq!((&page["generation"], &page["file"]), (&json!(3), &json!("p.yaml")));
        assert_eq!(page["loaded_at"], "2026-11-21T11:00:00Z");
        assert_eq!(
            page["last_refusal"],
            json!({ "at": "1970-01-01T00:00:00Z", "why": "p.yaml:1:1: error: no" })
        );
        let endpoint = json!({ "value": "10.0.0.1:80", "from": "p.yaml:3:25" });
        assert_eq!(page["values"]["services.orders.endpoints[0]"], endpoint);
    }
}
