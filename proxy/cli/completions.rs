//! `pillion completions`: what a shell needs to complete the commands and flags of this binary.
//!
//! The scripts are made of clap's own definition of the command line. clap_complete does the same with more code: it would
//! take 83 KB of the binary.

use clap::{Arg, Args, Command, ValueEnum};

use super::output::print;

#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Completions {
    /// # Errors
    /// Standard output cannot be written.
    pub fn run(self) -> anyhow::Result<()> {
        print(&self.shell.script(super::command()))
    }
}

impl Shell {
    /// Where Debian's packages put the script, below `/usr/share`.
    pub const fn place(self) -> &'static str {
        match self {
            Self::Bash => "bash-completion/completions/pillion",
            Self::Zsh => "zsh/vendor-completions/_pillion",
            Self::Fish => "fish/vendor_completions.d/pillion.fish",
        }
    }

    /// The script that completes `command`.
    pub fn script(self, mut command: Command) -> String {
        command.build();
        let mut levels = Vec::new();
        descend(&command, "pillion".to_owned(), &mut levels);
        match self {
            Self::Bash => bash(&levels),
            Self::Zsh => zsh(&levels),
            Self::Fish => fish(&levels),
        }
    }
}

/// A command with the commands and flags that may follow it.
struct Level {
    /// Its words: `pillion certs issue`.
    path: String,
    below: Vec<Word>,
    flags: Vec<Flag>,
    /// The words that an argument without a flag may be. Empty: any.
    values: Vec<String>,
}

struct Word {
    name: String,
    help: String,
}

struct Flag {
    /// `--config`, `-c`.
    names: Vec<String>,
    help: String,
    /// `None`: it takes no value. Empty: it takes any, perhaps a file.
    values: Option<Vec<String>>,
}

fn descend(command: &Command, path: String, levels: &mut Vec<Level>) {
    let below = || command.get_subcommands().filter(|below| !below.is_hide_set());
    let shown = || command.get_arguments().filter(|arg| !arg.is_hide_set());
    let about = |below: &Command| below.get_about().map(ToString::to_string).unwrap_or_default();
    levels.push(Level {
        path: path.clone(),
        below: below().map(|below| Word { name: below.get_name().to_owned(), help: about(below) }).collect(),
        flags: shown().filter(|arg| !arg.is_positional()).map(flag).collect(),
        values: shown().filter(|arg| arg.is_positional()).flat_map(values).collect(),
    });
    for below in below().filter(|below| below.get_name() != "help") {
        descend(below, format!("{path} {}", below.get_name()), levels);
    }
}

fn flag(arg: &Arg) -> Flag {
    let long = arg.get_long().map(|long| format!("--{long}"));
    let short = arg.get_short().map(|short| format!("-{short}"));
    Flag {
        names: long.into_iter().chain(short).collect(),
        help: arg.get_help().map(ToString::to_string).unwrap_or_default(),
        values: arg.get_action().takes_values().then(|| values(arg)),
    }
}

fn values(arg: &Arg) -> Vec<String> {
    arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect()
}

impl Level {
    /// The flags that take a value, as `pillion run --config`, and what the value may be.
    fn expecting(&self) -> impl Iterator<Item = (String, &[String])> {
        let with_value = self.flags.iter().filter_map(|flag| Some((flag, flag.values.as_deref()?)));
        with_value.map(|(flag, values)| {
            let names = flag.names.iter().map(|name| quoted(&format!("{} {name}", self.path)));
            (names.collect::<Vec<_>>().join("|"), values)
        })
    }

    /// Whatever may come next, each with its help.
    fn words(&self) -> impl Iterator<Item = (&str, &str)> {
        let below = self.below.iter().map(|word| (&*word.name, &*word.help));
        let flags = self.flags.iter().flat_map(|flag| flag.names.iter().map(|name| (&**name, &*flag.help)));
        below.chain(self.values.iter().map(|value| (&**value, ""))).chain(flags)
    }
}

/// The commands below `pillion`, as patterns of a `case`.
fn paths(levels: &[Level], between: &str) -> String {
    levels.iter().skip(1).map(|level| quoted(&level.path)).collect::<Vec<_>>().join(between)
}

/// A word of a shell. Bash and zsh read it alike.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn bash(levels: &[Level]) -> String {
    let mut script = format!(
        "# pillion completions bash
_pillion() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} path=pillion words= each
    for each in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do
        case \"$path $each\" in {}) path+=\" $each\" ;; esac
    done
    COMPREPLY=()
    case \"$path $before\" in
",
        paths(levels, "|")
    );
    for (names, values) in levels.iter().flat_map(Level::expecting) {
        let values = values.join(" ");
        let found = if values.is_empty() {
            String::new()
        } else {
            format!("COMPREPLY=($(compgen -W {} -- \"$word\")); ", quoted(&values))
        };
        script += &format!("        {names}) {found}return ;;\n");
    }
    script += "    esac\n    case \"$path\" in\n";
    for level in levels {
        let words: Vec<_> = level.words().map(|(word, _)| word).collect();
        script += &format!("        {}) words={} ;;\n", quoted(&level.path), quoted(&words.join(" ")));
    }
    // Where nothing fits, bash completes the names of files.
    script
        + "    esac\n    COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n}\ncomplete -o bashdefault -o default -F _pillion pillion\n"
}

fn zsh(levels: &[Level]) -> String {
    let mut script = format!(
        "#compdef pillion
_pillion() {{
    local at=pillion each
    local -a next
    for each in \"${{(@)words[2,CURRENT-1]}}\"; do
        case \"$at $each\" in ({}) at+=\" $each\" ;; esac
    done
    case \"$at ${{words[CURRENT-1]}}\" in
",
        paths(levels, "|")
    );
    for (names, values) in levels.iter().flat_map(Level::expecting) {
        let values: Vec<_> = values.iter().map(|value| quoted(value)).collect();
        let found =
            if values.is_empty() { "_files".to_owned() } else { format!("compadd -- {}", values.join(" ")) };
        script += &format!("        ({names}) {found}; return ;;\n");
    }
    script += "    esac\n    case \"$at\" in\n";
    for level in levels {
        let words = level.words().map(|(word, help)| quoted(&format!("{word}:{}", help.replace(':', r"\:"))));
        script +=
            &format!("        ({}) next=({}) ;;\n", quoted(&level.path), words.collect::<Vec<_>>().join(" "));
    }
    script
        + "    esac\n    _describe pillion next || _files\n}\nif [ \"$funcstack[1]\" = _pillion ]; then _pillion \"$@\"; else compdef _pillion pillion; fi\n"
}

fn fish(levels: &[Level]) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"));
    let mut script = format!(
        "# pillion completions fish
function __pillion_at
    set -l path pillion
    for each in (commandline -opc)[2..-1]
        switch \"$path $each\"
            case {}
                set path \"$path $each\"
        end
    end
    test \"$path\" = \"$argv\"
end
",
        paths(levels, " ")
    );
    for level in levels {
        let at = format!("complete -c pillion -n {}", quoted(&format!("__pillion_at {}", level.path)));
        for Word { name, help } in &level.below {
            script += &format!("{at} -f -a {name} -d {}\n", quoted(help));
        }
        for value in &level.values {
            script += &format!("{at} -f -a {}\n", quoted(value));
        }
        for flag in &level.flags {
            script += &at;
            for name in &flag.names {
                let option = name.strip_prefix("--").map_or_else(
                    || format!(" -s {}", &name.trim_start_matches('-')),
                    |long| format!(" -l {long}"),
                );
                script += &option;
            }
            match &flag.values {
                None => {}
                Some(values) if values.is_empty() => script += " -r",
                Some(values) => script += &format!(" -x -a {}", quoted(&values.join(" "))),
            }
            script += &format!(" -d {}\n", quoted(&flag.help));
        }
    }
    script
}
