//! How a program is started: command line, limits, user, and faked parts of the system.
//!
//! Invariant: unless a test asks otherwise, the program runs in the foreground, logs everything as
//! JSON, and listens on a reserved port of 127.0.0.1.

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

/// How a program is started.
#[derive(Debug)]
pub struct Builder {
    binary: PathBuf,
    datapath: Option<Datapath>,
    offload_after: Option<u32>,
    listen: Option<SocketAddr>,
    service: Option<String>,
    options: Vec<String>,
    operands: Vec<String>,
    /// Commands that wrap the program: words before the program's own.
    wrapped_by: Vec<OsString>,
    /// Temporary files that the wrappers need.
    files: Vec<tempfile::NamedTempFile>,
    answered: Vec<BpfProgram>,
    descriptors: Option<u64>,
    user: Option<u32>,
}

impl Builder {
    /// A program on the given datapath that listens on a port of 127.0.0.1 and logs everything as
    /// JSON.
    pub fn new(datapath: Datapath) -> Self {
        Self { datapath: Some(datapath), ..Self::auto() }
    }

    /// Like [`Builder::new`], with the datapath left to the program.
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

    /// Runs this file in place of [`binary`].
    pub fn binary(mut self, path: &Path) -> Self {
        self.binary = path.into();
        self
    }

    /// Without `-d`: logs what an operator sees.
    pub fn quiet(mut self) -> Self {
        self.options.retain(|option| option != "-d");
        self
    }

    /// Without `-f`: the process of [`Builder::command`] exits when the program serves.
    pub fn background(mut self) -> Self {
        self.options.retain(|option| option != "-f");
        self
    }

    /// Logs text in place of JSON.
    pub fn text(mut self) -> Self {
        self.options.retain(|option| option != JSON);
        self
    }

    /// Adds an option with its arguments.
    pub fn option(mut self, words: &[&str]) -> Self {
        self.options.extend(words.iter().map(|&word| word.into()));
        self
    }

    /// Hands a connection over after `buffers` buffers, in place of the datapath's own number.
    pub fn offload_after(mut self, buffers: u32) -> Self {
        self.offload_after = Some(buffers);
        self
    }

    /// Listens on `address`, whose port the caller has reserved, or on all addresses for `::`.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = Some(address);
        self
    }

    /// Gives the listening port as a service name.
    pub fn service(mut self, name: &str) -> Self {
        self.service = Some(name.into());
        self
    }

    /// Adds a channel by its server's address.
    pub fn channel(self, address: SocketAddr) -> Self {
        self.operand(&address.to_string())
    }

    /// Adds an operand: a channel with a name or a limit, or a group separator.
    pub fn operand(mut self, word: &str) -> Self {
        self.operands.push(word.into());
        self
    }

    /// Runs with this text as `/etc/hosts`. Needs root.
    pub fn hosts(self, text: &str) -> Self {
        self.with_file_content("/etc/hosts", text.as_bytes())
    }

    /// Runs through another program, which must execute the rest of its command line.
    pub fn wrapped_by<W: Into<OsString>>(mut self, words: impl IntoIterator<Item = W>) -> Self {
        self.wrapped_by.extend(words.into_iter().map(Into::into));
        self
    }

    /// Runs with other content in a file. Needs root.
    pub fn with_file_content(mut self, path: &str, content: &[u8]) -> Self {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), content).expect("writing a temporary file");
        self = self.with_file(path, file.path());
        self.files.push(file);
        self
    }

    /// Runs with the file of a test mounted over `path`; later writes to the file are visible.
    /// Needs root.
    pub fn with_file(self, path: &str, file: &Path) -> Self {
        self.wrapped_by(["unshare", "--mount", "sh", "-e", "-c"])
            .wrapped_by([r#"mount --bind "$1" "$2"; shift 2; exec "$@""#, "sh"])
            .wrapped_by([file, Path::new(path)])
    }

    /// Runs with a system call that does nothing when its first argument is `argument`, and returns
    /// `errno`, or 0. Needs root.
    pub fn with_fake_syscall(mut self, call: i64, argument: i32, errno: i32) -> Self {
        let filter = || {
            let (len, equal) = (SeccompCmpArgLen::Dword, SeccompCmpOp::Eq);
            let condition = SeccompCondition::new(0, len, equal, argument as u64)?;
            let rules = [(call, vec![SeccompRule::new(vec![condition])?])];
            let (answer, allow) = (SeccompAction::Errno(errno as u32), SeccompAction::Allow);
            let arch = env::consts::ARCH.try_into()?;
            SeccompFilter::new(rules.into(), allow, answer, arch)?.try_into()
        };
        let filter: Result<BpfProgram, seccompiler::BackendError> = filter();
        self.answered.push(filter.expect("a filter for system calls"));
        self
    }

    /// Runs in a control group.
    pub fn control_group(self, group: &ControlGroup) -> Self {
        self.wrapped_by(["sh", "-e", "-c", r#"echo $$ > "$1"; shift; exec "$@""#, "sh"])
            .wrapped_by([group.processes()])
    }

    /// Runs with at most `limit` descriptors.
    pub fn descriptors(mut self, limit: u64) -> Self {
        self.descriptors = Some(limit);
        self
    }

    /// Runs as this user and group, without capabilities. Needs root.
    pub fn user(mut self, id: u32) -> Self {
        self.user = Some(id);
        self
    }

    /// The command with its limits and user, the reserved port if there is one, and the address.
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
            // SAFETY: setrlimit is one system call: it neither allocates nor takes locks.
            unsafe { command.pre_exec(limited) };
        }
        for filter in self.answered.clone() {
            let filtered = move || apply_filter(&filter).map_err(|_| io::Error::last_os_error());
            // SAFETY: apply_filter makes two system calls, which neither allocate nor take locks.
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
        if let Some(buffers) =
            self.offload_after.or(self.datapath.and_then(Datapath::offload_after))
        {
            words.extend(["--offload-after".into(), buffers.to_string()]);
        }
        if !address.ip().is_unspecified() {
            words.extend(["-b".into(), address.ip().to_string()]);
        }
        words.push(self.service.clone().unwrap_or_else(|| address.port().to_string()));
        words
    }

    /// Starts the program and waits until it serves on the requested datapath.
    pub fn start(self) -> Balance {
        let datapath = self.datapath;
        let balance = self.spawn();
        let ready = balance.wait_for("ready");
        if let Some(datapath) = datapath {
            assert_eq!(ready.text("datapath"), datapath.name(), "{ready:?}");
        }
        balance
    }

    /// Starts the program on the balancer's host of a network; also returns its reserved port.
    pub fn start_within(self, network: &Network) -> (Balance, ReservedPort) {
        network.balancer().enter(|| {
            let port = ReservedPort::bind(network.listen_address()).expect("a free port");
            (self.listen(port.address()).start(), port)
        })
    }

    /// Starts the program without waiting.
    pub fn spawn(self) -> Balance {
        Balance::spawn(self)
    }

    /// The requested datapath, if one was requested.
    pub(super) fn datapath(&self) -> Option<Datapath> {
        self.datapath
    }
}
