//! Answers the question of an API server about an object that is being created (AdmissionReview, admission.k8s.io/v1).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::fault::Fault;
use crate::input::{Input, UnknownConfig};
use crate::patch::patch;
use crate::value::Value;
use crate::workload::workloads;
use crate::write::{Syntax, flow};
use crate::{Options, Outcome, inject_one, json};

const VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
/// A large pod has some thousands, and a question has the object twice at most. A value takes some hundred bytes, so that
/// a question's values take some tens of megabytes at most.
const MOST_VALUES: usize = 100_000;
/// The characters of the name of a pod with its namespace that are told. Kubernetes allows 63 and 253.
const LONGEST_NAME: usize = 320;

/// The answer to a review, and what the one who runs the webhook should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reviewed {
    /// The `AdmissionReview` with the answer.
    pub answer: String,
    /// For example `shop/web-5d9c-`: a pod that a controller creates has no name yet.
    pub pod: String,
    /// The warnings of the answer. They reach the client that creates the pod, which may be a controller that does not read them.
    pub warnings: Vec<String>,
}

/// The answer to a review: a patch that adds the sidecar, nothing, or a refusal with a sentence. The object is asked for by the
/// selectors of the webhook's configuration: the annotations of a namespace are not in a review.
///
/// # Errors
/// The text is no review.
pub fn review(text: &str, image: &str) -> Result<Reviewed, Fault> {
    let no_review = || Fault::of_file(format!("this is no {KIND} of {VERSION} with a request"));
    let read = json::read_some(text, MOST_VALUES).map_err(|_too_many| {
        Fault::of_file(format!("this {KIND} has more than {MOST_VALUES} values, keys among them"))
    })?;
    let tree = read.ok_or_else(no_review)?;
    let review =
        tree.documents.first().ok_or_else(no_review).and_then(|slot| tree.value(slot, &mut tree.room()))?;
    let is_review =
        review.text_at(&["kind"]) == Some(KIND) && review.text_at(&["apiVersion"]) == Some(VERSION);
    let uid = review.text_at(&["request", "uid"]).filter(|_| is_review).ok_or_else(no_review)?;
    let object = review.at(&["request", "object"]).unwrap_or(&Value::Null);
    let response = Value::map([("uid", Value::text(uid))]);
    let mut told = Vec::new();
    let response = match changed(object, image) {
        Ok((new, warnings)) => {
            let response = with_patch(response.with("allowed", Value::Bool(true)), object, &new);
            told.clone_from(&warnings);
            if warnings.is_empty() { response } else { response.with("warnings", Value::texts(&warnings)) }
        }
        Err(why) => {
            let status = Value::map([("code", Value::number(400)), ("message", Value::text(why))]);
            response.with("allowed", Value::Bool(false)).with("status", status)
        }
    };
    let answer = Value::map([
        ("apiVersion", Value::text(VERSION)),
        ("kind", Value::text(KIND)),
        ("response", response),
    ]);
    Ok(Reviewed { answer: flow(&answer, Syntax::Compact), pod: called(&review, object), warnings: told })
}

/// The namespace and the name of a pod, or what its name begins with.
fn called(review: &Value, object: &Value) -> String {
    let name = ["name", "generateName"].into_iter().find_map(|key| object.text_at(&["metadata", key]));
    let namespace = review.text_at(&["request", "namespace"]).unwrap_or_default();
    let called = format!("{namespace}/{}", name.unwrap_or_default());
    called.chars().take(LONGEST_NAME).collect()
}

fn with_patch(response: Value, object: &Value, new: &Value) -> Value {
    if new == object {
        return response;
    }
    let patch = STANDARD.encode(patch(object, new));
    response.with("patchType", Value::text("JSONPatch")).with("patch", Value::text(patch))
}

/// The object with the sidecar, and what the one who creates it should know; or the sentences that say why it cannot have one.
fn changed(object: &Value, image: &str) -> Result<(Value, Vec<String>), String> {
    let options = Options { all: true, image: image.to_owned() };
    let (mut new, input) = (object.clone(), Input::default());
    let (mut warnings, mut refused) = (Vec::new(), Vec::new());
    for workload in workloads(object) {
        match inject_one(&mut new, &workload, &options, &input) {
            Ok(outcomes) => {
                let assumed = outcomes.iter().filter(|outcome| {
                    matches!(outcome, Outcome::ConfigUnknown(UnknownConfig { is_kept: false, .. }))
                });
                warnings.extend(assumed.map(|outcome| format!("pillion: {outcome}")));
            }
            Err(wrong) => refused.extend(wrong.into_iter().map(|wrong| match wrong.help.as_str() {
                "" => wrong.message,
                help => format!("{}. help: {help}", wrong.message),
            })),
        }
    }
    if refused.is_empty() { Ok((new, warnings)) } else { Err(format!("pillion: {}", refused.join("; "))) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn asked(object: &Value) -> Value {
        let review =
            json!({ "apiVersion": VERSION, "kind": KIND, "request": { "uid": "u-1", "object": object } });
        let answer = review_of(&review.to_string());
        assert_eq!((&answer["kind"], &answer["response"]["uid"]), (&json!(KIND), &json!("u-1")));
        answer["response"].clone()
    }

    fn review_of(text: &str) -> Value {
        serde_json::from_str(&review(text, "pillion:0.1.0").unwrap().answer).unwrap()
    }

    /// Applies the operations that this crate writes (RFC 6902).
    fn patched(mut object: Value, patch: &Value) -> Value {
        for operation in patch.as_array().unwrap() {
            let path = operation["path"].as_str().unwrap();
            let (parent, last) = path.rsplit_once('/').unwrap();
            let last = last.replace("~1", "/").replace("~0", "~");
            let parent = object.pointer_mut(parent).unwrap_or_else(|| unreachable!("{path}"));
            let value = operation["value"].clone();
            match (operation["op"].as_str().unwrap(), parent) {
                ("add", Value::Array(items)) => items.insert(last.parse().unwrap(), value),
                ("remove", Value::Array(items)) => drop(items.remove(last.parse().unwrap())),
                ("replace", Value::Array(items)) => items[last.parse::<usize>().unwrap()] = value,
                ("remove", Value::Object(map)) => assert!(map.remove(&last).is_some(), "{path}"),
                ("add" | "replace", Value::Object(map)) => drop(map.insert(last, value)),
                other => unreachable!("{other:?}"),
            }
        }
        object
    }

    fn patch_of(response: &Value) -> Value {
        assert_eq!(
            (&response["allowed"], &response["patchType"]),
            (&json!(true), &json!("JSONPatch")),
            "{response}"
        );
        serde_json::from_slice(&STANDARD.decode(response["patch"].as_str().unwrap()).unwrap()).unwrap()
    }

    /// Each pod of the corpus becomes the same by the patch and by `inject`.
    #[test]
    fn a_patch_changes_the_same_as_inject() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/in");
        let options = Options { all: true, image: "pillion:0.1.0".to_owned() };
        let mut compared = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let Ok(tree) = crate::reading::read(&text) else { continue };
            for slot in &tree.documents {
                let Ok(value) = tree.value(slot, &mut tree.room()) else { continue };
                if value.text_at(&["kind"]).is_some_and(|kind| kind.ends_with("List")) {
                    continue; // no webhook is asked about a list
                }
                let old = flow(&value, Syntax::Json);
                let object: Value = serde_json::from_str(&old).unwrap();
                let response = asked(&object);
                match crate::inject("f", &old, &options) {
                    Ok(new) if new.text == old => {
                        assert_eq!(response, json!({ "uid": "u-1", "allowed": true }))
                    }
                    Ok(new) => {
                        let expected: Value = serde_json::from_str(&new.text).unwrap();
                        assert_eq!(patched(object, &patch_of(&response)), expected);
                        compared += 1;
                    }
                    Err(_) => assert_eq!(response["allowed"], json!(false)),
                }
            }
        }
        assert!(compared > 30, "{compared} patches");
    }

    /// What the API server and other webhooks add between the two calls of `reinvocationPolicy: IfNeeded`.
    fn between_calls(pod: &mut Value) {
        let mount = json!({ "name": "kube-api-access-x7", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true });
        let own = pod["spec"]["initContainers"].as_array_mut().unwrap();
        for container in
            own.iter_mut().filter(|container| container["name"].as_str().unwrap().starts_with("pillion"))
        {
            let container = container.as_object_mut().unwrap();
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            mounts.as_array_mut().unwrap().insert(0, mount.clone());
            let variables = container.entry("env").or_insert_with(|| json!([])).as_array_mut().unwrap();
            variables.insert(0, json!({ "name": "REGION", "value": "north" }));
            container.insert("imagePullPolicy".to_owned(), json!("IfNotPresent"));
            container["resources"]["limits"]["ephemeral-storage"] = json!("1Gi");
            container["securityContext"]["procMount"] = json!("Default");
        }
        let volumes = pod["spec"].as_object_mut().unwrap().entry("volumes").or_insert_with(|| json!([]));
        volumes
            .as_array_mut()
            .unwrap()
            .push(json!({ "name": "kube-api-access-x7", "projected": { "sources": [] } }));
    }

    #[test]
    fn a_second_call_keeps_what_was_added_after_the_first() {
        for annotations in
            [json!({}), json!({ "pillion.io/identity-secret": "certs", "pillion.io/mode": "tproxy" })]
        {
            let mut pod = json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a", "annotations": annotations },
                "spec": { "containers": [{ "name": "a" }] },
            });
            pod = patched(pod.clone(), &patch_of(&asked(&pod)));
            between_calls(&mut pod);
            assert_eq!(asked(&pod), json!({ "uid": "u-1", "allowed": true }), "{pod}");

            pod["metadata"]["annotations"]["pillion.io/image"] = json!("pillion:2");
            pod["metadata"]["annotations"]["pillion.io/log-volume"] = json!("/logs");
            let later = patched(pod.clone(), &patch_of(&asked(&pod)));
            for (nth, mounts) in [(0, 1), (1, 2)] {
                let (was, is) = (&pod["spec"]["initContainers"][nth], &later["spec"]["initContainers"][nth]);
                assert_ne!(was["image"], is["image"]);
                assert_eq!(was["volumeMounts"][0], is["volumeMounts"][0]);
                assert!(is["volumeMounts"].as_array().unwrap().len() >= mounts, "{is}");
                for key in ["env", "imagePullPolicy", "resources", "securityContext", "args"] {
                    assert_eq!(was[key], is[key], "{key}");
                }
            }
            assert_eq!(later["spec"]["volumes"].as_array().unwrap().last().unwrap()["name"], "pillion-logs");
        }
    }

    #[test]
    fn defaults_that_are_assumed_for_a_config_map_are_a_warning_in_the_answer() {
        let pod = |annotations: Value| {
            json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a", "annotations": annotations },
                "spec": { "containers": [{ "name": "a" }] },
            })
        };
        let first = pod(json!({ "pillion.io/config": "web" }));
        let response = asked(&first);
        let warning = response["warnings"][0].as_str().unwrap();
        assert!(warning.ends_with("not known here is the ConfigMap (pillion.io/config) web"), "{warning}");
        assert!(warning.len() <= 256, "an API server cuts longer ones: {}", warning.len());
        let again = asked(&patched(first, &patch_of(&response)));
        assert_eq!((&again["patch"], &again["warnings"]), (&Value::Null, &Value::Null), "it has been told");
        assert_eq!(asked(&pod(json!({ "pillion.io/config-inline": "{}" })))["warnings"], Value::Null);
    }

    #[test]
    fn a_review_tells_the_warnings_with_the_namespace_and_the_beginning_of_the_name() {
        let annotations = json!({ "pillion.io/config": "web" });
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "generateName": "web-5d9c-", "annotations": annotations },
            "spec": { "containers": [{ "name": "a" }] },
        });
        let request = json!({ "uid": "u-1", "namespace": "shop", "object": pod });
        let asked = json!({ "apiVersion": VERSION, "kind": KIND, "request": request }).to_string();
        let reviewed = review(&asked, "pillion:0.1.0").unwrap();
        let answer: Value = serde_json::from_str(&reviewed.answer).unwrap();
        assert_eq!(reviewed.pod, "shop/web-5d9c-");
        assert_eq!(
            (json!(reviewed.warnings), 1),
            (answer["response"]["warnings"].clone(), reviewed.warnings.len())
        );
    }

    /// `pillion inject` knew the map, and the webhook sees the pod alone.
    #[test]
    fn a_review_keeps_what_a_run_that_knew_the_config_map_wrote() {
        let config = "{ dns: {}, metrics: { listen: 0.0.0.0:9102 } }";
        let map = format!("kind: ConfigMap\nmetadata: {{ name: web }}\ndata:\n  pillion.yaml: {config:?}\n");
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "a", "annotations": { "pillion.io/config": "web" } },
            "spec": { "containers": [{ "name": "a", "livenessProbe": { "tcpSocket": { "port": 80 } } }] },
        });
        let options = Options { all: true, image: "pillion:0.1.0".to_owned() };
        let files = [("map".to_owned(), map), ("pod".to_owned(), pod.to_string())];
        let all = crate::inject_all(&files, &options);
        let known: Value = serde_json::from_str(&all[1].as_ref().unwrap().text).unwrap();
        assert!(known.to_string().contains("--metrics-port=9102"), "{known}");
        assert_eq!(asked(&known), json!({ "uid": "u-1", "allowed": true }));
    }

    #[test]
    fn a_pod_that_cannot_have_a_sidecar_is_refused_with_the_sentence() {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a" },
            "spec": { "hostNetwork": true, "containers": [{ "name": "a" }] },
        });
        let response = asked(&pod);
        assert_eq!(response["allowed"], json!(false));
        let told = response["status"]["message"].as_str().unwrap();
        assert!(
            told.starts_with("pillion: the pod uses the network of its node (hostNetwork: true)"),
            "{told}"
        );
    }

    #[test]
    fn what_is_not_changed_is_allowed_without_a_patch() {
        let refusing = json!({ "metadata": { "labels": { "pillion.io/inject": "false" } } });
        let refusing = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": refusing["metadata"], "spec": { "containers": [{ "name": "a" }] } });
        for object in [refusing, json!({ "apiVersion": "v1", "kind": "Service" }), Value::Null] {
            assert_eq!(asked(&object), json!({ "uid": "u-1", "allowed": true }), "{object}");
        }
    }

    #[test]
    fn a_review_of_too_many_values_is_an_error_that_says_so() {
        let text = format!("[{}0]", "0,".repeat(2 << 20));
        let told = review(&text, "a").unwrap_err().to_string();
        assert_eq!(told, "this AdmissionReview has more than 100000 values, keys among them");
    }

    #[test]
    fn what_is_no_review_is_an_error() {
        for text in [
            "",
            "{}",
            "a: b",
            "[]",
            "{\"kind\":\"AdmissionReview\",\"apiVersion\":\"admission.k8s.io/v1beta1\",\"request\":{\"uid\":\"1\"}}",
        ] {
            assert!(review(text, "a").is_err(), "{text}");
        }
        let deep = format!("{{\"a\":{}", "[".repeat(100_000));
        assert!(review(&deep, "a").is_err());
    }
}
