//! The `balance` program: parses, serves, exits. Everything else is in the library.
//!
//! Invariant: a failure is told in one line on standard error and in the exit code.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is where the program speaks")]

use std::process::ExitCode;

use balance_userspace::{
    args::{Args, Command},
    error::StartError,
    logging, server,
};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("balance: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}

fn run() -> Result<(), StartError> {
    match Args::parse_line(std::env::args_os())? {
        Command::Print(text) => {
            print!("{text}");
            Ok(())
        }
        Command::Serve(args) => {
            logging::init(args.log_format, args.debug);
            server::serve(&args)
        }
    }
}
