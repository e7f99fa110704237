//! A generation: one server process that serves all instances.
//!
//! Invariants:
//! - The process inherits its socket to the supervisor and no other descriptor.
//! - Only the task in [`Generation::read`] waits for the process.
//! - Sending a request never waits for the process.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    os::{
        fd::OwnedFd,
        unix::{
            net::{UnixListener, UnixStream},
            process::ExitStatusExt as _,
        },
    },
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use command_fds::{CommandFdExt as _, FdMapping};
use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
use tokio::{
    io::{Interest, unix::AsyncFd},
    process::{Child, Command},
    sync::mpsc::UnboundedSender,
};
use tracing::{info, warn};

use super::event::Event;
use crate::{
    control::protocol::{GenerationRow, InstanceRow, InstanceState},
    process::{
        protocol::{self, InstanceStatus, Request, SpawnConfig, VARIABLE},
        supervision::{self, Receiver, Sender},
    },
};

/// A process that serves and does not reply for this number of seconds is shown as hung.
const SILENT: u32 = 3;

/// A process that serves and does not reply for this number of seconds is killed.
const HUNG: u32 = 10;

/// A process that starts and does not reply for this number of seconds is killed. The process
/// loads the datapath before it replies.
const HUNG_AT_START: u32 = 60;

/// The longest wait for a process that is to release its listeners.
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A server process whose end is not known yet.
pub(super) struct Generation {
    pub(super) pid: u32,
    /// The pidfd of a process that another supervisor has started. Nothing else keeps the kernel
    /// from giving its pid to another process.
    handle: Option<Arc<OwnedFd>>,
    /// The version of its program; empty until the process has reported it.
    pub(super) version: String,
    /// The options of the process.
    pub(super) config: SpawnConfig,
    sender: Sender,
    /// When the process served its first instance.
    pub(super) serving_since: Option<Instant>,
    /// Instances without a reply to their start.
    pub(super) awaited: HashSet<u64>,
    /// Instances that accept.
    pub(super) accepting: HashSet<u64>,
    /// The last status of each instance.
    pub(super) status: HashMap<u64, InstanceStatus>,
    /// Open connections of all instances.
    pub(super) open: u64,
    /// The reason why the process ends, if it has reported one.
    pub(super) failure: Option<(String, u8)>,
    /// When the process was asked to drain.
    pub(super) draining_since: Option<Instant>,
    /// The name of each instance that the process serves or starts.
    pub(super) names: BTreeMap<u64, String>,
    /// For how many calls of [`Generation::ping`] a reply has been awaited.
    silent: u32,
    is_pinged: bool,
    /// The log says that the process does not reply.
    is_reported_silent: bool,
}

impl Generation {
    /// Spawns a server process. `takeover` is the takeover socket of this supervisor. The events of
    /// the process arrive as [`Event::Process`], its end as [`Event::Exited`].
    pub(super) fn spawn(
        config: SpawnConfig,
        takeover: &UnixListener,
        events: &UnboundedSender<Event>,
    ) -> io::Result<Self> {
        let (own, other) = UnixStream::pair()?;
        let fds = vec![FdMapping { parent_fd: other.into(), child_fd: supervision::FD }];
        // The same program, even if an upgrade has replaced the file.
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("balance")
            .args([protocol::COMMAND, "--config"])
            .arg(&config.file)
            .env(VARIABLE, config.to_json())
            .env_remove("NOTIFY_SOCKET")
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_FDNAMES")
            .env_remove("WATCHDOG_USEC")
            .stdin(Stdio::null());
        if config.background {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        command.fd_mappings(fds).map_err(io::Error::other)?;
        let takeover = takeover.try_clone()?;
        let child = command.spawn()?;
        // The command holds the other end.
        drop(command);
        let pid = child.id().ok_or(io::ErrorKind::NotFound)?;
        let (receiver, sender) = supervision::split(own)?;
        sender.send(&Request::Supervise, vec![takeover.into()]);
        let process = Self::new(pid, String::new(), config, sender);
        process.read(receiver, Some(child), events);
        Ok(process)
    }

    /// A process that another supervisor has started.
    ///
    /// # Errors
    /// When the process has ended.
    pub(super) fn taken_over(
        pid: rustix::process::Pid,
        version: String,
        config: SpawnConfig,
        sender: Sender,
    ) -> io::Result<Self> {
        let handle = Some(Arc::new(pidfd_open(pid, PidfdFlags::NONBLOCK)?));
        let pid = u32::try_from(pid.as_raw_nonzero().get()).map_err(io::Error::other)?;
        let serving_since = Some(Instant::now());
        Ok(Self { serving_since, handle, ..Self::new(pid, version, config, sender) })
    }

    /// Forwards the events of the process. `child` is `None` if another program started it.
    pub(super) fn read(
        &self,
        mut receiver: Receiver,
        child: Option<Child>,
        events: &UnboundedSender<Event>,
    ) {
        let (pid, handle, events) = (self.pid, self.handle.clone(), events.clone());
        tokio::spawn(async move {
            // All messages precede the end of the process, which closes the socket.
            while let Ok(Some(event)) = receiver.next().await {
                let _ = events.send(Event::Process(pid, event));
            }
            let status = match (child, handle) {
                (Some(mut child), _) => child.wait().await,
                (None, Some(handle)) => wait(pid, &handle).await,
                (None, None) => Err(io::ErrorKind::NotFound.into()),
            };
            // The supervisor may have stopped.
            let _ = events.send(Event::Exited(pid, status));
        });
    }

    fn new(pid: u32, version: String, config: SpawnConfig, sender: Sender) -> Self {
        Self {
            pid,
            handle: None,
            version,
            config,
            sender,
            serving_since: None,
            awaited: HashSet::new(),
            accepting: HashSet::new(),
            status: HashMap::new(),
            open: 0,
            failure: None,
            draining_since: None,
            names: BTreeMap::new(),
            silent: 0,
            is_pinged: false,
            is_reported_silent: false,
        }
    }

    /// Sends a request with descriptors.
    pub(super) fn send(&self, request: Request, fds: Vec<OwnedFd>) {
        self.sender.send(&request, fds);
    }

    /// Asks the process to accept no more, and to end with its last connection.
    pub(super) fn drain(&mut self) {
        self.draining_since = Some(Instant::now());
        self.send(Request::Drain, Vec::new());
    }

    /// Updates the state from an event of the process.
    pub(super) fn apply(&mut self, event: &protocol::Event) {
        match event {
            protocol::Event::Supervised { version, .. } => self.version.clone_from(version),
            protocol::Event::Served { id } => {
                self.awaited.remove(id);
                self.accepting.insert(*id);
                self.serving_since.get_or_insert_with(Instant::now);
            }
            protocol::Event::Failed { id, .. } => {
                self.awaited.remove(id);
                self.names.remove(id);
            }
            protocol::Event::Released { id, .. } => {
                self.accepting.remove(id);
            }
            protocol::Event::Ended { id } => {
                self.names.remove(id);
            }
            protocol::Event::Status { open, instances } => {
                self.open = *open;
                self.status = instances.iter().map(|it| (it.id, it.clone())).collect();
            }
            protocol::Event::CannotStart { reason, exit_code } => {
                self.failure = Some((reason.clone(), *exit_code));
            }
            protocol::Event::Pong => {
                if self.is_reported_silent {
                    info!(pid = self.pid, "server process replies again");
                }
                (self.is_pinged, self.silent, self.is_reported_silent) = (false, 0, false);
            }
            protocol::Event::Configured { .. } | protocol::Event::Differences { .. } => {}
        }
    }

    /// Whether the process has been asked to drain, and still accepts. A process that does not
    /// release its listeners in time is waited for no longer.
    pub(super) fn is_releasing(&self) -> bool {
        let since = self.draining_since;
        !self.accepting.is_empty() && since.is_some_and(|since| since.elapsed() < DRAIN_TIMEOUT)
    }

    /// The instances of the process that drain, as `status` shows them. `is_managed` says whether
    /// an instance with a number belongs to a line.
    pub(super) fn draining_rows(&self, is_managed: impl Fn(u64) -> bool) -> Vec<InstanceRow> {
        let is_current = |id: u64| self.draining_since.is_none() && is_managed(id);
        let rows = self.names.iter().filter(|(id, _)| !is_current(**id));
        let rows = rows.map(|(id, name)| {
            let status = self.status.get(id);
            InstanceRow {
                name: name.clone(),
                given_name: status.and_then(|status| status.name.clone()),
                words: Vec::new(),
                state: InstanceState::Draining,
                pid: Some(self.pid),
                socket: None,
                connections: status.map_or(0, |status| status.open),
                status: status.map(|status| status.text.clone()).unwrap_or_default(),
            }
        });
        rows.collect()
    }

    /// The process as `status` shows it.
    pub(super) fn row(&self) -> GenerationRow {
        GenerationRow {
            pid: self.pid,
            version: Some(self.version.clone()).filter(|version| !version.is_empty()),
            draining_seconds: self.draining_since.map(|since| since.elapsed().as_secs()),
            connections: self.open,
        }
    }

    /// Sends a ping, unless the process owes a reply. To be called once a second. The limits
    /// count calls, not time, so a suspended supervisor does not find its process hung.
    pub(super) fn ping(&mut self) {
        if self.is_pinged {
            self.silent += 1;
            if self.silent == SILENT && self.is_silent() {
                self.is_reported_silent = true;
                warn!(pid = self.pid, seconds = SILENT, "server process does not reply");
            }
        } else {
            self.is_pinged = true;
            self.send(Request::Ping, Vec::new());
        }
    }

    /// Whether a process that serves has not replied for [`SILENT`] seconds.
    pub(super) fn is_silent(&self) -> bool {
        self.serving_since.is_some() && self.is_pinged && self.silent >= SILENT
    }

    /// For how many seconds a reply has been awaited.
    pub(super) fn silent_seconds(&self) -> u32 {
        self.silent
    }

    /// Whether the process has not replied within its limit.
    pub(super) fn is_hung(&self) -> bool {
        let limit = if self.serving_since.is_some() { HUNG } else { HUNG_AT_START };
        self.is_pinged && self.silent >= limit
    }

    /// Whether the process serves an instance, or starts to.
    pub(super) fn knows(&self, id: u64) -> bool {
        self.accepting.contains(&id) || self.awaited.contains(&id)
    }

    /// Sends a signal to the process.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(handle) = &self.handle {
            if let Some(signal) = rustix::process::Signal::from_named_raw(signal as i32) {
                let _ = pidfd_send_signal(handle, signal);
            }
            return;
        }
        // Only the task in `read` waits for a child, so its pid is not reused, or its exit event is
        // already on the way.
        if let Ok(pid) = i32::try_from(self.pid) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

/// Waits for the end of a process whose socket is closed. After an upgrade the process is a child
/// of this one. After the end of its supervisor it is no child, and its exit code is unknown.
async fn wait(pid: u32, handle: &OwnedFd) -> io::Result<ExitStatus> {
    // A pidfd is readable once the process has ended (pidfd_open(2)).
    // SAFETY: an `OwnedFd` keeps its descriptor open for as long as it lives.
    let handle =
        unsafe { AsyncFd::register_with_interest(handle.try_clone()?, Interest::READABLE) }?;
    let _ = handle.readable().await?;
    let pid = Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?);
    match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Signaled(_, signal, _)) => Ok(ExitStatus::from_raw(signal as i32)),
        Ok(WaitStatus::Exited(_, code)) => Ok(ExitStatus::from_raw(code << 8)),
        _ => Err(io::Error::other("its exit code is unknown")),
    }
}
