//! What the kernel reports about a process and about its own memory.
//!
//! Invariant: only `/proc` is read; the process itself is not asked.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    process::Command,
    time::Duration,
};

use crate::{TIMEOUT, run};

/// TCP_TIME_WAIT (include/net/tcp_states.h).
const TIME_WAIT: &str = "06";

/// An address in the format of /proc/net/tcp: hexadecimal words of the address in host byte order.
fn as_in_table(address: SocketAddr) -> String {
    let words = match address.ip().to_canonical() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let word = |octets: &[u8; 4]| format!("{:08X}", u32::from_ne_bytes(*octets));
    let words: String = words.as_chunks().0.iter().map(word).collect();
    format!("{words}:{:04X}", address.port())
}

/// A process, observed through `/proc`.
#[derive(Clone, Copy, Debug)]
pub struct Process(
    /// Process id.
    pub u32,
);

impl Process {
    /// Number of open file descriptors.
    pub fn descriptors(self) -> usize {
        let list = fs::read_dir(format!("/proc/{}/fd", self.0)).expect("its descriptors");
        list.count()
    }

    /// Number of descriptors that are sockets.
    pub fn sockets(self) -> usize {
        let list = fs::read_dir(format!("/proc/{}/fd", self.0)).expect("its descriptors");
        // A descriptor that was closed meanwhile has no target.
        let target = |entry: fs::DirEntry| fs::read_link(entry.path()).unwrap_or_default();
        list.flatten().map(target).filter(|to| to.to_string_lossy().starts_with("socket:")).count()
    }

    /// Whether the kernel has a connection with that client in the process's network namespace,
    /// accepted or not. TIME_WAIT does not count.
    pub fn is_connected_with(self, client: SocketAddr) -> bool {
        let client = as_in_table(client);
        let tables = ["tcp", "tcp6"].map(|table| format!("/proc/{}/net/{table}", self.0));
        // A host without IPv6 has no tcp6.
        tables.iter().filter(|path| fs::exists(path).unwrap_or(true)).any(|path| {
            let table = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
            // On a dual-stack listener an IPv4 client appears as a mapped address, with a longer
            // prefix.
            let is_clients = |line: &str| {
                let words: Vec<&str> = line.split_whitespace().take(4).collect();
                matches!(words[..], [_, _, remote, state] if remote.ends_with(&client) && state != TIME_WAIT)
            };
            table.lines().any(is_clients)
        })
    }

    /// Limits the process to `limit` descriptors from now on.
    pub fn limit_descriptors(self, limit: usize) {
        let mut command = Command::new("prlimit");
        command.args(["--pid", &self.0.to_string()]);
        command.arg(format!("--nofile={limit}:{limit}"));
        let outcome = run(&mut command, TIMEOUT);
        assert!(outcome.status.success(), "{command:?}: {outcome:?}");
    }

    /// Resident memory in bytes.
    pub fn resident(self) -> u64 {
        self.status("VmRSS:") << 10
    }

    /// Bit mask of the signals that the main thread blocks.
    pub fn blocked_signals(self) -> u64 {
        self.signals("SigBlk:")
    }

    /// Bit mask of the ignored signals.
    pub fn ignored_signals(self) -> u64 {
        // Only the standard signals: the C library reserves some of the others.
        self.signals("SigIgn:") & ((1 << 31) - 1)
    }

    fn signals(self, key: &str) -> u64 {
        let path = format!("/proc/{}/status", self.0);
        let text = fs::read_to_string(path).expect("its status");
        let mask = text.lines().find_map(|line| line.strip_prefix(key)).expect(key).trim();
        u64::from_str_radix(mask, 16).expect("a mask in hexadecimal")
    }

    /// Number of threads, including those of io_uring in the kernel.
    pub fn threads(self) -> u64 {
        self.status("Threads:")
    }

    fn status(self, key: &str) -> u64 {
        let path = format!("/proc/{}/status", self.0);
        number_after(&fs::read_to_string(path).expect("its status"), key)
    }

    /// User and system CPU time of all threads so far.
    pub fn processor_time(self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).expect("its stat");
        // The name in parentheses may contain any byte, so the fields are counted from the last
        // parenthesis.
        let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u64>().expect("a number of ticks"))
            .sum();
        // Ticks of USER_HZ, which is 100 on every Linux.
        Duration::from_millis(ticks * 10)
    }
}

/// Kernel memory of the whole machine that connections can take. Other processes change it too, so
/// tests compare with a tolerance.
#[derive(Clone, Copy, Debug)]
pub struct KernelMemory {
    /// Bytes charged to TCP sockets.
    pub tcp: u64,
    /// Bytes in unreclaimable slabs, which hold packets and their metadata.
    pub slab: u64,
    /// Bytes available to processes.
    pub available: u64,
}

impl KernelMemory {
    /// The current figures.
    pub fn now() -> Self {
        let sockets = fs::read_to_string("/proc/net/sockstat").expect("/proc/net/sockstat");
        let tcp = sockets.lines().find(|line| line.starts_with("TCP:"));
        let pages = number_after(tcp.expect("a TCP line"), " mem");
        let memory = fs::read_to_string("/proc/meminfo").expect("/proc/meminfo");
        Self {
            tcp: pages * page_size(),
            slab: number_after(&memory, "SUnreclaim:") << 10,
            available: number_after(&memory, "MemAvailable:") << 10,
        }
    }

    /// Growth of socket and slab memory since an earlier measurement, in bytes.
    pub fn growth_since(self, earlier: Self) -> u64 {
        (self.tcp + self.slab).saturating_sub(earlier.tcp + earlier.slab)
    }
}

/// Whether a socket listens on that port of an IPv4 address. Does not connect.
pub fn is_listening(port: u16) -> bool {
    const LISTEN: &str = "0A";
    let table = fs::read_to_string("/proc/net/tcp").expect("/proc/net/tcp");
    table.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace().skip(1);
        let local = words.next().unwrap_or_default();
        let state = words.nth(1).unwrap_or_default();
        local.ends_with(&format!(":{port:04X}")) && state == LISTEN
    })
}

fn page_size() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    u64::try_from(size.expect("sysconf").expect("a page size")).expect("a positive size")
}

/// The number that follows `key` in `text`.
fn number_after(text: &str, key: &str) -> u64 {
    let at = text.find(key).unwrap_or_else(|| panic!("no {key}"));
    let mut words = text[at + key.len()..].split_whitespace();
    let word = words.next().unwrap_or_else(|| panic!("nothing after {key}"));
    word.parse().unwrap_or_else(|_| panic!("{key} is followed by {word}"))
}
