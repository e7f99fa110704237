//! Memory of a proxy's processes and of the kernel.
//!
//! Invariant: kernel memory excludes the memory of processes and the page cache, so other work on
//! the machine affects the figure little.

use std::fs;

use anyhow::Result;

use super::{number_after, read_value};

/// One reading, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Resident set size of the processes; shared pages count once for each process.
    pub(crate) rss: i64,
    /// Proportional set size: shared pages are divided by the number of their users.
    pub(crate) pss: i64,
    /// The kernel's slab memory: sockets, files, packet headers.
    pub(crate) slab: i64,
    /// TCP's accounted queue memory.
    pub(crate) queues: i64,
    /// All pages that are not free, not cache and not for a process (memory, stack, page tables).
    /// Includes slab and queues.
    pub(crate) kernel: i64,
}

impl Memory {
    /// Reads the memory of the kernel and of these processes.
    pub(crate) fn read(processes: &[u32]) -> Result<Self> {
        let mut memory = read_value("/proc/meminfo", parse_meminfo)?;
        memory.queues = read_value("/proc/net/sockstat", parse_sockstat)?;
        for process in processes {
            // A process may have ended in the meantime.
            if let Ok((rss, pss)) =
                read_value(&format!("/proc/{process}/smaps_rollup"), parse_rollup)
            {
                memory.rss += rss;
                memory.pss += pss;
            }
        }
        Ok(memory)
    }

    /// Returns the difference from `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            rss: self.rss - before.rss,
            pss: self.pss - before.pss,
            slab: self.slab - before.slab,
            queues: self.queues - before.queues,
            kernel: self.kernel - before.kernel,
        }
    }
}

/// Returns the processes of a process group.
pub(crate) fn group(leader: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id| read_value(&format!("/proc/{id}/stat"), parse_group).is_ok_and(|g| g == leader))
        .collect()
}

fn parse_group(stat: &str) -> Option<u32> {
    // The name, in parentheses, may contain any character. State, parent and group follow.
    stat.rsplit_once(')')?.1.split_whitespace().nth(2)?.parse().ok()
}

fn parse_meminfo(text: &str) -> Option<Memory> {
    let kib = |name: &str| number_after::<i64>(text, name, name).map(|kib| kib * 1024);
    let mut kernel = kib("MemTotal:")?;
    for other in [
        "MemFree:",
        "Buffers:",
        "Cached:",
        "SwapCached:",
        "AnonPages:",
        "KernelStack:",
        "PageTables:",
    ] {
        kernel -= kib(other)?;
    }
    Some(Memory { slab: kib("Slab:")?, kernel, ..Memory::default() })
}

fn parse_sockstat(text: &str) -> Option<i64> {
    number_after::<i64>(text, "TCP:", "mem").map(|pages| pages * 4096)
}

fn parse_rollup(text: &str) -> Option<(i64, i64)> {
    let kib = |name: &str| number_after::<i64>(text, name, name).map(|kib| kib * 1024);
    Some((kib("Rss:")?, kib("Pss:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_memory_is_what_remains_of_all_memory() {
        let text = "MemTotal: 100 kB\nMemFree: 10 kB\nMemAvailable: 60 kB\nBuffers: 1 kB\n\
                    Cached: 20 kB\nSwapCached: 2 kB\nAnonPages: 30 kB\n\
                    KernelStack: 3 kB\nPageTables: 4 kB\nSlab: 7 kB\n";
        let memory = parse_meminfo(text).unwrap();
        assert_eq!((memory.kernel, memory.slab), (30 * 1024, 7 * 1024));
    }

    #[test]
    fn queue_memory_is_converted_from_pages() {
        let text = "sockets: used 25\nTCP: inuse 8 orphan 0 tw 90 alloc 9 mem 547\n";
        assert_eq!(parse_sockstat(text), Some(547 * 4096));
    }

    #[test]
    fn a_process_name_with_parentheses_is_parsed() {
        assert_eq!(parse_group("12 (a) b (c) S 1 77 12 0"), Some(77));
    }

    #[test]
    fn pss_and_rss_are_parsed() {
        let text = "55-7f ---p 0 00:00 0 [rollup]\nRss:  8 kB\nPss:  5 kB\nPss_Dirty: 1 kB\n";
        assert_eq!(parse_rollup(text), Some((8192, 5120)));
    }
}
