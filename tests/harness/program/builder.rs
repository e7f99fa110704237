//! What a program is started with: its command line, the limits and the user it runs under, and what
//! the system makes it believe.
//!
//! Unless a test asks for something else: in the foreground, all logs as JSON, at a port of
//! 127.0.0.1 that is kept for as long as the program runs.

use std::{
    env,
    ffi::OsString,
    io,
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use nix::sys::resource::{Resource, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

use super::{Balance, binary};
use crate::{ControlGroup, Datapath, Network, ReservedPort};

const JSON: &str = "--log-format=json";

/// What a program is started with.
#[derive(Debug)]
pub struct Builder {
    binary: PathBuf,
    datapath: Option<Datapath>,
    offload_after: Option<u32>,
    listen: Option<SocketAddr>,
    service: Option<String>,
    options: Vec<String>,
    operands: Vec<String>,
    /// What runs it, and what that does: words before the program's own.
    wrapped_by: Vec<OsString>,
    /// Files that this needs.
    files: Vec<tempfile::NamedTempFile>,
    answered: Vec<BpfProgram>,
    descriptors: Option<u64>,
    user: Option<u32>,
}

impl Builder {
    /// A program on the given datapath, that listens on a port of 127.0.0.1 and logs all it can
    /// as JSON.
    pub fn new(datapath: Datapath) -> Self {
        Self { datapath: Some(datapath), ..Self::auto() }
    }

    /// The same, with the datapath left to the program.
    pub fn auto() -> Self {
        Self {
            binary: binary(),
            datapath: None,
            offload_after: None,
            listen: None,
            service: None,
            options: ["-f", "-d", JSON].map(str::to_owned).into(),
            operands: Vec::new(),
            wrapped_by: Vec::new(),
            files: Vec::new(),
            answered: Vec::new(),
            descriptors: None,
            user: None,
        }
    }

    /// Another file than [`binary`].
    pub fn binary(mut self, path: &Path) -> Self {
        self.binary = path.into();
        self
    }

    /// Without `-d`: what an operator sees.
    pub fn quiet(mut self) -> Self {
        self.options.retain(|option| option != "-d");
        self
    }

    /// Without `-f`: for [`Builder::command`], whose process ends when the program serves.
    pub fn background(mut self) -> Self {
        self.options.retain(|option| option != "-f");
        self
    }

    /// With a log for people instead of one for these tests.
    pub fn text(mut self) -> Self {
        self.options.retain(|option| option != JSON);
        self
    }

    /// Adds an option, and what belongs to it.
    pub fn option(mut self, words: &[&str]) -> Self {
        self.options.extend(words.iter().map(|&word| word.into()));
        self
    }

    /// Hands connections over after so many turns of user space, instead of those that belong to
    /// the datapath.
    pub fn offload_after(mut self, turns: u32) -> Self {
        self.offload_after = Some(turns);
        self
    }

    /// Listens there, on a port reserved by the caller, or on all addresses if `::`.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = Some(address);
        self
    }

    /// Gives the port to listen on by the name of a service.
    pub fn service(mut self, name: &str) -> Self {
        self.service = Some(name.into());
        self
    }

    /// Adds a channel by address.
    pub fn channel(self, address: SocketAddr) -> Self {
        self.operand(&address.to_string())
    }

    /// Adds an operand as it is: a channel with a name or a limit, or a separator.
    pub fn operand(mut self, word: &str) -> Self {
        self.operands.push(word.into());
        self
    }

    /// Runs with that text as `/etc/hosts`. Needs root.
    pub fn hosts(self, text: &str) -> Self {
        self.with_file_content("/etc/hosts", text.as_bytes())
    }

    /// Runs by way of another program, whose command line these words are the beginning of; it
    /// must become what it runs.
    pub fn wrapped_by<W: Into<OsString>>(mut self, words: impl IntoIterator<Item = W>) -> Self {
        self.wrapped_by.extend(words.into_iter().map(Into::into));
        self
    }

    /// Runs with another content of a file. Needs root.
    pub fn with_file_content(mut self, path: &str, content: &[u8]) -> Self {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), content).expect("writing a temporary file");
        self = self.with_file(path, file.path());
        self.files.push(file);
        self
    }

    /// Runs with a file of the test's in the place of another one; what the test writes into it later is
    /// seen. Needs root.
    pub fn with_file(self, path: &str, file: &Path) -> Self {
        self.wrapped_by(["unshare", "--mount", "sh", "-e", "-c"])
            .wrapped_by([r#"mount --bind "$1" "$2"; shift 2; exec "$@""#, "sh"])
            .wrapped_by([file, Path::new(path)])
    }

    /// Runs where a system call with that first argument does nothing, and answers with that error, or
    /// with 0. Needs root.
    pub fn with_fake_syscall(mut self, call: i64, argument: i32, errno: i32) -> Self {
        let filter = || {
            let (len, equal) = (SeccompCmpArgLen::Dword, SeccompCmpOp::Eq);
            let condition = SeccompCondition::new(0, len, equal, argument as u64)?;
            let rules = [(call, vec![SeccompRule::new(vec![condition])?])];
            let (answer, go_on) = (SeccompAction::Errno(errno as u32), SeccompAction::Allow);
            let arch = env::consts::ARCH.try_into()?;
            SeccompFilter::new(rules.into(), go_on, answer, arch)?.try_into()
        };
        let filter: Result<BpfProgram, seccompiler::BackendError> = filter();
        self.answered.push(filter.expect("a filter for system calls"));
        self
    }

    /// Runs in that control group.
    pub fn control_group(self, group: &ControlGroup) -> Self {
        self.wrapped_by(["sh", "-e", "-c", r#"echo $$ > "$1"; shift; exec "$@""#, "sh"])
            .wrapped_by([group.processes()])
    }

    /// Runs with at most that many descriptors.
    pub fn descriptors(mut self, limit: u64) -> Self {
        self.descriptors = Some(limit);
        self
    }

    /// Runs as that user and group, without any capability. Needs root.
    pub fn user(mut self, id: u32) -> Self {
        self.user = Some(id);
        self
    }

    /// The command line, to be run with other limits and users if asked for; and the port.
    pub fn command(&self) -> (Command, Option<ReservedPort>, SocketAddr) {
        let mut words =
            self.wrapped_by.iter().map(OsString::as_os_str).chain([self.binary.as_os_str()]);
        let mut command = Command::new(words.next().expect("at least the program"));
        command.args(words);
        let reserved = self.listen.is_none().then(ReservedPort::new);
        let address = match (&self.listen, &reserved) {
            (Some(address), _) => *address,
            (None, Some(port)) => port.address(),
            (None, None) => unreachable!("one of them is set"),
        };
        command.args(self.arguments(address)).args(&self.operands);
        if let Some(id) = self.user {
            command.uid(id).gid(id);
        }
        if let Some(limit) = self.descriptors {
            let limited = move || Ok(setrlimit(Resource::RLIMIT_NOFILE, limit, limit)?);
            // SAFETY: setrlimit is a bare system call: it neither allocates nor takes locks.
            unsafe { command.pre_exec(limited) };
        }
        for filter in self.answered.clone() {
            let filtered = move || apply_filter(&filter).map_err(|_| io::Error::last_os_error());
            // SAFETY: what installs a filter is two bare system calls, which neither allocate nor take
            // locks.
            unsafe { command.pre_exec(filtered) };
        }
        (command, reserved, address)
    }

    /// The command line of a program that listens at `address`, up to its servers.
    pub(super) fn arguments(&self, address: SocketAddr) -> Vec<String> {
        let mut words = self.options.clone();
        if let Some(datapath) = self.datapath {
            words.extend(["--datapath".into(), datapath.name().into()]);
        }
        if let Some(turns) = self.offload_after.or(self.datapath.and_then(Datapath::offload_after))
        {
            words.extend(["--offload-after".into(), turns.to_string()]);
        }
        if !address.ip().is_unspecified() {
            words.extend(["-b".into(), address.ip().to_string()]);
        }
        words.push(self.service.clone().unwrap_or_else(|| address.port().to_string()));
        words
    }

    /// Starts the program and waits until it serves, on the datapath that was asked for.
    pub fn start(self) -> Balance {
        let datapath = self.datapath;
        let balance = self.spawn();
        let ready = balance.wait_for("ready");
        if let Some(datapath) = datapath {
            assert_eq!(ready.text("datapath"), datapath.name(), "{ready:?}");
        }
        balance
    }

    /// Starts it on the program's host of a network, and keeps its port there.
    pub fn start_within(self, network: &Network) -> (Balance, ReservedPort) {
        network.balancer().enter(|| {
            let port = ReservedPort::bind(network.listen_address()).expect("a free port");
            (self.listen(port.address()).start(), port)
        })
    }

    /// Starts the program and does not wait.
    pub fn spawn(self) -> Balance {
        Balance::spawn(self)
    }

    /// The datapath that was asked for, if one was.
    pub(super) fn datapath(&self) -> Option<Datapath> {
        self.datapath
    }
}
