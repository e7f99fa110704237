//! The running instances that a command line can mean, with their names and servers.
//!
//! Invariants: a look-up of names ends within [`TIME_LIMIT`], whatever hangs. Only instances whose
//! process is alive are found.

use std::{
    collections::BTreeSet,
    fs, iter,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::ArgMatches;

use crate::{
    control::{
        client::connection::Connection,
        run_dir::{self, Paths, RunDir},
    },
    error::one_line,
};

/// The longest wait for the names that running instances tell.
const TIME_LIMIT: Duration = Duration::from_millis(300);

/// The running instances that a command line can mean.
#[derive(Clone, Default)]
pub(super) struct Running {
    run_dir: Option<PathBuf>,
    /// The text of `-b`.
    bind: Option<String>,
    /// The operand, if it stands behind the cursor.
    operand: Option<String>,
}

impl Running {
    pub(super) fn of(matches: &ArgMatches) -> Self {
        // `Args` and the verbs have different arguments.
        let text = |id| matches.try_get_one::<String>(id).ok().flatten().cloned();
        let run_dir = matches.try_get_one::<PathBuf>("run_dir").ok().flatten().cloned();
        Self { run_dir, bind: text("bind"), operand: text("port") }
    }

    /// Paths, port and `-b` of each instance whose process is alive.
    fn all(&self) -> Vec<(Paths, u16, String)> {
        let own = RunDir::locate(self.run_dir.as_deref()).unwrap_or_else(|_| RunDir::system());
        // `-c` looks in the same directories: the user's own, then the system's.
        let system = Some(RunDir::system()).filter(|dir| self.run_dir.is_none() && *dir != own);
        let dirs = iter::once(own).chain(system);
        let found = dirs.flat_map(|dir| {
            let instances = dir.instances().into_iter();
            let found = instances.filter_map(|(port, bind)| {
                let paths = dir.instance(Some(&bind), port).ok()?;
                is_alive(&paths).then_some((paths, port, bind))
            });
            found.collect::<Vec<_>>()
        });
        found.collect()
    }

    /// The addresses of `-b`.
    pub(super) fn binds(&self) -> BTreeSet<String> {
        let binds = self.all().into_iter().map(|(_, _, bind)| bind);
        binds.filter(|bind| bind != run_dir::ALL_ADDRESSES).collect()
    }

    /// The names of the instances, and the ports of those with this `-b`.
    pub(super) fn names_and_ports(&self) -> BTreeSet<String> {
        let deadline = Instant::now().checked_add(TIME_LIMIT);
        let mut words = BTreeSet::new();
        for (paths, port, bind) in self.all() {
            if bind == self.bind.as_deref().unwrap_or(run_dir::ALL_ADDRESSES) {
                words.insert(port.to_string());
            }
            // A name means an instance with any address.
            if self.bind.as_ref().is_none_or(|wanted| *wanted == bind) {
                let connection = Connection::until(deadline, paths, self.run_dir.is_some());
                words.extend(connection.ok().and_then(|it| it.name().map(one_line)));
            }
        }
        words
    }

    /// The names of the servers of all instances, or of the instance that the operand names.
    pub(super) fn server_names(&self) -> BTreeSet<String> {
        let deadline = Instant::now().checked_add(TIME_LIMIT);
        let mut names = BTreeSet::new();
        for (paths, port, bind) in self.all() {
            if self.bind.as_ref().is_some_and(|wanted| *wanted != bind) {
                continue;
            }
            let any_user = self.run_dir.is_some();
            let Ok(mut connection) = Connection::until(deadline, paths, any_user) else { continue };
            let is_meant = |operand: &String| {
                *operand == port.to_string() || connection.name() == Some(operand)
            };
            if self.operand.as_ref().is_none_or(is_meant) {
                names.extend(connection.server_names().iter().map(|name| one_line(name)));
            }
        }
        names
    }
}

/// Whether the process of an instance is alive, according to the pid file.
fn is_alive(paths: &Paths) -> bool {
    let pid = fs::read_to_string(&paths.pid).ok();
    let pid = pid.and_then(|pid| pid.trim().parse::<u32>().ok());
    pid.is_some_and(|pid| Path::new("/proc").join(pid.to_string()).exists())
}
