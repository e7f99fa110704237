//! Properties of every parser of untrusted input, as functions that panic on a violation.
//!
//! The unit tests run each property on the seeds in `tests/fuzz/seeds` and on random edits of them.
//! `cargo xtask fuzz` searches for more inputs with libFuzzer.
//!
//! Invariant: a property does no I/O and no lookup and reads no clock, so every run is repeatable.

mod command_lines;
mod control;
mod kernel;
mod packets;
mod service;
#[cfg(test)]
mod tests;

pub use command_lines::{channel_arguments, command_line, configuration};
pub use control::{control_reply, control_request, shell_command};
pub use kernel::{btf, rtnetlink};
pub use packets::{dump, splice_decision, tcp_options};
pub use service::{run_dir_names, supervisor_messages};

/// A property that holds for any input.
pub type Property = fn(&[u8]);

/// All properties. The name is also that of the fuzz target and of the folder with the seeds.
pub const PROPERTIES: [(&str, Property); 13] = [
    ("btf", btf),
    ("channel_arguments", channel_arguments),
    ("command_line", command_line),
    ("configuration", configuration),
    ("control_reply", control_reply),
    ("control_request", control_request),
    ("dump", dump),
    ("rtnetlink", rtnetlink),
    ("run_dir_names", run_dir_names),
    ("shell_command", shell_command),
    ("splice_decision", splice_decision),
    ("supervisor_messages", supervisor_messages),
    ("tcp_options", tcp_options),
];

/// Asserts that a text is one line without control characters, so it is safe on a terminal.
fn assert_one_line(text: &str) {
    assert!(!text.is_empty(), "the text is empty");
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

/// Asserts that a text consists of whole lines without control characters.
fn assert_lines(text: &str) {
    assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
}

/// Splits the input into arguments, one on each line.
fn split_arguments(data: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(data);
    // A carriage return stands for a line feed, so an argument can contain a line feed.
    text.split('\n').map(|argument| argument.replace('\r', "\n")).collect()
}

/// Reads integers from the input; 0 after its end.
struct IntReader<'d>(&'d [u8]);

impl IntReader<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    /// Reads 32 bits in network byte order.
    fn word(&mut self) -> u32 {
        u32::from_be_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }
}
