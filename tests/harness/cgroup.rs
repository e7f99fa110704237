//! A control group of a test's own with a limit of memory.
//!
//! Invariant: it is gone when it is dropped, if its processes are.

use std::{
    fs, io,
    path::PathBuf,
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// Tells those of one process apart.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A group.
#[derive(Debug)]
pub struct ControlGroup {
    path: PathBuf,
    is_first: bool,
}

impl ControlGroup {
    /// One that may have so many bytes.
    ///
    /// # Errors
    /// When this system does not limit memory so, or does not let us.
    pub fn new(limit: u64) -> io::Result<Self> {
        let first = PathBuf::from("/sys/fs/cgroup/memory");
        let is_first = first.join("memory.limit_in_bytes").exists();
        let root = if is_first { first } else { PathBuf::from("/sys/fs/cgroup") };
        if !is_first {
            fs::write(root.join("cgroup.subtree_control"), "+memory")?;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("balance-test-{}-{number}", process::id()));
        fs::create_dir(&path)?;
        let group = Self { path, is_first };
        group.limit(limit)?;
        Ok(group)
    }

    fn limit(&self, limit: u64) -> io::Result<()> {
        let name = if self.is_first { "memory.limit_in_bytes" } else { "memory.max" };
        fs::write(self.path.join(name), limit.to_string())
    }

    /// Where a process writes its number to be in it.
    pub fn processes(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// Bytes that it has now.
    pub fn used(&self) -> u64 {
        let name = if self.is_first { "memory.usage_in_bytes" } else { "memory.current" };
        let text = fs::read_to_string(self.path.join(name)).expect("what the group has");
        text.trim().parse().expect("a number")
    }

    /// How often a process of it was killed for want of memory.
    pub fn kills(&self) -> u64 {
        let name = if self.is_first { "memory.oom_control" } else { "memory.events" };
        let text = fs::read_to_string(self.path.join(name)).expect("what happened in the group");
        let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        kills.expect("a count").trim().parse().expect("a number")
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // The system is not the worse for an empty group.
        let _ = fs::remove_dir(&self.path);
    }
}
