//! Readings of this machine and of processes on it, from /proc.
//!
//! Invariant: texts are parsed by functions that are free of input, and what cannot be read
//! or understood is an error that names the file.

pub(crate) mod cpu;
pub(crate) mod machine;
pub(crate) mod memory;
pub(crate) mod sockets;

use std::{fs, str::FromStr};

use anyhow::{Context as _, Result};

/// Reads a file and takes a value out of it.
pub(crate) fn read_value<T>(path: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    parse(&text).with_context(|| format!("{path} does not look as expected"))
}

/// The number after a word, in the line that begins with `line`.
fn number_after<T: FromStr>(text: &str, line: &str, word: &str) -> Option<T> {
    let line = text.lines().find(|found| found.starts_with(line))?;
    let mut words = line.split_whitespace();
    words.find(|found| *found == word)?;
    words.next()?.parse().ok()
}
