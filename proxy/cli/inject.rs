//! `pillion inject`: Kubernetes manifests in, the same with the sidecar added out.

use std::fs::{self, File};
use std::io::{Read, stdin};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use pillion_inject::{Injected, Options, diff, inject_all};

use super::output::{print, warn};

/// The image of the sidecar where nothing names another one: that of this version.
pub(super) const IMAGE: &str = concat!("pillion:", env!("CARGO_PKG_VERSION"));
/// One byte more than `pillion-inject` takes, so that it can say that a file is too large.
const MOST_BYTES: u64 = (32 << 20) + 1;

#[derive(Debug, Args)]
pub struct Inject {
    /// A manifest, a folder of manifests, or - for standard input; may be given several times
    #[arg(short, long = "file", value_name = "FILE", default_value = "-")]
    files: Vec<PathBuf>,
    /// Add the sidecar to every workload that does not refuse it
    #[arg(long)]
    all: bool,
    /// The image of the sidecar, for workloads that name none
    #[arg(long, value_name = "IMAGE", default_value = IMAGE)]
    image: String,
    /// Print the difference for people, and not the manifests
    #[arg(long)]
    diff: bool,
}

impl Inject {
    /// # Errors
    /// A file cannot be read, or has faults. The text has all of them, and nothing is printed to standard output.
    pub fn run(self) -> anyhow::Result<()> {
        let options = Options { all: self.all, image: self.image.clone() };
        let files = found(&self.files)?.iter().map(|file| read(file)).collect::<anyhow::Result<Vec<_>>>()?;
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        for ((name, text), injected) in files.iter().zip(inject_all(&files, &options)) {
            match injected {
                Ok(injected) => done.push((name, text, injected)),
                Err(faults) => failed.push(faults.to_string()),
            }
        }
        if !failed.is_empty() {
            bail!("{}", failed.join("\n"));
        }
        for note in done.iter().flat_map(|(_, _, injected)| &injected.notes) {
            warn(&format!("pillion inject: {note}"));
        }
        match self.diff {
            true => {
                print(&done.iter().map(|(name, old, new)| diff(name, old, &new.text)).collect::<String>())
            }
            false => print(&joined(done.into_iter().map(|(.., injected)| injected))),
        }
    }
}

/// The files, with those of folders in the order of their names.
fn found(files: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for file in files {
        if !file.is_dir() {
            found.push(file.clone());
            continue;
        }
        let entries =
            fs::read_dir(file).with_context(|| format!("the folder {} cannot be read", file.display()))?;
        let mut inside: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        inside.retain(|path| path.extension().is_some_and(|it| it == "yaml" || it == "yml" || it == "json"));
        if inside.is_empty() {
            bail!("the folder {} has no file that ends with .yaml, .yml or .json", file.display());
        }
        inside.sort();
        found.extend(inside);
    }
    Ok(found)
}

/// The name and the text of a file.
fn read(file: &Path) -> anyhow::Result<(String, String)> {
    let mut bytes = Vec::new();
    let (name, read) = match file.as_os_str() == "-" {
        true => ("standard input".to_owned(), stdin().lock().take(MOST_BYTES).read_to_end(&mut bytes)),
        false => {
            let opened = File::open(file);
            (
                file.display().to_string(),
                opened.and_then(|file| file.take(MOST_BYTES).read_to_end(&mut bytes)),
            )
        }
    };
    read.with_context(|| format!("{name} cannot be read"))?;
    let text = String::from_utf8(bytes).with_context(|| format!("{name} is not UTF-8"))?;
    Ok((name, text))
}

/// The texts behind each other, as one stream of documents.
fn joined(all: impl Iterator<Item = Injected>) -> String {
    let mut stream = String::new();
    for Injected { text, .. } in all {
        if !stream.is_empty() && !text.trim_start().starts_with("---") {
            stream.push_str(if stream.ends_with('\n') { "---\n" } else { "\n---\n" });
        }
        stream.push_str(&text);
    }
    stream
}
