//! Completion of command lines: a shell asks the program itself what can stand at the cursor.
//!
//! Invariants: nothing but the run directory is looked at, and nobody is asked: what is offered is
//! what stands there, of processes that live. A question that makes no sense has no answer.

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

/// The variable that says which shell asks; that of other programs made with clap.
const VARIABLE: &str = "COMPLETE";

/// Where the packaged program is; it is not on everybody's PATH.
const INSTALLED: &str = "/usr/sbin/balance";

const SHELLS: Shells<'static> = Shells(&[&Bash, &Fish, &Zsh]);

/// Answers a shell that asks. False if this is another command line.
pub fn answer() -> bool {
    // A value that means something to another program must not keep balance from serving.
    let asked = env::var(VARIABLE).is_ok_and(|shell| SHELLS.completer(&shell).is_some());
    if asked {
        let line: Vec<OsString> = env::args_os().skip_while(|word| word != "--").skip(1).collect();
        let here = env::current_dir().ok();
        let env = CompleteEnv::with_factory(|| command(&line)).var(VARIABLE).shells(SHELLS);
        // What goes wrong would only be printed between prompt and cursor.
        let _ = env.try_complete(env::args_os(), here.as_deref());
    }
    asked
}

/// Writes what has the shell ask us; true if it knows that shell.
///
/// # Errors
/// When it cannot be written.
pub fn write_registration(shell: &str, out: &mut dyn io::Write) -> io::Result<bool> {
    let Some(shell) = SHELLS.completer(shell) else { return Ok(false) };
    shell.write_registration(VARIABLE, "balance", "balance", INSTALLED, out)?;
    if shell.name() == "zsh" {
        // zsh runs the file itself for the first completion, and would have nothing to offer.
        writeln!(out, "[[ $funcstack[1] = _balance ]] && _clap_dynamic_completer_balance \"$@\"")?;
    }
    Ok(true)
}

/// What can be said on this command line, program name first.
pub(crate) fn command(line: &[OsString]) -> Command {
    // Half a command line is wrong in some way.
    let said = cli::command().ignore_errors(true).try_get_matches_from(line);
    let command = match said {
        Ok(said) if asks_instance(&said) => offer_instances(Args::command(), &said),
        // A verb comes first.
        Ok(said) if said.subcommand_name().is_none() && said.contains_id("channels") => {
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

fn asks_instance(said: &ArgMatches) -> bool {
    let interactive = said.try_get_one("interactive").is_ok_and(|flag| flag == Some(&true));
    interactive || said.contains_id("command")
}

/// The word to be completed: the last one, unless the shell says otherwise.
fn at_cursor(line: &[OsString]) -> Option<&OsString> {
    let index = env::var("_CLAP_COMPLETE_INDEX").ok().and_then(|index| index.parse().ok());
    line.get(index.unwrap_or(line.len().saturating_sub(1)))
}

/// The same where options are offered only if nothing else can be: whoever wants one types `-`.
fn without_options(command: Command) -> Command {
    let hide = |arg: Arg| if arg.is_positional() { arg } else { arg.hide(true) };
    command.mut_args(hide).disable_help_flag(true).disable_version_flag(true)
}

/// With `-c` or `-i` only instances that run make sense: their ports, and where they listen.
fn offer_instances(command: Command, said: &ArgMatches) -> Command {
    let dir = said.get_one::<PathBuf>("run_dir").cloned();
    let bind = said.get_one::<String>("bind").map_or(run_dir::ALL, String::as_str).to_owned();
    let offer = |pick: fn(&str, (u16, String)) -> Option<String>| {
        let (dir, bind) = (dir.clone(), bind.clone());
        ArgValueCandidates::new(move || {
            let running = running(dir.as_deref()).into_iter();
            // Several may listen at one address.
            let words: BTreeSet<String> = running.filter_map(|at| pick(&bind, at)).collect();
            words.into_iter().map(CompletionCandidate::new).collect()
        })
    };
    let ports = offer(|bind, (port, at)| (at == bind).then(|| port.to_string()));
    let binds = offer(|_, (_, at)| (at != run_dir::ALL).then_some(at));
    // Not `mut_arg`: it would change the order of the operands.
    command.mut_args(move |arg| match arg.get_id().as_str() {
        "port" => arg.add(ports.clone()),
        "bind" => arg.add(binds.clone()),
        _ => arg,
    })
}

/// The first words of the commands.
fn commands() -> Vec<CompletionCandidate> {
    let candidate = |command: &CommandSpec| {
        let help = command.help().first().map(|line| (*line).into());
        CompletionCandidate::new(command.name).help(help)
    };
    command_table::commands().map(candidate).collect()
}

/// Ports and `-b` of the instances that run.
fn running(dir: Option<&Path>) -> Vec<(u16, String)> {
    let own = RunDir::locate(dir).unwrap_or_else(|_| RunDir::system());
    // As `-c` looks for them: where ours are, and where root's are.
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
