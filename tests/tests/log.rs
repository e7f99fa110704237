//! A log that cannot be written is no reason to stop serving.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Stdio},
};

use tests::{Backend, ReservedPort, binary, connect};

#[test]
fn clients_are_served_when_nobody_reads_the_log() {
    let server = Backend::echo("x");
    let port = ReservedPort::new();
    let mut program = Command::new(binary())
        .args(["-f", "-d", "-b", "127.0.0.1", "--workers", "1"])
        .args([port.port().to_string(), server.address().to_string()])
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    let mut log = BufReader::new(program.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("ready") {
        line.clear();
        assert_ne!(log.read_line(&mut line).expect("a line"), 0, "it ended");
    }
    drop(log);
    // Each of them is logged, and more often than there are accepts waiting.
    for _ in 0..40 {
        let mut client = connect(([127, 0, 0, 1], port.port()).into());
        client.read_exact(&mut [0]).expect("the greeting");
    }
    program.kill().expect("SIGKILL");
    program.wait().expect("its end");
}
