//! A description of the machine.
//!
//! Invariant: the description contains what helps to compare figures and nothing that identifies
//! the owner of the machine.

use std::{fs, thread};

use anyhow::Result;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::{number_after, read_value};

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Release of the kernel.
    pub(crate) kernel: String,
    /// Model name of the processor.
    pub(crate) cpu: String,
    /// Number of processors available to this process.
    pub(crate) cpus: usize,
    /// Memory in MiB.
    pub(crate) memory: u64,
    /// Maximum number of file descriptors of a process.
    pub(crate) descriptors: u64,
}

impl Machine {
    /// Reads the description.
    pub(crate) fn read() -> Result<Self> {
        let (_, descriptors) = getrlimit(Resource::RLIMIT_NOFILE)?;
        Ok(Self {
            kernel: read_value("/proc/sys/kernel/osrelease", |text| Some(text.trim().to_owned()))?,
            cpu: fs::read_to_string("/proc/cpuinfo")
                .ok()
                .and_then(|text| model(&text))
                .unwrap_or_else(|| std::env::consts::ARCH.into()),
            cpus: thread::available_parallelism().map_or(1, usize::from),
            memory: read_value("/proc/meminfo", |text| {
                number_after(text, "MemTotal:", "MemTotal:")
            })
            .map(|kib: u64| kib / 1024)?,
            descriptors,
        })
    }
}

/// Raises the limit of file descriptors to the hard limit, for this process and its children.
pub(crate) fn raise_descriptors() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// Parses /proc/cpuinfo, which has no model name on some architectures.
fn model(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_name_of_the_processor_is_parsed() {
        let text = "processor\t: 0\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n";
        assert_eq!(model(text).as_deref(), Some("AMD EPYC"));
    }
}
