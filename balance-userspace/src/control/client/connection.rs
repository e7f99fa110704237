//! The running balance that a client means: found by run directory, port and bind address.
//!
//! Invariant: a command is only ever sent to the process that was there when the client started,
//! and, unless its directory was named, only to one of root, of our own user, or of the user to whom
//! root has given the system's directory.

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

/// How long balance may take to end.
const END: Duration = Duration::from_secs(5);

/// How often to look whether it has.
const LOOK: Duration = Duration::from_millis(10);

/// Where a running balance is, and a connection to it when there is one.
pub(crate) struct Connection {
    paths: Paths,
    /// Whether it may belong to anybody.
    any_user: bool,
    pid: u32,
    client: Option<ControlClient>,
}

impl Connection {
    /// Finds it and connects to it. Without a directory, it is root's when we have none ourselves.
    pub(super) fn find(
        run_dir: Option<&Path>,
        bind: Option<&str>,
        port: u16,
    ) -> Result<Self, ClientError> {
        Self::find_by(run_dir, |dir| dir.instance(bind, port))
    }

    /// Finds the supervisor of a configuration file, given by its absolute path.
    pub(crate) fn supervisor(run_dir: Option<&Path>, file: &Path) -> Result<Self, ClientError> {
        Self::find_by(run_dir, |dir| dir.supervisor(file))
    }

    fn find_by(
        run_dir: Option<&Path>,
        paths_in: impl Fn(&RunDir) -> Result<Paths, RunDirError>,
    ) -> Result<Self, ClientError> {
        let ours = match RunDir::locate(run_dir) {
            Err(RunDirError::Nowhere) => RunDir::system(),
            dir => dir?,
        };
        let mut paths = paths_in(&ours)?;
        if run_dir.is_none() && !there(&paths) {
            let roots = paths_in(&RunDir::system())?;
            if there(&roots) {
                paths = roots;
            }
        }
        Self::at(paths, run_dir.is_some())
    }

    /// Connects to the one that has these.
    pub(super) fn at(paths: Paths, any_user: bool) -> Result<Self, ClientError> {
        let mut master = Self { paths, any_user, pid: 0, client: None };
        let client = master.connect()?;
        master.pid = client.pid();
        master.client = Some(client);
        Ok(master)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a command and waits for the reply.
    pub(crate) fn request<C: ControlCommand>(
        &mut self,
        command: C,
    ) -> Result<C::Reply, ClientError> {
        self.client()?.ask(command)
    }

    /// Ends the connection; the next request makes a new one.
    pub(super) fn hang_up(&mut self) {
        self.client = None;
    }

    /// Waits until its process has let go of its lock, which is the last that it does; false if that
    /// takes longer than it may.
    pub(crate) fn wait_for_end(&mut self) -> bool {
        self.hang_up();
        let deadline = Instant::now() + END;
        while instance_files::is_held(&self.paths) {
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(LOOK);
        }
        true
    }

    fn connect(&self) -> Result<ControlClient, ClientError> {
        let client = ControlClient::connect(&self.paths.socket).map_err(|e| match e {
            // What is left behind tells who it was.
            ClientError::NoMaster if there(&self.paths) => {
                self.left_pid().map_or(e, ClientError::Gone)
            }
            e => e,
        })?;
        let user = client.user()?;
        let is_trusted =
            self.any_user || user == 0 || user == sys::effective_user() || self.is_owner(user);
        if is_trusted { Ok(client) } else { Err(ClientError::Foreign(user)) }
    }

    /// Whether the run directory is the system's and was given to this user: only root could do that.
    fn is_owner(&self, user: u32) -> bool {
        let dir = self.paths.socket.parent().filter(|dir| *dir == RunDir::system().path());
        dir.and_then(|dir| fs::symlink_metadata(dir).ok()).is_some_and(|found| found.uid() == user)
    }

    fn left_pid(&self) -> Option<u32> {
        fs::read_to_string(&self.paths.pid).ok()?.trim().parse().ok()
    }

    /// The connection, a new one if there is none.
    fn client(&mut self) -> Result<&mut ControlClient, ClientError> {
        if self.client.is_none() {
            let client = match self.connect() {
                Err(ClientError::NoMaster) => Err(ClientError::Gone(self.pid)),
                Ok(client) if client.pid() != self.pid => Err(ClientError::Gone(self.pid)),
                connected => connected,
            }?;
            self.client = Some(client);
        }
        self.client.as_mut().ok_or(ClientError::NoMaster)
    }

    /// Whether it has gone, its lock included, so that its names can be claimed; another one may have them already.
    fn gone(&self) -> bool {
        let is_free = || !instance_files::is_held(&self.paths);
        match self.connect() {
            Ok(client) => client.pid() != self.pid,
            // Ours spoke our version, so this is another one.
            Err(ClientError::Release(_) | ClientError::Stranger) => true,
            // It closes its socket before it lets go of the lock.
            Err(ClientError::Gone(_)) => is_free(),
            // Also when it closes this connection unanswered, on its way out: look again.
            Err(ClientError::NoMaster) => !there(&self.paths) && is_free(),
            Err(_) => false,
        }
    }
}

impl Transport for Connection {
    fn ask(&mut self, command: InstanceCommand) -> Result<InstanceReply, ClientError> {
        self.request(command)
    }

    fn ended(&mut self) -> bool {
        self.hang_up();
        let deadline = Instant::now() + END;
        while !self.gone() {
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(LOOK);
        }
        true
    }
}

/// Whether there is a socket, or something in its place, that can be found.
fn there(paths: &Paths) -> bool {
    fs::symlink_metadata(&paths.socket).is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::{
        super::fake::{FakeReply, FakeServer},
        *,
    };

    #[test]
    fn an_instance_is_gone_when_its_lock_is_free_and_not_before() {
        type End = fn() -> FakeReply;
        let ends: [(&str, End); 2] =
            [("lock-leave", || FakeReply::Leave), ("lock-die", || FakeReply::Die)];
        for (name, end) in ends {
            let fake = FakeServer::new(name, move |_| end());
            let paths = fake.dir.paths();
            let lock = File::create(&paths.lock).unwrap();
            lock.lock().unwrap();
            let mut master = Connection::at(paths, true).unwrap();
            assert_eq!(master.ask(InstanceCommand::Kill).unwrap(), InstanceReply::Done);
            master.hang_up();
            while master.connect().is_ok() {
                thread::yield_now();
            }
            assert!(!master.gone(), "{name}");
            drop(lock);
            assert!(master.ended(), "{name}");
        }
    }
}
