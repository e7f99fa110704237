//! Completion of command lines. A shell runs the program to get the candidates at the cursor.
//!
//! Invariants: completion changes nothing, and waits for moments only, whatever hangs. An invalid
//! command line has no candidates.

mod running;

use std::{
    collections::BTreeSet,
    env,
    ffi::{OsStr, OsString},
    io,
};

use clap::{Arg, ArgMatches, Command, CommandFactory as _};
use clap_complete::{
    CompleteEnv,
    engine::{ArgValueCandidates, ArgValueCompleter, CompletionCandidate},
    env::{Bash, Fish, Shells, Zsh},
};

use self::running::Running;
use crate::{
    cli::{self, args::Args},
    control::client::{
        command_table::{self, CommandSpec},
        unfinished::{self, Expected, Unfinished},
    },
};

/// The environment variable that names the requesting shell. All programs made with clap use it.
const VARIABLE: &str = "COMPLETE";

/// Path of the packaged program, which is not on the PATH of every user.
const INSTALLED: &str = "/usr/sbin/balance";

const SHELLS: Shells<'static> = Shells(&[&Bash, &Fish, &Zsh]);

/// Prints the candidates if a shell requests them. Returns false for any other command line.
pub fn print_candidates() -> bool {
    // A value for another program must not keep balance from serving.
    let is_request = env::var(VARIABLE).is_ok_and(|shell| SHELLS.completer(&shell).is_some());
    if is_request {
        let line: Vec<OsString> = env::args_os().skip_while(|word| word != "--").skip(1).collect();
        let here = env::current_dir().ok();
        let env = CompleteEnv::with_factory(|| command(&line)).var(VARIABLE).shells(SHELLS);
        // An error message would only appear between the prompt and the cursor.
        let _ = env.try_complete(env::args_os(), here.as_deref());
    }
    is_request
}

/// Writes the script that registers the completion with a shell. Returns false for an unknown
/// shell.
///
/// # Errors
/// When the script cannot be written.
pub fn write_registration(shell: &str, out: &mut dyn io::Write) -> io::Result<bool> {
    let Some(shell) = SHELLS.completer(shell) else { return Ok(false) };
    shell.write_registration(VARIABLE, "balance", "balance", INSTALLED, out)?;
    if shell.name() == "zsh" {
        // zsh runs this file for the first completion, which would otherwise have no candidates.
        writeln!(out, "[[ $funcstack[1] = _balance ]] && _clap_dynamic_completer_balance \"$@\"")?;
    }
    Ok(true)
}

/// The definition that completes this command line, program name first.
pub(crate) fn command(line: &[OsString]) -> Command {
    // An incomplete command line has errors.
    let matches = cli::command().ignore_errors(true).try_get_matches_from(line);
    let running = matches.as_ref().map(Running::of).unwrap_or_default();
    let command = match matches {
        Ok(matches) if controls_instance(&matches) => offer_instances(Args::command(), &running),
        // A verb comes first.
        Ok(matches) if matches.subcommand_name().is_none() && matches.contains_id("channels") => {
            Args::command()
        }
        _ => cli::command(),
    };
    let completer = ArgValueCompleter::new(move |typed: &OsStr| commands(typed, &running));
    let command = command.mut_arg("command", |arg| arg.add(completer));
    match at_cursor(line) {
        Some(word) if word.as_encoded_bytes().starts_with(b"-") => command,
        _ => without_options(command.mut_subcommands(without_options)),
    }
}

fn controls_instance(matches: &ArgMatches) -> bool {
    let interactive = matches.try_get_one("interactive").is_ok_and(|flag| flag == Some(&true));
    interactive || matches.contains_id("command")
}

/// The word at the cursor: the last word, unless the shell gives another index.
fn at_cursor(line: &[OsString]) -> Option<&OsString> {
    let index = env::var("_CLAP_COMPLETE_INDEX").ok().and_then(|index| index.parse().ok());
    line.get(index.unwrap_or(line.len().saturating_sub(1)))
}

/// Hides the options of a command. A user who wants an option types `-` first.
fn without_options(command: Command) -> Command {
    let hide = |arg: Arg| if arg.is_positional() { arg } else { arg.hide(true) };
    command.mut_args(hide).disable_help_flag(true).disable_version_flag(true)
}

/// Adds the names, ports and addresses of running instances as candidates, for `-c` and `-i`.
fn offer_instances(command: Command, running: &Running) -> Command {
    let offer = |words: fn(&Running) -> BTreeSet<String>| {
        let running = running.clone();
        ArgValueCandidates::new(move || {
            words(&running).into_iter().map(CompletionCandidate::new).collect()
        })
    };
    let (instances, binds) = (offer(Running::names_and_ports), offer(Running::binds));
    // Not `mut_arg`: it would change the order of the operands.
    command.mut_args(move |arg| match arg.get_id().as_str() {
        "port" => arg.add(instances.clone()),
        "bind" => arg.add(binds.clone()),
        _ => arg,
    })
}

/// The completions of the argument of `-c`: a command, or a server of a running instance.
fn commands(typed: &OsStr, running: &Running) -> Vec<CompletionCandidate> {
    // zsh and fish pass the opening quote on.
    let line = typed.to_str().unwrap_or_default().trim_start_matches(['\'', '"']);
    let Some(Unfinished { before, word, expected }) = unfinished::of(line) else {
        return Vec::new();
    };
    let completed = |name: &str| CompletionCandidate::new(format!("{before}{name}"));
    match expected {
        Expected::Command => {
            let commands = command_table::commands().filter(|spec| spec.name.starts_with(word));
            let candidate = |command: &CommandSpec| {
                let help = command.help().first().map(|line| (*line).into());
                completed(command.name).help(help)
            };
            commands.map(candidate).collect()
        }
        Expected::Server => {
            let names = running.server_names().into_iter();
            names.filter(|name| name.starts_with(word)).map(|name| completed(&name)).collect()
        }
    }
}
