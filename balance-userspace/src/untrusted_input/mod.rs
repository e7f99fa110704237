//! Whatever bytes come from outside: what must hold of each reader of them, as functions that panic
//! where it does not.
//!
//! Invariant: nothing is opened, looked up or waited for here, so that a run repeats. The tests run
//! them on the seeds that are kept in `tests/fuzz/seeds` and on what is made of those; `cargo xtask
//! fuzz` has a fuzzer look for more.

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

/// What must hold whatever the bytes are.
pub type Property = fn(&[u8]);

/// All of them, each with the name of its fuzzer and of the folder with its seeds.
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

/// Text that is told in one line must be one, and leave the terminal alone.
fn assert_one_line(text: &str) {
    assert!(!text.is_empty(), "nothing is told");
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

/// The same for each line of a text.
fn assert_lines(text: &str) {
    assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
}

/// The words that the bytes stand for, one on each line.
fn words(data: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(data);
    // What separates them cannot be in a word otherwise, but a word may have a line break.
    text.split('\n').map(|word| word.replace('\r', "\n")).collect()
}

/// Numbers made of the bytes; 0 when there are no more.
struct Numbers<'d>(&'d [u8]);

impl Numbers<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn word(&mut self) -> u32 {
        u32::from_be_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }
}
