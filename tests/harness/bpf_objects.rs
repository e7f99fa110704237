//! The BPF programs, maps and links of a process, as the kernel lists them.
//!
//! Invariant: [`BpfObjects::left`] asks the kernel and not the process, so it also finds objects
//! that another process holds by now.

use std::{collections::BTreeSet, fs};

use aya::{
    maps::loaded_maps,
    programs::{loaded_links, loaded_programs},
};

/// Ids of programs, maps and links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BpfObjects([BTreeSet<u32>; 3]);

impl BpfObjects {
    /// The objects that `process` holds descriptors of.
    pub fn of(process: u32) -> Self {
        let mut found = Self::default();
        let list = fs::read_dir(format!("/proc/{process}/fdinfo")).expect("its descriptors");
        for entry in list.flatten() {
            // The process may have closed the descriptor after the folder was listed.
            let Ok(text) = fs::read_to_string(entry.path()) else { continue };
            for (ids, key) in found.0.iter_mut().zip(["prog_id:", "map_id:", "link_id:"]) {
                let value = text.lines().find_map(|line| line.strip_prefix(key));
                ids.extend(value.map(|id| id.trim().parse::<u32>().expect("an id")));
            }
        }
        found
    }

    /// Ids of the programs.
    pub fn programs(&self) -> &BTreeSet<u32> {
        &self.0[0]
    }

    /// The objects that are still in the kernel.
    pub fn left(&self) -> Self {
        let programs = loaded_programs().flatten().map(|program| program.id()).collect();
        let maps = loaded_maps().flatten().map(|map| map.id()).collect();
        let links = loaded_links().flatten().map(|link| link.id()).collect();
        let there: [BTreeSet<u32>; 3] = [programs, maps, links];
        let mut left = self.clone();
        for (ids, there) in left.0.iter_mut().zip(there) {
            *ids = ids.intersection(&there).copied().collect();
        }
        left
    }
}
