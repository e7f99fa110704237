//! A log that cannot be written is no reason to stop serving.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use tests::{End, KillOnDrop, ReservedPort, binary, connect, end_of};

#[test]
fn clients_are_treated_as_ever_when_nobody_reads_the_log() {
    let port = ReservedPort::new();
    let mut program = KillOnDrop(
        Command::new(binary())
            .args(["-f", "-d", "-b", "127.0.0.1", "--workers", "1"])
            .arg(port.port().to_string())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program"),
    );
    let mut log = BufReader::new(program.0.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("ready") {
        line.clear();
        assert_ne!(log.read_line(&mut line).expect("a line"), 0, "it ended");
    }
    drop(log);
    // Without a server each is logged and then closed in order; more of them than there are
    // accepts waiting.
    for _ in 0..40 {
        let mut client = connect(([127, 0, 0, 1], port.port()).into());
        assert!(matches!(end_of(&mut client), End::Clean), "a client was reset");
    }
}
