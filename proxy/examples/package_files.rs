//! Writes what a package has beside the binary: manual pages and shell completions, below the folder `share` that the argument
//! names. `deploy/package.sh` runs it; the binary itself has no code for manual pages.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Command, ValueEnum as _};
use pillion::cli::completions::Shell;

fn main() -> io::Result<()> {
    let share = std::env::args_os().nth(1).map(PathBuf::from);
    let share = share.ok_or_else(|| io::Error::other("usage: package_files FOLDER"))?;
    for shell in Shell::value_variants() {
        write(&share.join(shell.place()), shell.script(pillion::cli::command()).as_bytes())?;
    }
    let mut command = pillion::cli::command().disable_help_subcommand(true);
    command.build();
    manual(&command, "pillion", &share.join("man/man1"))
}

/// A page for the command, and one for each of its commands: `pillion-certs-issue.1`.
fn manual(command: &Command, name: &str, folder: &Path) -> io::Result<()> {
    let known: &'static str = name.to_owned().leak(); // clap's names live as long as the program
    let titled = command.clone().name(known).display_name(known);
    let mut page = Vec::new();
    clap_mangen::Man::new(titled).title(name.to_uppercase()).date("").render(&mut page)?;
    write(&folder.join(format!("{name}.1")), &page)?;
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        manual(below, &format!("{name}-{}", below.get_name()), folder)?;
    }
    Ok(())
}

fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(path, content)
}
