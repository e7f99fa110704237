//! A control group with a memory limit.
//!
//! Invariant: dropping a [`ControlGroup`] removes the group, provided that its processes have
//! exited.

use std::{
    fs, io,
    path::PathBuf,
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// Numbers the groups of one test process.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A control group, of version 1 or 2.
#[derive(Debug)]
pub struct ControlGroup {
    path: PathBuf,
    is_first: bool,
}

impl ControlGroup {
    /// Creates a group whose processes may use `limit` bytes together.
    ///
    /// # Errors
    /// When the system has no memory controller or denies access.
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

    /// The file to which a process writes its id to join the group.
    pub fn processes(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// Memory in use, in bytes.
    pub fn used(&self) -> u64 {
        let name = if self.is_first { "memory.usage_in_bytes" } else { "memory.current" };
        let text = fs::read_to_string(self.path.join(name)).expect("the memory in use");
        text.trim().parse().expect("a number")
    }

    /// Number of processes of the group that the OOM killer has killed.
    pub fn kills(&self) -> u64 {
        let name = if self.is_first { "memory.oom_control" } else { "memory.events" };
        let text = fs::read_to_string(self.path.join(name)).expect("the events of the group");
        let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        kills.expect("a count").trim().parse().expect("a number")
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // A group that cannot be removed is empty and does no harm.
        let _ = fs::remove_dir(&self.path);
    }
}
