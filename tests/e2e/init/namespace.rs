//! What a run leaves in the namespace: a second run changes nothing, `--undo` removes everything, and foreign rules
//! stay.

use super::{BACKENDS, everything, hear, hosts, init, init_behind, listen, refused, rules, shell, text};
use crate::support::namespace::{Hosts, Namespace, families};

/// Rules of other programs in every rule set, with names that look like those of Pillion.
const FOREIGN: &str = "
    nft 'table inet filter { chain input { type filter hook input priority 0; tcp dport 1 drop; }; }'
    nft 'table ip pillion { chain output { type nat hook output priority -100; tcp dport 2 return; }; }'
    for v in iptables-nft ip6tables-nft; do
        $v -t nat -N PILLION_OUTPUT_OLD
        $v -t nat -A OUTPUT -p tcp --dport 3 -j PILLION_OUTPUT_OLD
        $v -t nat -A OUTPUT -m comment --comment 'OUTPUT -j PILLION_OUTPUT' -p tcp --dport 4 -j RETURN
        $v -t filter -A INPUT -p tcp --dport 5 -j DROP
    done
    ip rule add pref 1000 fwmark 0x539/0xffff lookup 1337
    ip -6 address add ::7/128 dev lo";

const LEGACY: &str = "
    for v in iptables-legacy ip6tables-legacy; do
        $v -t nat -N MY_PILLION_OUTPUT
        $v -t nat -A OUTPUT -p tcp --dport 6 -j MY_PILLION_OUTPUT
        $v -t nat -A MY_PILLION_OUTPUT -p tcp -j RETURN
        $v -t mangle -A PREROUTING -p tcp --dport 7 -j MARK --set-mark 7
        $v -t raw -S
    done";

/// The options that need the most rules, for each mode.
fn all(backend: &str) -> [Vec<&str>; 2] {
    let words = ["--backend", backend, "--dns", "--proxy-gid", "1338", "--exclude-interfaces", "cable,no*"];
    ["redirect", "tproxy"].map(|mode| [&["--mode", mode], &words[..]].concat())
}

/// Whether all lines of `part` are in `whole`, in their order.
fn holds(whole: &str, part: &str) -> bool {
    let mut lines = whole.lines();
    part.lines().all(|line| lines.any(|other| other == line))
}

#[tokio::test]
async fn a_second_run_changes_nothing_and_undo_leaves_nothing() {
    for backend in BACKENDS {
        let Some(Hosts { pod, world: _world }) = hosts() else { return };
        if backend == "iptables-legacy" {
            shell(
                &pod,
                "for v in iptables ip6tables; do for t in raw mangle nat; do $v-legacy -w 30 -t $t -S; done; done",
            )
            .await;
        }
        let before = everything(&pod).await;
        for words in all(backend) {
            let said = init(&pod, &words).await;
            assert!(said.contains(&format!("backend {backend}: as asked\n")), "{said}");
            let installed = everything(&pod).await;
            assert_ne!(installed, before);
            let said = init(&pod, &words).await;
            assert!(said.contains("nothing changed"), "{said}");
            assert_eq!(everything(&pod).await, installed, "{words:?}");
        }
        let said = init(&pod, &["--undo"]).await;
        assert!(said.contains("removed ") && said.contains("the address ::6 from lo"), "{said}");
        assert_eq!(everything(&pod).await, before, "{backend}");
        let said = init(&pod, &["--undo"]).await;
        assert!(said.contains("this network namespace has no rules of pillion"), "{said}");
    }
}

#[tokio::test]
async fn rules_of_others_stay_as_they_were() {
    for backend in BACKENDS {
        let Some(Hosts { pod, world: _world }) = hosts() else { return };
        shell(&pod, &format!("{FOREIGN}{LEGACY}")).await;
        let before = everything(&pod).await;
        for words in all(backend) {
            init(&pod, &words).await;
            let installed = everything(&pod).await;
            let foreign = before.lines().filter(|line| line.contains("dport") || line.starts_with("-A"));
            for rule in foreign {
                assert!(installed.lines().any(|line| line == rule), "{rule} is gone from {installed}");
            }
            assert!(init(&pod, &words).await.contains("nothing changed"), "{words:?}");
            assert_eq!(everything(&pod).await, installed, "{words:?}");
        }
        init(&pod, &["--undo"]).await;
        assert_eq!(everything(&pod).await, before, "{backend}");
    }
}

#[tokio::test]
async fn undo_removes_nothing_while_a_foreign_rule_jumps_to_ours() {
    for variant in ["nft", "legacy"] {
        let Some(Hosts { pod, world: _world }) = hosts() else { return };
        let iptables = format!("iptables-{variant}");
        init(&pod, &["--backend", &iptables]).await;
        shell(&pod, &format!("{iptables} -t nat -N X; {iptables} -t nat -A X -j PILLION_OUTPUT")).await;
        let before = rules(&pod).await;
        let said = refused(pod.enter(), &["--undo"]).await;
        assert!(said.contains("Nothing was removed") && said.contains("remove that rule first"), "{said}");
        assert_eq!(rules(&pod).await, before);
        shell(&pod, &format!("{iptables} -t nat -F X")).await;
        init(&pod, &["--undo"]).await;
    }
}

#[tokio::test]
async fn runs_at_the_same_time_wait_for_each_other() {
    for backend in BACKENDS {
        let Some(Hosts { pod, world: _world }) = hosts() else { return };
        let words = ["--backend", backend, "--mode", "tproxy"];
        let (one, two, three) = tokio::join!(init(&pod, &words), init(&pod, &words), init(&pod, &words));
        let unchanged = [one, two, three].iter().filter(|said| said.contains("nothing changed")).count();
        assert_eq!(unchanged, 2, "{backend}");
    }
}

#[tokio::test]
async fn rules_that_iptables_cannot_read_are_reported() {
    let Some(Hosts { pod, world: _world }) = hosts() else { return };
    init(&pod, &["--backend", "iptables-nft"]).await;
    shell(&pod, "nft add rule ip nat OUTPUT ct state new accept").await;
    let said = init(&pod, &["--undo"]).await;
    assert!(said.contains("iptables-nft cannot read the table nat (IPv4)"), "{said}");
    assert!(said.contains("from the table nat (iptables-nft, IPv6)"), "{said}");
}

/// Whatever rules of Pillion the namespace had before, the next run replaces them.
#[tokio::test]
async fn another_backend_and_other_options_replace_the_rules_of_the_last_run() {
    let Some(Hosts { pod: fresh, world: walked }) = hosts() else { return };
    let legacy_tables =
        "for v in iptables ip6tables; do for t in raw mangle nat; do $v-legacy -w 30 -t $t -S; done; done";
    for host in [&fresh, &walked] {
        shell(host, legacy_tables).await;
    }
    for backend in BACKENDS.into_iter().chain(["iptables-nft", "nft"]) {
        for words in all(backend) {
            init(&walked, &words).await;
            init(&fresh, &words).await;
            assert_eq!(rules(&walked).await, rules(&fresh).await, "{words:?}");
            init(&fresh, &["--undo"]).await;
        }
    }
}

#[tokio::test]
async fn the_backend_is_chosen_by_what_is_installed_and_reported() {
    let Some(Hosts { pod, world }) = hosts() else { return };
    let said = init(&pod, &[]).await;
    assert!(said.contains("backend nft: nft is here and the kernel takes the rules\n"), "{said}");
    assert!(said.contains("mode redirect for IPv4 and IPv6 are installed\n"), "{said}");
    shell(&world, LEGACY).await;
    let said = init(&world, &[]).await;
    assert!(
        said.contains("backend iptables-legacy: this namespace has rules of this kind already\n"),
        "{said}"
    );
    assert!(init(&world, &[]).await.contains("nothing changed"), "its own rules are no reason to move");
}

#[tokio::test]
async fn a_plan_run_by_a_shell_is_what_a_run_does() {
    for backend in BACKENDS {
        let Some(Hosts { pod, world }) = hosts() else { return };
        for words in all(backend) {
            let before = everything(&pod).await;
            let planned = init_behind(pod.enter(), &[&words[..], &["--plan"]].concat()).await;
            assert!(planned.status.success(), "{}", text(&planned.stderr));
            assert_eq!(everything(&pod).await, before, "a plan changes nothing");
            shell(&pod, &text(&planned.stdout)).await;
            init(&world, &words).await;
            assert_eq!(everything(&pod).await, everything(&world).await, "{words:?}");
            assert!(init(&pod, &words).await.contains("nothing changed"), "{words:?}");
            let planned = init_behind(pod.enter(), &[&words[..], &["--plan"]].concat()).await;
            let script = text(&planned.stdout);
            assert!(
                script.lines().all(|line| line.starts_with("# ")) && script.contains("15001"),
                "{script}"
            );
        }
        let planned = init_behind(pod.enter(), &["--undo", "--plan"]).await;
        shell(&pod, &text(&planned.stdout)).await;
        init(&world, &["--undo"]).await;
        assert_eq!(everything(&pod).await, everything(&world).await, "{backend}");
    }
}

#[tokio::test]
async fn a_plan_needs_no_privilege() {
    let Some(Hosts { pod, world: _world }) = hosts() else { return };
    let mut nobody = pod.enter();
    nobody.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    let planned = init_behind(nobody, &["--plan"]).await;
    let (script, said) = (text(&planned.stdout), text(&planned.stderr));
    assert!(planned.status.success(), "{said}");
    assert!(holds(&script, "table inet pillion {\n\t\tmeta l4proto tcp redirect to :15001\n"), "{script}");
    assert!(said.contains("without CAP_NET_ADMIN"), "{said}");
}

async fn without_ipv6(host: &Namespace) {
    shell(host, "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1").await;
}

/// A namespace without IPv6, as in a container that never had it. Both hosts stay to the end: the link between them, whose files
/// are written here, goes with either one.
#[tokio::test]
async fn ipv6_that_no_interface_has_counts_as_absent() {
    let Some(Hosts { pod, world: _world }) = hosts() else { return };
    let off = "cd /proc/sys/net/ipv6/conf; for of in *; do [ $of = all ] || echo 1 >$of/disable_ipv6; done";
    shell(&pod, off).await;
    let left = shell(&pod, "grep . /proc/sys/net/ipv6/conf/*/disable_ipv6; cat /proc/net/if_inet6").await;
    let said = init(&pod, &[]).await;
    assert!(
        said.contains("there are no rules for IPv6"),
        "init printed:\n{said}although the kernel has:\n{left}"
    );
}

#[tokio::test]
async fn without_ipv6_its_rules_are_left_out_and_the_output_says_so() {
    for backend in BACKENDS {
        let Some(hosts) = hosts() else { return };
        let pod = &hosts.pod;
        without_ipv6(pod).await;
        let before = everything(pod).await;
        for words in all(backend) {
            let said = init(pod, &words).await;
            assert!(
                said.contains("there are no rules for IPv6: this network namespace has no IPv6\n"),
                "{said}"
            );
            assert!(said.contains("for IPv4 are installed\n"), "{said}");
            let installed = everything(pod).await;
            assert!(!installed.contains("ip6") && !installed.contains("::6"), "{installed}");
            assert!(init(pod, &words).await.contains("nothing changed"), "{words:?}");
        }
        init(pod, &["--backend", backend]).await;
        let _sidecar = listen(pod.enter_as_sidecar(), &["outbound@127.0.0.1:15001".to_owned()]).await;
        let [v4, _] = families();
        let called = std::net::SocketAddr::new(v4.service, 80);
        assert_eq!(
            hear(pod.enter(), called).await,
            format!("outbound {called} from {}", v4.pod),
            "{backend}"
        );
        // Rules that were installed while there was IPv6 are removed too.
        shell(pod, "sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0").await;
        init(pod, &["--backend", backend]).await;
        without_ipv6(pod).await;
        init(pod, &["--undo"]).await;
        assert!(!rules(pod).await.contains("PILLION"), "{backend}");
        if backend != "iptables-legacy" {
            assert_eq!(everything(pod).await, before, "{backend}");
        }
    }
}
