//! Writes the man pages and the shell completions of a package into a directory.
//!
//! Invariant: options, verbs, control commands and exit codes come from the definitions that the
//! program itself uses. The other text is in `manual/`.

use std::{env, error::Error, fs, io::Write as _, path::Path};

use balance_userspace::{
    cli::{self, completion, exit_status::EXIT_STATUS},
    control::client::command_table,
};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

/// The text of the pages that no definition contains.
const DESCRIPTION: &str = include_str!("../../manual/description.roff");
const REST: &str = include_str!("../../manual/rest.roff");
const CONFIGURATION: &str = include_str!("../../manual/balance.conf.5");

/// The date of the last change of those texts.
const DATE: &str = "2026-11-30";

/// The shells, each with the file name under which it finds the completions.
const COMPLETIONS: [(&str, &str); 3] =
    [("bash", "balance"), ("zsh", "_balance"), ("fish", "balance.fish")];

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let dir = env::args_os().nth(1).ok_or("usage: manual DIRECTORY")?;
    let dir = Path::new(&dir);
    fs::create_dir_all(dir)?;
    fs::write(dir.join("balance.8"), program()?)?;
    fs::write(dir.join("balance.conf.5"), CONFIGURATION)?;
    for (shell, file) in COMPLETIONS {
        let mut script = Vec::new();
        if !completion::write_registration(shell, &mut script)? {
            return Err(format!("no completions for {shell}").into());
        }
        // A directory for each shell, because file names are the same.
        fs::create_dir_all(dir.join(shell))?;
        fs::write(dir.join(shell).join(file), script)?;
    }
    Ok(())
}

/// The page balance(8).
fn program() -> Result<Vec<u8>> {
    let man = Man::new(cli::command())
        .title("BALANCE")
        .section("8")
        .manual("System Administration")
        .date(DATE);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    page.extend(DESCRIPTION.bytes());
    man.render_options_section(&mut page)?;
    verbs(&mut page)?;
    commands(&mut page)?;
    exit_status(&mut page)?;
    page.extend(REST.bytes());
    Ok(page)
}

/// Writes the section of the verbs, each with its options.
fn verbs(page: &mut Vec<u8>) -> Result<()> {
    writeln!(page, ".SH VERBS\nAll instances of a configuration file, see\n.BR balance.conf (5).")?;
    let mut command = cli::command().mut_subcommands(|verb| verb.disable_help_flag(true));
    command.build();
    for verb in command.get_subcommands() {
        let long = verb.get_long_flag().map(|flag| format!(", --{flag}"));
        let names = verb.get_name().to_owned() + &long.unwrap_or_default();
        let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
        let mut entry = Roff::new();
        entry.control("SS", [names.as_str()]);
        entry.text([roman(about + ".")]);
        entry.to_writer(page)?;
        let mut options = Vec::new();
        Man::new(verb.clone()).render_options_section(&mut options)?;
        // The options of a verb are not a section of the page.
        page.extend(String::from_utf8(options)?.replace(".SH OPTIONS\n", "").bytes());
    }
    Ok(())
}

/// Writes the section of the commands of `-c` and `-i`.
fn commands(page: &mut Vec<u8>) -> Result<()> {
    let mut section = Roff::new();
    section.control("SH", ["COMMANDS"]);
    section.text([roman("Commands that -c and -i send to the instance on a port.")]);
    for command in &command_table::COMMANDS {
        section.control("TP", []);
        section.text([bold(command.usage())]);
        section.text([roman(command.help().join(" "))]);
    }
    section.control("PP", []);
    section.text([roman(command_table::NOTES.trim_end())]);
    section.to_writer(page)?;
    Ok(())
}

/// Writes the section of the exit codes.
fn exit_status(page: &mut Vec<u8>) -> Result<()> {
    let mut section = Roff::new();
    section.control("SH", ["EXIT STATUS"]);
    section.text([roman("The codes from 64 to 78 are those of sysexits(3).")]);
    for (code, meaning) in EXIT_STATUS {
        section.control("TP", []);
        section.text([bold(code.to_string())]);
        section.text([roman(meaning)]);
    }
    section.to_writer(page)?;
    Ok(())
}
