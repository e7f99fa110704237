//! What the steps share: the servers, the configuration file, the listeners and the packages.
//!
//! Invariant: the installed program runs; nothing is started by hand.

use std::{fs, io::ErrorKind, net::SocketAddr, process::Command};

use tests::{Backend, Outcome, eventually, run};

use crate::{
    load,
    unit::{COMMAND_TIMEOUT, STATE_TIMEOUT},
};

/// The configuration files of balance.service and of balance@other.service.
const FILE: &str = "/etc/balance/balance.conf";
const OTHER_FILE: &str = "/etc/balance/other.conf";

/// The first line, as in the installed file.
const FIRST_LINE: &str = "default --control-group balance\n";

/// A listener of the service. The first needs CAP_NET_BIND_SERVICE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listener(u16);

impl Listener {
    pub(crate) const SMTP: Self = Self(25);
    pub(crate) const SUBMISSION: Self = Self(587);
    pub(crate) const IMAP: Self = Self(143);
    pub(crate) const OTHER: Self = Self(2525);

    pub(crate) fn address(self) -> SocketAddr {
        ([127, 0, 0, 1], self.0).into()
    }

    /// Returns whether a connect is accepted and passed to a server.
    pub(crate) fn serves(self) -> bool {
        load::name(self.address()).is_ok()
    }

    /// Returns whether a connect is refused.
    pub(crate) fn refuses(self) -> bool {
        load::name(self.address()).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    }
}

/// The state of a run.
pub(crate) struct Scenario {
    a: Backend,
    b: Backend,
}

impl Scenario {
    pub(crate) fn new() -> Self {
        Self { a: Backend::echo("A"), b: Backend::echo("B") }
    }

    /// Writes the configuration file with these listeners, and more lines as given.
    pub(crate) fn write_file(&self, listeners: &[Listener], more: &str) {
        let text = FIRST_LINE.to_owned() + &self.lines(listeners) + more;
        fs::write(FILE, text).expect("writing the configuration file");
    }

    /// Writes the configuration file of the other unit with these listeners.
    pub(crate) fn write_other_file(&self, listeners: &[Listener]) {
        fs::write(OTHER_FILE, self.lines(listeners)).expect("writing the configuration file");
    }

    fn lines(&self, listeners: &[Listener]) -> String {
        let line = |listener: &Listener| {
            let [a, b] = [&self.a, &self.b].map(Backend::address);
            format!("-b 127.0.0.1 {} {a} {b}\n", listener.0)
        };
        listeners.iter().map(line).collect()
    }
}

/// Waits until each of the listeners passes connections on.
pub(crate) fn wait_until_served(listeners: &[Listener]) {
    for listener in listeners {
        eventually(STATE_TIMEOUT, "the service passes connections on", || {
            match listener.serves() {
                true => Ok(()),
                false => Err(format!("{} does not answer", listener.address())),
            }
        });
    }
}

/// Runs a shell command that must exit with this code, and returns what it wrote.
pub(crate) fn ends_with(code: i32, line: &str) -> String {
    let outcome = sh(line);
    assert_eq!(outcome.status.code(), Some(code), "{line}: {outcome:?}");
    outcome.stdout + &outcome.stderr
}

fn sh(line: &str) -> Outcome {
    run(Command::new("sh").args(["-c", line]), COMMAND_TIMEOUT)
}
