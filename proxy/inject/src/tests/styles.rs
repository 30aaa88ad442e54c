//! Random manifests in random styles of writing.

use proptest::prelude::*;

use super::*;

/// How a random manifest is written.
#[derive(Debug, Clone)]
struct Style {
    step: usize,
    /// Dashes stand below their key, and not to the right of it.
    is_outdented: bool,
    /// Every how many values one is written with brackets, has quotes, or has a comment. 0: none.
    flow: usize,
    quotes: usize,
    comments: usize,
    newline: &'static str,
}

struct Writer<'s> {
    style: &'s Style,
    count: usize,
}

impl Writer<'_> {
    fn is_next(&mut self, every: usize) -> bool {
        self.count += 1;
        every != 0 && self.count.is_multiple_of(every)
    }

    fn comment(&mut self) -> &'static str {
        if self.is_next(self.style.comments) { "   # ä comment: [with] \"signs\"" } else { "" }
    }

    fn text(&mut self, value: &Value) -> String {
        match value.as_text() {
            Some(text) if self.is_next(self.style.quotes) => format!("'{text}'"),
            _ => write::flow(value, write::Syntax::Yaml),
        }
    }

    /// The lines of a map or a list, from the first key or dash on.
    fn block(&mut self, value: &Value, column: usize) -> String {
        let indent = " ".repeat(column);
        let mut lines = Vec::new();
        match value {
            Value::Map(entries) => {
                for (key, value) in entries {
                    lines.push(format!("{key}:{}", self.behind(value, column)));
                }
            }
            value => {
                for item in value.items() {
                    let inner = column + self.style.step.max(2);
                    let gap = " ".repeat(inner - column - 1);
                    let is_map = !item.entries().is_empty() && !self.is_next(self.style.flow);
                    let item =
                        if is_map { self.block(item, inner) } else { self.text(item) + self.comment() };
                    lines.push(format!("-{gap}{item}"));
                }
            }
        }
        lines.join(&format!("\n{indent}"))
    }

    fn behind(&mut self, value: &Value, column: usize) -> String {
        let is_full = !value.entries().is_empty() || !value.items().is_empty();
        if !is_full || self.is_next(self.style.flow) {
            return format!(" {}{}", self.text(value), self.comment());
        }
        let is_outdented = self.style.is_outdented && !value.items().is_empty();
        let inner = if is_outdented { column } else { column + self.style.step };
        format!("{}\n{}{}", self.comment(), " ".repeat(inner), self.block(value, inner))
    }
}

fn style() -> impl Strategy<Value = Style> {
    let numbers = (1usize..6, any::<bool>(), 0usize..6, 0usize..4, 0usize..4);
    (numbers, prop::sample::select(vec!["\n", "\r\n"])).prop_map(
        |((step, is_outdented, flow, quotes, comments), newline)| Style {
            step,
            is_outdented,
            flow,
            quotes,
            comments,
            newline,
        },
    )
}

fn named(prefix: &'static str, most: usize) -> impl Strategy<Value = Vec<crate::value::Value>> {
    let item = (any::<bool>(), any::<bool>()).prop_map(move |(has_mounts, has_args)| {
        let mut item = Value::map([("name", Value::text(prefix)), ("image", Value::text("example/app:1"))]);
        if has_args {
            item.put("args", Value::texts(&["--a", "b c", "8080"]));
        }
        if has_mounts {
            let mount = Value::map([("name", Value::text("data")), ("mountPath", Value::text("/data"))]);
            item.put("volumeMounts", Value::List(vec![mount]));
        }
        item
    });
    prop::collection::vec(item, 0..=most).prop_map(move |mut items| {
        for (nth, item) in items.iter_mut().enumerate() {
            item.put("name", Value::text(format!("{prefix}{nth}")));
        }
        items
    })
}

/// A Deployment whose probes stay as they are, so that nothing of it is replaced.
fn manifest() -> impl Strategy<Value = Value> {
    let volume = Value::map([("name", Value::text("data")), ("emptyDir", Value::map([]))]);
    (named("app", 3), named("first", 2), any::<[bool; 4]>()).prop_map(move |(containers, first, flags)| {
        let [has_volumes, has_log, is_native, has_labels] = flags;
        let mut annotations = Value::map([("pillion.io/probes", Value::text("keep"))]);
        if has_log {
            annotations.put("pillion.io/log-volume", Value::text("/var/log"));
        }
        annotations.put("pillion.io/native-sidecar", Value::text(is_native.to_string()));
        let mut metadata = Value::map([("annotations", annotations)]);
        if has_labels {
            metadata.put("labels", Value::map([("app", Value::text("web"))]));
        }
        let mut spec = Value::map([]);
        if !first.is_empty() {
            spec.put("initContainers", Value::List(first));
        }
        let more = Value::map([("name", Value::text("last")), ("image", Value::text("example/last"))]);
        spec.put("containers", Value::List(containers.into_iter().chain([more]).collect()));
        if has_volumes {
            spec.put("volumes", Value::List(vec![volume.clone()]));
        }
        let template = Value::map([("metadata", metadata), ("spec", spec)]);
        Value::map([
            ("apiVersion", Value::text("apps/v1")),
            ("kind", Value::text("Deployment")),
            ("metadata", Value::map([("name", Value::text("web"))])),
            ("spec", Value::map([("replicas", Value::number(2)), ("template", template)])),
        ])
    })
}

/// Takes out what the sidecar added.
fn removed(value: &Value) -> Value {
    let is_ours =
        |item: &Value| item.name().is_some_and(|name| name == "pillion" || name.starts_with("pillion-"));
    match value {
        Value::Map(entries) => {
            let left = entries.iter().filter(|(key, value)| {
                let has_ours = value.items().iter().any(is_ours) && value.items().iter().all(is_ours);
                !has_ours && key != "pillion.io/injected" && key != "kubectl.kubernetes.io/default-container"
            });
            Value::Map(left.map(|(key, value)| (key.clone(), removed(value))).collect())
        }
        Value::List(items) => Value::List(items.iter().filter(|item| !is_ours(item)).map(removed).collect()),
        value => value.clone(),
    }
}

fn is_part(text: &str, of: &str) -> bool {
    let mut rest = of.bytes();
    text.bytes().all(|byte| rest.any(|other| other == byte))
}

proptest! {
    #[test]
    fn everything_outside_of_the_additions_stays(value in manifest(), style in style(), is_json in any::<bool>()) {
        let text = match is_json {
            true if style.step > 3 => write::flow(&value, write::Syntax::Compact),
            true => write::pretty(&value, write::Syntax::Json, "", &" ".repeat(style.step)),
            false => Writer { style: &style, count: 0 }.block(&value, 0) + "\n",
        };
        let text = text.replace('\n', style.newline);
        let new = injected(&text);
        prop_assert!(is_part(&text, &new), "{}", diff("f", &text, &new));
        prop_assert!(same(&removed(&read_one(&new)), &value), "{}", diff("f", &text, &new));
        prop_assert_eq!(&injected(&new), &new);
        let lone = new.split('\n').filter(|line| !line.ends_with('\r')).count();
        prop_assert!(style.newline == "\n" || lone <= 1, "{:?}", new);
    }
}
