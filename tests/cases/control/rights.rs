//! Rights: members of the group of `--control-group` read, and only root and the owner change
//! anything. A stranger cannot connect. The users are real.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::libc;
use tests::{
    Backend, Balance, Builder, KillOnDrop, NOBODY, OtherUser, Outcome, ReservedPort, RunDir,
    Service, TIMEOUT, ask, binary, eventually, open_for_all, run,
};

/// A group without an entry in the database.
const GROUP: u32 = 4_711_000;

/// Another user than [`NOBODY`].
const DAEMON: u32 = 1;

/// EX_NOPERM of sysexits(3).
const NO_PERMISSION: i32 = 77;

const READS: [&str; 9] = [
    "show",
    "show --json",
    "servers",
    "sessions",
    "stats",
    "mrtg-bytes 0 0",
    "mrtg-conns 0 0",
    "help",
    "version",
];

const CHANGES: [&str; 11] = [
    "disable 0",
    "enable 0",
    "reset 0",
    "create 127.0.0.1 9",
    "assign 0 127.0.0.1 9",
    "maxc 0 1",
    "hash",
    "rr",
    "drain 0 1",
    "drop 0",
    "kill",
];

/// A program whose control socket has the group, and a member and a stranger.
struct Grouped {
    dir: RunDir,
    balance: Balance,
    member: OtherUser,
    stranger: OtherUser,
    _server: Backend,
}

impl Grouped {
    fn start(options: &[&str]) -> Option<Self> {
        let member = OtherUser::new(DAEMON, &[GROUP])?;
        let stranger = OtherUser::new(DAEMON, &[])?;
        let (dir, server) = (RunDir::new(), Backend::greeter("A"));
        open_for_all(dir.path());
        let builder = Builder::auto().channel(server.address());
        let builder = builder.option(&["--control-group", &GROUP.to_string()]).option(options);
        let balance = dir.use_in(builder).start();
        Some(Self { dir, balance, member, stranger, _server: server })
    }

    fn line(&self, line: &str) -> Command {
        self.dir.command(self.balance.address(), line)
    }

    fn strict(&self, line: &str) -> Command {
        let mut command = self.line(line);
        command.arg("--strict");
        command
    }
}

fn assert_denied(outcome: &Outcome, line: &str) {
    let expected = (Some(NO_PERMISSION), "", format!("balance: permission denied: {line}\n"));
    let found = (outcome.status.code(), &*outcome.stdout, outcome.stderr.clone());
    assert_eq!(found, expected, "{outcome:?}");
}

fn assert_mode(socket: &Path, mode: u32, group: u32) {
    let found = fs::metadata(socket).expect("a socket");
    assert_eq!((found.permissions().mode() & 0o777, found.gid()), (mode, group), "{socket:?}");
}

#[test]
fn a_member_reads_and_only_root_changes() {
    let Some(test) = Grouped::start(&[]) else { return };
    let address = test.balance.address();
    assert_mode(&test.dir.file(address, "sock"), 0o660, GROUP);
    for line in READS {
        let outcome = test.member.run(&test.strict(line));
        assert_eq!((outcome.status.code(), &*outcome.stderr), (Some(0), ""), "{line}: {outcome:?}");
    }
    let before = test.dir.show(address);
    let why = "only root may change the running balance";
    for line in CHANGES {
        assert_denied(&test.member.run(&test.strict(line)), why);
        let outcome = test.member.run(&test.line(line));
        let expected = format!(
            "balance: permission denied: {why}\n\
             balance: the command failed; exit code 0 as in 3.57, 77 with --strict\n"
        );
        assert_eq!((outcome.status.code(), outcome.stderr), (Some(0), expected), "{line}");
    }
    // The commands before and after are not refused.
    let shell = format!("printf 'version\\ndisable 0\\nshow\\n' | {}", shell_command(&test));
    let outcome = run(Command::new("sh").args(["-c", &shell]), TIMEOUT);
    assert!(outcome.stdout.contains("ENA") && outcome.stdout.contains("3.57"), "{outcome:?}");
    assert_eq!(outcome.stderr, format!("balance: permission denied: {why}\n"), "{outcome:?}");
    assert_eq!(test.dir.show(address), before);

    let why = format!(
        "only root and members of group {GROUP} may connect to {}",
        test.dir.file(address, "sock").display()
    );
    for line in ["show", "disable 0", "kill"] {
        assert_denied(&test.stranger.run(&test.line(line)), &why);
    }
    assert_eq!(test.dir.run_ok(address, "disable 0"), "channel 0 disabled\n");
    assert!(!test.dir.show(address)[0].enabled);
}

/// The command line of the member's shell.
fn shell_command(test: &Grouped) -> String {
    let mut shell = Command::new(binary());
    let address = test.balance.address();
    shell.arg("--run-dir").arg(test.dir.path()).args(["-b", &address.ip().to_string()]);
    shell.args(["-i", &address.port().to_string()]);
    let command = test.member.command(&shell);
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_str().expect("UTF-8").to_owned()).collect();
    words.join(" ")
}

#[test]
fn a_request_that_no_command_line_sends_is_denied_too() {
    let Some(test) = Grouped::start(&[]) else { return };
    let socket = test.dir.file(test.balance.address(), "sock");
    let request = "{\"version\":1,\"command\":{\"configure\":{\"words\":[\"25\"]}}}\n";
    let reply = "{\"denied\":{\"owner\":0,\"may_read\":true}}\n";
    assert_eq!(as_user(DAEMON, &[GROUP], &socket, request), reply);
}

/// Sends a request as another user; returns the reply.
fn as_user(user: u32, groups: &[u32], socket: &Path, request: &str) -> String {
    let ask = || {
        // SAFETY: raw system calls, which change the groups and the user of this thread alone,
        // unlike the C library's wrappers. The thread does nothing else that depends on its user.
        let done = unsafe {
            libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr())
                | libc::syscall(libc::SYS_setresuid, user, user, user)
        };
        assert_eq!(done, 0, "setresuid: {}", std::io::Error::last_os_error());
        let mut stream = UnixStream::connect(socket).expect("connecting");
        stream.set_read_timeout(Some(TIMEOUT)).expect("SO_RCVTIMEO");
        stream.write_all(request.as_bytes()).expect("the request");
        let mut reply = String::new();
        BufReader::new(stream).read_line(&mut reply).expect("the reply");
        reply
    };
    thread::scope(|scope| scope.spawn(ask).join().expect("another user"))
}

#[test]
fn the_user_of_the_process_changes_too() {
    let Some(test) = Grouped::start(&["--user", "nobody"]) else { return };
    let Some(owner) = OtherUser::new(NOBODY, &[]) else { return };
    assert_mode(&test.dir.file(test.balance.address(), "sock"), 0o660, GROUP);
    let outcome = owner.run(&test.strict("disable 0"));
    assert_eq!((outcome.status.code(), &*outcome.stderr), (Some(0), ""), "{outcome:?}");
    assert!(!test.dir.show(test.balance.address())[0].enabled);
    let why = "only root and user nobody may change the running balance";
    assert_denied(&test.member.run(&test.strict("enable 0")), why);
    assert_eq!(test.member.run(&test.strict("show")).status.code(), Some(0));
}

/// A member connects all the time and sends nothing. Root is answered as fast as before.
#[test]
fn a_flood_of_a_member_keeps_root_in() {
    const FLOOD: usize = 64;
    let Some(test) = Grouped::start(&[]) else { return };
    let address = test.balance.address();
    let socket = test.dir.file(address, "sock");
    let is_over = AtomicBool::new(false);
    let flood = || {
        let silent = |held: &mut Vec<UnixStream>| {
            if let Ok(stream) = UnixStream::connect(&socket) {
                held.push(stream);
            }
            if held.len() > 32 {
                held.remove(0);
            }
        };
        // SAFETY: as in `as_user`.
        let done = unsafe {
            libc::syscall(libc::SYS_setgroups, 1, [GROUP].as_ptr())
                | libc::syscall(libc::SYS_setresuid, DAEMON, DAEMON, DAEMON)
        };
        assert_eq!(done, 0, "setresuid: {}", std::io::Error::last_os_error());
        let mut held = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            silent(&mut held);
        }
    };
    let before = test.balance.process().descriptors();
    thread::scope(|scope| {
        for _ in 0..FLOOD {
            scope.spawn(flood);
        }
        eventually(TIMEOUT, "the flood has begun", || match test.balance.process().descriptors() {
            now if now >= before + 16 => Ok(()),
            now => Err(format!("{now} descriptors, {before} before")),
        });
        let outcomes: Vec<_> = (0..10)
            .map(|_| {
                let begun = Instant::now();
                (run(&mut test.strict("show"), TIMEOUT), begun.elapsed())
            })
            .collect();
        is_over.store(true, Ordering::Relaxed);
        for (outcome, took) in outcomes {
            assert_eq!(outcome.status.code(), Some(0), "{outcome:?}");
            assert!(took < Duration::from_secs(3), "{took:?}");
        }
    });
    assert_eq!(ask(address).expect("an answer"), "A");
}

/// A service with one instance, a member and a stranger.
fn service(text: impl FnOnce(&str) -> String) -> Option<(Service, ReservedPort, [OtherUser; 2])> {
    let users = [OtherUser::new(DAEMON, &[GROUP])?, OtherUser::new(DAEMON, &[])?];
    let port = ReservedPort::new();
    let service = Service::new(&text(&format!("-b 127.0.0.1 {} 127.0.0.1:9\n", port.port())));
    service.open_for_all();
    Some((service, port, users))
}

fn on_instance(service: &Service, port: &ReservedPort, line: &str) -> Command {
    let mut command = Command::new(binary());
    command.arg("--run-dir").arg(service.run_dir()).args(["-b", "127.0.0.1", "--strict"]);
    command.args(["-c", line, &port.port().to_string()]);
    command
}

#[test]
fn a_member_sees_the_status_of_a_service_and_only_root_controls_it() {
    let grouped = |line: &str| format!("default --control-group {GROUP}\n{line}");
    let Some((service, port, [member, stranger])) = service(grouped) else { return };
    service.run_ok(&["start"]);
    let pid = service.supervisor();
    for words in [&["status"][..], &["status", "--json"]] {
        let outcome = member.run(&service.command(words));
        assert_eq!((outcome.status.code(), &*outcome.stderr), (Some(0), ""), "{outcome:?}");
        // The figures come from the socket of the instance.
        assert!(outcome.stdout.contains("127.0.0.1:"), "{outcome:?}");
        assert!(outcome.stdout.contains("relay") || outcome.stdout.contains("splice"));
    }
    let outcome = member.run(&service.command(&["start"]));
    let expected = format!("balance is already running (pid {pid}); reload reads its file again\n");
    assert_eq!((outcome.status.code(), outcome.stdout), (Some(0), expected));
    let why = "only root may change the running balance";
    for verb in ["stop", "restart", "reload"] {
        assert_denied(&member.run(&service.command(&[verb])), why);
    }
    assert_denied(&member.run(&on_instance(&service, &port, "kill")), why);
    let show = member.run(&on_instance(&service, &port, "show"));
    assert_eq!((show.status.code(), &*show.stderr), (Some(0), ""), "{show:?}");

    let whom = format!("only root and members of group {GROUP} may connect to ");
    for command in ["status", "start", "stop", "restart", "reload"]
        .map(|verb| service.command(&[verb]))
        .into_iter()
        .chain([on_instance(&service, &port, "show")])
    {
        let outcome = stranger.run(&command);
        assert_eq!(outcome.status.code(), Some(NO_PERMISSION), "{outcome:?}");
        assert!(outcome.stderr.contains(&whom), "{outcome:?}");
        assert_eq!((outcome.stderr.lines().count(), &*outcome.stdout), (1, ""), "{outcome:?}");
    }
    assert_eq!(service.supervisor(), pid);
    assert_eq!(service.run_ok(&["reload"]), "balance is reloaded: nothing has changed\n");
    // The next program keeps the rights.
    service.run_ok(&["upgrade"]);
    for command in [service.command(&["status"]), on_instance(&service, &port, "show")] {
        let outcome = member.run(&command);
        assert_eq!((outcome.status.code(), &*outcome.stderr), (Some(0), ""), "{outcome:?}");
        assert_eq!(stranger.run(&command).status.code(), Some(NO_PERMISSION));
    }
    assert_denied(&member.run(&service.command(&["stop"])), why);
    service.run_ok(&["stop"]);
}

#[test]
fn a_reload_changes_the_group_of_the_sockets() {
    let Some((service, port, [member, stranger])) = service(str::to_owned) else { return };
    service.run_ok(&["start"]);
    let line = fs::read_to_string(service.file()).expect("the file");
    let name = format!("127.0.0.1:{}", port.port());
    let socket = service.run_dir().join(format!("balance.{}.127.0.0.1.sock", port.port()));
    let [show, status] = [on_instance(&service, &port, "show"), service.command(&["status"])];
    assert_mode(&socket, 0o600, 0);
    assert_eq!(member.run(&show).status.code(), Some(NO_PERMISSION));
    let before = service.status()[0].pid;

    service.write(&format!("default --control-group {GROUP}\n{line}"));
    assert_eq!(
        service.run_ok(&["reload"]),
        format!("control socket: replaced\n{name}: replaced\nbalance is reloaded\n")
    );
    assert_mode(&socket, 0o660, GROUP);
    for command in [&show, &status] {
        let outcome = member.run(command);
        assert_eq!((outcome.status.code(), &*outcome.stderr), (Some(0), ""), "{outcome:?}");
        assert_eq!(stranger.run(command).status.code(), Some(NO_PERMISSION));
    }
    let why = "only root may change the running balance";
    assert_denied(&member.run(&on_instance(&service, &port, "disable 0")), why);
    // The process stays.
    assert_eq!(service.status()[0].pid, before);

    service.write(&line);
    service.run_ok(&["reload"]);
    assert_mode(&socket, 0o600, 0);
    for command in [&show, &status] {
        assert_eq!(member.run(command).status.code(), Some(NO_PERMISSION));
    }
    service.run_ok(&["stop"]);
}

#[test]
fn a_supervisor_without_lines_has_the_group_of_the_defaults() {
    let only_default = |_: &str| format!("default --control-group {GROUP}\n");
    let Some((service, _port, [member, stranger])) = service(only_default) else { return };
    service.run_ok(&["start"]);
    assert_eq!(member.run(&service.command(&["status"])).status.code(), Some(0));
    let outcome = stranger.run(&service.command(&["status"]));
    assert_eq!(outcome.status.code(), Some(NO_PERMISSION), "{outcome:?}");
    service.run_ok(&["stop"]);
}

#[test]
fn an_unknown_group_and_a_contradiction_are_mistakes() {
    let builder = Builder::auto().quiet().option(&["--control-group", "nosuchgroup"]);
    let (mut command, _port, _) = builder.operand("127.0.0.1:9").command();
    let outcome = run(&mut command, TIMEOUT);
    let expected = (Some(67), "balance: there is no group nosuchgroup\n".to_owned());
    assert_eq!((outcome.status.code(), outcome.stderr), expected);

    let service = Service::new("25 127.0.0.1:9 --control-group nosuchgroup\n26 127.0.0.1:9\n");
    let outcome = service.run(&["check"]);
    assert_eq!(outcome.status.code(), Some(78), "{outcome:?}");
    let file = service.file().display().to_string();
    let expected = format!(
        "{file}:1: there is no group nosuchgroup\n\
         {file}:2: no --control-group here and --control-group nosuchgroup at {file}:1: \
         one process runs all lines\n"
    );
    assert_eq!(outcome.stderr, expected);
}

/// Without `--run-dir`, a member finds the directory of the system.
#[test]
fn a_member_finds_the_system_s_run_directory() {
    let Some(member) = OtherUser::new(DAEMON, &[GROUP]) else { return };
    let Some(stranger) = OtherUser::new(DAEMON, &[]) else { return };
    let port = ReservedPort::new();
    let mut command = Command::new("unshare");
    let script = "mount -t tmpfs none /run; exec \"$0\" \"$@\"";
    command.args(["--mount", "sh", "-e", "-c", script]).arg(binary());
    command.args(["-f", "--datapath", "relay", "-b", "127.0.0.1", "--control-group"]);
    command.args([&GROUP.to_string(), &port.port().to_string(), "127.0.0.1:9"]);
    let program = KillOnDrop(command.spawn().expect("unshare"));
    let pid_file =
        format!("/proc/{}/root/run/balance/balance.{}.127.0.0.1.pid", program.0.id(), port.port());
    // The directory of the host may have a pid file of this name.
    let own = format!("{}\n", program.0.id());
    eventually(TIMEOUT, "the program serves", || match fs::read_to_string(&pid_file) {
        Ok(pid) if pid == own => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let mut show = Command::new(binary());
    show.args(["-b", "127.0.0.1", "-c", "show", &port.port().to_string()]);
    let inside = |user: &OtherUser, session: Option<&str>| {
        let command = user.command(&show);
        let mut inside = Command::new("nsenter");
        inside.args(["--mount", "--target", &program.0.id().to_string()]);
        inside.arg(command.get_program()).args(command.get_args()).env_remove("XDG_RUNTIME_DIR");
        if let Some(session) = session {
            inside.env("XDG_RUNTIME_DIR", session);
        }
        run(&mut inside, TIMEOUT)
    };
    for session in [None, Some("/run/user/1"), Some("/tmp")] {
        let outcome = inside(&member, session);
        assert_eq!((outcome.status.code(), &*outcome.stderr), (Some(0), ""), "{outcome:?}");
        let outcome = inside(&stranger, session);
        assert_eq!(outcome.status.code(), Some(NO_PERMISSION), "{outcome:?}");
        assert!(outcome.stderr.contains("permission denied: only root and members of group "));
    }
}
