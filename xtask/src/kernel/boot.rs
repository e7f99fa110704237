//! A virtual machine, from its start to its end.
//!
//! Invariant: no machine outlives the call that started it, or the time that it was given; what it
//! says is shown as it comes, from the first line of its first process on; what comes before is shown
//! if that does not start.

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

/// What the first process of the machine begins its own lines with, and its last one.
const SAYS: &str = "guest: ";
const PASSED: &str = "guest: passed";

/// Boots a machine, whose first process is given these arguments, and waits for its end; tells what
/// the tests have come to.
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
    let lines = follow(&mut child.0);
    let (mut tally, mut before) = (Tally::default(), Some(Vec::new()));
    let mut has_passed = false;
    let ended = loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if line.starts_with(SAYS) {
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
    let has_begun = before.is_none();
    for line in before.into_iter().flatten() {
        eprintln!("{name}: {line}");
    }
    ensure!(ended, "the machine was not done within {} s; {tally}", limit.as_secs());
    ensure!(has_begun, "the machine has not come up");
    ensure!(has_passed, "{tally}");
    ensure!(tally.has_passed(), "no test has run: {tally}");
    Ok(tally)
}

fn machine(tools: &Tools, image: &Image, arguments: &[String]) -> Result<Command> {
    let mut qemu = tools.qemu()?;
    // Emulated, which works everywhere: a /dev/kvm inside a virtual machine may be there and boot
    // nothing. Without cmpxchg16b: qemu 7.2 spoils the flags when it emulates that, and the kernel dies
    // of it (seen with 6.12, in its allocator).
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max,-cx16"]);
    qemu.args(["-smp", "2", "-m", "1536", "-nodefaults", "-nographic", "-no-reboot"]);
    qemu.args(["-serial", "stdio", "-device", "virtio-rng-pci"]);
    qemu.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(&image.initramfs);
    // A machine in which something of the kernel breaks ends.
    let options = "console=ttyS0 loglevel=4 panic=-1 oops=panic mitigations=off";
    qemu.arg("-append").arg(format!("{options} -- {}", arguments.join(" ")));
    Ok(qemu)
}

/// Reads the console, line by line without what only a terminal understands.
fn follow(child: &mut Child) -> Receiver<String> {
    let (line_came, lines) = channel();
    let console = child.stdout.take().expect("piped");
    thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).replace(|c: char| c.is_control(), "");
            if line_came.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

/// A process that ends with us.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // Harmless when it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
