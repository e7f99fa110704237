//! The instance that a command line of `-c` or `-i` means: by port and address, or by name.
//!
//! Invariant: a port or a service that has an instance goes before a name. No command is sent to an
//! instance while another one has the same name.

use std::path::Path;

use super::{connection::Connection, rpc::ClientError};
use crate::{
    cli::{name, operand},
    control::run_dir::{ALL_ADDRESSES, RunDir},
    error::StartError,
    io::resolve,
};

/// Where to look for an instance.
#[derive(Clone, Copy, Debug)]
pub struct InstanceTarget<'a> {
    /// The run directory, if the user named one.
    pub run_dir: Option<&'a Path>,
    /// The text of `-b`.
    pub bind: Option<&'a str>,
    /// The operand: a port, a service, or the name of an instance.
    pub operand: &'a str,
}

/// The meaning of the operand.
#[derive(Clone, Copy, Debug)]
pub(super) enum ParsedTarget<'a> {
    /// A port, and the text if it may also be a name.
    Port(u16, Option<&'a str>),
    /// A name.
    Name(&'a str),
}

impl<'a> InstanceTarget<'a> {
    /// Parses the operand.
    ///
    /// # Errors
    /// [`StartError::Usage`] when the operand is neither a port nor a name.
    pub(super) fn parse(&self) -> Result<ParsedTarget<'a>, StartError> {
        let may_be_name = name::is_valid(self.operand);
        match operand::listen_port(self.operand, &resolve::service) {
            Ok(port) => Ok(ParsedTarget::Port(port, may_be_name.then_some(self.operand))),
            Err(_) if may_be_name => Ok(ParsedTarget::Name(self.operand)),
            Err(error) => Err(error),
        }
    }

    /// Connects to the instance.
    pub(super) fn connect(&self, parsed: ParsedTarget<'_>) -> Result<Connection, ClientError> {
        let (port, name) = match parsed {
            ParsedTarget::Name(name) => return self.by_name(name),
            ParsedTarget::Port(port, name) => (port, name),
        };
        match Connection::find(self.run_dir, self.bind, port) {
            Err(ClientError::NoMaster) => match name.map(|name| self.by_name(name)) {
                None | Some(Err(ClientError::NoSuchInstance(_))) => Err(self.no_master(port)),
                Some(found) => found,
            },
            found => found,
        }
    }

    fn by_name(&self, name: &str) -> Result<Connection, ClientError> {
        let (mut matches, mut unreadable) = (Vec::new(), None);
        for dir in self.dirs()? {
            for (port, bind) in dir.instances() {
                if self.bind.is_some_and(|wanted| wanted != bind) {
                    continue;
                }
                let paths = dir.instance(Some(&bind), port)?;
                match Connection::at(paths, self.run_dir.is_some()) {
                    Ok(connection) if connection.name() == Some(name) => {
                        matches.push((connection, describe(port, &bind)));
                    }
                    Ok(_) | Err(ClientError::NoMaster | ClientError::Gone(_)) => {}
                    // This instance may have the name.
                    Err(error) => unreadable = Some(error),
                }
            }
        }
        match matches.len() {
            0 => Err(unreadable.unwrap_or_else(|| ClientError::NoSuchInstance(name.to_owned()))),
            1 => Ok(matches.remove(0).0),
            _ => {
                let found = matches.into_iter().map(|(_, at)| at).collect();
                Err(ClientError::AmbiguousInstance { name: name.to_owned(), found })
            }
        }
    }

    /// The error when no instance runs on the port with this `-b`: names the `-b` of others.
    fn no_master(&self, port: u16) -> ClientError {
        let dirs = self.dirs().unwrap_or_default();
        let instances = dirs.iter().flat_map(|dir| {
            let any_user = self.run_dir.is_some();
            let on_port = dir.instances().into_iter().filter(move |(at, _)| *at == port);
            on_port.filter(move |(port, bind)| {
                let Ok(paths) = dir.instance(Some(bind), *port) else { return false };
                let found = Connection::at(paths, any_user);
                matches!(found, Ok(_) | Err(ClientError::NoAccess(_) | ClientError::Denied { .. }))
            })
        });
        let others: Vec<_> = instances.map(|(_, bind)| bind).collect();
        if others.is_empty() {
            ClientError::NoMaster
        } else {
            ClientError::OtherBind { port, others }
        }
    }

    fn dirs(&self) -> Result<Vec<RunDir>, ClientError> {
        Ok(RunDir::to_search(self.run_dir)?)
    }
}

fn describe(port: u16, bind: &str) -> String {
    if bind == ALL_ADDRESSES { port.to_string() } else { format!("-b {bind} {port}") }
}
