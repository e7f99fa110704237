//! The `balance` program: parses the command line, serves, exits. Everything else is in the
//! library.
//!
//! Invariant: a failure is reported in one line on standard error and in the exit code.

use std::{
    io::{Write as _, stdout},
    process::ExitCode,
};

use balance_userspace::{
    cli::{
        self, Invocation,
        args::{Args, Mode},
        completion, mistaken_port,
    },
    control::client::{self, InstanceTarget},
    error::{StartError, one_line},
    io::{inherited::InheritedListeners, resolve},
    logging::{self, Sink},
    notify,
    process::{
        protocol::SpawnConfig,
        start::{self, Started},
        supervision::Supervision,
    },
    service,
    sys::{
        daemon::{self, Forked},
        signals,
    },
};

fn main() -> ExitCode {
    signals::reset();
    if !service::is_continued() {
        signals::unblock();
    }
    if completion::print_candidates() {
        return ExitCode::SUCCESS;
    }
    let result = run();
    logging::flush();
    result.unwrap_or_else(|e| {
        logging::write_final_line(&format!("balance: {e}"));
        ExitCode::from(e.exit_code())
    })
}

fn run() -> Result<ExitCode, StartError> {
    if let Some(config) = SpawnConfig::from_env()? {
        return Ok(serve_supervised(&config));
    }
    let invocation = match cli::parse(std::env::args_os()) {
        // A monitor would take another exit code for a status.
        Err(error) if cli::is_health(std::env::args_os()) => {
            return Ok(ExitCode::from(service::unknown(&error.to_string())));
        }
        parsed => parsed?,
    };
    let args = match invocation {
        Invocation::Print(text) => {
            let written = stdout().write_all(text.as_bytes()).is_ok();
            return Ok(ExitCode::from(if written { 0 } else { CANNOT_WRITE }));
        }
        Invocation::Verb(verb) => return service::run(&verb).map(ExitCode::from),
        Invocation::Instance(args) => args,
    };
    let target = InstanceTarget {
        run_dir: args.run_dir.as_deref(),
        bind: args.bind.as_deref(),
        operand: &args.port,
    };
    match args.mode() {
        Mode::Command(line) => client::run_commands(&target, line, args.strict).map(ExitCode::from),
        Mode::Shell => client::shell(&target).map(ExitCode::from),
        Mode::Serve => {
            mistaken_port::check(&args, &resolve::service)?;
            serve_one(&args)
        }
    }
}

/// Serves one instance, in the foreground or in the background.
fn serve_one(args: &Args) -> Result<ExitCode, StartError> {
    if args.foreground || notify::is_enabled() {
        // SAFETY: the only call in this process, which has opened nothing yet.
        let inherited_listeners = unsafe { InheritedListeners::from_service_manager() }?;
        logging::init(Sink::Foreground, args.log_format, args.debug);
        return serve(args, Started { inherited_listeners, ..Started::default() });
    }
    // SAFETY: the process has one thread: so far it has only read arguments and variables.
    match unsafe { daemon::detach() }? {
        Forked::Parent(code) => Ok(code.into()),
        Forked::Daemon(ready_notifier) => {
            logging::init(Sink::Background, args.log_format, args.debug);
            let ready_notifier = Some(ready_notifier);
            start::serve(args, Started { ready_notifier, ..Started::default() })?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Serves the instances of a supervisor. The supervisor reports the failure, so none is printed
/// here.
fn serve_supervised(config: &SpawnConfig) -> ExitCode {
    // SAFETY: the only call in this process, which has opened nothing yet. A supervisor has started
    // it.
    let supervision = unsafe { Supervision::from_supervisor() };
    match start::serve_supervised(config, supervision) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.exit_code().into(),
    }
}

/// Serves, and notifies the waiting process of a failure.
fn serve(args: &Args, started: Started) -> Result<ExitCode, StartError> {
    start::serve(args, started).map(|()| ExitCode::SUCCESS).inspect_err(|error| {
        notify::failed(&one_line(&error.to_string()));
    })
}

/// EX_IOERR of sysexits(3).
const CANNOT_WRITE: u8 = 74;
