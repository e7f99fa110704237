//! Completion of command lines. A shell runs the program to get the candidates at the cursor.
//!
//! Invariants: completion reads the run directory and /proc, and connects to no process. Only
//! instances whose process is alive are candidates. An invalid command line has no candidates.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgMatches, Command, CommandFactory as _};
use clap_complete::{
    CompleteEnv,
    engine::{ArgValueCandidates, CompletionCandidate},
    env::{Bash, Fish, Shells, Zsh},
};

use crate::{
    cli::{self, args::Args},
    control::{
        client::command_table::{self, CommandSpec},
        run_dir::{self, RunDir},
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
    let command = match matches {
        Ok(matches) if controls_instance(&matches) => offer_instances(Args::command(), &matches),
        // A verb comes first.
        Ok(matches) if matches.subcommand_name().is_none() && matches.contains_id("channels") => {
            Args::command()
        }
        _ => cli::command(),
    };
    let command = command.mut_arg("command", |arg| arg.add(ArgValueCandidates::new(commands)));
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

/// Adds the ports and addresses of running instances as candidates, for `-c` and `-i`.
fn offer_instances(command: Command, matches: &ArgMatches) -> Command {
    let dir = matches.get_one::<PathBuf>("run_dir").cloned();
    let bind =
        matches.get_one::<String>("bind").map_or(run_dir::ALL_ADDRESSES, String::as_str).to_owned();
    let offer = |pick: fn(&str, (u16, String)) -> Option<String>| {
        let (dir, bind) = (dir.clone(), bind.clone());
        ArgValueCandidates::new(move || {
            let running = running(dir.as_deref()).into_iter();
            // Several instances may listen on one address.
            let words: BTreeSet<String> = running.filter_map(|at| pick(&bind, at)).collect();
            words.into_iter().map(CompletionCandidate::new).collect()
        })
    };
    let ports = offer(|bind, (port, at)| (at == bind).then(|| port.to_string()));
    let binds = offer(|_, (_, at)| (at != run_dir::ALL_ADDRESSES).then_some(at));
    // Not `mut_arg`: it would change the order of the operands.
    command.mut_args(move |arg| match arg.get_id().as_str() {
        "port" => arg.add(ports.clone()),
        "bind" => arg.add(binds.clone()),
        _ => arg,
    })
}

/// The names of the control commands.
fn commands() -> Vec<CompletionCandidate> {
    let candidate = |command: &CommandSpec| {
        let help = command.help().first().map(|line| (*line).into());
        CompletionCandidate::new(command.name).help(help)
    };
    command_table::commands().map(candidate).collect()
}

/// Returns port and `-b` of each running instance.
fn running(dir: Option<&Path>) -> Vec<(u16, String)> {
    let own = RunDir::locate(dir).unwrap_or_else(|_| RunDir::system());
    // `-c` looks in the same directories: the user's own, then the system's.
    let dirs = [own.path().to_owned(), RunDir::system().path().to_owned()];
    let dirs = if dir.is_some() { &dirs[..1] } else { &dirs[..] };
    let mut found: Vec<(u16, String)> = Vec::new();
    for file in dirs.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten() {
        let name = file.file_name();
        let Some(instance) = name.to_str().and_then(run_dir::instance_of) else { continue };
        let pid =
            fs::read_to_string(file.path()).ok().and_then(|pid| pid.trim().parse::<u32>().ok());
        if pid.is_some_and(|pid| Path::new("/proc").join(pid.to_string()).exists()) {
            found.push(instance);
        }
    }
    found
}
