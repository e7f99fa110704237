//! The first process of a virtual machine that runs tests on another kernel (`cargo xtask test
//! --kernel`).
//!
//! Arguments: `auto` for the datapath that balance takes by default, or `all` for all working
//! datapaths; then test executables, each as `NAME` or as `NAME/PART` with a part of its tests'
//! names; and `-PART` for tests to leave out.
//!
//! Invariant: the machine always powers off, and prints `guest: passed` only if everything passed.

#![expect(clippy::print_stdout, reason = "standard output is the machine's console")]

use std::{
    env, fs,
    io::{self, BufRead as _, BufReader, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    panic,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use nix::{
    kmod::{ModuleInitFlags, finit_module},
    mount::{MsFlags, mount},
    sys::{
        reboot::{RebootMode, reboot},
        utsname::uname,
        wait::{WaitStatus, wait},
    },
};
use tests::{Builder, Datapath, KillOnDrop};

/// Beginnings of kernel log lines that fail the run.
const TROUBLE: [&str; 5] = ["WARNING:", "BUG:", "Oops", "UBSAN:", "general protection fault"];

fn main() {
    let passed = panic::catch_unwind(|| match run() {
        Ok(passed) => passed,
        Err(error) => {
            println!("guest: {error}");
            false
        }
    });
    println!("guest: {}", if passed.unwrap_or(false) { "passed" } else { "failed" });
    // Does not return. If it fails, the machine stops when its first process exits.
    let _ = reboot(RebootMode::RB_POWER_OFF);
}

fn run() -> io::Result<bool> {
    prepare()?;
    let system = uname()?;
    let btf = if Path::new("/sys/kernel/btf/vmlinux").exists() { "with" } else { "without" };
    // The firmware leaves an unfinished line.
    println!();
    println!(
        "guest: Linux {}, {btf} BTF, {}",
        system.release().display(),
        system.version().display()
    );
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (everywhere, tests) = match arguments.split_first() {
        Some((first, tests)) => (first == "all", tests),
        None => return Err(io::Error::other("nothing to do")),
    };
    let datapaths = datapaths(everywhere)?;
    let (without, tests): (Vec<_>, Vec<_>) = tests.iter().partition(|test| test.starts_with('-'));
    let left_out: Vec<&str> =
        without.iter().map(|name| &name[1..]).chain(others(&datapaths)).collect();
    let mut log = fs::File::options().read(true).custom_flags(O_NONBLOCK).open("/dev/kmsg")?;
    let mut passed = true;
    for test in tests {
        let (executable, part) = test.split_once('/').unwrap_or((test, ""));
        let mut command = Command::new(Path::new("/tests").join(executable));
        command.arg(part);
        for name in &left_out {
            command.args(["--skip", name]);
        }
        println!("guest: {test}");
        let begun = Instant::now();
        let done = to_its_end(&mut command)?;
        let verdict = if done { "passed" } else { "FAILED" };
        println!("guest: {test} {verdict} in {} s", begun.elapsed().as_secs());
        passed &= done;
        for trouble in troubles(&mut log)? {
            println!("guest: kernel log: {trouble}");
            passed = false;
        }
    }
    Ok(passed)
}

/// Mounts file systems, loads modules and brings loopback up.
fn prepare() -> io::Result<()> {
    // SAFETY: the process has only this thread.
    unsafe {
        env::set_var("PATH", "/bin");
        env::set_var("BALANCE_BIN", "/bin/balance");
    }
    for (kind, place) in [
        ("devtmpfs", "/dev"),
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("tmpfs", "/run"),
        ("tmpfs", "/tmp"),
    ] {
        let flags = MsFlags::empty();
        mount(Some(kind), place, Some(kind), flags, None::<&str>)
            .map_err(|e| io::Error::other(format!("cannot mount {place}: {e}")))?;
    }
    let mut modules: Vec<_> =
        fs::read_dir("/modules")?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    modules.sort();
    for module in modules {
        finit_module(fs::File::open(&module)?, c"", ModuleInitFlags::empty())
            .map_err(|e| io::Error::other(format!("cannot load {}: {e}", module.display())))?;
    }
    let up = to_its_end(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    if up { Ok(()) } else { Err(io::Error::other("loopback does not come up")) }
}

/// The datapaths to test: the one that balance takes by default, or all that work. Prints what
/// balance says about each.
fn datapaths(everywhere: bool) -> io::Result<Vec<Datapath>> {
    let mut works = Vec::new();
    for datapath in [Datapath::Splice, Datapath::Sockmap, Datapath::Relay] {
        let (is_ready, line) = start(Builder::new(datapath))?;
        println!("guest: {}: {line}", datapath.name());
        if is_ready {
            works.push(datapath);
        }
    }
    let ready = Builder::auto().start().wait_for("ready");
    let (taken, why) = (ready.text("datapath"), ready.text("reason"));
    println!("guest: auto takes {taken}: {why}");
    if works.contains(&Datapath::Sockmap) {
        works.push(Datapath::Handover);
    }
    works.retain(|datapath| everywhere || datapath.name() == taken);
    Ok(works)
}

/// Whether balance starts and serves, and its reason, or its last line.
fn start(builder: Builder) -> io::Result<(bool, String)> {
    let (mut command, _port, _) = builder.quiet().text().command();
    let mut child = KillOnDrop(command.stderr(Stdio::piped()).spawn()?);
    let log = BufReader::new(child.0.stderr.take().expect("piped"));
    let mut last = String::new();
    for line in log.lines() {
        last = line?;
        if let Some((_, reason)) = last.split_once(" reason=") {
            return Ok((true, reason.trim_matches('"').to_owned()));
        }
    }
    Ok((false, last))
}

/// Parts of the names of tests for other datapaths.
fn others(datapaths: &[Datapath]) -> Vec<&'static str> {
    let all = [
        (Datapath::Splice, "on_splice"),
        (Datapath::Sockmap, "on_sockmap"),
        (Datapath::Handover, "on_handover"),
        (Datapath::Relay, "on_relay"),
    ];
    let others = all.into_iter().filter(|(datapath, _)| !datapaths.contains(datapath));
    others.map(|(_, name)| name).collect()
}

/// Runs a command until it exits; returns whether it succeeded. Also reaps orphans, whose parent
/// this process is.
fn to_its_end(command: &mut Command) -> io::Result<bool> {
    let child = command.spawn()?;
    loop {
        match wait()? {
            WaitStatus::Exited(pid, code) if pid.as_raw() as u32 == child.id() => {
                return Ok(code == 0);
            }
            WaitStatus::Signaled(pid, ..) if pid.as_raw() as u32 == child.id() => return Ok(false),
            _ => {}
        }
    }
}

/// New lines of the kernel log that report trouble.
fn troubles(log: &mut fs::File) -> io::Result<Vec<String>> {
    let (mut found, mut record) = (Vec::new(), [0; 8192]);
    loop {
        match log.read(&mut record) {
            Ok(len) => {
                let record = String::from_utf8_lossy(&record[..len]);
                let text = record.split_once(';').map_or("", |(_, text)| text);
                let text = text.lines().next().unwrap_or_default();
                if TROUBLE.iter().any(|trouble| text.starts_with(trouble)) {
                    found.push(text.to_owned());
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(found),
            // Older records have been overwritten.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
            Err(e) => return Err(e),
        }
    }
}

/// O_NONBLOCK of fcntl(2).
const O_NONBLOCK: i32 = nix::fcntl::OFlag::O_NONBLOCK.bits();
