//! What a later run changes in what an earlier one wrote, and what it keeps.

use super::*;

#[test]
fn a_changed_annotation_changes_what_an_earlier_run_wrote() {
    let first = injected(&pod(""));
    for annotations in [
        "    pillion.io/image: r.example/pillion:2\n",
        "    pillion.io/mode: tproxy\n",
        "    pillion.io/mode: explicit\n    pillion.io/app-port: \"80\"\n",
        "    pillion.io/native-sidecar: \"false\"\n",
        "    pillion.io/identity-secret: certs\n",
        "    pillion.io/log-volume: /logs\n",
        "    pillion.io/exclude-outbound-ports: \"25\"\n",
        "    pillion.io/config-inline: \"dns: {}\"\n",
        "    pillion.io/memory-limit: 1Gi\n",
    ] {
        let later = injected(&changed(&first, MARK, &format!("{MARK}{annotations}")));
        let at_once = injected(&pod(annotations));
        assert!(
            same(&read_one(&later), &read_one(&at_once)),
            "{annotations}\n{}",
            diff("f", &at_once, &later)
        );
        let back = injected(&changed(&later, annotations, ""));
        let expected = match annotations.contains("native-sidecar") {
            true => {
                changed(&first, MARK, &format!("{MARK}    kubectl.kubernetes.io/default-container: app\n"))
            }
            false => first.clone(),
        };
        assert!(same(&read_one(&back), &read_one(&expected)), "{annotations}\n{}", diff("f", &first, &back));
    }
}

#[test]
fn what_others_added_to_the_sidecar_stays() {
    let first = injected(&pod(""));
    let added = "      volumeMounts: [{ name: kube-api-access-x7, mountPath: /var/run/secrets/kubernetes.io/serviceaccount }] # theirs\n";
    let with_mount = format!("{first}{added}");
    assert_eq!(injected(&with_mount), with_mount);
    let annotations = "    pillion.io/identity-secret: certs\n    pillion.io/cpu: 50m\n";
    let later = injected(&changed(&with_mount, MARK, &format!("{MARK}{annotations}")));
    for expected in
        ["name: kube-api-access-x7", "# theirs", "name: pillion-identity", "cpu: 50m", "memory: 128Mi"]
    {
        assert!(later.contains(expected), "{expected}: {later}");
    }
    let back = injected(&changed(&later, annotations, ""));
    assert!(same(&read_one(&back), &read_one(&with_mount)), "{}", diff("f", &with_mount, &back));
}

#[test]
fn a_sidecar_that_stays_in_a_refused_template_is_told() {
    let refusal = "    pillion.io/inject: \"false\"\n";
    for (text, expected) in [
        (pod(refusal), Outcome::Refused),
        (changed(&injected(&pod("")), MARK, &format!("{MARK}{refusal}")), Outcome::RefusedAndStays),
    ] {
        let injected = inject("f", &text, &options()).unwrap();
        assert_eq!((&injected.text, &injected.notes[0].outcome), (&text, &expected));
    }
    let note = Note { workload: "Pod a".to_owned(), outcome: Outcome::RefusedAndStays };
    assert!(note.to_string().contains("the sidecar of an earlier run stays"), "{note}");
}
