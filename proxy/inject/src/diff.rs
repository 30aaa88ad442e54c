//! The difference of two texts for people, in the unified format.

/// Lines of context around a change.
const CONTEXT: usize = 3;
/// Texts whose changed parts have more lines than this are not compared line by line: the table would have their product.
const COMPARED: usize = 4000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line<'t> {
    Same(&'t str),
    Old(&'t str),
    New(&'t str),
}

/// What changes the old text into the new one. Empty where they are equal.
pub fn diff(file: &str, old: &str, new: &str) -> String {
    if old == new {
        return String::new();
    }
    let (old, new): (Vec<&str>, Vec<&str>) =
        (old.split_inclusive('\n').collect(), new.split_inclusive('\n').collect());
    let lines = compared(&old, &new);
    let mut text = format!("--- {file}\n+++ {file} with the sidecar\n");
    for hunk in hunks(&lines) {
        write_hunk(&mut text, &lines, hunk);
    }
    text
}

fn compared<'t>(old: &[&'t str], new: &[&'t str]) -> Vec<Line<'t>> {
    let first = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let (old_rest, new_rest) = (old.get(first..).unwrap_or_default(), new.get(first..).unwrap_or_default());
    let last = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(|(old, new)| old == new).count();
    let middle = |rest: &[&'t str]| rest.get(..rest.len() - last).unwrap_or_default().to_vec();
    let same = |lines: Option<&[&'t str]>| {
        lines.unwrap_or_default().iter().copied().map(Line::Same).collect::<Vec<_>>()
    };
    let mut lines = same(old.get(..first));
    lines.extend(longest(&middle(old_rest), &middle(new_rest)));
    lines.extend(same(old.get(old.len() - last..)));
    lines
}

/// The longest common part by the usual table, read from its end.
fn longest<'t>(old: &[&'t str], new: &[&'t str]) -> Vec<Line<'t>> {
    if old.len().saturating_mul(new.len()) > COMPARED * COMPARED {
        let (old, new) = (old.iter().copied().map(Line::Old), new.iter().copied().map(Line::New));
        return old.chain(new).collect();
    }
    let width = new.len() + 1;
    let mut table = vec![0u32; (old.len() + 1) * width];
    let get =
        |table: &[u32], row: usize, column: usize| table.get(row * width + column).copied().unwrap_or(0);
    for (row, old) in old.iter().enumerate().rev() {
        for (column, new) in new.iter().enumerate().rev() {
            let longest = match old == new {
                true => get(&table, row + 1, column + 1) + 1,
                false => get(&table, row + 1, column).max(get(&table, row, column + 1)),
            };
            if let Some(cell) = table.get_mut(row * width + column) {
                *cell = longest;
            }
        }
    }
    let (mut row, mut column, mut lines) = (0, 0, Vec::new());
    loop {
        match (old.get(row), new.get(column)) {
            (None, None) => return lines,
            (Some(was), Some(is)) if was == is => {
                lines.push(Line::Same(was));
                (row, column) = (row + 1, column + 1);
            }
            (Some(was), is)
                if is.is_none() || get(&table, row + 1, column) >= get(&table, row, column + 1) =>
            {
                lines.push(Line::Old(was));
                row += 1;
            }
            (_, Some(is)) => {
                lines.push(Line::New(is));
                column += 1;
            }
            (Some(_), None) => return lines, // the arm above has taken it
        }
    }
}

/// The parts of the lines around changes, with their context.
fn hunks(lines: &[Line<'_>]) -> Vec<std::ops::Range<usize>> {
    let mut hunks: Vec<std::ops::Range<usize>> = Vec::new();
    let changes = lines.iter().enumerate().filter(|(_, line)| !matches!(line, Line::Same(_)));
    for (nth, _) in changes {
        let (start, end) = (nth.saturating_sub(CONTEXT), (nth + 1 + CONTEXT).min(lines.len()));
        match hunks.last_mut() {
            Some(hunk) if start <= hunk.end => hunk.end = end,
            _ => hunks.push(start..end),
        }
    }
    hunks
}

fn write_hunk(text: &mut String, lines: &[Line<'_>], hunk: std::ops::Range<usize>) {
    let count = |lines: &[Line<'_>]| {
        let old = lines.iter().filter(|line| !matches!(line, Line::New(_))).count();
        (old, lines.iter().filter(|line| !matches!(line, Line::Old(_))).count())
    };
    let (before, inside) = (lines.get(..hunk.start).unwrap_or_default(), lines.get(hunk).unwrap_or_default());
    let ((old, new), (old_count, new_count)) = (count(before), count(inside));
    let begin = |before: usize, count: usize| if count == 0 { before } else { before + 1 };
    text.push_str(&format!(
        "@@ -{},{old_count} +{},{new_count} @@\n",
        begin(old, old_count),
        begin(new, new_count)
    ));
    for line in inside {
        let (sign, line) = match line {
            Line::Same(line) => (' ', line),
            Line::Old(line) => ('-', line),
            Line::New(line) => ('+', line),
        };
        text.push(sign);
        text.push_str(line);
        if !line.ends_with('\n') {
            text.push_str("\n\\ No newline at end of file\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_has_the_unified_format() {
        let old = "a\nb\nc\nd\ne\nf\ng\nh\ni\n";
        let new = "a\nb\nc\nx\nd\ne\nf\ng\nh\nj";
        assert_eq!(
            diff("f", old, new),
            "--- f\n+++ f with the sidecar\n@@ -1,9 +1,10 @@\n a\n b\n c\n+x\n d\n e\n f\n g\n h\n-i\n+j\n\\ No newline at end of file\n"
        );
        assert_eq!(diff("f", old, old), "");
        assert_eq!(diff("f", "", "a\n"), "--- f\n+++ f with the sidecar\n@@ -0,0 +1,1 @@\n+a\n");
    }
}
