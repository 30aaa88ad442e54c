//! Keeps what an earlier run knew of a configuration that a later run does not know: the webhook sees the pod alone, and has no
//! `ConfigMap`. What the earlier run wrote says which ports, sides and addresses the configuration has.

use crate::probes::number;
use crate::sidecar::{
    CONFIG_VOLUME, INBOUND_PORT, INIT, Local, METRICS_PORT, Plan, Ports, SIDECAR, as_passed,
};
use crate::value::Value;
use crate::wishes::Mode;

/// Takes the settings of an earlier run from a template. Returns whether it has some of a configuration of this name: those of another
/// configuration do not count.
pub(crate) fn keep(plan: &mut Plan<'_>, template: &Value, config_map: &str) -> bool {
    let found = |list: &str, name: &str| {
        let items = template.at(&["spec", list]).map_or(&[][..], Value::items);
        items.iter().find(|item| item.name() == Some(name))
    };
    let container = |name: &str| found("initContainers", name).or_else(|| found("containers", name));
    let mounts = found("volumes", CONFIG_VOLUME).and_then(|volume| volume.text_at(&["configMap", "name"]));
    let Some(sidecar) = container(SIDECAR).filter(|_| mounts == Some(config_map)) else { return false };
    match (container(INIT), plan.wishes.mode) {
        (Some(init), _) => {
            keep_sidecar(plan, sidecar);
            keep_rules(plan, init);
            true
        }
        (None, Mode::Explicit) => {
            keep_sidecar(plan, sidecar);
            true
        }
        // the sidecar alone does not say what the rules need
        (None, _) => false,
    }
}

/// What the container of the sidecar says. The ports of the rules are the same, and are added by [`keep_rules`].
fn keep_sidecar(plan: &mut Plan<'_>, sidecar: &Value) {
    let ports = sidecar.get("ports").map_or(&[][..], Value::items);
    let port = |name: &str| {
        let port = ports.iter().find(|port| port.name() == Some(name))?;
        number(port.get("containerPort"), &Value::Null)
    };
    let (wait, drain) = (hook(sidecar, "wait", "--metrics"), hook(sidecar, "drain", "--admin"));
    let metrics = port(METRICS_PORT).unwrap_or(Local::USUAL.metrics.port());
    let mut usual = Local::USUAL;
    usual.metrics.set_port(metrics);
    plan.local = Local { admin: drain.unwrap_or(usual.admin), metrics: wait.unwrap_or(usual.metrics) };
    let inbound = port(INBOUND_PORT);
    plan.has_inbound = inbound.is_some();
    plan.ports = Ports {
        inbound: inbound.unwrap_or(Ports::USUAL.inbound),
        admin: plan.local.admin.port(),
        metrics,
        ..Ports::USUAL
    };
}

/// The address that a command of the sidecar asks, if that is another than usual.
fn hook(sidecar: &Value, command: &str, flag: &str) -> Option<std::net::SocketAddr> {
    let places = [["lifecycle", "preStop"], ["lifecycle", "postStart"]].into_iter();
    let hooks = places.filter_map(|place| sidecar.at(&place)).chain(sidecar.get("startupProbe"));
    let mut commands = hooks.filter_map(|hook| hook.at(&["exec", "command"]));
    let words = commands.find(|words| words.items().get(1).and_then(Value::as_text) == Some(command))?;
    let mut words = words.items().iter().filter_map(Value::as_text);
    words.find(|word| *word == flag)?;
    words.next()?.strip_prefix("http://")?.parse().ok()
}

/// What the arguments of `pillion init` say. Ports that the annotations exclude are among those of listeners of the application, and
/// so one stays excluded when its annotation is taken away.
fn keep_rules(plan: &mut Plan<'_>, init: &Value) {
    let words = init.get("args").map_or(&[][..], Value::items).iter().filter_map(Value::as_text);
    let words: Vec<String> = words.map(as_passed).collect();
    let flag = |name: &str| {
        words.iter().find_map(|word| word.strip_prefix("--")?.strip_prefix(name)?.strip_prefix('='))
    };
    let port = |name: &str, usual: u16| flag(name).and_then(|port| port.parse().ok()).unwrap_or(usual);
    plan.ports.outbound = port("outbound-port", Ports::USUAL.outbound);
    plan.ports.inbound = port("inbound-port", plan.ports.inbound);
    plan.ports.dns = port("dns-port", Ports::USUAL.dns);
    plan.has_outbound = flag("include-outbound-cidrs") != Some("none");
    plan.has_dns = words.iter().any(|word| word == "--dns");
    let excluded = flag("exclude-inbound-ports").unwrap_or_default().split(',');
    let excluded = excluded.filter_map(|port| port.parse().ok());
    let wishes = &plan.wishes.exclude_inbound_ports;
    plan.own_listeners = excluded.filter(|port| !wishes.contains(port)).collect();
}
