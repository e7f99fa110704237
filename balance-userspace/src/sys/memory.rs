//! What the control groups of this process leave of the memory they allow (cgroups(7)).
//!
//! A group that reaches its limit has a process of it killed, and ours carries every connection.
//! Invariant: what the kernel would take back by itself, its copies of files, counts as free; where
//! there is no limit, or it cannot be read, there is room.

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

/// What a connection costs at least, in the kernel and here, its part of the maps included (README,
/// "How fast").
const CONNECTION: u64 = 16 << 10;

/// The part of a limit that is left to connections that stand.
const SPARE: u64 = 8;

/// For how long what was read is believed.
const BELIEVED: Duration = Duration::from_millis(10);

/// The limits that this process is under.
pub(crate) struct Memory {
    groups: Vec<Group>,
    last: Mutex<Option<(Instant, bool)>>,
}

/// A control group with a limit.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    /// Its files' directory.
    path: PathBuf,
    version: Version,
    /// In bytes, when it was last read.
    limit: u64,
}

/// How the files are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Version {
    /// Whether a process is in such a group by that line of its `/proc/PID/cgroup`.
    fn has(self, group: &ProcessCGroup) -> bool {
        match self {
            Self::One => group.controllers.iter().any(|name| name == "memory"),
            Self::Two => group.hierarchy == 0,
        }
    }

    /// Whether the groups are shown there.
    fn is_at(self, mount: &MountInfo) -> bool {
        match self {
            Self::One => mount.fs_type == "cgroup" && mount.super_options.contains_key("memory"),
            Self::Two => mount.fs_type == "cgroup2",
        }
    }

    /// Files with a limit in bytes, or none.
    fn limits(self) -> &'static [&'static str] {
        match self {
            Self::One => &["memory.limit_in_bytes"],
            // Above the latter everything in the group is slowed down.
            Self::Two => &["memory.max", "memory.high"],
        }
    }

    fn usage(self) -> &'static str {
        match self {
            Self::One => "memory.usage_in_bytes",
            Self::Two => "memory.current",
        }
    }

    /// Keys of `memory.stat` for copies of files, those of groups within included.
    fn files(self) -> [&'static str; 2] {
        match self {
            Self::One => ["total_inactive_file", "total_active_file"],
            Self::Two => ["inactive_file", "active_file"],
        }
    }
}

impl Memory {
    /// The limits as they are found now.
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

    /// How many connections there can be room for; `None` without a limit.
    pub(crate) fn connections(&self) -> Option<usize> {
        let limit = self.groups.iter().map(|group| group.limit).min()?;
        usize::try_from(limit / CONNECTION).ok()
    }

    /// Whether there is room for one more connection, as far as is known: what was read is believed for
    /// a moment.
    pub(crate) fn has_room(&self, now: Instant) -> bool {
        if self.groups.is_empty() {
            return true;
        }
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match *last {
            Some((at, room)) if now.saturating_duration_since(at) < BELIEVED => room,
            _ => {
                let room = self.groups.iter().all(Group::has_room);
                *last = Some((now, room));
                room
            }
        }
    }
}

impl Group {
    fn has_room(&self) -> bool {
        // It may have been changed.
        let limit = read_limit(&self.path, self.version).unwrap_or(u64::MAX);
        let most = limit - limit / SPARE;
        let Some(used) = number(&self.path.join(self.version.usage())) else { return true };
        // Copies of files are asked for only where it depends on them: that costs more.
        used <= most || used.saturating_sub(self.files()) <= most
    }

    /// Bytes that are copies of files.
    fn files(&self) -> u64 {
        let stat = fs::read_to_string(self.path.join("memory.stat")).unwrap_or_default();
        sum(&stat, &self.version.files())
    }
}

/// The groups with a limit from this one up.
fn limited(mount: &MountInfo, group: &Path, version: Version) -> Vec<Group> {
    let group = below(Path::new(&mount.root), group);
    let directories = group.ancestors().map(|group| mount.mount_point.join(group));
    let limited = directories.filter_map(|path| {
        let limit = read_limit(&path, version)?;
        Some(Group { path, version, limit })
    });
    limited.collect()
}

/// Where a group is below the root of a mount: the root itself if it is not shown there, as in a
/// container.
fn below<'a>(root: &Path, group: &'a Path) -> &'a Path {
    let shown = group.strip_prefix(root).unwrap_or(Path::new(""));
    if shown.components().any(|part| part == std::path::Component::ParentDir) {
        return Path::new("");
    }
    shown
}

fn read_limit(path: &Path, version: Version) -> Option<u64> {
    let limits = version.limits().iter().filter_map(|file| number(&path.join(file)));
    // Without a limit the first version says the largest number of whole pages.
    limits.filter(|&limit| limit < 1 << 62).min()
}

/// The number that a file says; `max` is none.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The sum of what belongs to these keys.
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

    fn group(files: &[(&str, &str)], version: Version) -> (tempfile::TempDir, Group) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let group = Group { path: dir.path().into(), version, limit: 0 };
        (dir, group)
    }

    #[test]
    fn what_is_left_free_is_for_those_that_stand() {
        for (used, room) in [("0", true), ("7000", true), ("7001", false), ("9000", false)] {
            let files = [("memory.max", "8000\n"), ("memory.high", "max\n")];
            let (_dir, group) =
                group(&[&files[..], &[("memory.current", used)]].concat(), Version::Two);
            assert_eq!(group.has_room(), room, "{used}");
        }
    }

    #[test]
    fn copies_of_files_are_free() {
        let stat = "anon 7500\nactive_file 300\ninactive_file 200\n";
        let files = [("memory.max", "8000"), ("memory.current", "7500"), ("memory.stat", stat)];
        assert!(group(&files, Version::Two).1.has_room());
        let stat = "active_file 500\ntotal_active_file 0\ntotal_inactive_file 499\n";
        let files = [
            ("memory.limit_in_bytes", "8000"),
            ("memory.usage_in_bytes", "7500"),
            ("memory.stat", stat),
        ];
        assert!(!group(&files, Version::One).1.has_room());
    }

    #[test]
    fn without_a_limit_there_is_room() {
        let files = [("memory.max", "max\n"), ("memory.current", "7500")];
        let (_dir, group) = group(&files, Version::Two);
        assert_eq!(read_limit(&group.path, group.version), None);
        assert!(group.has_room());
        let (_dir, group) = self::group(
            &[("memory.limit_in_bytes", "9223372036854771712"), ("memory.usage_in_bytes", "1")],
            Version::One,
        );
        assert_eq!(read_limit(&group.path, group.version), None);
    }

    #[test]
    fn a_group_is_found_below_what_is_mounted() {
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
