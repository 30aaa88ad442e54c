//! Pods and annotations that are refused, with the place of the fault.

use super::*;

#[test]
fn log_files_are_mounted_where_nothing_else_is() {
    let logs = |folder: &str| format!("    pillion.io/log-volume: {folder}\n");
    let mounted = |folder: &str| {
        format!("{}      volumeMounts: [{{ name: data, mountPath: /data/ }}]\n", pod(&logs(folder)))
    };
    for (folder, expected) in [
        ("/data", "where the container app has another volume"),
        ("//data/.", "where the container app has another volume"),
        ("/etc/pillion", "and the sidecar has /etc/pillion for itself"),
        ("/etc/pillion/logs", "and the sidecar has /etc/pillion for itself"),
        ("/var/run", "and the sidecar has /var/run/pillion/identity for itself"),
        ("/pillion", "and the sidecar has /pillion for itself"),
    ] {
        let told = refused(&mounted(folder));
        assert!(told.contains(expected) && told.contains("name another folder"), "{told}");
    }
    let text = injected(&mounted("/data/logs"));
    assert_eq!(injected(&text), text);

    let first = "  initContainers:\n    - { name: shipper, image: i, restartPolicy: Always }\n    - { name: setup, image: i }\n";
    let others = changed(&pod(&logs("/logs")), "  containers:\n", &format!("{first}  containers:\n"));
    let text = injected(&others);
    assert_eq!(injected(&text), text);
    let mounts = |text: &str, nth: usize| {
        read_one(text).at(&["spec", "initContainers"]).unwrap().items()[nth].get("volumeMounts").is_some()
    };
    assert_eq!([mounts(&text, 1), mounts(&text, 2), mounts(&text, 3)], [true, true, false], "{text}");
    let without = injected(&changed(&text, &logs("/logs"), ""));
    assert!(!without.contains("pillion-logs"), "{without}");
    let ending = text.replace("image: i, restartPolicy: Always", "image: i");
    assert!(!mounts(&injected(&ending), 2), "{ending}");
}

#[test]
fn faults_of_several_workloads_are_told_in_the_order_of_the_file() {
    let text = format!("{}---\n{}", pod("    pillion.io/mode: a\n"), pod("    pillion.io/mode: b\n"));
    let told = refused(&text);
    let places: Vec<&str> = told.lines().filter_map(|line| line.split(": error").next()).collect();
    assert_eq!(places, ["f:7:5", "f:20:5"], "{told}");
}

#[test]
fn a_pod_that_ends_by_itself_has_no_classic_sidecar() {
    let owner = |kind: &str| format!("  ownerReferences: [{{ kind: {kind}, name: import }}]\n");
    let classic = "    pillion.io/native-sidecar: \"false\"\n";
    let with =
        |metadata: &str, spec: &str| changed(&pod(classic), "spec:\n", &format!("{metadata}spec:\n{spec}"));
    for (text, expected) in [
        (with(&owner("Job"), ""), "the pod of a job would never end"),
        (with("", "  restartPolicy: Never\n"), "the pod with `restartPolicy: Never` would never end"),
        (with("", "  restartPolicy: OnFailure\n"), "the pod with `restartPolicy: OnFailure` would never end"),
    ] {
        let told = refused(&text);
        assert!(told.contains(expected) && told.contains("leave pillion.io/native-sidecar out"), "{told}");
        injected(&text.replace(classic, ""));
    }
    injected(&with(&owner("ReplicaSet"), "  restartPolicy: Always\n"));
}

#[test]
fn what_cannot_be_a_pod_is_refused_with_its_place() {
    for (text, expected) in [
        ("spec: {}", "the pod has no list of containers"),
        ("spec: { containers: [a] }", "`containers` is no list of maps with names"),
        ("spec: { containers: [{ name: a }], volumes: {} }", "`volumes` is no list of maps with names"),
        ("spec: { containers: [{ name: a, volumeMounts: 1 }] }", "`volumeMounts` of a container is no list"),
        ("metadata: []", "the metadata of the pod are no map"),
        ("spec: { containers: [{ name: a, [x]: y }] }", "a key of this map is not a text"),
    ] {
        let told = refused(&format!("apiVersion: v1\nkind: Pod\n{text}\n"));
        assert!(told.contains(expected) && told.starts_with("f:"), "{told}");
    }
}

#[test]
fn an_anchor_that_another_object_uses_is_not_changed_for_it() {
    let text = "apiVersion: v1\nkind: List\nitems:\n  - apiVersion: v1\n    kind: Pod\n    metadata: &meta { name: a, annotations: \
                { pillion.io/inject: \"true\" } }\n    spec: { containers: [{ name: a, image: b }] }\n  - apiVersion: v1\n    kind: \
                ConfigMap\n    metadata: *meta\n";
    assert!(refused(text).contains("write the parts of the pods that anchors and aliases share out"));
}
