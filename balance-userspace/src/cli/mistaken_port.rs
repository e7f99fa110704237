//! The likely meaning of a word in place of the port: a verb, or an address.
//!
//! Pure, apart from the look-up of services. Invariant: the exit code stays that of a usage error.

use super::{
    args::Args,
    command,
    operand::{self, Services},
    similar,
    usage_error::quoted,
};
use crate::error::{StartError, one_line};

/// Checks the port of an instance.
///
/// # Errors
/// [`StartError::Usage`] with a hint, when the word is no port.
pub fn check(args: &Args, services: Services<'_>) -> Result<u16, StartError> {
    let word = &args.port;
    operand::listen_port(word, services).map_err(|error| {
        let text = quoted(&one_line(word));
        let command = command();
        let verbs = command.get_subcommands().map(clap::Command::get_name);
        if let Some(verb) = similar::closest(word, verbs).filter(|_| args.channels.is_empty()) {
            return StartError::Usage(format!(
                "{text}: neither a port nor a verb, did you mean {verb}? (try balance --help)"
            ));
        }
        match args.channels.first() {
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) && args.bind.is_none() => {
                let address = text.trim_start_matches('[').trim_end_matches(']');
                let port = one_line(port);
                StartError::Usage(format!(
                    "port {text}: not a port; to listen on an address: balance -b {address} {port}"
                ))
            }
            _ => error,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Invocation, parse};

    #[test]
    fn a_verb_or_an_address_in_the_place_of_the_port_is_recognised() {
        let error = |line: &str| {
            let words = std::iter::once("balance").chain(line.split(' ')).map(Into::into);
            let Ok(Invocation::Instance(args)) = parse(words) else { panic!("{line}") };
            check(&args, &|name| (name == "smtp").then_some(25)).map_err(|error| {
                assert_eq!(error.exit_code(), 64);
                error.to_string()
            })
        };
        let verb = "neither a port nor a verb, did you mean reload? (try balance --help)";
        assert_eq!(error("relaod"), Err(format!("relaod: {verb}")));
        let address = "not a port; to listen on an address: balance -b";
        for (line, ip) in [("192.0.2.7 25 a", "192.0.2.7"), ("[::1] 25", "::1"), ("::1 25", "::1")]
        {
            let typed = line.split(' ').next().unwrap();
            assert_eq!(error(line), Err(format!("port {typed}: {address} {ip} 25")));
        }
        let expected = "expected a number from 1 to 65535 or the name of a service";
        for line in ["192.0.2.7 a", "-b ::1 x.y 25", "nosuch"] {
            assert!(error(line).unwrap_err().ends_with(expected), "{line}");
        }
        assert_eq!(error("25 25"), Ok(25));
        assert_eq!(error("smtp 25"), Ok(25));
    }
}
