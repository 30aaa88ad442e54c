//! `pillion inject` as a command, and its output before the schemas that Kubernetes publishes.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::Scratch;
use crate::support::launched::binary;
use crate::support::tools::{printed, require, require_python};

const POD: &str =
    "apiVersion: v1\nkind: Pod\nmetadata: { name: a }\nspec:\n  containers:\n    - { name: a, image: b }\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn inject(words: &[&str], input: &str) -> Output {
    let mut command = Command::new(binary());
    command.arg("inject").args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn().expect("a program that starts");
    let mut stdin = running.stdin.take().expect("its input");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    running.wait_with_output().expect("it ends")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_manifest_goes_through_standard_input_and_output() {
    let output = inject(&["--all", "--image", "r.example/pillion:7"], POD);
    assert!(output.status.success());
    let manifest = text(&output.stdout);
    assert!(
        manifest.starts_with("apiVersion: v1\nkind: Pod\nmetadata: { name: a, annotations: "),
        "{manifest}"
    );
    assert!(
        manifest.contains("image: r.example/pillion-init:7") && manifest.contains("restartPolicy: Always"),
        "{manifest}"
    );
    assert_eq!(text(&output.stderr), "pillion inject: Pod a: has the sidecar now\n");
    let again = inject(&["--all", "--image", "r.example/pillion:7", "-f", "-"], &manifest);
    assert_eq!(text(&again.stdout), manifest);
    assert_eq!(text(&again.stderr), "pillion inject: Pod a: has the sidecar already\n");
}

#[test]
fn several_files_and_folders_become_one_stream_and_diff_shows_what_changes() {
    let scratch = Scratch::new();
    let file = |name: &str, text: &str| {
        let path = scratch.path().join(name);
        fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let (one, other) = (file("one.yaml", POD), file("two.yml", "kind: Other\n"));
    file("notes.txt", "no manifest");
    let folder = scratch.path().display().to_string();
    let output = inject(&["--all", "-f", &folder], "");
    assert_eq!(text(&output.stdout), text(&inject(&["--all", "-f", &one, "-f", &other], "").stdout));
    assert!(text(&output.stdout).ends_with("\n---\nkind: Other\n"), "{output:?}");
    let difference = text(&inject(&["--all", "--diff", "-f", &folder], "").stdout);
    assert!(difference.starts_with(&format!("--- {one}\n+++ {one} with the sidecar\n@@ ")), "{difference}");
    let nothing = inject(&["--diff", "-f", &folder], "");
    assert_eq!((nothing.status.code(), text(&nothing.stdout)), (Some(0), String::new()));
    assert!(
        text(&nothing.stderr).contains("Pod a: is left as it is: nothing asks for a sidecar"),
        "{nothing:?}"
    );
}

#[test]
fn faults_of_all_files_are_told_and_nothing_is_printed() {
    let scratch = Scratch::new();
    let mut words = vec!["--all".to_owned()];
    for name in ["a.yaml", "b.yaml"] {
        let file = scratch.path().join(name);
        fs::write(&file, POD.replace("name: a }", "name: a, annotations: { pillion.io/mode: x } }"))
            .expect("written");
        words.extend(["-f".to_owned(), file.display().to_string()]);
    }
    let output = inject(&words.iter().map(String::as_str).collect::<Vec<_>>(), "");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), String::new()));
    let told = text(&output.stderr);
    assert!(told.contains("a.yaml:3:") && told.contains("b.yaml:3:"), "{told}");
    for (words, code) in [(&["-f", "/nowhere.yaml"][..], 1), (&["--nothing"], 2), (&["-f", "/dev/null/x"], 1)]
    {
        assert_eq!(inject(words, "").status.code(), Some(code), "{words:?}");
    }
}

/// The manifests that `pillion inject` writes, and those of `deploy`.
#[tokio::test]
async fn what_inject_writes_is_valid_for_the_schemas_of_kubernetes() {
    if !require_python("kubernetes_validate, yaml") {
        return;
    }
    let files = |folder: &str| {
        let files =
            fs::read_dir(root().join(folder)).expect("a folder").map(|file| file.expect("an entry").path());
        let is_manifest = |file: &PathBuf| file.extension().is_some_and(|it| it == "yaml" || it == "json");
        // Kubernetes reads tabs behind a value, and PyYAML does not
        files.filter(is_manifest).filter(|file| !file.ends_with("tabs.yaml")).collect::<Vec<_>>()
    };
    let mut validate = Command::new("python3");
    validate.arg(root().join("tests/support/validate_manifests.py"));
    validate.args(files("proxy/inject/tests/corpus/out")).args(files("deploy"));
    let told: Value = serde_json::from_str(&printed(validate).await).expect("JSON");
    assert_eq!(told["wrong"], serde_json::json!([]));
    assert!(told["valid"].as_u64().is_some_and(|valid| valid > 100), "{told}");
}

fn helm(words: &[&str]) -> Command {
    let mut command = Command::new("helm");
    command.args(words).arg(root().join("deploy/webhook/chart"));
    command
}

/// The manifests of the chart with these values.
async fn rendered(values: &[&str]) -> String {
    let mut command = helm(&["template", "pillion-webhook", "--namespace", "pillion"]);
    command.args(values.iter().flat_map(|value| ["--set", value]));
    printed(command).await
}

#[tokio::test]
async fn the_chart_of_the_webhook_is_valid_and_is_the_base_for_kustomize() {
    if !(require("helm") && require("kubectl") && require_python("kubernetes_validate, yaml")) {
        return;
    }
    printed(helm(&["lint", "--strict"])).await;
    let own = rendered(&["certManager.enabled=false", "caBundle=Q0E="]).await;
    assert!(own.contains("caBundle: \"Q0E=\"") && !own.contains("cert-manager"), "{own}");
    let usual = rendered(&[]).await;
    // an authority that is renewed with the same key signs the certificate, which therefore does not sign itself
    for expected in [
        "  isCA: true\n",
        "  secretName: pillion-webhook-ca\n",
        "  issuerRef: { name: pillion-webhook-bootstrap }\n  privateKey: { algorithm: ECDSA, rotationPolicy: Never }\n",
        "  name: pillion-webhook\nspec:\n  ca: { secretName: pillion-webhook-ca }\n",
        "  issuerRef: { name: pillion-webhook }\n",
    ] {
        assert!(usual.contains(expected), "{expected}: {usual}");
    }
    let scratch = Scratch::new();
    let mut kustomize = Command::new("kubectl");
    kustomize.arg("kustomize").arg(root().join("deploy/webhook/kustomize"));
    let base = scratch.write("base.yaml", printed(kustomize).await);
    is_made_of_the_chart(&usual);
    let mut validate = Command::new("python3");
    validate.arg(root().join("tests/support/validate_manifests.py"));
    validate.args([scratch.write("own.yaml", own), scratch.write("usual.yaml", usual), base]);
    let told: Value = serde_json::from_str(&printed(validate).await).expect("JSON");
    assert_eq!(told["wrong"], serde_json::json!([]));
    assert_eq!(
        told["valid"], 24,
        "four kinds, two versions, two charts and the base; those of cert-manager have no schema here"
    );
}

fn is_made_of_the_chart(usual: &str) {
    const HEAD: &str = "# Made from deploy/webhook/chart with its default values: PILLION_WRITE_DOCUMENTS=1 cargo test --test e2e inject::\n";
    let base = root().join("deploy/webhook/kustomize/manifests.yaml");
    let made = format!("{HEAD}{usual}");
    if std::env::var_os("PILLION_WRITE_DOCUMENTS").is_some() {
        fs::write(&base, &made).expect("written");
    }
    assert_eq!(fs::read_to_string(&base).expect("a file"), made);
}
