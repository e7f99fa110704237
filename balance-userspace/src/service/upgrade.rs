//! An upgrade: the supervisor executes the program that is on the disk now in its place.
//!
//! 1. The new program, as a child, checks the file and the state of the supervisor.
//! 2. The supervisor executes the new program. Pid, listeners, locks and control sockets stay. The
//!    server process continues to serve without a supervisor.
//! 3. The new program takes the processes over ([`takeover`](super::takeover)), and starts a new
//!    server process ([`successor`](super::successor)). As soon as that serves, the old one drains.
//!
//! Invariant: a new program that does not start, or finds a mistake, changes nothing. A process
//! accepts clients at any time.

use std::{
    fs,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use command_fds::{CommandFdExt as _, FdMapping};
use nix::{
    sys::{
        signal::{Signal, kill},
        wait::waitpid,
    },
    unistd::Pid,
};
use tokio::{process::Command, sync::oneshot, task::spawn_blocking, time::timeout};
use tracing::{error, info, warn};

use super::{
    changes::Upgrade,
    event::{Event, Refusal},
    member::{Control, ManagedInstance, State},
    output::WRONG,
    supervisor::Supervisor,
    takeover::{TakenInstance, TakenProcess},
    upgrade_state::{self, HeldInstance, Previous},
};
use crate::{
    control::{
        instance_files::{InstanceFiles, SocketAccess},
        protocol::SupervisorReply,
    },
    error::one_line,
    logging, notify,
    process::protocol::InstanceLine,
    sys::signals,
};

/// The longest time that the new program may take to check the file.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// The descriptor of the state in the program that checks.
const STATE_FD: i32 = 3;

/// Exit code of a program that cannot be executed: EX_OSERR of sysexits(3).
const NOT_EXECUTED: u8 = 71;

/// Exit code of a program whose check takes too long: EX_TEMPFAIL of sysexits(3).
const TIMED_OUT: u8 = 75;

impl Supervisor {
    /// Begins an upgrade: runs the new program to check the file and the state.
    pub(super) fn begin_upgrade(&mut self, reply: oneshot::Sender<SupervisorReply>) {
        let refused = |why: &str| SupervisorReply::Refused(why.to_owned());
        let answer = match () {
            () if self.stopping.is_some() => refused("balance is stopping"),
            () if !self.is_started => refused("balance is starting"),
            () if self.upgrade.is_some() => refused("another upgrade is in progress"),
            () => {
                self.upgrade = Some(Upgrade { reply, is_checked: false });
                let state = upgrade_state::write(&self.state().0);
                let program = self.settings.program.clone();
                let (file, sender) = (self.settings.file.clone(), self.sender());
                tokio::spawn(async move {
                    let checked = match state {
                        Ok(state) => check(program, &file, state).await,
                        Err(error) => Err(cannot("write the state", &error)),
                    };
                    let _ = sender.send(Event::Checked(checked));
                });
                return;
            }
        };
        if let SupervisorReply::Refused(reason) = &answer {
            warn!(reason, "not upgraded");
        }
        // The client may be gone.
        let _ = reply.send(answer);
    }

    /// The new program has checked the file and the state.
    pub(super) fn on_checked(&mut self, result: Result<(), Refusal>) {
        match (result, &mut self.upgrade) {
            (Ok(()), Some(upgrade)) => upgrade.is_checked = true,
            (Err(refusal), _) => self.refuse_upgrade(refusal),
            (Ok(()), None) => {}
        }
    }

    /// Gives an upgrade up, if there is one.
    pub(super) fn refuse_upgrade(&mut self, (reasons, code): Refusal) {
        if let Some(upgrade) = self.upgrade.take() {
            error!(reason = reasons.join("; "), exit_code = code, "not upgraded");
            let reply = SupervisorReply::PartlyReloaded {
                changed: Vec::new(),
                differences: Vec::new(),
                failed: reasons,
                code,
            };
            let _ = upgrade.reply.send(reply);
            self.next_reload();
        }
    }

    /// Whether the new program is to be executed now.
    pub(super) fn is_upgrade_due(&self) -> bool {
        let is_idle = self.reload.is_none() && self.next.is_none() && self.stopping.is_none();
        is_idle
            && !self.is_asking
            && self.upgrade.as_ref().is_some_and(|upgrade| upgrade.is_checked)
    }

    /// Executes the new program. Returns only on failure: the upgrade is then given up.
    pub(super) fn execute(&mut self) {
        logging::flush();
        notify::reloading();
        signals::block();
        let error = match self.own.files.socket(SocketAccess::default()) {
            // The new program creates such a socket first.
            Ok(_) => {
                let (state, fds) = self.state();
                upgrade_state::execute(&self.settings.program, &state, &fds).to_string()
            }
            Err(error) => error.to_string(),
        };
        self.own.files.discard();
        signals::unblock();
        notify::ready();
        self.refuse_upgrade(cannot("execute the new program", &error));
    }

    /// The state that the new program continues from, and the descriptors in it.
    fn state(&self) -> (upgrade_state::State, Vec<BorrowedFd<'_>>) {
        let (lock, control) = (self.own.files.lock(), self.own.listener.as_fd());
        let mut fds = vec![lock, control];
        let mut pass = |fd| {
            fds.push(fd);
            fd.as_raw_fd()
        };
        let unused = self.inherited_listeners.iter();
        let unused = unused.map(|socket| pass(socket.as_fd())).collect();
        let instances = self.instances.iter().map(|instance| HeldInstance {
            id: instance.id,
            line: InstanceLine::from(&instance.line),
            is_stopped: matches!(instance.state, State::Stopped),
            is_inherited: instance.is_inherited,
            listeners: instance.listeners.iter().map(|socket| pass(socket.as_fd())).collect(),
            control: instance.control.as_ref().map(|control| pass(control.listener.as_fd())),
            lock: instance.control.as_ref().map(|control| pass(control.files.lock())),
        });
        let state = upgrade_state::State {
            format: upgrade_state::FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            file: self.settings.file.clone(),
            run_dir: self.settings.run_dir.clone(),
            program: self.settings.program.clone(),
            background: self.settings.background,
            lock: lock.as_raw_fd(),
            control: control.as_raw_fd(),
            unused,
            instances: instances.collect(),
            draining: self.draining.iter().map(|process| process.pid).collect(),
            processes: self.processes().map(|process| process.pid).collect(),
        };
        (state, fds)
    }

    /// Whether the program on the disk is another one than the program of this process.
    pub(super) fn is_outdated(&self) -> bool {
        let identity = |path: &Path| fs::metadata(path).map(|it| (it.dev(), it.ino()));
        match (identity(Path::new("/proc/self/exe")), identity(&self.settings.program)) {
            (Ok(own), Ok(other)) => own != other,
            _ => false,
        }
    }

    /// Takes over the instances and processes of the previous program of this process.
    pub(super) fn inherit(&mut self, previous: Previous, processes: Vec<TakenProcess>) {
        self.instances.clear();
        for it in previous.instances {
            let mut instance = ManagedInstance::new(it.line, it.id);
            instance.state = if it.is_stopped { State::Stopped } else { State::Starting };
            instance.listeners = it.listeners;
            instance.is_inherited = it.is_inherited;
            let paths = instance.paths(&self.settings.dir);
            if let (Some((listener, lock)), Ok(paths)) = (it.control, paths) {
                let files = Arc::new(InstanceFiles::with_lock(paths, lock));
                instance.control = Some(Control::taken_over(files, listener));
            }
            self.instances.push(instance);
        }
        for &pid in &previous.processes {
            if processes.iter().all(|it| it.process.pid != pid) {
                discard(pid);
            }
        }
        self.supervise(processes, &previous.draining);
    }

    /// Takes over the instances and processes of a supervisor that has ended.
    pub(super) fn take_over_processes(&mut self, mut processes: Vec<TakenProcess>) {
        if processes.iter().all(|it| it.process.draining_since.is_some()) {
            self.draining.extend(processes.into_iter().map(|it| it.process));
            return;
        }
        self.instances.clear();
        processes.sort_by_key(|it| it.instances.len());
        let instances = processes.last_mut().map(|it| std::mem::take(&mut it.instances));
        for it in instances.into_iter().flatten() {
            self.take_over_instance(it);
        }
        self.supervise(processes, &[]);
    }

    fn take_over_instance(&mut self, it: TakenInstance) {
        let TakenInstance { id, line, mut listeners, control } = it;
        let line = match line.try_into() {
            Ok(line) => line,
            Err(error) => {
                // A line of the file may still use the listeners.
                warn!(%error, "instance of an older program not taken over");
                return self.inherited_listeners.give_back(&mut listeners);
            }
        };
        let mut instance = ManagedInstance::new(line, id);
        instance.listeners = listeners;
        match instance.reclaim(&self.settings.dir) {
            Ok(files) => instance.control = Some(Control::taken_over(Arc::new(files), control)),
            Err(error) => {
                error!(instance = %instance.name(), %error, "cannot use the control socket")
            }
        }
        self.instances.push(instance);
    }

    /// Supervises processes that other supervisors have started. The last one that is not to drain
    /// is the current one, until its successor serves.
    fn supervise(&mut self, processes: Vec<TakenProcess>, draining: &[u32]) {
        for TakenProcess { mut process, .. } in processes {
            let ids = process.names.keys().chain(self.instances.iter().map(|it| &it.id));
            self.last_id = ids.copied().max().unwrap_or(0).max(self.last_id);
            if draining.contains(&process.pid) && process.draining_since.is_none() {
                process.drain();
            }
            if process.draining_since.is_some() {
                self.draining.push(process);
            } else if let Some(other) = self.current.replace(process) {
                self.draining.push(other);
            }
        }
        for instance in &mut self.instances {
            let id = instance.id;
            if self.current.as_ref().is_some_and(|it| it.accepting.contains(&id)) {
                instance.state = State::Serving;
            }
        }
        self.remove_stored();
        self.is_taking_over = true;
    }
}

/// Runs the program on the disk to check the file and the state.
async fn check(program: PathBuf, file: &Path, state: OwnedFd) -> Result<(), Refusal> {
    let mut command = Command::new(&program);
    command
        .args(["check", "--no-dns", "--config"])
        .arg(file)
        .env(upgrade_state::VARIABLE, STATE_FD.to_string())
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let mapping = vec![FdMapping { parent_fd: state, child_fd: STATE_FD }];
    if let Err(error) = command.fd_mappings(mapping) {
        return Err(cannot("pass the state on", &error));
    }
    let act = || format!("execute {}", program.display());
    let output = match timeout(CHECK_TIMEOUT, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(cannot(&act(), &error)),
        Err(_) => {
            return Err((vec![format!("the check by {} timed out", program.display())], TIMED_OUT));
        }
    };
    if output.status.success() {
        info!(program = %program.display(), "upgrading");
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let mut reasons: Vec<_> = text
        .lines()
        .filter(|line| !line.contains(": warning: "))
        .map(|line| one_line(line.strip_prefix("balance: ").unwrap_or(line)))
        .collect();
    if reasons.is_empty() {
        reasons.push(format!("{} ended its check: {}", program.display(), output.status));
    }
    let code = output.status.code().and_then(|code| u8::try_from(code).ok());
    Err((reasons, code.filter(|code| *code != 0).unwrap_or(WRONG)))
}

fn cannot(act: &str, error: &dyn std::fmt::Display) -> Refusal {
    (vec![format!("cannot {act}: {error}")], NOT_EXECUTED)
}

/// Kills a server process that did not reply to the takeover.
fn discard(pid: u32) {
    warn!(pid, "server process does not reply to the new program, killing it");
    let Ok(pid) = i32::try_from(pid).map(Pid::from_raw) else { return };
    // Nothing has waited for the process, so its pid is not reused.
    let _ = kill(pid, Signal::SIGKILL);
    spawn_blocking(move || waitpid(pid, None));
}
