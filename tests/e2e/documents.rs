//! Checks the documents: their commands run and print what the page shows, their links lead to files and headings, and
//! their tables have a row for every code and metric of the product.
//!
//! CONTRIBUTING.md, "Documents", explains the convention to writers.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::Scratch;
use crate::support::tools::{available, printed, run};

const MOST_LINES: usize = 400;
const MOST_LINES_OF_README: usize = 150;
/// A page that a test generates may be longer.
const GENERATED: [&str; 1] = ["configuration.md"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| unreachable!("{}: {error}", path.display()))
}

fn page(name: &str) -> String {
    read(&root().join("docs").join(name))
}

/// The pages of the root folder, among them README, and all pages of `docs`.
fn pages() -> Vec<PathBuf> {
    let folders = [root(), root().join("docs")];
    let files = folders.iter().flat_map(|folder| fs::read_dir(folder).expect("a folder"));
    let files = files.map(|file| file.expect("an entry").path());
    let mut pages: Vec<_> = files.filter(|file| file.extension().is_some_and(|it| it == "md")).collect();
    pages.sort();
    pages
}

fn name(page: &Path) -> &str {
    page.file_name().and_then(|name| name.to_str()).expect("a name")
}

/// A fenced block: its language, the number of its first line, and its lines.
struct Fenced<'t> {
    language: &'t str,
    line: usize,
    lines: Vec<&'t str>,
}

fn fenced(text: &str) -> Vec<Fenced<'_>> {
    let mut blocks: Vec<Fenced<'_>> = Vec::new();
    let mut is_inside = false;
    for (index, line) in text.lines().enumerate() {
        match line.trim_start().strip_prefix("```") {
            Some(_) if is_inside => is_inside = false,
            Some(language) => {
                is_inside = true;
                blocks.push(Fenced { language, line: index + 2, lines: Vec::new() });
            }
            None if is_inside => blocks.last_mut().expect("a block").lines.push(line),
            None => {}
        }
    }
    blocks
}

#[test]
fn no_page_is_longer_than_its_limit() {
    for page in pages() {
        let lines = read(&page).lines().count();
        let most = if name(&page) == "README.md" { MOST_LINES_OF_README } else { MOST_LINES };
        assert!(lines <= most || GENERATED.contains(&name(&page)), "{} has {lines} lines", page.display());
    }
}

// --- links

/// The targets of `[text](target)` outside of fenced blocks.
fn links(text: &str) -> Vec<String> {
    let mut is_inside = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_inside = !is_inside;
        }
        if is_inside {
            continue;
        }
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        found.extend(targets.map(|(target, _)| target.to_owned()));
    }
    found
}

/// The anchors that GitHub gives to the headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut is_inside = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        if line.starts_with("```") {
            is_inside = !is_inside;
        }
        let heading = line.trim_start_matches('#');
        if is_inside || heading == line {
            continue;
        }
        let kept = heading.trim().chars().filter_map(|char| match char {
            ' ' => Some('-'),
            '-' | '_' => Some(char),
            _ if char.is_alphanumeric() => Some(char.to_ascii_lowercase()),
            _ => None,
        });
        found.insert(kept.collect());
    }
    found
}

#[test]
fn every_link_leads_to_a_file_and_to_a_heading() {
    let mut broken = Vec::new();
    for page in pages() {
        let folder = page.parent().expect("a folder");
        for link in links(&read(&page)).into_iter().filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { page.clone() } else { folder.join(file) };
            let leads = target.exists() && (anchor.is_empty() || anchors(&read(&target)).contains(anchor));
            if !leads {
                broken.push(format!("{}: {link}", name(&page)));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

// --- tables

/// The words in backquotes in the first cell of each row of a table.
fn first_cells(text: &str) -> BTreeSet<String> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| "));
    let cells = rows.filter_map(|row| row.split('|').next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

/// The rows of the table of reasons in the code, as code, type and HTTP status.
fn reasons() -> Vec<(String, String, String)> {
    let source = read(&root().join("config/model/src/reason.rs"));
    let rows = source.lines().filter_map(|line| line.split_once("=> row(\"")?.1.strip_suffix("),"));
    rows.map(|row| {
        let mut parts = row.split(',').map(|part| part.trim().trim_matches('"').to_owned());
        let mut part = || parts.next().expect("four parts");
        (part(), part(), part())
    })
    .collect()
}

#[test]
fn every_code_has_its_row_of_errors_with_type_and_status() {
    let page = page("errors.md");
    let reasons = reasons();
    assert!(reasons.len() >= 28, "{reasons:?}");
    for (code, error_type, status) in &reasons {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{code}`")));
        let row = row.unwrap_or_else(|| unreachable!("errors.md has no row for {code}"));
        assert!(
            row.contains(error_type.as_str()) && row.contains(status.as_str()),
            "{row}\n{error_type} {status}"
        );
    }
    let codes: BTreeSet<&String> = reasons.iter().map(|(code, ..)| code).collect();
    for known in first_cells(&page) {
        assert!(codes.contains(&known), "errors.md has a row for {known}, which the code has not");
    }
}

/// An operator who has a CODE needs the next command.
#[test]
fn every_code_has_its_causes_and_its_next_command() {
    let page = page("operations.md");
    for (code, ..) in reasons() {
        assert!(page.contains(&format!("| `{code}`")), "operations.md does not say what to do about {code}");
    }
}

/// The metric families of the code's list, with which every exposition begins, and those about merged sources and about the
/// application's process.
#[test]
fn every_metric_of_the_code_has_its_row() {
    let source = read(&root().join("proxy/telemetry/src/metrics/tests.rs"));
    let list = source.split_once("const FAMILIES").expect("the list of families").1;
    let list = list.split_once("];").expect("its end").0;
    let named = |file: &str, begins: &str| -> Vec<String> {
        let text = read(&root().join("proxy/telemetry/src").join(file));
        let name = |(at, _): (usize, &str)| text[at + begins.len()..].split('"').next().map(str::to_owned);
        text.match_indices(begins).filter_map(name).collect()
    };
    let mut families: BTreeSet<String> = list
        .lines()
        .filter_map(|line| line.trim().strip_prefix('"')?.split('"').next())
        .map(str::to_owned)
        .collect();
    families.extend(named("merge.rs", "gauge(\""));
    families.extend(named("application.rs", "About { name: \""));
    assert!(families.len() > 27, "{families:?}");
    assert_eq!(first_cells(&page("metrics.md")), families);
}

/// README repeats some figures of performance.md, which are measured again from time to time.
#[test]
fn the_figures_of_the_readme_are_those_of_performance() {
    let readme = read(&root().join("README.md"));
    let table = readme.split_once("| proxy | CPU µs per request |").expect("the table of README").1;
    let rows: Vec<(&str, &str)> = table
        .lines()
        .skip(2)
        .map_while(|row| row.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "))
        .collect();
    assert_eq!(rows.len(), 4, "{rows:?}");
    let performance = page("performance.md");
    let row = |begins: &str| {
        let row = performance.lines().find(|row| row.starts_with(begins)).expect("a row of performance.md");
        row.split('|').map(str::trim).collect::<Vec<_>>()
    };
    let (names, measured) = (row("| measure |"), row("| CPU µs per request | HTTP/1.1, 64 connections |"));
    for (proxy, figure) in rows {
        let name = proxy.split(' ').next().expect("a name");
        let column = names.iter().position(|column| *column == name).expect("its column");
        let says = measured[column].split(' ').next();
        assert_eq!(says, Some(figure), "README and performance.md of {name}");
    }
}

// --- what is not built yet

/// The words in double quotes of a piece of source code.
fn quoted(source: &str) -> impl Iterator<Item = String> {
    source.split('"').skip(1).step_by(2).map(str::to_owned)
}

/// The texts of the list that follows each `name` in a source file.
fn listed(file: &str, name: &str) -> BTreeSet<String> {
    let source = read(&root().join(file));
    let lists = source.split(name).skip(1).filter_map(|rest| rest.split_once(" ="));
    lists.filter_map(|(_, list)| list.split(']').next()).flat_map(quoted).collect()
}

/// The list shows what is refused as "not supported yet", so a feature leaves it in the commit that adds the feature.
#[test]
fn readme_lists_exactly_the_words_and_commands_that_are_not_supported_yet() {
    let readme = read(&root().join("README.md"));
    let list = readme.split_once("refused as \"not supported yet\":").expect("the list of README").1;
    let row = |begins: &str| -> BTreeSet<String> {
        let row = list.lines().find_map(|line| line.strip_prefix(begins)).expect("a row of the list");
        let names = row.split('`').skip(1).step_by(2);
        names.map(|name| name.rsplit('.').next().unwrap_or(name).to_owned()).collect()
    };
    assert_eq!(
        row("| values of `access_log.format` |"),
        listed("config/file/src/words/access_log.rs", "const LATER:")
    );
    assert_eq!(row("| commands |"), listed("proxy/cli.rs", "const PLANNED:"));
}

// --- commands

/// A command, its line number, and the lines that it prints.
struct Step<'t> {
    line: usize,
    command: &'t str,
    prints: Vec<&'t str>,
}

/// A step of a page.
enum Act<'t> {
    Write(&'t str, String),
    Run(Step<'t>),
}

fn acts(text: &str) -> Vec<Act<'_>> {
    let mut acts = Vec::new();
    for block in fenced(text) {
        match (block.language, block.lines.first().and_then(|line| line.strip_prefix("# "))) {
            ("console", _) => {
                for (offset, line) in block.lines.iter().enumerate() {
                    match (line.strip_prefix("$ "), acts.last_mut()) {
                        (Some(command), _) => {
                            acts.push(Act::Run(Step {
                                line: block.line + offset,
                                command,
                                prints: Vec::new(),
                            }));
                        }
                        (None, Some(Act::Run(step))) => step.prints.push(line),
                        (None, _) => unreachable!("line {}: output without a command", block.line + offset),
                    }
                }
            }
            ("yaml", Some(file)) if file.ends_with(".yaml") && !file.contains(' ') => {
                acts.push(Act::Write(file, block.lines.join("\n") + "\n"));
            }
            _ => {}
        }
    }
    acts
}

const MARK: &str = "@@ step ";

/// The shell script of a page. A command in the background that prints something is waited for until it has printed it.
fn script(acts: &[Act<'_>]) -> String {
    let mut script = "ip link set lo up\nexec 2>&1\n".to_owned();
    for (nth, act) in acts.iter().enumerate() {
        script.push_str(&format!("echo '{MARK}{nth}'\n"));
        match act {
            Act::Write(file, text) => {
                script.push_str(&format!("cat > {file} <<'END OF FILE'\n{text}END OF FILE\n"))
            }
            Act::Run(Step { command, prints, .. }) => match command.strip_suffix('&') {
                None => script.push_str(&format!("{command}\n")),
                Some(command) if prints.is_empty() => {
                    script.push_str(&format!("{command} > out.{nth} 2>&1 &\n"));
                }
                Some(command) => script.push_str(&format!(
                    "{command} > out.{nth} 2> err.{nth} &\n\
                     for _ in $(seq 300); do [ -s out.{nth} ] && break; sleep 0.1; done; cat out.{nth}\n"
                )),
            },
        }
    }
    script.push_str(&format!("echo '{MARK}end'\njobs -p | xargs -r kill 2>/dev/null; wait\n"));
    script
}

/// Whether a printed line agrees with a line of the page, in which `…` stands for any text.
fn fits(line: &str, written: &str) -> bool {
    let mut parts = written.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// A line with nothing but `…` stands for any number of lines.
fn all_fit(lines: &[&str], written: &[&str]) -> bool {
    match (lines, written.split_first()) {
        ([], None) => true,
        (_, None) => false,
        (_, Some((&"…", rest))) => (0..=lines.len()).any(|skipped| all_fit(&lines[skipped..], rest)),
        ([], Some(_)) => false,
        ([line, lines @ ..], Some((written, rest))) => fits(line, written) && all_fit(lines, rest),
    }
}

#[test]
fn dots_stand_for_any_text() {
    assert!(
        fits("ready admin=127.0.0.1:4021 x", "ready admin=127.0.0.1:… x")
            && fits("a", "a")
            && fits("ab", "a…")
    );
    assert!(!fits("ab", "a") && !fits("b", "a…") && !fits("a c", "a…b"));
    assert!(all_fit(&["a", "b", "c"], &["…", "c"]) && all_fit(&[], &["…"]) && !all_fit(&["a"], &[]));
}

/// A command in a network namespace of its own, where all ports are free: the pages use fixed ports.
fn in_own_network() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--net", "bash"]);
    command
}

async fn has_own_networks() -> bool {
    let mut command = in_own_network();
    command.args(["-c", "ip link set lo up && command -v curl && command -v python3"]);
    let works = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
    available(
        "network of its own with ip, curl and python3",
        works.is_ok_and(|output| output.status.success()),
    )
}

async fn follow(page: &Path) {
    let text = read(page);
    let acts = acts(&text);
    if !acts.iter().any(|act| matches!(act, Act::Run(_))) {
        return;
    }
    let scratch = Scratch::new();
    let binary = Path::new(env!("CARGO_BIN_EXE_pillion")).parent().expect("a folder");
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = in_own_network();
    command
        .arg("-c")
        .arg(script(&acts))
        .current_dir(scratch.path())
        .env("PATH", path)
        .env_remove("PILLION_LOG");
    let output = run(command).await;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    for (nth, act) in acts.iter().enumerate() {
        let Act::Run(step) = act else { continue };
        let said = printed.split(&format!("{MARK}{nth}\n")).nth(1).unwrap_or_default();
        let said = said.split(MARK).next().unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        assert!(
            all_fit(&lines, &step.prints),
            "{}, line {}: $ {}\n{said}\nis not what stands there:\n{}\n{printed}",
            name(page),
            step.line,
            step.command,
            step.prints.join("\n")
        );
    }
}

#[tokio::test]
async fn the_commands_of_the_documents_print_what_stands_there() {
    if has_own_networks().await {
        for page in pages() {
            follow(&page).await;
        }
    }
}

/// Commands that need root, a cluster or minutes are not run; but their subcommands and flags must exist.
#[tokio::test]
async fn every_command_and_flag_of_the_documents_exists() {
    for page in pages().into_iter().filter(|page| name(page) != "CHANGELOG.md") {
        let text = read(&page);
        for block in fenced(&text).into_iter().filter(|it| ["sh", "console"].contains(&it.language)) {
            for line in block.lines.iter().map(|line| line.trim_start_matches("$ ")) {
                exists(line, &format!("{}, block at line {}: {line}", name(&page), block.line)).await;
            }
        }
    }
}

async fn exists(line: &str, place: &str) {
    let line = line.split(" #").next().unwrap_or_default();
    let line = line.split(" -- ").next().unwrap_or_default(); // what follows belongs to another program
    let Some(words) = line.strip_prefix("pillion ") else { return };
    let words: Vec<&str> = words.split_whitespace().collect();
    let path: Vec<&str> =
        words.iter().copied().take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase())).collect();
    let has_commands = path.first().is_some_and(|first| ["certs", "policy"].contains(first));
    let depth = if has_commands { 2 } else { 1 };
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    command.args(path.iter().take(depth)).arg("--help");
    let help = printed(command).await;
    for flag in words.iter().filter_map(|word| word.split('=').next().filter(|word| word.starts_with("--"))) {
        assert!(help.contains(flag), "{place}: there is no {flag}\n{help}");
    }
}
