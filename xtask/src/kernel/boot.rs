//! Runs a virtual machine.
//!
//! Invariants: a machine ends before the call that started it returns, and at its time limit. The
//! console output is shown from the first line of the init process on; earlier output is shown only
//! if the init process does not start.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{image::Image, tally::Tally, tools::Tools};
use crate::exec;

/// The prefix of lines of the init process, and the last line of a successful run.
const INIT_PREFIX: &str = "guest: ";
const PASSED: &str = "guest: passed";

/// Boots a machine with these arguments for the init process, waits for its end and returns the
/// test results.
pub(super) fn run(
    tools: &Tools,
    image: &Image,
    name: &str,
    arguments: &[String],
    limit: Duration,
) -> Result<Tally> {
    let mut command = machine(tools, image, arguments)?;
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
    let (mut tally, mut before) = (Tally::default(), Some(Vec::new()));
    let mut has_passed = false;
    let ended = loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if line.starts_with(INIT_PREFIX) {
                    before = None;
                }
                has_passed |= line == PASSED;
                tally.count(&line);
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
    ensure!(ended, "the machine has exceeded {} s; {tally}", limit.as_secs());
    ensure!(has_started, "the init process of the machine has not started");
    ensure!(has_passed, "{tally}");
    ensure!(tally.has_passed(), "no test has passed: {tally}");
    Ok(tally)
}

fn machine(tools: &Tools, image: &Image, arguments: &[String]) -> Result<Command> {
    let mut qemu = tools.qemu()?;
    // Emulate, which works everywhere: /dev/kvm inside a virtual machine may exist and boot
    // nothing. Disable cmpxchg16b: qemu 7.2 corrupts the flags when it emulates this instruction,
    // which crashes the kernel (seen with 6.12, in its allocator).
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max,-cx16"]);
    qemu.args(["-smp", "2", "-m", "1536", "-nodefaults", "-nographic", "-no-reboot"]);
    qemu.args(["-serial", "stdio", "-device", "virtio-rng-pci"]);
    qemu.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(&image.initramfs);
    // A kernel error ends the machine.
    let options = "console=ttyS0 loglevel=4 panic=-1 oops=panic mitigations=off";
    qemu.arg("-append").arg(format!("{options} -- {}", arguments.join(" ")));
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
