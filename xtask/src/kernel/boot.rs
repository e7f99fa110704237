//! Runs a virtual machine.
//!
//! Invariants: a machine ends before the call that started it returns, and at its time limit. The
//! console output is shown from the first line of the test program on; earlier output is shown only
//! if the test program does not start.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{image::Image, tools::Tools};
use crate::exec;

/// Options of the kernel. A kernel error ends the machine.
const OPTIONS: &str = "console=ttyS0 loglevel=4 panic=-1 oops=panic mitigations=off";

/// The prefix of lines of the test program, and the last line of a successful run.
const GUEST_PREFIX: &str = "guest: ";
const PASSED: &str = "guest: passed";

/// A machine to boot.
pub(crate) struct Machine<'a> {
    pub(crate) image: &'a Image,
    /// The prefix of its console lines.
    pub(crate) name: &'a str,
    pub(crate) memory_mib: u32,
    /// Options of the kernel and arguments of the init process, in addition to [`OPTIONS`].
    pub(crate) options: String,
    /// Time limit.
    pub(crate) limit: Duration,
}

/// Boots a machine, passes its console lines on and waits for its end.
///
/// # Errors
///
/// The machine has not reported success within its time limit.
pub(crate) fn run(
    tools: &Tools,
    machine: &Machine<'_>,
    mut on_line: impl FnMut(&str),
) -> Result<()> {
    let Machine { name, limit, .. } = *machine;
    let mut command = emulator(tools, machine)?;
    eprintln!("+ {}", exec::line(&command));
    let end = Instant::now() + limit;
    let mut child = Guard(
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start qemu-system-x86_64")?,
    );
    let lines = console_lines(&mut child.0);
    let (mut before, mut has_passed) = (Some(Vec::new()), false);
    let ended = loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if line.starts_with(GUEST_PREFIX) {
                    before = None;
                }
                has_passed |= line == PASSED;
                on_line(&line);
                match &mut before {
                    Some(before) => before.push(line),
                    None => eprintln!("{name}: {line}"),
                }
            }
            Err(RecvTimeoutError::Disconnected) => break true,
            Err(RecvTimeoutError::Timeout) => break false,
        }
    };
    let has_started = before.is_none();
    for line in before.into_iter().flatten() {
        eprintln!("{name}: {line}");
    }
    ensure!(ended, "the machine has exceeded {} s", limit.as_secs());
    ensure!(has_started, "the machine has not started its test program");
    ensure!(has_passed, "the machine has not reported success");
    Ok(())
}

fn emulator(tools: &Tools, machine: &Machine<'_>) -> Result<Command> {
    let mut qemu = tools.qemu()?;
    // Emulate, which works everywhere: /dev/kvm inside a virtual machine may exist and boot
    // nothing. Disable cmpxchg16b: qemu 7.2 corrupts the flags when it emulates this instruction,
    // which crashes the kernel (seen with 6.12, in its allocator).
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max,-cx16"]);
    qemu.args(["-smp", "2", "-m", &machine.memory_mib.to_string()]);
    qemu.args(["-nodefaults", "-nographic", "-no-reboot"]);
    qemu.args(["-serial", "stdio", "-device", "virtio-rng-pci"]);
    let Image { kernel, initramfs } = machine.image;
    qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs);
    qemu.arg("-append").arg(format!("{OPTIONS} {}", machine.options));
    Ok(qemu)
}

/// Reads the console line by line, without control characters.
fn console_lines(child: &mut Child) -> Receiver<String> {
    let (sender, lines) = channel();
    let console = child.stdout.take().expect("piped");
    thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).replace(|c: char| c.is_control(), "");
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

/// A process that ends when the guard is dropped.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // The error of a process that has already ended does not matter.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
