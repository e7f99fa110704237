//! The connection of a client to a running process, which it finds by run directory, port and bind
//! address.
//!
//! Invariants: every command goes to the process that ran when the client started. Unless the user
//! named the run directory, the process belongs to root, to the user of the client, or to the owner
//! of the system's run directory, whom only root can appoint.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::{
    rpc::{ClientError, ControlClient},
    script::Transport,
};
use crate::control::{
    instance_files,
    protocol::{ControlCommand, InstanceCommand, InstanceReply},
    run_dir::{Paths, RunDir, RunDirError},
};
use crate::sys;

/// The longest time to wait for the end of the process.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Interval at which the client checks for the end of the process.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The paths of a running process, and a connection to it while one is open.
pub(crate) struct Connection {
    paths: Paths,
    /// Whether the process may belong to any user.
    any_user: bool,
    pid: u32,
    name: Option<String>,
    /// The end of all waits for the process.
    deadline: Option<Instant>,
    client: Option<ControlClient>,
}

impl Connection {
    /// Finds an instance and connects to it. Without `run_dir`, looks in the user's own run
    /// directory first, then in the system's.
    pub(super) fn find(
        run_dir: Option<&Path>,
        bind: Option<&str>,
        port: u16,
    ) -> Result<Self, ClientError> {
        Self::find_by(run_dir, None, |dir| dir.instance(bind, port))
    }

    /// Finds the supervisor of a configuration file, given by its absolute path.
    /// No wait ends after the deadline.
    pub(crate) fn supervisor(
        run_dir: Option<&Path>,
        file: &Path,
        deadline: Option<Instant>,
    ) -> Result<Self, ClientError> {
        Self::find_by(run_dir, deadline, |dir| dir.supervisor(file))
    }

    fn find_by(
        run_dir: Option<&Path>,
        deadline: Option<Instant>,
        paths_in: impl Fn(&RunDir) -> Result<Paths, RunDirError>,
    ) -> Result<Self, ClientError> {
        let own = match RunDir::locate(run_dir) {
            Err(RunDirError::Nowhere) => RunDir::system(),
            dir => dir?,
        };
        let mut paths = paths_in(&own)?;
        if run_dir.is_none() && !socket_exists(&paths) {
            let system = paths_in(&RunDir::system())?;
            if socket_exists(&system) {
                paths = system;
            }
        }
        Self::until(deadline, paths, run_dir.is_some())
    }

    /// Connects to the process with these paths.
    pub(crate) fn at(paths: Paths, any_user: bool) -> Result<Self, ClientError> {
        Self::until(None, paths, any_user)
    }

    /// Does the same. No wait ends after the deadline.
    pub(crate) fn until(
        deadline: Option<Instant>,
        paths: Paths,
        any_user: bool,
    ) -> Result<Self, ClientError> {
        let mut connection = Self { paths, any_user, pid: 0, name: None, deadline, client: None };
        let client = connection.connect()?;
        connection.pid = client.pid();
        connection.name = client.name().map(str::to_owned);
        connection.client = Some(client);
        Ok(connection)
    }

    /// Process id of the process.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// A look-up of the names of the servers, each time on another connection and for at most
    /// `limit`.
    pub(super) fn server_names_within(&self, limit: Duration) -> impl Fn() -> Vec<String> + use<> {
        let (paths, any_user) = (self.paths.clone(), self.any_user);
        move || {
            let deadline = Instant::now().checked_add(limit);
            let connection = Self::until(deadline, paths.clone(), any_user);
            connection.map(|mut connection| connection.server_names()).unwrap_or_default()
        }
    }

    /// The names of the servers; empty without a reply.
    pub(crate) fn server_names(&mut self) -> Vec<String> {
        match self.request(InstanceCommand::Show) {
            Ok(InstanceReply::Table(rows)) => rows.into_iter().map(|row| row.name).collect(),
            _ => Vec::new(),
        }
    }

    /// Name of the instance at the time of the last connect.
    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Sends a command and waits for the reply.
    pub(crate) fn request<C: ControlCommand>(
        &mut self,
        command: C,
    ) -> Result<C::Reply, ClientError> {
        self.client()?.ask(command)
    }

    /// Closes the connection. The next request opens a new one.
    pub(super) fn close(&mut self) {
        self.client = None;
    }

    fn connect(&self) -> Result<ControlClient, ClientError> {
        let client = ControlClient::connect_until(&self.paths.socket, self.deadline).map_err(
            |e| match e {
                // The process died and left its files: name it by its pid file.
                ClientError::NoMaster if socket_exists(&self.paths) => {
                    self.pid_from_file().map_or(e, ClientError::Gone)
                }
                e => e,
            },
        )?;
        let user = client.user()?;
        let is_trusted =
            self.any_user || user == 0 || user == sys::effective_user() || self.is_owner(user);
        if is_trusted { Ok(client) } else { Err(ClientError::ForeignUser(user)) }
    }

    /// Whether the run directory is the system's and belongs to this user. Only root can have given
    /// it to the user.
    fn is_owner(&self, user: u32) -> bool {
        let dir = self.paths.socket.parent().filter(|dir| *dir == RunDir::system().path());
        dir.and_then(|dir| fs::symlink_metadata(dir).ok()).is_some_and(|found| found.uid() == user)
    }

    fn pid_from_file(&self) -> Option<u32> {
        fs::read_to_string(&self.paths.pid).ok()?.trim().parse().ok()
    }

    /// Returns the open connection, or opens one to the same process.
    fn client(&mut self) -> Result<&mut ControlClient, ClientError> {
        if self.client.is_none() {
            let client = match self.connect() {
                Err(ClientError::NoMaster) => Err(ClientError::Gone(self.pid)),
                Ok(client) if client.pid() != self.pid => Err(ClientError::Gone(self.pid)),
                connected => connected,
            }?;
            self.name = client.name().map(str::to_owned);
            self.client = Some(client);
        }
        self.client.as_mut().ok_or(ClientError::NoMaster)
    }

    /// Whether the process has ended and released its lock, so another process can claim its files.
    /// Another process may have claimed them already.
    fn has_ended(&self) -> bool {
        let is_free = || !instance_files::is_held(&self.paths);
        match self.connect() {
            Ok(client) => client.pid() != self.pid,
            // The process spoke this version, so this is another process.
            Err(ClientError::Release(_) | ClientError::UnknownProtocol) => true,
            // The process closes its socket before it releases the lock.
            Err(ClientError::Gone(_)) => is_free(),
            // A process that is exiting also closes this connection unanswered: check again.
            Err(ClientError::NoMaster) => !socket_exists(&self.paths) && is_free(),
            Err(_) => false,
        }
    }
}

impl Transport for Connection {
    fn ask(&mut self, command: InstanceCommand) -> Result<InstanceReply, ClientError> {
        self.request(command)
    }

    fn instance_name(&self) -> Option<&str> {
        self.name()
    }

    fn wait_until_ended(&mut self) -> bool {
        self.close();
        let deadline = Instant::now() + END_TIMEOUT;
        while !self.has_ended() {
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(POLL_INTERVAL);
        }
        true
    }
}

/// Whether a file exists at the path of the socket.
fn socket_exists(paths: &Paths) -> bool {
    fs::symlink_metadata(&paths.socket).is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::{
        super::fake::{FakeInstance, FakeReply},
        *,
    };

    #[test]
    fn an_instance_is_gone_when_its_lock_is_free_and_not_before() {
        type End = fn() -> FakeReply;
        let ends: [(&str, End); 2] =
            [("lock-leave", || FakeReply::Leave), ("lock-die", || FakeReply::Die)];
        for (name, end) in ends {
            let fake = FakeInstance::new(name, move |_| end());
            let paths = fake.dir.paths();
            let lock = File::create(&paths.lock).unwrap();
            lock.lock().unwrap();
            let mut connection = Connection::at(paths, true).unwrap();
            assert_eq!(connection.ask(InstanceCommand::Kill).unwrap(), InstanceReply::Done);
            connection.close();
            while connection.connect().is_ok() {
                thread::yield_now();
            }
            assert!(!connection.has_ended(), "{name}");
            drop(lock);
            assert!(connection.wait_until_ended(), "{name}");
        }
    }
}
