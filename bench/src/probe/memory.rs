//! Memory of a peer's processes and of the kernel.
//!
//! Invariant: kernel memory is told without what belongs to any process or to the page cache,
//! so that other work on the machine disturbs it little.

use std::fs;

use anyhow::Result;

use super::{number_after, read_value};

/// One reading, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Resident pages of the processes, each counted for every process that has it.
    pub(crate) rss: i64,
    /// The same with shared pages divided by their users.
    pub(crate) pss: i64,
    /// The kernel's small objects: sockets, files, headers of packets.
    pub(crate) slab: i64,
    /// What TCP accounts for data in its queues.
    pub(crate) queues: i64,
    /// All pages that are neither free nor cache nor there for a process (its memory, stacks and
    /// page tables): includes slab and queues.
    pub(crate) kernel: i64,
}

impl Memory {
    /// Reads it for the processes of a group (none for no process).
    pub(crate) fn read(processes: &[u32]) -> Result<Self> {
        let mut memory = read_value("/proc/meminfo", parse_meminfo)?;
        memory.queues = read_value("/proc/net/sockstat", parse_sockstat)?;
        for process in processes {
            // A process may have ended meanwhile.
            if let Ok((rss, pss)) =
                read_value(&format!("/proc/{process}/smaps_rollup"), parse_rollup)
            {
                memory.rss += rss;
                memory.pss += pss;
            }
        }
        Ok(memory)
    }

    /// How much more it is than `before`.
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

/// The processes of a process group.
pub(crate) fn group(leader: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id| read_value(&format!("/proc/{id}/stat"), parse_group).is_ok_and(|g| g == leader))
        .collect()
}

fn parse_group(stat: &str) -> Option<u32> {
    // The name, in parentheses, may contain anything; then: state, parent, group.
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
    fn what_is_left_of_all_memory_is_the_kernels() {
        let text = "MemTotal: 100 kB\nMemFree: 10 kB\nMemAvailable: 60 kB\nBuffers: 1 kB\n\
                    Cached: 20 kB\nSwapCached: 2 kB\nAnonPages: 30 kB\n\
                    KernelStack: 3 kB\nPageTables: 4 kB\nSlab: 7 kB\n";
        let memory = parse_meminfo(text).unwrap();
        assert_eq!((memory.kernel, memory.slab), (30 * 1024, 7 * 1024));
    }

    #[test]
    fn queues_are_told_in_pages() {
        let text = "sockets: used 25\nTCP: inuse 8 orphan 0 tw 90 alloc 9 mem 547\n";
        assert_eq!(parse_sockstat(text), Some(547 * 4096));
    }

    #[test]
    fn a_process_with_a_strange_name_has_a_group() {
        assert_eq!(parse_group("12 (a) b (c) S 1 77 12 0"), Some(77));
    }

    #[test]
    fn shared_pages_count_in_part() {
        let text = "55-7f ---p 0 00:00 0 [rollup]\nRss:  8 kB\nPss:  5 kB\nPss_Dirty: 1 kB\n";
        assert_eq!(parse_rollup(text), Some((8192, 5120)));
    }
}
