//! Writes changed values into a text: only what differs is touched, so comments, order, quotes and line ends stay.

use std::collections::HashMap;
use std::ops::Range;

use crate::align::{aligned, dropped};
use crate::tree::{Content, Entry, Node, NodeId, Slot, Tree};
use crate::value::Value;
use crate::write::{Syntax, block, entry, flow, is_inline, item, pretty, written};

/// The changes of one text.
pub(crate) struct Editor<'t> {
    tree: &'t Tree<'t>,
    edits: Vec<Edit>,
}

struct Edit {
    range: Range<usize>,
    text: String,
}

/// What stands around a value.
#[derive(Clone, Copy)]
struct Around {
    /// The list or the map that has the value is written with brackets.
    is_flow: bool,
    /// The column of the keys of that map.
    column: usize,
    key: Option<NodeId>,
}

fn by_key(map: &Value) -> HashMap<&str, &Value> {
    map.entries().iter().map(|(key, value)| (key.as_str(), value)).collect()
}

/// Rising numbers as runs of neighbours, each with its first and its last number.
fn runs(numbers: impl Iterator<Item = usize>) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    runs
}

/// Whether a list between brackets has no item beside which new ones could be written.
fn nothing_stays(old: &[Value], new: &[Value]) -> bool {
    aligned(old, new).iter().all(Option::is_none)
}

impl<'t> Editor<'t> {
    pub(crate) const fn new(tree: &'t Tree<'t>) -> Self {
        Self { tree, edits: Vec::new() }
    }

    /// Notes what makes a document of its old value the new one.
    pub(crate) fn change(&mut self, document: &Slot, old: &Value, new: &Value) {
        let around = Around { is_flow: false, column: 0, key: None };
        self.value(document, around, old, new);
    }

    /// The changed text. `None`: two changes touch the same place.
    pub(crate) fn finish(mut self) -> Option<String> {
        self.edits.sort_by_key(|edit| edit.range.start); // stable: what was noted first stands first
        let newline = match self.tree.text.find('\n') {
            Some(at) if self.tree.text.get(..at)?.ends_with('\r') => "\r\n",
            _ => "\n",
        };
        let (mut text, mut at) = (String::with_capacity(self.tree.text.len() + 4096), 0);
        for Edit { range, text: new } in self.edits {
            text.push_str(self.tree.text.get(at..range.start)?);
            text.push_str(&new.replace('\n', newline));
            at = range.end;
        }
        text.push_str(self.tree.text.get(at..)?);
        Some(text)
    }

    fn value(&mut self, slot: &Slot, around: Around, old: &Value, new: &Value) {
        let Some(node) = self.tree.node(slot.node).filter(|_| old != new) else { return };
        match (&node.content, old, new) {
            (Content::Map { is_flow, entries }, Value::Map(_), Value::Map(_))
                if slot.alias.is_none() && !entries.is_empty() =>
            {
                self.map((node, entries, *is_flow), old, new);
            }
            (Content::List { is_flow, items }, Value::List(was), Value::List(is))
                if slot.alias.is_none() && !items.is_empty() && !(*is_flow && nothing_stays(was, is)) =>
            {
                self.list((node, items, *is_flow), around, was, is);
            }
            _ => self.whole(slot, node, around, new),
        }
    }

    fn edit(&mut self, range: Range<usize>, text: impl Into<String>) {
        self.edits.push(Edit { range, text: text.into() });
    }

    // --- maps

    fn map(&mut self, (node, entries, is_flow): (&Node, &[Entry], bool), old: &Value, new: &Value) {
        let tree = self.tree;
        let keys = entries.iter().map(|entry| tree.scalar(entry.key).unwrap_or_default());
        let own: HashMap<&str, &Entry> = keys.clone().zip(entries).collect();
        let (was, is) = (by_key(old), by_key(new));
        let mut added = Vec::new();
        for (key, is) in new.entries() {
            match (own.get(key.as_str()), was.get(key.as_str())) {
                (_, Some(was)) if *was == is => {}
                (Some(entry), was) => {
                    let around = Around { is_flow, column: node.column, key: Some(entry.key) };
                    self.value(&entry.value, around, was.unwrap_or(&&Value::Null), is);
                }
                (None, _) => added.push((key.as_str(), is)), // also where a merge key brings another value
            }
        }
        let dropped = keys.enumerate().filter(|(_, key)| *key != "<<" && !is.contains_key(key));
        let dropped: Vec<usize> = dropped.map(|(nth, _)| nth).collect();
        let paired = dropped.len().min(added.len());
        let ((replaced, dropped), (new, added)) = (dropped.split_at(paired), added.split_at(paired));
        for (nth, new) in replaced.iter().zip(new) {
            self.replace_entry(node, entries, *nth, is_flow, *new);
        }
        for run in runs(dropped.iter().copied()) {
            self.drop_entries(entries, run, is_flow);
        }
        for new in added {
            self.add_entry(node, entries, is_flow, *new);
        }
    }

    fn replace_entry(
        &mut self,
        node: &Node,
        entries: &[Entry],
        nth: usize,
        is_flow: bool,
        new: (&str, &Value),
    ) {
        let Some(old) = entries.get(nth) else { return };
        let range = self.begins(old.key)..self.end(&old.value);
        let text = match is_flow {
            true => self.flow_entry(entries, new),
            false => entry(new.0, new.1, node.column),
        };
        self.edit(range, text);
    }

    fn add_entry(&mut self, node: &Node, entries: &[Entry], is_flow: bool, new: (&str, &Value)) {
        let Some(last) = entries.last() else { return };
        let end = self.end(&last.value).max(self.end_of(last.key));
        if is_flow {
            let text = self.flow_entry(entries, new);
            let gap = self.gap_before(self.begins(last.key));
            return self.edit(end..end, format!(",{gap}{text}"));
        }
        let indent = " ".repeat(node.column);
        self.insert_lines(end, format!("{indent}{}", entry(new.0, new.1, node.column)));
    }

    fn flow_entry(&self, entries: &[Entry], (key, value): (&str, &Value)) -> String {
        let first = entries.first().map_or(0, |entry| self.begins(entry.key));
        let syntax = self.syntax(first);
        let colon = if syntax == Syntax::Compact { ":" } else { ": " };
        format!("{}{colon}{}", written(key, syntax), self.in_flow(value, first))
    }

    fn drop_entries(&mut self, entries: &[Entry], (first, last): (usize, usize), is_flow: bool) {
        let begin = |nth: usize| entries.get(nth).map(|entry| self.begins(entry.key));
        let end =
            |nth: usize| entries.get(nth).map(|entry| self.end(&entry.value).max(self.end_of(entry.key)));
        let (before, next) = (first.checked_sub(1).and_then(end), begin(last + 1));
        if let (Some(begin), Some(end)) = (begin(first), end(last)) {
            self.drop_range(begin..end, before, next, is_flow);
        }
    }

    /// Removes entries or items that follow each other, with their lines or with the comma beside them.
    fn drop_range(&mut self, range: Range<usize>, before: Option<usize>, next: Option<usize>, is_flow: bool) {
        let range = match (is_flow, before, next) {
            (true, _, Some(next)) => range.start..next,
            (true, Some(before), None) => before..range.end,
            (true, None, None) => range,
            (false, _, next) => match (self.line_of(range.start), next) {
                (Some(line), _) => line..self.after_line(range.end).0,
                (None, Some(next)) => range.start..next,
                (None, None) => range,
            },
        };
        self.edit(range, "");
    }

    // --- lists

    fn list(
        &mut self,
        (node, items, is_flow): (&Node, &[Slot], bool),
        around: Around,
        old: &[Value],
        new: &[Value],
    ) {
        let kept = aligned(old, new);
        let column = match is_flow {
            true => Some(0),
            false => self.dash(items, 0, around).map(|dash| self.column(dash)),
        };
        let Some(column) = column else { return }; // the check behind the edit refuses it
        let mut after = None; // the old item behind which new ones are inserted
        for (value, was) in new.iter().zip(&kept) {
            let Some(was) = *was else {
                self.add_item(node, items, is_flow, around, (after, column, value));
                continue;
            };
            if let (Some(slot), Some(old)) = (items.get(was), old.get(was)) {
                self.value(slot, Around { is_flow, column, key: None }, old, value);
            }
            after = Some(was);
        }
        for run in runs(dropped(items.len(), &kept).into_iter()) {
            self.drop_items(items, run, is_flow, around);
        }
    }

    fn add_item(
        &mut self,
        node: &Node,
        items: &[Slot],
        is_flow: bool,
        around: Around,
        (after, column, value): (Option<usize>, usize, &Value),
    ) {
        let first = items.first().map_or(0, |item| self.begin(item));
        if is_flow {
            let text = self.in_flow(value, first);
            let gap = self.gap_before(first);
            return match after.and_then(|after| items.get(after)) {
                Some(after) => self.edit(self.end(after)..self.end(after), format!(",{gap}{text}")),
                None => self.edit(first..first, format!("{text},{gap}")),
            };
        }
        let text = format!("{}{}", " ".repeat(column), item(value, column));
        match after.and_then(|after| items.get(after)) {
            Some(after) => self.insert_lines(self.end(after), text),
            // below the key, so that comments stay with the items that they are above
            None => match around.key.and_then(|key| self.colon(key)) {
                Some(colon) => self.insert_lines(colon, text),
                None => self
                    .edit(node.start..node.start, format!("{}\n{}", text.trim_start(), " ".repeat(column))),
            },
        }
    }

    fn drop_items(&mut self, items: &[Slot], (first, last): (usize, usize), is_flow: bool, around: Around) {
        let begin = |nth: usize| match is_flow {
            true => items.get(nth).map(|item| self.begin(item)),
            false => items.get(nth).and_then(|_| self.dash(items, nth, around)),
        };
        let end = |nth: usize| items.get(nth).map(|item| self.end(item));
        let (before, next) = (first.checked_sub(1).and_then(end), begin(last + 1));
        if let (Some(begin), Some(end)) = (begin(first), end(last)) {
            self.drop_range(begin..end, before, next, is_flow);
        }
    }

    /// The dash of an item: the first sign behind the item before it, or behind the key, that is no comment.
    fn dash(&self, items: &[Slot], nth: usize, around: Around) -> Option<usize> {
        let from = match nth.checked_sub(1) {
            Some(before) => self.end(items.get(before)?),
            None => around.key.and_then(|key| self.colon(key)).map(|colon| colon + 1)?,
        };
        let mut at = self.skip_blank(from);
        while self.tree.text.get(at..)?.starts_with(['&', '!']) {
            at += self.tree.text.get(at..)?.find(char::is_whitespace)?;
            at = self.skip_blank(at);
        }
        self.tree.text.get(at..)?.starts_with('-').then_some(at)
    }

    // --- values

    /// Replaces a value as a whole: a scalar, an alias, an empty list or map.
    fn whole(&mut self, slot: &Slot, node: &Node, around: Around, new: &Value) {
        let colon = around.key.and_then(|key| self.colon(key));
        let begin = self.begin(slot);
        let is_empty = slot.alias.is_none() && node.start == node.end;
        let range = match (is_empty, colon) {
            (true, Some(colon)) => colon + 1..colon + 1,
            _ => begin..self.end(slot),
        };
        let space = if is_empty { " " } else { "" };
        if around.is_flow {
            let first = around.key.map_or(begin, |key| self.begins(key));
            let text = self.in_flow(new, first);
            return self.edit(range, format!("{space}{text}"));
        }
        match (is_inline(new), colon) {
            (true, _) => self.edit(range, format!("{space}{}", flow(new, Syntax::Yaml))),
            (false, Some(colon)) => {
                let (end, column) = (range.end, around.column + 2);
                self.edit(colon + 1..end, "");
                self.insert_lines(end, format!("{}{}", " ".repeat(column), block(new, column)));
            }
            (false, None) => self.edit(range, block(new, self.column(begin))),
        }
    }

    /// A value inside brackets: over several lines where the entries around it have lines of their own.
    fn in_flow(&self, value: &Value, beside: usize) -> String {
        let syntax = self.syntax(beside);
        let gap = self.gap_before(beside);
        match gap.strip_prefix('\n') {
            Some(indent) if syntax == Syntax::Json => pretty(value, syntax, indent, &self.unit(indent)),
            _ => flow(value, syntax),
        }
    }

    /// The indentation of one level in a JSON text: that of the first indented line.
    fn unit(&self, indent: &str) -> String {
        let first = self.tree.text.lines().find_map(|line| {
            let unit = line.get(..line.len() - line.trim_start().len())?;
            (!unit.is_empty() && unit.len() < line.len()).then_some(unit)
        });
        first.unwrap_or(indent).to_owned()
    }

    /// Whether texts need quotes: in JSON, and where the map has them already.
    fn syntax(&self, beside: usize) -> Syntax {
        let is_quoted = self.tree.text.get(beside..).is_some_and(|text| text.starts_with('"'));
        match self.tree.is_json || is_quoted {
            true if self.is_compact(beside) => Syntax::Compact,
            true => Syntax::Json,
            false => Syntax::Yaml,
        }
    }

    /// What separates entries that stand between brackets: a space, or a line's end and the indentation of the next one.
    fn gap_before(&self, at: usize) -> String {
        match self.line_of(at).and_then(|line| self.tree.text.get(line..at)) {
            Some(indent) => format!("\n{indent}"),
            None if self.is_compact(at) => String::new(),
            None => " ".to_owned(),
        }
    }

    /// Whether the entry before which this asks is written without a space, as programs write JSON.
    fn is_compact(&self, at: usize) -> bool {
        self.tree.is_json && self.tree.text.get(..at).is_some_and(|before| before.ends_with(['{', '[', ',']))
    }

    // --- places

    /// Inserts whole lines below the line of a place.
    fn insert_lines(&mut self, below: usize, lines: String) {
        let (at, has_end) = self.after_line(below);
        let text = if has_end { format!("{lines}\n") } else { format!("\n{lines}") };
        self.edit(at..at, text);
    }

    /// The beginning of the next line, and whether this line has an end.
    fn after_line(&self, at: usize) -> (usize, bool) {
        if self.tree.text.get(..at).is_some_and(|before| before.ends_with('\n')) {
            return (at, true); // a text that keeps its last lines' ends
        }
        let found = self.tree.text.get(at..).and_then(|rest| rest.find('\n'));
        found.map_or((self.tree.text.len(), false), |end| (at + end + 1, true))
    }

    /// The beginning of the line, if only spaces are before the place.
    fn line_of(&self, at: usize) -> Option<usize> {
        let before = self.tree.text.get(..at)?;
        let line = before.trim_end_matches([' ', '\t']);
        (line.is_empty() || line.ends_with('\n')).then_some(line.len())
    }

    fn column(&self, at: usize) -> usize {
        let before = self.tree.text.get(..at).unwrap_or_default();
        before.get(before.rfind('\n').map_or(0, |end| end + 1)..).unwrap_or_default().chars().count()
    }

    fn begins(&self, id: NodeId) -> usize {
        self.tree.node(id).map_or(0, |node| node.start)
    }

    fn end_of(&self, id: NodeId) -> usize {
        self.tree.node(id).map_or(0, |node| node.end)
    }

    fn begin(&self, slot: &Slot) -> usize {
        slot.alias.as_ref().map_or_else(|| self.begins(slot.node), |alias| alias.start)
    }

    fn end(&self, slot: &Slot) -> usize {
        slot.alias.as_ref().map_or_else(|| self.end_of(slot.node), |alias| alias.end)
    }

    /// The colon behind a key.
    fn colon(&self, key: NodeId) -> Option<usize> {
        let end = self.end_of(key);
        let rest = self.tree.text.get(end..)?;
        let colon = end + rest.len() - rest.trim_start_matches([' ', '\t']).len();
        self.tree.text.get(colon..)?.starts_with(':').then_some(colon)
    }

    /// The next place that is neither white space nor part of a comment.
    fn skip_blank(&self, from: usize) -> usize {
        let mut at = from;
        loop {
            let rest = self.tree.text.get(at..).unwrap_or_default();
            let begin = at + rest.len() - rest.trim_start().len();
            let rest = self.tree.text.get(begin..).unwrap_or_default();
            if !rest.starts_with('#') {
                return begin;
            }
            at = begin + rest.find('\n').unwrap_or(rest.len());
        }
    }
}
