//! The memory limits of the control groups of this process (cgroups(7)).
//!
//! When a group reaches its limit the kernel kills a process of the group, and this process carries
//! every connection.
//!
//! Invariants: page cache counts as free memory, because the kernel reclaims it by itself. Without
//! a limit, or with a limit that cannot be read, there is memory for a connection.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant},
};

use procfs::{
    ProcessCGroup,
    process::{MountInfo, Process},
};

/// The least memory of a connection in bytes: in the kernel, in this process and in the maps.
const BYTES_PER_CONNECTION: u64 = 16 << 10;

/// One part in this many of a limit is reserved for the open connections.
const RESERVED_SHARE: u64 = 8;

/// How long [`Memory::has_memory`] uses a value that it has read.
const CACHE_TIME: Duration = Duration::from_millis(10);

/// The control groups with a memory limit that this process belongs to.
pub(crate) struct Memory {
    groups: Vec<ControlGroup>,
    last: Mutex<Option<(Instant, bool)>>,
}

/// A control group with a limit.
#[derive(Debug, PartialEq, Eq)]
struct ControlGroup {
    /// The directory of the group's files.
    path: PathBuf,
    version: Version,
    /// In bytes, as read at the start.
    limit: u64,
}

/// The version of the control group interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Version {
    /// Whether a line of `/proc/PID/cgroup` is about the memory controller of this version.
    fn has(self, group: &ProcessCGroup) -> bool {
        match self {
            Self::One => group.controllers.iter().any(|name| name == "memory"),
            Self::Two => group.hierarchy == 0,
        }
    }

    /// Whether a mount shows the memory groups of this version.
    fn is_at(self, mount: &MountInfo) -> bool {
        match self {
            Self::One => mount.fs_type == "cgroup" && mount.super_options.contains_key("memory"),
            Self::Two => mount.fs_type == "cgroup2",
        }
    }

    /// The files that hold a limit in bytes.
    fn limits(self) -> &'static [&'static str] {
        match self {
            Self::One => &["memory.limit_in_bytes"],
            // Above memory.high the kernel slows down the processes of the group.
            Self::Two => &["memory.max", "memory.high"],
        }
    }

    fn usage(self) -> &'static str {
        match self {
            Self::One => "memory.usage_in_bytes",
            Self::Two => "memory.current",
        }
    }

    /// Keys of `memory.stat` for the page cache, child groups included.
    fn page_cache_keys(self) -> [&'static str; 2] {
        match self {
            Self::One => ["total_inactive_file", "total_active_file"],
            Self::Two => ["inactive_file", "active_file"],
        }
    }
}

impl Memory {
    /// Finds the groups and reads their limits.
    pub(crate) fn find() -> Self {
        let groups = Process::myself().and_then(|process| {
            let mounts = process.mountinfo()?.0;
            let groups = process.cgroups()?.0;
            let limited = [Version::One, Version::Two].map(|version| {
                let group = groups.iter().find(|group| version.has(group))?;
                let mount = mounts.iter().find(|mount| version.is_at(mount))?;
                Some(limited(mount, Path::new(&group.pathname), version))
            });
            Ok(limited.into_iter().flatten().flatten().collect())
        });
        Self { groups: groups.unwrap_or_default(), last: Mutex::default() }
    }

    /// The most connections that the limits allow; `None` without a limit.
    pub(crate) fn connections(&self) -> Option<usize> {
        let limit = self.groups.iter().map(|group| group.limit).min()?;
        usize::try_from(limit / BYTES_PER_CONNECTION).ok()
    }

    /// Whether there is memory for one more connection. The answer is cached for [`CACHE_TIME`].
    pub(crate) fn has_memory(&self, now: Instant) -> bool {
        if self.groups.is_empty() {
            return true;
        }
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match *last {
            Some((at, has_memory)) if now.saturating_duration_since(at) < CACHE_TIME => has_memory,
            _ => {
                let has_memory = self.groups.iter().all(ControlGroup::has_memory);
                *last = Some((now, has_memory));
                has_memory
            }
        }
    }
}

impl ControlGroup {
    fn has_memory(&self) -> bool {
        // The limit may have changed since the start.
        let limit = read_limit(&self.path, self.version).unwrap_or(u64::MAX);
        let most = limit - limit / RESERVED_SHARE;
        let Some(used) = number(&self.path.join(self.version.usage())) else { return true };
        // The page cache is read only if the answer depends on it, because that file is costly to
        // read.
        used <= most || used.saturating_sub(self.page_cache()) <= most
    }

    /// Bytes of the page cache.
    fn page_cache(&self) -> u64 {
        let stat = fs::read_to_string(self.path.join("memory.stat")).unwrap_or_default();
        sum(&stat, &self.version.page_cache_keys())
    }
}

/// The groups with a limit among a group and its ancestors.
fn limited(mount: &MountInfo, group: &Path, version: Version) -> Vec<ControlGroup> {
    let group = below(Path::new(&mount.root), group);
    let directories = group.ancestors().map(|group| mount.mount_point.join(group));
    let limited = directories.filter_map(|path| {
        let limit = read_limit(&path, version)?;
        Some(ControlGroup { path, version, limit })
    });
    limited.collect()
}

/// The path of a group relative to the root of a mount. A group outside the mount, as in a
/// container, maps to the root.
fn below<'a>(root: &Path, group: &'a Path) -> &'a Path {
    let shown = group.strip_prefix(root).unwrap_or(Path::new(""));
    if shown.components().any(|part| part == std::path::Component::ParentDir) {
        return Path::new("");
    }
    shown
}

fn read_limit(path: &Path, version: Version) -> Option<u64> {
    let limits = version.limits().iter().filter_map(|file| number(&path.join(file)));
    // In version 1 no limit is the largest number of whole pages.
    limits.filter(|&limit| limit < 1 << 62).min()
}

/// The number in a file; `None` for `max`.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The sum of the values of `keys`.
fn sum(stat: &str, keys: &[&str]) -> u64 {
    let lines = stat.lines().filter_map(|line| line.split_once(' '));
    lines
        .filter(|(key, _)| keys.contains(key))
        .filter_map(|(_, value)| value.trim().parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(files: &[(&str, &str)], version: Version) -> (tempfile::TempDir, ControlGroup) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let group = ControlGroup { path: dir.path().into(), version, limit: 0 };
        (dir, group)
    }

    #[test]
    fn a_part_of_the_limit_is_reserved_for_open_connections() {
        for (used, has_memory) in [("0", true), ("7000", true), ("7001", false), ("9000", false)] {
            let files = [("memory.max", "8000\n"), ("memory.high", "max\n")];
            let (_dir, group) =
                group(&[&files[..], &[("memory.current", used)]].concat(), Version::Two);
            assert_eq!(group.has_memory(), has_memory, "{used}");
        }
    }

    #[test]
    fn page_cache_counts_as_free() {
        let stat = "anon 7500\nactive_file 300\ninactive_file 200\n";
        let files = [("memory.max", "8000"), ("memory.current", "7500"), ("memory.stat", stat)];
        assert!(group(&files, Version::Two).1.has_memory());
        let stat = "active_file 500\ntotal_active_file 0\ntotal_inactive_file 499\n";
        let files = [
            ("memory.limit_in_bytes", "8000"),
            ("memory.usage_in_bytes", "7500"),
            ("memory.stat", stat),
        ];
        assert!(!group(&files, Version::One).1.has_memory());
    }

    #[test]
    fn without_a_limit_there_is_memory() {
        let files = [("memory.max", "max\n"), ("memory.current", "7500")];
        let (_dir, group) = group(&files, Version::Two);
        assert_eq!(read_limit(&group.path, group.version), None);
        assert!(group.has_memory());
        let (_dir, group) = self::group(
            &[("memory.limit_in_bytes", "9223372036854771712"), ("memory.usage_in_bytes", "1")],
            Version::One,
        );
        assert_eq!(read_limit(&group.path, group.version), None);
    }

    #[test]
    fn the_path_of_a_group_is_relative_to_the_root_of_the_mount() {
        for (root, group, shown) in [
            ("/", "/system.slice/balance.service", "system.slice/balance.service"),
            ("/box", "/box/inside", "inside"),
            ("/box", "/elsewhere", ""),
            ("/", "/../above", ""),
        ] {
            assert_eq!(below(Path::new(root), Path::new(group)), Path::new(shown), "{group}");
        }
    }
}
