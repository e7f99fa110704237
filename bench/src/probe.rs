//! Values read from /proc: of this machine and of processes.
//!
//! Invariant: parsing functions do no input. A file that cannot be read or parsed causes an error
//! that names the file.

pub(crate) mod cpu;
pub(crate) mod machine;
pub(crate) mod memory;
pub(crate) mod sockets;

use std::{fs, str::FromStr};

use anyhow::{Context as _, Result};

/// Reads a file and parses a value.
pub(crate) fn read_value<T>(path: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    parse(&text).with_context(|| format!("{path} has an unexpected format"))
}

/// Returns the number after a word in the line that begins with `line`.
fn number_after<T: FromStr>(text: &str, line: &str, word: &str) -> Option<T> {
    let line = text.lines().find(|found| found.starts_with(line))?;
    let mut words = line.split_whitespace();
    words.find(|found| *found == word)?;
    words.next()?.parse().ok()
}
